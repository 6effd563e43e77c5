"""Train a model, reconstruct test videos, or animate pairs of test videos, as a config says.

    python run.py config/vox-256.yaml --device_ids 0,1,2,3
    python run.py config/vox-256.yaml --mode reconstruction --checkpoint log/vox-256_2026-01-31_12-00-00
    torchrun --nproc_per_node=4 run.py config/vox-256.yaml

--resume goes on with a run in its folder. --finetune starts a new run from the weights of a checkpoint, with
--next_stage also from its epoch and optimisers. --checkpoint, as published, resumes where the checkpoint's
folder has a config file of the same name, and else fine-tunes.
"""

from __future__ import annotations

import utils.openmp  # noqa: F401 - sets how torch's threads wait

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from animate import animate
from checkpoints.files import find_checkpoint, load_for_finetuning, load_for_inference, read_checkpoint
from frames_dataset import FramesDataset, build_dataset
from logger import TRACKERS, Visualizer, check_tracker
from modules.build import Networks, build_networks, read_config
from reconstruction import reconstruction
from train import train
from training.folder import RunFolder, new_run, run_of
from training.record import RECORD, run_of_job
from utils.device import denormals_flushed, pick_device, precision_hints
from utils.distributed import by_first_rank, job_id, process_group, rank
from utils.errors import CheckpointError, UserError
from utils.options import MAX_SEED, PRECISIONS, OptionParser, add_options, option, typed
from utils.program import command_line, outlive_output, say
from utils.values import integer

COPIES = 4  # of each weight that learns: itself, its gradient, and Adam's two moments


def gpu_numbers(text: str) -> tuple[int, ...]:
    return tuple(integer(number, 0, 1023) for number in text.split(","))


@dataclass(frozen=True)
class Options:
    """Each field is the option of `run.py` that has its name."""

    config: Path = option(None, "the config, by the published option")
    set: tuple[str, ...] | None = option(
        None,
        "change values of the config: --set train_params.batch_size=8 dataset_params.root_dir=data/mine",
        nargs="+",
        action="extend",
        metavar="KEY=VALUE",
    )
    mode: str = option("train", "default: train", choices=["train", "reconstruction", "animate"])
    log_dir: Path | None = option(
        None,
        "train: the folder for the folders of runs (default: log); reconstruction and animate: the folder "
        "to write to (default: that of the checkpoint)",
    )
    name: str | None = option(
        None, "train: of a new run's folder in --log_dir (default: the config's name and the time)"
    )
    checkpoint: str | None = option(
        None, "a .pth.tar file, or the folder of a run, for its newest checkpoint"
    )
    resume: str | None = option(None, "train: a checkpoint, or the folder, of the run to go on with")
    finetune: str | None = option(None, "train: a checkpoint whose weights a new run begins with")
    next_stage: bool = option(
        False,
        "train: with the --finetune of another config, begin at its epoch and with its optimisers, as the "
        "published code does: config/vox-adv-256.yaml has 150 epochs with those of config/vox-256.yaml",
    )
    device_ids: tuple[int, ...] | None = option(
        None, "GPUs to train on, by number: 0,1,2,3 (default: the first)", type=gpu_numbers
    )
    device: str | None = option(None, "default: the best there is", choices=["cuda", "mps", "cpu"])
    precision: str = option("fp32", "default: fp32", choices=PRECISIONS)
    seed: int | None = option(
        None, "of everything random (default: 0, or that of the run that goes on)", bounds=(0, MAX_SEED)
    )
    skip_existing: bool = option(False, "don't reconstruct or animate what is there already")
    tracker: str | None = option(
        None, "for curves (default: tensorboard, where it is installed)", choices=TRACKERS
    )
    verbose: bool = option(False, "print the networks")

    @property
    def start(self) -> str | None:
        """The checkpoint that training begins from."""
        return self.checkpoint or self.resume or self.finetune


