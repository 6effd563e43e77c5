"""Configs: published values, clear errors. Networks: published layout. Weights: clear mismatches."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from checkpoints.files import load_weights
from modules.build import (
    build_discriminator,
    build_generator,
    build_kp_detector,
    frame_shape,
    read_config,
)
from tests.small import small_config, write_config
from utils.errors import CheckpointError, ConfigError

ROOT = Path(__file__).parent.parent
REFERENCE = Path(__file__).parent / "reference"
PUBLISHED = json.loads((REFERENCE / "config_values.json").read_text())
LAYOUTS = {
    config: entry["modules"]
    for entry in json.loads((REFERENCE / "checkpoint_layout.json").read_text())
    for config in entry["configs"]
}


def test_every_published_config_is_here() -> None:
    assert PUBLISHED.keys() == LAYOUTS.keys()
    assert PUBLISHED.keys() <= {path.stem for path in (ROOT / "config").glob("*.yaml")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name: str) -> None:
    assert read_config(ROOT / f"config/{name}.yaml") == PUBLISHED[name]


@pytest.mark.parametrize("name", LAYOUTS)
def test_checkpoint_layout(name: str) -> None:
    config = read_config(ROOT / f"config/{name}.yaml")
    with torch.device("meta"):
        networks = {
            "generator": build_generator(config),
            "kp_detector": build_kp_detector(config),
            "discriminator": build_discriminator(config),
        }
    for part, layout in LAYOUTS[name].items():
        state = [[key, list(tensor.shape)] for key, tensor in networks[part].state_dict().items()]
        assert state == layout["state_dict"]
        assert [key for key, _ in networks[part].named_parameters()] == layout["parameters"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_params.batchsize": 2},
            "unknown key 'train_params.batchsize'; train_params may hold num_epochs",
        ),
        ({"extra": {}}, "unknown key 'extra'; the file may hold dataset_params"),
        (
            {"train_params.num_epochs": None},
            "missing key 'train_params.num_epochs': a whole number of at least 1",
        ),
        ({"model_params": None}, "missing key 'model_params'"),
        (
            {"train_params.lr_generator": "fast"},
            "'train_params.lr_generator' must be a number of at least 0",
        ),
        (
            {"train_params.batch_size": True},
            "'train_params.batch_size' must be a whole number of at least 1; it is True",
        ),
        (
            {
                "train_params.loss_weights.deformed": 1,
                "model_params.generator_params.dense_motion_params": None,
            },
            "train_params.loss_weights.deformed must be 0 without generator_params.dense_motion_params",
        ),
        (
            {
                "model_params.generator_params.image_skip": True,
                "model_params.generator_params.estimate_occlusion_map": False,
            },
            "generator_params.image_skip needs estimate_occlusion_map: true",
        ),
        (
            {
                "model_params.generator_params.image_skip": True,
                "model_params.generator_params.dense_motion_params": None,
            },
            "generator_params.image_skip needs dense_motion_params",
        ),
        (
            {"train_params.loss_weights.painted": 1},
            "loss_weights.painted must be 0 without generator_params.image_skip",
        ),
        (
            {
                "train_params.loss_weights.occlusion_prior": 1,
                "model_params.generator_params.estimate_occlusion_map": False,
            },
            "loss_weights.occlusion_prior must be 0 without an occlusion map",
        ),
        ({"train_params": 5}, "train_params must hold the keys num_epochs"),
        (
            {"train_params.batch_size": 0},
            "'train_params.batch_size' must be a whole number of at least 1; it is 0",
        ),
        (
            {"train_params.lr_generator": -1.0e-4},
            "'train_params.lr_generator' must be a number of at least 0",
        ),
        (
            {"model_params.kp_detector_params.temperature": 0},
            "temperature' must be a number above 0; it is 0",
        ),
        (
            {"model_params.generator_params.dense_motion_params.kp_variance": 0},
            "kp_variance' must be a number above 0",
        ),
        ({"model_params.kp_detector_params.scale_factor": 0.3}, "must be 1 divided by a whole number"),
        ({"model_params.kp_detector_params.scale_factor": 2}, "must be 1 divided by a whole number"),
        (
            {"dataset_params.frame_shape": [256, 256]},
            "'dataset_params.frame_shape' must be [height, width, channels]",
        ),
        (
            {"dataset_params.frame_shape": [32, 32, 1]},
            "frame_shape must end in model_params.common_params.num_channels",
        ),
        ({"model_params.common_params.estimate_jacobian": False}, "equivariance_jacobian must be 0"),
        ({"model_params.discriminator_params.scales": [0.25]}, "may only hold scales of train_params.scales"),
        ({"train_params.loss_weights.feature_matching": [10]}, "feature_matching needs 2 weights"),
        ({"train_params.loss_weights.perceptual": [1] * 6}, "perceptual takes at most 5 weights"),
        (
            {
                "dataset_params.frame_shape": [32, 32, 1],
                "model_params.common_params.num_channels": 1,
                "train_params.loss_weights.perceptual": [10],
            },
            "perceptual must be all 0 where num_channels is not 3",
        ),
    ],
)
def test_a_wrong_config_is_named_and_explained(tmp_path: Path, changes: dict, message: str) -> None:
    path = write_config(tmp_path / "mine.yaml", small_config(changes))
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        read_config(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "", "!!python/object/apply:os.mkdir [sprung]"])
def test_a_file_that_is_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as raised:
        read_config(path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "sprung").exists()


def test_optional_keys_may_be_left_out_or_empty(tmp_path: Path) -> None:
    changes = {
        "dataset_params.frame_shape": None,
        "train_params.num_repeats": None,
        "visualizer_params": None,
        "reconstruction_params": None,
        "animate_params": None,
    }
    path = write_config(tmp_path / "mine.yaml", small_config(changes))
    path.write_text(path.read_text() + "visualizer_params:\n")
    assert frame_shape(read_config(path)) == (256, 256, 3)


def test_weights_of_another_config_are_told_apart_and_change_nothing() -> None:
    detector = build_kp_detector(small_config())
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    foreign = build_kp_detector(small_config({"model_params.common_params.num_kp": 4})).state_dict()
    with pytest.raises(
        CheckpointError, match=r"x\.pth\.tar: its 'kp_detector' does not fit y\.yaml: 4 of another shape"
    ):
        load_weights(detector, foreign, "kp_detector", "x.pth.tar", "y.yaml")
    less, more = dict(before), before | {"extra.weight": torch.zeros(1)}
    del less["down.weight"]
    for state, message in (
        (less, r"1 missing \(first: down\.weight\)"),
        (more, r"1 unknown \(first: extra\.weight\)"),
    ):
        with pytest.raises(CheckpointError, match=f"does not fit y.yaml: {message}; use the config"):
            load_weights(detector, state, "kp_detector", "x.pth.tar", "y.yaml")
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())
