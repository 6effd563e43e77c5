"""Widgets that take files and hand on their paths as they are, unread: `media/` alone opens them."""

from __future__ import annotations

import gradio as gr
from gradio.data_classes import ImageData

from gradio.events import Dependency

class PictureInput(gr.Image):
    """A picture from a file, the clipboard or a camera."""

    is_template = True  # its part of the browser is that of gr.Image

    def preprocess(self, payload: ImageData | None) -> str | None:  # type: ignore[override]
        return None if payload is None else payload.path
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component
