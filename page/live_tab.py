"""The tab that animates a picture with the frames of a camera, of which the browser sends one at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from inference.jobs import make_job
from inference.live import LiveAnimation
from inference.options import DemoOptions
from inference.samples import SAMPLE
from inference.sessions import SESSIONS, end_sessions, open_session
from media.pictures import data_url, decode_picture, encode_jpeg
from page.choices import Form
from page.crop_box import connect_box, source_view
from page.html import html_widget
from page.limits import in_words, read_picture, shown, upload
from page.making import DOWNLOADS, LIVE_WORKER, choose_model, config_of
from utils.errors import UserError, told
from utils.tickets import Ticket
from utils.values import integer, number

MAX_PICTURES = 9  # one for each of the keys 1 to 9
MAX_FRAME_BYTES, MAX_FRAME_PIXELS = 2**20, 2**21


def leave_live(request: gr.Request) -> None:
    """End the session of a page that was closed, or whose browser does not answer any more."""
    LIVE_WORKER.submit(end_sessions, lambda session: session.page == request.session_hash)


async def answer_frame(request: Request) -> Response:
    """Answer POST /live/frame with the animated picture of a JPEG, as a JPEG; DELETE ends the session."""
    # Who asks, and how much? Pages of other hosts can't send the header.
    session = SESSIONS.get(request.headers.get("x-live-token", ""))
    if session is None:
        return PlainTextResponse("this session has ended; start the camera again", status_code=410)
    loop = asyncio.get_running_loop()
    if request.method == "DELETE":
        await loop.run_in_executor(LIVE_WORKER, end_sessions, lambda other: other is session)
        return Response(status_code=204)
    try:
        integer(request.headers.get("content-length", ""), 0, MAX_FRAME_BYTES)
    except ValueError:
        return PlainTextResponse("a frame has at most 1 MiB", status_code=413)

    # The worker animates; meanwhile the server answers others.
    data = await request.body()
    session.last = time.monotonic()
    try:
        jpeg = await loop.run_in_executor(
            LIVE_WORKER, next_picture, session.live, data, dict(request.query_params)
        )
    except (UserError, ValueError) as error:
        message = told(error) or "the request holds a wrong value"
        return PlainTextResponse(in_words(message), status_code=400)
    pose = {"x-distance": f"{session.live.distance:.3f}", "x-hint": session.live.hint}
    return Response(jpeg, media_type="image/jpeg", headers=pose | {"cache-control": "no-store"})


def next_picture(live: LiveAnimation, data: bytes, query: dict[str, str]) -> bytes:
    """Animate a frame as `query` says."""
    live.show(min(integer(query.get("picture", "0")), len(live.animators) - 1))
    live.set_smoothing(number(query.get("smooth", "0"), 0, 5) or None)
    live.set_transfer(query.get("relative") != "0", True, number(query.get("strength", "1"), 0, 3))
    live.auto_reference = query.get("auto") == "1"
    if query.get("reference") == "1":
        live.set_reference()
    return encode_jpeg(live.animate(decode_picture(data, "the frame", MAX_FRAME_PIXELS)))


ROUTES = [Route("/live/frame", answer_frame, methods=["POST", "DELETE"])]


def chosen(form: Form, files: list[Any] | None, values: tuple[object, ...]) -> tuple[list[Any], DemoOptions]:
    """Return pictures with their paths, and options. Raises `UserError`."""
    options, paths = form.read(values), [path for file in files or [] if (path := upload(file))]
    if len(paths) > MAX_PICTURES:
        raise UserError(f"{len(paths)} pictures: at most {MAX_PICTURES}, one for each key")
    return [(path, read_picture(path)) for path in paths or [SAMPLE["source_image"]]], options


async def open_live(
    form: Form, page: str, files: list[Any] | None, values: tuple[object, ...], begins: bool
) -> AsyncIterator[tuple[Any, str]]:
    """Begin or change the session of a page; yield what live.js starts with, and how far a download is."""
    value = None
    if begins or any(session.page == page for session in list(SESSIONS.values())):
        ticket = Ticket[Any](page, DOWNLOADS)

        def prepare() -> tuple[Any, ...]:
            pictures, options = chosen(form, files, values)
            return pictures, options, choose_model(options, ticket.show_download)

        try:
            async for line in ticket.run(prepare):
                if ticket.progress is not None:
                    yield gr.skip(), f"{line} …"
            work = LIVE_WORKER.submit(open_session, page, begins, *ticket.result())
            opened = await asyncio.wrap_future(work)
            if opened is not None:
                size, urls = opened.session.live.size[::-1], [data_url(piece) for piece in opened.pieces]
                value = {"token": opened.token, "pictures": urls, "size": size, "begins": begins}
        except Exception as error:  # told beside the camera
            value = {"error": shown(error).message, "begins": begins}
    yield value, ""


def build_live_tab(offline: bool) -> None:
    """Place the widgets, and say what they do."""
    form = Form(offline)
    gr.Markdown(
        "Your camera moves a picture. Its frames go to the machine that this page runs on, and are not kept."
    )
    look: Any = {"file_count": "multiple", "file_types": ["image"], "height": 160, "elem_id": "live-pictures"}
    with gr.Row():
        pictures = gr.File(label="Pictures (up to 9; without any, the sample)", **look)
        with gr.Column():
            form.add("crop", "Find faces", "in photos, as in the tab Animate")
            button = gr.Button("Start camera", variant="primary", elem_id="live-start")
    status, camera = html_widget("progress", "live-status"), html_widget("live", "live")
    form.add_model("live-")
    with gr.Accordion("Crop", open=False):
        show = gr.Button("Show box")
        box = html_widget("crop_box", "live-box")
        text = form.add("crop_source", "Box in the picture", "left,top,right,bottom; empty: faces, or all")

    async def start(request: gr.Request, pictures: Any, *values: object) -> AsyncIterator[Any]:
        async for answer in open_live(form, request.session_hash or "", pictures, values, begins=True):
            yield answer

    async def change(request: gr.Request, pictures: Any, *values: object) -> AsyncIterator[Any]:
        async for answer in open_live(form, request.session_hash or "", pictures, values, begins=False):
            yield answer

    def show_box(request: gr.Request, pictures: list[Any] | None, *values: object) -> dict[str, Any]:
        ((path, picture), *_), options = chosen(form, pictures, values)
        return source_view(path, picture, make_job(options, config_of(options)[1]))

    for function in (start, change, show_box):
        vars(function)["__signature__"] = form.signature(pictures=None)  # names for errors
    inputs: Any = {"inputs": [pictures, *form.values()], "api_visibility": "private", "preprocess": False}
    live: Any = {"outputs": [camera, status], "show_progress": "hidden", "concurrency_limit": None, **inputs}
    button.click(start, **live | {"show_progress": "minimal"})
    show.click(show_box, outputs=box, **inputs)

    # Who is live changes it: by a box when that was dragged, or typed to its end.
    dragged = connect_box(form, "crop_source", box, [pictures])
    others = [widget.change for widget in (pictures, *form.values()) if widget is not text]
    gr.on([*others, text.blur, text.submit], change, trigger_mode="always_last", **live)
    dragged.then(change, **live)
