"""The picture that everything is drawn on, and the outlines that several parts need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from data.puppets.colours import Colour, edge
from data.puppets.view import UNIT

LINE = 0.032  # width of outlines, head units


class Canvas:
    """A square picture drawn large and then averaged down, which smooths its edges.

    Places are xy, lengths are head units times `scale`, which the puppet's pose and the camera set.
    """

    def __init__(self, size: int) -> None:
        self.factor = max(4, -(-512 // size))
        self.image = Image.new("RGB", (size * self.factor,) * 2)
        self.draw = ImageDraw.Draw(self.image)
        self.pixels = (size - 1) / 2 * self.factor  # of the large picture in one unit of xy
        self.scale = 1.0

    def corners(self, xy: ArrayLike) -> list[int]:
        """xy (N, 2) in whole pixels of the large picture, flat."""
        pixels = (np.asarray(xy, float) + 1) * self.pixels + (self.factor - 1) / 2
        return np.rint(pixels).astype(int).ravel().tolist()

    def length(self, units: float) -> int:
        """A length in whole pixels of the large picture."""
        return max(1, round(units * UNIT * self.scale * self.pixels))

    def fill(self, xy: ArrayLike, colour: Colour) -> None:
        """A polygon, (N, 2)."""
        self.draw.polygon(self.corners(xy), colour)

    def line(self, xy: np.ndarray, colour: Colour, width: float = LINE) -> None:
        """A line through (N, 2) with round ends."""
        self.draw.line(self.corners(xy), colour, self.length(width), joint="curve" if width > LINE else None)
        for end in (xy[0], xy[-1]):
            self.disc(end, width / 2, colour)

    def shape(self, xy: np.ndarray, colour: Colour) -> None:
        """A polygon with an outline."""
        self.fill(xy, colour)
        self.line(np.concatenate([xy, xy[:2]]), edge(colour))

    def disc(self, centre: ArrayLike, radius: float, colour: Colour) -> None:
        """A disc around a place (2,)."""
        x, y = self.corners(centre)
        r = self.length(radius)
        self.draw.ellipse((x - r, y - r, x + r, y + r), colour)

    def blob(self, centres: Sequence[np.ndarray] | np.ndarray, radii: ArrayLike, colour: Colour) -> None:
        """The union of discs, outlined: `centres` (N, 2), `radii` (N,)."""
        for grow, shade in ((LINE / 2, edge(colour)), (-LINE / 2, colour)):
            for centre, radius in zip(centres, np.asarray(radii, float), strict=True):
                self.disc(centre, radius + grow, shade)

    def finish(self) -> np.ndarray:
        """The picture, averaged down: uint8 (size, size, 3)."""
        return np.asarray(self.image.reduce(self.factor))


# ---- Outlines ----------------------------------------------------------------


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The polygon between two lines that run the same way."""
    return np.concatenate([a, b[::-1]])


def circle(x: float, y: float, rx: float, ry: float | None = None, count: int = 33) -> np.ndarray:
    """The outline of a circle or an ellipse, (count, 2)."""
    t = np.linspace(0, 2 * np.pi, count)
    return np.stack([x + rx * np.cos(t), y + (rx if ry is None else ry) * np.sin(t)], 1)


def both_sides(right: ArrayLike) -> np.ndarray:
    """A symmetric polygon from its right half, listed downwards."""
    right = np.asarray(right, float)
    return np.concatenate([right[::-1] * (-1, 1), right])
