"""Places in the queue of a worker for several people, who follow what it does and may stop it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import ClassVar, Generic, TypeVar

from utils.errors import UserError
from utils.hints import LISTENER
from utils.progress import Cancelled, Progress, no_bar

Outcome = TypeVar("Outcome")

SECONDS_PER_UPDATE = 0.2
MAX_WAITING = 64  # for one worker


class Stoppable(Progress):
    """A progress bar that raises `Cancelled` once `stopped` is set."""

    def __init__(self, total: int | None, what: str, stopped: threading.Event, unit: str = "frames"):
        super().__init__(total, what, unit, quiet=True)
        self.stopped = stopped

    def advance(self, count: int, note: str = "") -> None:
        super().advance(count, note)
        if self.stopped.is_set():
            raise Cancelled


class Ticket(Generic[Outcome]):
    """A place in the queue of a worker, held by the page `session`, for a video of so many frames."""

    held: ClassVar[list[Ticket]] = []  # by all pages, in their order; changed in the server's event loop only
    pace: ClassVar[float] = 0.1  # seconds a frame, of the last video

    def __init__(self, session: str, worker: ThreadPoolExecutor, frames: int = 0) -> None:
        self.session, self.frames, self.worker = session, frames, worker
        self.stopped = threading.Event()
        self.begun: float | None = None
        self.progress: Progress | None = None
        self.hints: list[tuple[str, str]] = []  # that nobody has seen yet
        self.future: Future[Outcome] | None = None

    def show(self, what: str, total: int) -> Progress:
        """Follow a pass over a video, of which anything is kept that is done."""
        self.progress = no_bar(what, total)
        return self.progress

    def show_or_stop(self, what: str, total: int) -> Progress:
        """Follow a pass that is of no use unless it is whole."""
        self.progress = Stoppable(total, what, self.stopped)
        return self.progress

    def show_download(self, what: str, total: int | None) -> Progress:
        self.progress = Stoppable(total, what, self.stopped, "MiB")
        return self.progress

    def stop(self) -> None:
        """Stop the work, or leave the queue where it has not begun."""
        self.stopped.set()
        if self.future is not None:
            self.future.cancel()

    def queue(self) -> list[Ticket]:
        """Return who has the same worker, or waits for it."""
        return [
            ticket for ticket in self.held if ticket.worker is self.worker and not ticket.stopped.is_set()
        ]

    def left(self) -> float:
        """Estimate the seconds that it takes from now on."""
        progress = self.progress
        if progress is None or not progress.done or progress.total is None:
            return self.frames * self.pace
        return (time.monotonic() - progress.started) * (progress.total / progress.done - 1)

    def line(self) -> str:
        """Say how far it is."""
        if self.begun is None and not self.stopped.is_set():
            before = self.queue()[: self.queue().index(self)]
            seconds = max(1, round(sum(ticket.left() for ticket in before)))
            return f"waiting about {seconds} s, with {len(before)} before this one"
        return "preparing" if self.progress is None else self.progress.line()

    def share(self) -> float | None:
        """Return how much of the present pass is done, in [0, 1]; None if that is unknown."""
        progress = self.progress
        return None if progress is None or not progress.total else progress.done / progress.total

    async def run(self, function: Callable[[], Outcome]) -> AsyncIterator[str]:
        """Let the worker call a function; yield how far it is until it is done. Whoever closes this stops it.

        Raises `UserError` where too many wait.
        """

        def begin() -> Outcome:
            self.begun = time.monotonic()
            token = LISTENER.set(lambda kind, line: self.hints.append((kind, line)))
            try:
                return function()
            finally:
                LISTENER.reset(token)

        if len(self.queue()) > MAX_WAITING:
            raise UserError(f"{MAX_WAITING} videos wait already; try again in some minutes")
        self.held.append(self)
        try:
            self.future = self.worker.submit(begin)
            told = ""
            while not self.future.done():
                if told != (told := self.line()):
                    yield told
                await asyncio.sleep(SECONDS_PER_UPDATE)
            if self.begun is not None and self.frames and not self.stopped.is_set():
                Ticket.pace = (time.monotonic() - self.begun) / self.frames
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
