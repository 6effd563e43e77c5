"""Training: optimisers, schedule, the loop, and where everything computes.

Every random number of a run is a function of (seed, epoch, step): the order of the clips, the frames and their augmentation
(frames_dataset.py), and the transforms of the equivariance loss. So a run goes on exactly from (epoch, step) with the weights
and the optimisers' states, and gives the same on any number of GPUs or processes that share the batch.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Sampler

from device import autocast, caught_signals, rank, world_size
from frames_dataset import DatasetRepeater
from logger import NETWORKS, Logger, load_parts, read_checkpoint
from modules.errors import CheckpointError, DatasetError, UserError
from modules.model import DiscriminatorFullModel, GeneratorFullModel, Transform
from modules.util import frozen
from progress import Progress
from sync_batchnorm import DataParallelWithCallback

RESUME_FORMAT = 1


def train(
    config: dict,
    generator: nn.Module,
    discriminator: nn.Module,
    kp_detector: nn.Module,
    checkpoint: str | Path | None,
    log_dir: str | Path,
    dataset: Dataset,
    device_ids: list[int] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    precision: str = "fp32",
) -> int | None:
    """Train until `num_epochs`, or until SIGINT or SIGTERM; return the number of the signal that ended it, if one did.

    `checkpoint`: one of the run in `log_dir`, to go on from. `device_ids`: with several, the batch is split over these GPUs.
    `precision`: "fp32", "bf16" or "fp16". In a process group each rank takes its share of the batch, and rank 0 writes.
    Raises `DatasetError` if there isn't one batch of data and `UserError` when a loss is not finite any more.
    """
    device, params = torch.device(device), config["train_params"]
    adversarial = params["loss_weights"]["generator_gan"] != 0
    if "num_repeats" in params:
        dataset = DatasetRepeater(dataset, params["num_repeats"])
    batches = EpochBatches(len(dataset), params["batch_size"], seed)

    networks = {"generator": generator, "discriminator": discriminator, "kp_detector": kp_detector}
    state = TrainingState(config, networks, device, seed, precision)
    if checkpoint is not None:
        state.load(checkpoint, batches)
    optimizers, scaler = state.optimizers, state.scaler
    generator_full, discriminator_full = full_models(config, networks, device, device_ids)
    loader = make_loader(dataset, batches, params, device)
    logger = None
    if rank() == 0:
        logger = Logger(
            log_dir,
            params["checkpoint_freq"],
            config.get("visualizer_params"),
            start=(state.epoch, state.step),
        )

    bar = progress_bar(params["num_epochs"], len(batches), state)
    with caught_signals() as caught, workers_ended(loader), bar as progress:
        for epoch in range(state.epoch, params["num_epochs"]):
            set_learning_rates(optimizers, params, epoch)
            dataset.set_epoch(epoch, seed)
            batches.start_at(epoch, state.step)
            watch = Stopwatch()
            for x in watch.waiting_for(loader):
                x = to_device(x, device)
                transform = draw_transform(params, (seed, epoch, state.step), device)

                with autocast(device, precision), frozen(discriminator):
                    losses, generated = generator_full(x, transform)
                    loss = total(losses)
                values = checked_numbers(losses, epoch, state.step)
                for optimizer in optimizers.values():
                    optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizers["optimizer_generator"])
                if params["lr_kp_detector"] != 0:
                    scaler.step(optimizers["optimizer_kp_detector"])

                if adversarial:
                    with autocast(device, precision):
                        losses = discriminator_full(x, generated)
                        loss = total(losses)
                    values |= checked_numbers(losses, epoch, state.step)
                    scaler.scale(loss).backward()
                    scaler.step(optimizers["optimizer_discriminator"])
                scaler.update()

                if logger is not None:
                    logger.log_iter(epoch, state.step, values)
                    progress.advance(
                        params["batch_size"], f"epoch {epoch}, step {state.step}: {as_text(values)}"
                    )
                state.count_step(values)
                if state.step < len(batches) and any_rank(caught):
                    if logger is not None:
                        path = logger.save_cpk(epoch, state.content(epoch))
                        print(
                            f"stopped in epoch {epoch} after step {state.step}; go on with --checkpoint {path}"
                        )
                    return caught[0] if caught else signal.SIGTERM

            losses = state.finish_epoch()
            last = epoch + 1 == params["num_epochs"]
            interrupted = any_rank(caught)
            if logger is not None:
                rates = {name: optimizers[f"optimizer_{name}"].param_groups[0]["lr"] for name in networks}
                logger.log_epoch(epoch, losses, {"lr": rates} | watch.measured(params["batch_size"], device))
                logger.visualize_rec(epoch, x, generated)
                if logger.checkpoint_is_due(epoch) or last or interrupted:
                    logger.save_cpk(epoch, state.content(epoch))
            if interrupted and not last:
                return caught[0] if caught else signal.SIGTERM
    return None


# ---------------------------------------------------------------------------------------------------------------------
# What a checkpoint holds


class TrainingState:
    """Networks, optimisers, loss scaler, and the position in the data: `step` steps of `epoch` are done."""

    def __init__(
        self, config: dict, networks: dict[str, nn.Module], device: torch.device, seed: int, precision: str
    ):
        self.config, self.seed, self.networks = config, seed, networks
        self.epoch, self.step, self.loss_sums = 0, 0, {}
        params = config["train_params"]
        for name, network in networks.items():
            network.to(device).train()
            if params.get("channels_last", False):
                network.to(memory_format=torch.channels_last)
            if params[f"lr_{name}"] == 0:
                network.requires_grad_(False).eval()  # eval: running statistics stay too
        self.optimizers = {
            f"optimizer_{name}": torch.optim.Adam(
                network.parameters(), lr=params[f"lr_{name}"], betas=(0.5, 0.999), fused=True
            )
            for name, network in networks.items()
        }
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def count_step(self, losses: dict[str, float]) -> None:
        self.step += 1
        for name, value in losses.items():
            self.loss_sums[name] = self.loss_sums.get(name, 0.0) + value

    def finish_epoch(self) -> dict[str, float]:
        """Go on to the next epoch; return the mean losses of this one."""
        means = {name: value / self.step for name, value in self.loss_sums.items()}
        self.epoch, self.step, self.loss_sums = self.epoch + 1, 0, {}
        return means

    def content(self, epoch: int) -> dict:
        """A checkpoint: published keys, and under "resume" what the published ones lack to go on exactly."""
        content = {name: network.state_dict() for name, network in self.networks.items()}
        content |= {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        content["epoch"] = epoch
        content["resume"] = {
            "format": RESUME_FORMAT,
            "epoch": self.epoch,
            "step": self.step,
            "loss_sums": self.loss_sums,
            "seed": self.seed,
            "scaler": self.scaler.state_dict(),
            "config": self.config,
        }
        return content

    def load(self, path: str | Path, batches: EpochBatches) -> None:
        """Go on from a checkpoint. A published one, without "resume", goes on after its epoch."""
        content = read_checkpoint(path)
        load_parts(content, self.networks | self.optimizers, path)
        resume = content.get("resume")
        if resume is None:
            self.epoch = content["epoch"] + 1
            return
        if resume["format"] != RESUME_FORMAT:
            raise CheckpointError(
                f"{path}: written by another version of this project (format {resume['format']})"
            )
        batch_size = resume["config"]["train_params"]["batch_size"]
        if resume["step"] and batch_size != batches.batch_size:
            raise CheckpointError(
                f"{path}: stopped in the middle of an epoch with batch_size {batch_size}, the config now says "
                f"{batches.batch_size}; finish the epoch with the old value, or start from an earlier checkpoint"
            )
        self.epoch, self.step, self.loss_sums = resume["epoch"], resume["step"], resume["loss_sums"]
        self.scaler.load_state_dict(resume["scaler"])


# ---------------------------------------------------------------------------------------------------------------------
# Data


def seeded_generator(*key: int) -> torch.Generator:
    """A stream of random numbers that belongs to `key`, unrelated to those of other keys."""
    sequence = np.random.SeedSequence(
        [len(key), *key]
    )  # the length, because SeedSequence ignores zeros at the end
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


class EpochBatches(Sampler):
    """The batches of an epoch from a given step on, as lists of indices in an order that belongs to (seed, epoch).

    In a process group each rank gets its share of every batch. What does not fill a batch is left out.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int):
        if num_samples < batch_size:
            raise DatasetError(
                f"an epoch has {num_samples} samples, less than one batch of {batch_size}; add clips, raise "
                "train_params.num_repeats or lower train_params.batch_size"
            )
        if batch_size % world_size():
            raise UserError(
                f"train_params.batch_size {batch_size} can't be shared evenly by {world_size()} processes"
            )
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.epoch, self.step = 0, 0

    def start_at(self, epoch: int, step: int) -> None:
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self.num_samples // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.num_samples, generator=seeded_generator(self.seed, self.epoch))
        for step in range(self.step, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield batch.chunk(world_size())[rank()].tolist()


def check_data(dataset: Dataset, params: dict) -> None:
    """What can be told of the data before a run has its folder: there is a batch, and a sample is as the config says.

    Raises `DatasetError`.
    """
    EpochBatches(len(dataset) * params.get("num_repeats", 1), params["batch_size"], seed=0)
    dataset[0]


def make_loader(dataset: Dataset, batches: EpochBatches, params: dict, device: torch.device) -> DataLoader:
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    num_workers = params.get("num_workers", min(6, math.ceil(os.cpu_count() / local_processes)))
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=leave_signals_to_the_main_process,
    )


def leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and schedulers signal every process of a run; the workers are needed until the checkpoint is written."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def workers_ended(loader: DataLoader) -> Iterator[None]:
    """Ends the workers at the end of the block, also by an error, whose traceback may keep the iterator.

    Python waits for them at its exit, and they do not listen to the SIGTERM that it sends.
    """
    try:
        yield
    finally:
        if loader.num_workers > 0 and loader._iterator is not None:
            loader._iterator._shutdown_workers()


def to_device(x: dict, device: torch.device) -> dict[str, Tensor]:
    """The frames of a batch on the device, in the default dtype."""
    dtype = torch.get_default_dtype()
    return {name: x[name].to(device, dtype, non_blocking=True) for name in ("source", "driving")}


def draw_transform(params: dict, key: tuple[int, int, int], device: torch.device) -> dict[str, Tensor]:
    """This rank's share of the equivariance transforms of the whole batch."""
    drawn = Transform(params["batch_size"], **params["transform_params"], generator=seeded_generator(*key))
    return {name: tensor.chunk(world_size())[rank()].to(device) for name, tensor in drawn.state().items()}


# ---------------------------------------------------------------------------------------------------------------------
# Models and schedule


def full_models(
    config: dict, networks: dict[str, nn.Module], device: torch.device, device_ids: list[int] | None
) -> tuple[nn.Module, nn.Module]:
    """The two full models on their device: compiled, split over GPUs or over ranks as the config and the run ask for."""
    kp_detector, generator, discriminator = (
        networks[name] for name in ("kp_detector", "generator", "discriminator")
    )
    models = []
    for build in (GeneratorFullModel, DiscriminatorFullModel):
        model = build(kp_detector, generator, discriminator, config["train_params"]).to(device)
        if config["train_params"].get("channels_last", False):
            model.to(memory_format=torch.channels_last)
        if config["train_params"].get("compile", False):
            model.compile()
        if dist.is_initialized():
            # The reducer of the generator step must not wait for gradients of the discriminator.
            with frozen(discriminator) if build is GeneratorFullModel else contextlib.nullcontext():
                ids = [device] if device.type == "cuda" else None
                model = DistributedDataParallel(model, device_ids=ids)
        elif device_ids is not None and len(device_ids) > 1:
            model = DataParallelWithCallback(model, device_ids=device_ids)
        models.append(model)
    return tuple(models)


