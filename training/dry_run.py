"""A training step without data, weights or memory, before a run begins: do its shapes and its memory fit?

The networks are built and called on PyTorch's `meta` device, whose tensors have a shape and no content.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from checkpoints.files import INFERENCE_NETWORKS
from modules.build import Networks, build_networks, frame_shape
from modules.model import DiscriminatorFullModel, GeneratorFullModel
from training.batches import count_workers
from utils.device import memory_left
from utils.distributed import in_torchrun
from utils.errors import ConfigError, UserError

WORKER_BYTES = 20 * 2**20  # that a worker of the loader has for itself: 23 MiB were measured
COPIES = 4  # of each weight that learns: itself, its gradient, and Adam's two moments
PREFETCHED = 2  # batches for each worker, as PyTorch's loader has it


def check_step(
    config: dict, path: Path, device: torch.device, device_ids: list[int] | None, precision: str
) -> None:
    """Raise `UserError` if a step of `config`, read from `path`, can't be computed on this machine.

    The memory is a lower bound: weights and what the backward pass needs of the forward pass. Call it outside
    of process groups.
    """
    params = config["train_params"]
    processes = int(os.environ["WORLD_SIZE"]) if in_torchrun() else len(device_ids or [0])
    batch = max(1, params["batch_size"] // (processes * params.get("accumulate", 1)))
    height, width, channels = frame_shape(config)
    with Recorder() as recorder, torch.device("meta"):
        networks = build_networks(config)
        frames = {name: torch.empty(batch, channels, height, width) for name in ("source", "driving")}
        try:
            vgg_bytes, kept = call_models(networks, params, frames, recorder)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{path}: its networks can't be trained on pictures of {height}x{width}: {error}"
            ) from error
    if precision != "fp32" or params.get("compile", False):
        kept //= 2  # half of the bytes, or less that is kept
    needed = weight_bytes(networks, params) + vgg_bytes + kept
    compare(
        needed, memory_left(device), f"{path}: training with train_params.batch_size {params['batch_size']}"
    )
    workers = count_workers(params)
    loaded = 2 * frames["source"].nbytes * PREFETCHED * workers + WORKER_BYTES * workers
    if device.type == "cpu":
        loaded += needed
    compare(
        loaded, memory_left(torch.device("cpu")), f"{path}: training with {workers} workers that load data"
    )


def call_models(
    networks: Networks, params: dict, frames: dict[str, Tensor], recorder: Recorder
) -> tuple[int, int]:
    """Call the models of a step as training does.

    Returns the bytes of VGG's weights, and of what the generator's step keeps; the discriminator's comes
    later, and keeps less.
    """
    parts = (networks.kp_detector, networks.generator, networks.discriminator)
    generator_full = GeneratorFullModel(*parts, params | {"vgg_weights": "random"})
    generator_full.requires_grad_(False)  # no graph is needed
    _, generated = generator_full(frames)
    kept = sum(storage.nbytes() for storage in recorder.kept.values())
    if params["loss_weights"]["generator_gan"] != 0:
        DiscriminatorFullModel(*parts, params)(frames, generated)
    return size_of(generator_full.vgg) if hasattr(generator_full, "vgg") else 0, kept


def size_of(network: nn.Module) -> int:
    """The bytes of its weights."""
    return sum(weight.nbytes for weight in network.parameters())


def weight_bytes(networks: Networks, params: dict) -> int:
    """The bytes of all weights with what their optimisers and averages keep."""
    sizes = {name: size_of(network) for name, network in networks._asdict().items()}
    learning = sum(size * (COPIES if params[f"lr_{name}"] else 1) for name, size in sizes.items())
    averaged = sum(sizes[name] for name in INFERENCE_NETWORKS) if "ema_decay" in params else 0
    return learning + averaged


def compare(needed: int, left: int | None, what: str) -> None:
    """Raise `UserError` if more memory is needed than is left, where anybody tells how much that is."""
    if left is not None and needed > left:
        raise UserError(
            f"{what} needs at least {needed / 2**30:.1f} GiB of memory, {left / 2**30:.1f} GiB are free; "
            "lower batch_size or num_workers, raise accumulate, take smaller networks, or close programs"
        )


class Recorder(TorchFunctionMode):
    """Within the block it keeps in `kept` what a backward pass reads of calls on the meta device.

    What would be slow there is replaced: PyTorch computes the shapes of these functions in Python.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, torch.UntypedStorage] = {}  # held, so that no number is given twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.normal_:
            return args[0]
        if func in (F.batch_norm, F.grid_sample, torch.conv2d) and torch.is_grad_enabled():
            for tensor in args[:2]:
                if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
                    self.kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        if func is F.batch_norm:
            maps = args[0]
            if maps.numel() == maps.shape[1] and (kwargs or {}).get("training", args[5:6] == (True,)):
                raise ValueError("batch normalisation needs more than one value; take a larger batch_size")
            return torch.empty_like(maps)
        if func is F.grid_sample:
            return args[0].new_empty(*args[0].shape[:2], *args[1].shape[1:3])
        return func(*args, **(kwargs or {}))
