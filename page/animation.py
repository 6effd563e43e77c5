"""From the values of the widgets to a job of `results.py`, which makes the video."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints.table import DEFAULT_MODEL
from faces.options import box_option
from inference.inputs import DemoPair
from inference.jobs import Job, check_best_frame, find_boxes, make_job, write_results
from inference.options import DemoOptions
from media.clips import Clip
from media.pictures import Size
from page.limits import check_upload, open_upload, without_folders
from page.models import choose_model
from page.work import Task
from utils.errors import UserError
from utils.options import as_words

RELATIVE, ABSOLUTE = "relative", "absolute"
FIRST, BEST, CHOSEN = "first frame", "best frame", "frame of the slider"
NOTHING, FACES, BOXES = "nothing", "faces", "boxes"
EVERY_FACE = "all"
FORMATS = {"mp4": ".mp4", "mov": ".mov", "mkv": ".mkv", "webm": ".webm", "gif": ".gif", "png (zip)": ""}


@dataclass(frozen=True)
class Choices:
    """The values of the widgets, in their order on the page and in the HTTP interface."""

    source_image: str | None = None
    driving_video: str | None = None
    model: str = DEFAULT_MODEL
    config: str | None = None
    checkpoint: str | None = None
    movement: str = RELATIVE
    adapt_scale: bool = True
    reference: str = FIRST
    best_frame: int = 0
    smooth: float = 0.0
    cut: str = NOTHING
    crop_source: str = ""
    crop_driving: str = ""
    face: str = "largest"
    paste_back: bool = False
    fit: str = "crop"
    size: int = 0
    side_by_side: bool = False
    audio: bool = True
    format: str = "mp4"

    def options(self, has_sound: bool = True) -> DemoOptions:
        """Return the options of `demo.py` that do the same. Raises `UserError`."""
        relative = self.movement == RELATIVE
        boxes = {name: getattr(self, name).strip() for name in ("crop_source", "crop_driving")}
        corners = {
            name: checked_box(text, name) if text and self.cut == BOXES else None
            for name, text in boxes.items()
        }
        return DemoOptions(
            relative=relative,
            adapt_scale=relative and self.adapt_scale,
            find_best_frame=relative and self.reference == BEST,
            best_frame=int(self.best_frame) if relative and self.reference == CHOSEN else None,
            smooth=self.smooth or None,
            crop=self.cut == FACES,
            face=self.face if self.cut == FACES else "largest",
            crop_source=corners["crop_source"],
            crop_driving=corners["crop_driving"],
            paste_back=self.paste_back,
            fit=self.fit,
            size=int(self.size) or None,
            side_by_side=self.side_by_side,
            audio=self.audio and has_sound,
        )

    def check(self) -> None:
        """Raise `UserError` for choices that don't go together."""
        cuts_picture = self.cut == FACES or (self.cut == BOXES and self.crop_source.strip())
        wrong = {
            "'paste back' needs something that is cut out of the picture: choose faces, or a box": (
                self.paste_back and not cuts_picture
            ),
            "every face needs 'paste back', which puts them into one picture": (
                self.cut == FACES and self.face == EVERY_FACE and not self.paste_back
            ),
            "'paste back' and 'side by side' exclude each other: choose one": (
                self.paste_back and self.side_by_side
            ),
        }
        for problem, is_so in wrong.items():
            if is_so:
                raise UserError(problem)


def checked_box(text: str, name: str) -> tuple[int, int, int, int]:
    """The value of a text field L,T,R,B. Raises `UserError`."""
    try:
        return box_option(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{name.replace('_', ' ')}: {error}") from error


# ---- The same on a command line ------------------------------------------------


def command(choices: Choices, has_sound: bool) -> str:
    """The command that does the same, for files of the same names in the working folder.

    `has_sound`: whether the driving video has any.
    """
    own_model = choices.checkpoint and choices.config
    files: dict[str, Any] = (
        {name: named(getattr(choices, name)) for name in ("config", "checkpoint")} if own_model else {}
    )
    options = replace(
        choices.options(has_sound),
        **files,
        model=None if own_model or choices.model == Choices.model else choices.model,
        source_image=(named(choices.source_image or "source_image"),),
        driving_video=(named(choices.driving_video or "driving_video"),),
        result_video=Path(f"result{FORMATS[choices.format]}"),
    )
    return shlex.join(["python", "demo.py", *as_words(options)])


def named(path: str) -> Path:
    return Path(Path(path).name)


# ---- The animation -------------------------------------------------------------


class Result(NamedTuple):
    """The file of the result, and a line that says how it went."""

    path: Path
    line: str


def check_files(choices: Choices) -> Clip:
    """The driving video.

    Raises `UserError` where it or the picture is missing or beyond the limits, and for choices that don't go
    together.
    """
    check_upload(choices.source_image)
    clip = open_upload(choices.driving_video)
    choices.check()
    return clip


def job_of(choices: Choices, clip: Clip, size: Size) -> Job:
    """What `demo.py` makes of its options. `size`: (H, W) of the model. Raises `UserError`."""
    return make_job(choices.options(clip.has_audio), size)


def animate_files(choices: Choices, folder: Path, task: Task, offline: bool) -> Result:
    """Write the result into `folder`. Raises `UserError`, and `Cancelled` where nothing was written."""
    clip = check_files(choices)
    assert choices.source_image is not None
    model = choose_model(choices.model, choices.config, choices.checkpoint, offline)
    job = job_of(choices, clip, model.size)
    check_best_frame(job.options.best_frame, clip, clip.path)
    pair = DemoPair(Path(choices.source_image), clip.path, folder / f"result{FORMATS[choices.format]}")
    boxes = find_boxes([pair.source], [clip], job, task.show_or_stop)
    drivings = {clip.path: clip}
    (done,) = write_results(model.networks, [pair], drivings, job, boxes, task.show, task.stopped.is_set)
    path = pair.result
    if path.is_dir():
        path = Path(shutil.make_archive(str(path), "zip", path))
    frames, best = done.written.frames, done.written.best_frame
    parts = [
        "" if frames == len(clip) else f"stopped after {frames} of {len(clip)} frames",
        done.figures + ("" if best is None else f", measured from frame {best}"),
        without_folders(done.audio_note or ""),
    ]
    return Result(path, "; ".join(filter(None, parts)))


async def lines_of_progress(
    task: Task[Result], choices: Choices, folder: Path, offline: bool
) -> AsyncIterator[str]:
    """Let the worker animate; yields how far it is. The result is `task.result()` then."""
    async for line in task.run(lambda: animate_files(choices, folder, task, offline)):
        yield line


async def command_of(choices: Choices) -> str:
    """The command for files that were uploaded. Raises `UserError` as `check_files` does."""
    return command(choices, (await asyncio.to_thread(check_files, choices)).has_audio)
