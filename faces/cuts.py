"""What is cut out of a picture and a driving video: found around faces, or given by hand.

Shapes: `F` faces, `H, W` size that a model takes. Boxes are left, top, right, bottom in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from faces.choose import (
    GROWTH,
    GROWTH_OF_STILL,
    Corners,
    check_box,
    choose_faces,
    find_faces,
    find_steady_box,
    shaped,
)
from faces.crops import cut_out
from faces.detectors import Detector
from faces.preview import preview
from media.clips import Clip
from media.pictures import Size


@dataclass(frozen=True)
class CropSettings:
    """What to cut. Each is the option of the command line that has its name.

    `crop` looks for faces wherever there is no box by hand.
    """

    crop: bool = False
    crop_source: Corners | None = None
    crop_driving: Corners | None = None
    face: str = "largest"


class Cuts(NamedTuple):
    """The boxes to cut, of a model's shape, and the faces (F, 4) found; none where nothing is cut."""

    boxes: list[Corners]
    faces: np.ndarray


def cuts_of_source(
    picture: np.ndarray, path: Path, size: Size, settings: CropSettings, detect: Detector | None
) -> Cuts:
    """A box for each face of `picture` (h, w, 3) that is meant. Raises `UserError`.

    `size`: (H, W). `detect` is needed for `settings.crop` alone.
    """
    faces, aspect = np.zeros((0, 4)), size[1] / size[0]
    if settings.crop_source is not None:
        check_box(settings.crop_source, picture.shape[:2], "--crop_source", path)
        return Cuts([shaped(settings.crop_source, aspect)], faces)
    if not settings.crop or detect is None:
        return Cuts([], faces)
    faces = find_faces(picture, detect, path)
    chosen = choose_faces(faces, settings.face, path)
    return Cuts([shaped(face, aspect, GROWTH_OF_STILL) for face in chosen], faces)


def cuts_of_driving(clip: Clip, size: Size, settings: CropSettings, detect: Detector | None) -> Cuts:
    """At most one box for all frames of a video, which is read once to find it. Raises `UserError`."""
    none, aspect = np.zeros((0, 4)), size[1] / size[0]
    if settings.crop_driving is not None:
        check_box(settings.crop_driving, clip.size, "--crop_driving", clip.path)
        return Cuts([shaped(settings.crop_driving, aspect)], none)
    if not settings.crop or detect is None:
        return Cuts([], none)
    face = find_steady_box(clip, detect)
    return Cuts([shaped(face, aspect, GROWTH)], face[None])


def preview_of(pictures: Sequence[np.ndarray], cuts: Sequence[Cuts], size: Size) -> np.ndarray:
    """The `pictures` with what is cut out of each, one below the other: (., ., 3) uint8."""
    drawn = [
        preview(picture, cut.faces, cut.boxes, [cut_out(picture, box, size) for box in cut.boxes])
        for picture, cut in zip(pictures, cuts, strict=True)
    ]
    width = max(picture.shape[1] for picture in drawn)
    return np.concatenate(
        [np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0))) for picture in drawn]
    )
