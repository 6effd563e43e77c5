"""From choices to a video: what `demo.py` does with its options, told in words for the page."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from checkpoints.hub import Model, find_model
from checkpoints.table import DEFAULT_MODEL
from inference import jobs
from inference.animation import KnownMotion
from inference.inputs import Clips, DemoPair, make_pairs, model_files, open_clips
from inference.networks import InferenceNetworks, fingerprint_of, kept_networks, model_size
from inference.options import DemoOptions
from media.clips import Clip
from media.pictures import read_image_size
from modules.build import read_config
from page.limits import check_clip, check_job, check_model, in_words, read_picture
from utils.errors import UserError
from utils.hints import warn
from utils.tickets import Ticket

# PyTorch keeps a pool of threads for each thread that computes, so one does all of it. Live frames have a
# worker of their own, so that they need not wait for a video, and nobody waits for a model that others want.
VIDEO_WORKER = ThreadPoolExecutor(1, "video")
LIVE_WORKER = ThreadPoolExecutor(1, "live")
DOWNLOADS = ThreadPoolExecutor(8, "download")


def choose_model(options: DemoOptions, offline: bool) -> InferenceNetworks:
    """Load the model of that name, or that of two files where they are given. Raises `UserError`."""
    model = model_files(replace(options, offline=offline))
    config = read_config(model.config)
    check_model(config, model_size(config, model.config))
    return kept_networks(*model)


class Made(NamedTuple):
    """The file of a result, and a line that says how it went."""

    path: Path
    line: str


@dataclass(frozen=True)
class Plan:
    """What an animation needs but for its networks. `whole`: the (h, w) of picture or source video."""

    pair: DemoPair
    clips: Clips
    config: dict
    job: jobs.Job
    whole: tuple[int, int]

    @property
    def clip(self) -> Clip | None:
        return self.clips.drivings.get(self.pair.driving)


def open_files(options: DemoOptions) -> tuple[DemoOptions, DemoPair, Clips]:
    """Open pictures and videos; sound is carried over where there is some. Raises `UserError`."""
    for name, words in (
        ("source_image", "there is no picture" if options.source_video is None else ""),
        ("driving_video", "there is no driving video" if options.driving_motion is None else ""),
    ):
        if words and getattr(options, name) is None:
            raise UserError(f"--{name}: {words}; choose one in the tab Animate, or click an example there")
    (pair,) = make_pairs(options)
    clips = open_clips(options, [pair])
    for clip in (*clips.drivings.values(), clips.background, clips.source):
        if clip is not None:
            check_clip(clip)
    audio = options.audio and any(clip.has_audio for clip in clips.drivings.values())
    return replace(options, audio=audio), pair, clips


def make_plan(options: DemoOptions, offline: bool) -> Plan:
    """Open the files, and see what the job costs. No checkpoint is needed. Raises `UserError`."""
    options, pair, clips = open_files(replace(options, offline=offline))
    name = options.model or DEFAULT_MODEL
    path = options.config or find_model(name, offline, download_it=False).config
    config = read_config(path)
    job = jobs.make_job(options, model_size(config, path), clips.background, clips.source)
    whole = read_image_size(pair.source) if clips.source is None else clips.source.size
    plan = Plan(pair, clips, config, job, whole)
    check_job(job, config, whole, len(plan.clip or ()))
    if plan.clip is not None:
        jobs.check_best_frame(options.best_frame, plan.clip, pair.driving)
    return plan


def animate_files(plan: Plan, model: Model, folder: Path, ticket: Ticket) -> Made:
    """Write the result into `folder`. Raises `UserError`, and `Cancelled` where nothing was written."""
    job, clip = plan.job, plan.clip
    pair = plan.pair._replace(result=folder / plan.pair.result)
    if plan.clips.source is None:
        read_picture(pair.source)
    drivings: jobs.Drivings = plan.clips.drivings
    if clip is None:
        motion = KnownMotion.read(pair.driving, fingerprint_of(plan.config, model.checkpoint), plan.config)
        drivings = {pair.driving: motion}

    # Boxes are of use when all are found; of a video any part is.
    clips = plan.clips.drivings.values()
    places = jobs.find_places([pair.source], clips, job, ticket.show_or_stop, jobs.known_cuts)
    faces = max(map(len, places.sources.values()))
    check_job(job, plan.config, plan.whole, len(drivings[pair.driving]), faces)
    networks, cancelled = kept_networks(*model), ticket.stopped.is_set
    (done,) = jobs.write_results(networks, [pair], False, drivings, job, places, ticket.show, cancelled)

    # A folder of pngs is downloaded as one file.
    path = pair.result
    if path.is_dir():
        path = Path(shutil.make_archive(str(path), "zip", path))

    # A line about it: was it cancelled, how fast was it, where does movement begin, is there sound?
    frames, best = done.written.frames, done.written.best_frame
    if done.audio_note is not None:
        warn(done.audio_note)
    parts = [
        "" if frames == done.expected else f"stopped after {frames} of {done.expected} frames",
        done.figures + ("" if best is None else f", measured from frame {best}"),
        in_words(done.audio_note or ""),
    ]
    return Made(path, "; ".join(filter(None, parts)))
