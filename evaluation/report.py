"""Turn measurements into scores: a row for each video, means over all, a table.

A mean over frames gives every frame that counts the same weight, as in the published code. A mean over videos
is the mean of the videos' own means.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from evaluation import metrics
from evaluation.comparisons import COMPARISONS
from evaluation.matching import Match
from evaluation.measuring import ByRole
from utils.errors import DatasetError
from utils.files import atomic_write

# By column of the table: (role of the instrument, function from its results for a pair to scores, title).
Score = tuple[str, Callable[..., np.ndarray], str]
SCORES: dict[str, dict[str, Score]] = {
    "l1": {"l1": ("l1", np.asarray, "L1, in [0, 1]")},
    "akd": {"akd": ("landmarks", metrics.keypoint_distance, "AKD, pixels")},
    "mkr": {"mkr": ("landmarks", metrics.missing_rate, "MKR, in [0, 1]")},
    "aed": {
        "aed_squared": (
            "identity",
            metrics.squared_embedding_distance,
            "AED, sum of squares (published code)",
        ),
        "aed_euclidean": ("identity", metrics.euclidean_embedding_distance, "AED, Euclidean"),
    },
    "psnr": {"psnr": ("psnr", np.asarray, "PSNR, dB")},
    "ssim": {"ssim": ("ssim", np.asarray, "SSIM")},
    "lpips": {"lpips": ("lpips", np.asarray, "LPIPS (AlexNet)")},
}


def frame_scores(measured: ByRole, asked: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the scores (T,) of a video's frames by column; NaN where a frame does not count."""
    columns = {column: score for metric in asked for column, score in SCORES.get(metric, {}).items()}
    return {column: function(*measured[role]) for column, (role, function, _) in columns.items()}


def video_row(pair: Match, scores: dict[str, np.ndarray]) -> dict[str, str | int | float]:
    """Make a row of the CSV file: the means of a video.

    Scores that depend on detections come with the number of frames that count.
    """
    row: dict[str, str | int | float] = {"video": pair.name, "frames": pair.real.length}
    for column, values in scores.items():
        row[column] = metrics.mean_of_counted(values)
        if column not in COMPARISONS:
            row[f"{column}_frames"] = int((~np.isnan(values)).sum())
    return row


class Means(TypedDict):
    """A line of the table; `frames` is the number of those that count."""

    mean_over_frames: float
    mean_over_videos: float
    frames: int


@dataclass(frozen=True)
class Summary:
    """The content of evaluation.json."""

    generated: str
    real: str
    videos: int
    frames: int
    detectors: dict[str, str]  # name and version by role
    metrics: dict[str, Means | float]  # by column; FID is a number of all frames


def average_scores(scores: list[dict[str, np.ndarray]], measured: list[ByRole]) -> dict[str, Means | float]:
    """Average the scores of all videos, by column; FID comes last, if its features were measured."""
    summary: dict[str, Means | float] = {}
    for column in scores[0]:
        values = [video[column] for video in scores]
        pooled = np.concatenate(values)
        summary[column] = {
            "mean_over_frames": metrics.mean_of_counted(pooled),
            "mean_over_videos": metrics.mean_of_counted(
                np.array([metrics.mean_of_counted(video) for video in values])
            ),
            "frames": int((~np.isnan(pooled)).sum()),
        }
    if "inception" in measured[0]:
        features = zip(*(video["inception"] for video in measured), strict=True)
        summary["fid"] = frechet_inception_distance(*map(np.concatenate, features))
    return summary


def frechet_inception_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Compute FID of all generated and real frames from their Inception features (N, D), by torchmetrics.

    Raises `DatasetError` for a single frame.
    """
    if len(real) < 2:
        raise DatasetError(
            "fid compares distributions and needs two frames at least; leave it out of --metrics"
        )

    class Features(torch.nn.Identity):
        num_features = real.shape[1]

    distance = FrechetInceptionDistance(feature=Features())
    distance.update(torch.from_numpy(generated).double(), real=False)
    distance.update(torch.from_numpy(real).double(), real=True)
    return float(distance.compute())


# ---- Files and the table -----------------------------------------------------


def write_report(folder: Path, rows: list[dict], summary: Summary) -> None:
    """Write `evaluation.csv` and `evaluation.json` into `folder`. In JSON, what is not finite is null."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)
    contents = {"csv": text.getvalue(), "json": json.dumps(_finite(asdict(summary)), indent=2) + "\n"}
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in contents.items():
        with atomic_write(folder / f"evaluation.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8", errors="surrogateescape")


def _finite(content: Any) -> Any:
    """Put None in the place of every number that JSON can't write."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    return None if isinstance(content, float) and not math.isfinite(content) else content


def format_table(summary: Summary) -> str:
    """Format the means as a table to print."""
    titles = {column: title for scores in SCORES.values() for column, (_, _, title) in scores.items()}
    lines = [("metric", "mean over frames", "mean over videos", "frames")]
    for column, means in summary.metrics.items():
        if isinstance(means, float):
            lines.append(("FID, all frames", f"{means:.4f}", "", str(summary.frames)))
        else:
            frames, videos = means["mean_over_frames"], means["mean_over_videos"]
            lines.append((titles[column], f"{frames:.4f}", f"{videos:.4f}", str(means["frames"])))
    return "\n".join(f"{title:<38} {a:>16} {b:>16} {frames:>8}" for title, a, b, frames in lines)
