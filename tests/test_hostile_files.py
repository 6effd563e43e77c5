"""Files that are none, streams that nobody reads, and what the system refuses: one line, and never a wait."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import demo
from checkpoints.files import read_checkpoint, write_checkpoint
from evaluation.cache import Cache
from frames_dataset import listed_pairs
from inference.motion import load_motion, save_motion
from media.clips import open_clip
from media.pictures import read_image, read_image_size, write_image
from media.writer import VideoWriter
from modules.build import read_config
from modules.vgg import read_vgg19_file
from tests.small import error_of
from utils import device
from utils.errors import UserError
from utils.program import command_line

ROOT = Path(__file__).parents[1]


# ---- Special files -----------------------------------------------------------


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def endless(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def socket_file(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


def frame_in_folder(path: Path) -> Path:
    path.with_suffix("").mkdir()
    pipe(path.with_suffix("") / "0.png")
    return path.with_suffix("")


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "picture": ("a.png", read_image),
    "size of a picture": ("a.jpg", read_image_size),
    "strip": ("a.png", lambda path: open_clip(path, (8, 8, 3))),
    "video": ("a.mp4", open_clip),
    "gif": ("a.gif", open_clip),
    "config": ("a.yaml", read_config),
    "checkpoint": ("a.pth.tar", read_checkpoint),
    "safetensors": ("a.safetensors", read_checkpoint),
    "motion": ("a.npz", lambda path: load_motion(path, "")),
    "VGG weights": ("a.pth", lambda path: read_vgg19_file(str(path))),
}


@pytest.mark.parametrize("make", [pipe, endless, socket_file], ids=lambda make: make.__name__)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_and_never_waited_for(reader: str, make: Callable, tmp_path: Path) -> None:
    name, read = READERS[reader]
    path = make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: is a (named pipe|device|socket), and a file is needed"):
        read(path)


def test_a_pipe_among_the_frames_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0\.png: is a named pipe"):
        list(open_clip(frame_in_folder(tmp_path / "clip.png")))


def test_a_pipe_as_pairs_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pairs\.csv: is a named pipe"):
        listed_pairs(pipe(tmp_path / "pairs.csv"), ["a", "b"])


def test_a_pipe_in_the_cache_counts_as_absent(tmp_path: Path) -> None:
    (tmp_path / ".evaluation" / "faces").mkdir(parents=True)
    pipe(tmp_path / ".evaluation" / "faces" / "a.mp4.npz")
    assert Cache().load("faces", tmp_path / "a.mp4", "key") is None


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.mp4": lambda path: VideoWriter(path, 25),
    "folder": lambda path: VideoWriter(path, 25),
    "a.png": lambda path: write_image(path, np.zeros((2, 2, 3), np.uint8)),
    "a.npz": lambda path: save_motion(path, [{"value": torch.zeros(1, 2, 2)}], 25, ""),
    "a.pth.tar": lambda path: write_checkpoint({"generator": {}, "kp_detector": {}}, path),
}


@pytest.mark.parametrize("make", [pipe, endless, socket_file], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", WRITERS)
def test_what_is_no_file_is_not_replaced_by_one(name: str, make: Callable, tmp_path: Path) -> None:
    path = make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: is a (named pipe|device|socket), which is not replaced"):
        WRITERS[name](path)
    assert not path.is_file() and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a" * 300 + ".mp4", "loop.mp4", "nowhere.mp4", "inside.mp4/a.mp4"])
def test_paths_that_lead_nowhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "inside.mp4").touch()
    with pytest.raises(UserError, match=r"\.mp4: .*; check"):
        open_clip(tmp_path / name)


# ---- What the system refuses --------------------------------------------------


def failing(error: Exception) -> Callable:
    @command_line
    def main(argv: list[str] | None = None) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "error: /a/b: No space left on device; free ",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "(ulimit -n)"),
        (
            PermissionError(errno.EACCES, "Permission denied", b"/a/b"),
            "error: /a/b: Permission denied; check ",
        ),
        (OSError("no number"), "error: no number; check "),
        (MemoryError(), "too little memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "too little memory"),
        (RuntimeError("could not create a primitive"), "too little memory"),
        (ImportError("a.so: failed to map segment from shared object"), "too little memory"),
        (RuntimeError("unable to resize file </torch_1_2_3> to the right size"), "too little memory"),
        (UserError("two\nlines \x1b[2J of a name"), r"error: two\nlines \x1b[2J of a name"),
    ],
)
def test_each_is_one_line(error: Exception, words: str, capsys: pytest.CaptureFixture) -> None:
    told = error_of(capsys, lambda: failing(error)([]))
    assert words in told and told.count("\n") == 1


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())([])


def test_debug_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture) -> None:
    told = error_of(capsys, lambda: failing(UserError("mistake"))(["--debug"]))
    assert told.startswith("Traceback") and told.endswith("error: mistake\n")


def test_every_program_tells_of_debug(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        demo.main(["--help"])
    assert stop.value.code == 0 and "  --debug  " in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_checkpoint_that_does_not_fit_the_disk_leaves_the_earlier_one(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full: both refuse a write in the middle."""
    program = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from checkpoints.files import write_checkpoint\n"
        "from utils.program import command_line\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "weights = {'weight': torch.zeros(100_000)}\n"
        "main = lambda argv: write_checkpoint({'generator': weights, 'kp_detector': {}}, Path(sys.argv[1]))\n"
        "command_line(main)()\n"
    )
    path = tmp_path / "a.pth.tar"
    write_checkpoint({"generator": {"weight": torch.ones(3)}, "kp_detector": {"weight": torch.ones(1)}}, path)
    done = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True)
    assert (
        done.returncode == 2 and done.stderr.startswith(f"error: {path}: ") and done.stderr.count("\n") == 1
    )
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth.tar"]
    assert read_checkpoint(path)["generator"]["weight"].sum() == 3


