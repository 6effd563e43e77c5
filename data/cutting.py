"""Cut, resize and write many clips in parallel, and read whole ones; `data/` has programs built from this.

A clip has its name only when it is whole, as `VideoWriter` writes under a temporary one. So the names in a
folder say what is finished, and a run that was killed goes on. Workers import this file, so it imports no
PyTorch, which takes seconds.

Sizes are (height, width) in pixels, boxes (left, top, right, bottom).
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from media.clips import Clip, has_suffix, identity, open_clip
from media.listing import write_index
from media.pictures import IMAGE_SUFFIXES, Box, Size, fit, read_image_size
from media.writer import VideoWriter
from utils.errors import DatasetError, MediaError, UserError
from utils.files import TEMPORARY_NAME
from utils.hints import hint
from utils.program import say
from utils.progress import Progress
from utils.values import integer
from utils.workers import in_parallel

SPLITS = ("train", "val", "test")  # val/ may be missing
WORKERS = (1, 512)
MIN_FRAMES = 2  # a training sample is two frames of a clip
MIN_SIDE = 8  # pixels
FLAT, BLACK, STILL = 8, 16, 0.5  # grey levels of 255
MAX_READ = 2**28  # bytes of frames decoded between two seeks

Job = TypeVar("Job")


# ---- One clip ---------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A clip to write: `frames` of `source` (None: all), of each `box` (None: all), fitted to `size`."""

    source: Path
    target: Path  # .mp4, or without suffix a folder of png
    size: Size
    fit: str  # stretch, crop or pad
    box: Box | None = None
    frames: range | None = None


class Outcome(NamedTuple):
    """A clip's length and its source's frames per second, or what went wrong; what a user should know."""

    target: Path
    frames: int = 0
    fps: float = 0.0
    error: str = ""
    hints: Sequence[str] = ()


def write_cut(cut: Cut) -> Outcome:
    """Write a clip unless it is there. It holds `MAX_READ` bytes of frames at most, or one frame."""
    try:
        clip = open_clip(cut.source)
        if not cut.target.exists():
            wanted = range(len(clip)) if cut.frames is None else cut.frames
            if len(wanted) < MIN_FRAMES:
                raise MediaError(f"{cut.source}: too short, training needs {MIN_FRAMES} frames; leave it out")
            with VideoWriter(cut.target, clip.fps) as writer:
                for frame in read_frames(clip, wanted):
                    writer.write(fit(frame, cut.size, cut.fit, cut.box))
        return finished_clip(cut.target, clip.fps)._replace(hints=clip.hints())
    except MediaError as error:
        return Outcome(cut.target, error=str(error))


def finished_clip(target: Path, fps: float) -> Outcome:
    """Look at a clip that has its name; `fps` is its source's."""
    try:
        return Outcome(target, len(open_clip(target)), fps)
    except MediaError as error:
        return Outcome(target, error=str(error))


