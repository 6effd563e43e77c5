"""The one worker that computes for everybody, and how a page follows what it does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import ClassVar, Generic, TypeVar

from inference.animation import Cancelled
from utils.errors import UserError
from utils.progress import Progress, no_bar

Outcome = TypeVar("Outcome")

SECONDS_PER_UPDATE = 0.2
MAX_WAITING = 64  # videos

# PyTorch keeps a pool of threads for each thread that computes, so one does all of it. Live frames have a
# worker of their own, so that they need not wait for a video.
VIDEO_WORKER = ThreadPoolExecutor(1, "video")
LIVE_WORKER = ThreadPoolExecutor(1, "live")


class Stoppable(Progress):
    """A progress bar that raises `Cancelled` once `stopped` is set."""

    def __init__(self, total: int, what: str, stopped: threading.Event):
        super().__init__(total, what, "frames", quiet=True)
        self.stopped = stopped

    def advance(self, count: int, note: str = "") -> None:
        super().advance(count, note)
        if self.stopped.is_set():
            raise Cancelled


class Ticket(Generic[Outcome]):
    """A place in the queue of the video worker, held by the page `session`."""

    held: ClassVar[list[Ticket]] = []  # by all pages, in their order; changed in the server's event loop only

    def __init__(self, session: str) -> None:
        self.session = session
        self.stopped = threading.Event()
        self.begun = False
        self.progress: Progress | None = None
        self.future: Future[Outcome] | None = None

    def show(self, what: str, total: int) -> Progress:
        """Follow a pass over a video, of which anything is kept that is done."""
        self.progress = no_bar(what, total)
        return self.progress

    def show_or_stop(self, what: str, total: int) -> Progress:
        """Follow a pass that is of no use unless it is whole."""
        self.progress = Stoppable(total, what, self.stopped)
        return self.progress

    def stop(self) -> None:
        """Stop the work, or leave the queue where it has not begun."""
        self.stopped.set()
        if self.future is not None:
            self.future.cancel()

    @classmethod
    def waiting(cls) -> list[Ticket]:
        return [ticket for ticket in cls.held if not ticket.begun and not ticket.stopped.is_set()]

    def line(self) -> str:
        """Say how far it is."""
        waiting = self.waiting()
        if self in waiting:
            place = waiting.index(self)
            return f"waiting, with {place} before this one" if place else "waiting, this one is next"
        return "preparing" if self.progress is None else self.progress.line()

    async def run(self, function: Callable[[], Outcome]) -> AsyncIterator[str]:
        """Let the worker call a function; yield how far it is until it is done. Whoever closes this stops it.

        Raises `UserError` where too many wait.
        """

        def begin() -> Outcome:
            self.begun = True
            return function()

        if len(self.waiting()) >= MAX_WAITING:
            raise UserError(f"{MAX_WAITING} videos wait already; try again in some minutes")
        self.held.append(self)
        try:
            self.future = VIDEO_WORKER.submit(begin)
            told = ""
            while not self.future.done():
                if told != (told := self.line()):
                    yield told
                await asyncio.sleep(SECONDS_PER_UPDATE)
        finally:  # also where the page was left
            self.stop()
            self.held.remove(self)

    def result(self) -> Outcome:
        """Return what the function did. Raises `Cancelled` where it was stopped too early for anything."""
        assert self.future is not None
        try:
            return self.future.result()
        except CancelledError:
            raise Cancelled from None
