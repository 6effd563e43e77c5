"""Training: the run, its loop, one step, and the models over one or many devices."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from checkpoints.files import BEST, INFERENCE_NETWORKS, LAST, read_checkpoint
from frames_dataset import ClipDataset, DatasetRepeater
from logger import Logger
from modules.build import Networks, frame_shape
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
from training.folder import RunFolder
from training.record import describe, tell_changes
from training.state import TrainingState, seed_of_run, set_learning_rates
from training.validation import Validation
from utils.device import autocast, peak_memory_mib
from utils.distributed import rank, world_size
from utils.errors import ConfigError, UserError, told
from utils.program import say
from utils.progress import Progress
from utils.signals import caught_signals

SECONDS_PER_CHECKPOINT: float = 600  # of training that a power cut may cost
FIRST_PICTURE = 100  # steps; further ones follow after twice, four times, … as many


def train(
    config: dict,
    generator: OcclusionAwareGenerator,
    discriminator: MultiScaleDiscriminator,
    kp_detector: KPDetector,
    checkpoint: str | Path | None,
    log_dir: str | Path | RunFolder,
    dataset: ClipDataset,
    device_ids: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = None,
    precision: str = "fp32",
    test_dataset: ClipDataset | None = None,
    content: dict | None = None,
) -> int | None:
    """Train until `num_epochs`, or until a signal; return the number of the signal that stopped it, if any.

    `checkpoint`: one of the run in `log_dir`, to resume from, or of the stage before a new run, whose folder
    is made after its first step. `seed` is by default that of the run that is resumed, or 0. `test_dataset`
    is for the validation that `train_params.eval_freq` asks for. `content` is that of `checkpoint`, if it was
    read before; it is emptied, as it is mapped from the file. In a process group each rank takes its share of
    the batch, and rank 0 writes. Raises `DatasetError` if there isn't one batch of data, and `UserError` when
    a loss is not finite any more.
    """
    folder = log_dir if isinstance(log_dir, RunFolder) else RunFolder(log_dir, config)
    networks = Networks(generator, discriminator, kp_detector)
    where = torch.device(device)
    if content is None:
        content = {} if checkpoint is None else read_checkpoint(checkpoint)
    data = dataset, test_dataset
    run = Run(config, networks, checkpoint, content, folder, *data, where, device_ids, seed, precision)
    content.clear()
    report, stopped_by = f"trained: {folder.path}", None
    if run.done:
        epochs = f"{run.state.epoch} epochs already, num_epochs is {run.params['num_epochs']}"
        report = f"{checkpoint}: has {epochs}"
    with folder, caught_signals() as caught, workers_ended(), run.progress:
        while not run.done and stopped_by is None:
            stopped_by = run.train_epoch(caught)
    if run.logger is not None:
        run.logger.close()
    if stopped_by is None and rank() == 0:
        say(report)
    return stopped_by


# ---- The loop ------------------------------------------------------------------


class Run:
    """One training run: its state, its data, and its files, which rank 0 alone writes."""

    def __init__(
        self,
        config: dict,
        networks: Networks,
        checkpoint: str | Path | None,
        content: dict,
        folder: RunFolder,
        dataset: ClipDataset,
        test_dataset: ClipDataset | None,
        device: torch.device,
        device_ids: Sequence[int] | None,
        seed: int | None,
        precision: str,
    ):
        self.config, self.params = config, config["train_params"]
        self.device, self.precision, self.folder = device, precision, folder
        seed = seed_of_run({} if folder.is_new else content, checkpoint, seed)

        # Data, in batches.
        self.dataset = DatasetRepeater(dataset, self.params.get("num_repeats", 1))
        accumulate = self.params.get("accumulate", 1)
        self.batches = EpochBatches(len(self.dataset), self.params["batch_size"], seed, accumulate)
        self.loader = make_loader(self.dataset, self.batches, self.params, device)
        self.validation: Validation | None = None
        if test_dataset is not None and "eval_freq" in self.params and rank() == 0:
            self.validation = Validation(test_dataset)

        # Networks, fresh or from the checkpoint.
        split = None if test_dataset is None else test_dataset.split
        self.entry = describe(config, seed, precision, device, checkpoint) | {"validation": split}
        samples = self.batches.num_samples
        self.state = TrainingState(config, networks, device, seed, precision, samples, self.entry)
        if checkpoint is not None and folder.is_new:
            self.state.follow(content, checkpoint)
        elif checkpoint is not None:
            self.state.load(content, checkpoint, folder.config_path or "the config", self.batches)
            tell_changes(content.get("resume") or {}, self.entry)
        self.models = full_models(config, networks, device, device_ids)

        # Progress and files; a new run has none before its first step.
        self.start = self.state.epoch, self.state.step
        left = (self.params["num_epochs"] - self.state.epoch) * len(self.batches) - self.state.step
        samples = left * self.params["batch_size"]
        self.progress = Progress(samples, "training", "samples", quiet=rank() != 0)
        self.saved_at = time.monotonic()
        resumes = checkpoint is not None and not folder.is_new and rank() == 0 and not self.done
        self.logger = self.open() if resumes else None

    def open(self) -> Logger:
        return self.folder.open(self.start, len(self.batches), self.entry)

    @property
    def done(self) -> bool:
        return self.state.epoch >= self.params["num_epochs"]

    def train_epoch(self, caught: list[int]) -> int | None:
        """Train to the end of the epoch; return the signal that stops the run there or before, if any."""
        state, epoch = self.state, self.state.epoch
        # The epoch, from where the state stands in it.
        set_learning_rates(state.optimizers, self.params, epoch)
        self.dataset.set_epoch(epoch, state.seed)
        self.batches.start_at(epoch, state.step)
        timed = TimedBatches(self.loader)
        shown: tuple[dict, dict] | None = None
        try:
            for x in timed:
                x = to_device(x, self.device)
                transform = draw_transform(self.params, (state.seed, epoch, state.step), self.device)
                with sizes_reported(self.config):
                    values, norms, shown = train_step(self.models, state, x, transform, self.precision)
                self.after_step(values, norms, timed, shown)
                # Asked to stop? At the end of an epoch that waits for its checkpoint.
                if state.step < len(self.batches) and (number := stop_signal(caught)) is not None:
                    self.stop()
                    return number
        except WorkerDied as error:
            # A signal to all processes of the run ends its workers, too. Otherwise nobody asked to stop.
            if (number := stop_signal(caught)) is not None:
                self.stop()
                return number
            saved = "" if self.logger is None else f" Go on with --resume {self.save_last(self.logger)}"
            raise UserError(
                "a worker that loads data was killed or ended, perhaps because memory or open files (ulimit "
                f"-n) ran out: lower train_params.num_workers.{saved}"
            ) from error
        number = stop_signal(caught)
        self.after_epoch(timed, shown, interrupted=number is not None)
        return None if self.done else number

    def after_step(
        self,
        values: dict[str, float],
        norms: dict[str, Tensor],
        timed: TimedBatches,
        shown: tuple[dict, dict],
    ) -> None:
        """Count the step; log it, and draw and save where that is due."""
        state = self.state
        losses = "; ".join(f"{name} - {value:.3f}" for name, value in values.items())
        self.progress.advance(self.params["batch_size"], f"epoch {state.epoch}, step {state.step}: {losses}")
        # The first step of a new run is done: now it gets its folder.
        if self.logger is None and rank() == 0:
            self.logger = self.open()
        if self.logger is not None and state.step % Logger.STEPS_PER_LINE == 0:
            norm = {name: value.item() for name, value in norms.items()}
            measured = {"lr": state.learning_rates(), "gradient_norm": norm}
            speed = timed.measured(self.params["batch_size"])
            self.logger.log_iter(state.epoch, state.step, values, measured | {"speed": speed})
        state.count_step(values)
        if self.logger is not None:
            if picture_is_due(state.epoch * len(self.batches) + state.step):
                self.logger.visualize_rec(state.epoch, *shown, state.step)
            if time.monotonic() - self.saved_at >= SECONDS_PER_CHECKPOINT:
                self.save_last(self.logger)

    def after_epoch(self, timed: TimedBatches, shown: tuple[dict, dict] | None, interrupted: bool) -> None:
        """Close the epoch; validate, log, draw, and save where that is due."""
        state, epoch = self.state, self.state.epoch
        losses = state.finish_epoch()
        if self.logger is None:
            return
        measured: dict[str, Any] = {"lr": state.learning_rates()}
        measured |= timed.measured(self.params["batch_size"])
        measured["peak_memory_mib"] = peak_memory_mib(self.device)
        improved = False
        if self.validation is not None and (epoch + 1) % self.params["eval_freq"] == 0:
            measured["validation"], improved = self.validate(epoch, self.validation, self.logger)
        self.logger.log_epoch(epoch, losses, measured)
        if shown is not None:
            self.logger.visualize_rec(epoch, *shown)
        # The best checkpoint comes first: the other one says that it is there.
        if improved:
            self.logger.save_cpk(epoch, state.content(epoch), BEST)
        if self.logger.checkpoint_is_due(epoch) or self.done or interrupted:
            self.logger.save_cpk(epoch, state.content(epoch))
            self.saved_at = time.monotonic()

    def validate(self, epoch: int, validation: Validation, logger: Logger) -> tuple[dict[str, float], bool]:
        """Score and draw the validation's clips; return the scores, and whether they are the best so far."""
        generator, kp_detector = (self.state.for_inference(name) for name in INFERENCE_NETWORKS)
        with autocast(self.device, self.precision):
            scores, frames, generated = validation(generator, kp_detector, self.device)
        logger.visualize_rec(epoch, frames, generated, name="validation")
        improved = scores["l1"] < self.state.best_l1
        self.state.best_l1 = min(self.state.best_l1, scores["l1"])
        return scores, improved

    def stop(self) -> None:
        """Save within an epoch, and say how to resume."""
        if self.logger is not None:
            path = self.save_last(self.logger)
            where = f"epoch {self.state.epoch} after step {self.state.step}"
            say(f"stopped in {where}; go on with --resume {path}")

    def save_last(self, logger: Logger) -> Path:
        self.saved_at = time.monotonic()
        return logger.save_cpk(self.state.epoch, self.state.content(self.state.epoch), LAST)


