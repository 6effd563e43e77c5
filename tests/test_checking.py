"""prepare.py --check: what is wrong with a dataset is named with a remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from data import prepare
from data.checking import MAX_LINES
from media.pictures import write_image
from tests.clips import write_clip, write_dataset
from tests.small import small_config, write_config
from tests.test_prepare import run, write_video


def look_over(capsys, root: Path, *more: str) -> tuple[int, str]:
    """The exit status of the check and what it printed."""
    capsys.readouterr()
    try:
        prepare.main(["--check", str(root), "--workers", "1", *more])
    except SystemExit as stop:
        return stop.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


def config_for(tmp_path: Path, **changes) -> list[str]:
    config = small_config({f"dataset_params.{key}": value for key, value in changes.items()})
    return ["--config", str(write_config(tmp_path / "small.yaml", config))]


def repaint(clip: Path, *frames: np.ndarray) -> None:
    shutil.rmtree(clip)
    clip.mkdir()
    for number, frame in enumerate(frames):
        write_image(clip / f"{number}.png", frame)


def truncate(video: Path) -> None:
    video.write_bytes(video.read_bytes()[:-99])


def grey(level: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_a_sound_dataset_passes(tmp_path, capsys):
    root = write_dataset(tmp_path / "data", train=3, test=2)
    (root / "train" / "id0#0.npz").write_bytes(b"landmarks")
    write_video(root / "train" / "id7#1.mp4", width=32)
    write_image(
        root / "test" / "id8#0.png", np.concatenate([noise(32, 32, seed) for seed in range(3)], axis=1)
    )
    code, told = look_over(capsys, root, *config_for(tmp_path, id_sampling=True))
    assert code == 0 and told.endswith("7 clips, 28 frames, nothing wrong\n")
    assert "wrong:" not in told and "1 .npz" in told
    code, told = look_over(capsys, root)
    assert code == 0 and "multiples of 128" in told


@pytest.mark.parametrize(
    "spoil, name, remedy",
    [
        (
            lambda train: repaint(train / "id1#1", noise(32, 40), noise(32, 40, 1)),
            "id1#1: its frames are 32x40",
            "--size 32,32",
        ),
        (
            lambda train: repaint(train / "id1#1", noise(32, 32), noise(16, 16)),
            "id1#1/1.png: is 16x16",
            "resize",
        ),
        (lambda train: repaint(train / "id1#1", noise(32, 32)), "id1#1: has 1 frame", "remove"),
        (lambda train: repaint(train / "id1#1", grey(3), grey(0)), "id1#1: is black", "remove"),
        (
            lambda train: repaint(train / "id1#1", grey(90), grey(200)),
            "id1#1: is of one flat colour",
            "remove",
        ),
        (lambda train: repaint(train / "id1#1", *[noise(32, 32)] * 3), "id1#1: is a still picture", "remove"),
        (
            lambda train: (train / "id1#1" / "0000002.png").write_bytes(b""),
            "id1#1/0000002.png: can't be read",
            "save it again",
        ),
        (
            lambda train: truncate(write_video(train / "x#0.mp4", width=32)),
            "x#0.mp4: ",
            "download it again",
        ),
        (
            lambda train: shutil.copytree(train / "id1#1", train.parent / "test" / "id1#9"),
            "id1: this identity",
            "move",
        ),
        (lambda train: write_video(train / "id1#1.mp4", width=32), "id1#1.mp4: has the same name", "rename"),
        (
            lambda train: write_video(train / "dan" / "1.mp4", width=32),
            "dan: holds videos",
            "move its clips up as dan#number",
        ),
        (lambda train: (train / "empty").mkdir(), "empty: holds no frames", "remove"),
        (lambda train: shutil.rmtree(train.parent / "test"), "test: no such folder beside train/", "add it"),
        (
            lambda train: [shutil.rmtree(clip) for clip in train.iterdir()],
            "train: holds no clips",
            "looked for",
        ),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(tmp_path, capsys, spoil, name, remedy):
    root = write_dataset(tmp_path / "data", train=3, test=2)
    spoil(root / "train")
    code, told = look_over(capsys, root)
    wrong = [line for line in told.splitlines() if line.startswith("wrong: ")]
    assert code == 1 and told.endswith(" 1 wrong\n")
    assert len(wrong) == 1 and name in wrong[0] and remedy in wrong[0]


def test_a_config_is_held_against_the_clips(tmp_path, capsys):
    root = write_dataset(tmp_path / "data", train=2, test=1)
    code, told = look_over(capsys, root, *config_for(tmp_path, frame_shape=[20, 20, 3]))
    assert (
        code == 1 and told.count("the frame_shape of") == 3 and "multiples of 8" in told and "4 wrong" in told
    )
    cropping = {"frame_shape": [24, 24, 3], "augmentation_params": {"crop_param": {"size": 24}}}
    code, told = look_over(capsys, root, *config_for(tmp_path, **cropping))
    assert code == 0 and "its frames are" not in told
    code, told = look_over(capsys, root, *config_for(tmp_path, frame_shape=[16, 16, 3], id_sampling=True))
    assert code == 1 and "multiples" not in told


def test_what_is_only_noteworthy_passes(tmp_path, capsys):
    root = tmp_path / "data"
    for number in range(5):
        write_clip(root / f"clip{number}", seed=number)
    code, told = look_over(capsys, root, *config_for(tmp_path, id_sampling=True))
    assert code == 0 and "has no train/ and test/" in told and "has no # in its name (4 of 4" in told
    wide = tmp_path / "wide"
    for split in ("train", "test"):
        repaint_at = wide / split / f"{split}#0"
        repaint_at.mkdir(parents=True)
        repaint(repaint_at, noise(32, 64), noise(32, 64, 1))
    code, told = look_over(capsys, wide)
    assert code == 0 and "not square" in told


def test_many_faults_of_a_kind_are_counted(tmp_path, capsys):
    root = write_dataset(tmp_path / "data", train=MAX_LINES + 7, test=1, frames=1, size=8)
    code, told = look_over(capsys, root)
    assert code == 1 and told.count("has 1 frame") == MAX_LINES
    assert "and 8 more" in told and "28 wrong" in told


def test_what_was_prepared_passes_the_check(tmp_path, capsys):
    for number in range(3):
        write_video(tmp_path / "in" / f"id{number}.mp4")
    out = run(tmp_path / "in", tmp_path / "out")
    code, told = look_over(capsys, out, *config_for(tmp_path, frame_shape=[16, 16, 3]))
    assert (code, told.splitlines()[-1]) == (0, f"{out}: 3 clips, 15 frames, nothing wrong")


def test_a_pairs_list_of_another_dataset_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_dataset(tmp_path / "data", size=32)
    foreign = tmp_path / "pairs.csv"
    foreign.write_text("source,driving\nsomeone#0.mp4,else#1.mp4\n")
    code, told = look_over(capsys, root, *config_for(tmp_path, pairs_list=str(foreign)))
    assert code == 1
    assert "2 of their names are no test clips: else#1.mp4, someone#0.mp4; remove pairs_list from" in told
