"""Palettes of the puppets, and how colours are mixed. Colours are RGB, 0 to 255."""

from __future__ import annotations

Colour = tuple[int, int, int]

SKINS = (
    (255, 226, 200),
    (250, 209, 172),
    (238, 186, 142),
    (217, 158, 110),
    (181, 122, 78),
    (141, 90, 56),
    (102, 64, 42),
)
NATURAL_HAIR = (
    (35, 28, 30),
    (62, 40, 31),
    (101, 62, 38),
    (150, 94, 48),
    (214, 160, 80),
    (240, 205, 128),
    (186, 78, 38),
)
GREY_HAIR = ((150, 150, 156), (205, 205, 210), (238, 236, 232))
DYED_HAIR = ((232, 112, 150), (86, 160, 170), (132, 98, 178), (74, 110, 190))
IRISES = ((94, 58, 34), (62, 42, 32), (70, 120, 180), (84, 134, 84), (110, 120, 130), (150, 100, 44))
FABRICS = (
    (229, 87, 80),
    (244, 162, 66),
    (250, 206, 92),
    (102, 178, 120),
    (64, 145, 158),
    (78, 110, 188),
    (140, 98, 170),
    (236, 138, 160),
    (250, 246, 236),
    (62, 66, 88),
    (170, 206, 220),
    (198, 216, 160),
)
PASTELS = (
    (255, 214, 186),
    (255, 234, 178),
    (206, 234, 200),
    (186, 226, 232),
    (196, 208, 244),
    (226, 204, 240),
    (250, 206, 216),
    (122, 176, 190),
    (240, 160, 120),
    (136, 146, 200),
    (110, 168, 138),
    (232, 190, 96),
)
WHITE, INK = (255, 255, 255), (44, 32, 38)


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """The colour at `t` of the way from `a` to `b`."""
    red, green, blue = (round((1 - t) * p + t * q) for p, q in zip(a, b, strict=True))
    return red, green, blue


def edge(colour: Colour) -> Colour:
    """The colour of the outline around `colour`."""
    return mix(colour, (50, 22, 40), 0.42)
