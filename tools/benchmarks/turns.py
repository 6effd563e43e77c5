"""Variants in processes of their own that take turns, so that other load on the machine meets all of them.

A worker says that it is ready, then makes one turn for each line that it reads, and writes what it measured.
This file imports nothing of the project: workers that measure another checkout import it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Measured(NamedTuple):
    """The median of the turns, their range, and the most memory that the process took, in MiB."""

    median: float
    least: float
    most: float
    peak: float


def serve(turn: Callable[[], float]) -> None:
    """Be a worker: a turn for each line of stdin. Its first turn, which warms up, is not counted."""
    turn()
    print("ready", flush=True)
    for _ in sys.stdin:
        value = turn()
        print(json.dumps([value, peak_memory()]), flush=True)


def peak_memory() -> float:
    """This process's largest resident set so far in MiB; 0 where Linux doesn't tell.

    getrusage would also count what the process that started this one had at that time.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


class Worker:
    """A process that serves turns."""

    def __init__(self, command: Sequence[str], folder: Path):
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.values: list[float] = []
        self.peak = 0.0

    def wait_until_ready(self) -> None:
        """Raises `RuntimeError` if the process ends before."""
        for line in self.process.stdout or ():
            if line == "ready\n":
                return
        raise RuntimeError(f"{self.process.args!r} ended before it was ready")

    def turn(self) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        value, self.peak = json.loads(self.process.stdout.readline())
        return value

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def workers(commands: Mapping[str, Sequence[str]], folder: Path) -> Iterator[dict[str, Worker]]:
    """A worker for each command, ready, for the time of the block."""
    started: dict[str, Worker] = {}
    try:
        for name, command in commands.items():
            started[name] = Worker(command, folder)
            started[name].wait_until_ready()
        yield started
    finally:
        for worker in started.values():
            worker.end()


def take_turns(commands: Mapping[str, Sequence[str]], folder: Path, rounds: int) -> dict[str, Measured]:
    """What each of the commands measured in so many rounds, in which each has one turn."""
    with workers(commands, folder) as started:
        for _ in range(rounds):
            for worker in started.values():
                worker.values.append(worker.turn())
        return {name: summary(worker.values, worker.peak) for name, worker in started.items()}


def beside_a_busy_core(
    commands: Mapping[str, Sequence[str]], folder: Path, rounds: int
) -> dict[str, tuple[Measured, Measured]]:
    """What each measured on a quiet machine, and beside a process that keeps one core busy."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    os.kill(busy.pid, signal.SIGSTOP)
    quiet_and_busy: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in commands}
    try:
        with workers(commands, folder) as started:
            for _ in range(rounds):
                for load in (0, 1):
                    os.kill(busy.pid, signal.SIGCONT if load else signal.SIGSTOP)
                    for name, worker in started.items():
                        quiet_and_busy[name][load].append(worker.turn())
            os.kill(busy.pid, signal.SIGSTOP)
            peaks = {name: worker.peak for name, worker in started.items()}
    finally:
        busy.kill()
        busy.wait()
    return {
        name: (summary(quiet, peaks[name]), summary(loaded, peaks[name]))
        for name, (quiet, loaded) in quiet_and_busy.items()
    }


def summary(values: Sequence[float], peak: float) -> Measured:
    return Measured(statistics.median(values), min(values), max(values), peak)
