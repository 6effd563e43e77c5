"""Train a model, reconstruct test videos, or animate pairs of test videos, as a config says.

    python run.py config/vox-256.yaml --device_ids 0,1,2,3
    python run.py config/vox-256.yaml --mode reconstruction --checkpoint log/vox-256_2026-01-31_12-00-00
    torchrun --nproc_per_node=4 run.py config/vox-256.yaml

With --checkpoint, training goes on in the checkpoint's run folder if that run has the same config file name; any other config
starts a new run from the checkpoint's weights (fine-tuning).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from modules.errors import CheckpointError, UserError, command_line

if TYPE_CHECKING:  # imported where they are needed, so that --help answers at once
    import torch
    from torch import nn

# The generator without its motion network; the occlusion map says what it is to paint.
PAINTING = (
    "first.",
    "down_blocks.",
    "bottleneck.",
    "up_blocks.",
    "final.",
    "dense_motion_network.occlusion.",
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config_file", nargs="?", metavar="CONFIG", help="a YAML config, see config/")
    parser.add_argument("--config", help="the config, by the published option")
    parser.add_argument("--mode", default="train", choices=["train", "reconstruction", "animate"])
    parser.add_argument("--log_dir", default="log", help="folder for the folders of runs (default: log)")
    parser.add_argument(
        "--checkpoint", help="a .pth.tar file, or the folder of a run, whose newest one is taken"
    )
    parser.add_argument(
        "--device_ids", type=gpu_numbers, help="GPUs to train on, by number: 0,1,2,3 (default: the first)"
    )
    parser.add_argument("--device", choices=["cuda", "mps", "cpu"], help="default: the best there is")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"], help="default: fp32")
    parser.add_argument(
        "--seed", type=int, help="of everything random (default: 0, or that of the run that goes on)"
    )
    parser.add_argument(
        "--skip_existing", action="store_true", help="don't reconstruct or animate what is there already"
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

    from device import pick_device, process_group
    from frames_dataset import FramesDataset
    from logger import Visualizer, find_checkpoint
    from modules.build import build_discriminator, build_generator, build_kp_detector, read_config

    config = read_config(options.config)
    Visualizer(
        **(config.get("visualizer_params") or {})
    )  # an unknown colormap would else come out after an epoch
    device = pick_device(options.device, options.device_ids)
    checkpoint = None if options.checkpoint is None else find_checkpoint(options.checkpoint)
    with process_group(device):
        torch_seed(options.seed or 0)
        networks = {
            "generator": build_generator(config),
            "discriminator": build_discriminator(config),
            "kp_detector": build_kp_detector(config),
        }
        if options.verbose:
            print(*networks.values(), sep="\n")
        dataset = FramesDataset(is_train=options.mode == "train", **config["dataset_params"])
        if options.mode == "train":
            run_training(options, config, networks, checkpoint, dataset, device)
        else:
            run_inference(options, config, networks, checkpoint, dataset, device)


def torch_seed(seed: int) -> None:
    """Seed the initial weights, the only thing that draws from torch's global stream."""
    import torch

    torch.manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def run_training(
    options: argparse.Namespace,
    config: dict,
    networks: dict[str, nn.Module],
    checkpoint: Path | None,
    dataset,
    device: torch.device,
) -> None:
    from logger import read_checkpoint
    from train import check_data, train

    goes_on = checkpoint is not None and is_run_of(checkpoint.parent, options.config)
    seed = options.seed or 0
    if goes_on:
        log_dir = checkpoint.parent
        seed = seed_of_run(read_checkpoint(checkpoint), checkpoint, options.seed)
        print(f"going on with {checkpoint}")
    else:
        if checkpoint is not None:
            start_from_weights(networks, checkpoint, options.config)
        check_data(dataset, config["train_params"])
        log_dir = new_run_folder(Path(options.log_dir), options.config)
    stopped_by = train(
        config,
        **networks,
        checkpoint=checkpoint if goes_on else None,
        log_dir=log_dir,
        dataset=dataset,
        device_ids=options.device_ids,
        device=device,
        seed=seed,
        precision=options.precision,
    )
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    print(f"trained: {log_dir}")


