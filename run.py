"""Train a model, reconstruct test videos, or animate pairs of test videos, as a config says.

    python run.py config/vox-256.yaml --device_ids 0,1,2,3
    python run.py config/vox-256.yaml --mode reconstruction --checkpoint log/vox-256_2026-01-31_12-00-00
    torchrun --nproc_per_node=4 run.py config/vox-256.yaml

With --checkpoint, training goes on in the checkpoint's run folder if that run has a config file of the same
name. Any other config starts a new run from the checkpoint's weights (fine-tuning). Reconstructions and
animations are written beside the checkpoint, or into --log_dir.
"""

from __future__ import annotations

import openmp  # noqa: F401 - sets how torch's threads wait

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
from device import pick_device, process_group, rank
from dry_run import check_step
from frames_dataset import FramesDataset
from logger import Logger, Visualizer
from modules.build import Networks, build_networks, read_config
from modules.errors import UserError, command_line
from modules.options import seed_number
from modules.output import outlive_output
from reconstruction import reconstruction
from run_folder import RunFolder
from trackers import TRACKERS, check_tracker, make_tracker
from train import train


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config_file", nargs="?", metavar="CONFIG", help="a YAML config, see config/")
    parser.add_argument("--config", help="the config, by the published option")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change values of the config: --set train_params.batch_size=8 dataset_params.root_dir=data/mine",
    )
    parser.add_argument("--mode", default="train", choices=["train", "reconstruction", "animate"])
    parser.add_argument(
        "--log_dir",
        type=Path,
        help="train: the folder for the folders of runs (default: log); reconstruction and animate: the "
        "folder to write to (default: that of the checkpoint)",
    )
    parser.add_argument(
        "--checkpoint", help="a .pth.tar file, or the folder of a run, whose newest one is taken"
    )
    parser.add_argument(
        "--device_ids", type=gpu_numbers, help="GPUs to train on, by number: 0,1,2,3 (default: the first)"
    )
    parser.add_argument("--device", choices=["cuda", "mps", "cpu"], help="default: the best there is")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"], help="default: fp32")
    parser.add_argument(
        "--seed", type=seed_number, help="of everything random (default: 0, or that of the run that goes on)"
    )
    parser.add_argument(
        "--skip_existing", action="store_true", help="don't reconstruct or animate what is there already"
    )
    parser.add_argument(
        "--tracker",
        choices=TRACKERS,
        help="where curves are shown (default: tensorboard, where it is installed)",
    )
    parser.add_argument("--verbose", action="store_true", help="print the networks")
    options = parser.parse_args(argv)
    if (options.config is None) == (options.config_file is None):
        parser.error("give one config: run.py config/vox-256.yaml, or run.py --config config/vox-256.yaml")
    options.config = Path(options.config or options.config_file)
    return options


def gpu_numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of GPU numbers like 0,1,2,3") from None


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if options.mode != "train" and options.checkpoint is None:
        raise UserError(
            f"{options.mode} needs --checkpoint (a .pth.tar written by training, or the folder of a run)"
        )
    config = read_config(options.config, options.set)
    # An unknown colormap is told now, and not after an epoch.
    Visualizer(**(config.get("visualizer_params") or {}))
    device = pick_device(options.device, options.device_ids)
    if options.mode == "train":
        check_tracker(options.tracker)
        check_step(config, options.config, device, options.device_ids, options.precision)
    with process_group(device):
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


if __name__ == "__main__":
    main()
