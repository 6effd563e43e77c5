"""From the values of the widgets to a video: what `demo.main` does with its options."""

from __future__ import annotations

import functools
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from animation import FittedClip, Settings, cut_source, write_animation
from faces.choose import box_option
from faces.cuts import CropSettings, Cuts, cuts_of_driving, cuts_of_source
from faces.detectors import Detector, load_detector
from faces.paste import Paster
from media.clips import Clip
from media.writer import VideoWriter
from modules.errors import UserError
from networks import larger_size
from page.limits import open_upload, read_upload
from page.models import choose_model
from page.work import Job

RELATIVE, ABSOLUTE = "relative", "absolute"
FIRST, BEST, CHOSEN = "first frame", "best frame", "frame of the slider"
NOTHING, FACES, BOXES = "nothing", "faces", "boxes"
FORMATS = {"mp4": ".mp4", "gif": ".gif", "png (zip)": ""}


@dataclass(frozen=True)
class Choices:
    """The values of the widgets, in their order on the page and in the HTTP interface."""

    source_image: str | None = None
    driving_video: str | None = None
    model: str = "puppets"
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

    @property
    def settings(self) -> Settings:
        relative = self.movement == RELATIVE
        return Settings(
            relative=relative,
            adapt_scale=relative and self.adapt_scale,
            find_best_frame=relative and self.reference == BEST,
            best_frame=int(self.best_frame) if relative and self.reference == CHOSEN else None,
            smooth=self.smooth or None,
            fit=self.fit,
            side_by_side=self.side_by_side and not self.paste_back,
        )

    @property
    def crops(self) -> CropSettings:
        boxes = {name: getattr(self, name).strip() for name in ("crop_source", "crop_driving")}
        corners = {
            name: checked_box(text, name) if text and self.cut == BOXES else None
            for name, text in boxes.items()
        }
        return CropSettings(
            crop=self.cut == FACES,
            face=self.face if self.cut == FACES else "largest",
            crop_source=corners["crop_source"],
            crop_driving=corners["crop_driving"],
            fit=self.fit,
        )


def checked_box(text: str, name: str) -> tuple[int, int, int, int]:
    """The value of a text field L,T,R,B. Raises `UserError`."""
    try:
        return box_option(text)
    except Exception as error:  # argparse's own, which says what is wrong
        raise UserError(f"{name.replace('_', ' ')}: {error}") from error


# ---- The same on a command line ------------------------------------------------


def command(choices: Choices) -> str:
    """The command that does the same, for files of the same names in the working folder."""
    settings, crops = choices.settings, choices.crops
    words = ["python", "demo.py"]
    if choices.checkpoint and choices.config:
        words += ["--config", Path(choices.config).name, "--checkpoint", Path(choices.checkpoint).name]
    elif choices.model != Choices.model:
        words += ["--model", choices.model]
    for name in ("source_image", "driving_video"):
        words += [f"--{name}", Path(getattr(choices, name) or name).name]
    changed = {
        field.name: getattr(options, field.name)
        for options in (settings, crops)
        for field in fields(options)
        if getattr(options, field.name) != field.default
    }
    for name, value in changed.items():
        words += option(name, value)
    for name in ("paste_back", "audio"):
        words += option(name, getattr(choices, name))
    if choices.size:
        words += ["--size", str(int(choices.size))]
    return shlex.join([*words, "--result_video", f"result{FORMATS[choices.format]}"])


def option(name: str, value: object) -> list[str]:
    """A setting as words of the command line."""
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    if isinstance(value, tuple):
        return [f"--{name}={','.join(map(str, value))}"]  # a box may begin with a minus sign
    return [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]


# ---- The animation -------------------------------------------------------------


class Result(NamedTuple):
    """The file of the result, and a line that says how it went."""

    path: Path
    line: str


def animate_files(choices: Choices, folder: Path, job: Job, offline: bool) -> Result:
    """Write the result into `folder`. Raises `UserError`, and `Cancelled` where nothing was written."""
    settings = choices.settings
    picture, clip = read_upload(choices.source_image), open_upload(choices.driving_video)
    model = choose_model(choices.model, choices.config, choices.checkpoint, offline)
    large = larger_size(model.size, int(choices.size) or None)
    source_cuts, driving_cuts = cuts(choices, picture, clip, model.size)
    check_paste(choices, source_cuts)
    source = cut_source(picture, source_cuts.boxes, (model.size, large), settings.fit)
    if choices.paste_back and choices.cut != NOTHING:
        paster = Paster(picture.shape[:2], source_cuts.boxes)
        source = replace(source, paste=functools.partial(paster.paste, picture))
    driving = FittedClip(clip, model.size, settings.fit, next(iter(driving_cuts.boxes), None))
    check_frame(settings.best_frame, driving)
    path = folder / f"result{FORMATS[choices.format]}"
    with VideoWriter(path, clip.fps, clip.path if choices.audio and clip.has_audio else None) as writer:
        started = time.monotonic()
        written = write_animation(
            model.networks, source, driving, writer, settings, job.show, job.stopped.is_set
        )
    seconds = time.monotonic() - started
    if path.is_dir():
        path = Path(shutil.make_archive(str(path), "zip", path))
    whole = (
        "" if written.frames == len(driving) else f"stopped after {written.frames} of {len(driving)} frames; "
    )
    best = "" if written.best_frame is None else f", measured from frame {written.best_frame}"
    rate = written.frames / max(seconds, 1e-9)
    return Result(path, f"{whole}{written.frames} frames in {seconds:.1f} s, {rate:.1f} frames/s{best}")


def cuts(choices: Choices, picture: np.ndarray, clip: Clip, size: tuple[int, int]) -> tuple[Cuts, Cuts]:
    """What is cut out of the picture and out of the video. Raises `UserError`."""
    crops = choices.crops
    looks = crops.crop or crops.fit == "crop"
    detect: Detector | None = load_detector(None, cpu=False) if looks else None
    assert choices.source_image is not None
    source = cuts_of_source(picture, Path(Path(choices.source_image).name), size, crops, detect)
    return source, cuts_of_driving(clip, size, crops, detect)


def check_paste(choices: Choices, source: Cuts) -> None:
    """Raise `UserError` for several faces that have no picture to be put back into."""
    if len(source.boxes) > 1 and not choices.paste_back:
        raise UserError("several faces need 'paste back', which puts them into one picture")


def check_frame(number: int | None, driving: FittedClip) -> None:
    if number is not None and not 0 <= number < len(driving):
        raise UserError(f"frame {number}: the video has the frames 0 to {len(driving) - 1}")


def lines_of_progress(job: Job, choices: Choices, folder: Path, offline: bool) -> Iterator[str]:
    """Let the worker animate; yields how far it is. The result is `job.result()` then."""
    return job.run(lambda: animate_files(choices, folder, job, offline))
