"""The parts of `evaluate.py`.

Imports point down this list, never up: report, measuring, detectors, puppets, comparisons, matching, cache,
instrument, metrics.
"""
