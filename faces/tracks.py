"""Follow faces through a video: which boxes belong to one face, and where it is in between.

Faces are looked for a few times a second. Shapes: `F` faces in a frame, `N` frames in which a face was found.
A box is left, top, right, bottom in pixels of the upright frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from faces.boxes import iou
from faces.yunet import FaceDetector
from media.clips import Clip
from utils.progress import ShowProgress, frames_bar

LOOKS_PER_SECOND = 5  # in between, boxes are interpolated
MAX_GAP = 1.0  # seconds for which a face may go unseen
MIN_FOUND = 0.5  # share of the looks that must find a face; false alarms come and go
MAX_LOST = 0.5  # seconds at either end of a video in which a face may go unseen
MAX_GROWTH = 1.5  # a box that is this much higher or lower than the median of its track is a mistake


@dataclass(eq=False)
class Track:
    """One face for as long as it stays where it was first seen.

    `numbers` of the frames in which it was found, and its `boxes` (4,) there. `start` and `end`: the frames
    of the video that show it (`end` not included).
    """

    numbers: list[int]
    boxes: list[np.ndarray]
    start: int
    end: int

    def add(self, number: int, box: np.ndarray) -> None:
        """Add the face at `box` (4,) in frame `number`, which is later than all before."""
        self.numbers.append(number)
        self.boxes.append(box)
        self.end = number + 1

    def extend_to_ends(self, most: int, length: int, followed: bool) -> None:
        """Start and end with the video of `length` frames, where at most `most` frames are missing there.

        Not where another track of the face ends or begins (`followed`).
        """
        if self.start <= most and self.start == self.numbers[0]:
            self.start = 0
        if self.end + most >= length and not followed:
            self.end = length

    def share_found(self, step: int) -> float:
        """Return the share of looks, one every `step` frames, that found the face while it was there."""
        return len(self.numbers) / (1 + math.ceil((self.numbers[-1] - self.numbers[0]) / step))

    @property
    def plausible(self) -> np.ndarray:
        """Which boxes are about as high as most, (N,). The others are mistakes of the detector."""
        heights = np.array([box[3] - box[1] for box in self.boxes])
        return np.abs(np.log(heights / np.median(heights))) <= math.log(MAX_GROWTH)

    @property
    def surrounding_box(self) -> np.ndarray:
        """The smallest box around the face in all frames, (4,)."""
        boxes = np.array(self.boxes)[self.plausible]
        return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def looks_at(clip: Clip, span: range | None = None) -> list[int]:
    """Return the numbers of the frames in which faces are looked for, the last one of a span among them."""
    span = span or range(len(clip))
    return sorted({*span[:: look_step(clip)], span[-1]})


def look_step(clip: Clip) -> int:
    return max(1, round(clip.fps / LOOKS_PER_SECOND))


def find_tracks(
    clip: Clip,
    detect: FaceDetector,
    iou_with_initial: float,
    show: ShowProgress = frames_bar,
    or_rarely: bool = False,
    span: range | None = None,
) -> list[Track]:
    """Find all faces that at least `MIN_FOUND` of the looks see, in the order of their first frame.

    `show` gives the progress bar. `or_rarely`: where there are none, those that were found twice at least.
    Only the frames of a `span` are looked at, if one is given.
    """
    step = look_step(clip)
    with show("looking for faces", len(clip)) as progress:
        seen = []
        for number, frame in clip.chosen(looks_at(clip, span)):  # not always in order
            seen.append((number, detect(frame).boxes))
            progress.advance(min(step, len(clip) - progress.done))
        tracks = link(sorted(seen, key=lambda look: look[0]), iou_with_initial, MAX_GAP * clip.fps)
    starts = {track.start for track in tracks}
    for track in tracks:
        track.extend_to_ends(max(step, int(MAX_LOST * clip.fps)), len(clip), track.end in starts)
    # What is found rarely, or twice at one place, is a false alarm.
    often = [track for track in tracks if track.share_found(step) >= MIN_FOUND]
    if not often and or_rarely:
        often = [track for track in tracks if len(track.numbers) > 1]
    return often


def link(seen: Iterable[tuple[int, np.ndarray]], iou_with_initial: float, max_gap: float) -> list[Track]:
    """Give each box to the track whose last box it overlaps most; what fits none starts a track.

    A box fits a track whose first box it overlaps by `iou_with_initial`, and which was seen at most `max_gap`
    frames before. `seen`: frame numbers in order, with the boxes (F, 4) in each.
    """
    tracks: list[Track] = []
    for number, boxes in seen:
        near = [track for track in tracks if number - track.numbers[-1] <= max_gap]
        first, last = (np.array([track.boxes[i] for track in near]).reshape(-1, 4) for i in (0, -1))
        fits = (iou(first, boxes) >= iou_with_initial) & (iou(last, boxes) > 0)  # (near tracks, F)
        # Together they overlap as much as possible.
        rows, columns = linear_sum_assignment(np.where(fits, iou(last, boxes), 0), maximize=True)
        owners = {column: near[row] for row, column in zip(rows, columns, strict=True) if fits[row, column]}
        # What is left starts tracks.
        unowned = [track for track in near if track not in owners.values()]
        for column, box in enumerate(boxes):
            if column in owners:
                owners[column].add(number, box)
            else:
                tracks.append(start_track(number, box, unowned, iou_with_initial))
    return tracks


def start_track(number: int, box: np.ndarray, near: list[Track], min_iou: float) -> Track:
    """Start a track for `box` in frame `number`.

    If `box` overlaps the last box of one of `near`, the track starts where that one ends, so that no frame
    lies between the two.
    """
    overlaps = [iou(track.boxes[-1][None], box[None]).item() for track in near]
    if not near or max(overlaps) < max(min_iou, 1e-9):
        return Track([number], [box], number, number + 1)
    before = near[int(np.argmax(overlaps))]
    return Track([before.numbers[-1], number], [before.boxes[-1], box], before.end, number + 1)


def frames_with(track: Track, clip: Clip, detect: FaceDetector) -> np.ndarray:
    """Return which frames of a video show the face of a track, (T,), though it may be unseen for a look.

    A face that one look missed, between two that saw it, has turned or blinked. Where it is gone for longer,
    or at an end of the video, the frames next to those that show it are looked at one by one.
    """
    looks = np.array(looks_at(clip))
    seen = np.isin(looks, track.numbers)
    # One look that missed it does not count, except at the ends.
    seen[1:-1] |= seen[:-2] & seen[2:]
    present = np.interp(np.arange(len(clip)), looks, seen.astype(float)) == 1
    # Between a look that saw it and one that did not: the changes are looked for from frame to frame.
    changes = np.flatnonzero(seen[:-1] != seen[1:])
    between = [n for i in changes.tolist() for n in range(looks[i] + 1, looks[i + 1])]
    for number, frame in clip.chosen(between) if between else ():
        boxes = detect(frame).boxes
        present[number] = len(boxes) > 0 and iou(boxes, track.surrounding_box[None]).max() > 0
    return present
