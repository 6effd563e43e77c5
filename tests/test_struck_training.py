"""A tiny training that is struck at random moments, and goes on, ends as one that nobody touched."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clips import write_dataset
from tests.training import assert_same_run, config_file, start

ROOT = Path(__file__).parent.parent
STRIKES = 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize("strike", [signal.SIGKILL, signal.SIGTERM])
def test_a_struck_run_ends_as_one_that_nobody_touched(tmp_path: Path, strike: signal.Signals) -> None:
    root = write_dataset(tmp_path / "data", train=6, test=2)
    config = config_file(root, train_params__num_epochs=24, train_params__num_workers=1)
    whole = start(root, config, "--seed", "1", log="whole")
    seed = random.randrange(10**6)
    print("seed", seed)  # shown where the test fails
    rng = random.Random(seed)
    statuses = [strike_once(config, tmp_path / "struck", strike, rng) for _ in range(STRIKES)]
    struck = start(root, config, "--seed", "1", *resume(tmp_path / "struck"), log="struck")
    assert set(statuses) <= {0, -signal.SIGKILL, 128 + signal.SIGTERM}
    assert_same_run(whole, struck)
    assert not list(struck.rglob("*.tmp"))


def strike_once(config: Path, log: Path, strike: signal.Signals, rng: random.Random) -> int:
    """Start or go on with the run, and strike it a moment after its first new checkpoint."""
    before = checkpoints(log)
    command = [sys.executable, str(ROOT / "run.py"), str(config), "--device", "cpu", "--seed", "1"]
    with subprocess.Popen(
        [*command, "--log_dir", str(log), *resume(log)], stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and checkpoints(log) <= before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(strike)
    return process.returncode


def checkpoints(log: Path) -> set[Path]:
    return set(log.glob("*/[0-9]*-checkpoint.pth.tar"))


def resume(log: Path) -> list[str]:
    return ["--checkpoint", str(next(iter(checkpoints(log))).parent)] if checkpoints(log) else []
