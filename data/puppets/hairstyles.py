"""Haircuts: the line where the hair begins, its size, and what is added to it.

A hairline is a list of knots (degrees, height): the azimuth in degrees, 0 at the front, and the height there
in head units, from -1 at the crown to 1 at the chin. A smooth curve runs through them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hair:
    """A cut: the hair covers the head above the hairline."""

    knots: tuple[tuple[float, float], ...]  # of the hairline; mirrored if the first lies at 0 degrees
    volume: float = 1.1  # size of the hair over the size of the head
    back: float = 0.0  # how far down it hangs behind the neck; 0 is not at all
    flare: float = 0.0  # how much it widens on its way down
    wave: float = 0.0  # amplitude of the waves down its sides
    jag: float = 0.0  # depth of the points of the fringe
    curl: float = 0.0  # radius of its curls
    ears: bool = True  # whether the ears show
    extra: str = ""  # bun, buns, ponytail, braids, spikes, quiff
    hat: bool = True  # whether a beanie or cap fits


SHORT = ((0, -0.50), (40, -0.46), (62, -0.28), (76, 0.0), (84, 0.06), (92, -0.12), (112, 0.1), (180, 0.55))
HIGH = ((0, -0.62), (45, -0.54), (66, -0.34), (80, -0.05), (92, -0.14), (112, 0.1), (180, 0.5))
FRINGE = ((0, -0.30), (45, -0.26), (64, -0.14), (80, 0.1), (92, -0.1), (112, 0.1), (180, 0.55))
SWEPT = (
    (-180, 0.55),
    (-112, 0.1),
    (-92, -0.12),
    (-82, 0.04),
    (-62, -0.34),
    (-30, -0.62),
    (0, -0.5),
    (35, -0.3),
    (62, -0.16),
    (80, 0.04),
    (92, -0.12),
    (112, 0.1),
    (180, 0.55),
)


def hanging(front: float, length: float) -> tuple[tuple[float, float], ...]:
    """A hairline at height `front` over the forehead, which hangs over the ears down to `length`."""
    beside = ((64, min(0.5, length)), (72, length), (180, length))
    return ((0, front), (36, front + 0.04), (54, front + 0.34), *beside)


HAIRS: dict[str, Hair | None] = {
    "bald": None,
    "crown": Hair(((0, 0.0), (74, 0.05), (84, 0.1), (92, -0.04), (112, 0.12), (180, 0.5)), 1.05, hat=False),
    "buzz": Hair(HIGH, 1.03),
    "short": Hair(SHORT, 1.09),
    "side": Hair(SWEPT, 1.12),
    "crop": Hair(FRINGE, 1.1, jag=0.12),
    "bowl": Hair(((0, -0.3), (60, -0.26), (80, -0.05), (90, 0.12), (180, 0.4)), 1.16, ears=False),
    "spikes": Hair(HIGH, 1.06, jag=0.1, extra="spikes", hat=False),
    "quiff": Hair(HIGH, 1.07, extra="quiff", hat=False),
    "curly": Hair(SHORT, 1.05, curl=0.21, hat=False),
    "afro": Hair(SHORT, 1.2, curl=0.4, hat=False),
    "bob": Hair(hanging(-0.34, 0.78), 1.15, back=0.82, flare=0.1, ears=False),
    "curtain": Hair(hanging(-0.62, 0.72), 1.13, back=0.76, flare=0.06, ears=False),
    "long": Hair(hanging(-0.58, 1.5), 1.12, back=1.62, flare=0.08, ears=False),
    "waves": Hair(hanging(-0.5, 1.38), 1.16, back=1.5, flare=0.16, wave=0.07, ears=False),
    "fringe": Hair(hanging(-0.28, 1.44), 1.13, back=1.56, flare=0.05, ears=False),
    "tucked": Hair(SWEPT, 1.1, back=1.36, flare=0.05),
    "bun": Hair(HIGH, 1.06, extra="bun", hat=False),
    "buns": Hair(FRINGE, 1.08, extra="buns", hat=False),
    "ponytail": Hair(SWEPT, 1.08, extra="ponytail", hat=False),
    "braids": Hair(SHORT, 1.08, extra="braids"),
}
MASCULINE: dict[str, float] = {
    "bald": 1,
    "buzz": 2,
    "short": 3,
    "side": 3,
    "crop": 3,
    "bowl": 1,
    "spikes": 2,
    "quiff": 3,
    "curly": 2,
    "afro": 1.5,
    "curtain": 1,
    "long": 0.5,
}
FEMININE: dict[str, float] = {
    "bob": 3,
    "curtain": 2,
    "long": 3,
    "waves": 3,
    "fringe": 3,
    "tucked": 2,
    "bun": 2,
    "buns": 2,
    "ponytail": 3,
    "braids": 2,
    "curly": 1.5,
    "afro": 2,
    "side": 1,
    "crop": 0.6,
}
