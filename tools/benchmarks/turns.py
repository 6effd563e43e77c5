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


class Worker:
    """A process that serves turns."""

    def __init__(self, command: Command, folder: Path):
        self.values: list[float] = []
        self.peak = 0.0
        self.process = subprocess.Popen(
            command.arguments,
            cwd=folder,
            env={**os.environ, **command.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        """Wait for the end of the first turn. Raises `RuntimeError` if the process ends before."""
        for line in self.process.stdout or ():
            if line == "ready\n":
                return
        raise RuntimeError(f"{self.process.args!r} ended before it was ready")

    def take_turn(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        value, self.peak = json.loads(self.process.stdout.readline())
        self.values.append(value)

    def timing(self) -> Timing:
        return Timing(statistics.median(self.values), min(self.values), max(self.values), self.peak)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def workers(commands: Mapping[str, Command], folder: Path) -> Iterator[dict[str, Worker]]:
    """Start a worker for each command, and end them after the block. They are ready when it begins."""
    started: dict[str, Worker] = {}
    try:
        for name, command in commands.items():
            started[name] = Worker(command, folder)
            started[name].wait_until_ready()
        yield started
    finally:
        for worker in started.values():
            worker.end()


def take_turns(commands: Mapping[str, Command], folder: Path, rounds: int) -> dict[str, Timing]:
    """Time the commands in so many rounds, in which each has one turn."""
    with workers(commands, folder) as started:
        for _ in range(rounds):  # in turn, so that a busy minute of the machine meets all
            for worker in started.values():
                worker.take_turn()
        return {name: worker.timing() for name, worker in started.items()}
