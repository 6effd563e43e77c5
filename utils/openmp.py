"""How PyTorch's threads wait for each other. Entry points import this before anything that imports torch.

A layer ends when the slowest thread has done its part, and the others spin until then. Where another program
keeps a core busy, that took the demo down to a third of its speed, and to a thirtieth beside a training.
OpenMP reads the environment when it is loaded, so this has to come first. What the user has set stays.
"""

from __future__ import annotations

import os

SPINS = "1000"  # of GNU's OpenMP, which PyTorch's wheels for Linux bring; by itself it spins 300,000 times

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
