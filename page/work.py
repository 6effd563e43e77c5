"""The one worker that computes for everybody, and how a page follows what it does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from progress import Progress

Result = TypeVar("Result")

SECONDS_PER_UPDATE = 0.2

# PyTorch keeps a pool of threads for each thread that computes, so one does all of it. Live frames have a
# worker of their own, so that they need not wait for a video.
VIDEO_WORKER = ThreadPoolExecutor(1, "video")
LIVE_WORKER = ThreadPoolExecutor(1, "live")


class Job(Generic[Result]):
    """Something that the worker does for one page: how far it is, and a way to stop it."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.progress: Progress | None = None
        self.future: Future[Result] | None = None

    def show(self, what: str, total: int) -> Progress:
        """The progress bar of a pass over a video, as `write_animation` wants it."""
        self.progress = Progress(total, what, "frames", quiet=True)
        return self.progress

    def line(self) -> str:
        """How far it is, in words."""
        return "preparing" if self.progress is None else self.progress.line()

    def run(self, function: Callable[[], Result]) -> Iterator[str]:
        """Let the worker do it; yields how far it is until it is done. Whoever closes this stops the job."""
        self.future = VIDEO_WORKER.submit(function)
        try:
            while not wait([self.future], timeout=SECONDS_PER_UPDATE).done:
                yield self.line()
        finally:
            self.stopped.set()

    def result(self) -> Result:
        assert self.future is not None
        return self.future.result()
