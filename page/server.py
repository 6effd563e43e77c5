"""The page as a whole, and how it is served."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio.route_utils import FnIndexInferError
from gradio.routes import templates
from jinja2 import FunctionLoader
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from page.animate_tab import build_animate_tab
from page.inside_tab import build_inside_tab
from page.limits import FILES, MAX_UPLOAD, check_uploads, shown
from page.live_tab import ROUTES, build_live_tab, leave_live
from utils.errors import UserError
from utils.hosts import guarded

TITLE = "First Order Motion Model"
OF_GRADIO = ("request", "progress")  # parameters that no field of the page fills
HERE = Path(__file__).parent


def first_script() -> None:
    """Let the page begin with `first.js`, before Gradio's own scripts."""
    loader, script = templates.env.loader, (HERE / "first.js").read_text(encoding="utf-8")
    assert loader is not None

    def source(name: str) -> str:
        html, *_ = loader.get_source(templates.env, name)
        return html.replace("<head>", f"<head><script>{script}</script>", 1)

    templates.env.loader = FunctionLoader(source)


class Page(gr.Blocks):
    """A page that checks what is sent to any of its functions, and tells any error in one line."""

    async def process_api(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        try:
            return await super().process_api(*arguments, **more)
        except Exception as error:
            raise shown(error) from error

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *more: Any) -> Any:
        names = [name for name in inspect.signature(block_fn.fn).parameters if name not in OF_GRADIO]
        if missing := names[len(inputs) : len(block_fn.inputs)]:
            raise UserError(f"{', '.join(missing)}: no value was sent")
        for number, widget in enumerate(block_fn.inputs):
            if isinstance(widget, FILES):
                check_uploads(names[min(number, len(names) - 1)], inputs[number])
        return await super().preprocess_data(block_fn, inputs, *more)


async def unknown(request: Request, error: Exception) -> PlainTextResponse:
    """Answer whoever names a function that isn't there."""
    return PlainTextResponse("the page has no such function; see /gradio_api/info", status_code=404)


def build_page(offline: bool, results: Path) -> gr.Blocks:
    """Build the tabs. `results`: a folder for results on their way to the browser."""
    with Page(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\nMake a picture move as a video does, or as you do in front of a camera.")
        with gr.Tab("Animate"):
            form = build_animate_tab(page, offline, results)
        with gr.Tab("Live"):
            build_live_tab(offline)
        with gr.Tab("Inside"):
            build_inside_tab(form)
        page.unload(leave_live)
    return page


def theme() -> gr.themes.Base:
    """Take fonts of the reader's system, so that none is loaded, and colours with the contrast of WCAG AA."""
    plain = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return plain.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
    )


def serve(
    page: gr.Blocks, host: str, port: int | None, share: bool, hosts: set[str], **https: Any
) -> tuple[str, str | None]:
    """Serve the page in threads of its own; return its address, and that of `share` or None.

    `hosts`: the names that browsers may know it by.
    """
    first_script()
    page.queue(default_concurrency_limit=4, max_size=64)
    with contextlib.redirect_stdout(io.StringIO()):  # Gradio prints pages of advice where sharing fails
        _, local, public = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            quiet=True,
            prevent_thread_lock=True,
            show_error=False,
            footer_links=["api"],
            run_history=False,
            max_file_size=MAX_UPLOAD * 2**20,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            app_kwargs={
                "routes": ROUTES,
                "lifespan": functools.partial(guarded, hosts=hosts),
                "exception_handlers": dict.fromkeys((KeyError, FnIndexInferError), unknown),
            },
            theme=theme(),
            css=(HERE / "page.css").read_text(encoding="utf-8"),
            **https,
        )
    if public is not None:
        hosts.add(urlsplit(public).netloc)
    return local, public
