"""Widgets of our own: a template, a style and a script of one name each."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

HERE = Path(__file__).parent


def html_widget(name: str, elem_id: str) -> gr.HTML:
    """Make a widget of `NAME.html`, `NAME.css` and `NAME.js`, empty at first."""
    html, css, script = (
        (HERE / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    return gr.HTML(value=None, html_template=html, css_template=css, js_on_load=script, elem_id=elem_id)
