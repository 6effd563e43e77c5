"""Clips of `N` frames at another rate, with `M`: frames are repeated or left out so that times stay."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from media.clips import Clip
from utils.errors import MediaError

Item = TypeVar("Item")

MAX_RATE = 60.0  # frames per second; a screen recording may have bursts of more
MAX_REPEATS = 100  # frames made of one, on average; a longer video has wrong times


def steady(clip: Clip) -> Clip:
    """Return `clip` itself if its frames come at a constant rate, else show it at such a rate.

    It is that at which most of its frames follow each other. Raises `MediaError`.
    """
    times = clip.times
    if times is None or len(times) < 3 or (np.diff(times) <= 0).any():  # some formats make them up
        return clip
    late = times - np.arange(len(times)) / clip.fps  # seconds, if played at the mean rate
    if np.abs(late).max() <= 0.5 / clip.fps:
        return clip
    fps = min(MAX_RATE, 1 / max(1e-6, float(np.median(np.diff(times)))))
    length = 1 + round((times[-1] - times[0]) * fps)
    if length > MAX_REPEATS * len(times):
        raise MediaError(
            f"{clip.path}: its {len(times)} frames are spread over {times[-1] - times[0]:.0f} seconds; "
            "convert it to a constant frame rate"
        )
    return ShownClip(clip, nearest(times, times[0] + np.arange(length) / fps), fps)


def part_of(clip: Clip, start: float | None, end: float | None) -> Clip:
    """Return the part of a clip from `start` to `end` in seconds, or to its own end. Raises `MediaError`."""
    if start is None and end is None:
        return clip
    length = len(clip) / clip.fps
    begin, stop = start or 0.0, length if end is None else end
    first, last = (round(min(time, length) * clip.fps) for time in (begin, stop))
    if first >= last:
        until = "on" if end is None else f"to {end:g}"
        raise MediaError(
            f"{clip.path}: has no frame from second {begin:g} {until}, it lasts {length:.2f} seconds; choose "
            "another --start or --end"
        )
    return ShownClip(clip, np.arange(first, last), clip.fps, clip.start + first / clip.fps)


class ShownClip(Clip):
    """The frames `numbers` (M,) of a clip, sorted and perhaps repeated, at a constant rate."""

    def __init__(self, clip: Clip, numbers: np.ndarray, fps: float, start: float = 0.0):
        square = clip.has_square_pixels
        super().__init__(clip.path, clip.size, fps, clip.has_audio, None, clip.hdr, square, start)
        self._clip, self._numbers = clip, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def chosen(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        wanted: dict[int, list[int]] = {}
        for number in numbers:
            wanted.setdefault(int(self._numbers[number]), []).append(number)
        for original, frame in self._clip.chosen(sorted(wanted)):
            for number in wanted[original]:
                yield number, frame


def nearest(times: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return for each of `moments` (M,) the number of the closest of the sorted `times` (N,): (M,)."""
    after = np.searchsorted(times, moments).clip(1, len(times) - 1)
    return np.where(moments - times[after - 1] <= times[after] - moments, after - 1, after)


def shown(items: Iterable[Item], numbers: np.ndarray) -> Iterator[Item]:
    """Yield items by their sorted `numbers`, with repeats, going through them once; they may end early."""
    for times, item in zip(np.bincount(numbers).tolist(), items, strict=False):
        yield from itertools.repeat(item, times)


def repeated(clip: Clip, fps: float) -> Iterator[np.ndarray]:
    """Yield the frames of a clip at `fps`, without end: it starts anew where it ends."""
    if len(clip) == 1:
        frame = next(iter(clip))
        while True:
            yield frame
    length = max(1, round(len(clip) * fps / clip.fps))  # of one round, in frames at `fps`
    numbers = (np.arange(length) * clip.fps / fps + 1e-6).astype(int).clip(0, len(clip) - 1)
    while True:
        yield from shown(clip, numbers)