def parse(argv: list[str] | None) -> Options:
    parser = OptionParser(__doc__)
    parser.add_argument(
        "config_file", nargs="?", type=Path, metavar="CONFIG", help="a YAML config, see config/"
    )
    add_options(parser, Options)
    parsed = parser.parse_args(argv)
    if (parsed.config_file is None) == (parsed.config is None):
        parser.error("give one config: run.py config/vox-256.yaml, or run.py --config config/vox-256.yaml")
    parsed.config = parsed.config_file or parsed.config
    options = typed(Options, parsed)
    if options.mode != "train" and options.checkpoint is None:
        parser.error(
            f"{options.mode} needs --checkpoint (a .pth.tar written by training, or the folder of a run)"
        )
    given = [name for name in ("checkpoint", "resume", "finetune") if getattr(options, name) is not None]
    if len(given) > 1:
        parser.error(f"--{given[0]} and --{given[1]} exclude each other")
    for name in ("resume", "finetune", "name", "next_stage"):
        if options.mode != "train" and getattr(options, name):
            parser.error(f"--{name} goes with --mode train; {options.mode} takes --checkpoint")
    if options.next_stage and (options.start is None or options.resume):
        parser.error("--next_stage goes with the --finetune of the stage before")
    if options.name is not None and (options.resume or Path(options.name).name != options.name):
        parser.error("--name is that of a new run's folder, without its parent, which --log_dir gives")
    return options


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    config = read_config(options.config, options.set or ())
    # Mistakes that would else be told after an epoch.
    Visualizer(**(config.get("visualizer_params") or {}))
    check_tracker(options.tracker)
    device = pick_device(options.device, options.device_ids)
    try_memory(options, config, device)

    trains = options.mode == "train"
    group = process_group(device) if trains else contextlib.nullcontext()
    with denormals_flushed(trains), group:
        for hint in precision_hints(device, options.precision):
            tell(f"hint: {hint}", file=sys.stderr)
        torch.manual_seed(options.seed or 0)  # of the initial weights; nothing else draws from this stream
        networks = build_networks(config)
        if options.verbose:
            tell(*(line for network in networks for line in str(network).splitlines()))

        if trains:
            outlive_output()  # days of training are worth more than a pipe that was closed
            with find_folder(options, config) as folder:
                found = resume_or_load(options, networks, folder)
                content = None if found is None else read_checkpoint(found)
                dataset, test_dataset = training_datasets(config, content if folder.resumes else None)
                stopped_by = train(
                    config,
                    *networks,
                    checkpoint=found,
                    content=content,
                    log_dir=folder,
                    dataset=dataset,
                    device_ids=options.device_ids,
                    device=device,
                    seed=options.seed,
                    precision=options.precision,
                    test_dataset=test_dataset,
                )
            if stopped_by is not None:
                sys.exit(128 + stopped_by)
        elif options.mode == "reconstruction":
            arguments = prepare(options, config, networks, device)
            loss = reconstruction(config, **arguments)
            if loss is not None:
                say(f"Reconstruction loss: {loss}")
        elif options.mode == "animate":
            arguments = prepare(options, config, networks, device)
            tell(f"animations: {animate(config, **arguments, seed=options.seed or 0)}")


def find_folder(options: Options, config: dict) -> RunFolder:
    """Return the folder of the run that is resumed, or of a new one."""
    log_dir, copied = options.log_dir or Path("log"), (config, options.config, options.set or ())
    begun = by_first_rank(lambda: begun_by_torchrun(options, log_dir))
    if begun is not None:
        return RunFolder(begun[0], *copied, options.tracker, resumes=begun[1], restarts=True)
    path = None
    if options.start is not None and options.finetune is None:
        found = find_checkpoint(options.start)
        path = run_of(found, options.config)
        if options.resume is not None and path is None:
            raise UserError(
                f"--resume: {found.parent} is no run of {options.config.name}; give the config of that name "
                "that lies there, or begin a new run with --finetune"
            )
    resumes = path is not None
    if resumes and options.name is not None:
        raise UserError(
            f"--name: the run goes on in {path}; leave it out, or begin a new one with --finetune"
        )
    path = path or new_run(log_dir, options.name, options.config)
    return RunFolder(path, *copied, options.tracker, resumes)


