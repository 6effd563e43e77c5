"""The batches of a training run: which samples, in which order, and the workers that load them.

Every random number of a run belongs to (seed, epoch, step), never to what was drawn before. So a run goes on
exactly from its middle, and gives the same on any number of GPUs or processes that share the batch.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.queues
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from modules.transform import Transform
from utils.distributed import in_torchrun, rank, world_size
from utils.errors import DatasetError, UserError
from utils.signals import STOP_SIGNALS


def seeded_generator(*key: int) -> torch.Generator:
    """Return a stream of random numbers that belongs to `key`, unrelated to those of other keys."""
    # The length belongs to the key, as zeros at its end are ignored.
    sequence = np.random.SeedSequence([len(key), *key])
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


class EpochBatches(Sampler[list[int]]):
    """The whole batches of an epoch from a given step on, this rank's share of each: lists of indices.

    `accumulate`: the parts in which a share is computed one after the other.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int, accumulate: int = 1):
        if num_samples < batch_size:
            raise DatasetError(
                f"an epoch has {num_samples} samples, less than one batch of {batch_size}; add clips, raise "
                "train_params.num_repeats or lower train_params.batch_size"
            )
        if batch_size % (world_size() * accumulate):
            raise UserError(
                f"train_params.batch_size {batch_size} can't be computed in {accumulate} equal parts by "
                f"{world_size()} process(es); change it, or train_params.accumulate"
            )
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.epoch, self.step = 0, 0

    def start_at(self, epoch: int, step: int) -> None:
        self.epoch, self.step = epoch, step

    def __len__(self) -> int:
        """Return the steps of a whole epoch."""
        return self.num_samples // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.num_samples, generator=seeded_generator(self.seed, self.epoch))
        for step in range(self.step, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield batch.chunk(world_size())[rank()].tolist()


def draw_transform(params: dict, key: tuple[int, int, int], device: torch.device) -> dict[str, Tensor]:
    """Draw this rank's share of a batch's equivariance transforms. `params`: the config's `train_params`."""
    drawn = Transform(params["batch_size"], **params["transform_params"], generator=seeded_generator(*key))
    return {name: tensor.chunk(world_size())[rank()].to(device) for name, tensor in drawn.state().items()}


def to_device(x: dict, device: torch.device) -> dict[str, Tensor]:
    """Move the frames of a batch to the device, in the default dtype."""
    dtype = torch.get_default_dtype()
    return {name: x[name].to(device, dtype, non_blocking=True) for name in ("source", "driving")}


FILES_PER_WORKER = 4  # two pipes
FILES_OF_BATCHES = 32  # that a worker, or the run itself, opens for the batches on their way


def make_loader(dataset: Dataset, batches: EpochBatches, params: dict, device: torch.device) -> DataLoader:
    """Load `batches`; `params`: the config's `train_params`."""
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if in_torchrun() else 1
    num_workers = params.get("num_workers", min(6, math.ceil((os.cpu_count() or 1) / local_processes)))
    allow_open_files(num_workers)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
    )


def allow_open_files(num_workers: int) -> None:
    """Let this process open as many files as its workers and their batches take, or PyTorch waits for ever.

    Raises `UserError` where the system's limit is lower.
    """
    try:
        import resource  # Windows has no such module, and no such limit

        opened = sum(1 for _ in Path("/dev/fd").iterdir())
    except (ImportError, FileNotFoundError):
        return
    if not num_workers:
        return
    # Raise the soft limit, which a user may do, as far as it takes.
    needed = opened + FILES_PER_WORKER * num_workers + FILES_OF_BATCHES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed <= soft or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UserError(
            f"{num_workers} workers that load data need {needed} open files, the limit is {hard}; raise it "
            "(ulimit -n) or lower train_params.num_workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def start_worker(worker: int) -> None:
    """Make this process a worker of a loader."""
    # Ctrl-C and schedulers signal every process of a run; workers are needed until the end of a step.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # A batch that can't be sent ends its worker, or the run would wait for it for ever. PyTorch makes the
    # queue and takes no other; this process is a worker and nothing else.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(  # type: ignore[attr-defined]
        lambda error, batch: os._exit(1)
    )


class WorkerDied(Exception):
    """A worker of the data loader ended by itself. The steps before it are whole."""


@contextlib.contextmanager
def workers_ended() -> Iterator[None]:
    """End the processes started in the block: Python would wait for them, and they ignore SIGTERM."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()
            child.join()


@contextlib.contextmanager
def deaths_told() -> Iterator[None]:
    """Raise `WorkerDied` where a worker ended in the block."""
    try:
        yield
    except (EOFError, ConnectionError) as error:  # it died while it handed over a batch
        raise WorkerDied from error
    except RuntimeError as error:
        # "Caught" stands before an error of the data itself, with its traceback.
        if "DataLoader worker" not in str(error) or str(error).startswith("Caught "):
            raise
        raise WorkerDied from error


class TimedBatches:
    """Iterate a loader, and time it. Raises `WorkerDied` between two batches, never within a step."""

    def __init__(self, loader: DataLoader):
        self.loader = loader
        self.data, self.compute, self.steps = 0.0, 0.0, 0

    def __iter__(self) -> Iterator[dict]:
        # A worker can have died since the last epoch.
        with deaths_told():
            iterator = iter(self.loader)
        # PyTorch's handler would raise in the middle of a step.
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            # Wait for a batch, then for the step on it.
            start = time.perf_counter()
            with deaths_told():
                x = next(iterator, None)
            self.data += time.perf_counter() - start
            if x is None:
                return
            start = time.perf_counter()
            yield x
            self.compute += time.perf_counter() - start
            self.steps += 1

    def measured(self, batch_size: int) -> dict[str, float]:
        return {
            "samples_per_second": self.steps * batch_size / max(self.data + self.compute, 1e-9),
            "data_seconds": self.data,
            "compute_seconds": self.compute,
        }
