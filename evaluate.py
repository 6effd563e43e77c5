"""The paper's metrics of generated clips against the real ones.

    python evaluate.py --generated log/RUN/reconstruction/png --real data/puppets-128/test \\
        --metrics l1 akd mkr aed psnr ssim --landmarks puppets --identity puppets

Both folders hold clips in any format that the datasets read. Clips belong together if their names are the
same up to the first dot. Prints a table of means, and writes evaluation.csv (a row for each video) and
evaluation.json (the means). The results for each clip are kept in the folder .evaluation beside it. So a run
that was stopped goes on, and a second is quick.
"""

from __future__ import annotations

import utils.openmp  # noqa: F401 - sets how torch's threads wait

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.cache import Cache
from evaluation.clips import Pair, find_pairs
from evaluation.comparisons import COMPARISONS
from evaluation.detectors import IDENTITIES, LANDMARKS, Inception
from evaluation.instrument import Instrument
from evaluation.measuring import Measured, measure
from evaluation.report import (
    METRICS,
    format_table,
    frame_scores,
    frechet_inception_distance,
    summarise,
    video_row,
    write_report,
)
from utils.errors import UserError
from utils.options import OptionParser
from utils.program import command_line


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument(
        "--generated", type=Path, required=True, metavar="DIR", help="what a model made: reconstruction/png"
    )
    parser.add_argument("--real", type=Path, required=True, metavar="DIR", help="the test clips")
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=["l1"],
        choices=METRICS,
        metavar="METRIC",
        help=f"any of {' '.join(METRICS)} (default: l1)",
    )
    parser.add_argument("--landmarks", choices=LANDMARKS, help="detector for akd and mkr")
    parser.add_argument("--identity", choices=IDENTITIES, help="detector for aed")
    parser.add_argument(
        "--puppets",
        type=Path,
        metavar="DIR",
        help="dataset of data/make_puppets.py on whose train/ the "
        "detector 'puppets' is fitted at its first use (default: the folder that holds --real)",
    )
    parser.add_argument(
        "--frame_size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="of the frames in real clips that are strips (default: squares)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the results go (default: the folder --generated)"
    )
    parser.add_argument("--device", choices=["cuda", "mps", "cpu"], help="default: the best there is")
    return parser.parse_args(argv)


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    cache = Cache()
    pairs = find_pairs(
        options.generated, options.real, cache, options.frame_size and tuple(options.frame_size)
    )
    detectors = make_detectors(options)
    comparisons = {metric: COMPARISONS[metric]() for metric in options.metrics if metric in COMPARISONS}
    measured = measure(pairs, detectors, comparisons, options.device, cache)

    scores = {pair.name: frame_scores(measured[pair.name], options.metrics) for pair in pairs}
    summary: dict[str, Any] = {
        "generated": str(options.generated),
        "real": str(options.real),
        "videos": len(pairs),
        "frames": sum(pair.real.length for pair in pairs),
        "detectors": {role: f"{detector.name} {detector.version}" for role, detector in detectors.items()},
        "metrics": summarise(list(scores.values())),
    }
    if "fid" in options.metrics:
        summary["metrics"]["fid"] = fid_of_all(pairs, measured)
    out = options.out or options.generated
    write_report(out, [video_row(pair, scores[pair.name]) for pair in pairs], summary)
    print(format_table(summary))
    print(f"results: {out / 'evaluation.csv'} {out / 'evaluation.json'}")


def make_detectors(options: argparse.Namespace) -> dict[str, Instrument]:
    """The detectors that the metrics need, by role.

    Raises `UserError` if one is not chosen or its package is missing.
    """
    asked = set(options.metrics)
    puppets = options.puppets or options.real.absolute().parent
    detectors: dict[str, Instrument] = {}
    for role, needing, choice, known in (
        ("landmarks", asked & {"akd", "mkr"}, options.landmarks, LANDMARKS),
        ("identity", asked & {"aed"}, options.identity, IDENTITIES),
    ):
        if needing and choice is None:
            raise UserError(f"{' and '.join(sorted(needing))} need --{role}, one of {', '.join(known)}")
        if needing:
            detectors[role] = known[choice](puppets)
    if "fid" in asked:
        detectors["inception"] = Inception()
    return detectors


def fid_of_all(pairs: list[Pair], measured: dict[str, Measured]) -> float:
    """FID between all frames of the generated and all frames of the real clips."""
    generated, real = (
        np.concatenate([measured[pair.name]["inception"][side] for pair in pairs]) for side in (0, 1)
    )
    return frechet_inception_distance(generated, real)


if __name__ == "__main__":
    main()
