"""Find, read, load and write checkpoint files, and start a new run from one.

A `.pth.tar` is a file of `torch.save`, not an archive to unpack. Its published keys are "generator",
"discriminator", "kp_detector", "optimizer_generator", "optimizer_discriminator", "optimizer_kp_detector" and
"epoch": the last epoch that was finished or, where training stopped within one, that one. This project adds
"generator_ema" and "kp_detector_ema", the averaged weights of a run that has them, and "resume", which holds
what else an exact continuation needs (`training/state.py`).

A run folder holds `%08d-checkpoint.pth.tar` for epochs, `LAST`, written by time and at a stop, and `BEST`, by
validation.

A `.safetensors` file, in which no pickle can hide, holds the weights of inference alone, under "generator."
and "kp_detector." before their names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from checkpoints.checks import STATES, check_content, fitting_optimizer_state
from modules.util import AntiAliasInterpolation2d
from utils.errors import CheckpointError
from utils.files import atomic_write
from utils.hints import hint
from utils.program import say
from utils.weight_files import is_safetensors, read_weights

NETWORKS = ("generator", "discriminator", "kp_detector")
INFERENCE_NETWORKS = ("generator", "kp_detector")
# What DataParallel and torch.compile put before the names of weights.
WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
LAST, BEST = "last-checkpoint.pth.tar", "best-checkpoint.pth.tar"

# The layers with channels for each keypoint that go on when there are more. The heads of mask and occlusion
# map don't: where an old mask is 1 to the last digits, a new keypoint has no gradient to win a pixel by.
KEYPOINT_LAYERS = ("kp.", "jacobian.", "dense_motion_network.hourglass.encoder.down_blocks.0.conv.")

# ---- Finding -------------------------------------------------------------------


def find_checkpoint(path: str | Path) -> Path:
    """Return the file `path`, or the newest checkpoint of the run folder `path`. Raises `CheckpointError`."""
    path = Path(path)
    if path.is_dir():
        candidates = sorted(path.glob("[0-9]*-checkpoint.pth.tar"))[-1:]
        candidates += [path / LAST] if (path / LAST).exists() else []
        if not candidates:
            raise CheckpointError(f"{path}: holds no checkpoint (looked for *-checkpoint.pth.tar)")
        # Checkpoints are large: one that has no rival is not read.
        if len(candidates) == 1:
            return candidates[0]
        return max(candidates, key=lambda file: position(read_checkpoint(file)))
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint; --checkpoint takes a .pth.tar or .safetensors file, "
            "or the folder of a run"
        )
    return path


def position(content: dict) -> tuple[int, int]:
    """Return (epoch, steps done of it) of a checkpoint."""
    resume = content.get("resume")
    return (content.get("epoch", -1) + 1, 0) if resume is None else (resume["epoch"], resume["step"])


def set_aside_later(folder: Path, reached: tuple[int, int]) -> None:
    """Move the checkpoints of `folder` that are further than `reached`, an (epoch, step), into `abandoned`.

    None of them must be taken for the newest of a run that resumes from an earlier one.
    """
    # Checkpoints are large and many: those whose names say that they are earlier are not read.
    later = []
    for path in folder.glob("*-checkpoint.pth.tar"):
        number = path.name.partition("-")[0]
        earlier = number.isdecimal() and int(number) < reached[0]
        if not earlier and position(read_checkpoint(path)) > reached:
            later.append(path)
    for path in later:
        (folder / "abandoned").mkdir(exist_ok=True)
        path.replace(folder / "abandoned" / path.name)
    if later:
        say(f"{len(later)} later checkpoints were moved to {folder / 'abandoned'}")


# ---- Reading and writing -------------------------------------------------------


def read_checkpoint(path: str | Path) -> dict:
    """Return the checked content of a checkpoint, mapped from the file or on the CPU.

    Only tensors and plain values are unpickled. Raises `CheckpointError` for a damaged or another file.
    """
    content = read_weights(path)
    if is_safetensors(path):
        content = by_network(content)
    check_content(content, path)
    for name in STATES:
        if name in content:
            content[name] = {WRAPPERS.sub("", key): tensor for key, tensor in content[name].items()}
    return content


def write_checkpoint(content: dict, path: Path) -> None:
    """Write a checkpoint; the old file or the whole new one is on the disk, whenever the machine dies.

    A `.safetensors` file takes the `inference_weights` alone.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        if is_safetensors(path):
            file.write(save(flattened(content), metadata={"format": "pt"}))
        else:
            try:
                torch.save(content, file)
            except RuntimeError as error:
                raise refusal_behind(error) from error
        file.flush()
        os.fsync(file.fileno())


def refusal_behind(error: BaseException) -> BaseException:
    """Return the system's error where PyTorch's writer raised another because of it, else `error` itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause or error


def flattened(content: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put the weights of networks under `network.name`."""
    return {
        f"{network}.{name}": tensor.contiguous()
        for network, state in content.items()
        for name, tensor in state.items()
    }


