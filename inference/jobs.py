"""One result: what is cut out of a picture and a driving video, animated, pasted back and written.

`demo.py` and the page both call this. Options and widgets are theirs.

Shapes: `H, W` size that the model takes, `N, M` of a larger result.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from faces.choose import Corners
from faces.cuts import CropSettings, Cuts, cuts_of_driving, cuts_of_source
from faces.detectors import Detector, load_detector
from faces.paste import Paster
from inference.animation import Driving, FittedClip, Settings, Source, Written, cut_source, write_animation
from inference.animator import Animator
from inference.engines import AnyNetworks
from inference.networks import larger_size
from media.clips import Clip
from media.pictures import Size, read_image
from media.rates import repeated
from media.writer import VideoWriter
from utils.errors import UserError
from utils.progress import Progress

Show = Callable[[str, int], Progress]  # the progress bar of a pass: what, and how many frames


class Pair(NamedTuple):
    """A picture, the video or motion file that drives it, and where the result goes."""

    source: Path
    driving: Path
    result: Path


@dataclass(frozen=True)
class Job:
    """How results are made.

    `sizes`: (H, W), and (N, M) or None. `background`: what is pasted into, if not the picture itself.
    """

    sizes: tuple[Size, Size | None]
    settings: Settings
    crops: CropSettings
    detect: Detector | None
    paste_back: bool
    background: Clip | None
    audio: bool


class Boxes(NamedTuple):
    """What will be cut out of each picture, and where that goes in the background."""

    sources: Mapping[Path, list[Corners]]
    background: list[Corners]


class Done(NamedTuple):
    """What was written, in how many seconds, and a line that says why there is no sound, or None."""

    written: Written
    seconds: float
    audio_note: str | None

    @property
    def figures(self) -> str:
        frames = self.written.frames
        return f"{frames} frames in {self.seconds:.1f} s, {frames / max(self.seconds, 1e-9):.1f} frames/s"


def make_job(
    settings: Settings,
    crops: CropSettings,
    size: Size,
    height: int | None,
    paste_back: bool,
    audio: bool,
    background: Clip | None = None,
    cpu: bool = False,
) -> Job:
    """`size`: the model's (H, W). `height`: of a larger result. `cpu`: look for faces there.

    Raises `UserError`.
    """
    detect = load_detector(None, cpu) if crops.crop or crops.fit == "crop" else None
    return Job((size, larger_size(size, height)), settings, crops, detect, paste_back, background, audio)


def check_best_frame(number: int | None, driving: Driving) -> None:
    """Raise `UserError` for a number that no frame has."""
    if number is not None and not 0 <= number < len(driving):
        raise UserError(f"--best_frame {number}: {driving.path} has the frames 0 to {len(driving) - 1}")


# ---- Boxes -------------------------------------------------------------------


def source_cuts(path: Path, picture: np.ndarray, job: Job) -> Cuts:
    """What is cut out of the picture (h, w, 3) that lies at `path`. Raises `UserError`."""
    return cuts_of_source(picture, path, job.sizes[0], job.crops, job.detect)


def driving_cuts(clip: Clip, job: Job, show: Show) -> Cuts:
    """What is cut out of all frames of a driving video. Raises `UserError`."""
    return cuts_of_driving(clip, job.sizes[0], job.crops, job.detect, show)


def find_boxes(sources: Iterable[Path], drivings: Iterable[Driving], job: Job, show: Show) -> Boxes:
    """Find all that will be cut, before anything is computed; driving videos get theirs.

    Raises `UserError`.
    """
    boxes = {path: source_cuts(path, read_image(path), job).boxes for path in sources}
    background: list[Corners] = []
    if job.background is not None:
        clip = job.background
        background = source_cuts(clip.path, next(iter(clip)), job).boxes
        most = max(boxes, key=lambda path: len(boxes[path]))
        if len(background) < len(boxes[most]):
            raise UserError(
                f"--background {clip.path}: has a place for {len(background)} of the {len(boxes[most])} "
                f"faces of {most}; choose one with --face"
            )
    for driving in drivings:
        if isinstance(driving, FittedClip):
            driving.box = next(iter(driving_cuts(driving.clip, job, show).boxes), None)
    return Boxes(boxes, background)


# ---- Results -----------------------------------------------------------------


def source_of(path: Path, picture: np.ndarray, job: Job, boxes: Boxes) -> Source:
    """What is animated of the picture (h, w, 3) that lies at `path`."""
    return cut_source(picture, boxes.sources[path], job.sizes, job.settings.fit)


def paster(
    path: Path, picture: np.ndarray, job: Job, boxes: Boxes, fps: float
) -> Callable[[Sequence[np.ndarray]], np.ndarray] | None:
    """Makes each frame of a result, at `fps`, of the animated pieces of the picture that lies at `path`.

    None where a piece is the frame.
    """
    if not job.paste_back:
        return None
    own = boxes.sources[path]
    if job.background is None:
        return functools.partial(Paster(picture.shape[:2], own).paste, picture)
    paste = Paster(job.background.size, boxes.background[: len(own)]).paste
    frames = repeated(job.background, fps)
    return lambda pieces: paste(next(frames), pieces)


def write_result(
    networks: AnyNetworks,
    pair: Pair,
    driving: Driving,
    job: Job,
    boxes: Boxes,
    show: Show,
    cancelled: Callable[[], bool],
) -> Done:
    """Write one result to its end, or as far as it has come when `cancelled()`.

    `boxes`: of `find_boxes`. Raises `UserError`, and `Cancelled` if no frame was written.
    """
    picture = read_image(pair.source)
    source = source_of(pair.source, picture, job, boxes)
    source = replace(source, paste=paster(pair.source, picture, job, boxes, driving.fps))
    return write_source(networks, source, pair, driving, job, show, cancelled)


def write_source(
    networks: AnyNetworks,
    source: Source,
    pair: Pair,
    driving: Driving,
    job: Job,
    show: Show,
    cancelled: Callable[[], bool],
    animators: Sequence[Animator] | None = None,
) -> Done:
    """The same for a source that is cut. `animators`: those of the source, if they were made before."""
    with VideoWriter(pair.result, driving.fps, pair.driving if job.audio else None) as writer:
        started = time.monotonic()
        written = write_animation(networks, source, driving, writer, job.settings, show, cancelled, animators)
    return Done(written, time.monotonic() - started, writer.audio_note)
