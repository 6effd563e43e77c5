"""The two networks of inference and the size (H, W) of the pictures that they take."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from checkpoints.files import inference_weights, load_for_inference, read_checkpoint
from inference.motion import model_fingerprint
from media.pictures import Picture, Size, as_pixels, fit, to_uint8
from media.tensors import to_tensor
from modules.build import build_generator, build_kp_detector, frame_shape, read_config
from modules.fast import Products, fast_form
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from utils.device import cpu_has, pick_device
from utils.errors import UserError

InferenceNetworks = tuple[OcclusionAwareGenerator, KPDetector]

KEPT_MODELS = 2  # in memory; one of 256x256 takes about 250 MiB


def load_networks(
    config: dict,
    config_path: str | Path,
    checkpoint: Path,
    device: torch.device,
    plain: bool,
    precision: str = "fp32",
) -> InferenceNetworks:
    """Load generator and keypoint detector in eval mode; on the CPU, unless `plain`, in their fast form."""
    generator, kp_detector = build_generator(config), build_kp_detector(config)
    load_for_inference(checkpoint, generator, kp_detector, config_path)
    # There is no fast form in fp16.
    if device.type == "cpu" and not plain and precision != "fp16":
        return fast_form(generator, painting(precision)), fast_form(kp_detector)
    return generator.to(device).eval(), kp_detector.to(device).eval()


@functools.lru_cache(maxsize=KEPT_MODELS)
def kept_networks(config_path: Path, checkpoint: Path) -> InferenceNetworks:
    """Load a model, or take it from memory; another path is another model."""
    return load_networks(read_config(config_path), config_path, checkpoint, pick_device(), plain=False)


def painting(precision: str) -> Products | None:
    """Return how a generator in fast form multiplies where it paints; None is as everywhere else."""
    return Products(torch.bfloat16, cpu_has("amx_bf16")) if precision == "bf16" else None


def model_size(config: dict, config_path: str | Path) -> tuple[int, int]:
    """Return the (H, W) that a model of colour pictures takes. Raises `UserError` for another model."""
    height, width, channels = frame_shape(config)
    if channels != 3:
        raise UserError(
            f"{config_path}: its model takes pictures of {channels} channels; only colour (3) can be "
            "animated here"
        )
    return height, width


def size_for(generator: OcclusionAwareGenerator, source: Picture) -> Size:
    """Return the (H, W) of the generator's config, or else of the source. Raises `MediaError`."""
    if generator.frame_size is not None:
        return generator.frame_size
    height, width = as_pixels(source).shape[:2]
    return height, width


def fitted(picture: Picture, size: Size, how: str) -> Tensor:
    """Turn any picture into (3, H, W) float32 in [0, 1]; `how` as of `media.pictures.fit`.

    Floating point of the right size is not rounded. Raises `MediaError`.
    """
    pixels = as_pixels(picture)
    if pixels.shape[:2] != size:
        pixels = fit(pixels if pixels.dtype == np.uint8 else to_uint8(pixels), size, how)
    return to_tensor(pixels)


def larger_size(model: Size, height: int | None) -> Size | None:
    """Return the size of a result of that height; None for the model's own. Raises `UserError`."""
    if height is None or height == model[0]:
        return None
    # The shape stays that of the model.
    width, rest = divmod(height * model[1], model[0])
    if height < model[0] or rest:
        raise UserError(
            f"--size {height}: must be a larger height than the model's {model[0]}, for a whole width"
        )
    return height, width


def fingerprint_of(config: dict, checkpoint: Path) -> str:
    """Return what marks motion files of this model. Raises `CheckpointError`."""
    weights = inference_weights(read_checkpoint(checkpoint))["kp_detector"]
    return model_fingerprint(weights, config["model_params"]["kp_detector_params"])
