"""Training: the loop, one step, and the models over one or many devices.

state.py holds what a checkpoint holds; batches.py says where the data and all randomness come from.
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from checkpoints.files import BEST, INFERENCE_NETWORKS, LAST
from frames_dataset import DatasetRepeater, FramesDataset
from logger import Logger
from modules.build import Networks
from modules.discriminator import MultiScaleDiscriminator
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from modules.model import DiscriminatorFullModel, GeneratorFullModel, total
from modules.util import frozen
from sync_batchnorm import DataParallelWithCallback
from training.batches import (
    EpochBatches,
    TimedBatches,
    WorkerDied,
    draw_transform,
    make_loader,
    to_device,
    workers_ended,
)
from training.state import TrainingState, set_learning_rates
from training.validation import Validation
from utils.device import autocast, peak_memory_mib
from utils.distributed import rank, world_size
from utils.errors import UserError
from utils.progress import Progress
from utils.signals import caught_signals

SECONDS_PER_CHECKPOINT: float = 600  # what a power cut may cost
FIRST_PICTURE = 100  # steps; further ones follow after twice, four times, … as many


def train(
    config: dict,
    generator: OcclusionAwareGenerator,
    discriminator: MultiScaleDiscriminator,
    kp_detector: KPDetector,
    checkpoint: str | Path | None,
    log_dir: str | Path,
    dataset: FramesDataset | DatasetRepeater,
    device_ids: list[int] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    precision: str = "fp32",
    test_dataset: FramesDataset | None = None,
    open_logger: Callable[[tuple[int, int]], Logger] | None = None,
) -> int | None:
    """Train until `num_epochs`, or until a signal; return the number of the signal that ended it, if one did.

    `checkpoint`: one of the run in `log_dir`, to go on from. `device_ids`: with several, the batch is split
    over these GPUs. `precision`: "fp32", "bf16" or "fp16". `test_dataset`: for the validation that
    `train_params.eval_freq` asks for. `open_logger`: makes the logger of a run that starts at an (epoch,
    step); by default a plain one in `log_dir`. It is called before the first step when a run goes on, and
    after it in a new run, so that one that never trained leaves nothing. In a process group each rank takes
    its share of the batch, and rank 0 writes.
    Raises `DatasetError` if there isn't one batch of data and `UserError` when a loss is not finite any more.
    """
    params = config["train_params"]
    if "num_repeats" in params:
        dataset = DatasetRepeater(dataset, params["num_repeats"])
    networks = Networks(generator, discriminator, kp_detector)
    run = Run(config, networks, checkpoint, dataset, torch.device(device), device_ids, seed, precision)
    if rank() == 0:
        start = run.state.epoch, run.state.step
        plain = functools.partial(
            Logger, log_dir, params["checkpoint_freq"], config.get("visualizer_params"), start=start
        )
        run.open_logger = plain if open_logger is None else functools.partial(open_logger, start)
        if checkpoint is not None:
            run.logger = run.open_logger()
        if test_dataset is not None and "eval_freq" in params:
            run.validation = Validation(test_dataset)
    with caught_signals() as run.caught, workers_ended(), run.progress:
        while not run.done:
            run.train_epoch()
    if run.logger is not None:
        run.logger.tracker.close()
    return run.stopped_by


# ---- The loop ------------------------------------------------------------------


class Run:
    """One training run: its state, its data, and what it writes. Rank 0 alone has a logger."""

    def __init__(
        self,
        config: dict,
        networks: Networks,
        checkpoint: str | Path | None,
        dataset: FramesDataset | DatasetRepeater,
        device: torch.device,
        device_ids: list[int] | None,
        seed: int,
        precision: str,
    ):
        self.params, self.dataset = config["train_params"], dataset
        self.device, self.precision = device, precision
        accumulate = self.params.get("accumulate", 1)
        self.batches = EpochBatches(len(dataset), self.params["batch_size"], seed, accumulate)
        self.state = TrainingState(config, networks, device, seed, precision)
        self.state.samples = self.batches.num_samples
        if checkpoint is not None:
            self.state.load(checkpoint, self.batches)
        self.models = full_models(config, networks, device, device_ids)
        self.loader = make_loader(dataset, self.batches, self.params, device)
        left = (self.params["num_epochs"] - self.state.epoch) * len(self.batches) - self.state.step
        samples = left * self.params["batch_size"]
        self.progress = Progress(samples, "training", "samples", quiet=rank() != 0)
        self.logger: Logger | None = None
        self.open_logger: Callable[[], Logger] | None = None
        self.validation: Validation | None = None
        self.caught: list[int] = []
        self.stopped_by: int | None = None
        self.saved_at = time.monotonic()

    @property
    def done(self) -> bool:
        return self.stopped_by is not None or self.state.epoch >= self.params["num_epochs"]

    def train_epoch(self) -> None:
        """Train from the state's step to the end of its epoch, or until a signal."""
        state, epoch = self.state, self.state.epoch
        set_learning_rates(state.optimizers, self.params, epoch)
        self.dataset.set_epoch(epoch, state.seed)
        self.batches.start_at(epoch, state.step)
        timed = TimedBatches(self.loader)
        shown: tuple[dict, dict] | None = None
        try:
            for x in timed:
                x = to_device(x, self.device)
                transform = draw_transform(self.params, (state.seed, epoch, state.step), self.device)
                values, shown = train_step(self.models, state, x, transform, self.precision)
                self.after_step(values, *shown)
                if state.step < len(self.batches) and any_rank(self.caught):
                    self.stop()
                    return
        except WorkerDied as error:
            self.stop_without_worker(error)
            return
        self.after_epoch(timed, shown)

    def after_step(self, values: dict[str, float], x: dict[str, Tensor], generated: dict) -> None:
        state = self.state
        note = f"epoch {state.epoch}, step {state.step}: {as_text(values)}"
        self.progress.advance(self.params["batch_size"], note)
        if self.logger is None and self.open_logger is not None:
            self.logger = self.open_logger()
        if self.logger is not None:
            self.logger.log_iter(state.epoch, state.step, values)
        state.count_step(values)
        if self.logger is not None:
            if picture_is_due(state.epoch * len(self.batches) + state.step):
                self.logger.visualize_rec(state.epoch, x, generated, state.step)
            if time.monotonic() - self.saved_at >= SECONDS_PER_CHECKPOINT:
                self.save_last(self.logger)

    def after_epoch(self, timed: TimedBatches, shown: tuple[dict, dict] | None) -> None:
        state, epoch = self.state, self.state.epoch
        losses = state.finish_epoch()
        interrupted = any_rank(self.caught)
        if self.logger is not None:
            measured: dict[str, Any] = {"lr": state.learning_rates()}
            measured |= timed.measured(self.params["batch_size"])
            measured["peak_memory_mib"] = peak_memory_mib(self.device)
            improved = False
            if self.validation is not None and (epoch + 1) % self.params["eval_freq"] == 0:
                measured["validation"], improved = self.validate(epoch, self.validation, self.logger)
            self.logger.log_epoch(epoch, losses, measured)
            if shown is not None:
                self.logger.visualize_rec(epoch, *shown)
            if improved:  # before the other, which says that this one is there
                self.logger.save_cpk(epoch, state.content(epoch), BEST)
            if self.logger.checkpoint_is_due(epoch) or self.done or interrupted:
                self.logger.save_cpk(epoch, state.content(epoch))
                self.saved_at = time.monotonic()
        if interrupted and not self.done:
            self.stopped_by = self.caught[0] if self.caught else signal.SIGTERM

    def validate(self, epoch: int, validation: Validation, logger: Logger) -> tuple[dict[str, float], bool]:
        """Scores of the test clips, drawn and compared: are they the best so far?"""
        generator, kp_detector = (self.state.for_inference(name) for name in INFERENCE_NETWORKS)
        with autocast(self.device, self.precision):
            scores, frames, generated = validation(generator, kp_detector, self.device)
        logger.visualize_rec(epoch, frames, generated, name="validation")
        improved = scores["l1"] < self.state.best_l1
        self.state.best_l1 = min(self.state.best_l1, scores["l1"])
        return scores, improved

    def stop(self) -> None:
        """Stop within an epoch, because of a signal."""
        self.stopped_by = self.caught[0] if self.caught else signal.SIGTERM
        if self.logger is not None:
            path = self.save_last(self.logger)
            where = f"epoch {self.state.epoch} after step {self.state.step}"
            print(f"stopped in {where}; go on with --checkpoint {path}")

    def stop_without_worker(self, error: WorkerDied) -> None:
        """A signal to all processes of the run ends its workers too. Otherwise nothing was asked to stop."""
        if any_rank(self.caught):
            self.stop()
            return
        saved = "" if self.logger is None else f" Go on with --checkpoint {self.save_last(self.logger)}"
        raise UserError(
            "a worker that loads data was killed or ended, perhaps because memory or open files (ulimit -n) "
            f"ran out: lower train_params.num_workers.{saved}"
        ) from error

    def save_last(self, logger: Logger) -> Path:
        self.saved_at = time.monotonic()
        return logger.save_cpk(self.state.epoch, self.state.content(self.state.epoch), LAST)


