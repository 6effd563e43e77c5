"""Palettes of the puppets, and how colours are mixed. Colours are RGB, 0 to 255."""

from __future__ import annotations

Colour = tuple[int, int, int]


def palette(codes: str) -> tuple[Colour, ...]:
    """Read colours in hexadecimal."""
    return tuple((code[0], code[1], code[2]) for code in map(bytes.fromhex, codes.split()))


SKINS = palette("ffe2c8 fad1ac eeba8e d99e6e b57a4e 8d5a38 66402a")
NATURAL_HAIR = palette("231c1e 3e281f 653e26 965e30 d6a050 f0cd80 ba4e26")
GREY_HAIR = palette("96969c cdcdd2 eeece8")
DYED_HAIR = palette("e87096 56a0aa 8462b2 4a6ebe")
IRISES = palette("5e3a22 3e2a20 4678b4 548654 6e7882 96642c")
FABRICS = palette("e55750 f4a242 face5c 66b278 40919e 4e6ebc 8c62aa ec8aa0 faf6ec 3e4258 aacedc c6d8a0")
PASTELS = palette("ffd6ba ffeab2 ceeac8 bae2e8 c4d0f4 e2ccf0 faced8 7ab0be f0a078 8892c8 6ea88a e8be60")
WHITE, INK = (255, 255, 255), (44, 32, 38)


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """The colour at `t` of the way from `a` to `b`."""
    red, green, blue = (round((1 - t) * p + t * q) for p, q in zip(a, b, strict=True))
    return red, green, blue


def edge(colour: Colour) -> Colour:
    """The colour of the outline around `colour`."""
    return mix(colour, (50, 22, 40), 0.42)
