"""Rectangles that are cut out of pictures, perhaps turned so that a head in them is level.

Pictures are (H, W, 3) uint8, sizes (height, width) in pixels. y points down, so that a positive angle turns
clockwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from media.pictures import Size, fit

MIN_SHRINK = 0.8  # to which a region that is too large for its picture is shrunk; then edges are repeated


class Region(NamedTuple):
    """A rectangle of `width` and `height` around the point (x, y), turned around it by `angle` in radians."""

    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0

    @classmethod
    def of_box(cls, box: Sequence[float], angle: float = 0.0) -> Region:
        """Turn a box, left, top, right, bottom, around its middle."""
        left, top, right, bottom = box
        return cls((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, angle)

    @property
    def box(self) -> tuple[int, ...]:
        """The region as an option writes it: left, top, right, bottom and, where it is turned, degrees."""
        left, top = round(self.x - self.width / 2), round(self.y - self.height / 2)
        box = left, top, left + round(self.width), top + round(self.height)
        degrees = round(math.degrees(self.angle))
        return (*box, degrees) if degrees else box

    @property
    def pixels(self) -> Size:
        """Height and width in whole pixels, at least one each."""
        return max(1, round(self.height)), max(1, round(self.width))

    @property
    def axes(self) -> np.ndarray:
        """The directions across and down the region, as rows: (2, 2), xy."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, sin], [-sin, cos]])

    @property
    def corners(self) -> np.ndarray:
        """The corners (4, 2), xy, clockwise from the upper left one."""
        return self.point(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (self.width, self.height) / 2)

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """The smallest upright box of whole pixels around the region: left, top, right, bottom."""
        low, high = np.floor(self.corners.min(axis=0) + 1e-6), np.ceil(self.corners.max(axis=0) - 1e-6)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def within(self, size: Size) -> Region:
        """Move the region into a picture, and shrink it a little where it is too large for it."""
        sides = np.ptp(self.corners, axis=0)  # of the upright box around it, width and height
        shrink = min(1.0, max(MIN_SHRINK, min(size[1] / sides[0], size[0] / sides[1])))
        half = sides * shrink / 2
        x, y = (
            float(np.clip(middle, extent, length - extent)) if 2 * extent <= length else length / 2
            for middle, extent, length in zip((self.x, self.y), half, size[::-1], strict=True)
        )
        return Region(x, y, self.width * shrink, self.height * shrink, self.angle)

    def inner_sides(self, size: Size) -> np.ndarray:
        """Return which of the sides left, top, right and bottom lie within a picture: (4,)."""
        corners = self.corners
        middles = (corners[[3, 0, 1, 2]] + corners) / 2  # (4, 2)
        return ((middles >= 1) & (middles <= np.array(size[::-1]) - 1)).all(axis=1)

    def scaled(self, factor: float) -> Region:
        """Return the same region of a picture that is `factor` times as large."""
        x, y, width, height = (factor * value for value in self[:4])
        return Region(x, y, width, height, self.angle)

    def point(self, offset: np.ndarray) -> np.ndarray:
        """The points (..., 2) of the picture at offsets from the middle, across and down the region."""
        return (self.x, self.y) + offset @ self.axes

    def places_of(self, points: np.ndarray) -> np.ndarray:
        """Return where points (..., 2) lie in the region, across and down from its corner: (..., 2)."""
        return (points - (self.x, self.y)) @ self.axes.T + np.array([self.width, self.height]) / 2


def cut_out(picture: np.ndarray, region: Region, size: Size) -> np.ndarray:
    """The part of a picture in a region, upright and resized to `size`; beyond the edge, it is repeated."""
    left, top, right, bottom = region.bounds
    height, width = picture.shape[:2]
    inside = picture[max(0, top) : bottom, max(0, left) : right]
    beyond = (max(0, -top), max(0, bottom - height)), (max(0, -left), max(0, right - width)), (0, 0)
    around = np.pad(inside, beyond, mode="edge")
    if region.angle:
        height, width = own = region.pixels
        corner = region._replace(x=region.x - left, y=region.y - top).point(-np.array([width, height]) / 2)
        around = sample(around, region.axes.T, corner, own)
    return fit(around, size, "stretch")


def put_back(piece: np.ndarray, region: Region, box: tuple[int, int, int, int]) -> np.ndarray:
    """Return the pixels of the upright box around a region that a piece fills."""
    left, top, right, bottom = box
    if not region.angle:
        return fit(piece, (bottom - top, right - left), "stretch")
    height, width = own = region.pixels
    corner = region._replace(width=width, height=height).places_of(np.array([left, top]))
    # Beyond the piece its edge is repeated: the border is soft, but bicubic weights reach over it.
    padded = np.pad(fit(piece, own, "stretch"), ((2, 2), (2, 2), (0, 0)), mode="edge")
    return sample(padded, region.axes, corner + 2, (bottom - top, right - left))


def sample(picture: np.ndarray, axes: np.ndarray, corner: np.ndarray, size: Size) -> np.ndarray:
    """Return pixels (h, w, 3) of a picture along the columns of `axes` (2, 2), from `corner` (2,) on."""
    transform = np.column_stack([axes, corner]).ravel().tolist()
    image = Image.fromarray(picture).transform(
        size[::-1], Image.Transform.AFFINE, transform, Image.Resampling.BICUBIC
    )
    return np.asarray(image)
