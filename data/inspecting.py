"""Read a whole clip and say what is wrong with it. Workers import this file, so it imports no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cutting import MIN_FRAMES
from media.clips import has_suffix, open_clip
from media.pictures import IMAGE_SUFFIXES, Size, read_image_size
from utils.errors import MediaError

FLAT, BLACK, STILL = 8, 16, 0.5  # grey levels of 255


class Inspected(NamedTuple):
    """The content of a clip; `fault` is empty, or a line with the fault and the remedy."""

    path: Path
    size: Size | None = None
    frames: int = 0
    fault: str = ""


def inspect_clip(job: tuple[Path, tuple[int, int, int] | None]) -> Inspected:
    """Read every frame of a clip; strips are cut into frames of the shape given, or into squares."""
    path, shape = job
    frames, brightest, contrast, movement = 0, 0, 0, 0.0
    first: np.ndarray | None = None
    try:
        clip = open_clip(path, shape or square(path))
        for frame in clip:
            small = frame[::4, ::4].astype(np.int16)  # (H/4, W/4, 3)
            first = small if first is None else first
            frames += 1
            brightest = max(brightest, int(small.max()))
            contrast = max(contrast, int(np.ptp(small, axis=(0, 1)).max()))
            movement = max(movement, float(np.abs(small - first).mean()))
    except MediaError as error:
        return Inspected(path, fault=str(error))
    fault = ""
    if frames < MIN_FRAMES:
        fault = f"has {frames} frame, training needs {MIN_FRAMES}"
    elif contrast <= FLAT:
        fault = "is black" if brightest <= BLACK else "is of one flat colour in each frame"
    elif movement < STILL:
        fault = "is a still picture: nothing moves"
    return Inspected(path, clip.size, frames, f"{path}: {fault}; remove it" if fault else "")


def square(path: Path) -> tuple[int, int, int] | None:
    """Return the frame shape of a strip that is a row of squares; None for other kinds of clips."""
    if path.is_dir() or not has_suffix(path.name, IMAGE_SUFFIXES):
        return None
    height, _ = read_image_size(path)
    return height, height, 3
