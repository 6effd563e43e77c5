"""A training whose ranks are killed goes on by torchrun's restarts, and ends as one that nobody touched."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clips import write_dataset
from tests.torchrun import torchrun, workers
from tests.training import assert_same_run, config_file, newest

KILLS = 1

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


def test_killed_ranks_are_restarted_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_dataset(tmp_path / "data", train=6, test=2)
    config = config_file(root, train_params__num_epochs=4 + 4 * KILLS, train_params__checkpoint_freq=3)
    seed = random.randrange(10**6)
    print("seed", seed)  # shown where the test fails
    rng = random.Random(seed)
    (tmp_path / "git").write_text(f"#!/bin/sh\necho asked >> {tmp_path / 'asked'}\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for log, kills in ("whole", 0), ("killed", KILLS):
        arguments = [config, "--device", "cpu", "--seed", 1, "--log_dir", tmp_path / log]
        job = torchrun(["--nproc_per_node=2", f"--max-restarts={kills}"], "run.py", *arguments)
        for _ in range(kills):
            kill_one(job, tmp_path / log, rng)
        output, _ = job.communicate(timeout=300)
        assert job.returncode == 0, output
        if not kills:  # of two ranks one asks, for the commit and for changes since
            assert (tmp_path / "asked").read_text() == "asked\n" * 2
    assert len(list((tmp_path / "killed").iterdir())) == 1
    assert_same_run(newest(root, "whole"), newest(root, "killed"))


def kill_one(job: subprocess.Popen, log: Path, rng: random.Random) -> None:
    """Wait until training goes on, at first without a checkpoint, and kill a random rank a moment later."""
    steps = logged(log)
    while logged(log) == steps and job.poll() is None:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.3))
    os.kill(workers(job)[rng.randrange(2)], signal.SIGKILL)


def logged(log: Path) -> int:
    return sum(path.stat().st_mtime_ns for path in log.glob("*/log.txt"))
