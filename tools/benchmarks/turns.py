"""Variants in processes of their own that take turns, so that other load on the machine meets all of them.

A worker says that it is ready, then makes one turn for each line that it reads, and writes what it measured.
This file imports nothing of the project: workers that measure another checkout import it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


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


def serve_turns(turn: Callable[[], float]) -> None:
    """Be a worker: make a turn for each line of stdin. The first, which warms up, is not counted."""
    turn()
    print("ready", flush=True)
    for _ in sys.stdin:
        value = turn()
        print(json.dumps([value, peak_memory()]), flush=True)


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
def worker(command: Command, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a worker, wait for the end of its first turn, and end it after the block.

    Raises `RuntimeError` if it ends before.
    """
    process = subprocess.Popen(
        command.arguments,
        cwd=folder,
        env={**os.environ, **command.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if "ready\n" not in iter(process.stdout or ()):
            raise RuntimeError(f"{process.args!r} ended before it was ready")
        yield process
    finally:
        process.kill()
        process.wait()


def take_turn(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Let a worker make a turn; return what it measured, and its peak memory."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    value, peak = json.loads(process.stdout.readline())
    return value, peak


def take_turns(commands: Mapping[str, Command], folder: Path, rounds: int) -> dict[str, Timing]:
    """Time the commands in so many rounds, in which each has one turn."""
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    with contextlib.ExitStack() as stack:
        started = {name: stack.enter_context(worker(command, folder)) for name, command in commands.items()}
        for _ in range(rounds):  # in turn, so that a busy minute of the machine meets all
            for name, process in started.items():
                turns[name].append(take_turn(process))
    values = {name: [value for value, _ in measured] for name, measured in turns.items()}
    return {
        name: Timing(statistics.median(taken), min(taken), max(taken), turns[name][-1][1])
        for name, taken in values.items()
    }
