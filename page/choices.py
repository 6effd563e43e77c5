"""What a visitor chooses: one description behind the widgets, the HTTP interface and its checks."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from checkpoints.table import DEFAULT_MODEL, read_table
from faces.options import Box, box_option
from inference.options import DemoOptions
from media.clips import Clip
from page.limits import upload_path
from utils.errors import UserError

RELATIVE, ABSOLUTE = "relative", "absolute"
FIRST, BEST, CHOSEN = "first frame", "best frame", "frame of the slider"
NOTHING, FACES, BOXES = "nothing", "faces", "boxes"
EVERY_FACE = "all"
FORMATS = {"mp4": ".mp4", "mov": ".mov", "mkv": ".mkv", "webm": ".webm", "gif": ".gif", "png (zip)": ""}


@dataclass(frozen=True)
class Choices:
    """The arguments of `/animate` and their defaults, in the order of the page. Files are uploads."""

    source_image: Path | None = None
    driving_video: Path | None = None
    model: str = DEFAULT_MODEL
    config: Path | None = None
    checkpoint: Path | None = None
    movement: str = RELATIVE
    adapt_scale: bool = True
    reference: str = FIRST
    best_frame: int = 0
    smooth: float = 0.0
    cut: str = NOTHING
    crop_source: str = ""
    crop_driving: str = ""
    face: str = "largest"
    paste_back: bool = False
    fit: str = "crop"
    size: int = 0
    side_by_side: bool = False
    audio: bool = True
    format: str = "mp4"

    def options(self, clip: Clip) -> DemoOptions:
        """Return the options of `demo.py` that do the same with a driving video. Raises `UserError`."""
        relative, boxes = self.movement == RELATIVE, self.cut == BOXES
        return DemoOptions(
            model=self.model if self.config is None and self.model != Choices.model else None,
            config=self.config,
            checkpoint=self.checkpoint,
            relative=relative,
            absolute=not relative and self.paste_back,
            adapt_scale=relative and self.adapt_scale,
            find_best_frame=relative and self.reference == BEST,
            best_frame=self.best_frame if relative and self.reference == CHOSEN else None,
            smooth=self.smooth or None,
            crop=self.cut == FACES,
            face=self.face if self.cut == FACES else "largest",
            crop_source=box(self.crop_source, "crop source") if boxes else None,
            crop_driving=box(self.crop_driving, "crop driving") if boxes else None,
            paste_back=self.paste_back,
            fit=self.fit,
            size=self.size or None,
            side_by_side=self.side_by_side,
            audio=self.audio and clip.has_audio,
        ).resolved()

    def check(self) -> None:
        """Raise `UserError` for choices that don't go together."""
        cuts_picture = self.cut == FACES or (self.cut == BOXES and self.crop_source.strip())
        if self.paste_back and not cuts_picture:
            raise UserError(
                "'paste back' needs something that is cut out of the picture: choose faces, or a box"
            )
        if self.cut == FACES and self.face == EVERY_FACE and not self.paste_back:
            raise UserError("every face needs 'paste back', which puts them into one picture")
        if self.paste_back and self.side_by_side:
            raise UserError("'paste back' and 'side by side' exclude each other: choose one")


def box(text: str, name: str) -> Box | None:
    """The box in a text field, None where it is empty. Raises `UserError`."""
    try:
        return box_option(text) if text.strip() else None
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{name}: {error}") from error


class Form(dict[str, Any]):
    """The widgets of a tab, by the names of their choices."""

    def add(self, name: str, label: str, info: str | None = None, widget: Any = None, **look: Any) -> Any:
        """Put a widget here on the page, by default one of the type of the choice."""
        default = getattr(Choices, name)
        if info is not None:
            look["info"] = info
        if widget is None:
            of_text = gr.Radio if "choices" in look else gr.Textbox
            widget = {bool: gr.Checkbox, str: of_text}.get(type(default), gr.Slider)
        self[name] = widget(value=default, label=label, **look)
        return self[name]

    def add_model(self, prefix: str = "") -> None:
        """Put a model here: by name, or a config and a checkpoint. `prefix`: of their ids on the page."""
        told = "puppets comes with the program and knows cartoon heads; others are downloaded on first use"
        with gr.Accordion("Model", open=False):
            self.add("model", "Model", told, gr.Dropdown, choices=list(read_table()))
            with gr.Row():
                for name, label, file_types in (
                    ("config", "Config of a model of your own (.yaml)", [".yaml", ".yml"]),
                    ("checkpoint", "Its checkpoint", [".tar", ".safetensors"]),
                ):
                    elem_id = prefix + name
                    self.add(name, label, None, gr.File, file_types=file_types, height=140, elem_id=elem_id)

    def read(self, values: Iterable[object]) -> dict[str, Any]:
        """Check the values of the widgets, as they came from a browser or program. Raises `UserError`."""
        pairs = zip(self.items(), values, strict=True)
        return {name: checked(name, widget, value) for (name, widget), value in pairs}

    def signature(self) -> inspect.Signature:
        """Give the names and defaults of a function of a request and the choices, for Gradio."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        request = inspect.Parameter("request", kind, annotation=gr.Request)
        choices = (inspect.Parameter(name, kind, default=getattr(Choices, name)) for name in self)
        return inspect.Signature([request, *choices])


def checked(name: str, widget: Any, value: Any) -> Any:
    """Return a value as the choice holds it. Raises `UserError` where the widget could not have given it."""
    if isinstance(widget, gr.Image | gr.Video | gr.File):
        return upload_path(value)

    # What does it offer?
    if isinstance(widget, gr.Checkbox):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(widget, gr.Textbox):
        fits, wanted = isinstance(value, str), "a text"
    elif isinstance(widget, gr.Radio | gr.Dropdown):
        offered = [value for _, value in widget.choices]
        fits, wanted = value in offered, f"one of {', '.join(map(str, offered))}"
    else:
        low, high = widget.minimum, widget.maximum
        fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        wanted = f"a number from {low} to {high}"
    if not fits:
        raise UserError(f"{name}: {value!r} is not {wanted}")
    kind: Any = type(getattr(Choices, name, 0))  # what is no choice is a frame's number
    return kind(value)
