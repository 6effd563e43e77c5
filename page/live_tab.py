"""The tab that animates a picture with the frames of a camera, of which the browser sends one at a time."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from inference.live import LiveAnimation
from inference.networks import InferenceNetworks
from inference.samples import SAMPLE
from media.pictures import decode_picture, encode_jpeg, fit
from page.choices import Form
from page.html import data_url, html_widget
from page.limits import read_picture, upload, without_folders
from page.making import choose_model
from page.worker import LIVE_WORKER
from utils.errors import UserError, told
from utils.values import integer, number

MAX_PICTURES = 9  # one for each of the keys 1 to 9
MAX_SESSIONS = 8
IDLE_SECONDS = 60.0
MAX_FRAME_BYTES = 2**20
MAX_STRENGTH = 5.0


@dataclass
class Session:
    """What a browser animates, and when its last frame came."""

    live: LiveAnimation
    last: float


SESSIONS: dict[str, Session] = {}  # by the tokens of browsers; only the live worker adds and deletes


def open_live(paths: list[Path], networks: InferenceNetworks, relative: bool) -> dict[str, Any]:
    """Open a session for a browser: its token, the pictures, and the size of the frames to send."""
    drop_idle()
    if len(SESSIONS) >= MAX_SESSIONS:
        raise UserError(f"{MAX_SESSIONS} people are live already; try again in a minute")
    if len(paths) > MAX_PICTURES:
        raise UserError(f"{len(paths)} pictures: live mode takes at most {MAX_PICTURES}, one for each key")
    pictures = [read_picture(path) for path in paths or [SAMPLE["source_image"]]]
    live, token = LiveAnimation(networks, pictures, relative), secrets.token_urlsafe(16)
    SESSIONS[token] = Session(live, time.monotonic())
    urls = [data_url(fit(picture, live.size, live.fit)) for picture in pictures]
    return {"token": token, "pictures": urls, "size": [live.size[1], live.size[0]]}


def drop_idle() -> None:
    """Forget the sessions whose browsers have gone silent."""
    oldest = time.monotonic() - IDLE_SECONDS
    for token in [token for token, session in SESSIONS.items() if session.last < oldest]:
        del SESSIONS[token]


async def answer_frame(request: Request) -> Response:
    """Answer POST /live/frame: a JPEG in, the animated picture as a JPEG out; see `next_picture`."""
    # Who asks, and how much? Pages of other hosts can't send the header.
    session = SESSIONS.get(request.headers.get("x-live-token", ""))
    if session is None:
        return PlainTextResponse("this session has ended; start the camera again", status_code=410)
    try:
        integer(request.headers.get("content-length", ""), 0, MAX_FRAME_BYTES)
    except ValueError:
        return PlainTextResponse("a frame has at most 1 MiB", status_code=413)

    # The worker animates; meanwhile the server answers others.
    data = await request.body()
    session.last = time.monotonic()
    loop = asyncio.get_running_loop()
    try:
        jpeg, distance = await loop.run_in_executor(
            LIVE_WORKER, next_picture, session.live, data, dict(request.query_params)
        )
    except (UserError, ValueError) as error:
        message = told(error) or "the request holds a wrong value"
        return PlainTextResponse(without_folders(message), status_code=400)
    headers = {"x-distance": f"{distance:.3f}", "cache-control": "no-store"}
    return Response(jpeg, media_type="image/jpeg", headers=headers)


def next_picture(live: LiveAnimation, data: bytes, query: dict[str, str]) -> tuple[bytes, float]:
    """Animate a frame as `query` says: the picture, and how far the frame's pose is from the picture's."""
    live.show(min(integer(query.get("picture", "0")), len(live.animators) - 1))
    strength = number(query.get("smooth", "0"), 0, MAX_STRENGTH)
    live.set_smoothing(strength or None)
    live.auto_reference = query.get("auto") == "1"
    if query.get("reference") == "1":
        live.set_reference()
    return encode_jpeg(live.animate(decode_picture(data, "the frame"))), live.distance


ROUTES = [Route("/live/frame", answer_frame, methods=["POST"])]


def build_live_tab(offline: bool) -> None:
    form = Form()

    def start(files: list[Any] | None, relative: bool, *values: object) -> dict[str, Any]:
        paths = [path for path in map(upload, files or []) if path is not None]
        networks = choose_model(form.read(values), offline)
        return LIVE_WORKER.submit(open_live, paths, networks, relative).result()

    gr.Markdown(
        "Your camera moves a picture. Its frames go to the machine that this page runs on, and are not kept."
    )
    with gr.Row():
        pictures = gr.File(
            label="Pictures (up to 9; without any, the sample)",
            file_count="multiple",
            file_types=["image"],
            height=160,
            elem_id="live-pictures",
        )
        with gr.Column():
            relative = gr.Checkbox(
                True,
                label="Relative movement",
                info="measured from your pose at the start, or wherever you set the reference",
            )
            button = gr.Button("Start camera", variant="primary", elem_id="live-start")
    form.add_model("live-")
    button.click(
        start,
        [pictures, relative, *form.values()],
        html_widget("live", "live"),
        api_visibility="private",
        show_progress="minimal",
        preprocess=False,
    )