@contextlib.contextmanager
def sizes_reported(config: dict) -> Iterator[None]:
    """Report what PyTorch says of maps that are too small for a layer as a mistake in the config."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if told(error) is not None or "size" not in str(error):
            raise
        height, width, _ = frame_shape(config)
        raise ConfigError(
            f"the config's networks can't be trained on pictures of {height}x{width}: {error}; change "
            "dataset_params.frame_shape, scales or numbers of blocks"
        ) from error


def picture_is_due(steps: int) -> bool:
    """Whether a picture is drawn after so many steps of a run: 100, 200, 400, 800, …"""
    doublings, rest = divmod(steps, FIRST_PICTURE)
    return rest == 0 and doublings > 0 and doublings & (doublings - 1) == 0


def stop_signal(caught: list[int]) -> int | None:
    """Return the signal that asks to stop. All ranks hear of one, so that they stop at the same step."""
    asked = bool(caught)
    if world_size() > 1:
        asked = mean_over_ranks(torch.tensor([float(asked)])).item() > 0
    return (caught[0] if caught else signal.SIGTERM) if asked else None


# ---- One step ------------------------------------------------------------------


def train_step(
    models: tuple[nn.Module, nn.Module],
    state: TrainingState,
    x: dict[str, Tensor],
    transform: dict[str, Tensor],
    precision: str,
) -> tuple[dict[str, float], dict[str, Tensor], tuple[dict, dict]]:
    """Train generator and keypoint detector, then the discriminator on what they generated before.

    With `accumulate` the batch is computed in equal parts, whose gradients add up; batch norm and spectral
    norm see them one by one. Returns the losses, the networks' gradient norms, and the first part with the
    generator's result for it. Changes no weights where a loss is not finite.
    """
    params, scaler, optimizers = state.params, state.scaler, state.optimizers
    generator_full, discriminator_full = models
    device = x["source"].device
    count = params.get("accumulate", 1)
    parts = list(zip(split(x, count), split(transform, count), strict=True))
    for optimizer in optimizers.values():
        optimizer.zero_grad()

    # Generator and keypoint detector. `mean` joins the values of DataParallel's replicas.
    generated: list[dict[str, Any]] = []
    values: list[dict[str, float]] = []
    for i, (part, drawn) in enumerate(parts):
        # Only the last part's backward pass exchanges gradients between the ranks.
        with unsynchronised(generator_full, unless=i + 1 == count):
            with autocast(device, precision), frozen(state.networks["discriminator"]):
                losses, out = generator_full(part, drawn)
                loss = total(value.mean() for value in losses.values()) / count
            values.append(checked_numbers(losses, state))
            scaler.scale(loss).backward()
        # Of the other parts the discriminator needs no more than this.
        generated.append(out if i == 0 else {name: out[name] for name in ("prediction", "kp_driving")})
    norms = {"generator": update("generator", state)}
    if params["lr_kp_detector"] != 0:
        norms["kp_detector"] = update("kp_detector", state)

    # Discriminator.
    if params["loss_weights"]["generator_gan"] != 0 and params["lr_discriminator"] != 0:
        for i, ((part, _), out) in enumerate(zip(parts, generated, strict=True)):
            with unsynchronised(discriminator_full, unless=i + 1 == count):
                with autocast(device, precision):
                    losses = discriminator_full(part, out)
                    loss = total(value.mean() for value in losses.values()) / count
                values[i] |= checked_numbers(losses, state)
                scaler.scale(loss).backward()
        norms["discriminator"] = update("discriminator", state)

    # Loss scale, averages, mean losses.
    scaler.update()
    state.update_averages()
    means = {name: sum(part[name] for part in values) / count for name in values[0]}
    return means, norms, (parts[0][0], generated[0])


def update(name: str, state: TrainingState) -> Tensor:
    """Change the weights of a network by their gradients, first shortened to `max_grad_norm`.

    Returns the norm that the gradients had.
    """
    optimizer = state.optimizers[f"optimizer_{name}"]
    state.scaler.unscale_(optimizer)
    # Adam divides by a long average of squared gradients: a single one that is far too large moves every
    # weight by up to 16 times the learning rate.
    longest = state.params.get("max_grad_norm", math.inf)
    norm = nn.utils.clip_grad_norm_(state.networks[name].parameters(), longest)
    state.scaler.step(optimizer)
    return norm


def split(tensors: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """Split a batch of tensors into `count` equal parts."""
    chunks = {name: tensor.chunk(count) for name, tensor in tensors.items()}
    return [{name: parts[i] for name, parts in chunks.items()} for i in range(count)]


def unsynchronised(model: nn.Module, unless: bool) -> contextlib.AbstractContextManager:
    """Keep the ranks from exchanging gradients in the block: once a step is enough."""
    if isinstance(model, DistributedDataParallel) and not unless:
        return model.no_sync()
    return contextlib.nullcontext()


def checked_numbers(losses: dict[str, Tensor], state: TrainingState) -> dict[str, float]:
    """Return the losses as numbers, alike on every rank. Raises `UserError` if one is not finite."""
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
    """Return the mean over all ranks of a small tensor on the CPU, which NCCL can't send."""
    sent = values.cuda() if dist.get_backend() == "nccl" else values
    dist.all_reduce(sent)
    return sent.cpu() / world_size()


