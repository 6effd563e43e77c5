"""Puppets: an endless, licence-free dataset of cartoon heads that move, drawn from a seed.

    python data/make_puppets.py --videos 400 --frames 32 --size 128 --format mp4 --out data/puppets

writes `train/` and `test/`, ready for `FramesDataset`. No identity is in both; of every ten identities the last is for testing.
A clip is `id00012#00003.mp4`, or a folder of png files `id00012#00003/`: clip 3 of identity 12, counted from 0. Clips of an
identity share the puppet and differ in background and motion. Beside each clip lies `id00012#00003.npz` with its landmarks:
`xy`, float32 (frames, 10, 2), in [-1, 1] inside the frame, and `names`, the ten `LANDMARKS`, where left is the left of the
picture when the puppet faces us. What the head or the hair hides keeps its true place; a place can lie outside the frame.

How a puppet is built: the head is a stack of ellipses in three dimensions, every feature lies at an (azimuth, height) on it,
and `View` turns such places into the frame. So features slide over the head as it turns, ears go behind it, and a landmark is
the place of the thing drawn. Everything is polygons on a large canvas, with corners in whole pixels so that the last bit of a
sine hardly ever changes one, and the canvas is averaged down.

Shapes: N points, L landmarks. `xy` is in [-1, 1], where -1 and 1 are the centres of the corner pixels, y down. Head units: the
face is 2 high (y from -1 at the crown to 1 at the chin), z towards us. Angles are radians. Colours are RGB, 0 to 255.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import PchipInterpolator
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from modules.errors import UserError, command_line

LANDMARKS = (
    "eye_left",
    "eye_right",
    "nose",
    "mouth_left",
    "mouth_right",
    "chin",
    "ear_left",
    "ear_right",
    "shoulder_left",
    "shoulder_right",
)
CLIPS_PER_IDENTITY = 4
FPS = 25

UNIT = 0.53  # length of a head unit in xy, at scale 1
REST = (0.0, -0.12)  # where the head is at rest
DEPTH = 1.04  # depth of the head over its width
PIVOT = 0.75  # height about which the head nods and tilts: the top of the neck
LINE = 0.032  # width of outlines, head units

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
    return tuple(round((1 - t) * p + t * q) for p, q in zip(a, b, strict=True))


def edge(colour: Colour) -> Colour:
    """The colour of the outline around `colour`."""
    return mix(colour, (50, 22, 40), 0.42)


def pick(rng: np.random.Generator, options, weights=None):
    """One of `options`; `weights` need not sum to one."""
    weights = None if weights is None else np.divide(weights, np.sum(weights))
    return options[rng.choice(len(options), p=weights)]


# ---- Who: the identity of a puppet -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hair:
    """A cut: the hair covers the head above the hairline, `knots` of (degrees from the front, height)."""

    knots: tuple[tuple[float, float], ...]  # mirrored unless they begin below zero
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
    """A hairline that begins at height `front` and hangs over the ears to `length`."""
    return (
        (0, front),
        (36, front + 0.04),
        (54, front + 0.34),
        (64, min(0.5, length)),
        (72, length),
        (180, length),
    )


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
# How often each cut is drawn.
MASCULINE = {
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
FEMININE = {
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


@dataclass(frozen=True)
class Background:
    """A still picture behind the puppet; `seed` places its parts."""

    kind: str
    colours: tuple[Colour, Colour]
    seed: int

    @classmethod
    def random(cls, rng: np.random.Generator) -> Background:
        first = int(rng.integers(len(PASTELS)))
        second = (first + int(rng.integers(1, len(PASTELS)))) % len(PASTELS)
        return cls(pick(rng, list(BACKGROUNDS)), (PASTELS[first], PASTELS[second]), int(rng.integers(2**31)))


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
    hat: str  # none, beanie, cap, headband, bow, flower
    accent: Colour  # of hat, glasses and earrings
    earrings: bool
    top: str  # crew, vneck, collar, hood, turtle, overalls
    fabric: Colour
    fabric2: Colour
    pattern: str  # plain, stripes, dots
    shoulders: float  # half the width

    @classmethod
    def random(cls, rng: np.random.Generator) -> Puppet:
        """A new identity; the same state of `rng` gives the same one."""
        age = pick(rng, ("kid", "adult", "elder"), (3, 5, 2))
        kid, elder, feminine = age == "kid", age == "elder", bool(rng.random() < 0.5)
        styles = dict(FEMININE if feminine else MASCULINE)
        if elder and not feminine:
            styles |= {"bald": 4, "crown": 8}
        hair = pick(rng, list(styles), list(styles.values()))
        fits = HAIRS[hair] is None or HAIRS[hair].hat
        hair_colours = GREY_HAIR if elder else NATURAL_HAIR * 3 + DYED_HAIR
        fabrics = rng.permutation(len(FABRICS))
        skin = pick(rng, SKINS)
        hair_colours = [colour for colour in hair_colours if np.abs(np.subtract(colour, skin)).sum() > 90]
        return cls(
            background=Background.random(rng),
            age=age,
            skin=skin,
            width=rng.uniform(0.84, 0.96) + 0.06 * kid,
            square=rng.uniform(0.8, 1.0),
            taper=rng.uniform(0.0, 0.3) * (0.6 if kid else 1),
            hair=hair,
            hair_colour=pick(rng, hair_colours),
            part=int(pick(rng, (-1, 1))),
            eyes=pick(rng, ("round", "almond", "bead"), (4, 3, 2)),
            iris=pick(rng, IRISES),
            eye_size=rng.uniform(0.17, 0.2) + 0.03 * kid - 0.02 * elder,
            eye_x=rng.uniform(0.35, 0.4),
            eye_y=rng.uniform(0.02, 0.1) + 0.08 * kid,
            lashes=feminine and bool(rng.random() < 0.8),
            brow=rng.uniform(0.05, 0.08) if feminine or kid else rng.uniform(0.07, 0.12),
            brow_tilt=rng.uniform(-0.01, 0.06),
            nose=pick(rng, ("button", "round", "line")),
            nose_size=rng.uniform(0.85, 1.25) - 0.15 * kid + 0.15 * elder,
            mouth_width=rng.uniform(0.24, 0.34),
            lips=mix(skin, (214, 62, 86), rng.uniform(0.55, 0.85) if feminine else 0.3),
            lip=rng.uniform(0.06, 0.085) if feminine and not kid else 0.05,
            ear=rng.uniform(0.2, 0.27),
            blush=rng.uniform(0.1, 0.32),
            freckles=bool(rng.random() < (0.35 if kid else 0.15)),
            beard="none"
            if feminine or kid
            else pick(rng, ("none", "stubble", "full", "moustache", "goatee"), (8, 2, 5, 3, 2)),
            glasses=pick(rng, ("none", "round", "square"), (2 if elder else 5, 1, 1)),
            hat=pick(rng, ("none", *HATS), (8, 1.2 * fits, 1.2 * fits, 0.8, 0.8 * feminine, 0.8 * feminine)),
            accent=FABRICS[fabrics[2]],
            earrings=feminine and bool(rng.random() < 0.5),
            top=pick(rng, list(TOPS)),
            fabric=FABRICS[fabrics[0]],
            fabric2=FABRICS[fabrics[1]],
            pattern=pick(rng, ("plain", "stripes", "dots"), (2, 1, 1)),
            shoulders=rng.uniform(0.98, 1.08)
            if kid
            else rng.uniform(1.1, 1.25)
            if feminine
            else rng.uniform(1.22, 1.42),
        )


# ---- What it does: poses and motion ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pose:
    """One moment. Positive is right, down, clockwise and towards us, as the viewer sees it."""

    x: float = 0.0  # head, in xy
    y: float = 0.0
    scale: float = 1.0
    roll: float = 0.0
    yaw: float = 0.0  # turns to the right
    pitch: float = 0.0  # looks up
    mouth: float = 0.0  # 0 shut to 1 wide open
    smile: float = 0.5  # -1 to 1
    blink: float = 0.0  # 0 open to 1 shut
    brows: float = 0.0  # -1 to 1, up is positive
    gaze_x: float = 0.0  # -1 to 1
    gaze_y: float = 0.0
    body_x: float = 0.0  # shoulders, in xy
    shrug: float = 0.0  # -1 to 1


REACH = Pose(
    x=0.2,
    y=0.09,
    scale=0.1,
    roll=0.3,
    yaw=0.66,
    pitch=0.27,
    mouth=1.0,
    smile=0.55,
    blink=1.0,
    brows=1.0,
    gaze_x=1.0,
    gaze_y=1.0,
    body_x=0.05,
    shrug=1.0,
)


def drift(
    rng: np.random.Generator, frames: int, shortest: float, longest: float
) -> np.ndarray:  # (frames,) in [-1, 1]
    """A smooth random curve: two sine waves whose periods, in frames, lie between `shortest` and `longest`."""
    t = np.arange(frames)
    period, phase = rng.uniform(shortest, longest, 2), rng.uniform(0, 2 * np.pi, 2)
    return 0.65 * np.sin(2 * np.pi * t / period[0] + phase[0]) + 0.35 * np.sin(
        2 * np.pi * t / period[1] + phase[1]
    )


def blinks(rng: np.random.Generator, frames: int) -> np.ndarray:  # (frames,) in [0, 1]
    """Blinks of nine frames, one every 24 frames or so."""
    t, shut = np.arange(frames), np.zeros(frames)
    centre = rng.uniform(0, 24)
    while centre < frames + 5:
        shut = np.maximum(shut, np.cos(np.clip((t - centre) / 9, -0.5, 0.5) * np.pi) ** 1.5)
        centre += rng.uniform(16, 34)
    return shut


def random_motion(rng: np.random.Generator, frames: int) -> list[Pose]:
    """`frames` poses of a smooth random performance, no further from rest than `REACH` in any part."""
    curve = {field.name: getattr(REACH, field.name) * drift(rng, frames, 22, 60) for field in fields(Pose)}
    curve["scale"] += 1
    talk = np.maximum(0, drift(rng, frames, 9, 16)) * np.clip(0.8 + drift(rng, frames, 30, 60), 0, 1)
    curve["mouth"], curve["blink"] = talk, blinks(rng, frames)
    curve["smile"] += 0.3
    return [Pose(**{name: float(values[t]) for name, values in curve.items()}) for t in range(frames)]


# ---- Where: from a place on the puppet to a place in the frame ---------------------------------------------------------------


def ramp(values: np.ndarray, start: float, stop: float) -> np.ndarray:
    """0 before `start`, 1 after `stop`, smooth between."""
    t = np.minimum(np.maximum((np.asarray(values, float) - start) / (stop - start), 0), 1)
    return t * t * (3 - 2 * t)


class View:
    """Places a puppet in a pose: every method returns xy in the frame, (N, 2)."""

    def __init__(self, puppet: Puppet, pose: Pose):
        self.puppet, self.pose = puppet, pose
        sin, cos = np.sin([pose.roll, pose.yaw, pose.pitch]), np.cos([pose.roll, pose.yaw, pose.pitch])
        yaw = np.array([[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]])
        pitch = np.array([[1, 0, 0], [0, cos[2], -sin[2]], [0, sin[2], cos[2]]])
        roll = np.array([[cos[0], -sin[0], 0], [sin[0], cos[0], 0]])
        self.matrix = UNIT * pose.scale * roll @ pitch @ yaw  # (2, 3)
        self.turn = np.arctan2(DEPTH * sin[1], cos[1])  # by which yaw moves azimuths towards the right edge
        self.offset = np.add(REST, (pose.x, pose.y))
        lean = 0.25 * pose.roll
        turned = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
        self.body_matrix = UNIT * (0.5 + 0.5 * pose.scale) * turned  # (2, 2)
        self.body_offset = np.add(REST, (0.35 * pose.x + pose.body_x, 0.35 * pose.y - 0.02 * pose.shrug))

    def solid(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) in head units."""
        points = np.asarray(points, float) - (0, PIVOT, 0)
        return points @ self.matrix.T + self.offset + UNIT * self.pose.scale * np.array((0, PIVOT))

    def surface(self, azimuth, y, swell: float = 1.0) -> np.ndarray:
        """Places on the head, `swell` times as large, at `azimuth` (0 is the front) and height `y`."""
        return self.solid(head_surface(self.puppet, azimuth, y, self.pose.mouth) * swell)

    def face(self, x, y, lift: float = 0.0) -> np.ndarray:
        """Places on the face, `x` beside the middle, `lift` in front of the skin."""
        x, y = np.broadcast_arrays(x, np.asarray(y, float))
        w, centre, height = head_profile(self.puppet, y, self.pose.mouth)
        x = np.minimum(np.maximum(x, -w), w)
        return self.solid(np.stack([x, height, centre + DEPTH * np.sqrt(w * w - x * x) + lift], -1))

    def hair(self, azimuth, y, swell: float = 1.0) -> np.ndarray:
        """Places on the hair, which hangs straight down from the widest part of the head."""
        return self.hang(hair_surface(self.puppet, azimuth, y, swell))

    def hang(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of something that hangs from the head: the lower, the less it tilts with it."""
        drop = np.clip(points[:, 1] - 0.2, 0, None)  # (N,)
        return self.solid(points) + UNIT * self.pose.scale * np.stack(
            [drop * np.sin(self.pose.roll) * 0.8, 0 * drop], 1
        )

    def beside(self, centre: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Flat points (N, 2) around a place (2,) in the frame, which tilt with the head but do not turn."""
        sin, cos = np.sin(self.pose.roll), np.cos(self.pose.roll)
        return centre + UNIT * self.pose.scale * np.asarray(points, float) @ np.array(
            [[cos, sin], [-sin, cos]]
        )

    def body(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) of the body in head units; the shoulders follow the head a third of the way."""
        return np.asarray(points, float) @ self.body_matrix.T + self.body_offset

    def visible(self, azimuth: np.ndarray) -> np.ndarray:
        """Which of the azimuths (N,) are on our side of the head."""
        return np.abs(azimuth + self.turn) <= np.pi / 2

    def span(self, count: int = 61) -> np.ndarray:
        """All azimuths on our side of the head, from its left edge to its right."""
        return np.linspace(-np.pi / 2, np.pi / 2, count) - self.turn


def half_width(puppet: Puppet, y) -> np.ndarray:
    """Half the width of the head at height `y`."""
    return (
        puppet.width
        * np.maximum(1 - np.square(y), 0) ** (puppet.square / 2)
        * (1 - puppet.taper * ramp(y, -0.1, 1))
    )


def head_profile(puppet: Puppet, y: np.ndarray, mouth: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ellipse at height `y` of the head: half its width, how far forward its centre is, and the height it moves to.

    The chin is in front of the neck and sinks when the mouth opens.
    """
    return half_width(puppet, y), 0.16 * ramp(y, 0, 1) - 0.06, y + 0.07 * mouth * ramp(y, 0.5, 1)


def head_surface(puppet: Puppet, azimuth, y, mouth: float = 0.0) -> np.ndarray:  # (N, 3)
    """Points of the head."""
    azimuth, y = np.broadcast_arrays(azimuth, np.asarray(y, float))
    w, centre, height = head_profile(puppet, y, mouth)
    return np.stack([w * np.sin(azimuth), height, centre + DEPTH * w * np.cos(azimuth)], -1)


def hair_surface(puppet: Puppet, azimuth, y, swell: float = 1.0) -> np.ndarray:  # (N, 3)
    """Points of the hair: the head, larger, above its widest part; below, a curtain that flares and waves."""
    hair = HAIRS[puppet.hair]
    azimuth, y = np.broadcast_arrays(azimuth, np.asarray(y, float))
    below = np.clip(y, 0, None)
    w = half_width(puppet, np.minimum(y, 0)) * (1 + hair.flare * below + hair.wave * np.sin(7 * below + 0.6))
    if hair.back:
        w = w * (1 - 0.2 * ramp(below, hair.back - 0.35, hair.back + 0.1))
    else:
        w = w * half_width(puppet, np.clip(0.9 * y, 0, 1)) / puppet.width
    points = (
        np.stack([w * np.sin(azimuth), np.minimum(y, 0), DEPTH * w * np.cos(azimuth) - 0.06], -1)
        * hair.volume
        * swell
    )
    return points + np.stack([0 * y, below, 0 * y], -1)


@functools.lru_cache
def hairline_curve(style: str) -> PchipInterpolator:
    """Height of the hairline of a cut at an azimuth in degrees."""
    knots = HAIRS[style].knots
    if knots[0][0] == 0:
        knots = tuple((-degrees, y) for degrees, y in knots[:0:-1]) + knots
    return PchipInterpolator(*np.transpose(knots))


def hairline(puppet: Puppet, azimuth: np.ndarray) -> np.ndarray:  # (N,)
    """Height of the hairline at `azimuth`; a jagged fringe has points over the forehead."""
    degrees = np.degrees(azimuth) * puppet.part
    points = np.abs(np.mod(degrees / 24, 1) - 0.5) * 2 * (1 - ramp(np.abs(degrees), 55, 75))
    return hairline_curve(puppet.hair)(np.clip(degrees, -180, 180)) + HAIRS[puppet.hair].jag * (points - 0.5)


def landmarks(puppet: Puppet, pose: Pose) -> np.ndarray:
    """True places of `LANDMARKS`, float64 (L, 2), in [-1, 1] where the frame ends."""
    view = View(puppet, pose)
    corner_y = corner_height(pose)
    return np.concatenate(
        [
            view.face([-puppet.eye_x, puppet.eye_x], puppet.eye_y),
            nose_tip(view),
            view.face([-puppet.mouth_width, puppet.mouth_width], corner_y),
            view.face(0, [1.0]),
            ear_outline(view, -1, 0.0)[:1],
            ear_outline(view, 1, 0.0)[:1],
            view.body([(-shoulder_x(puppet), shoulder_y(puppet)), (shoulder_x(puppet), shoulder_y(puppet))]),
        ]
    )


# ---- Drawing -----------------------------------------------------------------------------------------------------------------


class Canvas:
    """A picture drawn large and then averaged down, which smooths its edges. Lengths are head units, at `scale`."""

    def __init__(self, size: int):
        self.factor = max(4, -(-512 // size))
        self.image = Image.new("RGB", (size * self.factor,) * 2)
        self.draw = ImageDraw.Draw(self.image)
        self.pixels = (size - 1) / 2 * self.factor  # of the large picture in one unit of xy
        self.scale = 1.0

    def corners(self, xy: np.ndarray) -> list[int]:
        """xy (N, 2) in whole pixels of the large picture, flat."""
        return (
            np.rint((np.asarray(xy, float) + 1) * self.pixels + (self.factor - 1) / 2)
            .astype(int)
            .ravel()
            .tolist()
        )

    def length(self, units: float) -> int:
        """A length in whole pixels of the large picture."""
        return max(1, round(units * UNIT * self.scale * self.pixels))

    def fill(self, xy: np.ndarray, colour: Colour) -> None:
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

    def disc(self, centre: np.ndarray, radius: float, colour: Colour) -> None:
        x, y = self.corners(centre)
        r = self.length(radius)
        self.draw.ellipse((x - r, y - r, x + r, y + r), colour)

    def blob(self, centres: np.ndarray, radii: np.ndarray, colour: Colour) -> None:
        """The union of discs, outlined."""
        for grow, shade in ((LINE / 2, edge(colour)), (-LINE / 2, colour)):
            for centre, radius in zip(centres, radii, strict=True):
                self.disc(centre, radius + grow, shade)

    def finish(self) -> np.ndarray:  # uint8 (size, size, 3)
        return np.asarray(self.image.reduce(self.factor))


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The polygon between two lines that run the same way."""
    return np.concatenate([a, b[::-1]])


def circle(
    x: float, y: float, rx: float, ry: float | None = None, count: int = 33
) -> np.ndarray:  # (count, 2)
    t = np.linspace(0, 2 * np.pi, count)
    return np.stack([x + rx * np.cos(t), y + (rx if ry is None else ry) * np.sin(t)], 1)


# Backgrounds: each draws in xy on a canvas that is already a gradient from colour a to colour b.


def plain(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    """Nothing but the gradient."""


def halo(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    for radius, t in ((0.95, 0.3), (0.75, 0.6)):
        canvas.fill(circle(0, -0.1, radius, count=99), mix(a, WHITE, t))


def rays(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    count, start = int(rng.integers(7, 13)), rng.random()
    for angle in (np.arange(count) + start) * 2 * np.pi / count:
        spread = angle + np.array((-0.5, 0.5)) * np.pi / count
        canvas.fill(
            [(0, 0.1), *zip(3 * np.cos(spread), 0.1 + 3 * np.sin(spread), strict=True)], mix(b, WHITE, 0.35)
        )


def spots(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    step, shift = rng.uniform(0.24, 0.4), rng.uniform(0, 0.3)
    for row, y in enumerate(np.arange(-1.1 + shift * step, 1.2, step * 0.8)):
        for x in np.arange(-1.3 + step / 2 * (row % 2) + shift, 1.2, step):
            canvas.disc((x, y), 0.3 * step, mix(b, WHITE, 0.4))


def diagonals(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    step, lean = rng.uniform(0.25, 0.5), pick(rng, (-1, 0, 1))
    for x in np.arange(-3, 3, step):
        canvas.fill(
            [(x, -1.1), (x + step / 2, -1.1), (x + step / 2 + 2 * lean, 1.1), (x + 2 * lean, 1.1)],
            mix(b, WHITE, 0.3),
        )


def hills(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    canvas.fill(circle(*rng.uniform((-0.8, -0.8), (0.8, -0.4)), 0.2), mix((255, 236, 170), WHITE, 0.3))
    x = np.linspace(-1.1, 1.1, 45)
    for layer, (base, green) in enumerate(
        ((0.1, (150, 200, 180)), (0.35, (118, 182, 140)), (0.6, (92, 160, 112)))
    ):
        y = base + 0.14 * np.sin(rng.uniform(2, 4) * x + rng.uniform(0, 6)) + 0.02 * layer
        canvas.fill([(-1.1, 1.1), *zip(x, y, strict=True), (1.1, 1.1)], mix(green, a, 0.25))


def lights(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    for _ in range(22):
        canvas.disc(
            rng.uniform(-1, 1, 2),
            rng.uniform(0.06, 0.4),
            mix(pick(rng, (a, b)), WHITE, rng.uniform(0.15, 0.55)),
        )


def room(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    x, y = rng.choice((-0.62, 0.62)), rng.uniform(-0.6, -0.4)
    for w, h, colour in (
        (0.33, 0.4, WHITE),
        (0.27, 0.33, (168, 214, 240)),
        (0.02, 0.33, WHITE),
        (0.27, 0.02, WHITE),
    ):
        canvas.fill([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)], colour)
    canvas.fill([(-1.1, 0.5), (1.1, 0.5), (1.1, 1.1), (-1.1, 1.1)], mix(b, (150, 110, 80), 0.3))
    canvas.fill([(-1.1, 0.45), (1.1, 0.45), (1.1, 0.52), (-1.1, 0.52)], mix(a, WHITE, 0.7))


BACKGROUNDS = {draw.__name__: draw for draw in (plain, halo, rays, spots, diagonals, hills, lights, room)}


@functools.lru_cache(maxsize=2)
def backdrop(background: Background, size: int) -> Image.Image:
    """The background at the size of the large picture of a `Canvas`."""
    (a, b), canvas = background.colours, Canvas(size)
    t = np.linspace(0, 1, canvas.image.height)[:, None, None]
    column = np.rint((1 - t) * a + t * np.array(mix(a, b, 0.6))).astype(np.uint8)  # (height, 1, 3)
    canvas.image.paste(Image.fromarray(np.repeat(column, canvas.image.width, axis=1)))
    BACKGROUNDS[background.kind](canvas, np.random.default_rng(background.seed), a, b)
    return canvas.image


# The body, in head units.

NECK = 0.34  # half the width of the neck
COLLAR_Y = 1.12  # where the shoulders begin
SHOULDER = np.radians(62)  # the landmark along the arc of the shoulder


def shoulder_x(puppet: Puppet, s: float | np.ndarray = SHOULDER):
    """Half the width of the body at the angle `s` along the arc from the neck (0) to the arm (pi / 2)."""
    return NECK + (puppet.shoulders - NECK) * np.sin(s)


def shoulder_y(puppet: Puppet, s: float | np.ndarray = SHOULDER):
    return COLLAR_Y + 0.46 * (1 - np.cos(s))


def body_edge(puppet: Puppet, y: float) -> float:
    """Half the width of the body at height `y`."""
    s = np.arccos(np.clip(1 - (y - COLLAR_Y) / 0.46, 0, 1))
    return shoulder_x(puppet, s) + 0.1 * max(0.0, y - COLLAR_Y - 0.46)


def both_sides(right: np.ndarray) -> np.ndarray:
    """A symmetric polygon from its right half, listed downwards."""
    right = np.asarray(right, float)
    return np.concatenate([right[::-1] * (-1, 1), right])


def draw_body(canvas: Canvas, view: View) -> None:
    puppet = view.puppet
    s = np.linspace(0, np.pi / 2, 16)
    torso = both_sides(
        [*zip(shoulder_x(puppet, s), shoulder_y(puppet, s), strict=True), (puppet.shoulders + 0.15, 3.2)]
    )
    canvas.fill(view.body(torso), puppet.fabric)
    draw_pattern(canvas, view)
    canvas.line(view.body(torso), edge(puppet.fabric))
    for side in (-1, 1):
        sleeve = [(side * (puppet.shoulders - 0.2), 1.95), (side * (puppet.shoulders - 0.16), 3.2)]
        canvas.line(view.body(sleeve), edge(puppet.fabric))
    if puppet.top == "overalls":
        for side in (-1, 1):
            strap = np.array([(0.48, 1.1), (0.72, 1.16), (0.66, 3.2), (0.4, 3.2)]) * (side, 1)
            canvas.shape(view.body(strap), puppet.fabric2)
        canvas.shape(view.body([(-0.62, 1.86), (0.62, 1.86), (0.62, 3.2), (-0.62, 3.2)]), puppet.fabric2)
        for side in (-1, 1):
            canvas.disc(view.body([(side * 0.54, 1.84)])[0], 0.07, (250, 214, 120))


def draw_pattern(canvas: Canvas, view: View) -> None:
    puppet = view.puppet
    if puppet.pattern == "stripes":
        for y in np.arange(1.36, 2.8, 0.3):
            right = [(body_edge(puppet, y + dy), y + dy) for dy in np.linspace(0, 0.13, 6)]
            canvas.fill(view.body(both_sides(right)), puppet.fabric2)
    elif puppet.pattern == "dots":
        for row, y in enumerate(np.arange(1.32, 2.8, 0.2)):
            for x in np.arange(-1.5 + 0.13 * (row % 2), 1.5, 0.26):
                if abs(x) < body_edge(puppet, y - 0.06) - 0.08:
                    canvas.disc(view.body([(x, y)])[0], 0.055, puppet.fabric2)


def draw_neck(canvas: Canvas, view: View) -> None:
    puppet, skin = view.puppet, mix(view.puppet.skin, edge(view.puppet.skin), 0.18)
    t = np.linspace(0, np.pi, 17)
    bottom = np.stack([(NECK + 0.02) * np.cos(t), 1.15 + 0.24 * np.sin(t)], 1)
    if puppet.top == "vneck":
        bottom = np.array([(NECK, 1.15), (0, 1.72), (-NECK, 1.15)])
    jaw = view.solid([(-0.9 * NECK, 0.5, -0.1), (0.9 * NECK, 0.5, -0.1)])
    neck = np.concatenate([jaw, view.body(bottom)])
    canvas.shape(neck, skin)
    under = view.body(np.stack([NECK * 0.97 * np.cos(t), 1.04 + 0.1 * np.sin(t)], 1))
    canvas.fill(np.concatenate([jaw, under]), mix(skin, edge(skin), 0.45))
    TOPS[puppet.top](canvas, view, bottom)


def crew(canvas: Canvas, view: View, bottom: np.ndarray) -> None:
    canvas.line(view.body(bottom), edge(view.puppet.fabric), 0.11)
    canvas.line(view.body(bottom), mix(view.puppet.fabric, WHITE, 0.25), 0.06)


def collar(canvas: Canvas, view: View, bottom: np.ndarray) -> None:
    for side in (-1, 1):
        flap = np.array([(NECK - 0.04, 1.0), (NECK + 0.14, 1.12), (0.4, 1.6), (0.02, 1.4)]) * (side, 1)
        canvas.shape(view.body(flap), mix(view.puppet.fabric2, WHITE, 0.4))


def hood(canvas: Canvas, view: View, bottom: np.ndarray) -> None:
    t = np.linspace(-0.25, np.pi + 0.25, 21)
    rim = view.body(np.stack([0.47 * np.cos(t), 1.16 + 0.28 * np.sin(t)], 1))
    canvas.line(rim, edge(view.puppet.fabric), 0.29)
    canvas.line(rim, mix(view.puppet.fabric, INK, 0.1), 0.23)
    for side in (-1, 1):
        canvas.line(view.body([(side * 0.2, 1.5), (side * 0.22, 1.88)]), WHITE, 0.05)


def turtle(canvas: Canvas, view: View, bottom: np.ndarray) -> None:
    right = [(NECK + 0.04, 0.98), (NECK + 0.1, 1.1), (NECK + 0.1, 1.3), (0.22, 1.44)]
    canvas.shape(view.body(both_sides(right)), mix(view.puppet.fabric, WHITE, 0.15))
    canvas.line(
        view.body([(-NECK - 0.06, 1.12), (0, 1.2), (NECK + 0.06, 1.12)]), edge(view.puppet.fabric), LINE / 2
    )


TOPS = {"crew": crew, "vneck": crew, "collar": collar, "hood": hood, "turtle": turtle, "overalls": crew}


# The head.


def outline(view: View, place, y: np.ndarray, swell: float = 1.0) -> np.ndarray:
    """The closed silhouette of `place`, `view.surface` or `view.hair`, over the heights `y`, listed downwards."""
    right = place(np.pi / 2 - view.turn, y, swell)
    return between(right, place(-np.pi / 2 - view.turn, y, swell))


def heights(start: float, stop: float, count: int = 40) -> np.ndarray:
    """Heights close together near the crown, where the outline runs level."""
    return start + (stop - start) * (1 - np.cos(np.linspace(0, np.pi, count))) / 2


def ear_outline(view: View, side: int, radius: float = 1.0) -> np.ndarray:
    """The left (-1) or right (1) ear: a disc that stands out from the side of the head and backwards."""
    puppet = view.puppet
    t = np.linspace(-2.2, 2.2, 21)
    root = head_surface(puppet, side * np.radians(96), 0.1)
    across, down = 0.6 + radius * 0.75 * np.cos(t), radius * np.sin(t)
    out = np.array((side * 0.86, 0.0, -0.5)) * puppet.ear * 0.85
    return view.solid(root + across[:, None] * out + down[:, None] * np.array((0, puppet.ear, 0)))


def draw_ear(canvas: Canvas, view: View, side: int) -> None:
    skin = view.puppet.skin
    canvas.fill(ear_outline(view, side), skin)
    canvas.line(ear_outline(view, side), edge(skin))
    canvas.fill(ear_outline(view, side, 0.55), mix(skin, edge(skin), 0.35))
    if view.puppet.earrings:
        lobe = ear_outline(view, side)[-6]
        canvas.blob([np.add(lobe, (0, 0.05))], [0.065], view.puppet.accent)


def draw_head(canvas: Canvas, view: View) -> None:
    skin, y = view.puppet.skin, heights(-1, 1)
    canvas.shape(outline(view, view.surface, y), skin)
    side = heights(-0.6, 0.98, 25)
    right = np.pi / 2 - view.turn
    inner = right - 0.42 * np.sin(np.linspace(0, np.pi, 25))
    shade = between(view.surface(right, side, 0.985), view.surface(inner, side))
    canvas.fill(shade, mix(skin, edge(skin), 0.16))


def draw_skin(canvas: Canvas, view: View) -> None:
    puppet, y = view.puppet, view.puppet.eye_y + 0.3
    for side in (-1, 1):
        for size, t in ((0.2, 0.5), (0.15, 1.0)):
            cheek = circle(side * 0.5, y, size, 0.75 * size)
            canvas.fill(view.face(*cheek.T), mix(puppet.skin, (240, 90, 100), t * puppet.blush))
        if puppet.freckles:
            for x, dy in ((0.36, 0.0), (0.46, -0.05), (0.55, 0.03), (0.43, 0.07)):
                canvas.disc(view.face([side * x], [y + dy])[0], 0.022, mix(puppet.skin, (140, 60, 30), 0.5))


def draw_wrinkles(canvas: Canvas, view: View) -> None:
    puppet, t = view.puppet, np.linspace(-1, 1, 13)
    colour = mix(puppet.skin, edge(puppet.skin), 0.45)
    for side in (-1, 1):
        canvas.line(
            view.face(side * (puppet.eye_x + 0.12 * t), puppet.eye_y + 0.27 - 0.04 * t * t), colour, 0.024
        )
        canvas.line(
            view.face(side * (puppet.mouth_width + 0.08 + 0.04 * t), puppet.eye_y + 0.38 + 0.1 * t),
            colour,
            0.024,
        )
    for y in (-0.46, -0.56):
        canvas.line(view.face(0.3 * t, y + 0.03 * np.cos(2.7 * t) - 0.04 * view.pose.brows), colour, 0.022)


def eye_contours(puppet: Puppet, blink: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lids of an eye beside its centre: u (N,) and heights of the upper and lower lid (N,)."""
    rx, ry = puppet.eye_size * np.array((1.12, 0.8) if puppet.eyes == "almond" else (0.88, 1.05))
    u = np.linspace(-1, 1, 25)
    arc = np.sqrt(np.clip(1 - np.abs(u) ** (1.7 if puppet.eyes == "almond" else 2), 0, 1))
    shut = 0.35 * ry * arc
    return u * rx, (1 - blink) * -ry * arc + blink * shut, (1 - blink) * ry * 0.9 * arc + blink * shut


def draw_eye(canvas: Canvas, view: View, side: int) -> None:
    puppet, pose = view.puppet, view.pose
    cx, cy = side * puppet.eye_x, puppet.eye_y

    def at(u, v):
        return view.face(cx + np.asarray(u), cy + np.asarray(v), 0.01)

    u, top, bottom = eye_contours(puppet, 0.0)
    gaze = 0.25 * puppet.eye_size * np.array((pose.gaze_x, 0.5 * pose.gaze_y))
    if puppet.eyes == "bead":
        u, top, bottom = 0.66 * u, 0.86 * top, 0.86 * bottom
        canvas.fill(between(at(u, top), at(u, bottom)), INK)
    else:
        canvas.fill(between(at(u, top), at(u, bottom)), (255, 253, 248))
        for radius, colour in ((0.66, edge(puppet.iris)), (0.57, puppet.iris), (0.36, INK)):
            canvas.fill(at(*circle(*gaze, radius * puppet.eye_size).T), colour)
    canvas.fill(at(*circle(gaze[0] - 0.06, gaze[1] - 0.075, 0.05 * puppet.eye_size / 0.18).T), WHITE)
    shut_u, shut_top, shut_bottom = eye_contours(puppet, pose.blink)
    shut_u = shut_u * u[-1] / shut_u[-1]
    lid = mix(puppet.skin, edge(puppet.skin), 0.12)
    canvas.fill(between(at(1.08 * u, 1.08 * top - 0.01), at(shut_u, shut_top)), lid)
    canvas.fill(between(at(1.08 * u, 1.08 * bottom + 0.01), at(shut_u, shut_bottom)), puppet.skin)
    canvas.line(at(shut_u, shut_top), INK, 0.055 if puppet.lashes else 0.042)
    if puppet.lashes:
        for tip in (2, 5):
            corner = np.array((side * shut_u[-tip], shut_top[-tip]))
            away = np.array((side * 0.085, -0.07 + 0.1 * pose.blink))
            canvas.line(at(*np.stack([corner, corner + away]).T), INK, 0.036)


def draw_brow(canvas: Canvas, view: View, side: int) -> None:
    puppet = view.puppet
    t = np.linspace(-1, 1, 13)
    x = side * (puppet.eye_x + 0.19 * t)
    y = puppet.eye_y - puppet.eye_size - 0.15 - 0.07 * view.pose.brows + 0.05 * t * t + puppet.brow_tilt * t
    width = puppet.brow * (1 - 0.35 * t)
    colour = mix(mix(puppet.hair_colour, INK, 0.25), puppet.skin, 0.1)
    canvas.fill(between(view.face(x, y - width / 2, 0.02), view.face(x, y + width / 2, 0.02)), colour)


def nose_tip(view: View) -> np.ndarray:  # (1, 2)
    return view.face([0.0], [view.puppet.eye_y + 0.27], 0.12)


def draw_nose(canvas: Canvas, view: View) -> None:
    puppet, size, y = view.puppet, 0.1 * view.puppet.nose_size, view.puppet.eye_y + 0.27
    shade, glow = mix(puppet.skin, edge(puppet.skin), 0.6), mix(puppet.skin, WHITE, 0.45)
    tip = nose_tip(view)[0]
    if puppet.nose == "line":
        bridge = view.face([0.02, 0.02], [y - 0.26, y - 0.2], 0.04)
        wing = view.beside(tip, size * np.array([(0.5, 0), (0.3, 0.5), (-0.5, 0.5)]))
        canvas.line(np.concatenate([bridge, wing]), shade, 0.036)
        return
    wide = 1.35 if puppet.nose == "round" else 1.0
    ball = mix(puppet.skin, (225, 80, 80), 0.22)
    canvas.fill(view.beside(tip, circle(0, 0.012, size * wide + 0.016, size + 0.016)), shade)
    canvas.fill(view.beside(tip, circle(0, 0, size * wide, size)), ball)
    canvas.fill(view.beside(tip, circle(-0.3 * size, -0.35 * size, 0.3 * size)), glow)


def corner_height(pose: Pose) -> float:
    return 0.56 - 0.055 * pose.smile - 0.02 * pose.mouth


def draw_mouth(canvas: Canvas, view: View) -> None:
    puppet, pose = view.puppet, view.pose
    u = np.linspace(-1, 1, 21)
    arch, x = 1 - u * u, u * puppet.mouth_width
    middle = corner_height(pose) + 0.1 * pose.smile * arch
    top, bottom = middle - 0.07 * pose.mouth * arch, middle + 0.22 * pose.mouth * np.sqrt(arch)
    if pose.mouth > 0.05:
        canvas.fill(between(view.face(x, top), view.face(x, bottom)), (112, 30, 44))
        teeth = np.minimum(top + 0.09, bottom)
        canvas.fill(between(view.face(x, top), view.face(x, teeth)), WHITE)
        tongue = np.maximum(bottom - 0.1 * pose.mouth * arch, top)
        canvas.fill(between(view.face(x, tongue), view.face(x, bottom)), (232, 110, 110))
    colour = puppet.lips if puppet.lip > 0.05 else mix(puppet.lips, INK, 0.7)
    for lip in (bottom, top):
        canvas.line(view.face(x, lip), colour, puppet.lip)


def draw_beard(canvas: Canvas, view: View) -> None:
    puppet, colour = view.puppet, mix(view.puppet.hair_colour, INK, 0.08)
    if puppet.beard == "goatee":
        canvas.shape(view.face(*circle(0, 0.86, 0.2, 0.2).T, 0.03), colour)
        return
    azimuth = view.span()
    top = np.interp(
        np.abs(np.degrees(azimuth)), (0, 24, 36, 48, 60, 72, 88), (0.46, 0.47, 0.56, 0.57, 0.48, 0.32, 0.0)
    )
    swell = 1.06 if puppet.beard == "full" else 1.0
    right, left = (view.surface(azimuth[i], np.linspace(top[i], 1, 30), swell) for i in (-1, 0))
    border = np.concatenate([view.surface(azimuth, top), right, left[::-1]])
    if puppet.beard == "full":
        canvas.shape(border, colour)
    else:
        canvas.fill(border, mix(puppet.skin, puppet.hair_colour, 0.28))


def draw_moustache(canvas: Canvas, view: View) -> None:
    puppet, t = view.puppet, np.linspace(0, 1, 11)
    y = corner_height(view.pose) - 0.13
    for side in (-1, 1):
        top, bottom = y - 0.02 + 0.1 * t * t, y + 0.1 * np.sqrt(1 - t * t) + 0.08 * t
        x = side * t * (puppet.mouth_width + 0.1)
        border = between(view.face(x, top, 0.04), view.face(x, bottom, 0.04))
        canvas.shape(border, mix(puppet.hair_colour, INK, 0.12))


# Hair, hats and glasses.


def draw_back_hair(canvas: Canvas, view: View) -> None:
    """All hair that is behind the head and the neck."""
    hair, colour = HAIRS[view.puppet.hair], mix(view.puppet.hair_colour, INK, 0.22)
    if hair.extra in BEHIND:
        BEHIND[hair.extra](canvas, view, view.puppet.hair_colour)
    top, bottom = (-0.4, 0.5) if view.puppet.hair == "crown" else (-1, hair.back or 0.5)
    canvas.shape(outline(view, view.hair, heights(top, bottom), 1.02 if hair.back else 0.97), colour)
    draw_curls(canvas, view, behind=True)


def draw_front_hair(canvas: Canvas, view: View) -> None:
    """All hair that is before the head."""
    puppet, hair = view.puppet, HAIRS[view.puppet.hair]
    if puppet.hair == "crown":
        draw_crown(canvas, view)
        return
    azimuth = view.span()
    line = hairline(puppet, azimuth)
    right, left = (view.hair(azimuth[i], heights(-1, line[i], 30)) for i in (-1, 0))
    canvas.shape(np.concatenate([view.hair(azimuth, line), right[::-1], left]), puppet.hair_colour)
    if hair.curl:
        draw_curls(canvas, view, behind=False)
    else:
        draw_strands(canvas, view)
    if hair.extra in BEFORE:
        BEFORE[hair.extra](canvas, view, puppet.hair_colour)


def draw_crown(canvas: Canvas, view: View) -> None:
    """What is left around a bald head: hair above the ears and at the back."""
    for side in (-1, 1):
        azimuth = side * np.linspace(np.radians(74), max(np.radians(74), np.pi / 2 - side * view.turn), 31)
        top = 0.04 - 0.5 * ramp(np.abs(np.degrees(azimuth)), 72, 112)
        border = [view.hair(azimuth, hairline(view.puppet, azimuth)), view.hair(azimuth, top)[::-1]]
        canvas.shape(np.concatenate(border), view.puppet.hair_colour)


def draw_strands(canvas: Canvas, view: View) -> None:
    puppet, colour = view.puppet, view.puppet.hair_colour
    shine = np.radians(np.linspace(-70, -8, 25) * puppet.part)
    shine = shine[view.visible(shine)]
    if len(shine) > 2:
        thick = 0.07 * np.sin(np.linspace(0, np.pi, len(shine)))
        band = [view.hair(shine, -0.74 + thick), view.hair(shine, -0.74 - thick)[::-1]]
        canvas.fill(np.concatenate(band), mix(colour, WHITE, 0.3))
    for azimuth in np.radians(np.arange(-170, 180, 24)):
        if view.visible(azimuth):
            y = np.linspace(-0.9, float(hairline(puppet, azimuth)) - 0.07, 14)
            if y[-1] > -0.5:
                canvas.line(view.hair(np.full(14, azimuth), y)[4:], mix(colour, edge(colour), 0.45), 0.022)


@functools.lru_cache(maxsize=8)
def curl_places(puppet: Puppet) -> np.ndarray:  # (N, 3)
    """Where curls sit: an even spiral over all of the hair above the hairline."""
    radius = HAIRS[puppet.hair].curl
    count = round(15 / radius)
    i = np.arange(count) + 0.5
    azimuth, y = np.mod(i * np.pi * (1 + 5**0.5), 2 * np.pi) - np.pi, -1 + 1.5 * i / count
    keep = y < hairline(puppet, azimuth) - 0.1 * radius
    return hair_surface(puppet, azimuth[keep], y[keep])


def draw_curls(canvas: Canvas, view: View, behind: bool) -> None:
    puppet, radius = view.puppet, HAIRS[view.puppet.hair].curl
    if not radius:
        return
    places = curl_places(puppet)
    toward = places[:, 2] * np.cos(view.pose.yaw) - places[:, 0] * np.sin(view.pose.yaw)
    order = np.argsort(toward)
    order = order[(toward[order] < 0) == behind]
    dark = 0.22 * (1 - ramp(toward, -0.5, 0))
    for centre, t in zip(view.solid(places[order]), dark[order], strict=True):
        colour = mix(puppet.hair_colour, INK, t)
        canvas.disc(centre, radius, mix(colour, edge(colour), 0.5))
        canvas.disc(centre - (0.012, 0.016), radius - 0.035, colour)
        canvas.disc(centre - 0.35 * radius * UNIT * view.pose.scale, 0.25 * radius, mix(colour, WHITE, 0.14))


def draw_knot(
    canvas: Canvas, view: View, place: tuple[float, float, float], radius: float, colour: Colour
) -> None:
    """Hair wound into a ball."""
    centre = view.solid([place])[0]
    canvas.blob([centre], [radius], colour)
    wind = 0.56 * radius * np.array([(-1, 0.2), (-0.4, -0.5), (0.4, -0.5), (1, 0.2)])
    canvas.line(view.beside(centre, wind), mix(colour, edge(colour), 0.5), 0.024)


def bun(canvas: Canvas, view: View, colour: Colour) -> None:
    draw_knot(canvas, view, (0, -1.26, -0.35), 0.34, colour)


def buns(canvas: Canvas, view: View, colour: Colour) -> None:
    for side in (-1, 1):
        draw_knot(canvas, view, (side * 0.72, -0.98, -0.15), 0.32, colour)


def ponytail(canvas: Canvas, view: View, colour: Colour) -> None:
    t, side = np.linspace(0, 1, 24), view.puppet.part
    path = np.stack(
        [
            side * (0.55 + 0.75 * np.sin(2.2 * t)),
            -0.85 - 0.4 * np.sin(np.pi * np.minimum(2 * t, 1)) + 1.9 * t * t,
            -0.5 - 0.1 * t,
        ],
        1,
    )
    canvas.blob(view.hang(path), 0.14 + 0.14 * np.sin(np.pi * t**0.8), mix(colour, INK, 0.1))
    canvas.blob(view.hang(path[1:2]), [0.16], view.puppet.accent)


def braids(canvas: Canvas, view: View, colour: Colour) -> None:
    w = view.puppet.width
    for side in (-1, 1):
        for i in range(6):
            canvas.blob(
                view.hang(np.array([(side * (w + 0.16 + 0.02 * i), 0.36 + 0.2 * i, -0.1)])),
                [0.17 - 0.012 * i],
                colour,
            )
        canvas.blob(view.hang(np.array([(side * (w + 0.28), 1.46, -0.1)])), [0.09], view.puppet.accent)
        canvas.blob(view.hang(np.array([(side * (w + 0.29), 1.6, -0.1)])), [0.12], colour)


def spikes(canvas: Canvas, view: View, colour: Colour) -> None:
    for y, reach, step in ((-0.86, 1.42, 45), (-0.68, 1.36, 36)):
        for azimuth in np.radians(np.arange(-108, 109, step)):
            foot = hair_surface(view.puppet, azimuth + np.array((-0.42, 0.42)), y)
            tip = hair_surface(view.puppet, azimuth + 0.25 * view.puppet.part, y - 0.06)[None] * reach
            canvas.shape(view.solid(np.concatenate([foot[:1], tip, foot[1:]])), colour)


def quiff(canvas: Canvas, view: View, colour: Colour) -> None:
    t, side = np.linspace(0, 1, 9), view.puppet.part
    for row in (0.0, 0.14):
        y = -0.82 - 0.3 * np.sin(np.pi * (0.15 + 0.75 * t)) - row
        path = np.stack([side * (0.62 - 1.3 * t), y, 0.5 - 2 * row + 0.1 * t], 1)
        canvas.blob(view.solid(path), 0.15 + 0.12 * t, colour)


BEHIND = {"bun": bun, "buns": buns, "ponytail": ponytail}
BEFORE = {"braids": braids, "spikes": spikes, "quiff": quiff}


def cap_outline(view: View, rim: float, swell: float) -> np.ndarray:
    """The dome above height `rim` of a head `swell` times as large."""
    azimuth, y = view.span(), heights(-1, rim, 30)
    return np.concatenate(
        [
            view.surface(azimuth, rim, swell),
            view.surface(azimuth[-1], y, swell)[::-1],
            view.surface(azimuth[0], y, swell),
        ]
    )


def strip(view: View, top: float, bottom: float, swell: float) -> np.ndarray:
    """A band around the head between two heights."""
    azimuth = view.span()
    return between(view.surface(azimuth, top, swell), view.surface(azimuth, bottom, swell))


def beanie(canvas: Canvas, view: View) -> None:
    colour, swell = view.puppet.accent, 1.17
    canvas.blob(view.solid([(0, -1.26, -0.05)]), [0.2], mix(colour, WHITE, 0.6))
    canvas.shape(cap_outline(view, -0.4, swell), colour)
    canvas.shape(strip(view, -0.56, -0.32, swell + 0.03), mix(colour, WHITE, 0.35))
    for azimuth in np.radians(np.arange(-170, 180, 20)):
        if view.visible(azimuth):
            canvas.line(
                view.surface(azimuth, [-0.54, -0.34], swell + 0.03), mix(colour, edge(colour), 0.3), 0.022
            )


def cap(canvas: Canvas, view: View) -> None:
    colour, t = view.puppet.accent, np.radians(np.linspace(-62, 62, 25))
    canvas.shape(cap_outline(view, -0.42, 1.15), colour)
    for azimuth in np.radians((-130, -45, 45, 130)):
        if view.visible(azimuth):
            canvas.line(view.surface(azimuth, np.linspace(-0.99, -0.45, 9), 1.15), edge(colour), 0.022)
    inner = head_surface(view.puppet, t, -0.5) * 1.15
    outer = inner + np.cos(t / np.radians(62) * np.pi / 2)[:, None] * np.array((0, 0.26, 0.5))
    canvas.shape(view.solid(between(inner, outer)), mix(colour, INK, 0.2))
    canvas.blob(view.solid([(0, -1.14, 0)]), [0.06], colour)


def headband(canvas: Canvas, view: View) -> None:
    hair = HAIRS[view.puppet.hair]
    canvas.shape(strip(view, -0.68, -0.52, hair.volume + 0.02 if hair else 1.02), view.puppet.accent)


def bow(canvas: Canvas, view: View) -> None:
    knot = np.array((0.5 * view.puppet.part, -1.02, 0.2))
    for side in (-1, 1):
        wing = np.array([(0, 0, 0), (0.34, -0.24, 0.05), (0.4, 0, 0), (0.34, 0.24, 0.05)]) * (side, 1, 1)
        canvas.shape(view.solid(knot + wing), view.puppet.accent)
    canvas.blob(view.solid(knot[None]), [0.1], mix(view.puppet.accent, INK, 0.12))


def flower(canvas: Canvas, view: View) -> None:
    centre = np.array((0.68 * view.puppet.part, -0.66, 0.5))
    petals = centre + np.pad(circle(0, 0, 0.15, count=6)[:-1], ((0, 0), (0, 1)))
    for petal in view.solid(petals):
        canvas.blob(petal[None], [0.11], mix(view.puppet.accent, WHITE, 0.25))
    canvas.blob(view.solid(centre[None]), [0.08], (250, 206, 92))


HATS = {"beanie": beanie, "cap": cap, "headband": headband, "bow": bow, "flower": flower}


def draw_glasses(canvas: Canvas, view: View) -> None:
    puppet = view.puppet
    colour = puppet.accent if sum(puppet.skin) < 400 else edge(puppet.accent)
    power = 1.0 if puppet.glasses == "round" else 0.55
    t = np.linspace(0, 2 * np.pi, 41)
    rim = 0.29 * np.stack(
        [np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power, np.sign(np.sin(t)) * np.abs(np.sin(t)) ** power], 1
    )
    for side in (-1, 1):
        canvas.line(
            view.face(side * (puppet.eye_x + rim[:, 0]), puppet.eye_y + 0.02 + rim[:, 1], 0.1), colour, 0.055
        )
        azimuth = side * np.linspace(1.0, 1.6, 9)
        azimuth = azimuth[view.visible(azimuth)]
        if len(azimuth) > 1:
            canvas.line(view.surface(azimuth, puppet.eye_y - 0.02, 1.04), colour, 0.05)
    inner = puppet.eye_x - 0.29
    x = np.linspace(-inner, inner, 7)
    canvas.line(view.face(x, puppet.eye_y - 0.04 + 2 * x * x, 0.12), colour, 0.055)


def render(puppet: Puppet, pose: Pose, size: int) -> np.ndarray:
    """The puppet in a pose, uint8 (size, size, 3), RGB."""
    canvas, view, hair = Canvas(size), View(puppet, pose), HAIRS[puppet.hair]
    near = -1 if view.turn > 0 else 1  # the side of the ear that is before the head
    ears = hair is None or hair.ears
    canvas.scale = pose.scale
    canvas.image.paste(backdrop(puppet.background, size))
    if hair:
        draw_back_hair(canvas, view)
    draw_body(canvas, view)
    draw_neck(canvas, view)
    draw_ear(canvas, view, -near)
    draw_head(canvas, view)
    draw_skin(canvas, view)
    if puppet.age == "elder":
        draw_wrinkles(canvas, view)
    if puppet.beard in ("full", "stubble", "goatee"):
        draw_beard(canvas, view)
    draw_mouth(canvas, view)
    if puppet.beard in ("full", "moustache", "goatee"):
        draw_moustache(canvas, view)
    for side in (-1, 1):
        draw_eye(canvas, view, side)
        draw_brow(canvas, view, side)
    draw_nose(canvas, view)
    if not ears:
        draw_ear(canvas, view, near)
    if puppet.glasses != "none":
        draw_glasses(canvas, view)
    if hair:
        draw_front_hair(canvas, view)
    if ears:
        draw_ear(canvas, view, near)
    if puppet.hat != "none":
        HATS[puppet.hat](canvas, view)
    return canvas.finish()


# ---- The dataset -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """One clip to write; its pixels follow from `seed`, `identity`, `number`, `frames` and `size` alone."""

    path: Path  # without the .npz beside it; no suffix is a folder of png files
    seed: int
    identity: int
    number: int
    frames: int
    size: int

    def performance(self) -> tuple[Puppet, list[Pose]]:
        """Who is in the clip, and a pose for each frame."""
        puppet = Puppet.random(np.random.default_rng([self.seed, self.identity]))
        rng = np.random.default_rng([self.seed, self.identity, self.number])
        return replace(puppet, background=Background.random(rng)), random_motion(rng, self.frames)


def write_clip(clip: Clip) -> None:
    """Draw and encode one clip and its landmarks."""
    from media.writer import VideoWriter  # here, so that drawing puppets needs no video library

    puppet, poses = clip.performance()
    with VideoWriter(clip.path, FPS) as writer:
        for pose in poses:
            writer.write(render(puppet, pose, clip.size))
    xy = np.stack([landmarks(puppet, pose) for pose in poses]).astype(np.float32)  # (frames, L, 2)
    np.savez(
        clip.path.with_name(f"{clip.path.name.removesuffix('.mp4')}.npz"), xy=xy, names=np.array(LANDMARKS)
    )


def plan(folder: Path, videos: int, frames: int, size: int, format: str, seed: int) -> list[Clip]:
    """The clips of a dataset: `CLIPS_PER_IDENTITY` an identity, every tenth identity, and at least one, in `test`."""
    identities = max(2, -(-videos // CLIPS_PER_IDENTITY))
    tests = range(min(9, identities - 1), identities, 10)
    clips = []
    for video in range(videos):
        number, identity = divmod(video, identities)
        split = "test" if identity in tests else "train"
        suffix = "" if format == "png" else ".mp4"
        clips.append(
            Clip(
                folder / split / f"id{identity:05d}#{number:05d}{suffix}",
                seed,
                identity,
                number,
                frames,
                size,
            )
        )
    return clips


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent process, which ends the workers in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def write_all(clips: list[Clip]) -> None:
    """Write the clips with one process for each core; on an error or Ctrl-C the clips not yet begun are dropped."""
    workers = min(len(clips), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), ignore_interrupts) as pool:
        try:
            for _ in tqdm(pool.map(write_clip, clips), total=len(clips), unit="clip"):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def make_dataset(out: Path, videos: int, frames: int, size: int, format: str, seed: int) -> None:
    """Write a dataset under a temporary name beside `out` and rename it when it is whole.

    Raises `UserError` if `out` exists or a number makes no sense.
    """
    for flag, value, least in (
        ("--videos", videos, 2),
        ("--frames", frames, 1),
        ("--size", size, 16),
        ("--seed", seed, 0),
    ):
        if value < least:
            raise UserError(f"{flag} {value}: use {least} or more")
    if out.exists():
        raise UserError(f"--out {out} exists already; name a new folder, or remove it first")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        for split in ("train", "test"):
            (temporary / split).mkdir(parents=True)
        write_all(plan(temporary, videos, frames, size, format, seed))
        temporary.rename(out)
    except OSError as error:
        raise UserError(f"--out {out} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Draw a dataset of cartoon heads that move, with their true landmarks."
    )
    parser.add_argument(
        "--videos", type=int, default=400, help="number of clips, four for each identity (default 400)"
    )
    parser.add_argument("--frames", type=int, default=32, help="frames in a clip (default 32)")
    parser.add_argument(
        "--size", type=int, default=128, help="width and height of a frame in pixels (default 128)"
    )
    parser.add_argument(
        "--format", choices=("png", "mp4"), default="png", help="what a clip is: a folder or a video"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/puppets"), help="new folder to write (default data/puppets)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same dataset (default 0)"
    )
    make_dataset(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
