"""The frame of a program: one line for each failure, and output that survives closed pipes and full disks."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from utils.errors import one_line, told
from utils.options import DEBUG

# As a shell reports a program that a signal ended: 128 + SIGINT, 128 + SIGPIPE. Windows has no SIGPIPE.
INTERRUPTED, CLOSED_PIPE = 130, 141


# ---- Programs ----------------------------------------------------------------


def command_line(main: Callable[[list[str] | None], None]) -> Callable[..., None]:
    """Make `main(argv)` a program: each failure that isn't a bug is one line on stderr and exit status 2.

    Ctrl-C is a quiet 130, a closed pipe on stdout a quiet 141. With `--debug` errors have a traceback.
    """

    @functools.wraps(main)
    def program(argv: list[str] | None = None) -> None:
        arguments = sys.argv[1:] if argv is None else argv
        with guarded_output() as stdout, one_line_reports():
            status = exit_status(lambda: main(arguments), arguments)
            if not status:
                status = exit_status(stdout.finish, arguments) or status
        if status is not None:
            sys.exit(status)

    return program


def exit_status(action: Callable[[], None], arguments: list[str]) -> int | str | None:
    """Do what may fail and report its failure; return the exit status, or None if all went well."""
    try:
        action()
    except SystemExit as stop:
        return stop.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        message = told(error)
        if message is None:  # a bug of ours
            raise
        if DEBUG in arguments:
            traceback.print_exc()
        say(f"error: {message}", sys.stderr)
        return 2
    return None


@contextlib.contextmanager
def one_line_reports() -> Iterator[None]:
    """Report warnings, and expected exceptions in library threads, as one line each within the block."""

    def report(failed: threading.ExceptHookArgs) -> None:
        # The program's own thread raises it too, as soon as it next asks something of that library.
        message = told(failed.exc_value) if isinstance(failed.exc_value, Exception) else None
        if message is None:
            excepthook(failed)
        else:
            print(f"warning: {message}", file=sys.stderr)

    # Python has one hook for either, for the whole process.
    excepthook, formatwarning = threading.excepthook, warnings.formatwarning
    threading.excepthook = report
    warnings.formatwarning = lambda message, *place, **more: f"warning: {one_line(message)}\n"
    try:
        yield
    finally:
        threading.excepthook, warnings.formatwarning = excepthook, formatwarning


# ---- Output ------------------------------------------------------------------


def say(line: object, file: TextIO | None = None) -> None:
    """Print one line; what a name in it could do to a terminal is written out."""
    print(one_line(line), file=file)


class Output:
    """A standard stream that survives closed pipes, full disks and terminals without the right characters.

    What is written after its first `failure` is dropped. With `ends_program` a closed pipe is an exit.
    """

    def __init__(self, stream: TextIO, ends_program: bool):
        self._stream = stream
        self.failure: OSError | None = None
        self.ends_program = ends_program
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal lacks

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def finish(self) -> None:
        """Write out what is in the buffer. Raises the failure, if the program is to end by it."""
        self.flush()
        if self.failure is not None and self.ends_program:
            self.failure.filename = "stdout"
            raise self.failure

    def _attempt(self, action: Callable[..., object], *arguments: str) -> None:
        if self.failure is not None:
            return
        try:
            action(*arguments)
        except OSError as error:
            self.failure = error
            # Python flushes the stream when it ends, and would complain: let the system drop what is left.
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), self._stream.fileno())
            if self.ends_program and isinstance(error, BrokenPipeError):
                sys.exit(CLOSED_PIPE)  # as nobody is left to read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def guarded_output() -> Iterator[Output]:
    """Make stdout and stderr `Output`s for the time of the block, and yield stdout."""
    before = sys.stdout, sys.stderr
    # A program that was started without streams gets some that lead nowhere. They also take the free numbers
    # up to 2, where else the next file opened would get what libraries print.
    _, stdout, stderr = (
        open(os.devnull, "r+") if stream is None else stream  # noqa: PTH123, SIM115
        for stream in (sys.stdin, *before)
    )
    sys.stdout, sys.stderr = out, err = Output(stdout, ends_program=True), Output(stderr, ends_program=False)
    try:
        yield out
    finally:
        out.ends_program = False
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def outlive_output() -> None:
    """Let the program go on when nobody reads its stdout any more, as training does."""
    if isinstance(sys.stdout, Output):
        sys.stdout.ends_program = False
