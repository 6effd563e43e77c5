"""Little datasets on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from media.pictures import write_image
from tests.small import images


def plain_frames(*levels: int, size: tuple[int, int] = (32, 40)) -> np.ndarray:
    """A grey frame for each level: uint8 (T, H, W, 3)."""
    return np.stack([np.full((*size, 3), level, np.uint8) for level in levels])


def write_clip(folder: Path, seed: int, frames: int = 4, size: int = 32) -> None:
    """A folder of pngs: a smooth picture that slides to the left."""
    folder.mkdir(parents=True)
    picture = (images(1, 2 * size, seed)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    for i in range(frames):
        write_image(
            folder / f"{i:07d}.png", np.ascontiguousarray(picture[:size, 2 * i % size : 2 * i % size + size])
        )


def write_dataset(root: Path, train: int = 6, test: int = 2, **clip: int) -> Path:
    for part, count, offset in (("train", train, 0), ("test", test, 100)):
        for i in range(count):
            write_clip(root / part / f"id{offset + i}#{i}", seed=offset + i, **clip)
    return root
