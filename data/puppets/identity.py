"""Who a puppet is: everything about it that does not move, drawn at random.

The order of the draws decides what a seed gives, so a new feature is drawn after all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from data.puppets import colours
from data.puppets.colours import FABRICS, PASTELS, Colour, mix
from data.puppets.hairstyles import FEMININE, HAIRS, MASCULINE, Hair

# What backgrounds.py, body.py and accessories.py can draw.
BACKGROUND_KINDS = ("plain", "halo", "rays", "spots", "diagonals", "hills", "lights", "room")
TOP_KINDS = ("crew", "vneck", "collar", "hood", "turtle", "overalls")
HAT_KINDS = ("beanie", "cap", "headband", "bow", "flower")

Option = TypeVar("Option")


def pick(
    rng: np.random.Generator, options: Sequence[Option], weights: Sequence[float] | None = None
) -> Option:
    """One of `options`; `weights` need not sum to one."""
    shares = None if weights is None else np.divide(weights, np.sum(weights))
    return options[rng.choice(len(options), p=shares)]


@dataclass(frozen=True)
class Background:
    """A still picture behind the puppet; `seed` places its parts."""

    kind: str  # of BACKGROUND_KINDS
    colours: tuple[Colour, Colour]
    seed: int

    @classmethod
    def random(cls, rng: np.random.Generator) -> Background:
        """A new background in two different colours."""
        first = int(rng.integers(len(PASTELS)))
        second = (first + int(rng.integers(1, len(PASTELS)))) % len(PASTELS)
        return cls(pick(rng, BACKGROUND_KINDS), (PASTELS[first], PASTELS[second]), int(rng.integers(2**31)))


@dataclass(frozen=True)
class Puppet:
    """Everything about a puppet that does not move. Lengths are in head units."""

    background: Background
    age: str  # kid, adult, elder
    skin: Colour
    width: float  # of half the face
    square: float  # 1 is an ellipse, less is squarer
    taper: float  # how much the jaw narrows
    hair: str  # a key of HAIRS
    hair_colour: Colour
    part: int  # side of the parting, -1 or 1
    eyes: str  # round, almond, bead
    iris: Colour
    eye_size: float
    eye_x: float
    eye_y: float
    lashes: bool
    brow: float  # thickness
    brow_tilt: float
    nose: str  # button, round, line
    nose_size: float
    mouth_width: float
    lips: Colour
    lip: float  # thickness
    ear: float  # half height
    blush: float
    freckles: bool
    beard: str  # none, stubble, full, moustache, goatee
    glasses: str  # none, round, square
    hat: str  # none, or of HAT_KINDS
    accent: Colour  # of hat, glasses and earrings
    earrings: bool
    top: str  # of TOP_KINDS
    fabric: Colour
    fabric2: Colour
    pattern: str  # plain, stripes, dots
    shoulders: float  # half the width
    zoom: float = 1.0  # of the camera

    @classmethod
    def random(cls, rng: np.random.Generator) -> Puppet:
        """A new identity; the same state of `rng` gives the same one."""
        person = Person.random(rng)
        fabrics = rng.permutation(len(FABRICS))
        skin = pick(rng, colours.SKINS)
        return cls(
            age=person.age,
            hair=person.hair,
            skin=skin,
            fabric=FABRICS[fabrics[0]],
            fabric2=FABRICS[fabrics[1]],
            accent=FABRICS[fabrics[2]],
            background=Background.random(rng),  # draws on; so do the four below, in this order
            **random_head(rng, person, skin),
            **random_eyes(rng, person),
            **random_features(rng, person, skin),
            **random_clothes(rng, person),
        )

    def close_up(self) -> Puppet:
        """Return the puppet framed as faces of VoxCeleb are, with larger eyes and mouth."""
        return replace(self, zoom=1.28, eye_size=1.25 * self.eye_size, mouth_width=1.2 * self.mouth_width)

    @property
    def cut(self) -> Hair:
        """The haircut. Raises `ValueError` for a bald puppet, which has none."""
        cut = HAIRS[self.hair]
        if cut is None:
            raise ValueError("a bald puppet has no haircut")
        return cut


@dataclass(frozen=True)
class Person:
    """What the other features depend on."""

    age: str
    kid: bool
    elder: bool
    feminine: bool
    hair: str

    @classmethod
    def random(cls, rng: np.random.Generator) -> Person:
        """A new person; elder men are bald more often."""
        age = pick(rng, ("kid", "adult", "elder"), (3, 5, 2))
        feminine = bool(rng.random() < 0.5)
        styles = dict(FEMININE if feminine else MASCULINE)
        if age == "elder" and not feminine:
            styles |= {"bald": 4, "crown": 8}
        hair = pick(rng, list(styles), list(styles.values()))
        return cls(age, age == "kid", age == "elder", feminine, hair)


def random_head(rng: np.random.Generator, person: Person, skin: Colour) -> dict[str, Any]:
    """The shape of the head and the look of the hair, whose colour differs from that of the skin."""
    kinds = colours.GREY_HAIR if person.elder else colours.NATURAL_HAIR * 3 + colours.DYED_HAIR
    distinct = [colour for colour in kinds if np.abs(np.subtract(colour, skin)).sum() > 90]
    return {
        "width": rng.uniform(0.84, 0.96) + 0.06 * person.kid,
        "square": rng.uniform(0.8, 1.0),
        "taper": rng.uniform(0.0, 0.3) * (0.6 if person.kid else 1),
        "hair_colour": pick(rng, distinct),
        "part": int(pick(rng, (-1, 1))),
    }


def random_eyes(rng: np.random.Generator, person: Person) -> dict[str, Any]:
    """Eyes, larger and lower in kids, and brows."""
    kid, thin_brows = person.kid, person.feminine or person.kid
    return {
        "eyes": pick(rng, ("round", "almond", "bead"), (4, 3, 2)),
        "iris": pick(rng, colours.IRISES),
        "eye_size": rng.uniform(0.17, 0.2) + 0.03 * kid - 0.02 * person.elder,
        "eye_x": rng.uniform(0.35, 0.4),
        "eye_y": rng.uniform(0.02, 0.1) + 0.08 * kid,
        "lashes": person.feminine and bool(rng.random() < 0.8),
        "brow": rng.uniform(0.05, 0.08) if thin_brows else rng.uniform(0.07, 0.12),
        "brow_tilt": rng.uniform(-0.01, 0.06),
    }


def random_features(rng: np.random.Generator, person: Person, skin: Colour) -> dict[str, Any]:
    """Nose, mouth, ears, what lies on the skin, and the beard."""
    kid, feminine = person.kid, person.feminine
    beards = ("none", "stubble", "full", "moustache", "goatee")
    return {
        "nose": pick(rng, ("button", "round", "line")),
        "nose_size": rng.uniform(0.85, 1.25) - 0.15 * kid + 0.15 * person.elder,
        "mouth_width": rng.uniform(0.24, 0.34),
        "lips": mix(skin, (214, 62, 86), rng.uniform(0.55, 0.85) if feminine else 0.3),
        "lip": rng.uniform(0.06, 0.085) if feminine and not kid else 0.05,
        "ear": rng.uniform(0.2, 0.27),
        "blush": rng.uniform(0.1, 0.32),
        "freckles": bool(rng.random() < (0.35 if kid else 0.15)),
        "beard": "none" if feminine or kid else pick(rng, beards, (8, 2, 5, 3, 2)),
    }


def random_clothes(rng: np.random.Generator, person: Person) -> dict[str, Any]:
    """Glasses, a hat if the hair leaves room for it, earrings, a top, and the shoulders under it."""
    cut, feminine = HAIRS[person.hair], person.feminine
    fits = cut is None or cut.hat
    hats = (8, 1.2 * fits, 1.2 * fits, 0.8, 0.8 * feminine, 0.8 * feminine)
    widths = (0.98, 1.08) if person.kid else (1.1, 1.25) if feminine else (1.22, 1.42)
    return {
        "glasses": pick(rng, ("none", "round", "square"), (2 if person.elder else 5, 1, 1)),
        "hat": pick(rng, ("none", *HAT_KINDS), hats),
        "earrings": feminine and bool(rng.random() < 0.5),
        "top": pick(rng, TOP_KINDS),
        "pattern": pick(rng, ("plain", "stripes", "dots"), (2, 1, 1)),
        "shoulders": rng.uniform(*widths),
    }
