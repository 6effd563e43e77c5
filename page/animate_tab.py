"""The tab that animates a picture with a video."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from faces.choose import shaped
from faces.cuts import Cuts
from faces.options import Corners
from inference.animation import Cancelled
from inference.jobs import driving_cuts, source_cuts
from inference.samples import SAMPLE
from media.pictures import Size
from page.animation import (
    ABSOLUTE,
    BEST,
    BOXES,
    CHOSEN,
    EVERY_FACE,
    FACES,
    FIRST,
    FORMATS,
    NOTHING,
    RELATIVE,
    Choices,
    Result,
    command_of,
    job_of,
    lines_of_progress,
)
from page.crop_box import crop_box, view
from page.limits import MAX_FRAMES, open_upload, read_upload, shown_errors
from page.models import choose_model, model_widgets
from page.uploads import picture_input
from page.work import Task

RUNNING: set[tuple[str, Task]] = set()  # sessions, and what is made for them
PLAYED = (".mp4", ".webm")


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


async def start(offline: bool, session: str, choices: Choices, folder: Path) -> AsyncIterator[list[Any]]:
    """Animate; yields the values of the outputs: player, picture, file, line, command."""
    task: Task[Result] = Task()
    mine, line = (session, task), ""
    RUNNING.add(mine)
    try:
        with shown_errors():
            line = await command_of(choices)
            yield outputs("preparing", line)
            async for progress in lines_of_progress(task, choices, folder, offline):
                yield [gr.skip(), gr.skip(), gr.skip(), progress, gr.skip()]
            try:
                result = task.result()
            except Cancelled:
                yield outputs("cancelled before the first frame, so there is no result", line)
            else:
                yield outputs(result.line, line, result.path)
    except gr.Error as error:
        yield outputs(f"no result: {error.message}", line)
        raise
    finally:
        RUNNING.discard(mine)


def outputs(status: str, line: str, result: Path | None = None) -> list[Any]:
    """Values of the outputs. The page plays some results, others can be downloaded only."""
    suffix, name = (None, None) if result is None else (result.suffix, str(result))
    player = gr.update(value=name if suffix in PLAYED else None, visible=suffix != ".gif")
    picture = gr.update(value=name if suffix == ".gif" else None, visible=suffix == ".gif")
    if suffix not in {*PLAYED, ".gif", None}:
        status += f"; a {suffix} is not played here, download it"
    return [player, picture, name, status, line]


def cancel(request: gr.Request) -> None:
    """Stop the animations of this page; what is done is kept. One that waits leaves the queue."""
    for session, task in list(RUNNING):
        if session == request.session_hash:
            task.stop()


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
        job = job_of(choices, clip, size)
        assert choices.source_image is not None
        found = source_cuts(Path(choices.source_image), picture, job), driving_cuts(clip, job, Task().show)
        titles = ("Box in the picture", "Box in the video")
        shown = (
            view(image, box_of(cut, image.shape[:2], size), cut.faces, size[1] / size[0], title)
            for image, cut, title in zip((picture, clip.read([0])[0]), found, titles, strict=True)
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


def motion_widgets(driving: gr.Video) -> list[Any]:
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
            label="Relative movement is measured from",
            info="choose a frame that is posed like the picture; the best one is found by the model",
        )
        with gr.Row():
            frame = gr.Slider(0, MAX_FRAMES - 1, value=0, step=1, label="Frame", info="of the driving video")
            shown = gr.Image(
                label="That frame", interactive=False, height=160, buttons=[], elem_id="reference-frame"
            )
        smooth = gr.Slider(0, 5, value=0, step=0.1, label="Smoothing", info="against jitter; 0 is none")
    quiet: Any = {"api_visibility": "private", "show_progress": "hidden"}
    driving.change(on_new_video, driving, [frame, shown], **quiet)
    frame.input(frame_of, [driving, frame], shown, trigger_mode="always_last", **quiet)
    frame.input(None, None, reference, js=f"() => '{CHOSEN}'", **quiet)
    return [movement, adapt, reference, frame, smooth]


def crop_widgets() -> tuple[list[Any], gr.Button, gr.HTML, gr.HTML]:
    with gr.Accordion("Crop", open=False):
        cut = gr.Radio(
            [NOTHING, FACES, BOXES],
            value=NOTHING,
            label="Cut out",
            info="faces are found in photos; elsewhere show the boxes and drag them",
        )
        show = gr.Button("Show boxes")
        with gr.Row(elem_id="boxes"):
            source_box, driving_box = crop_box("source-box"), crop_box("driving-box")
        with gr.Row():
            crop_source = gr.Textbox(
                "", label="Box in the picture", info="left,top,right,bottom; empty is all"
            )
            crop_driving = gr.Textbox(
                "", label="Box in the video", info="left,top,right,bottom; empty is all"
            )
        with gr.Row():
            face = gr.Dropdown(
                ["largest", ("every face", EVERY_FACE), "1", "2", "3", "4", "5"],
                value="largest",
                label="Face",
                info="which one of the picture; every face needs paste back",
            )
            paste_back = gr.Checkbox(False, label="Paste back", info="into the picture it was cut from")
    return [cut, crop_source, crop_driving, face, paste_back], show, source_box, driving_box


def result_widgets() -> list[Any]:
    with gr.Accordion("Result", open=False):
        fit = gr.Radio(
            ["crop", "pad", "stretch"],
            value="crop",
            label="Pictures and videos of another shape than the model's",
        )
        size = gr.Number(
            0, precision=0, minimum=0, label="Height", info="larger than the model's; 0 is the model's"
        )
        side_by_side = gr.Checkbox(False, label="Picture, video and result side by side")
        audio = gr.Checkbox(True, label="Sound of the video")
        file_format = gr.Radio(list(FORMATS), value="mp4", label="Format")
    return [fit, size, side_by_side, audio, file_format]


def input_widgets() -> tuple[gr.Image, gr.Video]:
    source = picture_input(
        label="Picture", sources=["upload", "webcam", "clipboard"], height=280, elem_id="source"
    )
    driving = gr.Video(label="Driving video", sources=["upload", "webcam"], height=320, elem_id="driving")
    sample = [[str(SAMPLE["source_image"]), str(SAMPLE["driving_video"])]]
    gr.Examples(sample, [source, driving], label="Sample: click it, then Animate")
    return source, driving


def build_animate_tab(offline: bool, results: Path) -> Widgets:
    """The widgets and what they do. `results`: a folder in which each result gets a folder of its own."""
    with gr.Row():
        with gr.Column():
            source, driving = input_widgets()
        with gr.Column():
            with gr.Row():
                go = gr.Button("Animate", variant="primary", elem_id="go")
                stop = gr.Button("Cancel", elem_id="stop")
            status = gr.Textbox(label="Progress", interactive=False, elem_id="status")
            player = gr.Video(label="Result", interactive=False, autoplay=True, height=280, elem_id="result")
            picture = gr.Image(label="Result", interactive=False, visible=False, elem_id="result-gif")
            # These two are hidden by page.css while they are empty.
            download = gr.File(label="Download", interactive=False, height=80, elem_id="download")
            line = gr.Textbox(
                label="The same on a command line",
                interactive=False,
                placeholder=" ",
                lines=3,
                buttons=["copy"],
                elem_id="command",
            )
    model = model_widgets()
    motion = motion_widgets(driving)
    crops, show, source_box, driving_box = crop_widgets()
    widgets = Widgets(source, driving, *model, *motion, *crops, *result_widgets())
    add_animate(widgets, [player, picture, download, status, line], go, offline, results)
    stop.click(cancel, api_name="cancel", queue=False)
    add_boxes(widgets, show, source_box, driving_box, offline)
    return widgets


def add_animate(widgets: Widgets, outputs: list[Any], go: gr.Button, offline: bool, results: Path) -> None:
    async def animate(request: gr.Request, *values: Any) -> AsyncIterator[list[Any]]:
        with tempfile.TemporaryDirectory(dir=results) as folder:  # Gradio has its own copy by the end
            async for shown in start(offline, request.session_hash or "", Choices(*values), Path(folder)):
                yield shown

    animate.__signature__ = signature()  # type: ignore[attr-defined]
    go.click(
        animate,
        list(widgets),
        outputs,
        api_name="animate",
        concurrency_limit=None,  # the worker has a queue of its own, which people can leave
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
