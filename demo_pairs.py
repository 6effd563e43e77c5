"""The loop of demo.py over pairs of a picture and a driving video.

Each picture is encoded once, and each driving video is analysed once: its keypoints are kept.

Shapes: `H, W` size that the model takes, `N, M` of a larger result.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from animate import Animator
from animation import (
    Cancelled,
    Driving,
    FittedClip,
    SavedMotion,
    Settings,
    Source,
    Written,
    cut_source,
    detect,
    make_animators,
    until,
    write_animation,
)
from demo_inputs import Pair
from engines import AnyNetworks
from faces.choose import Corners
from faces.cuts import CropSettings, cuts_of_driving, cuts_of_source, preview_of
from faces.detectors import Detector
from faces.paste import Paster
from media.clips import Clip
from media.pictures import Size, read_image, write_image
from media.rates import repeated
from media.writer import VideoWriter, check_target
from modules.errors import UserError
from modules.util import Keypoints
from motion import Motion, Record
from progress import Progress
from signals import caught_signals


@dataclass(frozen=True)
class Job:
    """What all pairs have in common.

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


# ---- Boxes -------------------------------------------------------------------


def find_boxes(
    sources: Iterable[Path], drivings: Iterable[Driving], job: Job, show: Callable[[str, int], Progress]
) -> Boxes:
    """Find all that will be cut, before anything is computed; driving videos get theirs.

    Raises `UserError`.
    """
    size, boxes, background = job.sizes[0], {}, []
    for path in sources:
        boxes[path] = cuts_of_source(read_image(path), path, size, job.crops, job.detect).boxes
    if job.background is not None:
        clip = job.background
        background = cuts_of_source(next(iter(clip)), clip.path, size, job.crops, job.detect).boxes
        most = max(boxes, key=lambda path: len(boxes[path]))
        if len(background) < len(boxes[most]):
            raise UserError(
                f"--background {clip.path}: has a place for {len(background)} of the {len(boxes[most])} "
                f"faces of {most}; choose one with --face"
            )
    for driving in drivings:
        if isinstance(driving, FittedClip):
            cuts = cuts_of_driving(driving.clip, size, job.crops, job.detect, show)
            driving.box = next(iter(cuts.boxes), None)
    return Boxes(boxes, background)


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


def write_preview(path: Path, sources: Iterable[Path], clips: Iterable[Clip], job: Job) -> None:
    """Draw what will be cut out of each source and, from its first frame, of each driving video.

    And where it goes in the background.
    """
    size, pictures, cuts = job.sizes[0], [], []
    for source in sources:
        pictures.append(read_image(source))
        cuts.append(cuts_of_source(pictures[-1], source, size, job.crops, job.detect))
    for clip in clips:
        pictures.append(next(iter(clip)))
        cuts.append(cuts_of_driving(clip, size, job.crops, job.detect))
    if job.background is not None:
        pictures.append(next(iter(job.background)))
        cuts.append(cuts_of_source(pictures[-1], job.background.path, size, job.crops, job.detect))
    write_image(path, preview_of(pictures, cuts, size))


# ---- One pair ----------------------------------------------------------------


def animate_pair(
    load: Callable[[], AnyNetworks],
    pair: Pair,
    driving: Driving,
    job: Job,
    keep: Callable[[Path, Iterable[Keypoints]], None],
) -> None:
    """Write one result, frame by frame. A signal ends it early, and then the program."""
    check_target(pair.result, driving.fps)
    boxes = find_boxes([pair.source], [driving], job, own_bar)
    networks, picture = load(), read_image(pair.source)
    source = cut_source(picture, boxes.sources[pair.source], job.sizes, job.settings.fit)
    source = replace(source, paste=paster(pair.source, picture, job, boxes, driving.fps))
    with VideoWriter(pair.result, driving.fps, pair.driving if job.audio else None) as writer:
        started = time.monotonic()
        written, stopped_by = write_until_signal(networks, source, driving, writer, job.settings)
    keep(pair.driving, written.keypoints)
    for line in report(written, writer, time.monotonic() - started):
        print(line)
    if stopped_by is not None:
        print(f"stopped: {pair.result} holds {written.frames} of {len(driving)} frames", file=sys.stderr)
        sys.exit(128 + stopped_by)


def own_bar(what: str, total: int) -> Progress:
    return Progress(total, what, "frames")


def report(written: Written, writer: VideoWriter, seconds: float) -> list[str]:
    """Lines about a result; a warning goes to stderr at once."""
    if writer.audio_note is not None:
        print(f"warning: {writer.audio_note}", file=sys.stderr)
    done = written.frames
    line = f"{writer.path}: {done} frames in {seconds:.1f} s, {done / seconds:.1f} frames/s"
    return [line] if written.best_frame is None else [f"Best frame: {written.best_frame}", line]


