"""A face drawn as with a felt pen, an example for the page: no puppet of the dataset looks like it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

PAPER, INK, SKIN, HAIR, SHIRT, LIPS = "#faf7ee", "#28283c", "#ffdec4", "#783c1e", "#de785a", "#b43232"
FINER = 4  # times, before the picture is made smaller
WOBBLE = 0.0006  # of the hand, in widths of the picture

Points = list[tuple[float, float]]  # (x, y) in [0, 1]


class Pen:
    """Strokes of an unsteady hand on paper of `size` pixels."""

    def __init__(self, size: int):
        self.side, self.rng = FINER * size, np.random.default_rng(7)
        self.image = Image.new("RGB", (self.side, self.side), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def fill(self, points: Points, colour: str) -> None:
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=colour)

    def stroke(self, points: Points, width: float = 0.01, colour: str = INK) -> None:
        t, steps = np.linspace(0, 1, len(points)), np.linspace(0, 1, 60)
        wobble = self.rng.normal(0, WOBBLE, (len(steps), 2)).cumsum(axis=0)
        wobble -= steps[:, None] * wobble[-1]  # it ends where it should
        path = np.stack([np.interp(steps, t, column) for column in zip(*points, strict=True)], axis=1)
        line = [tuple(point) for point in (path + wobble) * self.side]
        self.draw.line(line, fill=colour, width=round(width * self.side), joint="curve")

    def finish(self) -> np.ndarray:
        return np.asarray(self.image.resize((self.side // FINER,) * 2, Image.Resampling.LANCZOS))


def ring(x: float, y: float, across: float, high: float, start: float = 0, end: float = 2.08) -> Points:
    """Return points around an oval; `start` and `end` in half turns."""
    angle = np.linspace(start, end, 40) * np.pi
    return [*zip(x + across * np.cos(angle), y + high * np.sin(angle), strict=True)]


def doodle(size: int) -> np.ndarray:
    """Draw the face: (size, size, 3) uint8."""
    pen = Pen(size)
    shoulders = [(0.2, 1.02), (0.25, 0.88), (0.4, 0.8), (0.6, 0.8), (0.75, 0.88), (0.8, 1.02)]
    pen.fill(shoulders, SHIRT)
    pen.stroke(shoulders)
    for x in (0.45, 0.55):
        pen.stroke([(x, 0.72), (x, 0.82)])
    pen.fill(ring(0.5, 0.48, 0.21, 0.27), SKIN)
    pen.stroke(ring(0.5, 0.48, 0.21, 0.27, 1.4, 3.5))
    for side in (-1, 1):
        pen.stroke(ring(0.5 + side * 0.225, 0.5, 0.03, 0.05))
        eye = 0.5 + side * 0.085
        pen.fill(ring(eye, 0.45, 0.035, 0.045), "white")
        pen.stroke(ring(eye, 0.45, 0.035, 0.045), 0.007)
        pen.fill(ring(eye, 0.455, 0.014, 0.018), INK)
        pen.stroke([(eye - 0.043, 0.375), (eye, 0.36), (eye + 0.043, 0.375)], 0.012, HAIR)
    pen.stroke([(0.5, 0.47), (0.485, 0.55), (0.51, 0.56)], 0.008)
    pen.stroke([(0.43, 0.63), (0.47, 0.655), (0.53, 0.655), (0.57, 0.63)], colour=LIPS)
    for x in np.linspace(0.3, 0.7, 22):
        y = 0.48 - 0.26 * np.sqrt(max(0, 1 - ((x - 0.5) / 0.22) ** 2))
        pen.stroke([(x, y + 0.06), (x + pen.rng.uniform(-0.03, 0.03), y - 0.07)], 0.014, HAIR)
    return pen.finish()
