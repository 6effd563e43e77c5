"""Everything about a checkpoint file: find it, read it, load its parts, adopt its weights, write it.

A `.pth.tar` is a file of `torch.save`, not an archive to unpack. Its published keys are "generator", "discriminator",
"kp_detector", "optimizer_generator", "optimizer_discriminator", "optimizer_kp_detector" and "epoch": the epoch that was
finished or, where training stopped within one, begun. This project adds "generator_ema" and "kp_detector_ema", the
averaged weights of a run that has them, and "resume", which holds what else an exact continuation needs (train.py).

A run folder holds `%08d-checkpoint.pth.tar` for epochs, `last-checkpoint.pth.tar`, written by time and at a stop, and
`best-checkpoint.pth.tar`, the best by validation.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpoint_checks import check_content, fitting_optimizer_state
from files import atomic_write
from modules.errors import CheckpointError
from modules.weight_files import read_weights

NETWORKS = ("generator", "discriminator", "kp_detector")
INFERENCE_NETWORKS = ("generator", "kp_detector")
LAST, BEST = "last-checkpoint.pth.tar", "best-checkpoint.pth.tar"

# What starts anew in a generator of other layers: all that paints, and the heads of the motion network. The occlusion
# map says what to paint, and masks that have come to be 0 everywhere have no gradient left to come back by.
PAINTING = ("first.", "down_blocks.", "bottleneck.", "up_blocks.", "final.")
MOTION_HEADS = ("dense_motion_network.mask.", "dense_motion_network.occlusion.")

# ---- Finding -------------------------------------------------------------------


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file, given itself or the run folder whose newest one is meant. Raises `CheckpointError`."""
    path = Path(path)
    if path.is_dir():
        candidates = sorted(path.glob("[0-9]*-checkpoint.pth.tar"))[-1:]
        candidates += [path / LAST] if (path / LAST).exists() else []
        if not candidates:
            raise CheckpointError(f"{path}: holds no checkpoint (looked for *-checkpoint.pth.tar)")
        return (
            max(candidates, key=lambda file: position(read_checkpoint(file)))
            if candidates[1:]
            else candidates[0]
        )
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint; --checkpoint takes a .pth.tar file or the folder of a run"
        )
    return path


def position(content: dict) -> tuple[int, int]:
    """How far training had come: `step` steps of `epoch` were done."""
    resume = content.get("resume")
    return (content.get("epoch", -1) + 1, 0) if resume is None else (resume["epoch"], resume["step"])


def set_aside_later(folder: Path, reached: tuple[int, int]) -> None:
    """Move the checkpoints of `folder` that are further than `reached` into its sub-folder `abandoned`.

    Whoever goes on from an earlier checkpoint leaves a branch behind, which must not be taken for the newest one.
    """
    later = [
        path for path in folder.glob("*-checkpoint.pth.tar") if position(read_checkpoint(path)) > reached
    ]
    for path in later:
        (folder / "abandoned").mkdir(exist_ok=True)
        path.replace(folder / "abandoned" / path.name)
    if later:
        print(f"{len(later)} later checkpoints were moved to {folder / 'abandoned'}")


# ---- Reading and writing -------------------------------------------------------


def read_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint, published ones too, mapped from the file or on the CPU.

    Nothing but tensors and plain values is ever unpickled. Raises `CheckpointError` if the file is damaged or is not a
    checkpoint of this project.
    """
    content = read_weights(path)
    check_content(content, path)
    return content


def write_checkpoint(content: dict, path: Path) -> None:
    """Leaves either the old file or the whole new one on the disk, whenever the process or the machine dies."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            raise refusal_behind(error) from error
        file.flush()
        os.fsync(file.fileno())


