"""Serve the turns of one variant: frames, training steps or samples (`python -m tools.benchmarks.jobs NAME`).

Weights are random, except those of the model in sup-mat/. They don't change how long anything takes.
"""

from __future__ import annotations

import functools
import importlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frames_dataset import FramesDataset
from inference.animation import FittedClip, SourcePictures, make_animators, write_animation
from inference.animator import Animator
from inference.graphs import export_graphs
from inference.interface import load_checkpoints
from inference.networks import InferenceNetworks, painting
from inference.options import DemoOptions
from inference.samples import SAMPLE
from media.clips import open_clip
from media.pictures import read_image
from media.tensors import to_tensor
from media.writer import VideoWriter
from modules.build import build_generator, build_kp_detector, build_networks, frame_shape, read_config
from modules.fast import fast_form
from modules.model import GeneratorFullModel, total
from modules.util import frozen
from tools.benchmarks.turns import serve_turns
from utils.device import autocast

CONFIG = Path(__file__).resolve().parents[2] / "config" / "vox-256.yaml"
CPU = torch.device("cpu")
SIZE = 256
JITTER = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1}
AUGMENTATION = {"flip_param": {"horizontal_flip": True, "time_flip": True}, "jitter_param": JITTER}

Turn = Callable[[], float]  # makes a turn and returns milliseconds

# ---- A frame: keypoints of the driving frame, then the generator -----------------


def trained_networks() -> InferenceNetworks:
    """Build vox-256 with weights and batch statistics such as training could leave."""
    torch.manual_seed(0)
    config = read_config(CONFIG)
    generator, kp_detector = build_generator(config), build_kp_detector(config)
    with torch.no_grad():
        for module in [*generator.modules(), *kp_detector.modules()]:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.2, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        # Scaled so that pictures have contrast and keypoints move.
        assert isinstance(generator.final, nn.Conv2d) and kp_detector.jacobian is not None
        generator.final.weight *= 8
        kp_detector.kp.weight *= 8
        kp_detector.jacobian.weight.normal_(0, 0.005)
    return generator.eval(), kp_detector.eval()


def frames(count: int) -> list[Tensor]:
    """Return textures that differ from frame to frame: (1, 3, SIZE, SIZE) in [0, 1] each."""
    coarse = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return list(F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1).split(1))


def timed_frames(animate: Callable[[list[Tensor]], Any], driving: list[Tensor]) -> float:
    """Return milliseconds a frame."""
    start = time.perf_counter()
    for _ in animate(driving):
        pass
    return 1000 * (time.perf_counter() - start) / len(driving)


def vox_frames(form: str, batch_size: int = 1) -> Turn:
    """Animate with the networks of vox-256 in a form: plain, fast or bf16."""
    generator, kp_detector = trained_networks()
    if form != "plain":
        generator, kp_detector = fast_form(generator, painting(form)), fast_form(kp_detector)
    source, *driving = frames(9)
    animator = Animator(generator, kp_detector, source, batch_size=batch_size)
    return functools.partial(timed_frames, animator.animate, [frame[0] for frame in driving])


def bundled_frames() -> Turn:
    """Animate with the model in sup-mat/, in its fast form."""
    networks = load_checkpoints(SAMPLE["config"], SAMPLE["checkpoint"], cpu=True)
    height, width, _ = frame_shape(read_config(SAMPLE["config"]))
    pictures = to_tensor(np.random.default_rng(0).random((65, height, width, 3), np.float32))
    return functools.partial(timed_frames, Animator(*networks, pictures[:1]).animate, list(pictures[1:]))


def demo_frames(clip: str) -> Turn:
    """Animate from a driving video's file to a result in a file, with the model in sup-mat/."""
    networks = load_checkpoints(SAMPLE["config"], SAMPLE["checkpoint"], cpu=True)
    source = read_image(SAMPLE["source_image"])
    driving = FittedClip(open_clip(Path(clip)), source.shape[:2], "stretch")
    options, pictures = DemoOptions(relative=True), SourcePictures([source])
    animators = make_animators(networks, pictures, options)

    def turn() -> float:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, VideoWriter(Path(folder) / "out.mp4", 25) as writer:
            write_animation(animators, pictures, driving, writer, options)
        return 1000 * (time.perf_counter() - start) / len(driving)

    return turn


