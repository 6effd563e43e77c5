"""Little datasets on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frames_dataset import FramesDataset
from media.pictures import write_image
from tests.small import pixels

SHAPE = (8, 8, 3)  # of numbered clips


def plain_frames(*levels: int, size: tuple[int, int] = (32, 40)) -> np.ndarray:
    """A grey frame for each level: uint8 (T, H, W, 3)."""
    return np.stack([np.full((*size, 3), level, np.uint8) for level in levels])


def write_clip(folder: Path, seed: int, frames: int = 4, size: int = 32) -> None:
    """A folder of pngs: a smooth picture that slides to the left."""
    folder.mkdir(parents=True)
    picture = pixels(seed, 2 * size)
    for i in range(frames):
        write_image(
            folder / f"{i:07d}.png", np.ascontiguousarray(picture[:size, 2 * i % size : 2 * i % size + size])
        )


def write_dataset(root: Path, train: int = 6, test: int = 2, **clip: int) -> Path:
    for part, count, offset in (("train", train, 0), ("test", test, 100)):
        for i in range(count):
            write_clip(root / part / f"id{offset + i}#{i}", seed=offset + i, **clip)
    return root


# ---- Clips whose pixels tell which frame they are of ---------------------------


def write_numbered_clip(path: Path, frames: int = 5, size: tuple[int, int] = (8, 8), value: int = 0) -> None:
    """A folder of pngs in which frame number t has the colour (value, 10 t, column)."""
    path.mkdir(parents=True)
    for number in range(frames):
        write_image(path / f"{number}.png", numbered_frame(number, size, value))


def numbered_frame(number: int, size: tuple[int, int] = (8, 8), value: int = 0) -> np.ndarray:
    frame = np.zeros((*size, 3), np.uint8)
    frame[..., 0], frame[..., 1], frame[..., 2] = value, 10 * number % 256, np.arange(size[1])
    return frame


def dataset(root: Path, **options: object) -> FramesDataset:
    return FramesDataset(root, frame_shape=SHAPE, **options)
