"""Animation of pairs of test clips, each source's first frame with the keypoints of a driving clip."""

from __future__ import annotations

from pathlib import Path

import torch

from frames_dataset import ClipDataset, PairedDataset, clip_stem
from inference.animator import Animator, normalize_kp
from inference.results import Results
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from utils.distributed import rank
from utils.files import distinct_names
from utils.progress import Progress
from utils.work import SharedWork

__all__ = ["animate", "normalize_kp"]


def animate(
    config: dict,
    generator: OcclusionAwareGenerator,
    kp_detector: KPDetector,
    log_dir: str | Path,
    dataset: ClipDataset,
    device: torch.device | str = "cpu",
    seed: int = 0,
    precision: str = "fp32",
    skip_existing: bool = False,
) -> Path:
    """Animate pairs of test clips into `log_dir`/animation, `<driving>-<source>`; return that folder.

    The pairs are the dataset's list, or drawn from `seed`. The processes of torchrun share them.
    """
    params = config.get("animate_params") or {}
    pairs = PairedDataset(dataset, number_of_pairs=params.get("num_pairs", 50), seed=seed)
    folder = Path(log_dir) / "animation"
    results = Results(folder, params.get("format", ".mp4"), config.get("visualizer_params"), skip_existing)
    names = distinct_names({pair: "-".join(map(clip_stem, pair)) for pair in pairs.names()})
    work = SharedWork([names[pair] for pair in pairs.names()], "--skip_existing makes them alone")
    with Progress(None, "animation", "frames", quiet=rank() != 0) as progress, work:
        for i in work.share(range(len(pairs))):
            name, (driving, source) = work.names[i], pairs.pair(i)
            if results.to_skip(name):
                continue
            # Of the source clip only the first frame is decoded.
            source_frame = source.first_frame().unsqueeze(0).to(device)
            normalization_params = params.get("normalization_params") or {}
            animator = Animator(
                generator, kp_detector, source_frame, normalization_params, precision=precision
            )
            for _ in results.write(name, animator, driving, progress):
                pass
    return folder
