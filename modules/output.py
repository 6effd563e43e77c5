"""What a program says, wherever that goes: to a terminal that lacks letters, a full disk, or nobody at all.

What is said is never worth more than what is done. A stream that fails is silent from then on, and the
program hears of it when it has ended. Only a closed pipe on stdout ends it at once, as every program in a
pipeline ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Stream:
    """A text stream that takes every text and keeps its first failure for later in `failure`."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.failure: OSError | None = None
        self.ends_program = False  # whether a closed pipe raises `BrokenPipeError`
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for letters that the terminal lacks

    def write(self, text: str) -> int:
        if self.failure is None:
            with self._noted_failure():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self.failure is None:
            with self._noted_failure():
                self._stream.flush()

    @contextlib.contextmanager
    def _noted_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            self._give_up()
            if self.ends_program and isinstance(error, BrokenPipeError):
                raise

    def _give_up(self) -> None:
        """Let the system drop what the stream still holds, or Python would try to write it at its end."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def guarded_output() -> Iterator[Stream]:
    """Within the block stdout and stderr are `Stream`s, open ones even if the program was started without.

    Yields stdout.
    """
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        if None in before:
            _fill_descriptors()
        out, err = (
            Stream(stack.enter_context(open(os.devnull, "w")) if stream is None else stream)  # noqa: PTH123
            for stream in before
        )
        out.ends_program = True
        sys.stdout, sys.stderr = out, err
        try:
            yield out
        finally:
            for stream in (out, err):
                stream.ends_program = False
                stream.flush()
            sys.stdout, sys.stderr = before


def outlive_output() -> None:
    """From here on the program goes on when nobody reads its stdout any more, as training does."""
    if isinstance(sys.stdout, Stream):
        sys.stdout.ends_program = False


def _fill_descriptors() -> None:
    """Take the numbers 0 to 2 where they are free.

    Else the next file opened would get what libraries print.
    """
    number = os.open(os.devnull, os.O_RDWR)
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
