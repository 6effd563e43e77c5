"""Animation from Python: what notebooks and programs call.

`media.pictures.as_pixels` says what a picture can be. Shapes: `H, W` size that the model takes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from checkpoints.files import find_checkpoint
from inference.animation import detect, transfer
from inference.animator import Animator
from inference.live import LiveAnimation
from inference.networks import InferenceNetworks, fitted, load_networks, size_for
from inference.samples import SAMPLE
from media.clips import open_clip
from media.pictures import Picture
from modules.build import read_config
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from utils.device import pick_device
from utils.errors import UserError


def load_checkpoints(
    config_path: str | Path, checkpoint_path: str | Path, cpu: bool = False, plain: bool = False
) -> InferenceNetworks:
    """Load generator and keypoint detector, on the best device or the CPU. Raises `UserError`.

    On the CPU they come, unless `plain`, in their fast form (`modules/fast.py`), which can't be trained.
    """
    config, device = read_config(config_path), pick_device("cpu" if cpu else None)
    return load_networks(config, config_path, find_checkpoint(checkpoint_path), device, plain)


def make_animation(
    source_image: Picture,
    driving_video: Iterable[Picture] | str | Path,
    generator: OcclusionAwareGenerator,
    kp_detector: KPDetector,
    relative: bool = True,
    adapt_movement_scale: bool = True,
    cpu: bool = False,
    fit: str = "stretch",
    find_best_frame: bool = False,
    best_frame: int | None = None,
) -> list[np.ndarray]:
    """Animate a picture with pictures or a video: a list of float32 (H, W, 3) in [0, 1]. Raises `UserError`.

    `fit` ("stretch", "crop" or "pad") says how pictures get the model's size. Relative movement is measured
    from the first frame, or the one of `find_best_frame` or `best_frame`. `cpu` moves the networks there.
    """
    if cpu:
        generator, kp_detector = generator.cpu(), kp_detector.cpu()
    size = size_for(generator, source_image)
    source = fitted(source_image, size, fit).unsqueeze(0).to(next(generator.parameters()).device)
    animator = Animator(generator, kp_detector, source, transfer(relative, adapt_movement_scale))
    clip = open_clip(driving_video) if isinstance(driving_video, (str, Path)) else driving_video
    with detect(animator, (fitted(frame, size, fit) for frame in clip)) as found:
        # Movement is measured from the first frame, and they stream through; or another one is found before.
        reference = None
        if relative and (find_best_frame or best_frame is not None):
            poses = [item["kp_driving"] for item in found]
            if best_frame is not None and not 0 <= best_frame < len(poses):
                last = len(poses) - 1
                raise UserError(f"best_frame={best_frame}: the driving video has the frames 0 to {last}")
            reference = min(poses, key=animator.pose_distance) if best_frame is None else poses[best_frame]
            found = ({"kp_driving": pose} for pose in poses)
        return [to_array(out["prediction"]) for out in animator.generate(found, reference)]


def animate_stream(
    source: Picture,
    frames: Iterable[Picture],
    networks: InferenceNetworks | None = None,
    relative: bool = True,
    adapt_movement_scale: bool = True,
    smooth: float | None = None,
    fit: str = "crop",
) -> Iterator[np.ndarray]:
    """Animate a picture with the frames of a camera as they come: uint8 (H, W, 3) each. Raises `UserError`.

    `networks`: of `load_checkpoints`, else the small model of sup-mat/; streams in several threads may share
    them. `smooth`: strength of a filter for live use. `LiveAnimation` can do more.
    """
    live = LiveAnimation(
        networks or sample_networks(), [source], relative, adapt_movement_scale, smooth, fit=fit
    )
    return map(live.animate, frames)


@functools.lru_cache(maxsize=1)
def sample_networks() -> InferenceNetworks:
    return load_checkpoints(SAMPLE["config"], SAMPLE["checkpoint"])


def to_array(prediction: Tensor) -> np.ndarray:
    """Turn (1, 3, H, W) into float32 (H, W, 3), both in [0, 1]."""
    return prediction[0].permute(1, 2, 0).float().cpu().numpy()
