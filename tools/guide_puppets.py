"""Show the keypoint detector of puppets where lids and lips are, before the training of the model that ships.

    python -m tools.guide_puppets --checkpoint PARENT --out guided.pth.tar

Left to itself, one keypoint takes both eyes, and no other ever gets a gradient there. So the new
keypoints `GUIDED` are shown where the upper lids and the lower lip are, as data/make_puppets.py writes it
beside its clips, while the others stay where the parent model has them. The generator is not trained, and the
training that follows sees no places any more: run.py --finetune guided.pth.tar.

Shapes: `N` clips, `T` frames of each, `B` batch, `K` keypoints.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.files import find_checkpoint, load_for_finetuning, write_checkpoint
from evaluation.puppets import read_truth
from frames_dataset import FramesDataset
from modules.build import build_networks, read_config
from modules.dense_motion import deform_by_each, sparse_motions
from modules.keypoint_detector import KPDetector
from modules.model import equivariance_jacobian_loss, equivariance_value_loss, local_motion_loss
from modules.transform import Transform
from utils.device import denormals_flushed
from utils.files import check_writable
from utils.options import option, read_options
from utils.program import command_line, say
from utils.progress import Progress

CONFIG = Path(__file__).resolve().parents[1] / "config" / "puppets-128.yaml"
CLIPS, FRAMES = 700, 6  # of the training set, and of each clip
GUIDED = slice(10, 13)  # the keypoints for the left and the right upper lid and the lower lip
RATE, STEPS, BATCH_SIZE = 5e-4, 1500, 6


@dataclass(frozen=True)
class Options:
    checkpoint: Path = option(None, "the model with fewer keypoints that lends its weights", required=True)
    out: Path = option(None, "the checkpoint to write", required=True)
    config: Path = option(CONFIG, "default: config/puppets-128.yaml")
    steps: int = option(STEPS, f"default: {STEPS}", bounds=(1, 10**6))


def read_clips(dataset: FramesDataset, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Read frames (N, T, 3, H, W) in [0, 1] of random clips, and the places (N, T, 3, 2) in them."""
    frames, places = [], []
    for number in rng.permutation(len(dataset.clips))[:CLIPS]:
        clip = dataset.clip(number)
        (moving,) = read_truth(dataset.folder / clip.name, len(clip), "places of lids", "moving")
        chosen = rng.permutation(len(clip))[:FRAMES]
        pictures = list(clip)
        frames.append(torch.stack([pictures[i] for i in chosen]))
        places.append(torch.from_numpy(moving[chosen]))
    return torch.stack(frames), torch.stack(places)


def draw_pairs(frames: Tensor, places: Tensor, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw two frames of each of some clips: yield the first ones with their places, then the others.

    Frames are (B, 3, H, W), places (B, 3, 2).
    """
    clips = rng.integers(len(frames), size=BATCH_SIZE)
    count = frames.shape[1]
    first = rng.integers(count, size=BATCH_SIZE)
    second = (first + rng.integers(1, count, size=BATCH_SIZE)) % count
    mirrored = rng.random() >= 0.5
    for numbers in (first, second):
        pictures, inside = frames[clips, numbers], places[clips, numbers]
        if mirrored:  # then the left lid is the right one
            pictures, inside = pictures.flip(3), inside[:, [1, 0, 2]] * torch.tensor([-1.0, 1.0])
        yield pictures, inside


def train_detector(
    detector: KPDetector, frames: Tensor, places: Tensor, steps: int, rng: np.random.Generator
) -> None:
    """Train the detector alone: what it is shown, what must stay, and what it learns anyhow."""
    parent = copy.deepcopy(detector).eval().requires_grad_(False)
    with torch.no_grad():
        detector.kp.weight[GUIDED] *= 0.05  # from the middle of the picture
    optimizer = torch.optim.Adam(detector.parameters(), lr=RATE, betas=(0.5, 0.999))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * 4 // 5], gamma=0.1)
    progress = Progress(steps, "guided", "steps")
    for _ in range(steps):
        (source, source_places), (driving, driving_places) = draw_pairs(frames, places, rng)
        kp_source, kp_driving = detector(source), detector(driving)

        guide = nn.functional.l1_loss(kp_source["value"][:, GUIDED], source_places)
        guide = guide + nn.functional.l1_loss(kp_driving["value"][:, GUIDED], driving_places)
        with torch.no_grad():
            old = parent(driving)["value"][:, : GUIDED.start]
        keep = nn.functional.l1_loss(kp_driving["value"][:, : GUIDED.start], old)

        half = nn.functional.avg_pool2d(source, 2)
        motions = sparse_motions(kp_driving, kp_source, half.shape[2:])
        local = local_motion_loss(deform_by_each(half, motions), driving, kp_driving)
        transform = Transform(BATCH_SIZE, sigma_affine=0.1, sigma_tps=0.005, points_tps=5)
        transformed = detector(transform.transform_frame(driving))
        value = equivariance_value_loss(kp_driving, transformed, transform)
        jacobian = equivariance_jacobian_loss(kp_driving, transformed, transform)

        optimizer.zero_grad()
        (20 * guide + 10 * keep + 20 * local + 10 * value + 2 * jacobian).backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 20)
        optimizer.step()
        schedule.step()
        progress.advance(1, f"lids and lip {guide.item() / 2:.4f}, others {keep.item():.4f}")


@command_line
def main(argv: list[str] | None = None) -> None:
    options = read_options(Options, argv, __doc__)
    check_writable(options.out)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = read_config(options.config)
    networks = build_networks(config)
    for note in load_for_finetuning(networks._asdict(), find_checkpoint(options.checkpoint), options.config):
        say(note)
    frames, places = read_clips(FramesDataset(is_train=True, **config["dataset_params"]), rng)
    with denormals_flushed(True):
        train_detector(networks.kp_detector.train(), frames, places, options.steps, rng)
    content = {name: network.state_dict() for name, network in networks._asdict().items()}
    write_checkpoint(content | {"epoch": 0}, options.out)
    say(f"guided: {options.out}")


if __name__ == "__main__":
    main()
