"""The boxes to cut: found, typed, or dragged in a picture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from faces.cuts import view_of
from inference.jobs import Job, known_cuts, source_cuts
from inference.options import CUTS, FINDS, FOLLOWS, DemoOptions
from page.choices import Form
from page.html import html_widget
from page.limits import MAX_FACES, read_picture
from page.making import make_plan, with_bar
from utils.errors import UserError
from utils.progress import ShowProgress


def show_boxes(options: DemoOptions, show: ShowProgress) -> tuple[dict, dict]:
    """Show what will be cut out of picture and video, or a first guess to drag. Raises `UserError`."""
    plan = make_plan(options)
    job, clip, path = plan.job, plan.clip, plan.pair.source
    if clip is None or job.source_clip is not None:
        raise UserError("there are boxes of a picture and a driving video alone")
    driving, by_hand = known_cuts(clip, job, show), job.options.crop_driving
    view = view_of(clip.read([0])[0], driving, job.sizes[0], job.options.fit, by_hand)
    return source_view(path, read_picture(path), job), view | {"title": "Box in the video"}


def source_view(path: Path, picture: np.ndarray, job: Job) -> dict:
    """Return what crop_box.js shows of the picture (h, w, 3) uint8 at `path`. Raises `UserError`."""
    cuts, by_hand = source_cuts(path, picture, job), job.options.crop_source
    return view_of(picture, cuts, job.sizes[0], job.options.fit, by_hand) | {"title": "Box in the picture"}


def place_crops(form: Form) -> tuple[gr.Button, gr.HTML, gr.HTML]:
    """Place what is cut; return the button that shows boxes, and where they are shown."""
    with gr.Accordion("Crop", open=False):
        form.add("crop", "Find faces", "in photos; elsewhere show the boxes and drag them")
        button = gr.Button("Show boxes")
        with gr.Row(elem_id="boxes"):
            source_box = html_widget("crop_box", "source-box")
            driving_box = html_widget("crop_box", "driving-box")
        with gr.Row():
            form.add("crop_source", "Box in the picture", "left,top,right,bottom; empty: faces, or all")
            form.add("crop_driving", "Box in the video", "left,top,right,bottom; empty: faces, or all")
        with gr.Row():
            faces = ["largest", ("every face", "all"), *map(str, range(1, MAX_FACES + 1))]
            form.add("face", "Face", "which one of the picture", gr.Dropdown, when=FINDS, choices=faces)
            told = "hold its last pose, or cut such frames off at both ends"
            form.add("lost", "Where the video does not show the face", told, when=FOLLOWS)
            form.add("paste_back", "Paste back", "into the picture it was cut from", when=CUTS)
    return button, source_box, driving_box


def connect_boxes(form: Form, button: gr.Button, source: gr.HTML, driving: gr.HTML) -> None:
    """Let the button fill the boxes, and follow what becomes of them."""

    async def boxes(request: gr.Request, progress: gr.Progress, *values: object) -> AsyncIterator[Any]:
        options = form.read(values)
        async for views in with_bar(
            request, progress, lambda ticket: show_boxes(options, ticket.show_or_stop)
        ):
            yield views

    vars(boxes)["__signature__"] = form.signature(progress=gr.Progress())
    how: Any = {"api_visibility": "private", "preprocess": False, "concurrency_limit": None}
    button.click(boxes, [*form.values()], [source, driving], **how)
    connect_box(form, "crop_source", source, [form["source_image"], form["source_video"]])
    connect_box(form, "crop_driving", driving, [form["driving_video"], form["driving_motion"]])


def connect_box(form: Form, name: str, box: gr.HTML, files: list[Any]) -> Any:
    """Draw a box from its text, write to that where it is dragged, and forget both with one of the files.

    What was found is forgotten where a choice may find another. Returns the event of dragging.
    """
    text, new = form[name], [file.change for file in files]
    finders = [form[name].change for name in ("crop", "face", "fit", "start", "end") if name in form]
    models = [form[name].change for name in ("model", "config", "checkpoint")]
    to_box = "(view, text) => view && (text || view.found.length) ? { ...view, text } : null"
    text.change(None, [box, text], box, js=to_box)
    gr.on(finders, None, box, box, js="(view) => view?.text ? { ...view, found: [], faces: [] } : null")
    gr.on([*new, *models], None, None, box, js="() => null")
    gr.on(new, None, None, text, js="() => ''")
    return box.input(None, box, text, js="(view) => view.text")
