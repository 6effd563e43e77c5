"""What is cut out of a picture and a driving video: found around faces, or given by hand.

Shapes: `F` faces, `H, W` size that a model takes. Boxes are left, top, right, bottom in pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from faces.choose import (
    GROWTH,
    GROWTH_OF_STILL,
    centred_window,
    check_box,
    choose_faces,
    find_faces,
    find_steady_box,
    prominence,
    shaped,
)
from faces.crops import cut_out
from faces.detectors import FaceDetector
from faces.options import Corners, CropOptions
from faces.preview import preview
from media.clips import Clip
from media.pictures import Size
from utils.progress import ShowProgress

FITTING_LOOKS = 5  # frames of a driving video in which --fit crop looks for a face


class Cuts(NamedTuple):
    """The boxes to cut, of a model's shape, and the faces (F, 4) found; none where nothing is cut."""

    boxes: list[Corners]
    faces: np.ndarray


def cuts_of_source(
    picture: np.ndarray, path: Path, size: Size, options: CropOptions, detect: FaceDetector | None
) -> Cuts:
    """Find a box for each face of `picture` (h, w, 3) that is meant. Raises `UserError`.

    `size`: (H, W). `detect` is needed for `options.crop` alone.
    """
    faces, aspect = np.zeros((0, 4)), size[1] / size[0]
    # A box by hand
    if options.crop_source is not None:
        check_box(options.crop_source, picture.shape[:2], "--crop_source", path)
        return Cuts([shaped(options.crop_source, aspect)], faces)
    # Whole pictures
    if not options.crop or detect is None:
        return window_around_face([picture], path, size, options, detect)
    # Faces
    faces = find_faces(picture, detect, path)
    chosen = choose_faces(faces, options.face, path)
    return Cuts([shaped(face, aspect, GROWTH_OF_STILL) for face in chosen], faces)


def cuts_of_driving(
    clip: Clip, size: Size, options: CropOptions, detect: FaceDetector | None, show: ShowProgress
) -> Cuts:
    """Find at most one box for all frames of a video, which is read once for it. Raises `UserError`."""
    none, aspect = np.zeros((0, 4)), size[1] / size[0]
    # A box by hand
    if options.crop_driving is not None:
        check_box(options.crop_driving, clip.size, "--crop_driving", clip.path)
        return Cuts([shaped(options.crop_driving, aspect)], none)
    # Whole frames
    if not options.crop or detect is None:
        looks = np.linspace(0, len(clip) - 1, min(len(clip), FITTING_LOOKS)).astype(int)
        frames = (clip.read([number])[0] for number in looks.tolist())
        return window_around_face(frames, clip.path, size, options, detect)
    # The main face
    face = find_steady_box(clip, detect, show)
    return Cuts([shaped(face, aspect, GROWTH)], face[None])


def window_around_face(
    pictures: Iterable[np.ndarray], path: Path, size: Size, options: CropOptions, detect: FaceDetector | None
) -> Cuts:
    """Move what "crop" of `fit` keeps to the face: the middle of a portrait may be its nose or its neck.

    Cuts nothing where `fit` is another, where the shape is that of the model already, or where no face is
    found. `pictures`: all of one size; that of `path`, or some frames of it.
    """
    found, nothing = [], Cuts([], np.zeros((0, 4)))
    if options.fit != "crop" or detect is None:
        return nothing
    aspect = size[1] / size[0]
    for picture in pictures:
        height, width = picture.shape[:2]
        if abs(width - height * aspect) < 1:
            return nothing
        boxes = detect(picture)
        if len(boxes):
            found.append(boxes[prominence(boxes, (height, width)).argmax()])
    # The same window for all of them.
    if not found:
        return nothing
    face = np.median(found, axis=0)  # (4,)
    print(f"hint: {path}: --fit crop cuts around the face that was found", file=sys.stderr)
    return Cuts([centred_window(face, (height, width), aspect)], face[None])


def preview_of(pictures: Sequence[np.ndarray], cuts: Sequence[Cuts], size: Size) -> np.ndarray:
    """Draw the `pictures` with what is cut out of each, one below the other: (., ., 3) uint8."""
    drawn = [
        preview(picture, cut.faces, cut.boxes, [cut_out(picture, box, size) for box in cut.boxes])
        for picture, cut in zip(pictures, cuts, strict=True)
    ]
    width = max(picture.shape[1] for picture in drawn)
    return np.concatenate(
        [np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0))) for picture in drawn]
    )
