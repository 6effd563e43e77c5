"""Kills, stops and starves a tiny training at random moments, goes on each time, and compares the ends.

    python -m tools.torture --rounds 200 --seed 0

A round is one run, struck at its first start and, by chance, at later ones: the program or a worker is
killed, it gets a signal, or its files may not grow any more, as on a full disk. In the end weights,
optimisers and logs must be bit for bit those of a run that nobody touched, and nothing temporary may remain.
Needs Linux.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import run
import train
from checkpoints.files import read_checkpoint
from media.pictures import write_image
from training import validation
from utils.options import OptionParser
from utils.program import command_line

SECONDS_PER_CHECKPOINT = 0.2
MAX_SECONDS = 60  # after which a program that doesn't end counts as stuck
MAX_FILE = 300_000  # bytes; a checkpoint of the tiny run has about 500,000
TIMED = ("samples_per_second", "data_seconds", "compute_seconds", "peak_memory_mib")  # differ in each run

CONFIG = """
dataset_params:
  {root_dir: DATA, frame_shape: [32, 32, 3], augmentation_params: {flip_param: {time_flip: true}}}
model_params:
  common_params: {num_kp: 2, num_channels: 3, estimate_jacobian: true}
  kp_detector_params:
    {temperature: 0.1, block_expansion: 4, max_features: 8, scale_factor: 0.5, num_blocks: 1}
  generator_params:
    {block_expansion: 4, max_features: 8, num_down_blocks: 1, num_bottleneck_blocks: 1,
     estimate_occlusion_map: true,
     dense_motion_params: {block_expansion: 4, max_features: 8, num_blocks: 1, scale_factor: 0.5}}
  discriminator_params: {scales: [1], block_expansion: 4, max_features: 8, num_blocks: 2, sn: true}
train_params:
  {num_epochs: 3, num_repeats: 3, epoch_milestones: [2], batch_size: 2, scales: [1, 0.5], checkpoint_freq: 1,
   lr_generator: 2.0e-4, lr_discriminator: 2.0e-4, lr_kp_detector: 2.0e-4, ema_decay: 0.9, eval_freq: 1,
   num_workers: 2, transform_params: {sigma_affine: 0.05, sigma_tps: 0.005, points_tps: 5},
   loss_weights: {generator_gan: 1, discriminator_gan: 1, feature_matching: [10, 10],
                  perceptual: [0, 0, 0, 0, 0], equivariance_value: 10, equivariance_jacobian: 10}}
