"""The shapes of head, hair and body, in head units; `View` brings them into the frame.

The legend of units and axes stands in `puppets/__init__.py`.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator

from data.puppets.hairstyles import Hair
from data.puppets.identity import Puppet

DEPTH = 1.04  # depth of the head over its width
NECK = 0.34  # half the width of the neck
COLLAR_Y = 1.12  # where the shoulders begin
SHOULDER = np.radians(62)  # the landmark along the arc of the shoulder


def ramp(values: ArrayLike, start: float, stop: float) -> np.ndarray:
    """0 before `start`, 1 after `stop`, smooth between."""
    t = np.minimum(np.maximum((np.asarray(values, float) - start) / (stop - start), 0), 1)
    return t * t * (3 - 2 * t)


# ---- The head ----------------------------------------------------------------


def half_width(puppet: Puppet, y: ArrayLike) -> np.ndarray:
    """Half the width of the head at height `y`: a superellipse whose lower half tapers to the jaw."""
    ellipse = puppet.width * np.maximum(1 - np.square(y), 0) ** (puppet.square / 2)
    return ellipse * (1 - puppet.taper * ramp(y, -0.1, 1))


def head_profile(puppet: Puppet, y: np.ndarray, mouth: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ellipse at height `y` of the head: half its width, how far forward its centre is, its true height.

    The chin is in front of the neck and sinks when the mouth opens.
    """
    return half_width(puppet, y), 0.16 * ramp(y, 0, 1) - 0.06, y + 0.07 * mouth * ramp(y, 0.5, 1)


def head_surface(puppet: Puppet, azimuth: ArrayLike, y: ArrayLike, mouth: float = 0.0) -> np.ndarray:
    """Points of the head, (N, 3)."""
    azimuth, y = np.broadcast_arrays(azimuth, np.asarray(y, float))
    w, centre, height = head_profile(puppet, y, mouth)
    return np.stack([w * np.sin(azimuth), height, centre + DEPTH * w * np.cos(azimuth)], -1)


# ---- The hair ----------------------------------------------------------------


def hair_surface(puppet: Puppet, azimuth: ArrayLike, y: ArrayLike, swell: float = 1.0) -> np.ndarray:
    """Points of the hair, (N, 3).

    Above the widest part of the head it is the head, larger. Below it is a curtain that flares and waves.
    """
    hair = puppet.cut
    azimuth, y = np.broadcast_arrays(azimuth, np.asarray(y, float))
    below = np.clip(y, 0, None)
    w = half_width(puppet, np.minimum(y, 0)) * (1 + hair.flare * below + hair.wave * np.sin(7 * below + 0.6))
    if hair.back:
        w = w * (1 - 0.2 * ramp(below, hair.back - 0.35, hair.back + 0.1))
    else:
        w = w * half_width(puppet, np.clip(0.9 * y, 0, 1)) / puppet.width
    points = np.stack([w * np.sin(azimuth), np.minimum(y, 0), DEPTH * w * np.cos(azimuth) - 0.06], -1)
    return points * hair.volume * swell + np.stack([0 * y, below, 0 * y], -1)


@functools.lru_cache
def hairline_curve(cut: Hair) -> PchipInterpolator:
    """Height of the hairline of a cut at an azimuth in degrees."""
    knots = cut.knots
    if knots[0][0] == 0:
        knots = tuple((-degrees, y) for degrees, y in knots[:0:-1]) + knots
    return PchipInterpolator(*np.transpose(knots))


def hairline(puppet: Puppet, azimuth: np.ndarray) -> np.ndarray:
    """Height of the hairline at `azimuth` (N,); a jagged fringe has points over the forehead."""
    degrees = np.degrees(azimuth) * puppet.part
    points = np.abs(np.mod(degrees / 24, 1) - 0.5) * 2 * (1 - ramp(np.abs(degrees), 55, 75))
    return hairline_curve(puppet.cut)(np.clip(degrees, -180, 180)) + puppet.cut.jag * (points - 0.5)


# ---- The body ----------------------------------------------------------------


def shoulder_x(puppet: Puppet, s: ArrayLike = SHOULDER) -> np.ndarray:
    """Half the width of the body at the angle `s` along the arc from the neck (0) to the arm (pi / 2)."""
    return NECK + (puppet.shoulders - NECK) * np.sin(s)


def shoulder_y(s: ArrayLike = SHOULDER) -> np.ndarray:
    """Height of the shoulders at the angle `s` along the same arc."""
    return COLLAR_Y + 0.46 * (1 - np.cos(s))


def body_edge(puppet: Puppet, y: float) -> float:
    """Half the width of the body at height `y`."""
    s = np.arccos(np.clip(1 - (y - COLLAR_Y) / 0.46, 0, 1))
    return float(shoulder_x(puppet, s)) + 0.1 * max(0.0, y - COLLAR_Y - 0.46)
