"""Pictures with known faces, and clips of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from media.writer import VideoWriter

ASTRONAUT_FACE = np.array([180, 72, 272, 178])  # in data.astronaut(), hairline to chin; measured by eye
HEAD = (130, 0, 330, 200)  # a part of it that holds the head


def scene(
    places: Sequence[tuple[float, float]], size: tuple[int, int] = (160, 240), scale: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """A grey frame of `size` with the astronaut's head at each of `places`, and the boxes of the faces."""
    frame = np.tile(np.linspace(60, 180, size[1], dtype=np.uint8)[None, :, None], (size[0], 1, 3))
    canvas = Image.fromarray(frame)
    side = round((HEAD[2] - HEAD[0]) * scale)
    head = Image.fromarray(data.astronaut()).crop(HEAD).resize((side, side), Image.Resampling.BICUBIC)
    corners = np.array([(round(x), round(y)) for x, y in places]).reshape(-1, 2)
    for x, y in corners.tolist():
        canvas.paste(head, (x, y))
    face = (ASTRONAUT_FACE - np.tile(HEAD[:2], 2)) * scale
    return np.array(canvas), face + np.tile(corners, 2)


def write(path: Path, frames: Iterable[np.ndarray], fps: float = 25) -> Path:
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path
