"""What the fuzzers share: how long they run, how a program is called, what must be true when it has ended.

FUZZ_MINUTES=30 makes each fuzzer go on for half an hour, seed after seed; FUZZ_SEED=7 starts at another one.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from media.clips import open_clip
from media.pictures import read_image
from utils.files import TEMPORARY_NAME

MAX_SECONDS = 20  # for any input
MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
FIRST_SEED = int(os.environ.get("FUZZ_SEED", "0"))

needs_unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files and alarms")

# ---- Rounds ------------------------------------------------------------------


def fuzz(check: Callable[[st.DataObject], None], examples: int) -> None:
    """Call `check` with so many made-up inputs, again and again with new seeds while there is time."""
    end = time.monotonic() + 60 * MINUTES
    for number in itertools.count(FIRST_SEED):
        print(f"seed {number}", flush=True)
        one_round(check, examples, number)
        if time.monotonic() >= end:
            return


def one_round(check: Callable[[st.DataObject], None], examples: int, number: int) -> None:
    """A failure is made as small as can be, and printed with the draws that led to it."""

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        check(data)

    run()


# ---- Programs ----------------------------------------------------------------


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


class TooSlow(BaseException):
    """No `Exception`, so that nothing takes it for a mistake of the user."""


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {MAX_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(main: Callable[[list[str]], Any], arguments: list[str]) -> Outcome:
    """Call a program in this process. What it raises besides `SystemExit` is a failure."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited_time():
        try:
            main(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return Outcome(status, out.getvalue(), err.getvalue())


# Beside the one line of an error there may be these on stderr.
_OTHER_LINES = re.compile(r"hint: |warning: |[\w ]+: \d+(/\d+)? \w+, ")


def assert_one_line(done: Outcome) -> None:
    """Status 0 without an error, or 2 with one line at the end of stderr. Argparse puts its usage before."""
    text = re.sub(r"\A((hint|warning): .*\n)*usage: .*(\n .*)*\n", "", done.err)
    lines = [line for line in text.split("\n")[:-1] if not _OTHER_LINES.match(line)]
    assert "Traceback" not in done.err, done.err
    assert done.status in (0, 2), done
    assert len(lines) == (1 if done.status == 2 else 0), done
    assert all(re.match(r"(\S+: )?error: \S", line) and len(line) > 12 for line in lines), done


# ---- What is left ------------------------------------------------------------


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def files_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file and folder below, but what evaluation keeps there: kind and, of a file, size and time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if ".evaluation" not in path.parts:
            status = path.lstat()
            folder = stat.S_ISDIR(status.st_mode)
            found[str(path)] = (status.st_mode, *((0, 0) if folder else (status.st_size, status.st_mtime_ns)))
    return found


def children() -> list[str]:
    """The command lines of processes that were started and have not ended. Python keeps one for itself."""
    lines = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    return [line for line in lines if "resource_tracker" not in line]


def assert_whole(folder: Path) -> None:
    """Nothing half-written lies below, and each picture and video can be read."""
    for path in folder.rglob("*"):
        assert not TEMPORARY_NAME.fullmatch(path.name), path
        if path.suffix in (".mp4", ".gif") and path.is_file():
            assert len(list(open_clip(path))) == len(open_clip(path)) > 0
        elif path.suffix == ".png" and path.is_file():
            assert read_image(path).size