def set_learning_rates(optimizers: dict[str, torch.optim.Optimizer], params: dict, epoch: int) -> None:
    """A tenth for each milestone that has been reached: MultiStepLR as a function of the epoch, which needs no state."""
    factor = 0.1 ** sum(milestone <= epoch for milestone in params["epoch_milestones"])
    for name in NETWORKS:
        for group in optimizers[f"optimizer_{name}"].param_groups:
            group["lr"] = params[f"lr_{name}"] * factor


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(loss.mean() for loss in losses.values())  # DataParallel gives a value for each replica


def checked_numbers(losses: dict[str, Tensor], epoch: int, step: int) -> dict[str, float]:
    """The losses as numbers, the same on every rank. Raises `UserError` if one is not finite."""
    values = torch.stack([loss.detach().mean() for loss in losses.values()]).double().cpu()
    if world_size() > 1:
        values = mean_over_ranks(values)
    numbers = dict(zip(losses, values.tolist(), strict=True))
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise UserError(
                f"the loss '{name}' is {value} in epoch {epoch}, step {step}; nothing was saved since the last checkpoint. "
                "Go on from it with a lower learning rate, or with --precision fp32 if it was fp16"
            )
    return numbers


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all ranks of a small tensor on the CPU, which NCCL can't send."""
    sent = values.cuda() if dist.get_backend() == "nccl" else values
    dist.all_reduce(sent)
    return sent.cpu() / world_size()


# ---------------------------------------------------------------------------------------------------------------------
# Around the loop


def any_rank(caught: list[int]) -> bool:
    """Whether any rank was asked to stop; all ranks get the same answer, so that they stop at the same step."""
    if world_size() == 1:
        return bool(caught)
    return mean_over_ranks(torch.tensor([float(bool(caught))])).item() > 0


class Stopwatch:
    """Splits the time of an epoch into waiting for data and computing."""

    def __init__(self):
        self.data, self.compute, self.steps = 0.0, 0.0, 0

    def waiting_for(self, loader: DataLoader) -> Iterator[dict]:
        iterator = iter(loader)
        for _ in itertools.count():
            start = time.perf_counter()
            x = next(iterator, None)
            self.data += time.perf_counter() - start
            if x is None:
                return
            start = time.perf_counter()
            yield x
            self.compute += time.perf_counter() - start
            self.steps += 1

    def measured(self, batch_size: int, device: torch.device) -> dict[str, float]:
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        return {
            "samples_per_second": self.steps * batch_size / max(self.data + self.compute, 1e-9),
            "data_seconds": self.data,
            "compute_seconds": self.compute,
            "peak_memory_mib": peak,
        }


def progress_bar(num_epochs: int, steps: int, state: TrainingState) -> contextlib.AbstractContextManager:
    if rank() != 0:
        return contextlib.nullcontext()
    left = (num_epochs - state.epoch) * steps - state.step
    return Progress(left * state.config["train_params"]["batch_size"], "training", "samples")


def as_text(losses: dict[str, float]) -> str:
    return "; ".join(f"{name} - {value:.3f}" for name, value in losses.items())
