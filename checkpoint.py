"""Everything about a checkpoint file: find it, read it, load its parts, start a new run from it, write it.

A `.pth.tar` is a file of `torch.save`, not an archive to unpack. Its published keys are "generator",
"discriminator", "kp_detector", "optimizer_generator", "optimizer_discriminator", "optimizer_kp_detector" and
"epoch": the last epoch that was finished or, where training stopped within one, that one. This project adds
"generator_ema" and "kp_detector_ema", the averaged weights of a run that has them, and "resume", which holds
what else an exact continuation needs (state.py).

A run folder holds `%08d-checkpoint.pth.tar` for epochs, `last-checkpoint.pth.tar`, written by time and at a
stop, and `best-checkpoint.pth.tar`, the best by validation.

A `.safetensors` file, in which no pickle can hide, holds the weights of inference alone, under "generator."
and "kp_detector." before their names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from checkpoint_checks import check_content, fitting_optimizer_state
from files import atomic_write
from modules.errors import CheckpointError
from modules.weight_files import is_safetensors, read_weights

NETWORKS = ("generator", "discriminator", "kp_detector")
INFERENCE_NETWORKS = ("generator", "kp_detector")
LAST, BEST = "last-checkpoint.pth.tar", "best-checkpoint.pth.tar"

# What starts anew where a generator paints by other layers: all that paints, and the heads of the motion
# network. The occlusion map says what to paint, and masks that are 0 everywhere have no gradient left to come
# back by.
PAINTING = ("first.", "down_blocks.", "bottleneck.", "up_blocks.", "final.")
MOTION_HEADS = ("dense_motion_network.mask.", "dense_motion_network.occlusion.")
# With another hourglass the whole motion network starts anew: its layers mean nothing to each other.
MOTION = ("dense_motion_network.",)
HOURGLASS = ("dense_motion_network.hourglass.",)
# The layers with channels for each keypoint.
KEYPOINTS = (
    "kp.",
    "jacobian.",
    "dense_motion_network.hourglass.encoder.down_blocks.0.conv.",
    *MOTION_HEADS,
)

# ---- Finding -------------------------------------------------------------------


def find_checkpoint(path: str | Path) -> Path:
    """The file `path`, or the newest checkpoint of the run folder `path`. Raises `CheckpointError`."""
    path = Path(path)
    if path.is_dir():
        candidates = sorted(path.glob("[0-9]*-checkpoint.pth.tar"))[-1:]
        candidates += [path / LAST] if (path / LAST).exists() else []
        if not candidates:
            raise CheckpointError(f"{path}: holds no checkpoint (looked for *-checkpoint.pth.tar)")
        if len(candidates) == 1:
            return candidates[0]  # unread, as a checkpoint may be large
        return max(candidates, key=lambda file: position(read_checkpoint(file)))
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint; --checkpoint takes a .pth.tar or .safetensors file, "
            "or the folder of a run"
        )
    return path


def position(content: dict) -> tuple[int, int]:
    """How far training had come: `step` steps of `epoch` were done."""
    resume = content.get("resume")
    return (content.get("epoch", -1) + 1, 0) if resume is None else (resume["epoch"], resume["step"])


def is_of_epoch_before(path: Path, epoch: int) -> bool:
    """Whether a checkpoint is named by an earlier epoch, so that it can't be past the start of this one."""
    number = path.name.partition("-")[0]
    return number.isdecimal() and int(number) < epoch


def set_aside_later(folder: Path, reached: tuple[int, int]) -> None:
    """Move the checkpoints of `folder` that are further than `reached` into its sub-folder `abandoned`.

    Whoever goes on from an earlier checkpoint leaves a branch behind, which must not be taken for the newest.
    """
    # Checkpoints are large and many: only those are read whose names don't say that they are earlier.
    candidates = [
        path for path in folder.glob("*-checkpoint.pth.tar") if not is_of_epoch_before(path, reached[0])
    ]
    later = [path for path in candidates if position(read_checkpoint(path)) > reached]
    for path in later:
        (folder / "abandoned").mkdir(exist_ok=True)
        path.replace(folder / "abandoned" / path.name)
    if later:
        print(f"{len(later)} later checkpoints were moved to {folder / 'abandoned'}")


# ---- Reading and writing -------------------------------------------------------


def read_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint, published ones too, mapped from the file or on the CPU.

    Nothing but tensors and plain values is ever unpickled. Raises `CheckpointError` if the file is damaged or
    is not a checkpoint of this project.
    """
    content = read_weights(path)
    if is_safetensors(path):
        content = by_network(content)
    check_content(content, path)
    return content


def write_checkpoint(content: dict, path: Path) -> None:
    """Leaves the old file or the whole new one on the disk, whenever the process or the machine dies.

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
    """What the system said, where PyTorch's writer raised something else because of it; or `error` itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause or error


def flattened(content: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The weights of networks under `network.name`."""
    return {
        f"{network}.{name}": tensor.contiguous()
        for network, state in content.items()
        for name, tensor in state.items()
    }


