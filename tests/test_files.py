"""Files that are none, results that can not be written, and names for every system."""

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

from checkpoints.files import read_checkpoint, write_checkpoint
from data.prepare import find_sources
from evaluation.cache import Cache
from evaluation.matching import clips_by_name
from frames_dataset import listed_pairs
from inference.motion import load_motion, save_motion
from media.clips import open_clip
from media.pictures import read_image, read_image_size, write_image
from media.writer import VideoWriter
from modules.build import read_config
from modules.vgg import read_vgg19_file
from tests.clips import write_clip
from tests.media_files import encode, moving
from tests.small import error_of
from utils.errors import DatasetError, MediaError, UserError
from utils.files import MAX_NAME, atomic_write, distinct_names, portable_name
from utils.program import command_line

# ---- Special files ---------------------------------------------------------------


ROOT = Path(__file__).parents[1]


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


@pytest.mark.parametrize("name", ["a" * 300 + ".mp4", "loop.mp4", "nowhere.mp4", "inside.mp4/a.mp4"])
def test_paths_that_lead_nowhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "inside.mp4").touch()
    with pytest.raises(UserError, match=r"\.mp4: .*; check"):
        open_clip(tmp_path / name)


# ---- Results ---------------------------------------------------------------------


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


@pytest.mark.parametrize("make", [pipe, endless, socket_file], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["a.png", "a.mp4", "folder", "a.npz", "a.pth.tar"])
def test_what_is_no_file_is_not_replaced_by_one(name: str, make: Callable, tmp_path: Path) -> None:
    path = make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: is a (named pipe|device|socket), which is not replaced"):
        WRITERS[name](path)
    assert not path.is_file() and list(tmp_path.iterdir()) == [path]


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


# ---- Names -----------------------------------------------------------------------


def test_videos_whose_clips_would_be_one_to_some_system_are_told(tmp_path: Path) -> None:
    for name in ("Anna.mp4", "anna.mp4"):
        (tmp_path / "in").mkdir(exist_ok=True)
        encode(tmp_path / "in" / name, moving(2, 32, 32))
    if len(list((tmp_path / "in").iterdir())) < 2:
        pytest.skip("this file system takes both names for one")
    with pytest.raises(DatasetError, match=r"anna\.mp4: would be called anna like .*Anna\.mp4"):
        find_sources(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["a", "id10001#7w0-_#001", "a.b", "é木", "COM10", "CON#000", "nul-b", "a\udcff"]
)
def test_most_names_stay(name: str) -> None:
    assert portable_name(name) == name


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("CON", "_CON"),
        ("nul.old", "_nul.old"),
        ("lpt¹", "_lpt¹"),
        ("conin$", "_conin$"),
        ("a. ", "a__"),
        ('a<b>c:d"e/f\\g|h?i*j\nk', "a_b_c_d_e_f_g_h_i_j_k"),
        ("x" * 300, "x" * MAX_NAME),
        ("é" * 200, "é" * (MAX_NAME // 2)),
    ],
)
def test_what_some_system_forbids_is_replaced(name: str, portable: str) -> None:
    assert portable_name(name) == portable == portable_name(portable)


PAIRS = {("a-b", "c"): "a-b-c", ("a", "b-c"): "a-b-c", ("a", "c"): "a-c"}


def test_names_that_pairs_share_become_distinct_and_depend_on_no_order() -> None:
    names = distinct_names(PAIRS)
    assert names["a", "c"] == "a-c" and len(set(names.values())) == 3
    assert all(name.startswith(PAIRS[pair]) for pair, name in names.items())
    assert names == distinct_names(dict(reversed(PAIRS.items())))
    alone = {pair: name for pair, name in PAIRS.items() if pair != ("a", "b-c")}
    assert distinct_names(alone) == alone


@pytest.mark.parametrize("other", ["SS-É", "ss-e\u0301", "ß-é"])
def test_case_and_ways_to_write_a_letter_do_not_count(other: str) -> None:
    names = distinct_names({"1": "ss-é", "2": other})
    assert len({name.upper() for name in names.values()}) == 2


def test_a_name_that_looks_as_if_made_distinct_is_no_way_around() -> None:
    made = distinct_names({"a": "x", "b": "x"})
    names = distinct_names({"a": "x", "b": "x", "c": made["a"]})
    assert len(set(names.values())) == 3


def test_results_are_found_again_by_the_names_of_their_clips(tmp_path: Path) -> None:
    for name in ("CON", "aux.b"):
        write_clip(tmp_path / name, seed=0, frames=1)
    assert list(clips_by_name(tmp_path)) == ["_CON", "_aux"]
