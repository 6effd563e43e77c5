"""The parts of `evaluate.py`.

Imports point down this list, never up: report, measuring, detectors, comparisons, puppets, clips, cache,
weights, metrics, instrument.

PyTorch takes seconds to import. What needs it imports it where it computes, so that a run whose results are
all cached never does and is done in a moment.
"""
