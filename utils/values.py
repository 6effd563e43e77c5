"""Kinds of values in a YAML file, the check of its keys and values, and numbers in texts."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import ConfigError

MIN_SCALE = 1 / 1024
TINY, HUGE = 1e-6, 10**6  # of what is multiplied and divided by


class Leaf(NamedTuple):
    """A kind of value; the bounds of its numbers are far from what anyone needs and keep sums finite."""

    words: str
    check: Callable[[Any], bool]
    bounds: tuple[float, float] = (-(10**9), 10**9)

    def at_most(self, number: int) -> Leaf:
        return self._replace(bounds=(self.bounds[0], number))

    def problem(self, value: Any) -> str | None:
        """Say what a value should be, or None if it is."""
        if not self.check(value):
            return self.words
        numbers = value if isinstance(value, list | tuple) else [value]
        low, high = self.bounds
        for number in numbers:
            if isinstance(number, int | float) and not low <= number <= high:
                return f"at most {high:,}" if number > high else f"at least {low:,}"
        return None


def is_integer(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and is_number(value, least)


def is_number(value: Any, least: float = 0) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= least


def is_scale(value: Any) -> bool:
    return is_number(value) and MIN_SCALE <= value <= 1 and abs(round(1 / value) * value - 1) < 1e-6


def is_text(value: Any) -> bool:
    """Say whether a value is a text that can be written to a file and be a path."""
    return isinstance(value, str) and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


def list_of(check: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list | tuple) and all(check(item) for item in value)


def is_range(value: Any, least: float) -> bool:
    return list_of(lambda item: is_number(item, least), value) and len(value) == 2 and value[0] <= value[1]


FLAG = Leaf("true or false", lambda value: isinstance(value, bool))
TEXT = Leaf("a text of letters that a path can have", is_text)
COUNT = Leaf("a whole number of at least 1", lambda value: is_integer(value, least=1))
WHOLE = Leaf("a whole number of at least 0", is_integer)
NUMBER = Leaf("a number of at least 0", is_number, (0, HUGE))
POSITIVE = Leaf("a number above 0", lambda value: is_number(value) and value > 0, (TINY, HUGE))
DECAY = Leaf("a number above 0 and below 1", lambda value: is_number(value) and 0 < value < 1)
NUMBERS = Leaf("a list of numbers of at least 0", lambda value: list_of(is_number, value), (0, HUGE))
WHOLES = Leaf("a list of whole numbers", lambda value: list_of(is_integer, value))
SCALE = Leaf("1 divided by a whole number (1, 0.5, 0.25, …)", is_scale)
SCALES = Leaf("a list of 1 divided by whole numbers ([1, 0.5, 0.25])", lambda value: list_of(is_scale, value))
FRAME_SHAPE = Leaf(
    "[height, width, channels]", lambda value: list_of(COUNT.check, value) and len(value) == 3, (1, 2**13)
)
RANGE = Leaf("[lowest, highest], both above 0", lambda value: is_range(value, TINY), (1 / 100, 100))
ANGLE = Leaf(
    "degrees, or [lowest, highest]", lambda value: is_number(value) or is_range(value, -360), (-360, 360)
)
HUE = Leaf("a number from 0 to 0.5", lambda value: is_number(value) and value <= 0.5)
SIZE = Leaf(
    "a whole number, or [height, width]",
    lambda value: COUNT.check(value) or (list_of(COUNT.check, value) and len(value) == 2),
    (1, 2**13),
)
CHANNELS = Leaf("3, or 1 for grey pictures", lambda value: value in (1, 3) and is_integer(value))
INTERPOLATION = Leaf("nearest or bilinear", lambda value: value in ("nearest", "bilinear"))
COLORMAP = Leaf("the name of a matplotlib colormap", is_text)
FORMAT = Leaf(".mp4 or .gif", lambda value: value in (".mp4", ".gif"))
FEATURES, BLOCKS = COUNT.at_most(2**13), COUNT.at_most(12)
HALVINGS, REPEATS = WHOLE.at_most(12), COUNT.at_most(10**5)


# ---- Numbers in texts --------------------------------------------------------


class WrongNumber(argparse.ArgumentTypeError, ValueError):
    """A text that is no number, or one out of bounds; argparse prints the message."""


def integer(text: str, least: int = 0, most: int = 10**9) -> int:
    """Parse a whole number of an option, a file or a server. Raises `WrongNumber`."""
    # int() takes more: digits of all scripts, and of 4,300 digits on it fails in another way.
    if re.fullmatch(r"[+-]?[0-9]{1,19}", text) and least <= int(text) <= most:
        return int(text)
    raise WrongNumber(f"'{text}' is not a whole number from {least} to {most}")


def number(text: str, least: float = 0, most: float = 10**9) -> float:
    """Parse a finite number of an option or a file. Raises `WrongNumber`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise WrongNumber(f"'{text}' is not a number from {least:g} to {most:g}")
    return value


# ---- Keys ----------------------------------------------------------------------


def check_keys(values: Any, schema: dict, path: str | Path, key: str) -> None:
    """Check one mapping of a config, found under the dotted `key`, and all below it.

    A key of the schema that ends in "?" may be left out. Raises `ConfigError`.
    """
    here = key or "the file"
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: {here} must hold the keys {', '.join(plain_names(schema))}; it is {values!r}"
        )
    for name in values:
        if name not in plain_names(schema):
            raise ConfigError(
                f"{path}: unknown key '{dotted(key, name)}'; {here} may hold {', '.join(plain_names(schema))}"
            )
    for entry, expected in schema.items():
        name, full = entry.rstrip("?"), dotted(key, entry.rstrip("?"))
        if values.get(name) is None:  # an empty value counts as left out
            if not entry.endswith("?"):
                words = "" if isinstance(expected, dict) else f": {expected.words}"
                raise ConfigError(f"{path}: missing key '{full}'{words}")
        elif isinstance(expected, dict):
            check_keys(values[name], expected, path, full)
        elif (wanted := expected.problem(values[name])) is not None:
            raise ConfigError(f"{path}: '{full}' must be {wanted}; it is {values[name]!r}")


def plain_names(schema: dict) -> list[str]:
    return [entry.rstrip("?") for entry in schema]


def dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)
