"""Scripts that print measured ratios. Run them from the repository root as `python -m benchmarks.NAME`."""

import utils.openmp  # noqa: F401 - as the programs that are measured
