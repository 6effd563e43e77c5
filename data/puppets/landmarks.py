"""True places of ten points of a puppet, for judging what a model finds."""

from __future__ import annotations

import numpy as np

from data.puppets.face import corner_height, eye_contours, nose_tip
from data.puppets.geometry import shoulder_x, shoulder_y
from data.puppets.head import ear_outline
from data.puppets.identity import Puppet
from data.puppets.motion import Pose
from data.puppets.view import View

# Left is the left of the picture when the puppet faces us.
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


def landmarks(puppet: Puppet, pose: Pose) -> np.ndarray:
    """True places of `LANDMARKS`, xy, float64 (L, 2); a place can lie outside the frame or be hidden."""
    view = View(puppet, pose)
    mouth_y, shoulder = corner_height(pose), (shoulder_x(puppet), shoulder_y())
    return np.concatenate(
        [
            view.face([-puppet.eye_x, puppet.eye_x], puppet.eye_y),
            nose_tip(view),
            view.face([-puppet.mouth_width, puppet.mouth_width], mouth_y),
            view.face(0, [1.0]),
            ear_outline(view, -1, 0.0)[:1],
            ear_outline(view, 1, 0.0)[:1],
            view.body([(-shoulder[0], shoulder[1]), shoulder]),
        ]
    )


def moving_places(puppet: Puppet, pose: Pose) -> np.ndarray:
    """True middles of the left and the right upper lid and of the lower lip, xy, float64 (3, 2)."""
    view = View(puppet, pose)
    _, upper, _ = eye_contours(puppet, pose.blink)
    lid = puppet.eye_y + upper[len(upper) // 2]
    lip = corner_height(pose) + 0.1 * pose.smile + 0.22 * pose.mouth
    return view.face([-puppet.eye_x, puppet.eye_x, 0.0], [lid, lid, lip])
