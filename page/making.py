"""From choices to a video: what `demo.py` does with its options, told in words for the page."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from inference.animation import FittedClip
from inference.jobs import Job, Pair, check_best_frame, find_boxes, make_job, write_result
from page.choices import FORMATS, Choices
from page.limits import check_picture, open_video, without_folders
from page.models import Loaded, choose_model
from page.worker import Ticket


class Made(NamedTuple):
    """The file of a result, and a line that says how it went."""

    path: Path
    line: str


@dataclass(frozen=True)
class Plan:
    """What an animation needs: its files, its model, and how it is made."""

    picture: Path
    driving: FittedClip
    model: Loaded
    job: Job


def make_plan(choices: Choices, offline: bool) -> Plan:
    """Open the files and load the model, which may be downloaded for this. Raises `UserError`."""
    picture, clip = check_picture(choices.source_image), open_video(choices.driving_video)
    model = choose_model(choices.model, choices.config, choices.checkpoint, offline)
    job = make_job(
        choices.settings,
        choices.crops,
        model.size,
        choices.size or None,
        choices.paste_back,
        audio=choices.audio and clip.has_audio,
    )
    driving = FittedClip(clip, model.size, job.settings.fit)
    check_best_frame(job.settings.best_frame, driving)
    return Plan(picture, driving, model, job)


def animate_files(choices: Choices, folder: Path, ticket: Ticket, offline: bool) -> Made:
    """Write the result into `folder`. Raises `UserError`, and `Cancelled` where nothing was written."""
    plan = make_plan(choices, offline)
    job, driving = plan.job, plan.driving
    pair = Pair(plan.picture, driving.path, folder / f"result{FORMATS[choices.format]}")
    boxes = find_boxes([pair.source], [driving], job, ticket.show_or_stop)
    done = write_result(plan.model.networks, pair, driving, job, boxes, ticket.show, ticket.stopped.is_set)
    path = pair.result
    if path.is_dir():  # of pngs
        path = Path(shutil.make_archive(str(path), "zip", path))
    frames, best = done.written.frames, done.written.best_frame
    parts = [
        "" if frames == len(driving) else f"stopped after {frames} of {len(driving)} frames",
        done.figures + ("" if best is None else f", measured from frame {best}"),
        without_folders(done.audio_note or ""),
    ]
    return Made(path, "; ".join(filter(None, parts)))


# ---- The same on a command line ------------------------------------------------


def command_of(choices: Choices) -> str:
    """The command that makes the same of files in the working folder. Raises `UserError`."""
    picture, clip = check_picture(choices.source_image), open_video(choices.driving_video)
    by_name = choices.config is None and choices.model != Choices.model
    given: dict[str, object] = {
        "config": choices.config,
        "checkpoint": choices.checkpoint,
        "model": choices.model if by_name else None,
        "source_image": picture,
        "driving_video": clip.path,
    }
    for options in (choices.settings, choices.crops):
        values = ((field, getattr(options, field.name)) for field in fields(options))
        given |= {field.name: value for field, value in values if value != field.default}
    given |= {"paste_back": choices.paste_back, "audio": choices.audio and clip.has_audio}
    given |= {"size": choices.size or None, "result_video": f"result{FORMATS[choices.format]}"}
    words = (word for name, value in given.items() for word in words_of(name, value))
    return shlex.join(["python", "demo.py", *words])


def words_of(name: str, value: object) -> list[str]:
    """An option as it is typed; nothing where it is not given."""
    if value is None or isinstance(value, bool):
        return [f"--{name}"] if value else []
    if isinstance(value, tuple):
        return [f"--{name}={','.join(map(str, value))}"]  # a box may begin with a minus sign
    if isinstance(value, Path):
        return [f"--{name}", value.name]
    return [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
