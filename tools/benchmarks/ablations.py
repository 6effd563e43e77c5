"""Train puppets-64 without one part of the method at a time, to see what each is worth.

    python -m tools.benchmarks.ablations [--seeds 0 1 2] [--variants full baseline ...] [--out log/ablations]

The paper's ablations, and its baseline: zero-order motion, no occlusion map, no image pyramid in the losses.
Each variant is trained by run.py with config/puppets-64.yaml and that part alone off, as `--set` writes it,
then measured by puppet_quality.py, where the figures are explained. Prints a table in Markdown: the mean over
the seeds, and ± their standard deviation where there are several. A run that is in `--out` goes on where it
stopped, and a finished one is only measured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import run
from tools.benchmarks.puppet_quality import measure
from tools.table import mean_and_spread
from utils.device import best_precision
from utils.options import OptionParser
from utils.program import command_line
from utils.values import integer

CONFIG = Path(__file__).resolve().parents[2] / "config" / "puppets-64.yaml"
NO_JACOBIAN_LOSS = ["train_params.loss_weights.equivariance_jacobian=0"]
ZERO_ORDER = [*NO_JACOBIAN_LOSS, "model_params.common_params.estimate_jacobian=false"]
NO_OCCLUSION_MAP = ["model_params.generator_params.estimate_occlusion_map=false"]
VARIANTS: dict[str, list[str]] = {
    "full": [],
    "no-jacobian-equivariance": NO_JACOBIAN_LOSS,
    "no-occlusion-map": NO_OCCLUSION_MAP,
    "zero-order": ZERO_ORDER,
    "baseline": [*ZERO_ORDER, *NO_OCCLUSION_MAP, "train_params.scales=[1]"],
}
COLUMNS: dict[str, tuple[str, Callable[[dict], float]]] = {
    "L1": (".4f", lambda figures: figures["reconstruction"]["l1"]),
    "L1 / copy": (".3f", lambda figures: figures["reconstruction"]["l1_over_copy"]),
    "SSIM": (".3f", lambda figures: figures["reconstruction"]["ssim"]),
    "torn pixels": (".2%", lambda figures: figures["reconstruction"]["torn"]),
    "landmark error": (".1%", lambda figures: figures["landmark_error"]["mean"]),
    "motion correlation": (".3f", lambda figures: figures["motion_correlation"]["mean"]),
}


def train_variant(folder: Path, seed: int, changes: list[str]) -> Path:
    """Train, or go on with, the run in a folder; return the run's own folder."""
    before = sorted(folder.glob(f"{CONFIG.stem}_*"))
    start = ["--checkpoint", str(before[-1])] if before else ["--seed", str(seed)]
    precision = best_precision(torch.device("cpu"))  # bf16 where the processor has it
    options = ["--log_dir", str(folder), "--device", "cpu", "--precision", precision]
    run.main([str(CONFIG), *options, *start, *(["--set", *changes] if changes else [])])
    return sorted(folder.glob(f"{CONFIG.stem}_*"))[-1]


def row(name: str, figures: list[dict[str, Any]]) -> str:
    """Make a line of the table from the figures of each seed."""
    cells = [mean_and_spread([*map(of, figures)], form) for form, of in COLUMNS.values()]
    return f"| {name} | {len(figures)} | {' | '.join(cells)} |"


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    add = parser.add_argument
    add("--seeds", type=integer, nargs="+", default=[0])
    add("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    add("--out", type=Path, default=Path("log/ablations"))
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for every variant, as of run.py")
    options = parser.parse_args(argv)
    print(f"| variant | seeds | {' | '.join(COLUMNS)} |")
    print("| --- |" + " --- |" * (len(COLUMNS) + 1))
    for name in options.variants:
        figures = []
        for seed in options.seeds:
            folder = options.out / f"{name}-s{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            trained = train_variant(folder, seed, VARIANTS[name] + options.set)
            figures.append(measure(trained / CONFIG.name, trained))
        print(row(name, figures), flush=True)


if __name__ == "__main__":
    main()