def by_network(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Undo `flattened`."""
    content: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        network, _, name = key.partition(".")
        content.setdefault(network, {})[name] = tensor
    return content


def inference_weights(content: dict) -> dict[str, Any]:
    """Return generator and detector of a checkpoint, their averaged weights where there are any."""
    return {name: content.get(f"{name}_ema", content[name]) for name in INFERENCE_NETWORKS}


# ---- Loading -------------------------------------------------------------------


def load_for_inference(
    path: str | Path, generator: nn.Module, kp_detector: nn.Module, config_path: str | Path = "the config"
) -> None:
    """Load the two networks of inference from a checkpoint. Raises `CheckpointError`."""
    networks = {"generator": generator, "kp_detector": kp_detector}
    load_parts(inference_weights(read_checkpoint(path)), networks, path, config_path)


def load_parts(
    content: dict,
    parts: Mapping[str, nn.Module | torch.optim.Optimizer],
    path: str | Path,
    config_path: str | Path = "the config",
) -> None:
    """Load parts by their names. Raises `CheckpointError` if one is missing or doesn't fit."""
    for name in parts:
        if name not in content:
            raise CheckpointError(f"{path}: has no '{name}'; it holds {sorted(content)}")
    kernels = []
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            kernels += load_weights(part, content[name], name, path, config_path)
        else:
            part.load_state_dict(fitting_optimizer_state(part, content[name], name, path))
    if kernels:
        height, _ = getattr(parts.get("generator"), "frame_size", None) or ("N", "N")
        hint(
            f"{path}: blurs by its own kernels ({kernels[0]}), which are of another size than those of "
            f"{config_path}; a model for smaller pictures makes results of this height with its own config "
            f"and --size {height}"
        )


def load_weights(
    network: nn.Module, state: dict[str, Tensor], name: str, path: str | Path, config_path: str | Path
) -> list[str]:
    """Put `state`, the part `name` of the checkpoint `path`, into a network built from `config_path`.

    Returns the names of the blur kernels that have another size than the config's, and are taken as they are.
    Raises `CheckpointError` naming what doesn't fit, and changes nothing then.
    """
    expected = network.state_dict()
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    differing = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    blurs = {key: network.get_submodule(key.rpartition(".")[0]) for key in differing}
    kernels = [key for key, blur in blurs.items() if is_kernel(blur, state[key])]
    reshaped = [key for key in differing if key not in kernels]
    if missing or unknown or reshaped:
        found = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
        told = "; ".join(f"{len(keys)} {what} (first: {keys[0]})" for what, keys in found.items() if keys)
        raise CheckpointError(
            f"{path}: its '{name}' does not fit {config_path}: {told}; use the config it was trained with"
        )
    for key in kernels:
        blurs[key].weight = state[key].to(expected[key], copy=True)
    network.load_state_dict(state)
    return kernels


def is_kernel(module: nn.Module, weight: Tensor) -> bool:
    """Whether a blur can have this kernel (C, 1, k, k), though a config makes one of another size."""
    if not isinstance(module, AntiAliasInterpolation2d) or module.stride == 1 or weight.dim() != 4:
        return False
    channels, depth, height, width = weight.shape
    return (channels, depth) == (module.channels, 1) and height == width and height % 2 == 1


# ---- Fine-tuning ---------------------------------------------------------------


def load_for_finetuning(networks: Mapping[str, nn.Module], path: Path, config_path: Path) -> list[str]:
    """Start from the weights of a checkpoint that fit by name and shape; return a line for what starts anew.

    Raises `CheckpointError` where no weight of generator or detector fits, and for fewer keypoints than the
    checkpoint has. New keypoints come last.
    """
    content = read_checkpoint(path)
    content |= inference_weights(content)
    added = added_keypoints(content["kp_detector"], networks["kp_detector"], path, config_path)
    notes = [f"{added} keypoints are new"] if added else []
    for name, network in networks.items():
        saved, own = content.get(name, {}), network.state_dict()
        if added and name in INFERENCE_NETWORKS:
            saved = with_new_keypoints(saved, own)
        fitting = {key: saved[key] for key in own if key in saved and saved[key].shape == own[key].shape}
        learned = [key for key, _ in network.named_parameters()]  # blur kernels follow from the config
        fresh = [key for key in learned if key not in fitting]
        if name in INFERENCE_NETWORKS and len(fresh) == len(learned):
            load_weights(network, saved, name, path, config_path)  # says what doesn't fit
        network.load_state_dict(fitting, strict=False)
        if fresh:
            notes.append(f"the {name} starts anew in {len(fresh)} of {len(learned)} weights ({fresh[0]}, …)")
    return notes


def added_keypoints(state: dict[str, Tensor], kp_detector: nn.Module, path: Path, config_path: Path) -> int:
    """Return how many more keypoints a config has than a checkpoint; raise `CheckpointError` for fewer."""
    own = kp_detector.state_dict()
    if not ("kp.weight" in state and "kp.weight" in own):
        return 0
    found, wanted = len(state["kp.weight"]), len(own["kp.weight"])
    if found > wanted:
        raise CheckpointError(
            f"{path}: its 'generator' does not fit {config_path}: it has {found} keypoints, the config "
            f"{wanted}; set model_params.common_params.num_kp to {found}, or train without --checkpoint"
        )
    return wanted - found


def with_new_keypoints(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for more keypoints, of which the new ones come last and at first change no feature."""
    grown = dict(state)
    for key, fresh in own.items():
        old = state.get(key)
        if old is None or not key.startswith(KEYPOINT_LAYERS) or old.dim() != fresh.dim():
            continue
        if all(a <= b for a, b in zip(old.shape, fresh.shape, strict=True)):
            grown[key] = fresh.clone()
            grown[key][: len(old)] = 0
            grown[key][tuple(slice(length) for length in old.shape)] = old
    return grown
