"""Pixels to tensors and back; alone in a file, so that the other files of media/ need no PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from media.pictures import to_float, to_uint8


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Turn (..., H, W, C), uint8 or in [0, 1], into float32 (..., C, H, W) in [0, 1] by its strides."""
    return torch.from_numpy(to_float(np.moveaxis(pixels, -1, -3)))


def to_pixels(images: Tensor) -> np.ndarray:
    """Turn (..., C, H, W) in [0, 1] on any device into uint8 (..., H, W, C), rounded."""
    return to_uint8(images.detach().movedim(-3, -1).float().cpu().numpy())
