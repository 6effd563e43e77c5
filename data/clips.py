"""Cutting, resizing and writing many clips in parallel, so that a run that was killed goes on where it was.

`prepare.py` and `taichi-loading/load_videos.py` are built from this. A clip has its name only when it is
whole: `VideoWriter` writes under a temporary one. `Ledger` remembers what is finished. Workers die with the
program that started them. They import this file, so it imports no PyTorch.

Sizes are (height, width) in pixels, boxes (left, top, right, bottom).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from media.clips import Clip, identity, open_clip
from media.pictures import Box, Size, fit
from media.writer import VideoWriter
from utils.errors import DatasetError, MediaError, UserError
from utils.files import TEMPORARY_NAME, atomic_write, regular_file
from utils.progress import Progress
from utils.workers import in_parallel

SPLITS = ("train", "test")
MIN_FRAMES = 2  # a training sample is two frames of a clip
MIN_SIDE = 8  # pixels
MAX_READ = 2**28  # bytes of frames decoded between two seeks
MAX_LEDGER_BYTES = 2**30


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
    """What became of a clip: its length and its source's frames per second, or what went wrong."""

    target: Path
    source: str
    frames: int = 0
    fps: float = 0.0
    error: str = ""


def write_clip(cut: Cut) -> Outcome:
    """Write a clip unless it is there already. It holds `MAX_READ` bytes of frames at most, or one frame."""
    try:
        clip = open_clip(cut.source)
        if not cut.target.exists():
            wanted = range(len(clip)) if cut.frames is None else cut.frames
            if len(wanted) < MIN_FRAMES:
                raise MediaError(f"{cut.source}: too short, training needs {MIN_FRAMES} frames; leave it out")
            with VideoWriter(cut.target, clip.fps) as writer:
                for frame in frames_of(clip, wanted):
                    writer.write(fit(frame, cut.size, cut.fit, cut.box))
        return Outcome(cut.target, str(cut.source), len(open_clip(cut.target)), clip.fps)
    except MediaError as error:
        return Outcome(cut.target, str(cut.source), error=str(error))


def frames_of(clip: Clip, wanted: range) -> Iterator[np.ndarray]:
    """The frames numbered `wanted`, (H, W, 3) uint8 each; to a part of the clip it seeks."""
    if wanted == range(len(clip)):
        yield from clip
        return
    height, width = clip.size
    count = max(1, MAX_READ // (3 * height * width))
    for start in range(wanted.start, wanted.stop, count):
        yield from clip.read(range(start, min(start + count, wanted.stop)))


# ---- Many clips -------------------------------------------------------------


class Ledger:
    """The file `clips.jsonl` of a folder that is being filled: its settings, then a line a finished clip.

    `clips` maps "train/name" to a dict with `source`, `frames` and `fps`. Raises `DatasetError` if the folder
    was filled with other settings, or not by us.
    """

    def __init__(self, out: Path, settings: dict[str, Any]):
        self.out, self.path = out, out / "clips.jsonl"
        try:
            self._open(settings)
        except OSError as error:
            raise DatasetError(
                f"{out}: can't be written ({error.strerror or error}); name a folder that can"
            ) from error

    def _open(self, settings: dict[str, Any]) -> None:
        header, *lines = self._read() or [settings]
        if not isinstance(header, dict):
            raise DatasetError(f"{self.path}: its first line holds no settings; name a new folder")
        for key, value in settings.items():
            if header.get(key) != value:
                raise DatasetError(
                    f"{self.out}: was made with {key} {header.get(key)}, not {value}; use that, "
                    "or a new folder"
                )
        self.clips = {line.pop("clip"): line for line in lines if is_entry(line)}
        for split in SPLITS:
            (self.out / split).mkdir(parents=True, exist_ok=True)
        self._write(settings)
        self.remove_leftovers()

    def _read(self) -> list[Any]:
        """What the lines hold; None for one that a dying process left unfinished, or that is damaged."""
        if not self.path.exists():
            if any((self.out / split).exists() for split in SPLITS):
                raise DatasetError(
                    f"{self.out}: holds {' or '.join(SPLITS)} from elsewhere; name a new folder"
                )
            return []
        text = regular_file(self.path, DatasetError, MAX_LEDGER_BYTES).read_text("utf-8", errors="replace")
        lines: list[Any] = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except (ValueError, RecursionError):
                lines.append(None)
        return lines

    def _write(self, settings: dict[str, Any]) -> None:
        lines = [settings, *({"clip": name} | clip for name, clip in self.clips.items())]
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def remove_leftovers(self) -> None:
        """Remove what killed workers left half-written."""
        for split in SPLITS:
            for path in (self.out / split).iterdir():
                if TEMPORARY_NAME.fullmatch(path.name):
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()

    def holds(self, name: str) -> bool:
        """Whether the clip "train/name" is finished and still there."""
        return name in self.clips and (self.out / name).exists()

    def add(self, outcome: Outcome) -> None:
        """Enter a clip that is finished."""
        name = self.name(outcome.target)
        self.clips[name] = {"source": outcome.source, "frames": outcome.frames, "fps": outcome.fps}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"clip": name} | self.clips[name]) + "\n")

    def name(self, target: Path) -> str:
        """ "train/name" of the clip at `target`."""
        return target.relative_to(self.out).as_posix()


