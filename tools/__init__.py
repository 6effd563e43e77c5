"""Commands of the maintainers: run them as `python -m tools.NAME`."""