def picture_is_due(steps: int) -> bool:
    """Whether a picture is drawn after so many steps of a run: 100, 200, 400, 800, …"""
    doublings, rest = divmod(steps, FIRST_PICTURE)
    return rest == 0 and doublings > 0 and doublings & (doublings - 1) == 0


# ---- One step ------------------------------------------------------------------


def train_step(
    models: tuple[nn.Module, nn.Module],
    state: TrainingState,
    x: dict[str, Tensor],
    transform: dict[str, Tensor],
    precision: str,
) -> tuple[dict[str, float], tuple[dict, dict]]:
    """Generator and keypoint detector first, then the discriminator on what they made with their old weights.

    With `accumulate` the batch is computed in equal parts, whose gradients add up to those of the whole
    batch. Batch norm and spectral norm see the parts one by one, so with them the result is near, not equal.
    Returns the losses, and the first part with what was generated from it. Changes no weights where a loss
    is not finite.
    """
    params, scaler, optimizers = state.params, state.scaler, state.optimizers
    generator_full, discriminator_full = models
    device = x["source"].device
    count = params.get("accumulate", 1)
    parts = list(zip(split(x, count), split(transform, count), strict=True))
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    # Below, `mean` joins the values of DataParallel's replicas.

    generated: list[dict[str, Any]] = []
    values: list[dict[str, float]] = []
    for i, (part, drawn) in enumerate(parts):
        with unsynchronised(generator_full, unless=i + 1 == count):
            with autocast(device, precision), frozen(state.networks["discriminator"]):
                losses, out = generator_full(part, drawn)
                loss = total(value.mean() for value in losses.values()) / count
            values.append(checked_numbers(losses, state))
            scaler.scale(loss).backward()
        generated.append(out if i == 0 else {name: out[name] for name in ("prediction", "kp_driving")})
    update("generator", state)
    if params["lr_kp_detector"] != 0:
        update("kp_detector", state)

    if params["loss_weights"]["generator_gan"] != 0:
        for i, ((part, _), out) in enumerate(zip(parts, generated, strict=True)):
            with unsynchronised(discriminator_full, unless=i + 1 == count):
                with autocast(device, precision):
                    losses = discriminator_full(part, out)
                    loss = total(value.mean() for value in losses.values()) / count
                values[i] |= checked_numbers(losses, state)
                scaler.scale(loss).backward()
        update("discriminator", state)
    scaler.update()
    state.update_averages()
    means = {name: sum(part[name] for part in values) / count for name in values[0]}
    return means, (parts[0][0], generated[0])


