"""The one worker that computes for everybody, and how a page follows what it does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import ClassVar, Generic, TypeVar

from inference.animation import Cancelled
from utils.errors import UserError
from utils.progress import Progress

Result = TypeVar("Result")

SECONDS_PER_UPDATE = 0.2
MAX_WAITING = 64  # videos

# PyTorch keeps a pool of threads for each thread that computes, so one does all of it. Live frames have a
# worker of their own, so that they need not wait for a video.
VIDEO_WORKER = ThreadPoolExecutor(1, "video")
LIVE_WORKER = ThreadPoolExecutor(1, "live")


class Stoppable(Progress):
    """A progress bar of something that keeps nothing: it raises `Cancelled` when `stopped` is set."""

    def __init__(self, total: int, what: str, stopped: threading.Event):
        super().__init__(total, what, "frames", quiet=True)
        self.stopped = stopped

    def advance(self, count: int, note: str = "") -> None:
        super().advance(count, note)
        if self.stopped.is_set():
            raise Cancelled


class Task(Generic[Result]):
    """Something that the worker does for one page: how far it is, and a way to stop it."""

    waiting: ClassVar[list[Task]] = []  # of all pages, in their order
    lock: ClassVar = threading.Lock()

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.progress: Progress | None = None
        self.future: Future[Result] | None = None

    def show(self, what: str, total: int) -> Progress:
        """The progress bar of a pass over a video, as `write_animation` wants it."""
        self.progress = Progress(total, what, "frames", quiet=True)
        return self.progress

    def show_or_stop(self, what: str, total: int) -> Progress:
        """The same for a pass that is of no use unless it is whole."""
        self.progress = Stoppable(total, what, self.stopped)
        return self.progress

    def stop(self) -> None:
        """Stop it, or take it out of the queue if it waits there."""
        self.stopped.set()
        if self.future is not None:
            self.future.cancel()

    def line(self) -> str:
        """How far it is, in words."""
        with self.lock:
            place = self.waiting.index(self) if self in self.waiting else None
        if place is not None:
            return f"waiting, with {place} before this one" if place else "waiting, this one is next"
        return "preparing" if self.progress is None else self.progress.line()

    async def run(self, function: Callable[[], Result]) -> AsyncIterator[str]:
        """Let the worker do it; yields how far it is until it is done. Whoever closes this stops it.

        No thread waits meanwhile, however many people do. Raises `UserError` where too many wait.
        """

        def begin() -> Result:
            self._leave_queue()
            return function()

        with self.lock:
            if len(self.waiting) >= MAX_WAITING:
                raise UserError(f"{MAX_WAITING} videos wait already; try again in some minutes")
            self.waiting.append(self)
        self.future = VIDEO_WORKER.submit(begin)
        self.future.add_done_callback(self._leave_queue)  # also where it never begins
        told = ""
        try:
            while not self.future.done():
                if told != (told := self.line()):
                    yield told
                await asyncio.sleep(SECONDS_PER_UPDATE)
        finally:
            self.stop()

    def _leave_queue(self, future: Future | None = None) -> None:
        with self.lock:
            if self in self.waiting:
                self.waiting.remove(self)

    def result(self) -> Result:
        """What came of it. Raises `Cancelled` where it was stopped too early for anything."""
        assert self.future is not None
        try:
            return self.future.result()
        except CancelledError:
            raise Cancelled from None
