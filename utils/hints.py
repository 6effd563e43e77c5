"""Hints and warnings for the user: lines on standard error, unless somebody else listens."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextvars import ContextVar

from utils.errors import one_line


def on_terminal(kind: str, line: str) -> None:
    print(f"{kind}: {one_line(line)}", file=sys.stderr)


LISTENER: ContextVar[Callable[[str, str], None]] = ContextVar("LISTENER", default=on_terminal)


def hint(line: str) -> None:
    """Show a line of advice, once and not once a process of torchrun."""
    if "LOCAL_RANK" in os.environ and os.environ.get("RANK", "0") != "0":
        return
    LISTENER.get()("hint", line)


def warn(line: str) -> None:
    LISTENER.get()("warning", line)
