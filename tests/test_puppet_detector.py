"""The detector that is fitted on puppets: what it finds, what it is fitted on, and that it is fitted once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from data.puppets.dataset import make_dataset
from evaluation import metrics, puppets
from evaluation.cache import Cache
from evaluation.clips import find_pairs
from evaluation.detectors import IDENTITIES, LANDMARKS


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of ten puppets and their network, fitted for a moment."""
    root = tmp_path_factory.mktemp("puppets") / "data"
    make_dataset(root, videos=40, frames=2, size=64, format="png", seed=0)
    puppets.fit_puppets(root / "train", root / ".evaluation" / "puppets.pth", steps=60)
    return root


def test_puppets_against_themselves_and_moved(fitted: Path, tmp_path: Path) -> None:
    options = ("--metrics", "l1", "akd", "mkr", "aed", "--landmarks", "puppets", "--identity", "puppets")
    clips = str(fitted / "test")
    evaluate.main(["--generated", clips, "--real", clips, "--out", str(tmp_path), *options])
    means = json.loads((tmp_path / "evaluation.json").read_text())["metrics"]
    assert all(means[name]["mean_over_frames"] == 0 and means[name]["frames"] == 8 for name in means)


def test_the_fitted_network_beats_the_mean_pose(fitted: Path) -> None:
    examples = puppets.read_examples(fitted / "train")
    network = puppets.PuppetNet.read(fitted / ".evaluation" / "puppets.pth")
    frames = examples.frames.float() / 255
    places = (network.find_landmarks(frames) + 0.5) / puppets.SIDE  # uv
    error = (places - examples.uv).abs().nanmean()
    guess = (examples.uv.mean(0) - examples.uv).abs().mean()
    assert error < 0.95 * guess
    embeddings = network.embed(frames)
    distance = torch.cdist(embeddings, embeddings)
    same = examples.puppets[:, None] == examples.puppets
    assert distance[same].nanmean() < 0.8 * distance[~same].nanmean()


def test_landmarks_are_in_pixels_of_a_frame_of_any_size(fitted: Path) -> None:
    network = puppets.PuppetNet.read(fitted / ".evaluation" / "puppets.pth")
    frames = puppets.read_examples(fitted / "train").frames[:4].float() / 255
    twice = frames.repeat_interleave(2, 2).repeat_interleave(2, 3)
    small, large = network.find_landmarks(frames), network.find_landmarks(twice)
    torch.testing.assert_close((large + 0.5) / 2, small + 0.5, equal_nan=True, atol=1.0, rtol=0)


def test_true_landmarks_moved_by_three_pixels(fitted: Path) -> None:
    """What the shift means in pixels does not depend on a detector."""
    for file in sorted((fitted / "test").glob("*.npz")):
        xy = torch.from_numpy(np.load(file)["xy"])
        pixels = (puppets.xy_to_uv(xy, 64, 64) * 64 - 0.5).numpy()
        np.testing.assert_allclose(pixels, (xy.numpy() + 1) / 2 * 63, atol=1e-4)
        for shift, expected in (((3, 0), 1.5), ((3, -3), 3)):
            np.testing.assert_allclose(
                metrics.keypoint_distance(pixels + np.array(shift), pixels), expected, atol=1e-5
            )


def test_disturbed_examples_keep_landmarks_on_what_they_mark() -> None:
    side, names = puppets.SIDE, ["eye_left", "eye_right", "nose"]
    picture = torch.zeros(3, side, side)
    places = torch.tensor([[20, 30], [40, 31], [25, 50]])  # x, y
    for channel, (x, y) in enumerate(places.tolist()):
        picture[channel, y, x] = 1
    draw = torch.Generator().manual_seed(3)
    moved, uv = puppets.shift(*puppets.mirror(picture, (places + 0.5) / side, names), draw)
    for channel, (x, y) in enumerate((uv * side - 0.5).round().int().tolist()):
        mirrored = {0: 1, 1: 0, 2: 2}[channel]  # the left eye is the one that was the right eye
        assert moved[mirrored, y, x] == 1
    covered = puppets.cover(moved, uv, torch.Generator().manual_seed(0))
    for channel, (x, y) in enumerate((uv * side - 0.5).round().int().tolist()):
        assert (moved[{0: 1, 1: 0, 2: 2}[channel], y, x] == 1) == (not covered[channel])
    assert covered.any() and not covered.all()


def test_a_network_is_fitted_once(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puppets, "fit_puppets", lambda *_: pytest.fail("fitted again"))
    assert IDENTITIES["puppets"](fitted).version == LANDMARKS["puppets"](fitted).version
    assert len(find_pairs(fitted / "test", fitted / "test", Cache())) == 4
