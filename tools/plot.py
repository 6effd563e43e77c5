"""Draw the curves of training runs: each loss, and L1 and SSIM of the validation, over the epochs.

python -m tools.plot log/vox-256_2026-01-31_12-00-00 log/vox-256_2026-02-02_09-30-00 --out curves.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # writes files, needs no screen
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from utils.errors import DatasetError, UserError
from utils.files import atomic_write, regular_file
from utils.options import OptionParser
from utils.program import command_line

Curve = tuple[list[int], list[float]]  # epochs, values
COLUMNS = 3
MAX_BYTES = 2**28  # of a log


def read_curves(folder: Path) -> dict[str, Curve]:
    """The curves of a run by name: losses, "validation l1", "validation ssim". Raises `DatasetError`."""
    path = folder / "log.jsonl"
    try:
        text = regular_file(path, DatasetError, MAX_BYTES).read_text(encoding="utf-8")
        entries = [json.loads(line) for line in text.splitlines()]
    except OSError:
        raise DatasetError(
            f"{folder}: no log.jsonl that can be read; give the folder of a training run"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not the log of a run ({error})") from error
    curves: dict[str, Curve] = {}
    try:
        for entry in entries:
            if "step" not in entry:  # an epoch, not a step within one
                for name, value in epoch_values(entry).items():
                    epochs, values = curves.setdefault(name, ([], []))
                    epochs.append(int(entry["epoch"]))
                    values.append(float(value))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DatasetError(
            f"{path}: not the log of a run ({type(error).__name__}: {error}); it holds lines of other things"
        ) from error
    if not curves:
        raise DatasetError(f"{path}: no epoch is finished yet, so there is nothing to draw")
    return curves


def epoch_values(entry: dict[str, Any]) -> dict[str, float]:
    return entry["losses"] | {
        f"validation {name}": value for name, value in entry.get("validation", {}).items()
    }


def draw(axes: Axes, name: str, runs: dict[str, dict[str, Curve]]) -> None:
    for label, curves in runs.items():
        if name in curves:
            axes.plot(*curves[name], label=label, marker="." if len(curves[name][0]) < 30 else None)
    axes.set_title(name)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a training run")
    parser.add_argument(
        "--out", type=Path, default=Path("curves.png"), help="the .png to write (default: curves.png)"
    )
    options = parser.parse_args(argv)
    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out {options.out}: only .png pictures are written; end the name with .png")
    runs = {folder.resolve().name: read_curves(folder) for folder in options.runs}
    names = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    rows = -(-len(names) // COLUMNS)
    figure, grid = plt.subplots(
        rows, COLUMNS, figsize=(4 * COLUMNS, 3 * rows), squeeze=False, layout="constrained"
    )
    for axes, name in zip(grid.flat, names, strict=False):
        draw(axes, name, runs)
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center")
    with atomic_write(options.out) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    plt.close(figure)
    print(options.out)


if __name__ == "__main__":
    main()