# ---- Models --------------------------------------------------------------------


def full_models(
    config: dict, networks: Networks, device: torch.device, device_ids: Sequence[int] | None
) -> tuple[nn.Module, nn.Module]:
    """Build the models of the generator's and of the discriminator's step on the run's devices."""
    params = config["train_params"]
    parts = (networks.kp_detector, networks.generator, networks.discriminator)
    generator_full = on_devices(GeneratorFullModel(*parts, params), params, device, device_ids)
    # This reducer must not wait for gradients of the discriminator, which the generator's step has none of.
    with frozen(networks.discriminator):
        generator_full = over_ranks(generator_full, device)
    discriminator_full = on_devices(DiscriminatorFullModel(*parts, params), params, device, device_ids)
    return generator_full, over_ranks(discriminator_full, device)


def on_devices(
    model: nn.Module, params: dict, device: torch.device, device_ids: Sequence[int] | None
) -> nn.Module:
    """Move `model` to its device, or split it over several; `params`: the config's `train_params`."""
    model.to(device)
    if params.get("channels_last", False):
        model.to(memory_format=torch.channels_last)
    if params.get("compile", False):
        model.compile()
    if device_ids is not None and len(device_ids) > 1 and not dist.is_initialized():
        return DataParallelWithCallback(model, device_ids=list(device_ids))
    return model


def over_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    """Share the model's gradients among the processes of the run, if it has several."""
    if not dist.is_initialized():
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
