"""Boxes around faces, and the boxes in which faces are cut out.

Shapes: `F` faces. A box is left, top, right, bottom in pixels of the upright frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from media.pictures import Size


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (N, 4) and (M, 4): (N, M)."""
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (N, M, 2)
    both = sides.clip(0).prod(-1)
    return both / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both)


class CropBox(NamedTuple):
    """A part of a frame in whole pixels, all even, so that video with halved colour can be cut there."""

    left: int
    top: int
    width: int
    height: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.width, self.top + self.height


def crop_box(face: np.ndarray, size: Size, image_shape: tuple[int, int], increase: float) -> CropBox:
    """Grow the box (4,) of a face by the share `increase` on each side, and to the shape of `image_shape`.

    It lies within the frame of `size` (height, width). It is moved inside, and shrunk only where it is larger
    than the frame. `image_shape` is (width, height).
    """
    aspect = image_shape[0] / image_shape[1]
    # Around the face, and no larger than the frame.
    left, top, right, bottom = face
    height = (1 + 2 * increase) * max(bottom - top, (right - left) / aspect)
    height = min(height, size[0], size[1] / aspect)
    crop_width, crop_height = max(2, _even(height * aspect)), max(2, _even(height))
    # Where the frame ends, the box is moved.
    return CropBox(
        left=_even(min(max(0, (left + right) / 2 - crop_width / 2), size[1] - crop_width)),
        top=_even(min(max(0, (top + bottom) / 2 - crop_height / 2), size[0] - crop_height)),
        width=crop_width,
        height=crop_height,
    )


def _even(value: float) -> int:
    return int(value) // 2 * 2
