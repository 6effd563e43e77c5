"""From a face to the region that is cut out for a model: level, and at the scale of the training's crops."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from faces.regions import Region, cut_out
from faces.yunet import FaceDetector

LOOK = 160  # pixels of the side of a close look, of which the face's box is half
# The detector was trained on upright heads, and shows a third of a tilt. The tilt that it sees nothing of is
# interpolated between looks that are turned by these degrees.
TURNS = range(-45, 46, 15)
SIDE = 4.2  # of a region, in distances between the eyes
MIDLINE = 1.1  # distance of the eyes in distances from eyes to mouth; a turned head shows less of the first
RAISE = 0.06  # of the region above the middle between eyes and mouth, as a share of its side, for the hair
SURER = 0.02  # by which a head that lies on its side is seen more surely in a picture that is turned


class Face(NamedTuple):
    """A face from close by, in pixels of its picture, seen in a look that is turned by `angle` in radians.

    `eyes` and `mouth` are the points (2,) between each pair. `unit`: the distance between the eyes. `tilt`:
    the radians by which the head seems turned in that look. `score`: in [0, 1].
    """

    eyes: np.ndarray
    mouth: np.ndarray
    unit: float
    angle: float
    tilt: float
    score: float

    def region(self, aspect: float) -> Region:
        """Return the region around the head, `aspect` times as wide as it is high."""
        side = SIDE * self.unit
        up = np.array([math.sin(self.angle), -math.cos(self.angle)])
        x, y = (self.eyes + self.mouth) / 2 + RAISE * side * up
        return Region(float(x), float(y), side * max(aspect, 1), side * max(1, 1 / aspect), self.angle)


def look_closely(picture: np.ndarray, box: np.ndarray, detect: FaceDetector) -> Face | None:
    """Find how the face in a box (4,) of a picture (H, W, 3) uint8 is turned; None if it isn't seen again."""
    seen = [look(picture, box, math.radians(degrees), detect) for degrees in TURNS]
    looks = [face for face in seen if face is not None]
    if not looks:
        return None
    # The head is level between two looks that see it tilted to either side, at best between the surest.
    level = [pair for pair in itertools.pairwise(looks) if pair[0].tilt > 0 >= pair[1].tilt]
    if not level:
        return max(looks, key=lambda face: face.score)
    before, after = max(level, key=lambda pair: pair[0].score + pair[1].score)
    share = before.tilt / (before.tilt - after.tilt)
    angle = before.angle + share * (after.angle - before.angle)
    return look(picture, box, angle, detect) or before


def look(picture: np.ndarray, box: np.ndarray, angle: float, detect: FaceDetector) -> Face | None:
    """Look at the face in a box of a picture that is turned by an angle."""
    (x, y), side = (box[:2] + box[2:]) / 2, 2 * float(max(box[2:] - box[:2]))
    region = Region(float(x), float(y), side, side, angle)
    found = detect(cut_out(picture, region, (LOOK, LOOK)))
    if not len(found.boxes):
        return None
    # The face in the middle, in pixels of the picture.
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    nearest = np.abs(middles - LOOK / 2).sum(axis=1).argmin()
    points = (found.landmarks[nearest] - LOOK / 2) * (side / LOOK)  # (5, 2)
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    across, down = points[1] - points[0], mouth - eyes
    unit = max(np.linalg.norm(across), MIDLINE * np.linalg.norm(down))
    tilt = (math.atan2(across[1], across[0]) + math.atan2(-down[0], down[1])) / 2
    score = float(found.scores[nearest])
    return Face(region.point(eyes), region.point(mouth), float(unit), angle, tilt, score)


def lies_sideways(picture: np.ndarray, box: np.ndarray, level: Face, detect: FaceDetector) -> bool:
    """Whether a face is seen more surely than `level` when the picture is turned by a quarter or a half."""
    looks = [look(picture, box, math.radians(degrees), detect) for degrees in (-90, 90, 180)]
    return any(face is not None and face.score > level.score + SURER for face in looks)
