"""What Windows and macOS lack or do otherwise: Unix-only modules and signals, and spawned workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from device import caught_signals
from tests.training import assert_same_run, config_file, newest, start

ROOT = Path(__file__).parent.parent

IMPORT_EVERYTHING = """
import importlib, os, signal, sys
from pathlib import Path

names = []
for path in sorted(Path().rglob("*.py")):
    parts = path.with_suffix("").parts
    hidden = any(part.startswith(".") for part in parts)
    if path.parts[0] not in ("tests", "benchmarks", "sup-mat") and not hidden:
        names.append(".".join(parts).removesuffix(".__init__"))
for name in names:  # all that they import from elsewhere is loaded now, and may use what its platform has
    importlib.import_module(name)
for name in names:
    del sys.modules[name]
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGKILL", "SIGCHLD", "SIGUSR1", "SIGALRM", "SIGSTOP", "SIGCONT", "SIGQUIT"):
    delattr(signal, name)
for name in ("fork", "setpgrp", "killpg", "getpgid", "getuid", "setsid"):
    delattr(os, name)
for name in names:
    importlib.import_module(name)

import torch
from device import caught_signals, peak_memory_mib
assert peak_memory_mib(torch.device("cpu")) is None
with caught_signals() as caught:
    signal.raise_signal(signal.SIGTERM)
assert caught == [signal.SIGTERM]
print(len(names))
"""

TRAIN_WITH_SPAWNED_WORKERS = """
import sys
import torch.multiprocessing
import run

if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    run.main(sys.argv[1:])
"""


def test_every_module_imports_without_what_only_unix_has() -> None:
    command = [sys.executable, "-c", IMPORT_EVERYTHING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 50


def test_training_with_spawned_workers_is_the_same(root: Path) -> None:
    config = config_file(root, train_params__num_workers=1)
    expected = start(root, config, log="expected")
    script = root.parent / "spawned.py"
    script.write_text(TRAIN_WITH_SPAWNED_WORKERS)
    arguments = [str(config), "--device", "cpu", "--log_dir", str(root.parent / "spawned")]
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert_same_run(expected, newest(root, "spawned"))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this platform has no SIGHUP")
def test_a_terminal_that_closes_is_a_signal_like_others() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with caught_signals() as caught:
        signal.raise_signal(signal.SIGHUP)
    assert caught == [signal.SIGHUP] and signal.getsignal(signal.SIGHUP) == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this platform has no SIGHUP")
def test_a_signal_that_was_ignored_stays_so() -> None:
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with caught_signals() as caught:
            signal.raise_signal(signal.SIGHUP)
        assert not caught and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
