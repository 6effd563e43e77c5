"""One progress bar for every program. It imports nothing heavy."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from utils.errors import one_line

SECONDS_PER_LINE = 10


class Cancelled(Exception):
    """A user has stopped what was going on before there was anything to keep."""


class Progress:
    """A progress bar on a terminal; elsewhere a plain line at the start and then every ten seconds."""

    def __init__(self, total: int | None, description: str, unit: str, quiet: bool = False):
        on_terminal = sys.stderr.isatty()
        description = one_line(description)
        self.bar = tqdm(
            total=total, desc=description, unit=unit, leave=False, disable=quiet or not on_terminal
        )
        self.prints_lines = not quiet and not on_terminal
        self.description, self.unit, self.total, self.done = description, unit, total, 0
        self.started = time.monotonic()
        self.next_line = 0.0

    def advance(self, count: int, note: str = "") -> None:
        self.done += count
        self.bar.set_postfix_str(one_line(note), refresh=False)
        self.bar.update(count)
        elapsed = time.monotonic() - self.started
        if self.prints_lines and elapsed >= self.next_line:
            self.next_line = elapsed + SECONDS_PER_LINE
            print(self.line(note), file=sys.stderr, flush=True)

    def tell(self, line: str) -> None:
        """Print a line on stdout, above the bar."""
        self.bar.write(one_line(line))

    def line(self, note: str = "") -> str:
        elapsed = time.monotonic() - self.started
        rate = self.done / max(elapsed, 1e-9)
        of_total = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.description}: {self.done}{of_total} {self.unit}", f"{rate:.2f} {self.unit}/s"]
        if self.total is not None:
            parts.append(f"{tqdm.format_interval((self.total - self.done) / max(rate, 1e-9))} left")
        return one_line(", ".join([*parts, note] if note else parts))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


ShowProgress = Callable[[str, int], Progress]  # what is done, and to how many frames -> its bar


def frames_bar(what: str, total: int) -> Progress:
    return Progress(total, what, "frames")


def no_bar(what: str, total: int) -> Progress:
    return Progress(total, what, "frames", quiet=True)


class PartialProgress(Progress):
    """A part of a larger progress bar: what is done of it is done of the whole."""

    def __init__(self, whole: Progress, total: int, note: str):
        super().__init__(total, "", "", quiet=True)
        self.whole, self.note = whole, note

    def advance(self, count: int, note: str = "") -> None:
        self.whole.advance(count, self.note)
