"""The tab that animates a picture with a video."""

from __future__ import annotations

import inspect
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from animation import Cancelled
from faces.choose import Corners, shaped
from faces.cuts import Cuts
from media.pictures import Size
from model_table import read_table
from page.animation import (
    ABSOLUTE,
    BEST,
    BOXES,
    CHOSEN,
    FACES,
    FIRST,
    FORMATS,
    NOTHING,
    RELATIVE,
    Choices,
    command,
    cuts,
    lines_of_progress,
)
from page.crop_box import crop_box, view
from page.limits import MAX_FRAMES, PageError, open_upload, read_upload, shown_errors
from page.models import choose_model
from page.uploads import picture_input
from page.work import Job
from samples import SAMPLE

RUNNING: dict[str, Job] = {}  # by session
MODEL_SUFFIXES = [".tar", ".safetensors"]
LOCK = threading.Lock()


class Widgets(NamedTuple):
    """The widgets of `Choices`, by its names."""

    source_image: gr.Image
    driving_video: gr.Video
    model: gr.Dropdown
    config: gr.File
    checkpoint: gr.File
    movement: gr.Radio
    adapt_scale: gr.Checkbox
    reference: gr.Radio
    best_frame: gr.Slider
    smooth: gr.Slider
    cut: gr.Radio
    crop_source: gr.Textbox
    crop_driving: gr.Textbox
    face: gr.Dropdown
    paste_back: gr.Checkbox
    fit: gr.Radio
    size: gr.Number
    side_by_side: gr.Checkbox
    audio: gr.Checkbox
    format: gr.Radio


# ---- What the buttons do -------------------------------------------------------


def start(offline: bool, session: str, choices: Choices, folder: Path) -> Iterator[list[Any]]:
    """Animate; yields the values of the outputs: player, picture, file, line, command."""
    job: Job = Job()
    with LOCK:
        RUNNING[session] = job
    try:
        with shown_errors():
            line = command(choices)
            yield [gr.update(value=None), gr.update(value=None, visible=False), None, "waiting", line]
            for progress in lines_of_progress(job, choices, folder, offline):
                yield [gr.skip(), gr.skip(), gr.skip(), progress, gr.skip()]
            try:
                result = job.result()
            except Cancelled:
                raise PageError("stopped before the first frame, so there is no result") from None
            name = str(result.path)
            video, picture = (name if result.path.suffix == suffix else None for suffix in (".mp4", ".gif"))
            shown = gr.update(value=picture, visible=picture is not None)
            yield [gr.update(value=video, visible=picture is None), shown, name, result.line, line]
    finally:
        with LOCK:
            RUNNING.pop(session, None)


def cancel(request: gr.Request) -> None:
    """Stop the animation of this page; what is done is kept."""
    with LOCK:
        job = RUNNING.get(request.session_hash or "")
    if job is not None:
        job.stopped.set()


def on_new_video(path: str | None) -> tuple[Any, Any]:
    """The slider of the reference frame, and its picture."""
    if path is None:
        return gr.update(maximum=MAX_FRAMES - 1, value=0), None
    with shown_errors():
        clip = open_upload(path)
        return gr.update(maximum=max(1, len(clip) - 1), value=0), clip.read([0])[0]


def frame_of(path: str | None, number: float) -> np.ndarray | None:
    """The picture of a frame of the driving video."""
    if path is None:
        return None
    with shown_errors():
        clip = open_upload(path)
        return clip.read([min(int(number), len(clip) - 1)])[0]


def show_boxes(choices: Choices, offline: bool) -> tuple[dict, dict]:
    """What will be cut out of picture and video: found, typed, or a first guess to drag."""
    with shown_errors():
        picture, clip = read_upload(choices.source_image), open_upload(choices.driving_video)
        size = choose_model(choices.model, choices.config, choices.checkpoint, offline).size
        first = clip.read([0])[0]
        found = cuts(choices, picture, clip, size)
        titles = ("box in the picture", "box in the video")
        shown = (
            view(image, box_of(cut, image.shape[:2], size), cut.faces, size[1] / size[0], title)
            for image, cut, title in zip((picture, first), found, titles, strict=True)
        )
        return next(shown), next(shown)


