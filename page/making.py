"""From choices to a video: what `demo.py` does with its options, told in words for the page."""

from __future__ import annotations

import functools
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from checkpoints.hub import find_model
from checkpoints.table import DEFAULT_MODEL
from inference.inputs import DemoPair
from inference.jobs import Job, check_best_frame, find_places, make_job, write_results
from inference.networks import InferenceNetworks, load_networks, size_for
from inference.options import DemoOptions
from media.clips import Clip
from modules.build import read_config
from page.limits import check_picture, open_video, without_folders
from page.worker import Ticket
from utils.device import pick_device
from utils.options import as_words

KEPT_MODELS = 2  # in memory; one of 256x256 takes about 250 MiB


def choose_model(options: DemoOptions, offline: bool) -> InferenceNetworks:
    """Load the model of that name, or that of two files where they are given. Raises `UserError`."""
    if options.config is not None and options.checkpoint is not None:
        return load_model(options.config, options.checkpoint)
    return load_model(*find_model(options.model or DEFAULT_MODEL, offline))


@functools.lru_cache(maxsize=KEPT_MODELS)
def load_model(config_path: Path, checkpoint: Path) -> InferenceNetworks:
    """Load a model, or take it from memory: Gradio names the folder of an upload after its content."""
    config = read_config(config_path)
    return load_networks(config, config_path, checkpoint, pick_device(), plain=False)


class Made(NamedTuple):
    """The file of a result, and a line that says how it went."""

    path: Path
    line: str


@dataclass(frozen=True)
class Plan:
    """What an animation needs: its files, the networks, and how it is made."""

    picture: Path
    clip: Clip
    networks: InferenceNetworks
    job: Job


def open_files(options: DemoOptions) -> tuple[DemoOptions, Path, Clip]:
    """Open picture and driving video; sound is carried over where there is some. Raises `UserError`."""
    picture, clip = check_picture(first(options.source_image)), open_video(first(options.driving_video))
    return replace(options, audio=options.audio and clip.has_audio), picture, clip


def first(paths: tuple[Path, ...] | None) -> Path | None:
    return None if paths is None else paths[0]


def make_plan(options: DemoOptions, offline: bool) -> Plan:
    """Open the files and load the model, which may be downloaded for this. Raises `UserError`."""
    options, picture, clip = open_files(options)
    networks = choose_model(options, offline)
    job = make_job(options, size_for(networks[0], picture))
    check_best_frame(options.best_frame, clip, clip.path)
    return Plan(picture, clip, networks, job)


def animate_files(options: DemoOptions, folder: Path, ticket: Ticket, offline: bool) -> Made:
    """Write the result into `folder`. Raises `UserError`, and `Cancelled` where nothing was written."""
    plan = make_plan(options, offline)
    clip, job = plan.clip, plan.job
    assert job.options.result_video is not None
    pair = DemoPair(plan.picture, clip.path, folder / job.options.result_video)

    # Boxes are of use when all are found; of a video any part is.
    places = find_places([pair.source], [clip], job, ticket.show_or_stop)
    drivings, cancelled = {clip.path: clip}, ticket.stopped.is_set
    (done,) = write_results(plan.networks, [pair], drivings, job, places, ticket.show, cancelled)

    # A folder of pngs is downloaded as one file.
    path = pair.result
    if path.is_dir():
        path = Path(shutil.make_archive(str(path), "zip", path))

    # A line about it: was it cancelled, how fast was it, where does movement begin, is there sound?
    frames, best = done.written.frames, done.written.best_frame
    parts = [
        "" if frames == len(clip) else f"stopped after {frames} of {len(clip)} frames",
        done.figures + ("" if best is None else f", measured from frame {best}"),
        without_folders(done.audio_note or ""),
    ]
    return Made(path, "; ".join(filter(None, parts)))


def command_of(options: DemoOptions) -> str:
    """Write the command that makes the same of files in the working folder. Raises `UserError`."""
    options, picture, clip = open_files(options)
    options = replace(
        options,
        source_image=(Path(picture.name),),
        driving_video=(Path(clip.path.name),),
        config=options.config and Path(options.config.name),
        checkpoint=options.checkpoint and Path(options.checkpoint.name),
    )
    return shlex.join(["python", "demo.py", *as_words(options)])
