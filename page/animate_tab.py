"""The tab that animates a picture with a video."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from inference.command import command_of
from inference.inputs import model_files
from inference.options import FIXED, FROM_VIDEO, MOVES, PASTES, UNPASTED
from inference.samples import EXAMPLES
from media.clips import open_clip
from media.pictures import data_url, fit, read_image
from media.rates import steady
from page.choices import FORMATS, QUIET, Form, initial
from page.crop_box import connect_boxes, place_crops
from page.html import html_widget
from page.limits import MAX_FRAMES, MAX_HEIGHT, check_clip, in_words, read_picture, shown, upload
from page.making import DOWNLOADS, VIDEO_WORKER, animate_files, make_plan
from utils.errors import UserError
from utils.progress import Cancelled
from utils.tickets import Ticket

PLAYED = (".mp4", ".webm")
SWITCHES = ("relative", "find_best_frame", "crop", "face", "paste_back")  # where somebody chooses
FILLED = ("crop_source", "crop_driving", "source_video", "driving_motion")  # by scripts, too
THUMBNAIL = 52  # pixels

# What most people want, by options that differ from those of the page.
PRESETS: dict[str, dict[str, Any]] = {
    "The whole picture": {},
    "Faces in a photo, put back into it": {
        "crop": True,
        "paste_back": True,
        "find_best_frame": True,
        "smooth": 1.0,
    },
}
PRESET = {name for values in PRESETS.values() for name in values} | {"relative", "audio", "side_by_side"}


async def animate(
    form: Form, values: Sequence[object], session: str, folder: Path
) -> AsyncIterator[list[Any]]:
    """Animate; yield the values of the outputs: player, picture, file, line, command."""
    line, ticket = "", Ticket[Any](session, DOWNLOADS)
    yield outputs("preparing …", line)
    try:
        options = form.read(values)
        plan = await asyncio.to_thread(make_plan, options)  # reads the files' headers
        options = plan.job.options
        line = command_of(options)

        # A model that isn't there comes while others animate; then it is our turn.
        async for progress in ticket.run(lambda: model_files(options, ticket.show_download)):
            yield followed(ticket, progress)
        model, ticket = ticket.result(), Ticket(session, VIDEO_WORKER, len(plan.clip or ()))
        async for progress in ticket.run(lambda: animate_files(plan, model, folder, ticket)):
            yield followed(ticket, progress)
        path, told = ticket.result()
    except Cancelled:
        yield outputs("cancelled before the first frame, so there is no result", line)
    except Exception as error:
        problem = shown(error)
        yield outputs(f"no result: {problem.message}", line)
        raise problem from error
    else:
        followed(ticket, "")
        yield outputs(told, line, path)


def followed(ticket: Ticket, progress: str) -> list[Any]:
    """Show how far it is, and the hints that came meanwhile."""
    while ticket.hints:
        kind, hint = ticket.hints.pop(0)
        (gr.Warning if kind == "warning" or "real face" in hint else gr.Info)(in_words(hint))
    return [gr.skip(), gr.skip(), gr.skip(), f"{progress} …", gr.skip()]


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


# ---- What is chosen ------------------------------------------------------------


def to_example(number: object) -> list[str]:
    """Choose an example: a picture and a driving video."""
    if type(number) is not int or not 0 <= number < len(EXAMPLES):
        raise UserError(f"example: {number!r} is not a number from 0 to {len(EXAMPLES) - 1}")
    return [str(path) for path in list(EXAMPLES.values())[number]]


def to_preset(name: object) -> list[Any]:
    """Set the options of a preset."""
    if name not in list(PRESETS):
        raise UserError(f"preset: {name!r} is not one of {', '.join(PRESETS)}")
    return [PRESETS[str(name)].get(option, initial(option)) for option in sorted(PRESET)]


def check_source(source_image: Any) -> Any:
    """Refuse a broken picture as it is chosen."""
    path = upload(source_image)
    try:
        if path is not None:
            read_picture(path)
    except UserError as error:
        gr.Warning(in_words(str(error)))
        return None
    return gr.skip()


def to_first_frame(driving_video: Any) -> tuple[Any, np.ndarray | None]:
    """Set the slider of the reference frame to the first one of a new video, and show that."""
    path = upload(driving_video)
    last = MAX_FRAMES - 1 if path is None else max(1, len(open_driving(path)) - 1)
    return gr.update(maximum=last, value=0), frame_of(driving_video, 0)


def frame_of(driving_video: Any, number: float) -> np.ndarray | None:
    """Read a frame of the driving video."""
    path = upload(driving_video)
    clip = None if path is None else open_driving(path)
    return None if clip is None else clip.read([min(int(number), len(clip) - 1)])[0]


def open_driving(path: Path) -> Any:
    clip = steady(open_clip(path))
    check_clip(clip)
    return clip


# ---- Widgets -------------------------------------------------------------------


def build_animate_tab(page: gr.Blocks, offline: bool, results: Path) -> Form:
    """Place the widgets, and say what they do. `results`: where each result gets a folder of its own."""
    form = Form(offline)
    with gr.Row():
        with gr.Column(scale=3, min_width=340):
            form.add_model()
            preset = place_inputs(form)
            place_motion(form)
            button, source_box, driving_box = place_crops(form)
            place_others(form)
            place_formats(form)
        with gr.Column(scale=2, min_width=320, elem_id="outcome"):
            go, clear, shown = place_outputs()
    connect_animate(form, go, shown, results)
    connect_choices(page, form, preset, clear, shown)
    connect_boxes(form, button, source_box, driving_box)
    return form


def place_inputs(form: Form) -> gr.Radio:
    pairs = gr.Dataset(
        components=[gr.HTML(render=False)],
        samples=[[thumbnail(name, *files)] for name, files in EXAMPLES.items()],
        label="Examples: click one, then Animate",
        type="index",
        elem_id="examples",
    )
    # Uploads arrive as paths, unread: `media/` alone opens them.
    with gr.Row():
        look: Any = {"sources": ["upload", "webcam", "clipboard"], "height": 250, "elem_id": "source"}
        source = form.add("source_image", "Picture", widget=gr.Image, buttons=["fullscreen"], **look)
        look = {"sources": ["upload", "webcam"], "height": 250, "elem_id": "driving", "buttons": []}
        driving = form.add("driving_video", "Driving video", widget=gr.Video, **look)
    gr.Markdown("Best: one head from the front, and a video that begins in the same pose.")
    preset = gr.Radio(list(PRESETS), value=next(iter(PRESETS)), label="What moves", elem_id="preset")
    pairs.click(to_example, pairs, [source, driving], **QUIET)
    source.input(check_source, source, source, **QUIET)
    return preset


def thumbnail(name: str, source: Path, driving: Path) -> str:
    """Draw the two parts of an example side by side, in HTML."""
    pictures = [read_image(source), open_clip(driving).read([30])[0]]
    both = np.hstack([fit(picture, (THUMBNAIL, THUMBNAIL), "crop") for picture in pictures])
    return f'<img src="{data_url(both)}" alt="Example: {name}" width="{2 * THUMBNAIL}">'


def place_outputs() -> tuple[gr.Button, gr.Button, list[Any]]:
    """Place the buttons, and the widgets that `outputs` fills; return start, clear, and the widgets."""
    with gr.Row():
        go = gr.Button("Animate", variant="primary", elem_id="go", min_width=80)
        stop = gr.Button("Cancel", elem_id="stop", min_width=80)
        clear = gr.Button("Clear", elem_id="clear", min_width=80)
    status = html_widget("progress", "status")
    player = gr.Video(
        label="Result", interactive=False, autoplay=True, height=300, buttons=[], elem_id="result"
    )
    picture = gr.Image(label="Result", interactive=False, visible=False, buttons=[], elem_id="result-gif")
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
    return go, clear, [player, picture, download, status, line]


def place_motion(form: Form) -> None:
    with gr.Accordion("Motion", open=False):
        told = "as the video moves, or where the video is"
        form.add("relative", "Movement", told, gr.Radio, choices=[("relative", True), ("absolute", False)])
        form.add("strength", "Strength", "of movement", when=MOVES, minimum=0.1, maximum=3, step=0.1)
        form.add("adapt_scale", "Adapt it to the size of the head", when=MOVES)
        told = "measure movement from the frame that is posed like the picture; it takes one more look"
        form.add("find_best_frame", "Find the best frame", told, when=MOVES)
        look: Any = {"minimum": 0, "maximum": MAX_FRAMES - 1, "step": 1}
        with gr.Row():
            told = "choose one that is posed like the picture"
            frame = form.add("best_frame", "Movement is measured from frame", told, when=FIXED, **look)
            look = {"interactive": False, "height": 160, "buttons": [], "elem_id": "reference-frame"}
            shown = gr.Image(label="That frame", **look)
        form.add("smooth", "Smoothing", "against jitter; 0 is none", minimum=0, maximum=5, step=0.1)

    # A new video and a moved slider show their frame.
    driving = form["driving_video"]
    driving.change(to_first_frame, driving, [frame, shown], **QUIET)
    frame.input(frame_of, [driving, frame], shown, trigger_mode="always_last", **QUIET)


def place_others(form: Form) -> None:
    with gr.Accordion("A part of the video, other inputs", open=False):
        with gr.Row():
            seconds: Any = {"minimum": 0, "maximum": 86400, "when": FROM_VIDEO}
            form.add("start", "Start", "seconds into the driving video", gr.Number, **seconds)
            form.add("end", "End", "in seconds; 0 is its end", gr.Number, **seconds)
        with gr.Row():
            told, kinds = "Instead of the driving video: a gif, picture or motion file", ["image", ".npz"]
            form.add("driving_motion", told, widget=gr.File, file_types=kinds, height=140)
            told = "Instead of the picture: a video whose face is found, or cut out"
            form.add("source_video", told, widget=gr.File, file_types=["video", ".gif"], height=140)
            told, kinds = "Background: put it into this picture or video instead", ["image", "video"]
            form.add("background", told, widget=gr.File, file_types=kinds, height=140, when=PASTES)


def place_formats(form: Form) -> None:
    with gr.Accordion("Result", open=False):
        form.add("fit", "Pictures and videos of another shape than the model's")
        told = "larger than the model's, it takes longer; 0 is the model's"
        form.add("size", "Height", told, gr.Number, precision=0, minimum=0, maximum=MAX_HEIGHT)
        told = "in one video"
        form.add("side_by_side", "Picture, video and result side by side", told, when=UNPASTED)
        form.add("audio", "Sound of the video", when=FROM_VIDEO)
        form.add("result_video", "Format", choices=FORMATS)


def connect_animate(form: Form, go: gr.Button, shown: list[Any], results: Path) -> None:
    async def start(request: gr.Request, *values: object) -> AsyncIterator[list[Any]]:
        with tempfile.TemporaryDirectory(dir=results) as folder:  # Gradio has its own copy by the end
            async for outcome in animate(form, values, request.session_hash or "", Path(folder)):
                yield outcome

    start.__signature__ = form.signature()  # type: ignore[attr-defined]
    go.click(
        start,
        [*form.values()],
        shown,
        api_name="animate",
        api_description=form.description("Animate a picture with a video."),
        concurrency_limit=None,  # the worker has a queue of its own, which people can leave
        show_progress="hidden",
        preprocess=False,
    )


def connect_choices(
    page: gr.Blocks, form: Form, preset: gr.Radio, clear: gr.Button, shown: list[Any]
) -> None:
    def empty() -> list[Any]:
        return [next(iter(PRESETS)), *map(initial, form), *outputs("", "")]

    # Options appear when they have an effect.
    changes = [form[name].input for name in SWITCHES] + [form[name].change for name in FILLED]
    chosen = preset.input(to_preset, preset, [form[name] for name in sorted(PRESET)], **QUIET)
    cleared = clear.click(empty, None, [preset, *form.values(), *shown], **QUIET)
    seen: Any = {"inputs": [*form.values()], "outputs": [form[name] for name in form.when], **QUIET}
    gr.on(changes, form.shown, queue=False, **seen)
    for event in (chosen, cleared, form.remember(page, preset)):
        event.then(form.shown, **seen)
