"""Preparing any videos: fits, splits, names, and going on after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import prepare
from frames_dataset import FramesDataset, identity
from media.clips import open_clip
from media.pictures import fit, write_image
from media.writer import VideoWriter
from tests.clips import write_clip, write_dataset
from tests.media_files import encode_lossless
from tests.small import error_of, pixels

SCRIPT = Path(prepare.__file__)


def write_video(path: Path, frames: int = 5, width: int = 48, height: int = 32, fps: float = 25) -> Path:
    """Frames of noise that move down, lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), np.uint8)
    moved = [np.roll(picture, number, axis=0) for number in range(frames)]
    if path.suffix == ".mp4":
        return encode_lossless(path, moved, fps)
    with VideoWriter(path, fps) as writer:
        for frame in moved:
            writer.write(frame)
    return path


def run(inp: Path, out: Path, *more: str) -> Path:
    prepare.main([str(inp), str(out), "--size", "16", "--workers", "1", *more])
    return out


def content(out: Path) -> dict[str, list[str]]:
    return {split: sorted(path.name for path in (out / split).iterdir()) for split in ("train", "test")}


# ---- Frames -----------------------------------------------------------------


def test_crop_keeps_the_middle_and_pad_keeps_all():
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[:, 10:30] = 200  # the middle square
    assert (fit(frame, (20, 20), "crop") == 200).all()
    padded = fit(np.full((20, 40, 3), 200, np.uint8), (20, 20), "pad")
    assert (padded[5:15] == 200).all() and not padded[:5].any() and not padded[15:].any()
    assert (fit(frame, (20, 40), "crop") == frame).all()


