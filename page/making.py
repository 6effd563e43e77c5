"""From choices to a video: what `demo.py` does with its options, told in words for the page."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from checkpoints.hub import Model, ShowDownload, find_model, mebibytes_bar
from checkpoints.table import DEFAULT_MODEL
from inference import jobs
from inference.animation import KnownMotion
from inference.inputs import DemoPair, make_pairs, model_files, open_clips
from inference.networks import InferenceNetworks, fingerprint_of, kept_networks, model_size
from inference.options import DemoOptions
from media.clips import Clip
from media.pictures import Size, read_image_size
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


def choose_model(options: DemoOptions, show: ShowDownload = mebibytes_bar) -> InferenceNetworks:
    """Load the model of that name, or that of two files where they are given. Raises `UserError`."""
    model = model_files(options, show)
    config = read_config(model.config)
    check_model(config, model_size(config, model.config))
    return kept_networks(*model)


def config_of(options: DemoOptions) -> tuple[dict, Size]:
    """Return the config of a model, whose checkpoint may be missing, and its size. Raises `UserError`."""
    name = options.model or DEFAULT_MODEL
    path = options.config or find_model(name, options.offline, download_it=False).config
    config = read_config(path)
    return config, model_size(config, path)


async def with_bar(
    request: gr.Request, progress: gr.Progress, function: Callable[[Ticket], Any]
) -> AsyncIterator[Any]:
    """Let the video worker call a function; move a bar until its result is there, and yield that."""
    ticket = Ticket[Any](request.session_hash or "", VIDEO_WORKER)
    async for line in ticket.run(lambda: function(ticket)):
        progress(ticket.share() or 0, desc=line)
        yield gr.skip()
    yield ticket.result()


class Plan(NamedTuple):
    """What an animation needs but for its networks. `whole`: the (h, w) of picture or source video."""

    pair: DemoPair
    clip: Clip | None
    config: dict
    job: jobs.Job
    whole: Size


def make_plan(options: DemoOptions) -> Plan:
    """Open the files, and see what the job costs. No checkpoint is needed. Raises `UserError`."""
    for name, words in (
        ("source_image", "there is no picture" if options.source_video is None else ""),
        ("driving_video", "there is no driving video" if options.driving_motion is None else ""),
    ):
        if words and getattr(options, name) is None:
            raise UserError(f"--{name}: {words}; choose one in the tab Animate, or click an example there")
    (pair,) = make_pairs(options)
    clips = open_clips(options, [pair])
    clip = clips.drivings.get(pair.driving)
    for opened in (clip, clips.background, clips.source):
        if opened is not None:
            check_clip(opened)
    # Sound is carried over where there is some.
    options = replace(options, audio=options.audio and clip is not None and clip.has_audio)
    config, size = config_of(options)
    job = jobs.make_job(options, size, clips)
    whole = read_image_size(pair.source) if clips.source is None else clips.source.size
    check_job(job, config, whole, len(clip or ()))
    if clip is not None:
        jobs.check_best_frame(options.best_frame, clip, pair.driving)
    return Plan(pair, clip, config, job, whole)


def animate_files(plan: Plan, model: Model, folder: Path, ticket: Ticket) -> tuple[Path, str]:
    """Write the result into `folder`; return its path, and a line about it.

    Raises `UserError`, and `Cancelled` where nothing was written.
    """
    job, pair = plan.job, plan.pair._replace(result=folder / plan.pair.result)
    if job.source_clip is None:
        read_picture(pair.source)
    if plan.clip is None:
        motion = KnownMotion.read(pair.driving, fingerprint_of(plan.config, model.checkpoint), plan.config)
        job = replace(job, drivings={pair.driving: motion})

    # Boxes are of use when all are found; of a video any part is.
    places = jobs.find_places([pair.source], job, ticket.show_or_stop, jobs.known_cuts)
    faces = max(len(cuts.regions) for cuts in places.sources.values())
    check_job(job, plan.config, plan.whole, len(job.drivings[pair.driving]), faces)
    networks, cancelled = kept_networks(*model), ticket.stopped.is_set
    (done,) = jobs.write_results(networks, [pair], False, job, places, ticket.show, cancelled)

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
    return path, "; ".join(filter(None, parts))
