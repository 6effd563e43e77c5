"""What a puppet does: poses, and smooth random performances."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np


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


WHOLE = Pose(*[1.0] * len(fields(Pose)))
# How far a random motion takes each part of the pose from rest.
REACH = replace(WHOLE, x=0.2, y=0.09, scale=0.1, roll=0.3, yaw=0.66, pitch=0.27, smile=0.55, body_x=0.05)
# Someone who talks to a camera, so near that the head nearly fills the frame.
CLOSE_REACH = replace(REACH, x=0.12, y=0.06, scale=0.08, roll=0.2, yaw=0.42, pitch=0.2)


def drift(rng: np.random.Generator, frames: int, shortest: float, longest: float) -> np.ndarray:
    """A smooth random curve, (frames,) in [-1, 1].

    It is the sum of two sine waves. Their periods, in frames, lie between `shortest` and `longest`.
    """
    t = np.arange(frames)
    period, phase = rng.uniform(shortest, longest, 2), rng.uniform(0, 2 * np.pi, 2)
    first, second = (np.sin(2 * np.pi * t / period[i] + phase[i]) for i in (0, 1))
    return 0.65 * first + 0.35 * second


def blinks(rng: np.random.Generator, frames: int, first: float, gap: tuple[float, float]) -> np.ndarray:
    """How far the eyes are shut, (frames,) in [0, 1]: blinks of nine frames, `gap` frames apart."""
    t, shut = np.arange(frames), np.zeros(frames)
    centre = rng.uniform(0, first)
    while centre < frames + 5:
        shut = np.maximum(shut, np.cos(np.clip((t - centre) / 9, -0.5, 0.5) * np.pi) ** 1.5)
        centre += rng.uniform(*gap)
    return shut


def curves(rng: np.random.Generator, frames: int, reach: Pose) -> dict[str, np.ndarray]:
    """A random curve (frames,) around rest for each part of the pose."""
    curve = {field.name: getattr(reach, field.name) * drift(rng, frames, 22, 60) for field in fields(Pose)}
    curve["scale"] += 1
    curve["smile"] += 0.3
    return curve


def poses(curve: dict[str, np.ndarray]) -> list[Pose]:
    """The moments of curves (frames,), one for each part of the pose."""
    frames = len(curve["x"])
    return [Pose(**{name: float(values[t]) for name, values in curve.items()}) for t in range(frames)]


def random_motion(rng: np.random.Generator, frames: int) -> list[Pose]:
    """`frames` poses of a smooth random performance, no further from rest than `REACH` in any part."""
    curve = curves(rng, frames, REACH)
    talk = np.maximum(0, drift(rng, frames, 9, 16)) * np.clip(0.8 + drift(rng, frames, 30, 60), 0, 1)
    curve["mouth"], curve["blink"] = talk, blinks(rng, frames, 24, (16, 34))
    return poses(curve)


def portrait_motion(rng: np.random.Generator, frames: int, still: bool = False) -> list[Pose]:
    """`frames` poses of a face that talks and blinks within 20 frames; if `still`, the head hardly moves."""
    curve = curves(rng, frames, CLOSE_REACH)
    if still:
        for name in ("x", "y", "scale", "roll", "yaw", "pitch", "body_x", "shrug"):
            curve[name] = curve[name][0] + 0.1 * (curve[name] - curve[name][0])
    talk = np.sin(2 * np.pi * (np.arange(frames) / rng.uniform(9, 16) + rng.random()))
    curve["mouth"] = np.clip(1.3 * talk * (0.8 + 0.4 * drift(rng, frames, 30, 60)), 0, 1)
    curve["blink"] = blinks(rng, frames, 15, (11, 19))
    return poses(curve)
