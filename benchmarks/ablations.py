"""What the parts of the method are worth: puppets-64 trained without one of them, for equally many steps.

    python -m benchmarks.ablations [--epochs 3] [--out log/ablations]

The paper's ablations: zero-order motion (no Jacobians), no occlusion map, no equivariance loss on the
Jacobians, and the full method, each from the same seed and over the same samples. Each variant is trained by
run.py with a copy of config/puppets-64.yaml in which that part alone is off and `num_epochs` is `--epochs`;
then measured by puppet_quality.py, where the figures are explained. Prints a table in Markdown. A variant
whose run is in `--out` already goes on from it.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import yaml

import run
from benchmarks.puppet_quality import measure
from modules.build import read_config
from modules.errors import command_line

CONFIG = Path(__file__).resolve().parent.parent / "config" / "puppets-64.yaml"
Changes = dict[tuple[str, ...], bool | int]  # by path in the config
NO_JACOBIAN_LOSS: Changes = {("train_params", "loss_weights", "equivariance_jacobian"): 0}
VARIANTS: dict[str, Changes] = {
    "full": {},
    "no-jacobian-equivariance": NO_JACOBIAN_LOSS,
    "no-occlusion-map": {("model_params", "generator_params", "estimate_occlusion_map"): False},
    "zero-order": NO_JACOBIAN_LOSS | {("model_params", "common_params", "estimate_jacobian"): False},
}


def write_variant(folder: Path, name: str, epochs: int) -> Path:
    """The config of a variant, in `folder`."""
    config = copy.deepcopy(read_config(CONFIG))
    changes: Changes = {("train_params", "num_epochs"): epochs} | VARIANTS[name]
    for (*sections, key), value in changes.items():
        values = config
        for section in sections:
            values = values[section]
        values[key] = value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def train_variant(config: Path, precision: str) -> Path:
    """Train, or go on with, the run of a config; return the folder of the run."""
    before = sorted(config.parent.glob(f"{config.stem}_*"))
    resume = ["--checkpoint", str(before[-1])] if before else []
    options = ["--log_dir", str(config.parent), "--device", "cpu", "--precision", precision]
    run.main([str(config), *options, *resume])
    return sorted(config.parent.glob(f"{config.stem}_*"))[-1]


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("log/ablations"))
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    print("| variant | L1 | L1 / copy | SSIM | landmark error | motion correlation |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in VARIANTS:
        config = write_variant(options.out, name, options.epochs)
        figures = measure(config, train_variant(config, options.precision))
        rebuilt = figures["reconstruction"]
        print(
            f"| {name} | {rebuilt['l1']:.4f} | {rebuilt['l1_over_copy']:.3f} | {rebuilt['ssim']:.3f} "
            f"| {figures['landmark_error']['mean']:.1%} | {figures['motion_correlation']['mean']:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
