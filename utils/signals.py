"""What a program does when it is asked to stop. Only the main thread can set that."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

# What asks a program to stop: Ctrl-C, `kill`, and a terminal that closes. Windows has no SIGHUP.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Let the first of `STOP_SIGNALS` raise `SystemExit(128 + number)`, so that `finally` runs."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in STOP_SIGNALS:  # later ones don't interrupt that
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    with _handled_by(stop):
        yield


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Note `STOP_SIGNALS` in the list instead of letting them end the process."""
    caught: list[int] = []
    with _handled_by(lambda number, frame: caught.append(number)):
        yield caught


@contextlib.contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    # A signal that was ignored before stays ignored: SIGHUP is under `nohup`.
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