def refusal_behind(error: BaseException) -> BaseException:
    """What the system said, where PyTorch's writer raised something else because of it; or `error` itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause or error


def inference_weights(content: dict) -> dict[str, Any]:
    """The weights that inference, fine-tuning and stripped files take: the averaged ones where there are any."""
    return {name: content.get(f"{name}_ema", content[name]) for name in INFERENCE_NETWORKS}


# ---- Loading -------------------------------------------------------------------


def load_for_inference(
    path: str | Path, generator: nn.Module, kp_detector: nn.Module, config_path: str | Path = "the config"
) -> None:
    """Load the two networks of inference from a checkpoint. Raises as `load_parts`."""
    networks = {"generator": generator, "kp_detector": kp_detector}
    load_parts(inference_weights(read_checkpoint(path)), networks, path, config_path)


def load_parts(
    content: dict,
    parts: dict[str, nn.Module | torch.optim.Optimizer],
    path: str | Path,
    config_path: str | Path = "the config",
) -> None:
    """Load networks and optimisers, by their names in a checkpoint, from its `content`.

    Raises `CheckpointError` if a part is missing or fits another config.
    """
    for name in parts:
        if name not in content:
            raise CheckpointError(f"{path}: has no '{name}'; it holds {sorted(content)}")
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            load_weights(part, content[name], name, path, config_path)
        else:
            load_optimizer(part, content[name], name, path)


def load_weights(
    network: nn.Module, state: dict[str, Tensor], name: str, path: str | Path, config_path: str | Path
) -> None:
    """Put `state`, the part `name` of the checkpoint `path`, into a network built from `config_path`.

    Raises `CheckpointError` naming the keys that are missing, not known, or of another shape, and changes nothing then.
    """
    expected = network.state_dict()
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    reshaped = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if missing or unknown or reshaped:
        found = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
        told = "; ".join(f"{len(keys)} {what} (first: {keys[0]})" for what, keys in found.items() if keys)
        raise CheckpointError(
            f"{path}: its '{name}' does not fit {config_path}: {told}; use the config it was trained with"
        )
    network.load_state_dict(state)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict, name: str, path: str | Path) -> None:
    """Put the state `name` of the checkpoint `path` into an optimiser. Raises `CheckpointError` if a shape differs."""
    optimizer.load_state_dict(fitting_optimizer_state(optimizer, state, name, path))


# ---- Fine-tuning ---------------------------------------------------------------


def load_for_finetuning(networks: dict[str, nn.Module], path: Path, config_path: Path) -> None:
    """Start from the weights of a checkpoint wherever they fit. A discriminator of another layout starts anew."""
    content = read_checkpoint(path)
    weights = inference_weights(content)
    for name in INFERENCE_NETWORKS:
        if isinstance(weights[name], dict):  # else `load_parts` says what is wrong
            weights[name] = matching_weights(weights[name], networks[name])
    load_parts(weights, {name: networks[name] for name in INFERENCE_NETWORKS}, path, config_path)
    try:
        load_parts(content, {"discriminator": networks["discriminator"]}, path, config_path)
    except CheckpointError as error:
        print(f"the discriminator starts anew: {error}")


def matching_weights(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The checkpoint's weights wherever they fit `network`, its own fresh ones elsewhere.

    - Blur kernels follow from the config's scales and are not learned.
    - A Jacobian head that the checkpoint lacks starts as the identity everywhere, which is zero-order motion.
    - Where the generator has other layers, all that paints starts anew, and so do the heads of its motion network.
    """
    own = network.state_dict()
    fresh = {key for key in state.keys() | own.keys() if key.endswith("down.weight")}
    fresh |= {key for key in own if key.startswith("jacobian.") and key not in state}
    painting = {key for key in state.keys() | own.keys() if key.startswith(PAINTING + MOTION_HEADS)}
    if any(key not in state or key not in own or state[key].shape != own[key].shape for key in painting):
        print(
            "the generator has other layers than the checkpoint's: they start anew, its motion network goes on"
        )
        fresh |= painting
    kept = {key: tensor for key, tensor in state.items() if key not in fresh}
    return kept | {key: own[key] for key in fresh & own.keys()}
