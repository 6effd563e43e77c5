"""Animation from Python: what notebooks and programs call.

Shapes: `H, W` size that the model takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from animate import Animator
from animation import transfer
from checkpoint import find_checkpoint
from device import pick_device
from media.tensors import to_tensor
from modules.build import read_config
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from networks import load_networks


def load_checkpoints(
    config_path: str | Path, checkpoint_path: str | Path, cpu: bool = False
) -> tuple[OcclusionAwareGenerator, KPDetector]:
    """Generator and keypoint detector of a checkpoint, on the best device or, with `cpu`, on the CPU.

    On the CPU they come in their fast form (`modules/inference.py`), which can't be trained. Raises
    `ConfigError` and `CheckpointError`.
    """
    config, device = read_config(config_path), pick_device("cpu" if cpu else None)
    return load_networks(config, config_path, find_checkpoint(checkpoint_path), device, plain=False)


def make_animation(
    source_image: np.ndarray,
    driving_video: Iterable[np.ndarray],
    generator: OcclusionAwareGenerator,
    kp_detector: KPDetector,
    relative: bool = True,
    adapt_movement_scale: bool = True,
    cpu: bool = False,
) -> list[np.ndarray]:
    """Animate `source_image` (H, W, 3) with frames of the same size: a list of float32 (H, W, 3).

    All values are in [0, 1] (or uint8, for inputs), and H, W the size that the networks take. It computes
    where the networks are; `cpu` first moves them to the CPU.
    """
    if cpu:
        generator, kp_detector = generator.cpu(), kp_detector.cpu()
    device = next(generator.parameters()).device
    source = to_tensor(np.asarray(source_image)).unsqueeze(0).to(device)
    animator = Animator(generator, kp_detector, source, transfer(relative, adapt_movement_scale))
    driving = (to_tensor(np.asarray(frame)) for frame in driving_video)
    return [to_array(out["prediction"]) for out in animator.animate(driving)]


def to_array(prediction: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) -> float32 (H, W, 3), both in [0, 1]."""
    return prediction[0].permute(1, 2, 0).float().cpu().numpy()
