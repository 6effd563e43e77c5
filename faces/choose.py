"""Which faces are meant, and what to cut out around them for a model.

Shapes: `F` faces. A box is left, top, right, bottom in pixels of the upright frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from faces.align import Face, look_closely
from faces.boxes import iou
from faces.options import Box
from faces.regions import Region
from faces.tracks import Track, find_tracks
from faces.yunet import FaceDetector
from media.clips import Clip, StripClip
from media.pictures import Size
from utils.errors import UserError
from utils.hints import hint
from utils.progress import ShowProgress, frames_bar

GROWTH = 0.25  # on each side of the box of a face that was not seen from close by
VIDEO_LOOKS = 5  # frames of a video in which its face is looked at closely
OFF_CENTRE = 0.5  # what a face in the corner of a frame counts, compared with one in the middle

# ---- Pictures ------------------------------------------------------------------


class NoFaceError(UserError):
    """A picture or a video in which no face was found."""


def find_faces(boxes: np.ndarray, size: Size, path: Path) -> np.ndarray:
    """Return the boxes (F, 4) of the faces in a picture of `size`, the most prominent first.

    Raises `UserError` where there is none; `path` is the picture's.
    """
    if not len(boxes):
        raise NoFaceError(f"{path}: no face was found; say where it is with --crop_source L,T,R,B")
    return boxes[np.argsort(-prominence(boxes, size), kind="stable")]


def prominence(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Return how much each of boxes (F, 4) in a frame of `size` looks like what the picture is of: (F,).

    It is the side in pixels, down to half of it in a corner. How sure the detector is does not count: false
    alarms are often loud, and small or aside.
    """
    middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = np.array(size[::-1]) / 2
    distance = np.linalg.norm(middles - half, axis=1) / np.linalg.norm(half)  # (F,), 1 in a corner
    return np.sqrt(sides.prod(axis=1)) * (1 - (1 - OFF_CENTRE) * distance.clip(0, 1))


