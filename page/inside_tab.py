"""The tab that shows what the networks see."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import gradio as gr
import numpy as np

from inference.animation import FittedClip, SourcePictures, choose_reference, make_animators
from inference.animator import Animator
from inference.inside import inside_pictures
from inference.jobs import driving_of, find_places, source_of
from inference.options import DemoOptions
from modules.util import Keypoints
from page.choices import Form, check_number
from page.limits import MAX_FRAMES, open_video, read_picture, upload
from page.making import make_plan
from page.worker import VIDEO_WORKER
from utils.errors import UserError
from utils.progress import no_bar

KEPT_PICTURES = 4  # encoded, so that the slider need not wait

Gallery = list[tuple[np.ndarray, str]]


def look(options: DemoOptions, number: int, offline: bool) -> Gallery:
    """Show what the networks see in frame `number` of the driving video: pictures and titles."""
    animator, driving, initial = prepare(options, offline)
    frame = driving[min(number, len(driving) - 1)]
    return [(image, title) for title, image in inside_pictures(animator, frame, initial).items()]


@functools.lru_cache(maxsize=KEPT_PICTURES)
def prepare(options: DemoOptions, offline: bool) -> tuple[Animator, FittedClip, Keypoints]:
    """Prepare what the tab Animate would animate first: its keypoints (1, K, ...) are the reference's."""
    plan = make_plan(options, offline)
    clip, job = plan.clip, plan.job
    places = find_places([plan.picture], [clip], job, no_bar)

    # As the tab Animate begins; what is inside has the model's size, and shows one face.
    driving = driving_of(clip.path, {clip.path: clip}, job, places)
    assert isinstance(driving, FittedClip)
    source = source_of(plan.picture, read_picture(plan.picture), job, places)
    source = SourcePictures(source.pictures[:1], movements=source.movements and source.movements[:1])
    (animator,) = make_animators(plan.networks, source, job.options)
    reference, _ = choose_reference(animator, driving, job.options)
    return animator, driving, reference.keypoints or animator.find(driving[0])


def to_middle(video: Any) -> Any:
    """Set the slider to the middle of a new video: nothing has moved in its first frame."""
    last = 1
    with contextlib.suppress(UserError):  # the tab Animate tells
        last = max(1, len(open_video(upload(video))) - 1)
    return gr.update(value=last // 2, maximum=last)


def build_inside_tab(form: Form, offline: bool) -> None:
    def inside(request: gr.Request, frame: float, *values: object) -> Gallery:
        number = int(check_number("frame", slider, frame))
        return VIDEO_WORKER.submit(look, form.read(values), number, offline).result()

    inside.__signature__ = form.signature(frame=0)  # type: ignore[attr-defined]
    gr.Markdown(
        "What the networks see in a frame of the driving video, with the files and settings of *Animate*."
    )
    slider = gr.Slider(
        0, MAX_FRAMES - 1, value=0, step=1, label="Frame", info="of the driving video", elem_id="inside-frame"
    )
    button = gr.Button("Look inside", variant="primary", elem_id="look")
    gallery = gr.Gallery(
        label="Inside", columns=4, object_fit="contain", height="auto", format="png", elem_id="inside"
    )
    action: Any = {"fn": inside, "inputs": [slider, *form.values()], "outputs": gallery}
    action |= {"concurrency_id": "inside", "preprocess": False}
    button.click(**action, api_name="inside")
    slider.input(**action, api_visibility="private", trigger_mode="always_last")
    video = form["driving_video"]
    video.change(to_middle, video, slider, api_visibility="private", preprocess=False)
