"""Clips whose pixels tell which frame they are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from frames_dataset import FramesDataset

SHAPE = (8, 8, 3)


def write_clip(path: Path, frames: int = 5, size: tuple[int, int] = (8, 8), value: int = 0) -> None:
    """A folder of pngs in which frame number t has the colour (value, 10 t, column)."""
    path.mkdir(parents=True)
    for number in range(frames):
        Image.fromarray(numbered_frame(number, size, value)).save(path / f"{number}.png")


def numbered_frame(number: int, size: tuple[int, int] = (8, 8), value: int = 0) -> np.ndarray:
    frame = np.zeros((*size, 3), np.uint8)
    frame[..., 0], frame[..., 1], frame[..., 2] = value, 10 * number % 256, np.arange(size[1])
    return frame


def dataset(root: Path, **options: object) -> FramesDataset:
    return FramesDataset(root, frame_shape=SHAPE, **options)