def box_of(cut: Cuts, picture: Size, model: Size) -> Corners:
    """The first box of what is cut, or else the largest one in the middle."""
    if cut.boxes:
        return cut.boxes[0]
    height, width = picture
    side = min(height, width * model[0] / model[1])
    middle = np.array([width, height, width, height]) / 2
    half = np.array([side * model[1] / model[0], side]) / 2
    return shaped(middle + np.concatenate([-half, half]), model[1] / model[0])


# ---- Widgets -------------------------------------------------------------------


def model_widgets() -> tuple[gr.Dropdown, gr.File, gr.File]:
    with gr.Accordion("Model", open=False):
        model = gr.Dropdown(
            list(read_table()),
            value=Choices.model,
            label="Model",
            info="puppets comes with the program and knows cartoon heads; others are downloaded on first use",
        )
        with gr.Row():
            config = gr.File(
                label="Config of a model of your own (.yaml)",
                file_types=[".yaml", ".yml"],
                height=90,
                elem_id="config",
            )
            checkpoint = gr.File(
                label="Its checkpoint", file_types=MODEL_SUFFIXES, height=90, elem_id="checkpoint"
            )
    return model, config, checkpoint


def motion_widgets() -> tuple[gr.Radio, gr.Checkbox, gr.Radio, gr.Slider, gr.Image, gr.Slider]:
    with gr.Accordion("Motion", open=False):
        movement = gr.Radio(
            [RELATIVE, ABSOLUTE],
            value=RELATIVE,
            label="Movement",
            info="relative: as the video moves; absolute: where the video is",
        )
        adapt = gr.Checkbox(True, label="Adapt the scale of relative movement")
        reference = gr.Radio(
            [FIRST, BEST, CHOSEN],
            value=FIRST,
            label="Measured from",
            info="the frame that is posed like the picture",
        )
        with gr.Row():
            frame = gr.Slider(0, MAX_FRAMES - 1, value=0, step=1, label="Frame", info="of the driving video")
            shown = gr.Image(
                label="That frame", interactive=False, height=160, buttons=[], elem_id="reference-frame"
            )
        smooth = gr.Slider(0, 5, value=0, step=0.1, label="Smoothing", info="against jitter; 0 is none")
    return movement, adapt, reference, frame, shown, smooth


def crop_widgets() -> tuple[list[Any], gr.Button, gr.HTML, gr.HTML]:
    with gr.Accordion("Crop", open=False):
        cut = gr.Radio(
            [NOTHING, FACES, BOXES],
            value=NOTHING,
            label="Cut out",
            info="faces are found in photos; elsewhere drag boxes",
        )
        with gr.Row():
            crop_source = gr.Textbox(
                "", label="Box in the picture", info="left,top,right,bottom; empty is all"
            )
            crop_driving = gr.Textbox(
                "", label="Box in the video", info="left,top,right,bottom; empty is all"
            )
        with gr.Row():
            face = gr.Dropdown(
                ["largest", "all", "1", "2", "3", "4", "5"],
                value="largest",
                label="Face",
                info="which one of the picture; all of them need paste back",
            )
            paste_back = gr.Checkbox(False, label="Paste back", info="into the picture it was cut from")
        show = gr.Button("Show boxes")
        with gr.Row():
            source_box, driving_box = crop_box("source-box"), crop_box("driving-box")
    return [cut, crop_source, crop_driving, face, paste_back], show, source_box, driving_box


