"""The tab that shows what the networks see."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
import numpy as np

from inference.animation import FittedClip, SourcePictures, choose_reference, make_animators
from inference.animator import Animator
from inference.inputs import model_files
from inference.inside import inside_pictures
from inference.jobs import driving_of, find_places, known_cuts, source_of
from inference.networks import kept_networks
from inference.options import DemoOptions
from media.clips import open_clip
from modules.util import Keypoints
from page.choices import Form, check_value
from page.limits import MAX_FRAMES, read_picture, upload
from page.making import make_plan, with_bar
from utils.errors import UserError
from utils.kept import Kept
from utils.tickets import Ticket

Gallery = list[tuple[np.ndarray, str]]
Prepared = tuple[Animator, FittedClip, Keypoints]  # the reference's keypoints: (1, K, ...)

PREPARED = Kept[Prepared](most=4)  # the video worker's own, so that the slider need not wait


def look(options: DemoOptions, number: int, ticket: Ticket) -> Gallery:
    """Show what the networks see in frame `number` of the driving video: pictures and titles."""
    animator, driving, initial = PREPARED.get(options, lambda: prepare(options, ticket))
    frame = driving[min(number, len(driving) - 1)]
    return [(image, title) for title, image in inside_pictures(animator, frame, initial).items()]


def prepare(options: DemoOptions, ticket: Ticket) -> Prepared:
    """Prepare what the tab Animate would animate first."""
    plan = make_plan(options)
    job, path = plan.job, plan.pair.source
    if plan.clip is None or job.source_clip is not None:
        raise UserError("the tab Inside needs a picture and a driving video")
    networks = kept_networks(*model_files(job.options, ticket.show_download))
    places = find_places([path], job, ticket.show_or_stop, known_cuts)

    # As the tab Animate begins; what is inside has the model's size, and shows one face.
    driving = driving_of(plan.pair.driving, job, places)
    assert isinstance(driving, FittedClip)
    source = source_of(path, read_picture(path), job, places)
    source = SourcePictures(source.pictures[:1], movements=source.movements and source.movements[:1])
    (animator,) = make_animators(networks, source, job.options)
    reference, _ = choose_reference(animator, driving, job.options)
    return animator, driving, reference.keypoints or animator.find(driving[0])


def to_middle(driving_video: Any) -> Any:
    """Set the slider to the middle of a new video: nothing has moved in its first frame."""
    last, path = 1, upload(driving_video)
    with contextlib.suppress(UserError):  # the tab Animate tells
        last = max(1, len(open_clip(path)) - 1) if path else 1
    return gr.update(value=last // 2, maximum=last)


def build_inside_tab(form: Form) -> None:
    async def inside(
        request: gr.Request, progress: gr.Progress, frame: float, *values: object
    ) -> AsyncIterator[Any]:
        check_value("frame", slider, frame)
        number, options = int(frame), form.read(values)
        async for shown in with_bar(request, progress, lambda ticket: look(options, number, ticket)):
            yield shown

    inside.__signature__ = form.signature(progress=gr.Progress(), frame=0)  # type: ignore[attr-defined]
    gr.Markdown(
        "What the networks see in a frame of the driving video, with the files and settings of *Animate*."
    )
    slider = gr.Slider(
        0, MAX_FRAMES - 1, value=0, step=1, label="Frame", info="of the driving video", elem_id="inside-frame"
    )
    button = gr.Button("Look inside", variant="primary", elem_id="look")
    gallery = gr.Gallery(
        label="Inside",
        columns=4,
        object_fit="contain",
        height="auto",
        format="png",
        elem_id="inside",
        buttons=["fullscreen"],
    )
    action: Any = {"fn": inside, "inputs": [slider, *form.values()], "outputs": gallery}
    action |= {"concurrency_limit": None, "preprocess": False}
    told = form.description("Show what the networks see in a frame of the driving video, counted from 0.")
    button.click(**action, api_name="inside", api_description=told)
    slider.input(**action, api_visibility="private", trigger_mode="always_last")
    video = form["driving_video"]
    video.change(to_middle, video, slider, api_visibility="private", preprocess=False)
