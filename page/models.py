"""The models that people can choose: by name, or a config and a checkpoint of their own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from checkpoints.hub import find_model
from inference.networks import InferenceNetworks, load_networks, model_size
from media.pictures import Size
from modules.build import read_config
from utils.device import pick_device
from utils.errors import UserError

KEPT = 2  # models in memory; one of 256x256 takes about 250 MiB


@dataclass(frozen=True)
class Loaded:
    """Networks, and the (H, W) that they take."""

    networks: InferenceNetworks
    size: Size


def choose_model(model: str, config: Path | None, checkpoint: Path | None, offline: bool) -> Loaded:
    """Load the model of that name, or that of two files where they are given. Raises `UserError`."""
    if (config is None) != (checkpoint is None):
        raise UserError("a model of your own is a checkpoint and its config: give both, or neither")
    if config is not None and checkpoint is not None:
        return load_model(config, checkpoint)
    return load_model(*find_model(model, offline))


@functools.lru_cache(maxsize=KEPT)
def load_model(config_path: Path, checkpoint: Path) -> Loaded:
    """Load a model, or take it from memory: Gradio names the folder of an upload after its content."""
    config = read_config(config_path)
    size = model_size(config, config_path)
    return Loaded(load_networks(config, config_path, checkpoint, pick_device(), plain=False), size)