def update(name: str, state: TrainingState) -> None:
    """Change the weights of a network by their gradients, which are first shortened to `max_grad_norm`.

    Adam divides by a long average of squared gradients: a single one that is far too large moves every weight
    by up to 16 times the learning rate.
    """
    optimizer = state.optimizers[f"optimizer_{name}"]
    if "max_grad_norm" in state.params:
        state.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(state.networks[name].parameters(), state.params["max_grad_norm"])
    state.scaler.step(optimizer)


def split(tensors: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """A batch of tensors in `count` equal parts."""
    chunks = {name: tensor.chunk(count) for name, tensor in tensors.items()}
    return [{name: parts[i] for name, parts in chunks.items()} for i in range(count)]


def unsynchronised(model: nn.Module, unless: bool) -> contextlib.AbstractContextManager:
    """Within the block the ranks don't exchange gradients: once a step is enough."""
    if isinstance(model, DistributedDataParallel) and not unless:
        return model.no_sync()
    return contextlib.nullcontext()


def checked_numbers(losses: dict[str, Tensor], state: TrainingState) -> dict[str, float]:
    """The losses as numbers, the same on every rank. Raises `UserError` if one is not finite."""
    values = torch.stack([loss.detach().mean() for loss in losses.values()]).double().cpu()
    if world_size() > 1:
        values = mean_over_ranks(values)
    numbers = dict(zip(losses, values.tolist(), strict=True))
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise UserError(
                f"the loss '{name}' is {value} in epoch {state.epoch}, step {state.step}; nothing was saved "
                "since the last checkpoint. Go on from it with a lower learning rate, or with --precision "
                "fp32 if it was fp16"
            )
    return numbers


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all ranks of a small tensor on the CPU, which NCCL can't send."""
    sent = values.cuda() if dist.get_backend() == "nccl" else values
    dist.all_reduce(sent)
    return sent.cpu() / world_size()


def any_rank(caught: list[int]) -> bool:
    """Whether any rank was asked to stop; all get the same answer, so that they stop at the same step."""
    if world_size() == 1:
        return bool(caught)
    return mean_over_ranks(torch.tensor([float(bool(caught))])).item() > 0


# ---- Models --------------------------------------------------------------------


def full_models(
    config: dict, networks: Networks, device: torch.device, device_ids: list[int] | None
) -> tuple[nn.Module, nn.Module]:
    """The models of the generator's and of the discriminator's step, as config and run ask for them."""
    params = config["train_params"]
    parts = (networks.kp_detector, networks.generator, networks.discriminator)
    generator_full = on_devices(GeneratorFullModel(*parts, params), params, device, device_ids)
    # This reducer must not wait for gradients of the discriminator, which the generator's step has none of.
    with frozen(networks.discriminator):
        generator_full = over_ranks(generator_full, device)
    discriminator_full = on_devices(DiscriminatorFullModel(*parts, params), params, device, device_ids)
    return generator_full, over_ranks(discriminator_full, device)


def on_devices(
    model: nn.Module, params: dict, device: torch.device, device_ids: list[int] | None
) -> nn.Module:
    """`model` on its device, or split over several; `params`: the config's `train_params`."""
    model.to(device)
    if params.get("channels_last", False):
        model.to(memory_format=torch.channels_last)
    if params.get("compile", False):
        model.compile()
    if device_ids is not None and len(device_ids) > 1 and not dist.is_initialized():
        return DataParallelWithCallback(model, device_ids=device_ids)
    return model


def over_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with gradients shared by the processes of the run, if it has several."""
    if not dist.is_initialized():
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def as_text(losses: dict[str, float]) -> str:
    return "; ".join(f"{name} - {value:.3f}" for name, value in losses.items())