def read_frames(clip: Clip, wanted: range) -> Iterator[np.ndarray]:
    """Yield the frames numbered `wanted`, (H, W, 3) uint8; to a part of the clip it seeks."""
    if wanted == range(len(clip)):
        yield from clip
        return
    height, width = clip.size
    count = max(1, MAX_READ // (3 * height * width))
    for start in range(wanted.start, wanted.stop, count):
        yield from clip.read(range(start, min(start + count, wanted.stop)))


# ---- Many clips -------------------------------------------------------------


def make_clips(
    out: Path,
    size: Size,
    function: Callable[[Job], list[Outcome]],
    jobs: Sequence[Job],
    targets: Sequence[Path],
    workers: int,
) -> list[Outcome]:
    """Run `function` on the jobs, which make the clips `targets` of a size in the split folders of `out`.

    Prints a table of what is there and returns the outcomes that failed. Raises `DatasetError` before
    anything is written if `out` can't be, or holds the clips in another size or format.
    """
    # What is there already?
    finished = check_finished(targets, size)
    if finished:
        say(f"{finished} of {len(targets)} clips are finished already", sys.stderr)

    # A folder to write to, without what killed workers left.
    try:
        for folder in {out / "train", out / "test", *(target.parent for target in targets)}:
            folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
    except OSError as error:
        raise DatasetError(
            f"{out}: can't be written ({error.strerror or error}); name a folder that can"
        ) from error

    # All clips, whole ones too: their lengths belong to the table.
    outcomes: list[Outcome] = []
    try:
        with (
            Progress(len(targets), "clips", "clip") as progress,
            contextlib.closing(in_parallel(function, jobs, workers)) as results,
        ):
            for made in results:
                outcomes += made
                progress.advance(len(made))
    finally:
        remove_leftovers(out)
    for folder in {outcome.target.parent for outcome in outcomes if not outcome.error}:
        write_index(folder)
    hints = [line for outcome in outcomes for line in outcome.hints]
    for line in hints[:1]:
        hint(f"{line}; {len(hints)} of {len(outcomes)} clips are")
    print_summary(out, [outcome for outcome in outcomes if not outcome.error])
    return [outcome for outcome in outcomes if outcome.error]


def check_finished(targets: Sequence[Path], size: Size) -> int:
    """Count the clips that are there. Raises `DatasetError` if they are of another size or format."""
    for target in targets:  # a clip in both formats would count twice
        twin = target.with_suffix("" if target.suffix else ".mp4")
        if twin.exists():
            raise DatasetError(f"{twin}: is there in another format; use that format, or a new folder")
    finished = [target for target in targets if target.exists()]
    for target in finished[:1]:  # all are of one run
        found = open_clip(target).size
        if found != size:
            was, wanted = ("x".join(map(str, sides)) for sides in (found, size))
            raise DatasetError(f"{target}: was made in {was}, not {wanted}; use that size, or a new folder")
    return len(finished)


def remove_leftovers(out: Path) -> None:
    """Remove what killed workers left half-written."""
    for path in (path for folder in split_folders(out) for path in folder.iterdir()):
        if TEMPORARY_NAME.fullmatch(path.name):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def split_folders(root: Path) -> list[Path]:
    """Return the folders of a dataset that hold clips: those of its splits, or else the dataset itself."""
    return [folder for split in SPLITS if (folder := root / split).is_dir()] or [root]


def print_summary(out: Path, clips: list[Outcome]) -> None:
    say(f"{out}:")
    print(f"{'':7}{'clips':>9}{'frames':>11}{'identities':>12}{'seconds':>11}")
    for split in (folder.name for folder in split_folders(out)):
        members = [clip for clip in clips if clip.target.parent.name == split]
        frames = sum(clip.frames for clip in members)
        seconds = sum(clip.frames / clip.fps for clip in members)
        identities = {identity(clip.target.name) for clip in members}
        print(f"{split:7}{len(members):9}{frames:11}{len(identities):12}{seconds:11.1f}")


# ---- Faults -----------------------------------------------------------------


class Inspected(NamedTuple):
    """The content of a clip; `fault` is empty, or a line with the fault and the remedy."""

    path: Path
    size: Size | None = None
    frames: int = 0
    fault: str = ""


def inspect_clip(job: tuple[Path, tuple[int, int, int] | None]) -> Inspected:
    """Read every frame of a clip; strips are cut into frames of the shape given, or into squares."""
    path, shape = job
    frames, brightest, contrast, movement = 0, 0, 0, 0.0
    first: np.ndarray | None = None
    try:
        clip = open_clip(path, shape or square(path))
        for frame in clip:
            small = frame[::4, ::4].astype(np.int16)  # (H/4, W/4, 3)
            first = small if first is None else first
            frames += 1
            brightest = max(brightest, int(small.max()))
            contrast = max(contrast, int(np.ptp(small, axis=(0, 1)).max()))
            movement = max(movement, float(np.abs(small - first).mean()))
    except MediaError as error:
        return Inspected(path, fault=str(error))
    fault = ""
    if frames < MIN_FRAMES:
        fault = f"has {frames} frame, training needs {MIN_FRAMES}"
    elif contrast <= FLAT:
        fault = "is black" if brightest <= BLACK else "is of one flat colour in each frame"
    elif movement < STILL:
        fault = "is a still picture: nothing moves"
    return Inspected(path, clip.size, frames, f"{path}: {fault}; remove it" if fault else "")


def square(path: Path) -> tuple[int, int, int] | None:
    """Return the frame shape of a strip that is a row of squares; None for other kinds of clips."""
    if path.is_dir() or not has_suffix(path.name, IMAGE_SUFFIXES):
        return None
    height, _ = read_image_size(path)
    return height, height, 3


# ---- Options ----------------------------------------------------------------


def size_option(text: str) -> Size:
    """Read "256" or "256,384" (height, width) for argparse."""
    sides = [integer(side, MIN_SIDE, 2**13) for side in text.split(",")]
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(f"'{text}': give one side, or height,width")
    return sides[0], sides[-1]


def check_even(size: Size, suffix: str) -> None:
    """Refuse what an .mp4 would pad."""
    if suffix == ".mp4" and (size[0] % 2 or size[1] % 2):
        raise UserError(f"{size[0]}x{size[1]}: an .mp4 needs even sides; choose another size, or png")
