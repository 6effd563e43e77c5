"""From pictures and driving videos to results: what is cut, which pairs are animated, what is pasted back.

`demo.py` and the page both call this. Command line and widgets are theirs.

Shapes: `H, W` size that the model takes, `N, M` of a larger result.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from faces.cuts import Cuts, cuts_of_driving, cuts_of_source, preview_of
from faces.detectors import FaceDetector, load_detector
from faces.options import Corners
from faces.paste import Paster
from inference.animation import (
    Cancelled,
    Driving,
    FittedClip,
    KnownMotion,
    SourcePictures,
    Written,
    analyse,
    cut_source,
    make_animators,
    write_animation,
)
from inference.inputs import DemoPair, in_folder, motion_path
from inference.motion import save_motion
from inference.networks import InferenceNetworks, larger_size
from inference.options import DemoOptions
from media.clips import Clip
from media.pictures import Size, read_image, write_image
from media.rates import repeated
from media.writer import VideoWriter, check_target
from utils.errors import UserError
from utils.progress import PartialProgress, Progress, ShowProgress, frames_bar
from utils.signals import caught_signals

Drivings = Mapping[Path, Clip | KnownMotion]  # by the paths of pairs
Paste = Callable[[Sequence[np.ndarray]], np.ndarray]  # animated pieces -> a frame of the result


@dataclass(frozen=True)
class Job:
    """How results are made.

    `sizes`: (H, W), and (N, M) or None. `background`: what is pasted into, if not the picture itself.
    """

    options: DemoOptions
    sizes: tuple[Size, Size | None]
    detect: FaceDetector | None
    background: Clip | None


def make_job(options: DemoOptions, size: Size, background: Clip | None = None) -> Job:
    """Prepare what the options need beside networks of `size` (H, W). Raises `UserError`."""
    needs_faces = options.crop or options.fit == "crop"
    detect = load_detector(None, options.device) if needs_faces else None
    return Job(options, (size, larger_size(size, options.size)), detect, background)


def check_best_frame(number: int | None, driving: Clip | Driving, path: Path) -> None:
    """Raise `UserError` for a number that no frame has."""
    if number is not None and not 0 <= number < len(driving):
        raise UserError(f"--best_frame {number}: {path} has the frames 0 to {len(driving) - 1}")


# ---- Boxes -------------------------------------------------------------------


class Boxes(NamedTuple):
    """What will be cut out of each picture and each driving video, and where that goes in the background."""

    sources: Mapping[Path, list[Corners]]
    drivings: Mapping[Path, Corners | None]
    background: list[Corners]


def source_cuts(path: Path, picture: np.ndarray, job: Job) -> Cuts:
    """Find what to cut out of the picture (h, w, 3) that lies at `path`. Raises `UserError`."""
    return cuts_of_source(picture, path, job.sizes[0], job.options, job.detect)


def driving_cuts(clip: Clip, job: Job, show: ShowProgress) -> Cuts:
    """Find what to cut out of all frames of a driving video. Raises `UserError`."""
    return cuts_of_driving(clip, job.sizes[0], job.options, job.detect, show)


def find_boxes(sources: Iterable[Path], clips: Iterable[Clip], job: Job, show: ShowProgress) -> Boxes:
    """Find all that will be cut, before anything is computed. Raises `UserError`."""
    # Sources
    boxes = {path: source_cuts(path, read_image(path), job).boxes for path in sources}
    # The background needs a place for each of their faces.
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
    # Driving videos
    drivings = {clip.path: next(iter(driving_cuts(clip, job, show).boxes), None) for clip in clips}
    return Boxes(boxes, drivings, background)


def write_preview(
    path: Path, sources: Iterable[Path], clips: Iterable[Clip], job: Job, show: ShowProgress
) -> None:
    """Draw what will be cut out of each source and, from its first frame, of each driving video.

    And where it goes in the background.
    """
    pictures, cuts = [], []
    for source in sources:
        pictures.append(read_image(source))
        cuts.append(source_cuts(source, pictures[-1], job))
    for clip in clips:
        pictures.append(next(iter(clip)))
        cuts.append(driving_cuts(clip, job, show))
    if job.background is not None:
        pictures.append(next(iter(job.background)))
        cuts.append(source_cuts(job.background.path, pictures[-1], job))
    write_image(path, preview_of(pictures, cuts, job.sizes[0]))


# ---- Results -----------------------------------------------------------------


class Done(NamedTuple):
    """What was written where, in how many seconds, and why there is no sound, or None."""

    pair: DemoPair
    written: Written
    fps: float
    seconds: float
    audio_note: str | None

    @property
    def figures(self) -> str:
        frames = self.written.frames
        return f"{frames} frames in {self.seconds:.1f} s, {frames / max(self.seconds, 1e-9):.1f} frames/s"


def write_results(
    networks: InferenceNetworks,
    pairs: Sequence[DemoPair],
    drivings: Drivings,
    job: Job,
    boxes: Boxes,
    show: ShowProgress,
    cancelled: Callable[[], bool],
) -> Iterator[Done]:
    """Animate pairs and write their results; yield each when it is there.

    Each source is encoded once. Of several pairs each driving video is analysed once, and its motion kept; a
    single one is animated as it is read. When `cancelled()`, the result ends with the frames that are done.
    Raises `UserError`, and `Cancelled` if there are none.
    """
    several = len(pairs) > 1
    motions: dict[Path, KnownMotion] = {}
    for path, group in itertools.groupby(pairs, key=lambda pair: pair.source):
        picture = read_image(path)
        source = source_of(path, picture, job, boxes)
        animators = make_animators(networks, source, job.options)
        for pair in group:
            driving = motions.get(pair.driving) or driving_of(pair.driving, drivings, job, boxes)
            # Of a video that drives several, the keypoints alone are needed from now on.
            if several and isinstance(driving, FittedClip):
                what = f"motion of {pair.driving.name}"
                driving = analyse(animators[0], driving, job.options, show, cancelled, what)
                motions[pair.driving] = driving
            # Animate and write.
            paste = paster(path, picture, job, boxes, driving.fps)
            with VideoWriter(pair.result, driving.fps, pair.driving if job.options.audio else None) as writer:
                started = time.monotonic()
                written = write_animation(
                    animators,
                    replace(source, paste=paste),
                    driving,
                    writer,
                    job.options,
                    show,
                    cancelled,
                    pair.result.name if several else "animation",
                )
            yield Done(pair, written, driving.fps, time.monotonic() - started, writer.audio_note)


def source_of(path: Path, picture: np.ndarray, job: Job, boxes: Boxes) -> SourcePictures:
    """Cut what is animated out of the picture (h, w, 3) that lies at `path`."""
    return cut_source(picture, boxes.sources[path], job.sizes, job.options.fit)


def driving_of(path: Path, drivings: Drivings, job: Job, boxes: Boxes) -> Driving:
    """Return a driving video in the size of the model, or the motion that stands for one."""
    driving = drivings[path]
    if isinstance(driving, KnownMotion):
        return driving
    return FittedClip(driving, job.sizes[0], job.options.fit, boxes.drivings[driving.path])


def paster(path: Path, picture: np.ndarray, job: Job, boxes: Boxes, fps: float) -> Paste | None:
    """Return what makes frames of a result, at `fps`, of the animated pieces of a picture.

    None where a piece is the frame.
    """
    if not job.options.paste_back:
        return None
    # Into the picture itself
    own = boxes.sources[path]
    if job.background is None:
        return functools.partial(Paster(picture.shape[:2], own).paste, picture)
    # Into each frame of the background, which begins anew where it ends
    paste = Paster(job.background.size, boxes.background[: len(own)]).paste
    frames = repeated(job.background, fps)
    return lambda pieces: paste(next(frames), pieces)


# ---- The whole of a command ----------------------------------------------------


def write_and_report(
    load: Callable[[], InferenceNetworks],
    pairs: Sequence[DemoPair],
    drivings: Drivings,
    job: Job,
    fingerprint: str,
) -> None:
    """Write all results, report them, and save the motions that are wanted. A signal ends the program.

    `load` gives the networks, `fingerprint` marks files of their motion. A single result keeps the frames
    that are done by a signal. Of several the unfinished one is dropped: in their folder it would pass as
    whole.
    """
    several, folder, finished = in_folder(job.options), pairs[0].result.parent, 0
    saved: set[Path] = set()  # files of motion
    if not several:
        check_target(pairs[0].result, drivings[pairs[0].driving].fps)
    with contextlib.ExitStack() as stack:
        # A bar for each pass over a single video, or one for all.
        show: ShowProgress = frames_bar
        tell: Callable[[str], None] = print
        if several:
            bar = stack.enter_context(Progress(count_frames(pairs, drivings, job), "animation", "frames"))
            show, tell = (lambda what, total: PartialProgress(bar, total, what)), bar.tell

        # Whoever gave a picture without a face should not wait for networks.
        clips = [driving for driving in drivings.values() if isinstance(driving, Clip)]
        boxes = find_boxes(dict.fromkeys(pair.source for pair in pairs), clips, job, show)
        networks = load()
        if several:
            folder.mkdir(exist_ok=True)

        # A second signal does not break off the last writes.
        caught = stack.enter_context(caught_signals())

        def cancelled() -> bool:
            if caught and several:
                raise Cancelled
            return bool(caught)

        try:
            for done in write_results(networks, pairs, drivings, job, boxes, show, cancelled):
                finished += 1
                path = motion_path(job.options, done.pair.driving)
                if path is not None and path not in saved:
                    saved.add(path)
                    save_motion(path, done.written.keypoints, done.fps, fingerprint)
                report(done, tell)
        except Cancelled:
            if several:
                print(f"stopped: {folder} has {finished} of {len(pairs)} results", file=sys.stderr)
            sys.exit(128 + caught[0])
        if (frames := done.written.frames) < (wanted := len(drivings[done.pair.driving])):
            print(f"stopped: {done.pair.result} holds {frames} of {wanted} frames", file=sys.stderr)
            sys.exit(128 + caught[0])


def report(done: Done, tell: Callable[[str], None]) -> None:
    """Tell how long a result took; why it has no sound goes to stderr."""
    if done.audio_note is not None:
        print(f"warning: {done.audio_note}", file=sys.stderr)
    if done.written.best_frame is not None:
        tell(f"Best frame: {done.written.best_frame}")
    tell(f"{done.pair.result}: {done.figures}")


def count_frames(pairs: Sequence[DemoPair], drivings: Drivings, job: Job) -> int:
    """Count the frames of all passes over the driving videos of several results."""
    finds_faces = job.options.crop and job.options.crop_driving is None
    passes = finds_faces + (len(pairs) > 1 or job.options.measured_elsewhere)
    used = {pair.driving: drivings[pair.driving] for pair in pairs}
    before = sum(passes * len(driving) for driving in used.values() if isinstance(driving, Clip))
    return before + sum(len(drivings[pair.driving]) for pair in pairs)
