"""The boxes to cut: found, typed, or dragged in a picture."""

from __future__ import annotations

import gradio as gr
import numpy as np

from faces.choose import centred_window
from faces.cuts import Cuts
from inference.jobs import source_cuts
from inference.options import DemoOptions
from media.pictures import Size, fit
from page.choices import CUTS, FINDS, FOLLOWS, Form
from page.html import data_url, html_widget
from page.limits import read_picture
from page.making import known_cuts, make_plan
from utils.errors import UserError
from utils.progress import no_bar

MAX_SIDE = 640  # pixels of the picture that is sent to the browser


def show_boxes(options: DemoOptions, offline: bool) -> tuple[dict, dict]:
    """Show what will be cut out of picture and video, or a first guess to drag. Raises `UserError`."""
    plan = make_plan(options, offline)
    path, clip = plan.pair.source, plan.clip
    if clip is None:
        raise UserError("--driving_video: there are no boxes without one")
    picture, size = read_picture(path), plan.job.sizes[0]
    source = source_cuts(path, picture, plan.job)
    driving = known_cuts(clip, plan.job, no_bar)
    return (
        box_view(picture, source, size, "Box in the picture"),
        box_view(clip.read([0])[0], driving, size, "Box in the video"),
    )


def box_view(picture: np.ndarray, cut: Cuts, size: Size, title: str) -> dict:
    """Return what crop_box.js shows: a picture (h, w, 3) uint8, a box of the model's shape in it, faces."""
    # A small copy for the browser; boxes are in pixels of the whole picture.
    height, width = picture.shape[:2]
    scale = min(1, MAX_SIDE / max(height, width))
    small = fit(picture, (max(1, round(height * scale)), max(1, round(width * scale))), "stretch")

    # Without a box the largest one that fits is the first guess.
    aspect = size[1] / size[0]
    guess = centred_window(np.array([0, 0, width, height]), (height, width), aspect)
    return {
        "url": data_url(small),
        "size": [width, height],
        "box": list((cut.regions[0] if cut.regions else guess).box),
        "faces": cut.faces.round().astype(int).tolist(),
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
            faces = ["largest", ("every face", "all"), "1", "2", "3", "4", "5"]
            form.add("face", "Face", "which one of the picture", gr.Dropdown, when=FINDS, choices=faces)
            told = "hold its last pose, or cut such frames off at both ends"
            form.add("lost", "Where the video does not show the face", told, when=FOLLOWS)
            form.add("paste_back", "Paste back", "into the picture it was cut from", when=CUTS)
    return button, source_box, driving_box


def connect_boxes(form: Form, button: gr.Button, source: gr.HTML, driving: gr.HTML, offline: bool) -> None:
    """Let the button fill the boxes, and a box that is dragged its text field."""

    def boxes(*values: object) -> tuple[dict, dict]:
        return show_boxes(form.read(values), offline)

    button.click(boxes, [*form.values()], [source, driving], api_visibility="private", preprocess=False)
    to_text = "(view) => view.box.join(',')"
    source.input(None, source, form["crop_source"], js=to_text)
    driving.input(None, driving, form["crop_driving"], js=to_text)
