"""Read, compute and write at the same time, in threads, with a bounded number of things in between.

Results come in the order of what went in. An error in a thread is raised where its result would have come.
Leaving a block, by its end or by an error, ends its thread.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")

MAX_WORKERS = 4  # each holds the maps of a frame


@functools.cache
def frame_pool(threads: int) -> ThreadPoolExecutor:
    """Start workers that share PyTorch's `threads` evenly, so that each computes a frame with few of them."""
    # Threads that work on different frames never wait for each other.
    workers = min(threads, MAX_WORKERS)
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
            if len(waiting) > min(threads, MAX_WORKERS):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@contextlib.contextmanager
def ahead(items: Iterable[In], count: int) -> Iterator[Iterator[In]]:
    """Yield an iterator of the same items, of which a thread takes up to `count` in advance."""
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1, "read ahead")
    waiting = deque(pool.submit(next, iterator, end) for _ in range(count + 1))

    def taken() -> Iterator[Any]:
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield item

    try:
        yield taken()
    finally:
        pool.shutdown(cancel_futures=True)
        if isinstance(iterator, Generator):  # as a file may be open in it
            iterator.close()


@contextlib.contextmanager
def behind(write: Callable[[In], object], count: int) -> Iterator[Callable[[In], None]]:
    """Yield a function that hands items to a thread, which calls `write` with one after the other.

    Up to `count` wait, and all are written when the block has ended without an error.
    """
    pool = ThreadPoolExecutor(1, "write behind")
    waiting: deque[Future] = deque()

    def hand_over(item: In) -> None:
        waiting.append(pool.submit(write, item))
        while waiting and (len(waiting) > count or waiting[0].done()):
            waiting.popleft().result()

    try:
        yield hand_over
        while waiting:
            waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
