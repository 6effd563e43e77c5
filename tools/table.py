"""Compare runs in a Markdown table: a row for each config, over its seeds.

    python -m tools.table log/*

The row names what of its config differs from that of the first row. "last" and "best" are validations, the
best that with the lowest L1; after ± stands the standard deviation over the runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from logger import MACHINE_LOG, whole_lines
from training.record import RECORD, differences, read_record
from utils.errors import UserError
from utils.options import OptionParser
from utils.program import command_line, say

HEADINGS = ("config", "seeds", "epochs", "last L1", "last SSIM", "best L1", "best SSIM")


class RunResult(NamedTuple):
    config: dict
    seed: int
    epochs: int
    scores: list[float]  # L1 and SSIM of the last validation, and of the best


def read_run(folder: Path) -> RunResult:
    """Read the folder of a run. Raises `UserError` for one without a record or a validation."""
    entries = read_record(folder)
    if not entries:
        raise UserError(f"{folder}: has no {RECORD}; give the folders of runs that wrote one")
    log = folder / MACHINE_LOG
    try:
        epochs = [entry for entry in map(json.loads, whole_lines(log)) if "step" not in entry]
        scores = [
            [float(entry["validation"][name]) for name in ("l1", "ssim")]
            for entry in epochs
            if "validation" in entry
        ]
        last, best = scores[-1], min(scores)
        return RunResult(entries[-1]["config"], entries[-1]["seed"], len(epochs), [*last, *best])
    except IndexError:
        raise UserError(f"{log}: has no validation; train with train_params.eval_freq") from None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(f"{log}: can't be read ({error}); leave the folder out") from error


def table(runs: list[RunResult]) -> list[str]:
    """Return the lines of the table; configs come in the order of their first run."""
    groups: dict[str, list[RunResult]] = defaultdict(list)
    for run in runs:
        groups[json.dumps(run.config, sort_keys=True)].append(run)
    lines = [HEADINGS, ["---"] * len(HEADINGS)]
    for group in groups.values():
        changes = differences(runs[0].config, group[0].config)
        name = ", ".join(f"{key}={new}" for key, (_, new) in changes.items()) or "first"
        cells = map(mean_and_spread, zip(*(run.scores for run in group), strict=True))
        seeds, epochs = (", ".join(str(run[i]) for run in group) for i in (1, 2))
        lines.append([name, seeds, epochs, *cells])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def mean_and_spread(values: Sequence[float], form: str = ".4f") -> str:
    """Write the mean and, of several values, ± their standard deviation."""
    spread = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{spread}"


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run")
    folders = parser.parse_args(argv).folders
    runs = [read_run(folder) for folder in folders if folder.is_dir()]
    if not runs:
        parser.error("none of these is the folder of a run")
    for line in table(runs):
        say(line)


if __name__ == "__main__":
    main()
