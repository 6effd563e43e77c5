"""The boxes to cut: found, typed, or dragged in a picture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from faces.choose import centred_window
from faces.cuts import Cuts
from faces.options import Box
from inference.jobs import Job, known_cuts, source_cuts
from inference.options import DemoOptions
from media.pictures import data_url, fit
from page.choices import CUTS, FINDS, FOLLOWS, Form
from page.html import html_widget
from page.limits import MAX_FACES, read_picture
from page.making import VIDEO_WORKER, make_plan
from utils.errors import UserError
from utils.progress import ShowProgress
from utils.tickets import Ticket

MAX_SIDE = 640  # pixels of the picture that is sent to the browser


def show_boxes(options: DemoOptions, show: ShowProgress, offline: bool) -> tuple[dict, dict]:
    """Show what will be cut out of picture and video, or a first guess to drag. Raises `UserError`."""
    plan = make_plan(options, offline)
    job, clip, path = plan.job, plan.clip, plan.pair.source
    if clip is None or plan.clips.source is not None:
        raise UserError("there are boxes of a picture and a driving video alone")
    driving = known_cuts(clip, job, show)
    return (
        source_view(path, read_picture(path), job),
        box_view(clip.read([0])[0], driving, job, job.options.crop_driving, "Box in the video"),
    )


def source_view(path: Path, picture: np.ndarray, job: Job) -> dict:
    """Return what crop_box.js shows of the picture (h, w, 3) uint8 at `path`. Raises `UserError`."""
    cuts = source_cuts(path, picture, job)
    return box_view(picture, cuts, job, job.options.crop_source, "Box in the picture")


def box_view(picture: np.ndarray, cuts: Cuts, job: Job, by_hand: Box | None, title: str) -> dict:
    """Return what crop_box.js shows of a picture (h, w, 3) uint8: what is cut out `by_hand`, or was found."""
    # A small copy for the browser; boxes are in pixels of the whole picture.
    height, width = picture.shape[:2]
    scale = min(1, MAX_SIDE / max(height, width))
    small = fit(picture, (max(1, round(height * scale)), max(1, round(width * scale))), "stretch")

    # Where nothing was found, all is taken, or what "crop" leaves of it.
    whole, aspect = (0, 0, width, height), job.sizes[0][1] / job.sizes[0][0]
    found: list[Box] = [region.box for region in cuts.regions] or [whole]
    if not cuts.regions and job.options.fit == "crop":
        found = [centred_window(np.array(whole), (height, width), aspect).box]
    return {
        "url": data_url(small),
        "size": [width, height],
        "text": ",".join(map(str, by_hand or ())),
        "found": [] if by_hand else found,
        "faces": cuts.faces.round().astype(int).tolist(),
        "aspect": aspect,
        "title": title,
    }


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


def connect_boxes(form: Form, button: gr.Button, source: gr.HTML, driving: gr.HTML, offline: bool) -> None:
    """Let the button fill the boxes, and follow what becomes of them."""

    async def boxes(request: gr.Request, progress: gr.Progress, *values: object) -> AsyncIterator[Any]:
        options, ticket = form.read(values), Ticket[Any](request.session_hash or "", VIDEO_WORKER)
        async for line in ticket.run(lambda: show_boxes(options, ticket.show_or_stop, offline)):
            progress(ticket.share() or 0, desc=line)
            yield gr.skip(), gr.skip()
        yield ticket.result()

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
