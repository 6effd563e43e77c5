"""What a visitor chooses: the options of the demo, behind the widgets, the HTTP interface and its checks."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gradio as gr

from checkpoints.table import DEFAULT_MODEL, read_table
from inference.options import DemoOptions, When
from page.limits import FILES, LABELS, upload
from utils.errors import UserError
from utils.options import SEVERAL, held_value

FORMATS = [(name, f"result.{name}") for name in ("mp4", "mov", "mkv", "webm", "gif")] + [
    ("png (zip)", "result")
]

# What the page offers at first; the rest is as on the command line.
PAGE = DemoOptions(
    model=DEFAULT_MODEL,
    relative=True,
    adapt_scale=True,
    fit="crop",
    audio=True,
    result_video=Path("result.mp4"),
)
QUIET: Any = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
OPTIONS = {entry.name: entry for entry in fields(DemoOptions)}


class Form(dict[str, Any]):
    """The widgets of a tab, by the names of their options. `offline`: no model may be downloaded."""

    def __init__(self, offline: bool) -> None:
        super().__init__()
        self.offline = offline
        self.when: dict[str, When] = {}  # by names of options that are hidden else

    def add(self, name: str, label: str, info: str | None = None, widget: Any = None, **look: Any) -> Any:
        """Put a widget here on the page, by default one of the option's type; it is hidden but `when`."""
        value, choices, when = initial(name), OPTIONS[name].metadata.get("choices"), look.pop("when", None)
        look |= {"choices": choices} if choices and "choices" not in look else {}
        look |= {"info": info} if info else {}
        if when is not None:
            self.when[name] = when
            look["visible"] = when.is_so(PAGE) or "hidden"  # others would lose what is set
        of_text = gr.Radio if "choices" in look else gr.Textbox
        widget = widget or {bool: gr.Checkbox, str: of_text}.get(type(value), gr.Slider)
        LABELS[name] = label
        self[name] = widget(value=value, label=label, **look)
        return self[name]

    def add_model(self, prefix: str = "") -> None:
        """Put a model here: by name, or a config and a checkpoint. `prefix`: of their ids on the page."""
        models = [(entry.label, name) for name, entry in read_table().items()]
        self.add("model", "Model", choices=models, elem_id=prefix + "model", elem_classes="models")
        with gr.Accordion("A model of your own", open=False), gr.Row():
            for name, label, file_types in (
                ("config", "Its config (.yaml)", [".yaml", ".yml"]),
                ("checkpoint", "Its checkpoint", [".tar", ".safetensors"]),
            ):
                elem_id = prefix + name
                self.add(name, label, None, gr.File, file_types=file_types, height=140, elem_id=elem_id)

    def read(self, values: Iterable[object]) -> DemoOptions:
        """Turn the values of the widgets, as a browser or program sends them, into options.

        Raises `UserError` for what the page does not offer, or does not offer now.
        """
        options = self.chosen(values)
        for name, when in self.when.items():
            if when.is_so(options):
                continue
            if getattr(options, name) != getattr(PAGE, name):
                raise UserError(f"--{name}: has an effect {when.words} only")
            dropped: Any = {name: OPTIONS[name].default}
            options = replace(options, **dropped)
        return as_demo(options)

    def chosen(self, values: Iterable[object]) -> DemoOptions:
        pairs = zip(self.items(), values, strict=True)
        given: Any = {name: checked(name, widget, value) for (name, widget), value in pairs}
        return replace(PAGE, offline=self.offline, **given)

    def shown(self, *values: object) -> list[Any]:
        """Show the widgets that have an effect now; the others get their first values."""
        try:
            options = self.chosen(values)
        except UserError:  # while somebody types; whoever starts something is told
            return [gr.skip() for _ in self.when]
        return [
            gr.update(visible=True)
            if when.is_so(options)
            else gr.update(visible="hidden", value=initial(name))
            for name, when in self.when.items()
        ]

    def remember(self, page: gr.Blocks, preset: gr.Radio) -> Any:
        """Keep settings in the browser, but for files and boxes in them; return the event of their return."""
        kept = {"preset": preset} | {
            name: widget
            for name, widget in self.items()
            if not isinstance(widget, FILES) and "Box" not in OPTIONS[name].type
        }
        widgets, store = [*kept.values()], gr.BrowserState({}, storage_key="fomm", secret="none")

        def restore(saved: Any) -> list[Any]:
            saved = saved if isinstance(saved, dict) else {}
            return [saved.get(name, gr.skip()) for name in kept]

        names = json.dumps([*kept])
        gr.on(
            [widget.change for widget in widgets],
            None,
            widgets,
            store,
            js=f"""(...values) =>
            Object.fromEntries({names}.map((name, index) => [name, values[index]]))""",
            **QUIET,
        )
        return page.load(restore, store, widgets, **QUIET)

    def description(self, line: str) -> str:
        """Describe a function of the options, for programs."""
        told = (f"{name}: {getattr(widget, 'info', None) or LABELS[name]}" for name, widget in self.items())
        return "\n".join([line, *told])

    def signature(self, **before: object) -> inspect.Signature:
        """Give the names and defaults of a function of a request, values `before`, and the options."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        request = inspect.Parameter("request", kind, annotation=gr.Request)
        defaults = before | {name: initial(name) for name in self}
        choices = (inspect.Parameter(name, kind, default=value) for name, value in defaults.items())
        return inspect.Signature([request, *choices])


def initial(name: str) -> Any:
    """Return what a widget shows first."""
    value, held = getattr(PAGE, name), OPTIONS[name].type
    if value is None and "Path" not in held:
        return "" if held.startswith("Box") else 0
    return str(value) if isinstance(value, Path) else value


def as_demo(options: DemoOptions) -> DemoOptions:
    """Return the options of the command that does the same."""
    whole, other = options.is_pasted, options.driving_motion
    first = 0 if whole and options.relative and not options.find_best_frame else None
    moves = other is not None and other[0].suffix.lower() == ".npz"
    return replace(
        options,
        model=options.model if options.config is None and options.model != DEFAULT_MODEL else None,
        source_image=options.source_image if options.source_video is None else None,
        driving_video=None if moves else other or options.driving_video,
        driving_motion=other if moves else None,
        absolute=whole and not options.relative,
        paste_back=whole,
        best_frame=options.best_frame or first,
    ).resolved()


def checked(name: str, widget: Any, value: Any) -> Any:
    """Return a value as its option holds it. Raises `UserError` where the widget could not have given it."""
    if isinstance(widget, FILES):
        path = upload(value)
        return (path,) if path is not None and OPTIONS[name].type.startswith(SEVERAL) else path
    check_value(name, widget, value)
    try:
        return held_value(OPTIONS[name], value)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--{name}: {error}") from error


def check_value(name: str, widget: Any, value: Any) -> None:
    """Raise `UserError` for a value that a widget does not offer."""
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
        raise UserError(f"--{name}: {value!r} is not {wanted}")
