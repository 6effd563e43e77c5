"""Compute the paper's metrics of generated clips against the real ones.

    python evaluate.py --generated log/RUN/reconstruction/png --real data/puppets-128/test \\
        --metrics l1 akd mkr psnr ssim --landmarks puppets

Both folders hold clips in any format that the datasets read. Clips belong together if their names are the
same up to the first dot. Prints a table of means, and writes evaluation.csv (a row for each video) and
evaluation.json (the means). The results for each clip are kept in the folder .evaluation beside it, so that a
run that was stopped goes on, and a second is quick.
"""

from __future__ import annotations

import utils.openmp  # noqa: F401 - sets how torch's threads wait

from dataclasses import dataclass, replace
from pathlib import Path

from utils.files import check_folder
from utils.options import option, read_options
from utils.program import command_line, say

METRICS = ("l1", "akd", "mkr", "aed", "psnr", "ssim", "lpips", "fid")


@dataclass(frozen=True)
class EvaluationOptions:
    """The command line."""

    generated: Path = option(None, "what a model made: reconstruction/png", required=True, metavar="DIR")
    real: Path = option(None, "the test clips", required=True, metavar="DIR")
    metrics: tuple[str, ...] = option(
        ("l1",), f"any of {' '.join(METRICS)} (default: l1)", nargs="+", choices=METRICS, metavar="METRIC"
    )
    landmarks: str | None = option(
        None, "for akd and mkr: face-alignment, keypoint-rcnn or puppets", metavar="DETECTOR"
    )
    identity: str | None = option(None, "for aed: insightface", metavar="DETECTOR")
    puppets: Path = option(
        None,
        "dataset whose train/ the detector 'puppets' is fitted on (default: the folder that holds --real)",
        metavar="DIR",
    )
    frame_size: tuple[int, int] | None = option(
        None,
        "of frames in real strips (default: squares)",
        bounds=(1, 2**13),
        nargs=2,
        metavar=("H", "W"),
    )
    out: Path = option(None, "where the results go (default: the folder --generated)", metavar="DIR")
    device: str | None = option(None, "default: the best there is", choices=["cuda", "mps", "cpu"])


def parse(argv: list[str] | None) -> EvaluationOptions:
    options = read_options(EvaluationOptions, argv, __doc__)
    puppets = options.puppets or options.real.absolute().parent
    return replace(options, puppets=puppets, out=options.out or options.generated)


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    check_folder(options.out, "the results can't be written there; choose another --out")

    from evaluation import comparisons, detectors, matching, measuring, report  # seconds, with PyTorch

    # What to look at, and with what?
    pairs = matching.find_matches(options.generated, options.real, options.frame_size)
    asked = options.metrics
    used = detectors.make_detectors(asked, options.landmarks, options.identity, options.puppets)
    compared = {name: comparison for name, comparison in comparisons.COMPARISONS.items() if name in asked}

    # Look, and average.
    measured = measuring.measure_pairs(pairs, used, compared, options.device)
    if measured is None:  # another process of torchrun reports
        return
    scores = {pair.name: report.frame_scores(measured[pair.name], asked) for pair in pairs}
    summary = report.Summary(
        str(options.generated),
        str(options.real),
        videos=len(pairs),
        frames=sum(pair.real.length for pair in pairs),
        detectors={role: f"{detector.name} {detector.version}" for role, detector in used.items()},
        metrics=report.average_scores(list(scores.values()), list(measured.values())),
    )

    # Write and print.
    rows = [report.video_row(pair, scores[pair.name]) for pair in pairs]
    report.write_report(options.out, rows, summary)
    print(report.format_table(summary))
    say(f"results: {options.out / 'evaluation.csv'} {options.out / 'evaluation.json'}")


if __name__ == "__main__":
    main()
