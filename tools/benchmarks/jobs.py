"""Serve the turns of one variant, by its function: `python -m tools.benchmarks.jobs NAME ARGUMENTS`.

Weights are random, except those of the model in sup-mat/. They don't change how long anything takes.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frames_dataset import DatasetRepeater, FramesDataset
from inference.animation import FittedClip, SourcePictures, make_animators, write_animation
from inference.animator import Animator
from inference.graphs import export_graphs
from inference.interface import load_checkpoints
from inference.networks import InferenceNetworks, fitted, load_networks, painting
from inference.options import DemoOptions
from inference.samples import SAMPLE
from media.clips import open_clip
from media.pictures import read_image
from media.writer import VideoWriter
from modules.build import build_generator, build_kp_detector, build_networks, frame_shape, read_config
from modules.fast import fast_form
from sync_batchnorm import DataParallelWithCallback
from tools.benchmarks.turns import AUGMENTATION, Turn, exhaust, peak_memory, serve_turns, timed
from train import full_models, train_step
from training.batches import EpochBatches, draw_transform, make_loader
from training.state import TrainingState
from utils.device import autocast, peak_memory_mib, synchronize
from utils.distributed import in_torchrun, process_group

CONFIG = Path(__file__).resolve().parents[2] / "config" / "vox-256.yaml"
CPU = torch.device("cpu")
SIZE = 256
EXACT = "fp32, TF32 off"  # PyTorch lets convolutions round their factors to TF32, where a GPU can
COMPARED = 4  # frames
SECONDS = 0.3  # that a turn lasts on a GPU, at least
PUBLISHED_LOOP, GRAPH, COMPILED = "published loop", "CUDA graph", "compiled"
# Those that take turns; nobody waits for a compiler.
FRAME_FORMS = ((PUBLISHED_LOOP, "plain", "channels last", GRAPH), (COMPILED,))
REPLICAS = {"DataParallel": [0], "DataParallel, the GPU twice": [0, 0]}
IN_RANKS = "DDP of one process"
STEP_FORMS: dict[str, list[str]] = {
    "plain": [],
    "channels last": ["train_params.channels_last=true"],
    COMPILED: ["train_params.compile=true"],
    **{form: [] for form in (*REPLICAS, IN_RANKS)},
}

# ---- A frame: keypoints of the driving frame, then the generator -----------------


def random_networks(config_path: Path = CONFIG) -> InferenceNetworks:
    torch.manual_seed(0)
    config = read_config(config_path)
    return build_generator(config).eval(), build_kp_detector(config).eval()


def animated_frames(
    networks: InferenceNetworks, size: Sequence[int], count: int, batch_size: int = 1
) -> Turn:
    source, driving = torch.rand(1, 3, *size), torch.rand(count, 3, *size)
    animator = Animator(*networks, source, batch_size=batch_size)
    return timed(lambda: exhaust(animator.animate(driving)), count)


def vox_frames(form: str, batch_size: str = "1") -> Turn:
    """Animate with the networks of vox-256 in a form: plain, fast or bf16."""
    generator, kp_detector = random_networks()
    if form != "plain":
        generator, kp_detector = fast_form(generator, painting(form)), fast_form(kp_detector)
    return animated_frames((generator, kp_detector), (SIZE, SIZE), 8, int(batch_size))


def bundled_frames() -> Turn:
    """Animate with the model in sup-mat/, in its fast form."""
    networks = load_checkpoints(SAMPLE["config"], SAMPLE["checkpoint"], cpu=True)
    return animated_frames(networks, frame_shape(read_config(SAMPLE["config"]))[:2], 64)


def demo_frames(clip: str) -> Turn:
    """Animate from a driving video's file to a result in a file, with the model in sup-mat/."""
    networks = load_checkpoints(SAMPLE["config"], SAMPLE["checkpoint"], cpu=True)
    source = read_image(SAMPLE["source_image"])
    driving = FittedClip(open_clip(Path(clip)), source.shape[:2], "stretch")
    options, pictures = DemoOptions(relative=True), SourcePictures([source])
    animators = make_animators(networks, pictures, options)

    def write() -> None:
        with tempfile.TemporaryDirectory() as folder, VideoWriter(Path(folder) / "out.mp4", 25) as writer:
            write_animation(animators, pictures, driving, writer, options)

    return timed(write, len(driving))


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
        export_graphs(*random_networks(), (SIZE, SIZE), Path(folder))
        encoder, keypoints, frame = (
            open_graph(importlib.import_module(engine), Path(folder) / f"{name}.onnx")
            for name in ("encoder", "keypoints", "frame")
        )
    source, *driving = torch.rand(9, 1, 3, SIZE, SIZE).numpy()
    known = {"source": source} | encoder({"source": source})
    known |= {f"source_{name}": value for name, value in keypoints({"frame": source}).items()}

    def animate(picture: np.ndarray) -> None:
        moved = {f"driving_{name}": value for name, value in keypoints({"frame": picture}).items()}
        frame(known | moved)

    return timed(lambda: exhaust(map(animate, driving)), len(driving))


# ---- On a device: how far results are off, a frame, a training step --------------


def set_tf32(precision: str) -> str:
    """Let convolutions of this process round to TF32, unless `precision` is EXACT; return --precision."""
    torch.backends.cudnn.allow_tf32 = precision != EXACT
    return "fp32" if precision == EXACT else precision


def repeated(work: Callable[[], object], device: torch.device, items: int) -> float:
    """Return milliseconds an item of `work`, which is done once on a CPU, and for SECONDS on a GPU."""
    start, count = time.perf_counter(), 0
    while count == 0 or (device.type != "cpu" and time.perf_counter() - start < SECONDS):
        work()
        count += 1
    synchronize(device)
    return 1000 * (time.perf_counter() - start) / (count * items)


