"""A picture with a box that people drag, or move by arrow keys."""

from __future__ import annotations

import base64
from pathlib import Path

import gradio as gr
import numpy as np

from media.encoded import encode_jpeg
from media.pictures import fit

HERE = Path(__file__).parent
MAX_SIDE = 640  # pixels of the picture that is sent to the browser

HTML = """
<figure class="crop-box" hidden>
  <div class="crop-stage">
    <img alt="">
    <div class="crop-faces"></div>
    <div class="crop-handle" tabindex="0" role="application"
      aria-label="Box to cut. Arrow keys move it; with Shift they change its size."
    ><span data-corner="nw"></span><span data-corner="ne"></span
    ><span data-corner="sw"></span><span data-corner="se"></span></div>
  </div>
  <figcaption></figcaption>
</figure>
"""


def crop_box(elem_id: str) -> gr.HTML:
    """Its value is what `view` returns. "input" tells that the box was moved, and is in `value.box` then."""
    return gr.HTML(
        value=None,
        html_template=HTML,
        css_template=(HERE / "crop_box.css").read_text(encoding="utf-8"),
        js_on_load=(HERE / "crop_box.js").read_text(encoding="utf-8"),
        elem_id=elem_id,
    )


def view(picture: np.ndarray, box: tuple[int, ...], faces: np.ndarray, aspect: float, title: str) -> dict:
    """What a `crop_box` shows: a picture (h, w, 3) uint8, a box in its pixels, and the faces (F, 4) found.

    `aspect`: width over height of what the model takes, which the box keeps.
    """
    height, width = picture.shape[:2]
    scale = min(1, MAX_SIDE / max(height, width))
    small = fit(picture, (max(1, round(height * scale)), max(1, round(width * scale))), "stretch")
    return {
        "url": "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(small)).decode(),
        "size": [width, height],
        "box": list(box),
        "faces": faces.round().astype(int).tolist(),
        "aspect": aspect,
        "title": title,
    }
