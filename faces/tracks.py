"""Follow faces through a video: which boxes belong to one face, and where it is in between.

Faces are detected a few times a second. Shapes: `F` faces in a frame, `N` frames in which a face was
detected. A box is left, top, right, bottom in pixels of the upright frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from faces.boxes import iou
from faces.detectors import FaceDetector
from media.clips import Clip
from utils.progress import Progress, ShowProgress, frames_bar

DETECTIONS_PER_SECOND = 5  # in between, boxes are interpolated
MAX_GAP = 1.0  # seconds for which a face may go unseen
MIN_FOUND = 0.5  # share of the detections in which a face must be found; false alarms come and go
MAX_LOST = 0.5  # seconds at either end of a video in which a face may go unseen
SAME_HEAD = 0.4  # share of the smaller box that two faces have in common only if one is a mistake
MAX_GROWTH = 1.5  # a box that is this much higher or lower than the median of its track is a mistake


class Track:
    """One face for as long as it stays where it was first seen.

    Attributes: `numbers` of the frames in which it was detected, and its `boxes` there. `start` and `end`,
    the frames of the video that show it (`end` not included).
    """

    def __init__(self, number: int, box: np.ndarray):
        self.numbers, self.boxes = [number], [box]
        self.start, self.end = number, number + 1

    def add(self, number: int, box: np.ndarray) -> None:
        """Note that the face is at `box` (4,) in frame `number`, which is later than all before."""
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
        """Return the share of detections, one every `step` frames, that found the face while it was there."""
        return len(self.numbers) / (1 + math.ceil((self.numbers[-1] - self.numbers[0]) / step))

    @property
    def _plausible(self) -> np.ndarray:
        """Tell which boxes are about as high as most, (N,); the others are mistakes of the detector."""
        heights = np.array([box[3] - box[1] for box in self.boxes])
        return np.abs(np.log(heights / np.median(heights))) <= math.log(MAX_GROWTH)

    @property
    def area(self) -> float:
        """Return the area of the median of its boxes."""
        left, top, right, bottom = np.median(self.boxes, axis=0)
        return (right - left) * (bottom - top)

    @property
    def surrounding_box(self) -> np.ndarray:
        """Return the smallest box around the face in all frames, (4,)."""
        boxes = np.array(self.boxes)[self._plausible]
        return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])

    def boxes_at(self, numbers: np.ndarray) -> np.ndarray:
        """Return the face's box in the frames `numbers` (M,), interpolated between detections: (M, 4)."""
        plausible = self._plausible
        detected, boxes = np.array(self.numbers)[plausible], np.array(self.boxes)[plausible]
        return np.stack([np.interp(numbers, detected, side) for side in boxes.T], axis=1)


def find_tracks(
    clip: Clip,
    detect: FaceDetector,
    iou_with_initial: float,
    show: ShowProgress = frames_bar,
    or_rarely: bool = False,
) -> list[Track]:
    """Find all faces in at least `MIN_FOUND` of the detections, in the order of their first frame.

    `show` gives the progress bar. `or_rarely`: where there are none, those that were found twice at least. Of
    two tracks of the same head, one is a mistake, and the better one is kept.
    """
    step = max(1, round(clip.fps / DETECTIONS_PER_SECOND))
    with show("looking for faces", len(clip)) as progress:
        detections = _detect_faces(clip, detect, step, progress)
        tracks = link(detections, iou_with_initial, MAX_GAP * clip.fps)
    # Detections are seconds apart: a face is there a little before and after.
    starts = {track.start for track in tracks}
    for track in tracks:
        track.extend_to_ends(max(step, int(MAX_LOST * clip.fps)), len(clip), track.end in starts)
    # What is found rarely, or twice at one place, is a false alarm.
    often = [track for track in tracks if track.share_found(step) >= MIN_FOUND]
    if not often and or_rarely:
        often = [track for track in tracks if len(track.numbers) > 1]
    return without_doubles(often)


def without_doubles(tracks: list[Track]) -> list[Track]:
    """Drop tracks that show a part of the same head as one that is seen more often, or larger."""
    kept: list[Track] = []
    for track in sorted(tracks, key=lambda track: (-len(track.numbers), -track.area)):
        if not any(same_head(track, other) for other in kept):
            kept.append(track)
    return [track for track in tracks if track in kept]


def same_head(a: Track, b: Track) -> bool:
    """Whether two tracks that run at the same time overlap in most of it by more than two heads would."""
    numbers = np.arange(max(a.start, b.start), min(a.end, b.end))
    if not len(numbers):
        return False
    boxes_a, boxes_b = a.boxes_at(numbers), b.boxes_at(numbers)  # (frames, 4)
    sides = np.minimum(boxes_a[:, 2:], boxes_b[:, 2:]) - np.maximum(boxes_a[:, :2], boxes_b[:, :2])
    smaller = np.minimum(*((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (boxes_a, boxes_b)))
    return bool(np.median(sides.clip(0).prod(axis=1) / smaller) > SAME_HEAD)


def _detect_faces(
    clip: Clip, detect: FaceDetector, step: int, progress: Progress
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of every `step`-th frame, and of the last one, with the boxes (F, 4) in it."""
    last = len(clip) - 1
    for number, frame in enumerate(clip):
        if number % step == 0 or number == last:
            yield number, detect(frame)
        progress.advance(1)


def link(
    detections: Iterable[tuple[int, np.ndarray]], iou_with_initial: float, max_gap: float
) -> list[Track]:
    """Give each box to the track whose last box it overlaps most; what fits none starts a track.

    A box fits a track whose first box it overlaps by `iou_with_initial`, and which was seen at most `max_gap`
    frames before. `detections`: frame numbers in order, with the boxes (F, 4) in each.
    """
    from scipy.optimize import linear_sum_assignment  # slow, and only faces need it

    tracks: list[Track] = []
    for number, boxes in detections:
        # Which track may a box belong to?
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
                tracks.append(_start_track(number, box, unowned, iou_with_initial))
    return tracks


def _start_track(number: int, box: np.ndarray, near: list[Track], min_iou: float) -> Track:
    """Start a track for `box` in frame `number`.

    If `box` overlaps the last box of one of `near`, the track starts where that one ends, so that no frame
    lies between the two.
    """
    overlaps = [iou(track.boxes[-1][None], box[None]).item() for track in near]
    if not near or max(overlaps) < max(min_iou, 1e-9):
        return Track(number, box)
    before = near[int(np.argmax(overlaps))]
    track = Track(before.numbers[-1], before.boxes[-1])
    track.start = before.end
    track.add(number, box)
    return track
