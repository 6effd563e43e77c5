"""What detectors and comparisons have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class Instrument(Protocol):
    """Looks at frames, uint8 (B, H, W, 3) RGB, and returns an array whose first axis is B.

    A detector is called with the frames of one clip, a comparison with generated and real frames. `load`
    comes first. It fetches what the instrument needs, and raises `CheckpointError` where weights are missing.
    """

    name: str
    version: str  # changes with what the instrument computes: results of another version are not used again

    def load(self, device: torch.device) -> None: ...

    def __call__(self, *frames: Any, **options: Any) -> np.ndarray: ...
