"""The tab that shows what the networks see."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from inference.animation import FittedClip, SourcePictures, choose_reference, make_animators
from inference.animator import Animator
from inference.inside import inside_pictures
from inference.jobs import check_best_frame, find_boxes, source_of
from modules.util import Keypoints
from page.animate_tab import Widgets
from page.animation import Choices, job_of
from page.limits import MAX_FRAMES, open_upload, read_upload, shown_errors
from page.models import choose_model
from page.work import VIDEO_WORKER, Task
from utils.errors import UserError

KEPT = 4  # pictures that are encoded, so that the slider need not wait

Gallery = list[tuple[np.ndarray, str]]


def look(choices: Choices, number: int, offline: bool) -> Gallery:
    """What the networks see in frame `number` of the driving video, with titles."""
    animator, driving, initial = prepare(choices, offline)
    frame = driving[min(number, len(driving) - 1)]
    return [(image, title) for title, image in inside_pictures(animator, frame, initial).items()]


@functools.lru_cache(maxsize=KEPT)
def prepare(choices: Choices, offline: bool) -> tuple[Animator, FittedClip, Keypoints]:
    """The first thing that is animated, and its driving video, as the tab Animate would begin with them.

    With the keypoints (1, K, ...) that relative movement is measured from.
    """
    picture, clip = read_upload(choices.source_image), open_upload(choices.driving_video)
    assert choices.source_image is not None
    path = Path(choices.source_image)
    model = choose_model(choices.model, choices.config, choices.checkpoint, offline)
    job, task = job_of(choices, clip, model.size), Task[None]()
    check_best_frame(job.options.best_frame, clip, clip.path)
    boxes = find_boxes([path], [clip], job, task.show)
    driving = FittedClip(clip, model.size, job.options.fit, boxes.drivings[clip.path])
    pictures = source_of(path, picture, job, boxes).pictures[:1]  # what is inside has the model's size
    (animator,) = make_animators(model.networks, SourcePictures(pictures), job.options)
    reference, _ = choose_reference(animator, driving, job.options, task.show, task.stopped.is_set)
    return animator, driving, reference.keypoints or animator.find(driving[0])


def build_inside_tab(widgets: Widgets, offline: bool) -> None:
    gr.Markdown(
        "What the networks see in a frame of the driving video, with the files and settings of *Animate*."
    )
    number = gr.Slider(
        0, MAX_FRAMES - 1, value=0, step=1, label="Frame", info="of the driving video", elem_id="inside-frame"
    )
    button = gr.Button("Look inside", variant="primary", elem_id="look")
    gallery = gr.Gallery(
        label="Inside", columns=4, object_fit="contain", height="auto", format="png", elem_id="inside"
    )

    def inside(frame: float, *values: Any) -> Gallery:
        with shown_errors():
            return VIDEO_WORKER.submit(look, Choices(*values), int(frame), offline).result()

    def new_length(path: str | None) -> Any:
        """The slider of a new video; its middle, because nothing has moved in the first frame."""
        last = 1
        with contextlib.suppress(UserError):  # the tab Animate tells
            last = max(1, len(open_upload(path)) - 1)
        return gr.update(value=last // 2, maximum=last)

    button.click(inside, [number, *widgets], gallery, api_name="inside", concurrency_id="inside")
    number.input(
        inside,
        [number, *widgets],
        gallery,
        api_visibility="private",
        concurrency_id="inside",
        trigger_mode="always_last",
    )
    widgets.driving_video.change(new_length, widgets.driving_video, number, api_visibility="private")