def choose_faces(boxes: np.ndarray, which: str, path: Path) -> np.ndarray:
    """Return those of `boxes` (F, 4), in the order of `find_faces`, that "largest", "all" or a number means.

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


def steady_region(clip: Clip, track: Track, detect: FaceDetector, aspect: float) -> Region:
    """Return one region for all frames of a video that holds the face of a track wherever it goes."""
    # Where its middle goes, in frames of which the boxes are no mistakes.
    boxes = np.array(track.boxes)[track.plausible]
    numbers = np.array(track.numbers)[track.plausible]
    chosen = np.unique(np.linspace(0, len(numbers) - 1, VIDEO_LOOKS).round().astype(int))
    looks = {int(numbers[i]): boxes[i] for i in chosen}
    regions = [
        region_of(look_closely(frame, looks[number], detect), looks[number], aspect)
        for number, frame in clip.chosen(list(looks))
    ]
    # One scale and one angle, and the way that its middle makes along both sides.
    width, height, angle = (
        float(np.median([getattr(region, name) for region in regions]))
        for name in ("width", "height", "angle")
    )
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    offset = np.mean([[region.x, region.y] for region in regions], axis=0) - middles[chosen].mean(axis=0)
    level = Region(0, 0, 0, 0, angle)
    places = level.places_of(middles + offset)  # (N, 2)
    grown = float(np.max(1 + np.ptp(places, axis=0) / (width, height)))
    x, y = level.point((places.min(axis=0) + places.max(axis=0)) / 2)
    return Region(float(x), float(y), width * grown, height * grown, angle).within(clip.size)


def find_main_face(
    clip: Clip, detect: FaceDetector, show: ShowProgress = frames_bar, span: range | None = None
) -> Track | None:
    """Find the main face of a video, wherever it goes, also if it is seen rarely; None if there is none."""
    tracks = find_tracks(clip, detect, 0, show, or_rarely=True, span=span)
    return main_face(tracks, clip.size) if tracks else None


def main_face(tracks: Sequence[Track], size: Size) -> Track:
    """Return the face that is seen longest, largest and most in the middle of frames of `size`.

    A track ends where the face goes unseen for a while. Later and earlier ones in the same place are joined.
    """
    # Sort the tracks.
    weights = [
        len(track.numbers) * prominence(np.median(track.boxes, axis=0)[None], size).item() for track in tracks
    ]
    first, *others = (tracks[i] for i in np.argsort(weights)[::-1])
    # Join those of the same face at other times.
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
    """Join the tracks of a face, which follow each other."""
    numbers = [number for part in parts for number in part.numbers]
    boxes = [box for part in parts for box in part.boxes]
    return Track(numbers, boxes, parts[0].start, parts[-1].end)


# ---- Crops ---------------------------------------------------------------------


def whole_track(clip: Clip, detect: FaceDetector) -> Track:
    """Follow the main face through all frames. Raises `UserError` if there is none."""
    track = find_main_face(clip, detect)
    if track is None:
        raise no_face(clip)
    track.start, track.end = 0, len(clip)
    return track


def no_face(clip: Clip) -> UserError:
    where = "it" if isinstance(clip, StripClip) else f"its {len(clip)} frames"
    return UserError(
        f"{clip.path}: no face was found in {where}; it must be at least a sixtieth "
        "of the frame's longer side"
    )


def lost_frames(tracks: Sequence[Track], clip: Clip) -> list[str]:
    """Say which frames at the ends of the video are in no crop."""
    start, end = min(track.start for track in tracks), max(track.end for track in tracks)
    lost = [(0, start - 1), (end, len(clip) - 1)]
    return [
        f"{clip.path}: no crop has the frames {first} to {last}, where no face was found in its place; "
        "--whole keeps all frames"
        for first, last in lost
        if first <= last
    ]


def long_tracks(tracks: list[Track], clip: Clip, min_frames: int) -> list[Track]:
    """Return the tracks of `min_frames` frames; in a shorter video, of half its length.

    Raises `UserError` if there are none.
    """
    if not tracks:
        raise no_face(clip)
    if isinstance(clip, StripClip):
        return tracks
    # A short video can't have long crops.
    if len(clip) < min_frames:
        hint(
            f"{clip.path} has {len(clip)} frames, fewer than --min_frames {min_frames}; crops are kept "
            "from half of its length on"
        )
        min_frames = math.ceil(len(clip) / 2)
    kept = [track for track in tracks if track.end - track.start >= min_frames]
    if not kept:
        longest = max(track.end - track.start for track in tracks)
        raise UserError(
            f"{clip.path}: no face stays in its place for {min_frames} frames; the longest stays for "
            f"{longest}: --whole cuts one box around everywhere it goes; lower --min_frames or "
            "--iou_with_initial keep shorter crops"
        )
    return kept


# ---- Regions -------------------------------------------------------------------


def region_of(face: Face | None, box: np.ndarray, aspect: float) -> Region:
    """Return the region of a face; where it was not seen from close by, that of its box."""
    return shaped(box, aspect, GROWTH) if face is None else face.region(aspect)


def shaped(box: Sequence[float] | np.ndarray, aspect: float, growth: float = 0) -> Region:
    """Return the smallest region of a model's shape around the middle of `box` that holds it, and more.

    `aspect`: width over height of what the model takes. `growth`: on each side, as a share of the box.
    """
    left, top, right, bottom = (float(side) for side in box[:4])
    height = (1 + 2 * growth) * max(bottom - top, (right - left) / aspect)
    width, height = round(height * aspect), round(height)
    left, top = round((left + right - width) / 2), round((top + bottom - height) / 2)
    angle = math.radians(box[4]) if len(box) == 5 else 0.0
    return Region.of_box((left, top, left + width, top + height), angle)


def centred_window(face: np.ndarray, size: Size, aspect: float) -> Region:
    """Return the largest region of a model's shape in a picture of `size`, near to a face (4,)."""
    height = min(size[0], size[1] / aspect)
    width, height = round(height * aspect), round(height)
    left = min(max(0, round((face[0] + face[2] - width) / 2)), size[1] - width)
    top = min(max(0, round((face[1] + face[3] - height) / 2)), size[0] - height)
    return Region.of_box((left, top, left + width, top + height))


def check_box(box: Box, size: Size, option: str, path: Path) -> None:
    """Raise `UserError` if a box by hand shows nothing of a picture of `size` (height, width)."""
    left, top, right, bottom = shaped(box, (box[2] - box[0]) / (box[3] - box[1])).bounds
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        raise UserError(
            f"{option} {','.join(map(str, box))}: lies outside {path}, "
            f"which is {size[1]} wide and {size[0]} high"
        )