def begun_by_torchrun(options: Options, log_dir: Path) -> tuple[Path, bool] | None:
    """Return the folder of the run that this job began before its processes were restarted, if it did.

    Beside it stands whether there is a checkpoint to resume from.
    """
    if job_id() is None:
        return None
    folders = [path.parent for path in log_dir.glob(f"*/{RECORD}")]
    if options.start is not None:
        folders.append(find_checkpoint(options.start).parent)
    path = run_of_job(folders)
    if path is None:
        return None
    tell(f"torchrun's job began in {path} before, and goes on there")
    try:
        find_checkpoint(path)
    except CheckpointError:
        return path, False
    return path, True


def resume_or_load(options: Options, networks: Networks, folder: RunFolder) -> Path | None:
    """Return the checkpoint whose position the run takes, if any; a new run takes the weights alone."""
    beginning = str(folder.path) if folder.resumes and folder.restarts else options.start
    if beginning is None:
        return None
    # Found again under the folder's lock: until then another process may have trained in it.
    checkpoint = by_first_rank(lambda: find_checkpoint(beginning))
    if folder.resumes and options.next_stage and not folder.restarts:
        raise UserError(
            f"--next_stage: {folder.path} is the run of {options.config.name}; leave it out to go on there"
        )
    if folder.resumes:
        tell(f"going on with {checkpoint}")
        return checkpoint
    notes = load_for_finetuning(networks._asdict(), checkpoint, options.config)
    rest = "its epoch and its optimisers" if options.next_stage else "fresh optimisers and schedule"
    tell(f"new run from the weights of {checkpoint}, with {rest}", *notes)
    return checkpoint if options.next_stage else None


def training_datasets(config: dict, resumed: dict | None) -> tuple[FramesDataset, FramesDataset | None]:
    """Build what to train on and, where the config asks for it, what to validate on.

    `resumed`: the content of the checkpoint that a run goes on from.
    """
    if "eval_freq" not in config["train_params"]:
        return build_dataset(config, is_train=True), None
    # A run that has trained on all clips, as was usual once, goes on so, and its validation is on test/.
    validates = True
    if resumed is not None:
        before = (resumed.get("resume") or {}).get("run", {}).get("validation")
        validates = before not in (None, "test")
    train_set, other = (build_dataset(config, is_train, validates) for is_train in (True, False))
    tell(f"validation on {other.folder} ({other.split}), clips: {len(other.clips)}")
    return train_set, other


def prepare(options: Options, config: dict, networks: Networks, device: torch.device) -> dict[str, Any]:
    """Load trained weights and test clips: the arguments that reconstruction and animation share."""
    assert options.checkpoint is not None  # `parse` asks for it
    checkpoint = find_checkpoint(options.checkpoint)
    dataset = build_dataset(config, is_train=False)
    generator, kp_detector = networks.generator.to(device), networks.kp_detector.to(device)
    load_for_inference(checkpoint, generator, kp_detector, options.config)
    return {
        "generator": generator,
        "kp_detector": kp_detector,
        "log_dir": options.log_dir or checkpoint.parent,
        "dataset": dataset,
        "device": device,
        "precision": options.precision,
        "skip_existing": options.skip_existing,
    }


def try_memory(options: Options, config: dict, device: torch.device) -> None:
    """Raise `UserError` if there is too little memory for the weights."""
    # All of it at once: where networks take it bit by bit, the system kills the process.
    with torch.device("meta"):
        weights = [weight for network in build_networks(config) for weight in network.parameters()]
    needed = sum(weight.nbytes for weight in weights) * (COPIES if options.mode == "train" else 1)
    try:
        torch.empty(needed, dtype=torch.uint8, device=device)
    except RuntimeError as error:
        raise UserError(
            f"{options.config}: {options.mode} needs at least {needed / 2**30:.1f} GiB of memory for the "
            "networks; take smaller ones, or close other programs"
        ) from error


def tell(*lines: object, file: TextIO | None = None) -> None:
    """Print once, and not once a process of `torchrun`."""
    if rank() == 0:
        for line in lines:
            say(line, file)


if __name__ == "__main__":
    main()
