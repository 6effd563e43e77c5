"""Training: optimisers, schedule, and the loop. batches.py says where the data and all randomness come from."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset

from batches import (
    EpochBatches,
    TimedBatches,
    WorkerDied,
    draw_transform,
    make_loader,
    to_device,
    workers_ended,
)
from checkpoint import BEST, INFERENCE_NETWORKS, LAST, NETWORKS, load_parts, read_checkpoint
from device import autocast, caught_signals, peak_memory_mib, rank, world_size
from frames_dataset import DatasetRepeater, FramesDataset
from logger import Logger
from modules.errors import CheckpointError, UserError
from modules.model import DiscriminatorFullModel, GeneratorFullModel
from modules.util import frozen
from progress import Progress
from sync_batchnorm import DataParallelWithCallback
from trackers import Tracker
from validation import Validation

RESUME_FORMAT = 1
SECONDS_PER_CHECKPOINT = 600  # what a power cut may cost
FIRST_PICTURE = 100  # steps; further ones follow after twice, four times, … as many


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
    test_dataset: FramesDataset | None = None,
    tracker: Tracker | None = None,
) -> int | None:
    """Train until `num_epochs`, or until a signal; return the number of the signal that ended it, if one did.

    `checkpoint`: one of the run in `log_dir`, to go on from. `device_ids`: with several, the batch is split over these
    GPUs. `precision`: "fp32", "bf16" or "fp16". `test_dataset`: for the validation that `train_params.eval_freq` asks
    for. In a process group each rank takes its share of the batch, and rank 0 writes.
    Raises `DatasetError` if there isn't one batch of data and `UserError` when a loss is not finite any more.
    """
    params = config["train_params"]
    if "num_repeats" in params:
        dataset = DatasetRepeater(dataset, params["num_repeats"])
    networks = {"generator": generator, "discriminator": discriminator, "kp_detector": kp_detector}
    run = Run(config, networks, checkpoint, Path(log_dir), dataset, torch.device(device), seed, precision)
    run.models = full_models(config, networks, run.device, device_ids)
    if rank() == 0:
        run.logger = Logger(
            log_dir,
            params["checkpoint_freq"],
            config.get("visualizer_params"),
            start=(run.state.epoch, run.state.step),
            tracker=tracker,
        )
        if test_dataset is not None and "eval_freq" in params:
            run.validation = Validation(test_dataset)
    with caught_signals() as run.caught, workers_ended(), run.progress:
        while not run.done:
            run.train_epoch()
    return run.stopped_by


# ---- The loop ------------------------------------------------------------------


class Run:
    """One training run: its state, its data, and what it writes. Rank 0 alone has a logger."""

    def __init__(
        self,
        config: dict,
        networks: dict[str, nn.Module],
        checkpoint: str | Path | None,
        log_dir: Path,
        dataset: DatasetRepeater | FramesDataset,
        device: torch.device,
        seed: int,
        precision: str,
    ):
        self.params, self.dataset, self.device, self.precision = (
            config["train_params"],
            dataset,
            device,
            precision,
        )
        accumulate = self.params.get("accumulate", 1)
        self.batches = EpochBatches(len(dataset), self.params["batch_size"], seed, accumulate)
        self.state = TrainingState(config, networks, device, seed, precision)
        if checkpoint is not None:
            self.state.load(checkpoint, self.batches)
        self.loader = make_loader(dataset, self.batches, self.params, device)
        self.progress = progress_bar(self.params["num_epochs"], len(self.batches), self.state)
        self.models: tuple[nn.Module, nn.Module]
        self.logger: Logger | None = None
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
        if self.logger is not None:
            self.logger.log_iter(state.epoch, state.step, values)
            note = f"epoch {state.epoch}, step {state.step}: {as_text(values)}"
            self.progress.advance(self.params["batch_size"], note)
        state.count_step(values)
        if self.logger is None:
            return
        if picture_is_due(state.epoch * len(self.batches) + state.step):
            self.logger.visualize_rec(state.epoch, x, generated, state.step)
        if time.monotonic() - self.saved_at >= SECONDS_PER_CHECKPOINT:
            self.save_last()

    def after_epoch(self, timed: TimedBatches, shown: tuple[dict, dict] | None) -> None:
        state, epoch = self.state, self.state.epoch
        losses = state.finish_epoch()
        interrupted = any_rank(self.caught)
        if self.logger is not None:
            measured = {"lr": state.learning_rates()} | timed.measured(self.params["batch_size"])
            measured["peak_memory_mib"] = peak_memory_mib(self.device)
            improved = False
            if self.validation is not None and (epoch + 1) % self.params["eval_freq"] == 0:
                measured["validation"], improved = self.validate(epoch)
            self.logger.log_epoch(epoch, losses, measured)
            if shown is not None:
                self.logger.visualize_rec(epoch, *shown)
            if self.logger.checkpoint_is_due(epoch) or self.done or interrupted:
                self.logger.save_cpk(epoch, state.content(epoch))
                self.saved_at = time.monotonic()
            if improved:
                self.logger.save_cpk(epoch, state.content(epoch), BEST)
        if interrupted and not self.done:
            self.stopped_by = self.caught[0] if self.caught else signal.SIGTERM

    def validate(self, epoch: int) -> tuple[dict[str, float], bool]:
        """Scores of the test clips, drawn and compared: are they the best so far?"""
        networks = [self.state.for_inference(name) for name in INFERENCE_NETWORKS]
        with autocast(self.device, self.precision):
            scores, frames, generated = self.validation(*networks, self.device)
        self.logger.visualize_rec(epoch, frames, generated, name="validation")
        improved = scores["l1"] < self.state.best_l1
        self.state.best_l1 = min(self.state.best_l1, scores["l1"])
        return scores, improved

    def stop(self) -> None:
        """Stop within an epoch, because of a signal."""
        self.stopped_by = self.caught[0] if self.caught else signal.SIGTERM
        if self.logger is not None:
            path = self.save_last()
            where = f"epoch {self.state.epoch} after step {self.state.step}"
            print(f"stopped in {where}; go on with --checkpoint {path}")

    def stop_without_worker(self, error: WorkerDied) -> None:
        """A signal to all processes of the run ends its workers too. Otherwise nothing was asked to stop."""
        if any_rank(self.caught):
            self.stop()
            return
        saved = "" if self.logger is None else f" Go on with --checkpoint {self.save_last()}"
        raise UserError(
            "a worker that loads data was killed, perhaps because memory ran out: lower train_params.num_workers."
            + saved
        ) from error

    def save_last(self) -> Path:
        self.saved_at = time.monotonic()
        return self.logger.save_cpk(self.state.epoch, self.state.content(self.state.epoch), LAST)


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

    With `accumulate` the batch is computed in equal parts, whose gradients add up to those of the whole batch. Batch
    norm and spectral norm see the parts one by one, so with them the result is near, not equal.
    Returns the losses, and the first part with what was generated from it. Changes no weights where a loss is not finite.
    """
    params, scaler, optimizers = state.params, state.scaler, state.optimizers
    generator_full, discriminator_full = models
    device = x["source"].device
    count = params.get("accumulate", 1)
    parts = list(zip(split(x, count), split(transform, count), strict=True))
    for optimizer in optimizers.values():
        optimizer.zero_grad()

    generated, values = [], []
    for i, (part, drawn) in enumerate(parts):
        with unsynchronised(generator_full, unless=i + 1 == count):
            with autocast(device, precision), frozen(state.networks["discriminator"]):
                losses, out = generator_full(part, drawn)
                loss = total(losses) / count
            values.append(checked_numbers(losses, state))
            scaler.scale(loss).backward()
        generated.append(out if i == 0 else {name: out[name] for name in ("prediction", "kp_driving")})
    scaler.step(optimizers["optimizer_generator"])
    if params["lr_kp_detector"] != 0:
        scaler.step(optimizers["optimizer_kp_detector"])

    if params["loss_weights"]["generator_gan"] != 0:
        for i, ((part, _), out) in enumerate(zip(parts, generated, strict=True)):
            with unsynchronised(discriminator_full, unless=i + 1 == count):
                with autocast(device, precision):
                    losses = discriminator_full(part, out)
                    loss = total(losses) / count
                values[i] |= checked_numbers(losses, state)
                scaler.scale(loss).backward()
        scaler.step(optimizers["optimizer_discriminator"])
    scaler.update()
    state.update_averages()
    means = {name: sum(part[name] for part in values) / count for name in values[0]}
    return means, (parts[0][0], generated[0])


