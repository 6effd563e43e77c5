"""The state of a training run and its checkpoints: networks, averages, optimisers, position."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from checkpoints.checks import SCALE
from checkpoints.files import INFERENCE_NETWORKS, NETWORKS, load_parts, position
from modules.build import Networks
from training.batches import EpochBatches
from utils.distributed import rank
from utils.errors import CheckpointError, UserError
from utils.program import say

RESUME_FORMAT = 1


def seed_of_run(content: dict, checkpoint: str | Path | None, asked: int | None) -> int:
    """Return the seed of a checkpoint's run. Raises `UserError` where another one is asked for."""
    seed = content.get("resume", {}).get("seed", asked or 0)
    if asked not in (None, seed):
        raise UserError(
            f"--seed {asked}: the run of {checkpoint} has seed {seed}; leave --seed out to go on with it"
        )
    return seed


class TrainingState:
    """Networks, their averages, optimisers, loss scaler, and the position: `step` steps of `epoch` are done.

    With `ema_decay` inference takes averages (Polyak). `samples`: the length of an epoch. `entry`: that of
    the run's record (training/record.py).
    """

    def __init__(
        self,
        config: dict,
        networks: Networks,
        device: torch.device,
        seed: int,
        precision: str,
        samples: int = 0,
        entry: Mapping[str, Any] | None = None,
    ):
        self.config, self.seed, self.samples, self.entry = config, seed, samples, entry or {}
        self.networks: dict[str, nn.Module] = networks._asdict()
        self.epoch, self.step = 0, 0
        self.loss_sums: dict[str, float] = {}
        self.best_l1 = math.inf  # of the validations so far
        self.params = params = config["train_params"]
        for name, network in self.networks.items():
            network.to(device).train()
            if params.get("channels_last", False):
                network.to(memory_format=torch.channels_last)
            # A rate of 0 freezes running statistics, too.
            if params[f"lr_{name}"] == 0:
                network.requires_grad_(False).eval()
        self.averages: dict[str, AveragedModel] = {}
        if "ema_decay" in params:
            self.averages = {
                name: AveragedModel(self.networks[name], use_buffers=True).eval()
                for name in INFERENCE_NETWORKS
            }
        self.optimizers: dict[str, Optimizer] = {
            f"optimizer_{name}": torch.optim.Adam(
                network.parameters(), lr=params[f"lr_{name}"], betas=(0.5, 0.999), fused=True
            )
            for name, network in self.networks.items()
        }
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def update_averages(self) -> None:
        """Move the averages by a step."""
        for name, average in self.averages.items():
            # The decay grows to that of the config, or the random first weights would stay for long.
            steps = steps_of(self.optimizers[f"optimizer_{name}"])
            decay = min(self.params["ema_decay"], (1 + steps) / (10 + steps))
            average.multi_avg_fn = get_ema_multi_avg_fn(decay)
            average.update_parameters(self.networks[name])

    def for_inference(self, name: str) -> nn.Module:
        """Return a network in eval mode, averaged where there is an average; training goes on untouched."""
        if name in self.averages:
            return self.averages[name].module
        return copy.deepcopy(self.networks[name]).eval()

    def learning_rates(self) -> dict[str, float]:
        return {name: self.optimizers[f"optimizer_{name}"].param_groups[0]["lr"] for name in self.networks}

    def count_step(self, losses: dict[str, float]) -> None:
        self.step += 1
        for name, value in losses.items():
            self.loss_sums[name] = self.loss_sums.get(name, 0.0) + value

    def finish_epoch(self) -> dict[str, float]:
        """Move to the next epoch; return the mean losses of this one."""
        means = {name: value / self.step for name, value in self.loss_sums.items()}
        self.epoch, self.step, self.loss_sums = self.epoch + 1, 0, {}
        return means

    def content(self, epoch: int) -> dict:
        """Return a checkpoint: published keys, averages, and under "resume" the exact position."""
        content: dict[str, Any] = {name: network.state_dict() for name, network in self.networks.items()}
        content |= {f"{name}_ema": average.module.state_dict() for name, average in self.averages.items()}
        content |= {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        content["epoch"] = epoch
        content["resume"] = {
            "format": RESUME_FORMAT,
            "epoch": self.epoch,
            "step": self.step,
            "samples": self.samples,
            "loss_sums": self.loss_sums,
            "best_l1": self.best_l1,
            "seed": self.seed,
            "scaler": self.scaler.state_dict(),
            "config": self.config,
            "run": {name: value for name, value in self.entry.items() if name != "config"},
        }
        return content

    def load(self, content: dict, path: str | Path, config_path: str | Path, batches: EpochBatches) -> None:
        """Resume from the content of a checkpoint; a published one, without "resume", after its epoch."""
        load_parts(content, {**self.networks, **self.optimizers}, path, config_path)
        self._load_averages(content, path)
        resume = content.get("resume")
        # A published checkpoint knows only its epoch.
        if resume is None:
            self.epoch = content["epoch"] + 1
            return
        if resume["format"] != RESUME_FORMAT:
            raise CheckpointError(
                f"{path}: written by another version of this project (format {resume['format']})"
            )
        self._check_data(resume, batches, path)
        self.epoch, self.step, self.loss_sums = resume["epoch"], resume["step"], resume["loss_sums"]
        # The best of other clips would be another number. Older checkpoints don't say: theirs are of test/.
        if resume.get("run", {}).get("validation", "test") == self.entry.get("validation"):
            self.best_l1 = resume.get("best_l1", math.inf)
        # The scale of the losses; a run in another precision begins with a fresh one.
        own, saved = self.scaler.state_dict(), resume["scaler"]
        self.scaler.load_state_dict(own | {key: saved[key] for key in SCALE if key in saved and key in own})

    def follow(self, content: dict, path: str | Path) -> None:
        """Go on after the epochs of a run by another config, with those of its optimisers that fit."""
        if content.keys().isdisjoint(self.optimizers):
            raise CheckpointError(f"{path}: has no optimisers to go on with; leave out --next_stage")
        self.epoch = position(content)[0]
        for name, optimizer in self.optimizers.items():
            try:
                load_parts(content, {name: optimizer}, path)
            except CheckpointError:
                if rank() == 0:
                    say(f"the {name} starts anew: that of the checkpoint does not fit")

    @staticmethod
    def _check_data(resume: dict, batches: EpochBatches, path: str | Path) -> None:
        """Raise `CheckpointError` if the rest of the epoch would be other samples than those left of it."""
        if not resume["step"]:
            return
        batch_size = resume["config"]["train_params"]["batch_size"]
        if batch_size != batches.batch_size:
            raise CheckpointError(
                f"{path}: stopped in the middle of an epoch with batch_size {batch_size}, the config now "
                f"says {batches.batch_size}; finish the epoch with the old value, or start from an earlier "
                "checkpoint"
            )
        samples = resume.get("samples", batches.num_samples)  # older checkpoints don't say
        if samples != batches.num_samples or resume["step"] > len(batches):
            raise CheckpointError(
                f"{path}: stopped in the middle of an epoch, after {resume['step']} steps, and the dataset "
                f"was changed since: an epoch now has {batches.num_samples} samples; bring the old clips and "
                "num_repeats back, go on from the checkpoint of a whole epoch, or start a new run from these "
                "weights with a copy of the config under another name"
            )

    def _load_averages(self, content: dict, path: str | Path) -> None:
        """Take over the averages; those of a run that had none begin with its weights."""
        for name, average in self.averages.items():
            key = f"{name}_ema" if f"{name}_ema" in content else name
            load_parts({key: content[key]}, {key: average.module}, path)
            average.n_averaged.fill_(1)  # 0 would make the next step overwrite the average


def steps_of(optimizer: Optimizer) -> int:
    """Return the steps of an optimiser, resumed ones included; 0 for frozen weights."""
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


def set_learning_rates(optimizers: Mapping[str, Optimizer], params: dict, epoch: int) -> None:
    """Divide the rates by 10 for each milestone reached: MultiStepLR as a function of the epoch."""
    factor = 0.1 ** sum(milestone <= epoch for milestone in params["epoch_milestones"])
    for name in NETWORKS:
        for group in optimizers[f"optimizer_{name}"].param_groups:
            group["lr"] = params[f"lr_{name}"] * factor
            # The published code's schedule asks for it when it goes on with a checkpoint.
            group["initial_lr"] = params[f"lr_{name}"]