# ---- A frame in another engine ---------------------------------------------------


def open_graph(engine: Any, path: Path) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Open a graph in the module `onnxruntime` or `openvino`, in float32."""
    if engine.__name__ == "onnxruntime":
        session = engine.InferenceSession(path, providers=["CPUExecutionProvider"])
        inputs, outputs = (
            [entry.name for entry in ends()] for ends in (session.get_inputs, session.get_outputs)
        )
        return lambda values: dict(
            zip(outputs, session.run(outputs, {name: values[name] for name in inputs}), strict=True)
        )
    model = engine.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = [entry.any_name for entry in model.inputs]
    return lambda values: {
        entry.any_name: array for entry, array in model({name: values[name] for name in inputs}).items()
    }


def exported_frames(engine: str) -> Turn:
    """Run the graphs that export.py makes of the plain networks of vox-256."""
    with tempfile.TemporaryDirectory() as folder:
        export_graphs(*trained_networks(), (SIZE, SIZE), Path(folder))
        encoder, keypoints, frame = (
            open_graph(importlib.import_module(engine), Path(folder) / f"{name}.onnx")
            for name in ("encoder", "keypoints", "frame")
        )
    source, *driving = (picture.numpy() for picture in frames(9))
    known = {"source": source} | encoder({"source": source})
    known |= {f"source_{name}": value for name, value in keypoints({"frame": source}).items()}

    def turn() -> float:
        start = time.perf_counter()
        for picture in driving:
            moved = {f"driving_{name}": value for name, value in keypoints({"frame": picture}).items()}
            frame(known | moved)
        return 1000 * (time.perf_counter() - start) / len(driving)

    return turn


# ---- A training step, a sample ---------------------------------------------------


def training_step(precision: str) -> Turn:
    """Train vox-256 with batches of 1. Its loss needs no discriminator."""
    torch.manual_seed(0)
    config = read_config(CONFIG, ["train_params.vgg_weights=random"])
    networks = build_networks(config)
    full = GeneratorFullModel(
        networks.kp_detector, networks.generator, networks.discriminator, config["train_params"]
    )
    trained = [*networks.generator.parameters(), *networks.kp_detector.parameters()]
    optimizer = torch.optim.Adam(trained, lr=2e-4, betas=(0.5, 0.999), fused=True)
    x = {name: torch.rand(1, 3, SIZE, SIZE) for name in ("source", "driving")}

    def turn() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        with autocast(CPU, precision), frozen(networks.discriminator):
            loss = total(value.mean() for value in full(x)[0].values())
        loss.backward()
        optimizer.step()
        return 1000 * (time.perf_counter() - start)

    return turn


def samples(folder: str) -> Turn:
    """Draw samples of a dataset with the augmentation of vox-256, four of each clip, in one thread."""
    torch.set_num_threads(1)
    dataset = FramesDataset(folder, augmentation_params=AUGMENTATION)

    def turn() -> float:
        start = time.perf_counter()
        for number in [*range(len(dataset))] * 4:
            dataset[number]
        return 1000 * (time.perf_counter() - start) / (4 * len(dataset))

    return turn


JOBS: dict[str, Callable[..., Turn]] = {
    "vox-plain": functools.partial(vox_frames, "plain"),
    "vox-fast": functools.partial(vox_frames, "fast"),
    "vox-batch2": functools.partial(vox_frames, "fast", 2),
    "vox-bf16": functools.partial(vox_frames, "bf16"),
    "vox-onnxruntime": functools.partial(exported_frames, "onnxruntime"),
    "vox-openvino": functools.partial(exported_frames, "openvino"),
    "bundled": bundled_frames,
    "demo": demo_frames,
    "step-fp32": functools.partial(training_step, "fp32"),
    "step-bf16": functools.partial(training_step, "bf16"),
    "samples": samples,
}

if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    serve_turns(JOBS[name](*arguments))
