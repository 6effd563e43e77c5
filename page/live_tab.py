"""The tab that animates a picture with the frames of a camera.

The browser sends one frame at a time and draws the picture that comes back. A frame that comes meanwhile is
never sent: there is no queue in which frames grow old.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from inference.live import LiveAnimation
from inference.samples import SAMPLE
from media.encoded import decode_picture, encode_jpeg
from media.pictures import fit
from page.limits import read_upload, shown_errors, without_folders
from page.models import Loaded, choose_model, model_widgets
from page.work import LIVE_WORKER
from utils.errors import UserError, told

HERE = Path(__file__).parent
MAX_PICTURES = 9  # one for each of the keys 1 to 9
MAX_SESSIONS = 8
IDLE_SECONDS = 60.0
MAX_FRAME_BYTES = 2**20
MAX_STRENGTH = 5.0


class Session(NamedTuple):
    """What a browser animates, and when its last frame came."""

    live: LiveAnimation
    last: list[float]


SESSIONS: dict[str, Session] = {}  # by the token that the browser was given
LOCK = threading.Lock()

# ---- Opening and closing -------------------------------------------------------


def open_live(paths: list[str], model: Loaded, relative: bool) -> dict[str, Any]:
    """A session for a browser: its token, the pictures, and the size of the frames to send."""
    if not 1 <= len(paths) <= MAX_PICTURES:
        raise UserError(f"{len(paths)} pictures: live mode takes 1 to {MAX_PICTURES}, one for each key")
    pictures = [fit(read_upload(path), model.size, "crop") for path in paths]
    live = LIVE_WORKER.submit(LiveAnimation, model.networks, pictures, relative).result()
    token = secrets.token_urlsafe(16)
    with LOCK:
        drop_idle()
        if len(SESSIONS) >= MAX_SESSIONS:
            raise UserError(f"{MAX_SESSIONS} people are live already; try again in a minute")
        SESSIONS[token] = Session(live, [time.monotonic()])
    urls = [
        "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(picture)).decode() for picture in pictures
    ]
    return {"token": token, "pictures": urls, "size": [model.size[1], model.size[0]]}


def drop_idle() -> None:
    """Forget the sessions whose browsers have gone silent."""
    oldest = time.monotonic() - IDLE_SECONDS
    for token in [token for token, session in SESSIONS.items() if session.last[0] < oldest]:
        del SESSIONS[token]


# ---- Frames --------------------------------------------------------------------


async def answer_frame(request: Request) -> Response:
    """POST /live/frame: a JPEG in, the animated picture as a JPEG out.

    The token comes in a header, which pages of other hosts can't send. The query says which picture, whether
    the reference is to be set, whether that is automatic, and how much to smooth.
    """
    session = SESSIONS.get(request.headers.get("x-live-token", ""))
    if session is None:
        return PlainTextResponse("this session has ended; start the camera again", status_code=410)
    if int(request.headers.get("content-length") or MAX_FRAME_BYTES + 1) > MAX_FRAME_BYTES:
        return PlainTextResponse("a frame has at most 1 MiB", status_code=413)
    data = await request.body()
    session.last[0] = time.monotonic()
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
    """The animated picture for a frame, and how far the frame's pose is from the picture's."""
    live.show(min(max(int(query.get("picture", 0)), 0), len(live.animators) - 1))
    strength = min(max(float(query.get("smooth", 0)), 0.0), MAX_STRENGTH)
    live.set_smoothing(strength or None)
    live.auto_reference = query.get("auto") == "1"
    if query.get("reference") == "1":
        live.set_reference()
    return encode_jpeg(live.animate(decode_picture(data, "the frame"))), live.distance


ROUTES = [Route("/live/frame", answer_frame, methods=["POST"])]

# ---- Widgets -------------------------------------------------------------------


def live_view() -> gr.HTML:
    """Camera, animated picture and their controls. Its value is what `open_live` returns."""
    return gr.HTML(
        value=None,
        html_template=(HERE / "live.html").read_text(encoding="utf-8"),
        css_template=(HERE / "live.css").read_text(encoding="utf-8"),
        js_on_load=(HERE / "live.js").read_text(encoding="utf-8"),
        elem_id="live",
    )


def build_live_tab(offline: bool) -> None:
    def start(
        pictures: list[str] | None,
        relative: bool,
        model: str,
        config: str | None,
        checkpoint: str | None,
    ) -> dict[str, Any]:
        with shown_errors():
            chosen = choose_model(model, config, checkpoint, offline)
            return open_live(pictures or [str(SAMPLE["source_image"])], chosen, relative)

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
    model = model_widgets("live-")
    view = live_view()
    button.click(start, [pictures, relative, *model], view, api_visibility="private", show_progress="minimal")
