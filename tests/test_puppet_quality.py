"""The figures of `puppet_quality.py` on cases with known answers, and its command on few puppets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.puppets.dataset import Clip, make_dataset
from data.puppets.landmarks import LANDMARKS, landmarks
from data.puppets.render import render
from modules.build import build_generator, build_kp_detector
from tests.small import small_config, write_config
from tools.benchmarks import puppet_quality
from tools.benchmarks.puppet_quality import (
    ExpressionRegression,
    LandmarkRegression,
    Reconstruction,
    Sample,
    expression_correlation,
    landmark_errors,
    mean_without_ears,
    motion_correlation,
    reconstruction_figures,
    torn_pixels,
)

NAMES = ("eye_left", "eye_right", "chin")


def test_a_linear_relation_is_found_and_its_constant_too() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(40, 3, 2)), rng.normal(size=(6, 6))
    landmarks = (values.reshape(40, 6) @ weights + 5).reshape(40, 3, 2)
    regress = LandmarkRegression(values[:20], landmarks[:20])
    np.testing.assert_allclose(regress(values[20:]), landmarks[20:], atol=1e-9)


def test_errors_are_distances_in_eye_distances() -> None:
    true = np.array([[[-0.2, 0], [0.2, 0], [0, 0.5]]])
    found = true + np.array([[0, 0], [0.03, 0.04], [0, -0.4]])
    np.testing.assert_allclose(landmark_errors(found, true, NAMES), [[0, 0.125, 1]])


def test_motion_correlation_ignores_scale_and_tells_directions() -> None:
    true = np.random.default_rng(0).normal(size=(50, 3, 2))
    found = true * [[[0.5, 0.5], [-2, -2], [1, -1]]]
    np.testing.assert_allclose(motion_correlation(found, true)[:2], [1, -1])
    assert abs(motion_correlation(found, true)[2]) < 0.4


def test_torn_pixels_are_those_far_off_on_average_over_channels() -> None:
    real = torch.zeros(3, 4, 5)
    picture = real.clone()
    picture[:, 0, 0] = 0.26
    picture[0, 1, 1] = 0.74  # a mean of 0.247
    picture[:, 2, :3] = 0.24
    assert torn_pixels(picture, real) == pytest.approx(1 / 20)
    assert torn_pixels(real, picture) == pytest.approx(1 / 20)
    assert torn_pixels(real, real) == 0


def test_a_keypoint_is_dead_if_almost_no_pixel_follows_it() -> None:
    frames = np.array([[0.3, 0.0, 0.0012], [0.5, 0.0018, 0.0012]])  # means 0.4, 0.0009, 0.0012
    rows = np.full((2, 3), 0.5)
    figures = reconstruction_figures(Reconstruction(rows, rows, frames, rows))
    assert figures["dead_keypoints"] == [1]


def drawn_sample(identity: int, frames: int = 12) -> Sample:
    puppet, poses = Clip(Path(), 0, identity, 0, frames, 64, "close").performance()
    pictures = np.stack([render(puppet, pose, 64) for pose in poses])
    xy = np.stack([landmarks(puppet, pose) for pose in poses])
    openness = np.array([(1 - pose.blink, pose.mouth) for pose in poses])
    return Sample(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255, xy, LANDMARKS, openness)


def test_expressions_are_read_from_pixels_of_other_puppets() -> None:
    express = ExpressionRegression([drawn_sample(identity) for identity in range(24)])
    others = [drawn_sample(identity) for identity in range(30, 36)]
    true = np.concatenate([other.openness for other in others])
    seen = np.concatenate([express(other.frames, other.landmarks, LANDMARKS) for other in others])
    assert min(expression_correlation(seen, true).values()) > 0.75
    stills = [other.frames[:1].expand_as(other.frames) for other in others]  # a mask that never blinks
    masks = [express(still, other.landmarks, LANDMARKS) for still, other in zip(stills, others, strict=True)]
    assert max(expression_correlation(np.concatenate(masks), true).values()) < 0.5


def test_the_mean_without_ears() -> None:
    assert mean_without_ears(("nose", "ear_left", "chin", "ear_right"), np.array([1, 10, 3, 20])) == 2


def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_dataset(tmp_path / "puppets", videos=4, frames=3, size=32, format="png", seed=0)
    config = small_config({"dataset_params.root_dir": str(tmp_path / "puppets")})
    write_config(tmp_path / "small.yaml", config)
    networks = {"generator": build_generator(config), "kp_detector": build_kp_detector(config)}
    torch.save({name: network.state_dict() for name, network in networks.items()}, tmp_path / "small.pth.tar")
    paths = {"--config": "small.yaml", "--checkpoint": "small.pth.tar", "--json": "out.json"}
    puppet_quality.main(
        [argument for option, name in paths.items() for argument in (option, str(tmp_path / name))]
    )
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["landmark_error"].keys() == {*LANDMARKS, "mean"}
    assert figures["reconstruction"]["copy_l1"] > 0
    assert figures["expression"].keys() == {"drawn", "reconstruction", "transfer"}
    out = capsys.readouterr().out
    assert "shoulder_right" in out and "dead keypoints" in out
