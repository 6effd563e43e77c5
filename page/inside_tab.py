"""The tab that shows what the networks see."""

from __future__ import annotations

import contextlib
from typing import Any

import gradio as gr
import numpy as np

from animate import Animator
from animation import transfer
from inside import inside_pictures
from modules.errors import UserError
from networks import fitted
from page.animate_tab import Widgets
from page.animation import CHOSEN, RELATIVE, Choices
from page.limits import MAX_FRAMES, open_upload, read_upload, shown_errors
from page.models import choose_model
from page.work import VIDEO_WORKER

Gallery = list[tuple[np.ndarray, str]]


def look(choices: Choices, number: int, offline: bool) -> Gallery:
    """What the networks see in frame `number` of the driving video, with titles."""
    picture, clip = read_upload(choices.source_image), open_upload(choices.driving_video)
    model = choose_model(choices.model, choices.config, choices.checkpoint, offline)
    source = fitted(picture, model.size, choices.fit).unsqueeze(0)
    source = source.to(next(model.networks[0].parameters()).device)
    animator = Animator(*model.networks, source, transfer(choices.movement == RELATIVE, choices.adapt_scale))
    reference = int(choices.best_frame) if choices.reference == CHOSEN else 0
    wanted = [min(frame, len(clip) - 1) for frame in (reference, number)]
    first, driving = (fitted(frame, model.size, choices.fit) for frame in clip.read(wanted))
    animator.start_from(first)
    return [(image, title) for title, image in inside_pictures(animator, driving).items()]


def build_inside_tab(widgets: Widgets, offline: bool) -> None:
    gr.Markdown(
        "What the networks see in a frame, with picture, video, model and motion of the tab *Animate*."
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
        last = MAX_FRAMES - 1
        with contextlib.suppress(UserError):  # the tab Animate tells
            last = max(1, len(open_upload(path)) - 1)
        return gr.update(value=0, maximum=last)

    button.click(inside, [number, *widgets], gallery, api_name="inside", concurrency_id="video")
    number.input(
        inside,
        [number, *widgets],
        gallery,
        api_visibility="private",
        concurrency_id="video",
        trigger_mode="always_last",
    )
    widgets.driving_video.change(new_length, widgets.driving_video, number, api_visibility="private")
