"""The tab that animates a picture with a video."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from inference.animation import Cancelled
from inference.samples import SAMPLE
from page.choices import FIXED, FORMATS, MOVES, UNPASTED, Form
from page.crop_box import connect_boxes, place_crops
from page.limits import MAX_FRAMES, MAX_HEIGHT, open_video, shown, upload
from page.making import Made, animate_files, command_of
from page.worker import Ticket

SWITCHES = ("relative", "find_best_frame", "crop", "crop_source", "face", "paste_back")
PLAYED = (".mp4", ".webm")
QUIET: Any = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}


async def animate(
    form: Form, values: Sequence[object], ticket: Ticket[Made], folder: Path, offline: bool
) -> AsyncIterator[list[Any]]:
    """Animate; yield the values of the outputs: player, picture, file, line, command."""
    line = ""
    try:
        options = form.read(values)
        line = await asyncio.to_thread(command_of, options)  # reads the files' headers
        yield outputs("preparing", line)
        async for progress in ticket.run(lambda: animate_files(options, folder, ticket, offline)):
            yield [gr.skip(), gr.skip(), gr.skip(), progress, gr.skip()]
        made = ticket.result()
    except Cancelled:
        yield outputs("cancelled before the first frame, so there is no result", line)
    except Exception as error:
        told = shown(error)
        yield outputs(f"no result: {told.message}", line)
        raise told from error
    else:
        yield outputs(made.line, line, made.path)


def outputs(status: str, line: str, result: Path | None = None) -> list[Any]:
    """Show a result, or none. The page plays some formats, others can be downloaded only."""
    suffix, name = (None, None) if result is None else (result.suffix, str(result))
    player = gr.update(value=name if suffix in PLAYED else None, visible=suffix != ".gif")
    picture = gr.update(value=name if suffix == ".gif" else None, visible=suffix == ".gif")
    if suffix not in {*PLAYED, ".gif", None}:
        status += f"; a {suffix} is not played here, download it"
    return [player, picture, name, status, line]


def cancel(request: gr.Request) -> None:
    """Stop the animations of this page; what is done is kept. One that waits leaves the queue."""
    for ticket in list(Ticket.held):
        if ticket.session == request.session_hash:
            ticket.stop()


# ---- Reference frame -----------------------------------------------------------


def to_first_frame(video: Any) -> tuple[Any, np.ndarray | None]:
    """Set the slider of the reference frame to the first one of a new video, and show that."""
    path = upload(video)
    last = MAX_FRAMES - 1 if path is None else max(1, len(open_video(path)) - 1)
    return gr.update(maximum=last, value=0), frame_of(video, 0)


def frame_of(video: Any, number: float) -> np.ndarray | None:
    """Read a frame of the driving video."""
    path = upload(video)
    clip = None if path is None else open_video(path)
    return None if clip is None else clip.read([min(int(number), len(clip) - 1)])[0]


# ---- Widgets -------------------------------------------------------------------


def build_animate_tab(offline: bool, results: Path) -> Form:
    """Place the widgets, and say what they do. `results`: where each result gets a folder of its own."""
    form = Form()
    with gr.Row():
        with gr.Column():
            place_inputs(form)
        with gr.Column():
            go, shown = place_outputs()
    form.add_model()
    place_motion(form)
    button, source_box, driving_box = place_crops(form)
    place_formats(form)
    connect_animate(form, go, shown, offline, results)
    connect_boxes(form, button, source_box, driving_box, offline)
    return form


def place_inputs(form: Form) -> None:
    # Uploads arrive as paths, unread: `media/` alone opens them.
    look: Any = {"sources": ["upload", "webcam", "clipboard"], "height": 280, "elem_id": "source"}
    source = form.add("source_image", "Picture", widget=gr.Image, **look)
    look = {"sources": ["upload", "webcam"], "height": 320, "elem_id": "driving"}
    driving = form.add("driving_video", "Driving video", widget=gr.Video, **look)
    sample = [[str(SAMPLE["source_image"]), str(SAMPLE["driving_video"])]]
    gr.Examples(sample, [source, driving], label="Sample: click it, then Animate")


def place_outputs() -> tuple[gr.Button, list[Any]]:
    """Place the button that starts, and the widgets that `outputs` fills; return them."""
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
    stop.click(cancel, api_name="cancel", queue=False)
    return go, [player, picture, download, status, line]


def place_motion(form: Form) -> None:
    with gr.Accordion("Motion", open=False):
        told = "as the video moves, or where the video is"
        form.add("relative", "Movement", told, gr.Radio, choices=[("relative", True), ("absolute", False)])
        form.add("adapt_scale", "Adapt the scale of relative movement", when=MOVES)
        told = "movement is measured from the frame that is posed like the picture; the model finds it"
        form.add("find_best_frame", "Find the best frame", told, when=MOVES)
        look: Any = {"minimum": 0, "maximum": MAX_FRAMES - 1, "step": 1}
        with gr.Row():
            told = "of the driving video, posed like the picture"
            frame = form.add("best_frame", "Movement is measured from frame", told, when=FIXED, **look)
            look = {"interactive": False, "height": 160, "buttons": [], "elem_id": "reference-frame"}
            shown = gr.Image(label="That frame", **look)
        form.add("smooth", "Smoothing", "against jitter; 0 is none", minimum=0, maximum=5, step=0.1)

    # A new video and a moved slider show their frame.
    driving = form["driving_video"]
    driving.change(to_first_frame, driving, [frame, shown], **QUIET)
    frame.input(frame_of, [driving, frame], shown, trigger_mode="always_last", **QUIET)


def place_formats(form: Form) -> None:
    with gr.Accordion("Result", open=False):
        form.add("fit", "Pictures and videos of another shape than the model's")
        told = "larger than the model's; 0 is the model's"
        form.add("size", "Height", told, gr.Number, precision=0, minimum=0, maximum=MAX_HEIGHT)
        form.add("side_by_side", "Picture, video and result side by side", when=UNPASTED)
        form.add("audio", "Sound of the video")
        form.add("result_video", "Format", choices=FORMATS)


def connect_animate(form: Form, go: gr.Button, shown: list[Any], offline: bool, results: Path) -> None:
    async def start(request: gr.Request, *values: object) -> AsyncIterator[list[Any]]:
        ticket = Ticket[Made](request.session_hash or "")
        with tempfile.TemporaryDirectory(dir=results) as folder:  # Gradio has its own copy by the end
            async for outcome in animate(form, values, ticket, Path(folder), offline):
                yield outcome

    start.__signature__ = form.signature()  # type: ignore[attr-defined]
    go.click(
        start,
        [*form.values()],
        shown,
        api_name="animate",
        concurrency_limit=None,  # the worker has a queue of its own, which people can leave
        show_progress="hidden",
        preprocess=False,
    )

    # Options appear when they have an effect.
    gr.on(
        [form[name].change for name in SWITCHES],
        form.shown,
        [*form.values()],
        [form[name] for name in form.when],
        queue=False,
        **QUIET,
    )
