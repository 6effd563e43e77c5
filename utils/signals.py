"""What a program does when it is asked to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

# What asks a program to stop: Ctrl-C, `kill`, and a terminal that closes. Windows has no SIGHUP.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Within the block the first of `STOP_SIGNALS` raises `SystemExit(128 + number)`, so that `finally` runs.

    Later signals are ignored, so that they don't interrupt that. A signal that was ignored before stays
    ignored: SIGHUP is under `nohup`. Works in the main thread only."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Within the block `STOP_SIGNALS` are noted in the list instead of ending the process.

    A signal that was ignored before stays ignored: SIGHUP is under `nohup`. Works in the main thread only.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
