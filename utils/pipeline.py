"""Read, compute and write at the same time, in threads, with a bounded number of things in between.

Results come in the order of what went in. An error in a thread is raised where its result would have come.
Leaving a block, by its end or by an error, ends its thread.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")

MAX_WORKERS = 4  # each holds the maps of a frame
POLL = 0.1  # seconds; how often a thread that waits looks whether it is still wanted

_END = object()

# ---- Frames side by side -------------------------------------------------------


def workers_for(threads: int) -> int:
    """Return how many frames are computed side by side where PyTorch has that many threads."""
    return min(threads, MAX_WORKERS)


@functools.cache
def frame_pool(threads: int) -> ThreadPoolExecutor:
    """Start workers that share PyTorch's `threads` evenly, so that each computes a frame with few of them.

    Threads that work on different frames never wait for each other. That makes small layers faster, and a
    core that another program uses slows only the worker that would run on it.
    """
    workers = workers_for(threads)
    started = threading.Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # the first call in a thread would undo what was set before
        torch.set_num_threads(threads // workers)  # of this worker
        started.wait()

    pool = ThreadPoolExecutor(workers, "frames")
    for _ in range(workers):
        pool.submit(start)
    started.wait()
    torch.set_num_threads(threads)  # of threads that are started later
    return pool


def in_order(function: Callable[[In], Out], items: Iterable[In], device: torch.device) -> Iterator[Out]:
    """Map a function that computes on `device`; on a CPU with several threads, several items side by side."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(function, items)
        return
    pool = frame_pool(threads)
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:  # never more of them ahead than there are workers
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers_for(threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


# ---- Ahead and behind ----------------------------------------------------------


@contextlib.contextmanager
def ahead(items: Iterable[In], count: int) -> Iterator[Iterator[In]]:
    """Yield an iterator of the same items, of which a thread takes up to `count` in advance."""
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(count)
    ended = threading.Event()

    def read() -> None:
        try:
            for item in items:
                _put(ready, (item, None), ended)
                if ended.is_set():
                    return
            _put(ready, (_END, None), ended)
        except BaseException as error:  # whatever it is, it belongs to who waits for the item
            _put(ready, (_END, error), ended)

    def taken() -> Iterator[In]:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    reader = threading.Thread(target=read, name="read ahead", daemon=True)
    reader.start()
    try:
        yield taken()
    finally:
        ended.set()
        reader.join()


@contextlib.contextmanager
def behind(write: Callable[[In], object], count: int) -> Iterator[Callable[[In], None]]:
    """Yield a function that hands items to a thread, which calls `write` with one after the other.

    Up to `count` wait. All are written when the block has ended, unless by an error. What `write` raises is
    raised by the next call, or at the end.
    """
    waiting: queue.Queue[Any] = queue.Queue(count)
    ended = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        while (item := _get(waiting, ended)) is not _END:
            try:
                write(item)
            except BaseException as error:  # raised again in the thread of the caller
                errors.append(error)
                ended.set()

    def hand_over(item: In) -> None:
        _put(waiting, item, ended)
        if errors:
            raise errors[0]

    writer = threading.Thread(target=work, name="write behind", daemon=True)
    writer.start()
    try:
        yield hand_over
        _put(waiting, _END, ended)
        writer.join()
    finally:
        ended.set()
        writer.join()
    if errors:
        raise errors[0]


def _put(place: queue.Queue[Any], item: object, ended: threading.Event) -> None:
    """Wait for room, unless it has `ended`: then nobody takes the item."""
    while not ended.is_set():
        with contextlib.suppress(queue.Full):
            place.put(item, timeout=POLL)
            return


def _get(place: queue.Queue[Any], ended: threading.Event) -> Any:
    """Wait for an item, or return `_END` when it has `ended`."""
    while not ended.is_set():
        with contextlib.suppress(queue.Empty):
            return place.get(timeout=POLL)
    return _END
