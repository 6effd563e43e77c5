"""The parts of `evaluate.py`.

Imports point down: report → measuring → detectors, comparisons → puppets; metrics, clips and cache import none of them. What
takes PyTorch imports it when it computes: a run whose results are all cached never does, and is done in a moment.
"""