"""


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the number of the first round (default 0)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # a process with threads can't be forked safely
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        config = write_inputs(Path(name))
        began = time.monotonic()
        whole = Round(config, Path(name) / "whole")
        whole.start()
        whole.wait()
        duration = time.monotonic() - began
        print(f"seed {options.seed}; the run that nobody touches took {duration:.1f} s", flush=True)
        for number in range(options.first, options.first + options.rounds):
            rng = random.Random(f"{options.seed} {number}")
            struck = Round(config, Path(name) / f"round-{number}")
            problem = struck.play(rng, duration) or difference(whole.folder(), struck.folder())
            wrong += bool(problem)
            verdict = f"WRONG: {problem}\n{struck.output.read_text()}" if problem else "right"
            print(f"round {number}: {verdict} after {', '.join(struck.strikes)}", flush=True)
            shutil.rmtree(struck.log_dir)
    print(f"{options.rounds - wrong} of {options.rounds} rounds are right")
    if wrong:
        sys.exit(1)


def write_inputs(folder: Path) -> Path:
    """A dataset of little clips, and the config that trains on it, whose path is returned."""
    rng = np.random.default_rng(0)
    for split, clips in (("train", 4), ("test", 2)):
        for clip in range(clips):
            place = folder / "data" / split / f"{split}{clip}#0"
            place.mkdir(parents=True)
            picture = np.kron(rng.integers(0, 256, (8, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
            for i in range(4):
                write_image(place / f"{i}.png", np.ascontiguousarray(picture[:32, 4 * i : 4 * i + 32]))
    path = folder / "tiny.yaml"
    config = yaml.safe_load(CONFIG)
    config["dataset_params"]["root_dir"] = str(folder / "data")
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


# ---- One round ---------------------------------------------------------------


class Round:
    """A run in `log_dir`, started as often as it takes."""

    def __init__(self, config: Path, log_dir: Path):
        self.config, self.log_dir = config, log_dir
        self.strikes: list[str] = []
        self.output = log_dir / "output.txt"
        log_dir.mkdir()

    def folder(self) -> Path:
        """The folder of the run; a round has one at most."""
        return next(self.log_dir.glob("tiny_*"), self.log_dir / "none")

    def play(self, rng: random.Random, duration: float) -> str:
        """Start, strike and go on until the run is whole; returns what was wrong, or an empty text."""
        status = -1
        while status != 0:
            self.start()
            if not self.strikes or rng.random() < 0.5:
                self.strike(rng, rng.uniform(0, 1.2 * duration))
            status = self.wait()
            text = self.output.read_text()
            if status not in (0, 2, -9, -1, -15, 129, 143):
                return f"status {status}"
            if status != -9 and ("Traceback" in text or text.count("error:") > 1):
                return "more than one line of error"
        leftovers = [path.name for path in self.log_dir.rglob("*.tmp")]
        return f"left {leftovers}" if leftovers else ""

    def start(self) -> None:
        """Start `run.py`, from this process, as importing everything anew takes seconds."""
        arguments = [str(self.config), "--device", "cpu", "--log_dir", str(self.log_dir)]
        if list(self.folder().glob("[0-9l]*-checkpoint.pth.tar")):
            arguments += ["--checkpoint", str(self.folder())]
        else:
            shutil.rmtree(self.folder(), ignore_errors=True)
        self.pid = os.fork()
        if self.pid == 0:
            self.become_program(arguments)

    def become_program(self, arguments: list[str]) -> None:
        """What a new process does: it writes to the round's file and never returns."""
        status = 1
        try:
            with self.output.open("w") as sys.stdout, contextlib.redirect_stderr(sys.stdout):
                train.SECONDS_PER_CHECKPOINT = SECONDS_PER_CHECKPOINT
                try:
                    run.main(arguments)
                    status = 0
                except SystemExit as stop:
                    status = int(stop.code or 0)
                except BaseException:
                    traceback.print_exc()
        finally:
            os._exit(status)

    def wait(self) -> int:
        """The exit status; that of a stuck program is 124."""
        end = time.monotonic() + MAX_SECONDS
        while time.monotonic() < end:
            pid, ended = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(ended)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return 124

    def strike(self, rng: random.Random, seconds: float) -> None:
        name = rng.choice(sorted(STRIKES))
        self.strikes.append(f"{name} at {seconds:.1f} s")
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):  # it had ended
            STRIKES[name](self.pid, rng)


def kill_worker(pid: int, rng: random.Random) -> None:
    with contextlib.suppress(FileNotFoundError):
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if workers:
            os.kill(int(rng.choice(workers)), signal.SIGKILL)


def fill_disk(pid: int, rng: random.Random) -> None:
    import resource  # Unix alone has it

    size = rng.randrange(MAX_FILE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))


STRIKES: dict[str, Callable[[int, random.Random], None]] = {
    "kill": lambda pid, rng: os.kill(pid, signal.SIGKILL),
    "worker killed": kill_worker,
    "disk full": fill_disk,
    "SIGTERM": lambda pid, rng: os.kill(pid, signal.SIGTERM),
    "SIGHUP": lambda pid, rng: os.kill(pid, signal.SIGHUP),
}


# ---- Comparison --------------------------------------------------------------


def difference(whole: Path, struck: Path) -> str:
    """What differs between two runs, or an empty text."""
    for name in sorted(path.name for path in whole.glob("*-checkpoint.pth.tar")):
        if name.startswith("last"):  # written by time
            continue
        if not (struck / name).exists():
            return f"{name} is missing"
        if not same(read_checkpoint(whole / name), read_checkpoint(struck / name)):
            return f"{name} differs"
    if (whole / "log.txt").read_bytes() != (struck / "log.txt").read_bytes():
        return "log.txt differs"
    return "" if entries(whole) == entries(struck) else "log.jsonl differs"


def entries(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def same(a: Any, b: Any) -> bool:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


if __name__ == "__main__":
    # Imported here, and not in each start.
    with contextlib.suppress(ImportError):
        import torch.utils.tensorboard
    validation.ssim(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), data_range=1.0)
    main()
