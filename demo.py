"""Animate a picture with a video: the object in the picture moves as the one in the video does.

    python demo.py
    python demo.py --model vox --relative --adapt_scale --audio \\
        --source_image portrait.jpg --driving_video talk.mp4

Without --model, or --config and --checkpoint, the small model of sup-mat/ is used, without --source_image
or --driving_video its sample.

Frames are read, animated and written one after another, so the driving video may be of any length. In
notebooks, use `load_checkpoints` and `make_animation`.

Shapes: `h, w` size of a picture as it is, `H, W` size that the model takes.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from animate import Animator
from animation import Cancelled, Driving, FittedClip, Settings, Source, Written, transfer, write_animation
from checkpoint import find_checkpoint, load_for_inference
from device import PRECISIONS, caught_signals, pick_device
from media.clips import open_clip
from media.pictures import fit, read_image
from media.tensors import to_tensor
from media.writer import VideoWriter
from modules.build import build_generator, build_kp_detector, frame_shape, read_config
from modules.errors import UserError, command_line
from modules.generator import OcclusionAwareGenerator
from modules.inference import fast_form
from modules.keypoint_detector import KPDetector
from progress import Progress
from weights import DEFAULT_MODEL, find_model, read_table

ROOT = Path(__file__).resolve().parent
SAMPLE = {
    "config": ROOT / "config" / "puppets-128.yaml",
    "checkpoint": ROOT / "sup-mat" / "puppets-128.pth.tar",
    "source_image": ROOT / "sup-mat" / "source.png",
    "driving_video": ROOT / "sup-mat" / "driving.mp4",
}
MAX_STRENGTH = 10  # of smoothing; at 1, frames within a quarter of a second are held
MAX_STRETCH = 1.1  # how far aspect ratios may differ without a hint

# ---- Networks ------------------------------------------------------------------


def load_networks(
    config: dict, config_path: str | Path, checkpoint: Path, device: torch.device, plain: bool
) -> tuple[OcclusionAwareGenerator, KPDetector]:
    """Generator and keypoint detector in eval mode; on the CPU, unless `plain`, in their fast form."""
    generator, kp_detector = build_generator(config), build_kp_detector(config)
    load_for_inference(checkpoint, generator, kp_detector, config_path)
    if device.type == "cpu" and not plain:
        return fast_form(generator), fast_form(kp_detector)
    return generator.to(device).eval(), kp_detector.to(device).eval()


def model_size(config: dict, config_path: str | Path) -> tuple[int, int]:
    """The (H, W) that a model takes. Raises `UserError` if it is not one of colour pictures."""
    height, width, channels = frame_shape(config)
    if channels != 3:
        raise UserError(
            f"{config_path}: its model takes pictures of {channels} channels; only colour (3) can be "
            "animated here"
        )
    return height, width


# ---- Checks and hints ----------------------------------------------------------


def check_result(result: Path, inputs: Mapping[str, Path]) -> None:
    """Raise `UserError` if the result would replace one of the `inputs`, or a folder that holds one.

    The inputs are named by their options.
    """
    for name, path in inputs.items():
        inside = [path, *path.absolute().parents] if result.is_dir() else [path]
        if result.exists() and any(place.exists() and place.samefile(result) for place in inside):
            raise UserError(f"--result_video {result} would replace --{name} {path}; choose another name")


def check_best_frame(number: int | None, driving: Driving) -> None:
    if number is not None and not 0 <= number < len(driving):
        raise UserError(f"--best_frame {number}: {driving.path} has the frames 0 to {len(driving) - 1}")


def hints(settings: Settings, pictures: Mapping[Path, tuple[int, int]], model: tuple[int, int]) -> list[str]:
    """Which settings have no effect, and which `pictures`, of the sizes (h, w), will be distorted."""
    lines = []
    measured = settings.find_best_frame or settings.best_frame is not None
    if not settings.relative and (settings.adapt_scale or measured):
        lines.append("--adapt_scale, --find_best_frame and --best_frame do nothing without --relative")
    for path, (height, width) in pictures.items():
        stretch = (height / width) / (model[0] / model[1])
        if settings.fit == "stretch" and max(stretch, 1 / stretch) > MAX_STRETCH:
            sizes = f"{width}x{height} and is stretched to {model[1]}x{model[0]}"
            lines.append(f"{path} is {sizes}; --fit crop and --fit pad keep its shape")
    return lines


# ---- Notebooks -----------------------------------------------------------------


def load_checkpoints(
    config_path: str | Path, checkpoint_path: str | Path, cpu: bool = False
) -> tuple[OcclusionAwareGenerator, KPDetector]:
    """Generator and keypoint detector of a checkpoint, on the best device or, with `cpu`, on the CPU.

    On the CPU they come in their fast form (`modules/inference.py`), which can't be trained. Raises
    `ConfigError` and `CheckpointError`.
    """
    config, device = read_config(config_path), pick_device("cpu" if cpu else None)
    return load_networks(config, config_path, find_checkpoint(checkpoint_path), device, plain=False)


def make_animation(
    source_image: np.ndarray,
    driving_video: Iterable[np.ndarray],
    generator: OcclusionAwareGenerator,
    kp_detector: KPDetector,
    relative: bool = True,
    adapt_movement_scale: bool = True,
    cpu: bool = False,
) -> list[np.ndarray]:
    """Animate `source_image` (H, W, 3) with frames of the same size: a list of float32 (H, W, 3).

    All values are in [0, 1] (or uint8, for inputs), and H, W the size that the networks take. It computes
    where the networks are; `cpu` first moves them to the CPU.
    """
    if cpu:
        generator, kp_detector = generator.cpu(), kp_detector.cpu()
    device = next(generator.parameters()).device
    source = to_tensor(np.asarray(source_image)).unsqueeze(0).to(device)
    animator = Animator(generator, kp_detector, source, transfer(relative, adapt_movement_scale))
    driving = (to_tensor(np.asarray(frame)) for frame in driving_video)
    return [to_array(out["prediction"]) for out in animator.animate(driving)]


def to_array(prediction: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) -> float32 (H, W, 3), both in [0, 1]."""
    return prediction[0].permute(1, 2, 0).float().cpu().numpy()