def result_widgets() -> list[Any]:
    with gr.Accordion("Result", open=False):
        fit = gr.Radio(
            ["crop", "pad", "stretch"],
            value="crop",
            label="Pictures of another shape",
            info="than the model's",
        )
        size = gr.Number(
            0, precision=0, minimum=0, label="Height", info="larger than the model's; 0 is the model's"
        )
        side_by_side = gr.Checkbox(False, label="Picture, video and result side by side")
        audio = gr.Checkbox(True, label="Sound of the video")
        file_format = gr.Radio(list(FORMATS), value="mp4", label="Format")
    return [fit, size, side_by_side, audio, file_format]


def build_animate_tab(offline: bool, results: Path) -> Widgets:
    """The widgets and what they do. `results`: a folder in which each result gets a folder of its own."""
    with gr.Row():
        with gr.Column():
            source = picture_input(
                label="Picture",
                sources=["upload", "webcam", "clipboard"],
                height=280,
                elem_id="source",
            )
            driving = gr.Video(
                label="Driving video", sources=["upload", "webcam"], height=320, elem_id="driving"
            )
            sample = [[str(SAMPLE["source_image"]), str(SAMPLE["driving_video"])]]
            gr.Examples(sample, [source, driving], label="Sample")
        with gr.Column():
            player = gr.Video(label="Result", interactive=False, autoplay=True, height=280, elem_id="result")
            picture = gr.Image(label="Result", interactive=False, visible=False, elem_id="result-gif")
            with gr.Row():
                go = gr.Button("Animate", variant="primary", elem_id="go")
                stop = gr.Button("Cancel", elem_id="stop")
            status = gr.Textbox(label="Progress", interactive=False, elem_id="status")
            download = gr.File(label="Download", interactive=False, height=80, elem_id="download")
            line = gr.Textbox(
                label="The same on a command line",
                interactive=False,
                lines=3,
                buttons=["copy"],
                elem_id="command",
            )
    model = model_widgets()
    movement, adapt, reference, frame, frame_shown, smooth = motion_widgets()
    crops, show, source_box, driving_box = crop_widgets()
    widgets = Widgets(
        source, driving, *model, movement, adapt, reference, frame, smooth, *crops, *result_widgets()
    )
    outputs = [player, picture, download, status, line]
    add_animate(widgets, outputs, go, offline, results)
    stop.click(cancel, api_name="cancel", queue=False)
    driving.change(
        on_new_video, driving, [frame, frame_shown], api_visibility="private", show_progress="hidden"
    )
    frame.input(
        frame_of,
        [driving, frame],
        frame_shown,
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",
    )
    add_boxes(widgets, show, source_box, driving_box, offline)
    return widgets


def add_animate(widgets: Widgets, outputs: list[Any], go: gr.Button, offline: bool, results: Path) -> None:
    def animate(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        with tempfile.TemporaryDirectory(dir=results) as folder:  # Gradio has its own copy by the end
            yield from start(offline, request.session_hash or "", Choices(*values), Path(folder))

    animate.__signature__ = signature()  # type: ignore[attr-defined]
    go.click(
        animate,
        list(widgets),
        outputs,
        api_name="animate",
        concurrency_id="video",
        concurrency_limit=1,
        show_progress="hidden",
    )


def signature() -> inspect.Signature:
    """The names and defaults of `Choices`, which are those of the HTTP interface."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    request = inspect.Parameter("request", kind, annotation=gr.Request)
    return inspect.Signature(
        [request, *(inspect.Parameter(field.name, kind, default=field.default) for field in fields(Choices))]
    )


def add_boxes(widgets: Widgets, show: gr.Button, source: gr.HTML, driving: gr.HTML, offline: bool) -> None:
    def boxes(*values: Any) -> tuple[dict, dict]:
        return show_boxes(Choices(*values), offline)

    show.click(boxes, list(widgets), [source, driving], api_visibility="private")
    to_text = f"(view) => [view.box.join(','), '{BOXES}']"
    source.input(None, source, [widgets.crop_source, widgets.cut], js=to_text)
    driving.input(None, driving, [widgets.crop_driving, widgets.cut], js=to_text)
