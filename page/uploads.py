"""Pictures that people hand in arrive as the paths of their files, unread: `media/` alone opens them."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.data_classes import ImageData


def path_of(widget: gr.Image, payload: ImageData | None) -> str | None:
    return None if payload is None else payload.path


# Gradio's own opens the file, by any format that Pillow knows, and tells errors in its own words. A subclass
# would make Gradio write a .pyi beside this file, and an instance is made anew when its value changes.
gr.Image.preprocess = path_of  # type: ignore[method-assign,assignment]


def picture_input(**options: Any) -> gr.Image:
    """A picture from a file, the clipboard or a camera; its value is the path of the file."""
    return gr.Image(type="filepath", image_mode=None, **options)
