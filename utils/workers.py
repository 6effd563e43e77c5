"""Worker processes that end with their program: when a pipe to it closes, however it ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TypeVar

from utils.errors import UserError
from utils.signals import STOP_SIGNALS

Given = TypeVar("Given")
Returned = TypeVar("Returned")


def in_parallel(
    function: Callable[[Given], Returned], jobs: Sequence[Given], workers: int
) -> Generator[Returned, None, None]:
    """Yield `function(job)`, of an importable function, for each job in the order in which they finish.

    The workers die at once when the iterator is closed. Raises `UserError` if a worker dies before.
    """
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    lifeline, held_end = context.Pipe(duplex=False)
    with held_end, ProcessPoolExecutor(min(workers, len(jobs)), context, become_worker, (lifeline,)) as pool:
        try:
            for done in as_completed([pool.submit(function, job) for job in jobs]):
                yield done.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker was killed, perhaps for lack of memory; close other programs, or use fewer workers"
            ) from None
        finally:
            held_end.close()  # the workers end now, and leaving the pool waits until they are gone


def become_worker(lifeline: Connection) -> None:
    """Ignore signals, and end this process when the other end of `lifeline` closes."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a group of its own, so that what it starts can end with it
    threading.Thread(target=end_with, args=(lifeline,), daemon=True).start()


def end_with(lifeline: Connection) -> None:
    """Wait until the other end closes, then end this process, and on Unix all that it started."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv()
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
