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

import openmp  # noqa: F401 - sets how torch's threads wait

import argparse
import functools
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from animate import Animator
from animation import (
    Cancelled,
    Driving,
    FittedClip,
    SavedMotion,
    Settings,
    Source,
    Written,
    transfer,
    write_animation,
)
from checkpoint import find_checkpoint, inference_weights, load_for_inference, read_checkpoint
from demo_options import read_options
from device import caught_signals, pick_device
from faces.choose import Corners
from faces.crops import cut_out
from faces.cuts import CropSettings, cuts_of_driving, cuts_of_source, preview_of
from faces.detectors import Detector, load_detector
from faces.paste import Paster
from media.clips import Clip, open_clip
from media.pictures import Size, fit, read_image, write_image
from media.tensors import to_tensor
from media.writer import VideoWriter
from modules.build import build_generator, build_kp_detector, frame_shape, read_config
from modules.errors import UserError, command_line
from modules.generator import OcclusionAwareGenerator
from modules.inference import fast_form, paint_in
from modules.keypoint_detector import KPDetector
from motion import load_motion, model_fingerprint, save_motion
from progress import Progress
from weights import find_model

Chosen = TypeVar("Chosen", Settings, CropSettings)

ROOT = Path(__file__).resolve().parent
SAMPLE = {
    "config": ROOT / "config" / "puppets-128.yaml",
    "checkpoint": ROOT / "sup-mat" / "puppets-128.pth.tar",
    "source_image": ROOT / "sup-mat" / "source.png",
    "driving_video": ROOT / "sup-mat" / "driving.mp4",
}
MAX_STRETCH = 1.1  # how far aspect ratios may differ without a hint

# ---- Networks ------------------------------------------------------------------


def load_networks(
    config: dict,
    config_path: str | Path,
    checkpoint: Path,
    device: torch.device,
    plain: bool,
    precision: str = "fp32",
) -> tuple[OcclusionAwareGenerator, KPDetector]:
    """Generator and keypoint detector in eval mode; on the CPU, unless `plain`, in their fast form.

    That paints in bfloat16 for `precision` "bf16"; there is none in "fp16".
    """
    generator, kp_detector = build_generator(config), build_kp_detector(config)
    load_for_inference(checkpoint, generator, kp_detector, config_path)
    if device.type == "cpu" and not plain and precision != "fp16":
        generator, kp_detector = fast_form(generator), fast_form(kp_detector)
        if precision == "bf16":
            paint_in(generator, torch.bfloat16)
        return generator, kp_detector
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


def check_outputs(options: argparse.Namespace, inputs: Mapping[str, Path]) -> None:
    """Raise `UserError` if a result would replace an input, or a folder that holds one, or has no folder."""
    for name in ("result_video", "preview", "save_motion"):
        output = getattr(options, name)
        if output is None:
            continue
        check_result(output, inputs, name)
        if name != "result_video" and not output.absolute().parent.is_dir():  # the writer of that one tells
            raise UserError(f"--{name} {output}: there is no folder {output.parent}; make it first")


def check_result(result: Path, inputs: Mapping[str, Path], option: str) -> None:
    """Raise `UserError` if the result would replace one of the `inputs`, or a folder that holds one.

    All are named by their options.
    """
    for name, path in inputs.items():
        inside = [path, *path.absolute().parents] if result.is_dir() else [path]
        if result.exists() and any(place.exists() and place.samefile(result) for place in inside):
            raise UserError(f"--{option} {result} would replace --{name} {path}; choose another name")


