"""Measurements of speed (`python -m tools.benchmarks`) and of quality (`puppet_quality`, `ablations`)."""

import utils.openmp  # noqa: F401 - as in the programs that are measured
