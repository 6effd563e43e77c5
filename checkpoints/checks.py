"""Check that a checkpoint holds what training writes, down to the shapes in its optimisers.

The checks come before anything is loaded, and keep a stranger's file from writing outside its tensors. Every
failure is a `CheckpointError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import CheckpointError
from utils.options import MAX_SEED
from utils.weight_files import check_tensor, require

MAX_COUNT = 10**9  # of epochs and of steps
STATES = ("generator", "discriminator", "kp_detector", "generator_ema", "kp_detector_ema")
OPTIMIZERS = ("optimizer_generator", "optimizer_discriminator", "optimizer_kp_detector")
MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam
MAX_SCALE = 2.0**127  # float32 ends there
# What a checkpoint of another method holds, and none of this one.
RELATIVES = {
    "inpainting_network": "Thin-Plate-Spline-Motion-Model",
    "region_predictor": "articulated-animation",
    "he_estimator": "one-shot free-view talking heads (face-vid2vid)",
}
SCALE = ("scale", "_growth_tracker")  # of the loss scaler of fp16; what else it saves are settings

# ---- Contents ----------------------------------------------------------------


def check_content(content: Any, path: str | Path) -> None:
    """Raise `CheckpointError` unless `content` is a checkpoint that is safe to load where it fits."""
    parts = content if isinstance(content, dict) else {}
    for name in RELATIVES.keys() & parts.keys():
        raise CheckpointError(
            f"{path}: is a checkpoint of {RELATIVES[name]}, whose networks are others; use it there"
        )
    if not {"generator", "kp_detector"} <= parts.keys():
        names = sorted(map(str, parts))
        found = (
            f"{names[:5]} and {len(names) - 5} more" if len(names) > 5 else names or type(content).__name__
        )
        if parts and all(map(torch.is_tensor, parts.values())):
            found = f"the state of one network, {found}"
        raise CheckpointError(f"{path}: has no 'generator' and 'kp_detector'; it holds {found}")
    for name in STATES:
        if name in content:
            _check_network(content[name], f"{path}: its '{name}'")
    for name in OPTIMIZERS:
        if name in content:
            _check_optimizer(content[name], f"{path}: its '{name}'")
    require("epoch" not in content or _is_count(content["epoch"]), f"{path}: its 'epoch'", "a whole number")
    if "resume" in content:
        _check_resume(content["resume"], f"{path}: its 'resume'")
    elif "epoch" not in content and not content.keys().isdisjoint(OPTIMIZERS):
        raise CheckpointError(f"{path}: has optimisers but no 'epoch'; training can't go on from it")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _check_network(state: Any, what: str) -> None:
    require(isinstance(state, Mapping), what, f"a state of a network but {type(state).__name__}")
    require(len(state) > 0, what, "a state of a network: it is empty")
    for key, tensor in state.items():
        require(isinstance(key, str), what, "a state of a network: a key is no text")
        check_tensor(tensor, f"{what}, '{key}',")


def _check_optimizer(state: Any, what: str) -> None:
    wanted = "a state of an optimiser"
    whole = isinstance(state, dict) and isinstance(state.get("state"), dict)
    require(whole and isinstance(state.get("param_groups"), list), what, wanted)
    for group in state["param_groups"]:
        require(isinstance(group, dict) and isinstance(group.get("params"), list), what, wanted)
        require(all(type(number) is int for number in group["params"]), what, wanted)
    for number, entry in state["state"].items():
        here = f"{what}, entry {number},"
        require(type(number) is int and isinstance(entry, dict), here, wanted)
        require({"step", *MOMENTS} <= entry.keys(), here, "a state of Adam (step, exp_avg, exp_avg_sq)")
        for moment in MOMENTS:
            check_tensor(entry[moment], f"{here} {moment},")
        step = entry["step"]
        if isinstance(step, Tensor):
            check_tensor(step, f"{here} step,")
            require(step.numel() == 1, f"{here} step,", "one number")
            step = step.item()
        counts = isinstance(step, int | float) and 0 <= step <= MAX_COUNT
        require(counts, f"{here} step,", "a number of at least 0")


def _check_resume(resume: Any, what: str) -> None:
    """Check the position in training, with what belongs to it."""
    require(isinstance(resume, dict), what, f"a dictionary but {type(resume).__name__}")
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "format": (_is_count, "a whole number"),
        "epoch": (_is_count, "a whole number of at least 0"),
        "step": (_is_count, "a whole number of at least 0"),
        "seed": (lambda value: type(value) is int and 0 <= value <= MAX_SEED, "a whole number of at least 0"),
        "loss_sums": (_are_losses, "a dictionary of finite numbers"),
        "scaler": (_is_scaler, "a dictionary of finite numbers, as a loss scaler saves"),
        "config": (_has_batch_size, "a config"),
    }
    for key, (check, wanted) in checks.items():
        require(key in resume, f"{what}, '{key}',", "there")
        require(check(resume[key]), f"{what}, '{key}',", wanted)
    best = resume.get("best_l1", math.inf)
    require(isinstance(best, float | int) and best >= 0, f"{what}, 'best_l1',", "a number of at least 0")
    run = resume.get("run", {})
    require(isinstance(run, dict), f"{what}, 'run',", f"a dictionary but {type(run).__name__}")
    samples = resume.get("samples", 0)
    require(type(samples) is int and samples >= 0, f"{what}, 'samples',", "a whole number of at least 0")


def _is_scaler(value: Any) -> bool:
    """Whether it is the state of a loss scaler, which is empty where none was in use."""
    if not isinstance(value, dict):
        return False
    scale, steps = (value.get(key) for key in SCALE)
    return not value or (isinstance(scale, float) and 0 < scale < MAX_SCALE and _is_count(steps))


def _are_losses(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(number, int | float) and abs(number) < MAX_SCALE
        for name, number in value.items()
    )


def _has_batch_size(config: Any) -> bool:
    train = config.get("train_params") if isinstance(config, dict) else None
    size = train.get("batch_size") if isinstance(train, dict) else None
    return isinstance(size, int) and _is_count(size) and size > 0


# ---- Optimisers --------------------------------------------------------------


def fitting_optimizer_state(
    optimizer: torch.optim.Optimizer, state: dict, name: str, path: str | Path
) -> dict:
    """Return the checked state `name` of a checkpoint as `optimizer.load_state_dict` takes it.

    PyTorch checks no shapes, and its fused Adam writes as many numbers as the weight has. So each moment
    becomes a tensor like its weight. Learning rate and betas stay. Raises `CheckpointError` otherwise.
    """
    own = optimizer.state_dict()["param_groups"]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    saved = [number for group in state["param_groups"] for number in group["params"]]
    if [len(group["params"]) for group in state["param_groups"]] != [len(group["params"]) for group in own]:
        raise CheckpointError(
            f"{path}: its '{name}' is of {len(saved)} weights, the config's networks have {len(weights)}; "
            "use the config it was trained with"
        )
    entries = {}
    for index, (number, weight) in enumerate(zip(saved, weights, strict=True)):
        entry = state["state"].get(number)
        if entry is None:  # a weight that was never trained
            continue
        for moment in MOMENTS:
            if entry[moment].shape != weight.shape:
                raise CheckpointError(
                    f"{path}: its '{name}' does not fit the config: {moment} of weight {index} is of shape "
                    f"{tuple(entry[moment].shape)}, the weight of {tuple(weight.shape)}"
                )
        entries[index] = {moment: torch.empty_like(weight).copy_(entry[moment]) for moment in MOMENTS}
        entries[index] = {"step": torch.tensor(float(entry["step"]))} | entries[index]
    return {"state": entries, "param_groups": own}