def split(tensors: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """A batch of tensors in `count` equal parts."""
    chunks = {name: tensor.chunk(count) for name, tensor in tensors.items()}
    return [{name: parts[i] for name, parts in chunks.items()} for i in range(count)]


def unsynchronised(model: nn.Module, unless: bool) -> contextlib.AbstractContextManager:
    """Within the block the ranks don't exchange gradients: once a step is enough."""
    if isinstance(model, DistributedDataParallel) and not unless:
        return model.no_sync()
    return contextlib.nullcontext()


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(loss.mean() for loss in losses.values())  # DataParallel gives a value for each replica


def checked_numbers(losses: dict[str, Tensor], state: TrainingState) -> dict[str, float]:
    """The losses as numbers, the same on every rank. Raises `UserError` if one is not finite."""
    values = torch.stack([loss.detach().mean() for loss in losses.values()]).double().cpu()
    if world_size() > 1:
        values = mean_over_ranks(values)
    numbers = dict(zip(losses, values.tolist(), strict=True))
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise UserError(
                f"the loss '{name}' is {value} in epoch {state.epoch}, step {state.step}; nothing was saved since the "
                "last checkpoint. Go on from it with a lower learning rate, or with --precision fp32 if it was fp16"
            )
    return numbers


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all ranks of a small tensor on the CPU, which NCCL can't send."""
    sent = values.cuda() if dist.get_backend() == "nccl" else values
    dist.all_reduce(sent)
    return sent.cpu() / world_size()


def any_rank(caught: list[int]) -> bool:
    """Whether any rank was asked to stop; all ranks get the same answer, so that they stop at the same step."""
    if world_size() == 1:
        return bool(caught)
    return mean_over_ranks(torch.tensor([float(bool(caught))])).item() > 0


# ---- State: what a checkpoint holds --------------------------------------------


class TrainingState:
    """Networks, their averages, optimisers, loss scaler, and the position: `step` steps of `epoch` are done.

    With `ema_decay` the generator and the keypoint detector have exponential moving averages of weights and batch-norm
    statistics (Polyak averaging), which inference takes.
    """

    def __init__(
        self, config: dict, networks: dict[str, nn.Module], device: torch.device, seed: int, precision: str
    ):
        self.config, self.seed, self.networks = config, seed, networks
        self.epoch, self.step, self.loss_sums = 0, 0, {}
        self.best_l1 = math.inf  # of the validations so far
        self.params = params = config["train_params"]
        for name, network in networks.items():
            network.to(device).train()
            if params.get("channels_last", False):
                network.to(memory_format=torch.channels_last)
            if params[f"lr_{name}"] == 0:
                network.requires_grad_(False).eval()  # eval: running statistics stay too
        self.averages: dict[str, AveragedModel] = {}
        if "ema_decay" in params:
            average = get_ema_multi_avg_fn(params["ema_decay"])
            self.averages = {
                name: AveragedModel(networks[name], multi_avg_fn=average, use_buffers=True).eval()
                for name in INFERENCE_NETWORKS
            }
        self.optimizers = {
            f"optimizer_{name}": torch.optim.Adam(
                network.parameters(), lr=params[f"lr_{name}"], betas=(0.5, 0.999), fused=True
            )
            for name, network in networks.items()
        }
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def update_averages(self) -> None:
        for name, average in self.averages.items():
            average.update_parameters(self.networks[name])

    def for_inference(self, name: str) -> nn.Module:
        """A network in eval mode, the averaged one where there is one; training goes on untouched."""
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
        """Go on to the next epoch; return the mean losses of this one."""
        means = {name: value / self.step for name, value in self.loss_sums.items()}
        self.epoch, self.step, self.loss_sums = self.epoch + 1, 0, {}
        return means

    def content(self, epoch: int) -> dict:
        """A checkpoint: published keys, the averages, and under "resume" what else an exact continuation needs."""
        content = {name: network.state_dict() for name, network in self.networks.items()}
        content |= {f"{name}_ema": average.module.state_dict() for name, average in self.averages.items()}
        content |= {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        content["epoch"] = epoch
        content["resume"] = {
            "format": RESUME_FORMAT,
            "epoch": self.epoch,
            "step": self.step,
            "loss_sums": self.loss_sums,
            "best_l1": self.best_l1,
            "seed": self.seed,
            "scaler": self.scaler.state_dict(),
            "config": self.config,
        }
        return content

    def load(self, path: str | Path, batches: EpochBatches) -> None:
        """Go on from a checkpoint. A published one, without "resume", goes on after its epoch."""
        content = read_checkpoint(path)
        load_parts(content, self.networks | self.optimizers, path)
        self._load_averages(content, path)
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
        self.best_l1 = resume.get("best_l1", math.inf)
        self.scaler.load_state_dict(resume["scaler"])

    def _load_averages(self, content: dict, path: str | Path) -> None:
        """The averages go on; those of a run that had none begin with its weights."""
        for name, average in self.averages.items():
            key = f"{name}_ema" if f"{name}_ema" in content else name
            load_parts({key: content[key]}, {key: average.module}, path)
            average.n_averaged.fill_(1)  # 0 would make the next step overwrite the average


# ---- Models and schedule -------------------------------------------------------


def full_models(
    config: dict, networks: dict[str, nn.Module], device: torch.device, device_ids: list[int] | None
) -> tuple[nn.Module, nn.Module]:
    """The two full models on their device: compiled, split over GPUs or over ranks as config and run ask for."""
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
    """A tenth for each milestone that has been reached: MultiStepLR as a function of the epoch, without state."""
    factor = 0.1 ** sum(milestone <= epoch for milestone in params["epoch_milestones"])
    for name in NETWORKS:
        for group in optimizers[f"optimizer_{name}"].param_groups:
            group["lr"] = params[f"lr_{name}"] * factor


# ---- Progress ------------------------------------------------------------------


def progress_bar(
    num_epochs: int, steps: int, state: TrainingState
) -> Progress | contextlib.AbstractContextManager:
    if rank() != 0:
        return contextlib.nullcontext()
    left = (num_epochs - state.epoch) * steps - state.step
    return Progress(left * state.params["batch_size"], "training", "samples")


def as_text(losses: dict[str, float]) -> str:
    return "; ".join(f"{name} - {value:.3f}" for name, value in losses.items())
