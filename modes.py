"""What `run.py` does in each of its modes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from animate import animate
from batches import check_data
from checkpoint import (
    find_checkpoint,
    load_for_finetuning,
    load_for_inference,
    load_parts,
    read_checkpoint,
)
from device import pick_device, precision_hints, process_group, rank
from dry_run import check_step
from frames_dataset import FramesDataset
from logger import Logger, Visualizer
from modules.build import Networks, build_networks, read_config
from modules.errors import UserError
from modules.output import outlive_output
from reconstruction import reconstruction
from run_folder import RunFolder
from trackers import check_tracker, make_tracker
from train import train


def run_mode(options: argparse.Namespace) -> None:
    """Train, reconstruct or animate, with the options of `run.py`."""
    config = read_config(options.config, options.set)
    # An unknown colormap is told now, and not after an epoch.
    Visualizer(**(config.get("visualizer_params") or {}))
    device = pick_device(options.device, options.device_ids)
    if options.mode == "train":
        check_tracker(options.tracker)
        check_step(config, options.config, device, options.device_ids, options.precision)
    with process_group(device):
        if rank() == 0:
            for line in precision_hints(device, options.precision):
                print(f"hint: {line}", file=sys.stderr)
        if options.mode == "train":
            run_training(options, config, device)
        else:
            run_inference(options, config, device)


def networks_of(options: argparse.Namespace, config: dict) -> Networks:
    """The config's networks with fresh weights."""
    torch.manual_seed(options.seed or 0)  # of the initial weights; nothing else draws from this stream
    networks = build_networks(config)
    if options.verbose:
        tell(*networks)
    return networks


def tell(*lines: object) -> None:
    """Print once, and not once a process of `torchrun`."""
    if rank() == 0:
        print(*lines, sep="\n")


# ---- Training ------------------------------------------------------------------


def run_training(options: argparse.Namespace, config: dict, device: torch.device) -> None:
    """Go on with the run that has the checkpoint and a config of this name, or start a new one."""
    outlive_output()  # days of training are worth more than a pipe that was closed
    # The softmax of the heatmaps underflows, and a CPU takes ten times as long over such gradients. Threads
    # take this on from the one that starts them, so it comes before the first of PyTorch's.
    torch.set_flush_denormal(True)
    checkpoint = None if options.checkpoint is None else find_checkpoint(options.checkpoint)
    if checkpoint is not None and (folder := RunFolder(checkpoint.parent, options.config)).is_run():
        with folder:
            if rank() == 0:
                folder.lock()
            # Found again: until now another process may have gone on with this run.
            train_in(folder, options, config, device, going_on=find_checkpoint(options.checkpoint))
    else:
        with RunFolder.new(options.log_dir or Path("log"), options.config) as folder:
            train_in(folder, options, config, device, weights=checkpoint)


def train_in(
    folder: RunFolder,
    options: argparse.Namespace,
    config: dict,
    device: torch.device,
    going_on: Path | None = None,
    weights: Path | None = None,
) -> None:
    """Train: from the checkpoint `going_on` of this folder, or in a new folder, perhaps from `weights`."""
    networks, seed = networks_of(options, config), options.seed or 0
    dataset = FramesDataset(is_train=True, **config["dataset_params"])
    test_dataset = None
    if "eval_freq" in config["train_params"]:
        test_dataset = FramesDataset(is_train=False, **config["dataset_params"])
    if going_on is not None:
        content = read_checkpoint(going_on)
        load_parts(content, networks._asdict(), going_on, options.config)  # before the run's config changes
        seed = seed_of_run(content, going_on, options.seed)
        tell(f"going on with {going_on}")
    elif weights is not None:
        notes = load_for_finetuning(networks._asdict(), weights, options.config)
        tell(f"new run from the weights of {weights}, with fresh optimisers and schedule", *notes)
    check_data(dataset, config["train_params"])

    def open_logger(reached: tuple[int, int]) -> Logger:
        """The logger of a run that starts at (epoch, step) `reached`; a new run gets its folder now."""
        if going_on is None:
            folder.make()
        params = config["train_params"]
        logger = Logger(
            folder.path, params["checkpoint_freq"], config.get("visualizer_params"), start=reached
        )
        if options.set:
            folder.record_changes(config, options.set)
        logger.tracker = make_tracker(options.tracker, folder.path, config)
        return logger

    stopped_by = train(
        config,
        *networks,
        checkpoint=going_on,
        log_dir=folder.path,
        dataset=dataset,
        device_ids=options.device_ids,
        device=device,
        seed=seed,
        precision=options.precision,
        test_dataset=test_dataset,
        open_logger=open_logger,
    )
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    tell(f"trained: {folder.path}")


def seed_of_run(content: dict, checkpoint: Path, asked: int | None) -> int:
    seed = content.get("resume", {}).get("seed", asked or 0)
    if asked not in (None, seed):
        raise UserError(
            f"--seed {asked}: the run of {checkpoint} has seed {seed}; leave --seed out to go on with it"
        )
    return seed


# ---- Reconstruction and animation ----------------------------------------------


def run_inference(options: argparse.Namespace, config: dict, device: torch.device) -> None:
    checkpoint = find_checkpoint(options.checkpoint)
    networks = networks_of(options, config)
    dataset = FramesDataset(is_train=False, **config["dataset_params"])
    generator, kp_detector = networks.generator.to(device), networks.kp_detector.to(device)
    load_for_inference(checkpoint, generator, kp_detector, options.config)
    folder = options.log_dir or checkpoint.parent
    arguments = (config, generator, kp_detector, folder, dataset, device)
    more = {"precision": options.precision, "skip_existing": options.skip_existing}
    if options.mode == "reconstruction":
        print(f"Reconstruction loss: {reconstruction(*arguments, **more)}")
    else:
        print(f"animations: {animate(*arguments, seed=options.seed or 0, **more)}")