def is_run_of(folder: Path, config_path: Path) -> bool:
    """Whether a folder is that of a training run with a config of this name."""
    return (folder / "train-vis").is_dir() and (folder / config_path.name).exists()


def seed_of_run(content: dict, checkpoint: Path, asked: int | None) -> int:
    seed = content.get("resume", {}).get("seed", asked or 0)
    if asked not in (None, seed):
        raise UserError(
            f"--seed {asked}: the run of {checkpoint} has seed {seed}; leave --seed out to go on with it"
        )
    return seed


def start_from_weights(networks: dict[str, nn.Module], checkpoint: Path, config_path: Path) -> None:
    """Fine-tuning: take over the weights of a checkpoint. A discriminator of another layout starts anew."""
    from logger import load_parts, read_checkpoint

    print(f"new run from the weights of {checkpoint}, with fresh optimisers and schedule")
    content = read_checkpoint(checkpoint)
    for name in ("generator", "kp_detector"):
        if isinstance(content.get(name), dict):  # else told by `load_parts`
            content[name] = adopted(content[name], networks[name])
    load_parts(
        content, {name: networks[name] for name in ("generator", "kp_detector")}, checkpoint, config_path
    )
    try:
        load_parts(content, {"discriminator": networks["discriminator"]}, checkpoint, config_path)
    except CheckpointError as error:
        print(f"the discriminator starts anew: {error}")


def adopted(state: dict, network: nn.Module) -> dict:
    """A state from which `network` can start although parts of it are other ones now; what those were keeps its new weights.

    Blur kernels follow from the config's scales and are not learned. A Jacobian head that the state lacks starts as it is
    built, with the identity everywhere: that is what zero-order motion is. Where the generator has other layers now, its motion
    network goes on, and all that encodes, occludes, transforms and decodes features starts anew.
    """
    own = network.state_dict()
    anew = {key for key in state.keys() | own.keys() if key.endswith("down.weight")}
    anew |= {key for key in own if key.startswith("jacobian.") and key not in state}
    painting = {key for key in state.keys() | own.keys() if key.startswith(PAINTING)}
    if any(key not in state or key not in own or state[key].shape != own[key].shape for key in painting):
        print(
            "the generator has other layers than the checkpoint's: they start anew, its motion network goes on"
        )
        anew |= painting
    return {key: tensor for key, tensor in state.items() if key not in anew} | {
        key: own[key] for key in anew & own.keys()
    }


def new_run_folder(parent: Path, config_path: Path) -> Path:
    """`<config>_<timestamp>` under `parent` with a copy of the config in it; only rank 0 makes it."""
    from device import rank

    log_dir = parent / f"{config_path.stem}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    if rank() == 0:
        try:
            log_dir.mkdir(parents=True)
            shutil.copy(config_path, log_dir / config_path.name)
        except OSError as error:
            raise UserError(
                f"{log_dir}: the run's folder can't be made ({error}); choose another --log_dir"
            ) from error
    return log_dir


# ---------------------------------------------------------------------------------------------------------------------
# Reconstruction and animation


def run_inference(
    options: argparse.Namespace,
    config: dict,
    networks: dict[str, nn.Module],
    checkpoint: Path,
    dataset,
    device: torch.device,
) -> None:
    from animate import animate
    from logger import Logger
    from reconstruction import reconstruction

    used = {name: networks[name].to(device) for name in ("generator", "kp_detector")}
    Logger.load_cpk(checkpoint, **used, config_path=options.config)
    shared = {"device": device, "precision": options.precision, "skip_existing": options.skip_existing}
    if options.mode == "reconstruction":
        loss = reconstruction(config, **used, log_dir=checkpoint.parent, dataset=dataset, **shared)
        print(f"Reconstruction loss: {loss}")
    else:
        seed = options.seed or 0
        print(
            f"animations: {animate(config, **used, log_dir=checkpoint.parent, dataset=dataset, seed=seed, **shared)}"
        )


if __name__ == "__main__":
    main()
