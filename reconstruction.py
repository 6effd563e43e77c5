"""Reconstruction of test videos from their first frames, and its L1 error."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from frames_dataset import ClipDataset, clip_stem
from inference.animator import Animator
from inference.results import Results
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from utils.distributed import rank
from utils.errors import UserError
from utils.files import atomic_write, distinct_names, regular_file
from utils.progress import Progress
from utils.values import integer, number
from utils.work import SharedWork

MAX_SCORES_BYTES = 2**28
SECONDS_PER_TABLE = 10  # of work whose scores a crash may cost; a table gathers those of all processes


def reconstruction(
    config: dict,
    generator: OcclusionAwareGenerator,
    kp_detector: KPDetector,
    log_dir: str | Path,
    dataset: ClipDataset,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    skip_existing: bool = False,
) -> float | None:
    """Drive the first frame of each test clip by all its frames, into `log_dir`/reconstruction.

    Writes results, `l1.csv`, a row for each video, and `l1.json` with the means over frames and over videos.
    Returns the mean over all frames, as published, of the absolute difference in [0, 1]. The processes of
    torchrun share the clips; one of them writes the scores of all, the others return None.
    """
    params = config.get("reconstruction_params") or {}
    folder = Path(log_dir) / "reconstruction"
    results = Results(folder, params.get("format", ".mp4"), config.get("visualizer_params"), skip_existing)
    scores = read_scores(folder / "l1.csv") if skip_existing else {}
    clips = dataset.clips[: params.get("num_videos")]
    names = distinct_names({clip: clip_stem(clip) for clip in clips})
    work = SharedWork([names[clip] for clip in clips], "--skip_existing makes them alone")
    saved_at = -math.inf
    with Progress(None, "reconstruction", "frames", quiet=rank() != 0) as progress, work:
        for i in work:
            name, clip = work.names[i], dataset.clip(i)
            if name in scores and results.to_skip(name):
                work.record(i, scores[name])
                continue
            # The clip drives its own first frame.
            animator = Animator(
                generator, kp_detector, clip.first_frame().unsqueeze(0).to(device), precision=precision
            )
            written = results.write(name, animator, clip, progress)
            losses = [(driving - prediction).abs().mean().item() for driving, prediction in written]
            work.record(i, {"video": name, "frames": len(losses), "l1": float(np.mean(losses))})
            if time.monotonic() - saved_at >= SECONDS_PER_TABLE:
                write_scores(folder / "l1.csv", gathered(scores, work))
                saved_at = time.monotonic()
        if work.reports():
            scores = gathered(scores, work)
            write_scores(folder / "l1.csv", scores)
    return summarise(folder / "l1.json", scores) if work.reports() else None


def gathered(scores: dict[str, dict], work: SharedWork) -> dict[str, dict]:
    """Add the scores that all processes have recorded, in the order of the clips."""
    known = scores | {row["video"]: row for row in work.results().values()}
    places = {name: i for i, name in enumerate(work.names)}
    return dict(sorted(known.items(), key=lambda item: places.get(item[0], -1)))


def read_scores(path: Path) -> dict[str, dict]:
    """Read the rows of an earlier run by video; what can't be read counts as absent, and is made anew."""
    scores: dict[str, dict] = {}
    if not path.exists():
        return scores
    regular_file(path, UserError, MAX_SCORES_BYTES)
    with contextlib.suppress(csv.Error), path.open(errors="surrogateescape", newline="") as file:
        for row in csv.DictReader(file):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                frames, l1 = integer(row["frames"], 1), number(row["l1"], 0, 1)
                if row["video"]:
                    scores[row["video"]] = {"video": row["video"], "frames": frames, "l1": l1}
    return scores


def write_scores(path: Path, scores: dict[str, dict]) -> None:
    with atomic_write(path) as temporary:
        pd.DataFrame(list(scores.values())).to_csv(temporary, index=False, errors="surrogateescape")


def summarise(path: Path, scores: dict[str, dict]) -> float:
    frames, l1 = (np.array([row[key] for row in scores.values()], dtype=float) for key in ("frames", "l1"))
    summary = {
        "videos": len(scores),
        "frames": int(frames.sum()),
        "l1_over_frames": float(np.average(l1, weights=frames)),
        "l1_over_videos": float(l1.mean()),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary["l1_over_frames"]
