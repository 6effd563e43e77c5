"""Train a model, reconstruct test videos, or animate pairs of test videos, as a config says.

    python run.py config/vox-256.yaml --device_ids 0,1,2,3
    python run.py config/vox-256.yaml --mode reconstruction --checkpoint log/vox-256_2026-01-31_12-00-00
    torchrun --nproc_per_node=4 run.py config/vox-256.yaml

With --checkpoint, training goes on in the checkpoint's run folder if that run has a config file of the same
name. Any other config starts a new run from the checkpoint's weights (fine-tuning). Reconstructions and
animations are written beside the checkpoint, or into --log_dir.
"""

from __future__ import annotations

import utils.openmp  # noqa: F401 - sets how torch's threads wait

import argparse
from pathlib import Path

from trackers import TRACKERS
from utils.errors import UserError
from utils.options import PRECISIONS, OptionParser, seed_number
from utils.program import command_line


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OptionParser(__doc__)
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
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="default: fp32")
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
    from modes import run_mode  # here, so that --help and a mistyped option answer at once, without PyTorch

    run_mode(options)


if __name__ == "__main__":
    main()
