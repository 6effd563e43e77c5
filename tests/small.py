"""A config that is complete and small enough for a test, and pictures to go with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from modules.keypoint_detector import KPDetector

Network = TypeVar("Network", bound=nn.Module)

SMALL_CONFIG: dict[str, Any] = {
    "dataset_params": {
        "root_dir": "data",
        "frame_shape": [32, 32, 3],
        "augmentation_params": {"flip_param": {"time_flip": True}},
    },
    "model_params": {
        "common_params": {"num_kp": 3, "num_channels": 3, "estimate_jacobian": True},
        "kp_detector_params": {
            "temperature": 0.1,
            "block_expansion": 4,
            "max_features": 8,
            "scale_factor": 0.5,
            "num_blocks": 1,
        },
        "generator_params": {
            "block_expansion": 4,
            "max_features": 8,
            "num_down_blocks": 2,
            "num_bottleneck_blocks": 1,
            "estimate_occlusion_map": True,
            "dense_motion_params": {
                "block_expansion": 4,
                "max_features": 8,
                "num_blocks": 2,
                "scale_factor": 0.5,
            },
        },
        "discriminator_params": {
            "scales": [1],
            "block_expansion": 4,
            "max_features": 8,
            "num_blocks": 2,
            "sn": True,
        },
    },
    "train_params": {
        "num_epochs": 2,
        "num_repeats": 1,
        "epoch_milestones": [1],
        "lr_generator": 2.0e-4,
        "lr_discriminator": 2.0e-4,
        "lr_kp_detector": 2.0e-4,
        "batch_size": 2,
        "scales": [1, 0.5],
        "checkpoint_freq": 1,
        "num_workers": 0,
        "vgg_weights": "random",
        "transform_params": {"sigma_affine": 0.05, "sigma_tps": 0.005, "points_tps": 5},
        "loss_weights": {
            "generator_gan": 1,
            "discriminator_gan": 1,
            "feature_matching": [10, 10],
            "perceptual": [0, 0, 0, 0, 0],
            "equivariance_value": 10,
            "equivariance_jacobian": 10,
        },
    },
    "reconstruction_params": {"num_videos": 10, "format": ".mp4"},
    "animate_params": {
        "num_pairs": 2,
        "format": ".mp4",
        "normalization_params": {
            "adapt_movement_scale": False,
            "use_relative_movement": True,
            "use_relative_jacobian": True,
        },
    },
    "visualizer_params": {"kp_size": 2, "draw_border": True, "colormap": "gist_rainbow"},
}


def small_config(changes: dict | None = None) -> dict:
    """A copy of the small config with `changes` under dotted keys; the value None removes the key."""
    config = copy.deepcopy(SMALL_CONFIG)
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        place: dict[str, Any] = config
        for name in parents:
            place = place.setdefault(name, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    return config


def write_config(path: Path, config: dict) -> Path:
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def error_of(capsys: pytest.CaptureFixture, call: Callable[[], object]) -> str:
    """What a command line that ends with a user's mistake prints on stderr."""
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code == 2
    return capsys.readouterr().err


def images(batch: int, size: int = 32, seed: int = 0) -> Tensor:
    """Smooth random pictures (batch, 3, size, size) in [0, 1]."""
    coarse = torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False).clamp(
        0, 1
    )


def randomize(network: Network, seed: int = 0) -> Network:
    """Statistics and scales for each normalisation, and weights for the Jacobian head, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
            ):
                tensor.uniform_(low, high, generator=generator)
    if isinstance(network, KPDetector) and network.jacobian is not None:
        network.jacobian.weight.data.normal_(0, 0.02, generator=generator)
    return network


def pixels(seed: int, size: int = 32) -> np.ndarray:
    """A smooth picture (size, size, 3) uint8."""
    return (images(1, size, seed)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
