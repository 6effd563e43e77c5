"""Workers do their jobs and end with their program, however that ends; a stopped program tidies up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.signals import STOP_SIGNALS, exit_on_signals
from utils.workers import in_parallel

ROOT = Path(__file__).parents[1]
unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without telling it")

# Prints a line when a worker has done its first job.
PROGRAM = """
import os, time
from utils.signals import exit_on_signals
from utils.workers import in_parallel
with exit_on_signals():
    try:
        for _ in in_parallel(time.sleep, [0, 0, 600, 600, 600], 2):
            print(os.getpid(), flush=True)
    finally:
        print("tidied", flush=True)
"""


# ---- Jobs --------------------------------------------------------------------


def test_every_job_is_done_once() -> None:
    assert sorted(in_parallel(abs, range(-9, 0), 3)) == list(range(1, 10))


def test_without_jobs_nothing_starts() -> None:
    assert list(in_parallel(abs, [], 3)) == []


def test_an_error_in_a_job_comes_back() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        list(in_parallel(int, ["1", "two"], 2))


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(UserError, match="a worker was killed"):
        list(in_parallel(os._exit, [9, 9], 2))


# ---- Signals -----------------------------------------------------------------


@unix
@pytest.mark.parametrize("number", [*STOP_SIGNALS, getattr(signal, "SIGKILL", None)])
def test_workers_end_with_their_program(number: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None and process.stdout.readline()
        os.kill(process.pid, number)
        printed = process.communicate(timeout=60)[0]  # until the workers, who share the pipe, are gone
    finally:
        process.kill()
        process.wait()
    if number == getattr(signal, "SIGKILL", None):
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number and "tidied" in printed


@unix
def test_workers_end_where_there_are_no_process_groups_either(tmp_path: Path) -> None:
    """As on Windows: Python starts each process, workers too, by importing this sitecustomize.py."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\ndel os.setpgrp, os.killpg, signal.SIGHUP, signal.SIGKILL\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert process.stdout is not None and process.stdout.readline()
    process.kill()
    process.communicate(timeout=60)


@unix
def test_only_the_first_signal_counts_and_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    tidied = False
    with pytest.raises(SystemExit) as stop, exit_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            tidied = True
    assert tidied and stop.value.code == 128 + signal.SIGTERM
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