def by_network(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What `flattened` was given."""
    content: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        network, _, name = key.partition(".")
        content.setdefault(network, {})[name] = tensor
    return content


def inference_weights(content: dict) -> dict[str, Any]:
    """What inference, fine-tuning and stripped files take: the averaged weights where there are any."""
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
    parts: Mapping[str, nn.Module | torch.optim.Optimizer],
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

    Raises `CheckpointError` naming the keys that are missing, unknown or of another shape, and changes
    nothing then.
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
    """Put the state `name` of the checkpoint `path` into an optimiser.

    Raises `CheckpointError` if a shape differs.
    """
    optimizer.load_state_dict(fitting_optimizer_state(optimizer, state, name, path))


# ---- Fine-tuning ---------------------------------------------------------------


def load_for_finetuning(networks: Mapping[str, nn.Module], path: Path, config_path: Path) -> list[str]:
    """Start from the weights of a checkpoint wherever they fit; returns lines that say what starts anew.

    A discriminator of another layout starts anew. Raises `CheckpointError` for a checkpoint of more
    keypoints.
    """
    content = read_checkpoint(path)
    weights, notes = inference_weights(content), []
    if all(isinstance(state, dict) for state in weights.values()):  # else `load_parts` says what is wrong
        added = added_keypoints(weights["kp_detector"], networks["kp_detector"], path, config_path)
        if added:
            notes.append(f"{added} keypoints are new: they start anew")
            weights = {name: with_new_keypoints(state, networks[name]) for name, state in weights.items()}
        notes += starts_anew(weights["generator"], networks["generator"])[1]
        weights = {name: matching_weights(state, networks[name]) for name, state in weights.items()}
    load_parts(weights, {name: networks[name] for name in INFERENCE_NETWORKS}, path, config_path)
    try:
        load_parts(content, {"discriminator": networks["discriminator"]}, path, config_path)
    except CheckpointError as error:
        notes.append(f"the discriminator starts anew: {error}")
    return notes


def added_keypoints(state: dict[str, Tensor], kp_detector: nn.Module, path: Path, config_path: Path) -> int:
    """How many keypoints the config has more than a checkpoint; `CheckpointError` if it has fewer."""
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


def with_new_keypoints(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return weights for more keypoints, of which the new ones come last and at first have no influence."""
    grown = dict(state)
    for key, fresh in network.state_dict().items():
        old = state.get(key)
        if old is None or not key.startswith(KEYPOINTS) or old.dim() != fresh.dim():
            continue
        if all(a <= b for a, b in zip(old.shape, fresh.shape, strict=True)):
            grown[key] = fresh.clone()
            grown[key][: len(old)] = 0
            grown[key][tuple(slice(length) for length in old.shape)] = old
    return grown


def starts_anew(state: dict[str, Tensor], generator: nn.Module) -> tuple[tuple[str, ...], list[str]]:
    """What of a generator does not go on from a checkpoint: how its keys begin, and a line that says so."""
    own = generator.state_dict()

    def differ(layers: tuple[str, ...]) -> bool:
        keys = {key for key in state.keys() | own.keys() if key.startswith(layers)}
        return any(key not in state or key not in own or state[key].shape != own[key].shape for key in keys)

    other = "the generator has other layers than the checkpoint's"
    if differ(HOURGLASS):
        if differ(PAINTING):  # nothing would go on: `load_parts` says that it does not fit
            return (), []
        return MOTION, [f"{other} in its motion network: that starts anew, what paints goes on"]
    if differ(PAINTING + MOTION_HEADS):
        return PAINTING + MOTION_HEADS, [f"{other}: they start anew, its motion network goes on"]
    return (), []


def matching_weights(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The checkpoint's weights wherever they fit `network`, its own fresh ones elsewhere.

    - Blur kernels follow from the config's scales and are not learned.
    - A Jacobian head that the checkpoint lacks starts as the identity everywhere, which is zero-order motion.
    - What `starts_anew` of a generator.
    """
    own = network.state_dict()
    fresh = {key for key in state.keys() | own.keys() if key.endswith("down.weight")}
    fresh |= {key for key in own if key.startswith("jacobian.") and key not in state}
    layers, _ = starts_anew(state, network)
    fresh |= {key for key in state.keys() | own.keys() if key.startswith(layers)}
    kept = {key: tensor for key, tensor in state.items() if key not in fresh}
    return kept | {key: own[key] for key in fresh & own.keys()}
