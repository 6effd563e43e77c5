"""Made-up folders as datasets, clips and sources: used as documented, or one line."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from checkpoints.files import find_checkpoint
from data import prepare
from frames_dataset import FramesDataset, PairedDataset
from media.pictures import write_image
from tests.fuzzing import (
    emptied,
    fuzz,
    limited_time,
    needs_unix,
)
from tests.media_files import encode, moving
from tests.small import pixels
from utils.errors import UserError

NAMES = [
    "a", "a.png", "a.mp4", "a.gif", "A.PNG", "b#1", "b#1.mp4", "b#2.png", "a.b.mp4", ".hidden", ".hidden.png",
    "#", "#.mp4", "é.mp4", "e\u0301.mp4", "\udcff.png", "a\nb.png", "CON.png", " .mp4", "a. ", "1.png",
    "2.png", "10.png", "²3.png", "٣.png", "9" * 60 + ".png", "n" * 240 + ".png", "train", "test", "png",
    "log.jsonl", "pairs.csv", "readme.txt", "00000001-checkpoint.pth.tar", "²-checkpoint.pth.tar",
    "last-checkpoint.pth.tar", "%d.png", "*", "[a].mp4",
]  # fmt: skip


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("contents")
    write_image(folder / "frame.png", pixels(0))
    write_image(folder / "other.png", pixels(1, 40))
    write_image(folder / "strip.png", pixels(2, 96)[:32])
    encode(folder / "video.mp4", moving(4, 32, 32))
    encode(folder / "video.gif", moving(3, 32, 32), "gif", "rgb8")
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    found["checkpoint"] = (inputs / "good.pth.tar").read_bytes()
    return found | {"half": found["video.mp4"][:900], "text": b"source,driving\na,a\n", "empty": b""}


SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "parent": lambda path: path.symlink_to(".."),
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK),
}


def grow(data: st.DataObject, folder: Path, contents: dict[str, bytes], depth: int = 0) -> None:
    """Put up to five things into a folder, folders among them."""
    for _ in range(data.draw(st.integers(0 if depth else 1, 5), "count")):
        path = folder / data.draw(st.sampled_from(NAMES), "name")
        kinds = ["folder"] * (3 if depth < 3 else 0) + ["fitting"] * 4 + [*contents, *SPECIAL]
        kind = data.draw(st.sampled_from(kinds), "kind")
        if os.path.lexists(path):
            continue
        if kind == "folder":
            path.mkdir()
            grow(data, path, contents, depth + 1)
        elif kind in SPECIAL:
            SPECIAL[kind](path)
        else:
            fitting = {".mp4": "video.mp4", ".gif": "video.gif", ".tar": "checkpoint"}.get(
                path.suffix, "frame.png"
            )
            path.write_bytes(contents[fitting if kind == "fitting" else kind])


@needs_unix
@pytest.mark.filterwarnings("ignore")
def test_any_folder_is_read_or_one_line(
    contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def check(data: st.DataObject) -> None:
        root = emptied(tmp_path / "root")
        grow(data, root, contents)
        for read in (
            read_training,
            read_pairs,
            find_checkpoint,
            lambda root: prepare.find_sources(root, tmp_path / "out"),
        ):
            try:
                with limited_time():
                    read(root)
            except (UserError, OSError) as error:
                assert str(error)

    fuzz(check, 400)


def read_training(root: Path) -> None:
    dataset = FramesDataset(root, (32, 32, 3), id_sampling=True)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample["source"].shape == sample["driving"].shape == (3, 32, 32)


def read_pairs(root: Path) -> None:
    dataset = FramesDataset(root, (32, 32, 3), is_train=False)
    pairs = PairedDataset(dataset, 5)
    for index in range(len(pairs)):
        driving, source = pairs.pair(index)
        assert source.first_frame().shape == (3, 32, 32) and len(list(driving)) == len(driving)
