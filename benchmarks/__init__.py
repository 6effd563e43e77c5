"""Scripts that print measured ratios. Run them from the repository root as `python -m benchmarks.NAME`."""