def differences(device: str, precision: str, kind: str) -> Turn:
    """Compare a device with fp32 on the CPU, by the model in sup-mat/: in levels of 255.

    `kind` is "mean" or "largest", of the absolute differences of pixels in COMPARED frames.
    """
    config, precision = read_config(SAMPLE["config"]), set_tf32(precision)
    size = frame_shape(config)[:2]
    source = fitted(read_image(SAMPLE["source_image"]), size, "stretch").unsqueeze(0)
    driving = itertools.cycle(FittedClip(open_clip(SAMPLE["driving_video"]), size, "stretch"))
    animators = []
    for where, how in ((CPU, "fp32"), (torch.device(device), precision)):
        networks = load_networks(config, SAMPLE["config"], SAMPLE["checkpoint"], where, plain=True)
        animators.append(Animator(*networks, source.to(where), precision=how))

    def turn() -> float:
        frames = list(itertools.islice(driving, COMPARED))
        pairs = zip(*(animator.animate(frames) for animator in animators), strict=True)
        off = torch.stack([(a["prediction"] - b["prediction"].cpu()).abs() for a, b in pairs])
        return 255 * (off.mean() if kind == "mean" else off.max()).item()

    return turn


def device_frames(device: str, config: str, form: str, precision: str, batch_size: str) -> Turn:
    """Animate from frames in the CPU's memory to predictions there, in one of FRAME_FORMS."""
    where, precision, count = torch.device(device), set_tf32(precision), int(batch_size)
    generator, kp_detector = random_networks(Path(config))
    for network in (generator, kp_detector):
        network.to(where)
        if form == "channels last":
            network.to(memory_format=torch.channels_last)
    assert generator.frame_size is not None  # the config's
    source = torch.rand(1, 3, *generator.frame_size, device=where)
    batch = torch.rand(count, 3, *generator.frame_size)
    if form == PUBLISHED_LOOP:
        source = source.repeat(count, 1, 1, 1)
    with torch.no_grad(), autocast(where, precision):
        encoding, kp_source = generator.encode(source), kp_detector(source)

    def step(driving: Tensor) -> Tensor:
        with autocast(where, precision):
            kp_driving = kp_detector(driving)
            if form == PUBLISHED_LOOP:  # the source anew for each frame
                return generator(source, kp_driving=kp_driving, kp_source=kp_source)["prediction"]
            return generator.generate(encoding, kp_driving, kp_source, deformed=False)["prediction"]

    animate: Any = step
    if form == COMPILED:
        animate = torch.compile(step)
    elif form == GRAPH:
        with torch.no_grad():
            animate = torch.cuda.make_graphed_callables(step, (batch.to(where),))

    @torch.no_grad()
    def turn() -> float:
        return repeated(lambda: animate(batch.to(where)).cpu(), where, count)

    return turn


def training_step(device: str, config_path: str, form: str, precision: str, batch_size: str) -> Turn:
    """Train as train.py does, in one of STEP_FORMS, on pictures of noise: milliseconds a sample."""
    torch.manual_seed(0)
    where, precision, count = torch.device(device), set_tf32(precision), int(batch_size)
    changes = ["train_params.vgg_weights=random", f"train_params.batch_size={count}", *STEP_FORMS[form]]
    config = read_config(config_path, changes)
    networks = build_networks(config)
    state = TrainingState(config, networks, where, seed=0, precision=precision)
    models = full_models(config, networks, where, None)
    if form in REPLICAS:
        full, judge = (DataParallelWithCallback(model, device_ids=REPLICAS[form]) for model in models)
        models = full, judge
    height, width, channels = frame_shape(config)
    x = {name: torch.rand(count, channels, height, width, device=where) for name in ("source", "driving")}
    transform = draw_transform(config["train_params"], (0, 0, 0), where)
    return lambda: repeated(lambda: train_step(models, state, x, transform, precision), where, count)


# ---- A sample --------------------------------------------------------------------


def samples(folder: str) -> Turn:
    """Draw samples of a dataset with the augmentation of vox-256, four of each clip, in one thread."""
    torch.set_num_threads(1)
    dataset = FramesDataset(folder, augmentation_params=AUGMENTATION)
    numbers = [*range(len(dataset))] * 4
    return timed(lambda: exhaust(map(dataset.__getitem__, numbers)), len(numbers))


def loaded_samples(folder: str, workers: str) -> Turn:
    """Load the same samples in batches of four by that many workers, as training does."""
    dataset = DatasetRepeater(FramesDataset(folder, augmentation_params=AUGMENTATION), 16)
    batches = EpochBatches(len(dataset), batch_size=4, seed=0)
    loader = make_loader(dataset, batches, {"num_workers": int(workers)}, CPU)
    return timed(lambda: exhaust(loader), len(dataset))


FRAMES = (vox_frames, bundled_frames, demo_frames, exported_frames, device_frames)
JOBS: dict[str, Callable[..., Turn]] = {
    job.__name__: job for job in (*FRAMES, differences, training_step, samples, loaded_samples)
}


def peak() -> float:
    """Return the peak memory in MiB: of the GPU, where one is in use, else of this process."""
    on_gpu = peak_memory_mib(torch.device("cuda")) if torch.cuda.is_initialized() else None
    return peak_memory() if on_gpu is None else on_gpu


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    with process_group(torch.device(arguments[0] if in_torchrun() else "cpu")):
        serve_turns(functools.partial(JOBS[name], *arguments), peak)