def is_entry(line: Any) -> bool:
    """Whether a line of a ledger is what `Ledger.add` writes. A clip without one is looked at anew."""
    if not isinstance(line, dict) or not isinstance(line.get("source"), str):
        return False
    name, frames, fps = line.get("clip"), line.get("frames"), line.get("fps")
    return (
        isinstance(name, str)
        and name.startswith(tuple(f"{split}/" for split in SPLITS))
        and type(frames) is int
        and 0 < frames < 10**9
        and isinstance(fps, int | float)
        and 0 < fps < 10**6
    )


def make_clips(
    function: Callable[[Any], list[Outcome]], jobs: Sequence[Any], clips: int, ledger: Ledger, workers: int
) -> list[Outcome]:
    """Run `function` on the jobs, which make `clips` clips, and enter those in the ledger.

    Returns the outcomes that failed.
    """
    failures = []
    try:
        with (
            Progress(clips, "clips", "clip") as progress,
            contextlib.closing(in_parallel(function, jobs, workers)) as results,
        ):
            for outcomes in results:
                for outcome in outcomes:
                    if outcome.error:
                        failures.append(outcome)
                    else:
                        ledger.add(outcome)
                progress.advance(len(outcomes))
    finally:
        ledger.remove_leftovers()
    return failures


def print_summary(ledger: Ledger) -> None:
    """A table of the clips that are there, from this run and earlier ones."""
    print(f"{ledger.out}:\n{'':7}{'clips':>9}{'frames':>11}{'identities':>12}{'seconds':>11}")
    for split in SPLITS:
        clips = {
            Path(name).name: clip
            for name, clip in ledger.clips.items()
            if name.startswith(split) and ledger.holds(name)
        }
        frames = sum(clip["frames"] for clip in clips.values())
        seconds = sum(clip["frames"] / clip["fps"] for clip in clips.values())
        identities = {identity(name) for name in clips}
        print(f"{split:7}{len(clips):9}{frames:11}{len(identities):12}{seconds:11.1f}")


# ---- Options ----------------------------------------------------------------


def size_option(text: str) -> Size:
    """ "256" or "256,384" (height, width) for argparse."""
    sides = [int(side) for side in text.split(",")]
    if len(sides) not in (1, 2) or min(sides) < MIN_SIDE:
        raise argparse.ArgumentTypeError(
            f"{text}: give one side, or height,width, of {MIN_SIDE} pixels or more"
        )
    return sides[0], sides[-1]


def workers_option(text: str) -> int:
    """A number of processes for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 or more")
    return int(text)


def check_even(size: Size, suffix: str) -> None:
    """Refuse what an .mp4 would pad."""
    if suffix == ".mp4" and (size[0] % 2 or size[1] % 2):
        raise UserError(f"{size[0]}x{size[1]}: an .mp4 needs even sides; choose another size, or png")