# ---- Streams ------------------------------------------------------------------

TALKER = (
    "import sys\n"
    "from utils.program import command_line\n"
    "from utils.program import outlive_output\n"
    "def main(argv):\n"
    "    if '--outlive' in argv: outlive_output()\n"
    "    print('caf\\u00e9 \\u2588 \\udcff', flush=True)\n"
    "    for _ in range(20000): print('a line')\n"
    "    print('note', file=sys.stderr)\n"
    "    open(argv[0], 'w').write('result')\n"
    "command_line(main)()\n"
)


def talk(tmp_path: Path, shell: str, *more: str, **environment: str) -> tuple[int, str, bool]:
    """Run the talker with its streams as `shell` says: status, what came out, is the result there?"""
    result = tmp_path / "result"
    command = f'{{ "$@"; echo "status $?" >&3; }} {shell}'
    done = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-c", TALKER, str(result), *more],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = done.stdout.decode(errors="replace")
    status = next(line for line in said.splitlines() if line.startswith("status "))
    assert "Traceback" not in said and "Exception ignored" not in said, said
    return int(status.split()[1]), said, result.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize(
    ("shell", "more", "status", "finished"),
    [
        ("3>&1 | head -2", [], 141, False),  # ended as `yes | head` ends
        ("3>&1 >/dev/null 2>&1", [], 0, True),
        ("3>&1 | head -2", ["--outlive"], 0, True),
        ("3>&1 >&-", [], 0, True),
        ("3>&1 2>&-", [], 0, True),
        ("3>&1 >&- 2>&-", [], 0, True),
        ("3>&1 2>/dev/full", [], 0, True),
        ("3>&1 >/dev/full", [], 2, True),
    ],
)
def test_streams_that_fail(shell: str, more: list[str], status: int, finished: bool, tmp_path: Path) -> None:
    if "head" in shell:  # the status goes where `head` does not read
        shell = shell.replace("3>&1", f"3>'{tmp_path}/status'") + f"; cat '{tmp_path}/status'"
    found, _, has_result = talk(tmp_path, shell, *more)
    assert (found, has_result) == (status, finished)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_letters_that_a_terminal_lacks_are_written_out(encoding: str, tmp_path: Path) -> None:
    status, said, has_result = talk(tmp_path, "3>&1", PYTHONIOENCODING=encoding)
    assert status == 0 and has_result and r"\udcff" in said


# ---- Processes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"RANK": None},
        {"WORLD_SIZE": "0"},
        {"MASTER_ADDR": None},
        {"MASTER_PORT": "http"},
        {"MASTER_PORT": "99999"},
        {"LOCAL_WORLD_SIZE": "0"},
        {"LOCAL_RANK": "-1"},
        {"RANK": "2"},
    ],
)
def test_half_of_torchruns_variables(changes: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {
        "LOCAL_RANK": "0",
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }
    for name, value in whole.items():
        monkeypatch.setenv(name, value)
    assert device.in_torchrun()
    for name, value in changes.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(UserError, match="torchrun, which sets"):
        device.in_torchrun()
