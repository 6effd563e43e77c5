"""What a turn measures: a frame, a training step, a sample. `python -m benchmarks.jobs NAME` serves one.

Weights are random, except those of the model in sup-mat/. They don't change how long anything takes.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from augmentation import AllAugmentationTransform
from frames_dataset import FramesDataset
from inference.animation import FittedClip, SourcePictures, make_animators, write_animation
from inference.animator import Animator
from inference.networks import load_networks, painting
from inference.options import DemoOptions
from inference.samples import SAMPLE
from media.clips import open_clip
from media.pictures import read_image
from media.tensors import to_tensor
from media.writer import VideoWriter
from modules.build import build_networks, frame_shape, read_config
from modules.fast import fast_form
from modules.model import GeneratorFullModel, total
from modules.util import frozen
from tools.benchmarks.inference import frames, trained_networks
from tools.benchmarks.turns import serve
from utils.device import autocast

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
JITTER = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1}
AUGMENTATION = {"flip_param": {"horizontal_flip": True, "time_flip": True}, "jitter_param": JITTER}

Turn = Callable[[], float]

# ---- A frame -------------------------------------------------------------------


def timed_frames(animator: Animator, driving: list[torch.Tensor]) -> float:
    """Milliseconds a frame."""
    start = time.perf_counter()
    for _ in animator.animate(driving):
        pass
    return 1000 * (time.perf_counter() - start) / len(driving)


def vox_frames(form: str, batch_size: int = 1) -> Turn:
    """Frames of vox-256 by the networks in a form: plain, fast or bf16."""
    generator, kp_detector = trained_networks()
    if form != "plain":
        generator, kp_detector = fast_form(generator, painting(form)), fast_form(kp_detector)
    source, *driving = frames(9)
    animator = Animator(generator, kp_detector, source, batch_size=batch_size)
    return functools.partial(timed_frames, animator, [frame[0] for frame in driving])


def bundled_frames() -> Turn:
    """Frames of the model in sup-mat/, in its fast form."""
    config = read_config(SAMPLE["config"])
    networks = load_networks(config, SAMPLE["config"], SAMPLE["checkpoint"], CPU, plain=False)
    height, width, _ = frame_shape(config)
    pictures = to_tensor(np.random.default_rng(0).random((65, height, width, 3), np.float32))
    return functools.partial(timed_frames, Animator(*networks, pictures[:1]), list(pictures[1:]))


def demo_frames(clip: Path) -> Turn:
    """A driving video from its file to a result in a file, with the model in sup-mat/."""
    config = read_config(SAMPLE["config"])
    networks = load_networks(config, SAMPLE["config"], SAMPLE["checkpoint"], CPU, plain=False)
    source = read_image(SAMPLE["source_image"])
    driving = FittedClip(open_clip(clip), source.shape[:2], "stretch")
    options, pictures = DemoOptions(relative=True), SourcePictures([source])
    animators = make_animators(networks, pictures, options)

    def turn() -> float:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, VideoWriter(Path(folder) / "out.mp4", 25) as writer:
            write_animation(animators, pictures, driving, writer, options)
        return 1000 * (time.perf_counter() - start) / len(driving)

    return turn


# ---- A training step -----------------------------------------------------------


def training_step(precision: str) -> Turn:
    """A step of vox-256, batch 1. Its loss needs no discriminator."""
    torch.manual_seed(0)
    config = read_config(ROOT / "config" / "vox-256.yaml", ["train_params.vgg_weights=random"])
    networks = build_networks(config)
    full = GeneratorFullModel(
        networks.kp_detector, networks.generator, networks.discriminator, config["train_params"]
    )
    trained = [*networks.generator.parameters(), *networks.kp_detector.parameters()]
    optimizer = torch.optim.Adam(trained, lr=2e-4, betas=(0.5, 0.999), fused=True)
    x = {name: torch.rand(1, 3, 256, 256) for name in ("source", "driving")}

    def turn() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        with autocast(CPU, precision), frozen(networks.discriminator):
            loss = total(value.mean() for value in full(x)[0].values())
        loss.backward()
        optimizer.step()
        return 1000 * (time.perf_counter() - start)

    return turn


# ---- A sample ------------------------------------------------------------------


def samples(folder: Path) -> Turn:
    """Samples of a dataset with the augmentation of vox-256, by one worker."""
    torch.set_num_threads(1)
    AllAugmentationTransform.from_config(AUGMENTATION)
    dataset = FramesDataset(folder, augmentation_params=AUGMENTATION)
    return functools.partial(timed_samples, dataset)


def timed_samples(dataset: FramesDataset) -> float:
    """Milliseconds a sample: each clip four times."""
    numbers: Iterable[int] = [*range(len(dataset))] * 4
    start = time.perf_counter()
    for number in numbers:
        dataset[number]
    return 1000 * (time.perf_counter() - start) / (4 * len(dataset))


JOBS: dict[str, Callable[..., Turn]] = {
    "vox-plain": functools.partial(vox_frames, "plain"),
    "vox-fast": functools.partial(vox_frames, "fast"),
    "vox-batch2": functools.partial(vox_frames, "fast", 2),
    "vox-bf16": functools.partial(vox_frames, "bf16"),
    "bundled": bundled_frames,
    "demo": demo_frames,
    "step-fp32": functools.partial(training_step, "fp32"),
    "step-bf16": functools.partial(training_step, "bf16"),
    "samples": samples,
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    serve(JOBS[name](*map(Path, arguments)))