# ---- Command line --------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_files(parser)
    add_settings(parser)
    parser.add_argument("--audio", action="store_true", help="carry over the driving video's sound")
    parser.add_argument("--cpu", action="store_true", help="the same as --device cpu")
    parser.add_argument("--device", choices=["cuda", "mps", "cpu"], help="default: the best there is")
    parser.add_argument(
        "--plain", action="store_true", help="on the CPU, don't turn the networks into their fast form"
    )
    options = parser.parse_args(argv)
    if options.model is not None and (options.config is not None or options.checkpoint is not None):
        parser.error("--model stands for a config and a checkpoint: give it, or --config and --checkpoint")
    if (options.config is None) != (options.checkpoint is None):
        parser.error(
            "--config and --checkpoint go together: a checkpoint fits the config it was trained with"
        )
    if options.cpu and options.device not in (None, "cpu"):
        parser.error(f"--cpu and --device {options.device} exclude each other")
    if options.batch_size < 1:
        parser.error("--batch_size must be at least 1")
    return options


def add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"a model that is downloaded on first use: {', '.join(read_table())} (default: {DEFAULT_MODEL})",
    )
    parser.add_argument("--offline", action="store_true", help="never download a model")
    parser.add_argument(
        "--config", type=Path, help="the YAML config that the model was trained with, see config/"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="a .pth.tar or .safetensors file, or the folder of a run, whose newest one is taken",
    )
    parser.add_argument("--source_image", type=Path, help="the picture to animate")
    parser.add_argument("--driving_video", type=Path, help="a video, a .gif or a folder of frames")
    parser.add_argument(
        "--result_video",
        type=Path,
        default="result.mp4",
        help=".mp4, .gif, or a folder of pngs (default: result.mp4)",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options that become `Settings`."""
    parser.add_argument(
        "--relative", action="store_true", help="move the source as the driving keypoints have moved"
    )
    parser.add_argument(
        "--adapt_scale", action="store_true", help="scale that movement by the ratio of the objects' sizes"
    )
    parser.add_argument(
        "--find_best_frame",
        action="store_true",
        help="with --relative: measure movement from the driving frame whose pose is closest to the source's",
    )
    parser.add_argument(
        "--best_frame", type=int, metavar="N", help="with --relative: measure it from frame N, counted from 0"
    )
    parser.add_argument(
        "--smooth",
        type=strength_option,
        nargs="?",
        const=1.0,
        metavar="STRENGTH",
        help="smooth the motion over time, without lag (1 where no strength is given)",
    )
    parser.add_argument(
        "--fit",
        default="stretch",
        choices=["stretch", "crop", "pad"],
        help="how pictures of another shape get the model's (default: stretch)",
    )
    parser.add_argument(
        "--side_by_side", action="store_true", help="write source, driving frame and result in a row"
    )
    parser.add_argument("--precision", default="fp32", choices=list(PRECISIONS), help="default: fp32")
    parser.add_argument("--batch_size", type=int, default=1, help="frames computed together (default: 1)")


def strength_option(text: str) -> float:
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not 0 < strength <= MAX_STRENGTH:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0, up to {MAX_STRENGTH}")
    return strength


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    inputs = with_samples(wanted_inputs(options))
    result = options.result_video
    check_result(result, inputs)
    source, clip = read_image(inputs["source_image"]), open_clip(inputs["driving_video"])
    config_path, checkpoint = named_or_given(options, inputs)
    config = read_config(config_path)
    device = pick_device("cpu" if options.cpu else options.device)
    size = model_size(config, config_path)
    driving = FittedClip(clip, size, settings.fit)
    check_best_frame(settings.best_frame, driving)
    sizes = {inputs["source_image"]: source.shape[:2], inputs["driving_video"]: driving.clip.size}
    for line in hints(settings, sizes, size):
        print(f"hint: {line}", file=sys.stderr)
    audio_from = inputs["driving_video"] if options.audio else None
    with VideoWriter(result, driving.clip.fps, audio_from) as writer:
        plain = options.plain or settings.precision != "fp32"
        networks = load_networks(config, config_path, checkpoint, device, plain)
        started = time.monotonic()
        fitted = Source([fit(source, size, settings.fit)])
        written, stopped_by = write_until_signal(networks, fitted, driving, writer, settings)
    seconds = time.monotonic() - started
    if writer.audio_note is not None:
        print(f"warning: {writer.audio_note}", file=sys.stderr)
    if written.best_frame is not None:
        print(f"Best frame: {written.best_frame}")
    done = written.frames
    print(f"{result}: {done} frames in {seconds:.1f} s, {done / seconds:.1f} frames/s")
    if stopped_by is not None:
        print(f"stopped: {result} holds {done} of {len(driving)} frames", file=sys.stderr)
        sys.exit(128 + stopped_by)


def wanted_inputs(options: argparse.Namespace) -> dict[str, Path | None]:
    """The options that name inputs. A model by name brings its own config and checkpoint."""
    model = () if options.model is None else ("config", "checkpoint")
    return {name: getattr(options, name) for name in SAMPLE if name not in model}


def named_or_given(options: argparse.Namespace, inputs: Mapping[str, Path]) -> tuple[Path, Path]:
    """The config and the checkpoint, which may be downloaded for this. Raises `UserError`."""
    if options.model is not None:
        return find_model(options.model, options.offline)
    return inputs["config"], find_checkpoint(inputs["checkpoint"])


def with_samples(given: Mapping[str, Path | None]) -> dict[str, Path]:
    """The inputs, and the sample where one is not given. Raises `UserError` where that is not there."""
    inputs = {name: path or SAMPLE[name] for name, path in given.items()}
    for name, path in inputs.items():
        if given[name] is None and not path.exists():
            wanted = ", ".join(f"--{name}" for name in SAMPLE)
            raise UserError(f"{path.relative_to(ROOT)} is not in this checkout: give {wanted}")
    return inputs


def write_until_signal(
    networks: tuple[OcclusionAwareGenerator, KPDetector],
    source: Source,
    driving: Driving,
    writer: VideoWriter,
    settings: Settings,
) -> tuple[Written, int | None]:
    """`write_animation` until a signal comes: (what was written, the signal or None).

    A signal that comes before the first frame ends the program.
    """

    def bar(what: str, total: int) -> Progress:
        return Progress(total, what, "frames")

    with caught_signals() as caught:  # a second signal does not break off the last writes
        try:
            written = write_animation(networks, source, driving, writer, settings, bar, lambda: bool(caught))
        except Cancelled:
            sys.exit(128 + caught[0])
    return written, caught[0] if written.frames < len(driving) else None


if __name__ == "__main__":
    main()