def write_until_signal(
    networks: AnyNetworks, source: Source, driving: Driving, writer: VideoWriter, settings: Settings
) -> tuple[Written, int | None]:
    """`write_animation` until a signal comes: (what was written, the signal or None).

    A signal that comes before the first frame ends the program.
    """
    with caught_signals() as caught:  # a second signal does not break off the last writes
        try:
            written = write_animation(
                networks, source, driving, writer, settings, own_bar, lambda: bool(caught)
            )
        except Cancelled:
            sys.exit(128 + caught[0])
    return written, caught[0] if written.frames < len(driving) else None


# ---- Several pairs -----------------------------------------------------------


def animate_pairs(
    load: Callable[[], AnyNetworks],
    pairs: Sequence[Pair],
    drivings: Mapping[Path, Driving],
    job: Job,
    keep: Callable[[Path, Iterable[Keypoints]], None],
) -> None:
    """Write all results into their folder, under one progress bar. `keep` gets the motion of each video.

    A signal ends the program; results that are whole by then stay.
    """
    folder, done = pairs[0].result.parent, 0
    sources = {pair.source: None for pair in pairs}
    with whole_bar(pairs, drivings, job) as bar:
        boxes = find_boxes(sources, drivings.values(), job, lambda what, total: Share(bar, total, what))
        networks = load()
        folder.mkdir(exist_ok=True)
        with caught_signals() as caught:
            try:
                for _ in write_pairs(networks, pairs, drivings, job, boxes, bar, caught, keep):
                    done += 1
            except Cancelled:
                print(f"stopped: {folder} has {done} of {len(pairs)} results", file=sys.stderr)
                sys.exit(128 + caught[0])


def write_pairs(
    networks: AnyNetworks,
    pairs: Sequence[Pair],
    drivings: Mapping[Path, Driving],
    job: Job,
    boxes: Boxes,
    bar: Progress,
    caught: Sequence[int],
    keep: Callable[[Path, Iterable[Keypoints]], None],
) -> Iterator[Pair]:
    """Yields each pair when its result is there. Raises `Cancelled` when a signal has been caught."""

    def stop() -> bool:
        """Unlike the beginning of a single result, one of several is discarded: it would pass as whole."""
        if caught:
            raise Cancelled
        return False

    motions: dict[Path, Motion] = {}
    for path, group in itertools.groupby(pairs, key=lambda pair: pair.source):
        picture = read_image(path)
        source = cut_source(picture, boxes.sources[path], job.sizes, job.settings.fit)
        animators = make_animators(networks, source, job.settings)
        for pair in group:
            driving = drivings[pair.driving]
            if isinstance(driving, FittedClip):
                if pair.driving not in motions:
                    motions[pair.driving] = analyse(animators[0], driving, bar, stop)
                    keep(pair.driving, SavedMotion(motions[pair.driving], pair.driving).keypoints)
                frames = driving if job.settings.side_by_side else None
                driving = SavedMotion(motions[pair.driving], pair.driving, frames)
            paste = paster(path, picture, job, boxes, driving.fps)
            write_pair(animators, pair, replace(source, paste=paste), driving, job, bar, stop)
            yield pair


def whole_bar(pairs: Sequence[Pair], drivings: Mapping[Path, Driving], job: Job) -> Progress:
    """One bar for all: where to cut each driving video, how it moves, and the results."""
    clips = [drivings[path] for path in {pair.driving: None for pair in pairs}]
    passes = 2 if job.crops.crop and job.crops.crop_driving is None else 1
    before = sum(passes * len(clip) for clip in clips if isinstance(clip, FittedClip))
    return Progress(before + sum(len(drivings[pair.driving]) for pair in pairs), "animation", "frames")


def analyse(animator: Animator, driving: FittedClip, bar: Progress, stop: Callable[[], bool]) -> Motion:
    """The keypoints of a driving video as they are found."""
    keypoints = Record()
    with detect(animator, driving) as found:
        for item in until(stop, found):
            keypoints.append(item["kp_driving"])
            bar.advance(1, f"motion of {driving.path.name}")
    values = {name: block[: keypoints.length].float() for name, block in keypoints.blocks.items()}
    return Motion(values, driving.fps)


def write_pair(
    animators: Sequence[Animator],
    pair: Pair,
    source: Source,
    driving: Driving,
    job: Job,
    bar: Progress,
    stop: Callable[[], bool],
) -> None:
    """One result of several."""

    def show(what: str, total: int) -> Progress:
        return (
            Share(bar, total, pair.result.name)
            if what == "animation"
            else Progress(total, what, "", quiet=True)
        )

    for animator in animators:
        animator.kp_initial = None  # of the driving video before
    networks = animators[0].generator, animators[0].kp_detector
    with VideoWriter(pair.result, driving.fps, pair.driving if job.audio else None) as writer:
        started = time.monotonic()
        written = write_animation(networks, source, driving, writer, job.settings, show, stop, animators)
    for line in report(written, writer, time.monotonic() - started):
        bar.tell(line)


class Share(Progress):
    """A part of a larger progress bar: what is done of it is done of the whole."""

    def __init__(self, whole: Progress, total: int, note: str):
        super().__init__(total, "", "", quiet=True)
        self.whole, self.note = whole, note

    def advance(self, count: int, note: str = "") -> None:
        self.whole.advance(count, self.note)
