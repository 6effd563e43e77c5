"""The loop of demo.py over pairs of a picture and a driving video.

Each picture is encoded once, and each driving video is analysed once: its keypoints are kept.

Shapes: `H, W` size that the model takes, `N, M` of a larger result.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from faces.cuts import preview_of
from inference.animation import (
    Cancelled,
    Driving,
    FittedClip,
    SavedMotion,
    Source,
    detect,
    make_animators,
    until,
)
from inference.animator import Animator
from inference.engines import AnyNetworks
from inference.jobs import (
    Boxes,
    Done,
    Job,
    Pair,
    driving_cuts,
    find_boxes,
    paster,
    source_cuts,
    source_of,
    write_result,
    write_source,
)
from inference.motion import Motion, Record
from media.clips import Clip
from media.pictures import read_image, write_image
from media.writer import check_target
from modules.util import Keypoints
from utils.progress import Progress
from utils.signals import caught_signals

# ---- Preview -----------------------------------------------------------------


def write_preview(path: Path, sources: Iterable[Path], clips: Iterable[Clip], job: Job) -> None:
    """Draw what will be cut out of each source and, from its first frame, of each driving video.

    And where it goes in the background.
    """
    pictures, cuts = [], []
    for source in sources:
        pictures.append(read_image(source))
        cuts.append(source_cuts(source, pictures[-1], job))
    for clip in clips:
        pictures.append(next(iter(clip)))
        cuts.append(driving_cuts(clip, job, own_bar))
    if job.background is not None:
        pictures.append(next(iter(job.background)))
        cuts.append(source_cuts(job.background.path, pictures[-1], job))
    write_image(path, preview_of(pictures, cuts, job.sizes[0]))


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
    networks = load()
    with caught_signals() as caught:  # a second signal does not break off the last writes
        try:
            done = write_result(networks, pair, driving, job, boxes, own_bar, lambda: bool(caught))
        except Cancelled:
            sys.exit(128 + caught[0])
    keep(pair.driving, done.written.keypoints)
    for line in report(done, pair.result):
        print(line)
    frames = done.written.frames
    if frames < len(driving):
        print(f"stopped: {pair.result} holds {frames} of {len(driving)} frames", file=sys.stderr)
        sys.exit(128 + caught[0])


def own_bar(what: str, total: int) -> Progress:
    return Progress(total, what, "frames")


def report(done: Done, path: Path) -> list[str]:
    """Lines about the result at `path`; a warning goes to stderr at once."""
    if done.audio_note is not None:
        print(f"warning: {done.audio_note}", file=sys.stderr)
    line, best = f"{path}: {done.figures}", done.written.best_frame
    return [line] if best is None else [f"Best frame: {best}", line]


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
        source = source_of(path, picture, job, boxes)
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
    done = write_source(networks, source, pair, driving, job, show, stop, animators)
    for line in report(done, pair.result):
        bar.tell(line)


class Share(Progress):
    """A part of a larger progress bar: what is done of it is done of the whole."""

    def __init__(self, whole: Progress, total: int, note: str):
        super().__init__(total, "", "", quiet=True)
        self.whole, self.note = whole, note

    def advance(self, count: int, note: str = "") -> None:
        self.whole.advance(count, self.note)
