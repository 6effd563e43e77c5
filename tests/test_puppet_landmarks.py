"""The landmarks of puppets by least squares: near the truth, and none without a puppet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from data.puppets.dataset import make_dataset
from evaluation import metrics
from evaluation.puppets import PuppetLandmarks, read_truth
from media.clips import open_clip
from media.pictures import write_image
from utils.errors import DatasetError


@pytest.fixture(scope="module")
def puppets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of thirty puppets, three of them for testing."""
    root = tmp_path_factory.mktemp("puppets") / "data"
    make_dataset(root, videos=120, frames=2, size=128, format="png", seed=0)
    return root


@pytest.fixture(scope="module")
def detector(puppets: Path) -> PuppetLandmarks:
    detector = PuppetLandmarks(puppets)
    detector.load(torch.device("cpu"))
    return detector


def truth(clip: Path) -> np.ndarray:
    """The true landmarks in pixels of a frame of 128x128."""
    return (np.load(f"{clip}.npz")["xy"] + 1) / 2 * 127


def test_landmarks_of_unseen_puppets_are_near_the_truth(puppets: Path, detector: PuppetLandmarks) -> None:
    clips = sorted(path for path in (puppets / "test").iterdir() if path.is_dir())
    found = np.concatenate([detector(open_clip(clip).read(range(2))) for clip in clips])
    true = np.concatenate([truth(clip) for clip in clips])
    assert metrics.mean_of_counted(metrics.keypoint_distance(found, true)) < 5
    inside = ((true >= 0) & (true <= 127)).all(-1)
    assert metrics.found(found)[inside].mean() > 0.9


def test_pixels_are_those_of_frames_of_any_size(puppets: Path, detector: PuppetLandmarks) -> None:
    frames = open_clip(next((puppets / "test").glob("*0"))).read(range(2))
    twice = frames.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose((detector(twice) - 0.5) / 2, detector(frames), atol=1.5)


def test_nothing_is_found_without_a_puppet(detector: PuppetLandmarks) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    plain = np.full((1, 128, 128, 3), 90, np.uint8)
    assert np.isnan(detector(np.concatenate([noise, plain]))).all()


def test_metrics_of_puppets_that_are_right_and_of_nothing(puppets: Path, tmp_path: Path) -> None:
    for clip in sorted((puppets / "test").glob("*0[01]")):
        frames = open_clip(clip).read(range(2)) if clip.name.endswith("0") else np.full((2, 128, 128, 3), 90)
        (tmp_path / "made" / clip.name).mkdir(parents=True)
        (tmp_path / "real").mkdir(exist_ok=True)
        (tmp_path / "real" / clip.name).symlink_to(clip)
        for number, frame in enumerate(frames.astype(np.uint8)):
            write_image(tmp_path / "made" / clip.name / f"{number}.png", frame)
    folders = ["--generated", str(tmp_path / "made"), "--real", str(tmp_path / "real")]
    options = ["--metrics", "akd", "mkr", "--landmarks", "puppets", "--puppets", str(puppets)]
    for _ in range(2):
        evaluate.main([*folders, *options, "--device", "cpu"])
        means = json.loads((tmp_path / "made" / "evaluation.json").read_text())["metrics"]
        assert means["akd"]["mean_over_frames"] == 0
        assert means["mkr"]["mean_over_frames"] == 0.5


@pytest.mark.parametrize("damage", [b"", b"junk", lambda whole: whole[:-40], None])
def test_damaged_truth_and_that_of_another_clip_is_told(
    puppets: Path, tmp_path: Path, damage: bytes | Callable[[bytes], bytes] | None
) -> None:
    whole = next((puppets / "test").glob("*.npz")).read_bytes()
    clip, path = tmp_path / "clip", tmp_path / "clip.npz"
    path.write_bytes(whole)
    (xy,) = read_truth(clip, 2, "landmarks", "xy")
    assert len(xy) == 2
    if damage is not None:
        path.write_bytes(damage if isinstance(damage, bytes) else damage(whole))
    with pytest.raises(DatasetError, match=r"clip\.npz: has no landmarks; draw the clips"):
        read_truth(clip, 2 if damage is not None else 3, "landmarks", "xy")