def larger_size(model: Size, height: int | None) -> Size | None:
    """The size of a result of that height; None for the model's own. Raises `UserError`."""
    if height is None or height == model[0]:
        return None
    width, rest = divmod(height * model[1], model[0])
    if height < model[0] or rest:
        raise UserError(
            f"--size {height}: must be a larger height than the model's {model[0]}, for a whole width"
        )
    return height, width


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
    return read_options(argv, __doc__)


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    settings, crops = chosen(Settings, options), chosen(CropSettings, options)
    inputs = with_samples(wanted_inputs(options))
    check_outputs(options, inputs)
    result, source_path = options.result_video, inputs["source_image"]
    picture = read_image(source_path)
    clip = open_clip(inputs["driving_video"]) if "driving_video" in inputs else None
    config_path, checkpoint = named_or_given(options, inputs)
    config = read_config(config_path)
    device = pick_device("cpu" if options.cpu else options.device)
    size = model_size(config, config_path)
    large = larger_size(size, options.size)
    uses_motion_file = clip is None or options.save_motion is not None
    fingerprint = fingerprint_of(config, checkpoint) if uses_motion_file else ""
    driving: Driving
    if clip is None:
        driving = SavedMotion(load_motion(options.driving_motion, fingerprint), options.driving_motion)
    else:
        driving = FittedClip(clip, size, settings.fit)
    check_best_frame(settings.best_frame, driving)
    for line in hints(settings, stretched(source_path, picture, clip, crops), size):
        print(f"hint: {line}", file=sys.stderr)
    detect = load_detector(None, options.cpu) if crops.crop else None
    if options.preview is not None:
        write_preview(options.preview, source_path, picture, clip, size, crops, detect)
        return
    with VideoWriter(result, driving.fps, inputs["driving_video"] if options.audio else None) as writer:
        boxes = cuts_of_source(picture, source_path, size, crops, detect).boxes
        source = cut_source(picture, boxes, (size, large), settings.fit, options.paste_back)
        if isinstance(driving, FittedClip):
            driving.box = next(iter(cuts_of_driving(driving.clip, size, crops, detect).boxes), None)
        networks = load_networks(config, config_path, checkpoint, device, options.plain, settings.precision)
        started = time.monotonic()
        written, stopped_by = write_until_signal(networks, source, driving, writer, settings)
    seconds = time.monotonic() - started
    if options.save_motion is not None:
        save_motion(options.save_motion, written.keypoints, driving.fps, fingerprint)
    if writer.audio_note is not None:
        print(f"warning: {writer.audio_note}", file=sys.stderr)
    if written.best_frame is not None:
        print(f"Best frame: {written.best_frame}")
    done = written.frames
    print(f"{result}: {done} frames in {seconds:.1f} s, {done / seconds:.1f} frames/s")
    if stopped_by is not None:
        print(f"stopped: {result} holds {done} of {len(driving)} frames", file=sys.stderr)
        sys.exit(128 + stopped_by)


def fingerprint_of(config: dict, checkpoint: Path) -> str:
    """Which keypoints a motion file holds. Raises `CheckpointError`."""
    weights = inference_weights(read_checkpoint(checkpoint))["kp_detector"]
    return model_fingerprint(weights, config["model_params"]["kp_detector_params"])


def stretched(
    source_path: Path, picture: np.ndarray, clip: Clip | None, crops: CropSettings
) -> dict[Path, Size]:
    """The sizes of the inputs of which nothing is cut."""
    sizes = {} if crops.crop or crops.crop_source else {source_path: picture.shape[:2]}
    if clip is not None and not (crops.crop or crops.crop_driving):
        sizes[clip.path] = clip.size
    return sizes


def write_preview(
    path: Path,
    source_path: Path,
    picture: np.ndarray,
    clip: Clip | None,
    size: Size,
    crops: CropSettings,
    detect: Detector | None,
) -> None:
    """Draw what will be cut out of the source and, from its first frame, of the driving video."""
    pictures, cuts = [picture], [cuts_of_source(picture, source_path, size, crops, detect)]
    if clip is not None:
        pictures.append(next(iter(clip)))
        cuts.append(cuts_of_driving(clip, size, crops, detect))
    write_image(path, preview_of(pictures, cuts, size))


def chosen(kind: type[Chosen], options: argparse.Namespace) -> Chosen:
    """Settings from the options that have their names."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})


def cut_source(
    picture: np.ndarray,
    boxes: list[Corners],
    sizes: tuple[Size, Size | None],
    how: str,
    paste_back: bool,
) -> Source:
    """What is animated: the `boxes` of the picture or, where there are none, all of it.

    `sizes`: the model's, and a larger one for the result. `how`: as of `fit`, for a whole picture.
    """

    def cut(size: Size) -> list[np.ndarray]:
        return [cut_out(picture, box, size) for box in boxes] or [fit(picture, size, how)]

    size, large = sizes
    paste = functools.partial(Paster(picture.shape[:2], boxes).paste, picture) if paste_back else None
    return Source(cut(size), None if large is None else cut(large), paste)


def wanted_inputs(options: argparse.Namespace) -> dict[str, Path | None]:
    """The options that name inputs. A model by name brings its own config and checkpoint."""
    model = () if options.model is None else ("config", "checkpoint")
    wanted = {name: getattr(options, name) for name in SAMPLE if name not in model}
    if options.driving_motion is not None:
        del wanted["driving_video"]
        wanted["driving_motion"] = options.driving_motion
    return wanted


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
