"""What Windows and macOS lack or do otherwise: Unix-only modules and signals, and spawned workers."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints.files import write_checkpoint
from data.prepare import find_sources
from inference.motion import save_motion
from media.pictures import write_image
from media.writer import VideoWriter
from tests.media_files import encode, moving
from tests.small import error_of
from tests.training import assert_same_run, config_file, newest, start
from utils.errors import DatasetError, MediaError
from utils.files import atomic_write
from utils.program import command_line
from utils.signals import caught_signals

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
from utils.device import peak_memory_mib
from utils.signals import caught_signals
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


# ---- Files that another program has open -----------------------------------------


def write_text(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("new")


def write_video(path: Path) -> None:
    with VideoWriter(path, 25) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))


WRITERS = {
    "a.txt": write_text,
    "a.png": lambda path: write_image(path, np.zeros((8, 8, 3), np.uint8)),
    "a.mp4": write_video,
    "a.gif": write_video,
    "folder": write_video,
    "a.npz": lambda path: save_motion(path, [{"value": torch.zeros(1, 2, 2)}], 25, ""),
    "a.pth.tar": lambda path: write_checkpoint({"generator": {}, "kp_detector": {}}, path),
    "a.safetensors": lambda path: write_checkpoint({"generator": {}, "kp_detector": {}}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_result_that_is_open_elsewhere_is_told_and_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Windows refuses to rename a file to one that is open, and to rename that."""
    path = tmp_path / name
    WRITERS[name](path)
    before = sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*"))

    def refused(source: Path | str, target: Path | str, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Access is denied", str(source), None, str(target))

    for function in ("replace", "rename"):
        monkeypatch.setattr(os, function, refused)
    told = error_of(capsys, lambda: command_line(lambda argv: WRITERS[name](path))([]))
    assert told.startswith(f"error: {path}: Access is denied; ") and told.count("\n") == 1
    assert sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*")) == before


def test_a_folder_whose_successor_is_open_elsewhere_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "folder")
    rename, before = os.rename, (tmp_path / "folder").stat().st_ino

    def refused(source: Path | str, target: Path | str, **more: object) -> None:
        if Path(target).name == "folder" and Path(source).stat().st_ino != before:
            raise PermissionError(errno.EACCES, "Access is denied", str(source), None, str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(MediaError, match="folder: Access is denied"):
        write_video(tmp_path / "folder")
    assert [file.stat().st_ino for file in tmp_path.iterdir()] == [before]


# ---- Names -----------------------------------------------------------------------


def test_videos_whose_clips_would_be_one_to_some_system_are_told(tmp_path: Path) -> None:
    for name in ("Anna.mp4", "anna.mp4"):
        (tmp_path / "in").mkdir(exist_ok=True)
        encode(tmp_path / "in" / name, moving(2, 32, 32))
    if len(list((tmp_path / "in").iterdir())) < 2:
        pytest.skip("this file system takes both names for one")
    with pytest.raises(DatasetError, match=r"anna\.mp4: would be called anna like .*Anna\.mp4"):
        find_sources(tmp_path / "in", tmp_path / "out")


# ---- Signals ---------------------------------------------------------------------


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
