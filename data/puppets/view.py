"""From a place on the puppet to a place in the frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from data.puppets.geometry import DEPTH, hair_surface, head_profile, head_surface
from data.puppets.identity import Puppet
from data.puppets.motion import Pose

UNIT = 0.53  # length of a head unit in xy, at scale 1
REST = (0.0, -0.12)  # where the head is at rest
FOCUS = (0.0, -0.45)  # the place in the frame that stays when the camera zooms in
PIVOT = 0.75  # height about which the head nods and tilts: the top of the neck


class View:
    """Places a puppet in a pose. Every method that takes points or places returns xy in the frame, (N, 2)."""

    def __init__(self, puppet: Puppet, pose: Pose) -> None:
        self.puppet, self.pose = puppet, pose
        self.unit = UNIT * puppet.zoom
        rest = np.add(FOCUS, puppet.zoom * np.subtract(REST, FOCUS))
        sin, cos = np.sin([pose.roll, pose.yaw, pose.pitch]), np.cos([pose.roll, pose.yaw, pose.pitch])
        yaw = np.array([[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]])
        pitch = np.array([[1, 0, 0], [0, cos[2], -sin[2]], [0, sin[2], cos[2]]])
        roll = np.array([[cos[0], -sin[0], 0], [sin[0], cos[0], 0]])  # and without z: (2, 3)
        self.matrix = self.unit * pose.scale * roll @ pitch @ yaw  # (2, 3)
        self.turn = np.arctan2(DEPTH * sin[1], cos[1])  # by which yaw moves azimuths towards the right edge
        self.offset = np.add(rest, (pose.x, pose.y))
        lean = 0.25 * pose.roll
        turned = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
        self.body_matrix = self.unit * (0.5 + 0.5 * pose.scale) * turned  # (2, 2)
        self.body_offset = np.add(rest, (0.35 * pose.x + pose.body_x, 0.35 * pose.y - 0.02 * pose.shrug))

    def solid(self, points: ArrayLike) -> np.ndarray:
        """Points (N, 3) in head units."""
        points = np.asarray(points, float) - (0, PIVOT, 0)
        return points @ self.matrix.T + self.offset + self.unit * self.pose.scale * np.array((0, PIVOT))

    def surface(self, azimuth: ArrayLike, y: ArrayLike, swell: float = 1.0) -> np.ndarray:
        """Places on the head, `swell` times as large, at `azimuth` and height `y`."""
        return self.solid(head_surface(self.puppet, azimuth, y, self.pose.mouth) * swell)

    def face(self, x: ArrayLike, y: ArrayLike, lift: float = 0.0) -> np.ndarray:
        """Places on the face, `x` beside the middle, `lift` in front of the skin."""
        x, y = np.broadcast_arrays(x, np.asarray(y, float))
        w, centre, height = head_profile(self.puppet, y, self.pose.mouth)
        side = np.minimum(np.maximum(x, -w), w)
        return self.solid(np.stack([side, height, centre + DEPTH * np.sqrt(w * w - side * side) + lift], -1))

    def hair(self, azimuth: ArrayLike, y: ArrayLike, swell: float = 1.0) -> np.ndarray:
        """Places on the hair, which hangs straight down from the widest part of the head."""
        return self.hang(hair_surface(self.puppet, azimuth, y, swell))

    def hang(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of something that hangs from the head: the lower, the less it tilts with it."""
        drop = np.clip(points[:, 1] - 0.2, 0, None)  # (N,)
        swing = np.stack([drop * np.sin(self.pose.roll) * 0.8, 0 * drop], 1)
        return self.solid(points) + self.unit * self.pose.scale * swing

    def beside(self, centre: np.ndarray, points: ArrayLike) -> np.ndarray:
        """Flat points (N, 2) around a place (2,) in the frame, which tilt with the head but do not turn."""
        sin, cos = np.sin(self.pose.roll), np.cos(self.pose.roll)
        tilt = np.array([[cos, sin], [-sin, cos]])
        return centre + self.unit * self.pose.scale * np.asarray(points, float) @ tilt

    def body(self, points: ArrayLike) -> np.ndarray:
        """Points (N, 2) of the body in head units; the shoulders follow the head a third of the way."""
        return np.asarray(points, float) @ self.body_matrix.T + self.body_offset

    def visible(self, azimuth: np.ndarray) -> np.ndarray:
        """Which of the azimuths (N,) are on our side of the head."""
        return np.abs(azimuth + self.turn) <= np.pi / 2

    def span(self, count: int = 61) -> np.ndarray:
        """All azimuths on our side of the head, from its left edge to its right."""
        return np.linspace(-np.pi / 2, np.pi / 2, count) - self.turn
