"""Options that several programs have, and how all of them are read. It imports nothing heavy."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from utils.errors import one_line
from utils.values import integer, number

Options = TypeVar("Options")

DEBUG = "--debug"  # `utils.program` looks for it
MAX_SEED = 2**63 - 1  # that every generator of random numbers takes
PRECISIONS = ("fp32", "bf16", "fp16")
TYPES: dict[str, Callable] = {"int": integer, "float": number, "Path": Path}  # by annotations of options
SEVERAL = "tuple[Path, ...]"


class OptionParser(argparse.ArgumentParser):
    """The parser of every program: its help keeps the lines of `description`, and errors are one line."""

    def __init__(self, description: str | None):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # else --mode would be taken for --model
        )
        # A box may begin with a minus sign, too: argparse takes numbers for values, where no option is one.
        self._negative_number_matcher = re.compile(r"-[\d.][\d.,eE+-]*$")
        text = "show the traceback of an error, too"
        self.add_argument(DEBUG, action=_Nothing, nargs=0, default=argparse.SUPPRESS, help=text)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Refuse an empty text: `Path` takes it for the current folder, others for no value."""
        if not arg_string:
            raise argparse.ArgumentError(action, "its value is empty; is a variable of the shell unset?")
        return super()._get_value(action, arg_string)

    def error(self, message: str) -> NoReturn:
        """Print one line; a wrong value, which argparse repeats, can hold line breaks."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}; --help lists all options\n")


class _Nothing(argparse.Action):
    """An option that leaves nothing in the namespace."""

    def __call__(self, *arguments: object) -> None:
        pass


def option(default: Any, text: str | Callable[[], str], **more: Any) -> Any:
    """Return a field of a dataclass of options: its default, its line in --help, and what argparse needs.

    `bounds`: the least and the greatest value of a number. `positional`: without its name before it.
    """
    return field(default=default, metadata={"help": text, **more})


def listed(kind: Any) -> list[Field]:
    """Return the fields of a dataclass of options as --help lists them: inherited ones last."""
    return sorted(fields(kind), key=lambda entry: entry.name not in kind.__annotations__)


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add an option for each field of a dataclass; its annotation says what it holds."""
    for entry in listed(kind):
        held = entry.type.removesuffix(" | None")  # the text, as annotations are not evaluated
        how: dict[str, Any] = {"default": entry.default}
        if held == "bool":
            how = {"action": "store_true"}
        elif held == SEVERAL:
            how |= {"type": Path, "nargs": "+"}
        elif held in TYPES:
            how |= {"type": TYPES[held]}
        how |= entry.metadata
        if "bounds" in how:
            least, most = how.pop("bounds")
            how["type"] = functools.partial(TYPES.get(held, integer), least=least, most=most)
        if callable(how["help"]):
            how["help"] = how["help"]()
        parser.add_argument(entry.name if how.pop("positional", False) else f"--{entry.name}", **how)


def typed(kind: type[Options], parsed: argparse.Namespace) -> Options:
    """Return what was parsed as a dataclass of options; lists become tuples."""
    values = {entry.name: getattr(parsed, entry.name) for entry in fields(cast(Any, kind))}
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )


def read_options(kind: type[Options], argv: list[str] | None, description: str | None) -> Options:
    """Return the command line of a program that has no other options, and no rule for what goes together."""
    parser = OptionParser(description)
    add_options(parser, kind)
    return typed(kind, parser.parse_args(argv))


def held_value(entry: Field, value: Any) -> Any:
    """Return a value of JSON as an option holds it; an empty text and 0 are none where none is allowed.

    Raises `argparse.ArgumentTypeError`.
    """
    held, parse = entry.type, entry.metadata.get("type")
    if held.endswith(" | None") and not value:
        return None
    if isinstance(value, str) and parse is not None:
        return parse(value)
    kinds: dict[str, Any] = {"bool": bool, "int": int, "float": float, "Path": Path}
    return kinds.get(held.removesuffix(" | None"), lambda same: same)(value)


def as_words(options: Any) -> list[str]:
    """Return the words of a command line that gives these options; defaults are left out."""
    words = []
    for entry in listed(type(options)):
        value = getattr(options, entry.name)
        if value == entry.default:
            continue
        if value is True:
            words += [f"--{entry.name}"]
        elif entry.type.startswith(SEVERAL):
            words += [f"--{entry.name}", *map(str, value)]
        elif isinstance(value, tuple):
            words += [f"--{entry.name}={','.join(map(str, value))}"]  # a box may begin with a minus sign
        else:
            words += [f"--{entry.name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words
