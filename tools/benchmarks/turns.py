"""Variants in processes of their own that take turns, so that other load on the machine meets all of them.

A worker says that it is ready, then makes one turn for each line that it reads, and writes what it measured.
One that fails says why, and the others go on. This file imports nothing of the project: workers that measure
another checkout import it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Turn = Callable[[], float]  # makes a turn and returns what it measured, such as milliseconds

ANSWER = "answer: "  # begins a worker's lines; libraries print others
LIMIT = 3600.0  # seconds


# Of the samples that are drawn, as in config/vox-256.yaml.
JITTER = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1}
AUGMENTATION = {"flip_param": {"horizontal_flip": True, "time_flip": True}, "jitter_param": JITTER}


class Command(NamedTuple):
    """How a worker is started."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = {}  # beside that of this process


class Timing(NamedTuple):
    """Median and range of the turns, and the peak memory of the process in MiB."""

    median: float
    least: float
    most: float
    peak: float


def timed(work: Callable[[], object], items: int) -> Turn:
    """Return a turn that does `work` once, on so many items: milliseconds an item."""

    def turn() -> float:
        start = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - start) / items

    return turn


def exhaust(items: Iterable[object]) -> None:
    """Take all items, and keep none."""
    deque(items, maxlen=0)


def serve_turns(prepare: Callable[[], Turn], peak: Turn | None = None) -> None:
    """Be a worker: make a turn for each line of stdin. The first, which warms up, is not counted.

    `peak` returns the peak memory in MiB, by default that of this process.
    """
    try:
        turn = prepare()
        turn()
        answer(None)
        for _ in sys.stdin:
            value = turn()
            answer([value, (peak or peak_memory)()])
    except Exception as error:
        answer(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        sys.exit(1)


def answer(value: Any) -> None:
    print(ANSWER + json.dumps(value), flush=True)


def peak_memory() -> float:
    """Return this process's largest resident set so far in MiB, or 0 where Linux doesn't tell.

    getrusage would also count what the process that started this one had at that time.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def worker(command: Command, folder: Path, limit: float = LIMIT) -> Iterator[subprocess.Popen[str]]:
    """Start a worker, and end it after the block, or after `limit` seconds."""
    process = subprocess.Popen(
        command.arguments,
        cwd=folder,
        env={**os.environ, **command.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(limit, process.kill)
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        process.kill()
        process.wait()


def read_answer(process: subprocess.Popen[str]) -> Any:
    """Return a worker's next answer. Raises `RuntimeError` with its reason if it failed."""
    for line in process.stdout or ():
        if line.startswith(ANSWER):
            found = json.loads(line.removeprefix(ANSWER))
            if isinstance(found, str):
                raise RuntimeError(found)
            return found
    raise RuntimeError(f"ended with status {process.wait()}")


def take_turn(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Let a worker make a turn; return what it measured, and its peak memory. Raises `RuntimeError`."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended, and `read_answer` says how
        process.stdin.write("\n")
        process.stdin.flush()
    value, peak = read_answer(process)
    return value, peak


def take_turns(
    commands: Mapping[str, Command], folder: Path, rounds: int, limit: float = LIMIT
) -> dict[str, Timing | str]:
    """Time the commands in so many rounds, in which each has one turn; of one without a turn, return why.

    All together have `limit` seconds.
    """
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    failed: dict[str, str] = {}
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        started = {
            name: stack.enter_context(worker(command, folder, limit)) for name, command in commands.items()
        }
        # They get ready side by side. Then in turn, so that a busy minute of the machine meets all.
        for number in range(rounds + 1):
            for name, process in started.items():
                if name in failed:
                    continue
                try:
                    if number == 0:
                        read_answer(process)
                    else:
                        turns[name].append(take_turn(process))
                except RuntimeError as error:
                    late = time.monotonic() - start >= limit
                    failed[name] = f"not done within {limit:.0f} s" if late else str(error)
    return {name: timing(taken) if taken else failed[name] for name, taken in turns.items()}


def timing(turns: Sequence[tuple[float, float]]) -> Timing:
    values = [value for value, _ in turns]
    return Timing(statistics.median(values), min(values), max(values), turns[-1][1])