@pytest.mark.parametrize("shape", [(33, 50), (50, 33), (7, 300), (16, 16)])
@pytest.mark.parametrize("how", ["crop", "pad"])
def test_every_shape_fits_without_distortion(shape, how):
    """A disc stays round: as wide as it is high."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    radius = 0.4 * min(shape)
    disc = (y - shape[0] / 2 + 0.5) ** 2 + (x - shape[1] / 2 + 0.5) ** 2 < radius**2
    found = fit(np.repeat((disc * 255).astype(np.uint8)[..., None], 3, axis=2), (64, 48), how)
    assert found.shape == (64, 48, 3)
    bright = found[..., 0] > 100
    assert abs(bright.any(axis=0).sum() - bright.any(axis=1).sum()) <= 0.1 * 64


# ---- Preparing --------------------------------------------------------------


@pytest.mark.parametrize("form", ["png", "mp4"])
def test_videos_of_all_kinds_become_a_dataset(tmp_path, capsys, form):
    inp = tmp_path / "in"
    write_video(inp / "anna" / "one.mp4")
    write_video(inp / "anna" / "deeper" / "anna#2.gif", frames=3)
    write_video(inp / "ben#1.v2.mp4", height=48, width=32)
    write_clip(inp / "cleo" / "walk", seed=0, frames=4, size=32)
    (inp / "anna" / "notes.txt").write_text("not a video")
    (inp / "anna" / "broken.mp4").write_bytes(b"no video")
    write_video(inp / "anna" / "blink.mp4", frames=1)
    for name in "abcd":
        (inp / "ben" / name).with_suffix(".x").parent.mkdir(exist_ok=True)
        (inp / "ben" / name).with_suffix(".x").write_bytes(b"")
    write_clip(inp / "cleo" / "run", seed=1, frames=3, size=32)
    write_image(inp / "cleo" / "cover.png", pixels(0))
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        run(inp, out, "--format", form, "--test_share", "0.34")
    assert stop.value.code == 1

    end = ".mp4" if form == "mp4" else ""
    found = content(out)
    assert sorted(found["train"] + found["test"]) == sorted(
        name + end for name in ("anna#one", "anna#deeper#anna#2", "ben#1_v2", "cleo#walk", "cleo#run")
    )
    assert len({identity(name) for name in found["test"]}) == 1
    assert not {identity(name) for name in found["train"]} & {identity(name) for name in found["test"]}
    lengths = {path.stem: len(open_clip(path)) for split in found for path in (out / split).iterdir()}
    assert lengths == {"anna#one": 5, "anna#deeper#anna#2": 3, "ben#1_v2": 5, "cleo#walk": 4, "cleo#run": 3}
    for is_train in (True, False):
        assert len(FramesDataset(out, (16, 16, 3), is_train=is_train)[0]) >= 2

    told = capsys.readouterr().out
    assert "broken.mp4" in told and "blink.mp4: too short" in told
    assert told.splitlines()[-3:] == [
        f"left out: files .txt (1, the first is {inp / 'anna' / 'notes.txt'}): neither videos nor pictures",
        f"left out: files .x (4, the first is {inp / 'ben' / 'a.x'}): neither videos nor pictures",
        f"left out: pictures beside videos or sub-folders (1, the first is {inp / 'cleo' / 'cover.png'}): "
        "move them into a folder of their own",
    ]
    table = {
        line.split()[0]: line.split()[1:] for line in told.splitlines() if line.startswith(("train", "test"))
    }
    sums = np.array([list(map(float, row)) for row in table.values()]).sum(axis=0)
    assert sums[:3].tolist() == [5, 20, 3] and sums[3] == pytest.approx(20 / 25, abs=0.11)


def test_pixels_are_those_of_the_video(tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / "in" / f"{name}.mp4", width=16, height=16)
    out = run(tmp_path / "in", tmp_path / "out")
    for path in (*out.glob("train/*"), *out.glob("test/*")):
        assert (
            np.stack(list(open_clip(path))) == np.stack(list(open_clip(tmp_path / "in" / f"{path.name}.mp4")))
        ).all()


def test_a_dataset_keeps_its_split(tmp_path, capsys):
    inp = write_dataset(tmp_path / "in", train=3, test=2)
    write_clip(inp / "val" / "id50#0", seed=3)
    out = run(inp, tmp_path / "out")
    assert content(out) == content(inp) and [path.name for path in out.glob("val/*")] == ["id50#0"]
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["train", "3"],
        ["val", "1"],
        ["test", "2"],
    ]
    assert (out / "train.clips").read_bytes() == b"id0#0\0id1#1\0id2#2\0"
    prepare.main(["--check", str(out)])
    assert "6 clips, 24 frames, nothing wrong" in capsys.readouterr().out
    write_clip(out / "val" / "id0#3", seed=3, size=16)
    with pytest.raises(SystemExit):
        prepare.main(["--check", str(out)])
    assert "id0: this identity (a name up to #) is in train/ and in val/" in capsys.readouterr().out


def split_of(names: list[str], out: Path, **options) -> dict[str, str]:
    found = {name: prepare.Found(Path(name), None) for name in names}
    return prepare.choose_splits(found, replace(prepare.parse(["in", str(out)]), **options))


def test_the_split_is_by_identity_and_follows_from_the_seed(tmp_path):
    names = [f"id{number}#{clip}" for number in range(40) for clip in range(3)]
    splits = split_of(names, tmp_path)
    tests = {identity(name) for name in names if splits[name] == "test"}
    assert len(tests) == 4
    assert not tests & {identity(name) for name in names if splits[name] == "train"}
    assert splits == split_of(names[::-1], tmp_path)
    assert splits != split_of(names, tmp_path, seed=1)
    assert set(split_of(names, tmp_path, test_share=0).values()) == {"train"}
    three = split_of(names, tmp_path, val_share=0.1)
    assert {name for name in names if three[name] == "test"} == {n for n in names if splits[n] == "test"}
    assert len({identity(name) for name in names if three[name] == "val"}) == 4


def test_identities_stay_where_they_are_when_videos_are_added(tmp_path):
    first = {"train": [], "test": []}
    for name, split in split_of([f"id{number}#0" for number in range(10)], tmp_path).items():
        (tmp_path / split / name).mkdir(parents=True)
        first[split].append(name)
    later = split_of([f"id{number}#{clip}" for number in range(200) for clip in range(2)], tmp_path)
    for split, names in first.items():
        for name in names:
            assert {later[name], later[f"{identity(name)}#1"]} == {split}
    assert 30 <= sum(split == "test" for split in later.values()) <= 50


def test_a_second_run_only_adds(tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_video(tmp_path / "in" / f"{name}.mp4")
    out = run(tmp_path / "in", tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    write_video(tmp_path / "in" / "d.mp4")
    run(tmp_path / "in", out)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(list(out.glob("t*/*"))) == 4
    assert "3 of 4 clips" in capsys.readouterr().err


def test_a_killed_run_goes_on(tmp_path):
    inp, out = many_copies(tmp_path / "in", count=60), tmp_path / "out"
    command = [sys.executable, str(SCRIPT), str(inp), str(out), "--size", "16", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(whole(out)) >= 2 and half_written(out))
        assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_for(lambda: is_quiet(out))
    finished = whole(out)
    assert len(finished) < 60
    assert all(len(open_clip(path)) == 20 for path in finished)
    times = {frame: frame.stat().st_mtime_ns for path in finished for frame in path.iterdir()}

    prepare.main(command[2:])
    assert {frame: frame.stat().st_mtime_ns for frame in times} == times
    assert len(whole(out)) == 60 and not half_written(out)
    assert all(len(open_clip(path)) == 20 for path in whole(out))


def many_copies(inp: Path, count: int) -> Path:
    first = write_video(inp / "id0#0.mp4", frames=20, width=16, height=16)
    for number in range(1, count):
        shutil.copyfile(first, inp / f"id{number}#0.mp4")
    return inp


def whole(out: Path) -> list[Path]:
    return [path for path in out.glob("t*/*") if not path.name.startswith(".")]


def half_written(out: Path) -> list[Path]:
    return list(out.glob("t*/.*"))


def is_quiet(out: Path) -> bool:
    """Whether nobody writes any more: workers died with their parent."""
    before = sorted(out.rglob("*"))
    time.sleep(1)
    return sorted(out.rglob("*")) == before


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_interrupted_run_leaves_nothing_half_written(tmp_path):
    inp, out = many_copies(tmp_path / "in", count=500), tmp_path / "out"
    command = [sys.executable, str(SCRIPT), str(inp), str(out), "--size", "16", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: half_written(out))
        os.kill(process.pid, signal.SIGINT)
        assert "Traceback" not in process.communicate(timeout=60)[1]
        assert process.returncode == 130
    finally:
        process.kill()
        process.wait()
    assert not half_written(out) and len(whole(out)) < 500
    assert all(len(open_clip(path)) == 20 for path in whole(out))


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda inp: None, "no such folder"),
        (lambda inp: inp.mkdir(), "holds no videos"),
        (lambda inp: write_video(inp / "a" / "1.mp4"), "of its 1 identities, as a, none is left to train on"),
        (lambda inp: [write_video(inp / name) for name in ("a.gif", "a.mp4")], "would be called a like"),
        (lambda inp: [write_video(inp / name) for name in ("A.mp4", "a.mp4")], "would be called a like"),
        (
            lambda inp: [write_video(inp / name) for name in ("a:b.mp4", "a?b.mp4")],
            "would be called a_b like",
        ),
        (
            lambda inp: [
                (inp.mkdir(exist_ok=True), (inp / name).write_bytes(b"no")) for name in ("a.mp4", "b.mp4")
            ],
            "none of its 2",
        ),
    ],
)
def test_input_that_makes_no_dataset(tmp_path, capsys, make, told):
    make(tmp_path / "in")
    assert told in error_of(capsys, lambda: run(tmp_path / "in", tmp_path / "out"))


def test_clips_of_another_size_or_format_are_not_mixed(tmp_path, capsys):
    for name in ("a", "b"):
        write_video(tmp_path / "in" / f"{name}.mp4")
    assert "lies in" in error_of(capsys, lambda: run(tmp_path / "in", tmp_path / "in" / "out"))
    out = run(tmp_path / "in", tmp_path / "out")
    before = content(out)
    larger = error_of(capsys, lambda: run(tmp_path / "in", out, "--size", "24"))
    assert "was made in 16x16, not 24x24; use that size" in larger
    assert "use that format" in error_of(capsys, lambda: run(tmp_path / "in", out, "--format", "mp4"))
    assert content(out) == before and not (tmp_path / "in" / "out").exists()


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["in", "out", "--size", "17", "--format", "mp4"], "even sides"),
        (["in"], "give IN and OUT, or --check DIR, or --index DIR"),
        (["in", "out", "--check", "x"], "give IN and OUT, or --check DIR, or --index DIR"),
        (["in", "out", "--config", "x"], "--config goes with --check"),
        (["in", "out", "--size", "big"], "--size"),
        (["in", "out", "--test_share", "1"], "--test_share: '1' is not a number from 0 to 0.99"),
        (["in", "out", "--seed", "-1"], "--seed: '-1' is not a whole number from 0 to"),
        (["in", "out", "--seed", str(2**63)], "is not a whole number from 0 to"),
        (["--check", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_options_that_make_no_sense(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "in" / "a.mp4")
    assert told in error_of(capsys, lambda: prepare.main(arguments))
    assert not (tmp_path / "out").exists()
