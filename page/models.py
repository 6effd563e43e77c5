"""The models that people can choose: by name, or a config and a checkpoint of their own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from checkpoints.hub import Model, find_model
from checkpoints.table import DEFAULT_MODEL, read_table
from inference.networks import InferenceNetworks, load_networks, model_size
from media.pictures import Size
from modules.build import read_config
from utils.device import pick_device
from utils.errors import UserError

MODEL_SUFFIXES = [".tar", ".safetensors"]
KEPT = 2  # models in memory; one of 256x256 takes about 250 MiB


@dataclass(frozen=True)
class Loaded:
    """Networks, the (H, W) that they take, and their files."""

    networks: InferenceNetworks
    size: Size
    files: Model


def choose_model(name: str, config: str | None, checkpoint: str | None, offline: bool) -> Loaded:
    """The model of that name, or the one of the two files where they are given. Raises `UserError`."""
    if (config is None) != (checkpoint is None):
        raise UserError("a model of your own is a checkpoint and its config: give both, or neither")
    if config is not None and checkpoint is not None:
        return load_model(Path(config), Path(checkpoint))
    return load_model(*find_model(name, offline))


@functools.lru_cache(maxsize=KEPT)
def load_model(config_path: Path, checkpoint: Path) -> Loaded:
    """Gradio names an uploaded file after its content, so a path stands for what is in it."""
    config = read_config(config_path)
    size = model_size(config, config_path)
    networks = load_networks(config, config_path, checkpoint, pick_device(), plain=False)
    return Loaded(networks, size, Model(config_path, checkpoint))


def model_widgets(prefix: str = "") -> tuple[gr.Dropdown, gr.File, gr.File]:
    """By name, or a config and a checkpoint. `prefix`: of their ids on the page."""
    with gr.Accordion("Model", open=False):
        model = gr.Dropdown(
            list(read_table()),
            value=DEFAULT_MODEL,
            label="Model",
            info="puppets comes with the program and knows cartoon heads; others are downloaded on first use",
        )
        with gr.Row():
            config = gr.File(
                label="Config of a model of your own (.yaml)",
                file_types=[".yaml", ".yml"],
                height=140,
                elem_id=f"{prefix}config",
            )
            checkpoint = gr.File(
                label="Its checkpoint", file_types=MODEL_SUFFIXES, height=140, elem_id=f"{prefix}checkpoint"
            )
    return model, config, checkpoint
