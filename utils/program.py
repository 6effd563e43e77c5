"""The frame of a program: one line for each failure, and output that survives closed pipes and full disks."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO

from utils.errors import one_line, told

CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell reports it; Windows has no such signal
DEBUG, DEBUG_HELP = "--debug", "  --debug               show the traceback of an error, too"


# ---- Programs ----------------------------------------------------------------


def command_line(main: Callable[[list[str] | None], None]) -> Callable[..., None]:
    """Make `main(argv)` a program: each failure that isn't a bug is one line on stderr and exit status 2.

    Ctrl-C is a quiet 130, a closed pipe on stdout a quiet 141. Warnings are one line on stderr, too. With
    `--debug`, which every program knows, the traceback comes before the line.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        setattr(argparse.ArgumentParser, "error", usage_error)  # noqa: B010  # mypy knows no other way
        warnings.formatwarning = lambda message, *place, **more: f"warning: {one_line(message)}\n"
        arguments, debug = without_debug(sys.argv[1:] if argv is None else argv)
        with guarded_output() as stdout, guarded_threads():
            status = run_main(main, arguments, debug)
            stdout.flush()
            if isinstance(stdout.failure, BrokenPipeError) and stdout.ends_program:
                status = CLOSED_PIPE
            elif stdout.failure is not None and stdout.ends_program and not status:
                print(f"error: stdout could not be written: {told(stdout.failure)}", file=sys.stderr)
                status = 2
        if status is not None:
            sys.exit(status)

    return wrapped


def run_main(main: Callable[[list[str] | None], None], arguments: list[str], debug: bool) -> int | str | None:
    """Call `main` and tell what it raises; the exit status, or None if it returned."""
    try:
        main(arguments)
    except SystemExit as exit_of_main:
        if exit_of_main.code == 0 and not {"-h", "--help"}.isdisjoint(arguments):
            print(DEBUG_HELP)  # the help ends in the list of options
        return exit_of_main.code
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell reports it
    except Exception as error:
        if isinstance(error, BrokenPipeError) and getattr(sys.stdout, "failure", None) is not None:
            return CLOSED_PIPE
        message = told(error)
        if message is None:
            raise
        if debug:
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return 2
    return None


def usage_error(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """What argparse says of a wrong option; a value that it repeats can hold line breaks."""
    parser.print_usage(sys.stderr)
    parser.exit(2, f"{parser.prog}: error: {one_line(message)}\n")


@contextlib.contextmanager
def guarded_threads() -> Iterator[None]:
    """Within the block a failure of a library's thread that isn't a bug is one line, too.

    The program hears of it in its own thread when it next asks something of that library.
    """

    def tell(failed: threading.ExceptHookArgs) -> None:
        message = told(failed.exc_value) if isinstance(failed.exc_value, Exception) else None
        if message is None:
            before(failed)
        else:
            print(f"warning: {message}", file=sys.stderr)

    before, threading.excepthook = threading.excepthook, tell
    try:
        yield
    finally:
        threading.excepthook = before


def without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments of `main`, and whether `--debug` was among the options."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != DEBUG]
    return options + arguments[end:], len(options) < end


# ---- Output ------------------------------------------------------------------


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
