"""Animate a picture with a video: the object in the picture moves as the one in the video does.

    python demo.py
    python demo.py --config config/vox-256.yaml --checkpoint vox-cpk.pth.tar --relative --adapt_scale \\
        --source_image portrait.jpg --driving_video talk.mp4 --audio

Without --config and --checkpoint the small model of sup-mat/ is used, without --source_image or --driving_video its sample.

Frames are read, animated and written one after another, so the driving video may be of any length. In notebooks, use
`load_checkpoints` and `make_animation`.

Shapes: `h, w` size of a picture as it is, `H, W` size that the model takes.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from media.clips import Clip, open_clip
from media.pictures import fit, read_image
from media.writer import VideoWriter
from modules.errors import UserError, command_line
from progress import Progress

if TYPE_CHECKING:  # imported where they are needed, so that --help answers at once
    import torch
    from torch import nn

    from animate import Animator

ROOT = Path(__file__).resolve().parent
SAMPLE = {
    "config": ROOT / "config" / "puppets-128.yaml",
    "checkpoint": ROOT / "sup-mat" / "puppets-128.pth.tar",
    "source_image": ROOT / "sup-mat" / "source.png",
    "driving_video": ROOT / "sup-mat" / "driving.mp4",
}
MAX_STRETCH = 1.1  # how far aspect ratios may differ without a hint

# ---------------------------------------------------------------------------------------------------------------------
# Command line


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, help="the YAML config that the model was trained with, see config/"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="a .pth.tar file, or the folder of a run, whose newest one is taken"
    )
    parser.add_argument("--source_image", type=Path, help="the picture to animate")
    parser.add_argument("--driving_video", type=Path, help="a video, a .gif or a folder of frames")
    parser.add_argument(
        "--result_video",
        type=Path,
        default="result.mp4",
        help=".mp4, .gif, or a folder of pngs (default: result.mp4)",
    )
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
    parser.add_argument("--audio", action="store_true", help="carry over the driving video's sound")
    parser.add_argument(
        "--fit",
        default="stretch",
        choices=["stretch", "crop", "pad"],
        help="how pictures of another shape get the model's (default: stretch)",
    )
    parser.add_argument(
        "--side_by_side", action="store_true", help="write source, driving frame and result in a row"
    )
    parser.add_argument("--cpu", action="store_true", help="the same as --device cpu")
    parser.add_argument("--device", choices=["cuda", "mps", "cpu"], help="default: the best there is")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"], help="default: fp32")
    parser.add_argument("--batch_size", type=int, default=1, help="frames computed together (default: 1)")
    parser.add_argument(
        "--plain", action="store_true", help="on the CPU, don't turn the networks into their fast form"
    )
    options = parser.parse_args(argv)
    if (options.config is None) != (options.checkpoint is None):
        parser.error(
            "--config and --checkpoint go together: a checkpoint fits the config it was trained with"
        )
    if options.cpu and options.device not in (None, "cpu"):
        parser.error(f"--cpu and --device {options.device} exclude each other")
    if options.batch_size < 1:
        parser.error("--batch_size must be at least 1")
    return options


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    use_sample(options)
    keep_inputs(options)

    from checkpoint import find_checkpoint
    from device import pick_device
    from modules.build import read_config

    config, checkpoint = read_config(options.config), find_checkpoint(options.checkpoint)
    device = pick_device("cpu" if options.cpu else options.device)
    size = model_size(config, options.config)
    source = read_image(options.source_image)
    driving = FittedClip(open_clip(options.driving_video), size, options.fit)
    check_best_frame(options.best_frame, driving)
    hint(options, source.shape[:2], driving.clip.size, size)
    audio_from = options.driving_video if options.audio else None
    with VideoWriter(options.result_video, driving.clip.fps, audio_from) as writer:
        plain = options.plain or options.precision != "fp32"
        networks = load_networks(config, options.config, checkpoint, device, plain)
        started = time.monotonic()
        done, stopped_by = write_animation(
            options, networks, device, fit(source, size, options.fit), driving, writer
        )
    seconds = time.monotonic() - started
    if writer.audio_note is not None:
        print(f"warning: {writer.audio_note}", file=sys.stderr)
    print(f"{options.result_video}: {done} frames in {seconds:.1f} s, {done / seconds:.1f} frames/s")
    if stopped_by is not None:
        print(f"stopped: {options.result_video} holds {done} of {len(driving)} frames", file=sys.stderr)
        sys.exit(128 + stopped_by)


def use_sample(options: argparse.Namespace) -> None:
    """Fill in what is not given. Raises `UserError` where that is not there."""
    for name, path in SAMPLE.items():
        if getattr(options, name) is None:
            if not path.exists():
                wanted = ", ".join(f"--{name}" for name in SAMPLE)
                raise UserError(f"{path.relative_to(ROOT)} is not in this checkout: give {wanted}")
            setattr(options, name, path)


def keep_inputs(options: argparse.Namespace) -> None:
    """Raise `UserError` if the result would replace an input, or a folder that holds one."""
    result = options.result_video
    for name in SAMPLE:
        path = getattr(options, name)
        inside = [path, *path.absolute().parents] if result.is_dir() else [path]
        if result.exists() and any(place.exists() and place.samefile(result) for place in inside):
            raise UserError(f"--result_video {result} would replace --{name} {path}; choose another name")


def model_size(config: dict, config_path: Path) -> tuple[int, int]:
    from modules.build import frame_shape

    height, width, channels = frame_shape(config)
    if channels != 3:
        raise UserError(
            f"{config_path}: its model takes pictures of {channels} channels; only colour (3) can be animated here"
        )
    return height, width


def check_best_frame(number: int | None, driving: FittedClip) -> None:
    if number is not None and not 0 <= number < len(driving):
        raise UserError(f"--best_frame {number}: {driving.clip.path} has the frames 0 to {len(driving) - 1}")


def hint(
    options: argparse.Namespace, source: tuple[int, int], driving: tuple[int, int], model: tuple[int, int]
) -> None:
    """Say on stderr which options have no effect, and which pictures, of the sizes (h, w), will be distorted."""
    if not options.relative and (
        options.adapt_scale or options.find_best_frame or options.best_frame is not None
    ):
        print(
            "hint: --adapt_scale, --find_best_frame and --best_frame do nothing without --relative",
            file=sys.stderr,
        )
    for path, (height, width) in ((options.source_image, source), (options.driving_video, driving)):
        stretch = (height / width) / (model[0] / model[1])
        if options.fit == "stretch" and max(stretch, 1 / stretch) > MAX_STRETCH:
            sizes = f"{width}x{height} and is stretched to {model[1]}x{model[0]}"
            print(f"hint: {path} is {sizes}; --fit crop and --fit pad keep its shape", file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------------------
# From pictures to the model's size and back


class FittedClip:
    """The frames of a clip in the model's size, (H, W, 3) uint8; each loop reads them anew, one at a time."""

    def __init__(self, clip: Clip, size: tuple[int, int], how: str):
        self.clip, self.size, self.how = clip, size, how

    def __len__(self) -> int:
        return len(self.clip)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (fit(frame, self.size, self.how) for frame in self.clip)

    def __getitem__(self, number: int) -> np.ndarray:
        return fit(self.clip.read([number])[0], self.size, self.how)


def to_array(prediction: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) -> float32 (H, W, 3), both in [0, 1]."""
    return prediction[0].permute(1, 2, 0).float().cpu().numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Animation


def write_animation(
    options: argparse.Namespace,
    networks: tuple[nn.Module, nn.Module],
    device: torch.device,
    source: np.ndarray,
    driving: FittedClip,
    writer: VideoWriter,
) -> tuple[int, int | None]:
    """Write the result to its end, or with the frames done when a signal comes: (frames written, signal or None).

    `source`: (H, W, 3) uint8. A signal that comes before the first frame ends the program.
    """
    from animate import Animator
    from device import caught_signals
    from media.tensors import to_tensor

    animator = Animator(
        *networks,
        to_tensor(source).unsqueeze(0).to(device),
        transfer(options.relative, options.adapt_scale),
        batch_size=options.batch_size,
        precision=options.precision,
    )
    if options.relative and (options.find_best_frame or options.best_frame is not None):
        start_from_best(animator, driving, options.best_frame)
    done = 0
    with caught_signals() as caught, Progress(len(driving), "animation", "frames") as progress:
        frames = itertools.takewhile(lambda frame: not caught, driving)
        for prediction, frame in animated(animator, frames):
            writer.write(
                np.concatenate([source, frame, prediction], axis=1) if options.side_by_side else prediction
            )
            progress.advance(1)
            done += 1
        if done == 0:
            sys.exit(128 + caught[0])
        writer.finish()  # here, where a second signal can't break it off
    return done, caught[0] if done < len(driving) else None


def transfer(relative: bool, adapt_scale: bool) -> dict[str, bool]:
    """The arguments of `normalize_kp`, as in the published demo."""
    return {
        "use_relative_movement": relative,
        "use_relative_jacobian": relative,
        "adapt_movement_scale": adapt_scale,
    }


def start_from_best(animator: Animator, driving: FittedClip, number: int | None) -> None:
    """Measure movement from frame `number`, or from the one closest to the source in pose, for which all are read once.

    The published code then animates forward and backward from there. As each frame depends on the source and the initial
    frame alone, going through them in their order gives the same pictures and needs none in memory.
    """
    from media.tensors import to_tensor

    if number is None:
        with Progress(len(driving), "best frame", "frames") as progress:
            number = animator.closest(map(to_tensor, counted(driving, progress)))
    print(f"Best frame: {number}")
    animator.start_from(to_tensor(driving[number]))


def counted(frames: Iterable[np.ndarray], progress: Progress) -> Iterator[np.ndarray]:
    for frame in frames:
        yield frame
        progress.advance(1)


def animated(animator: Animator, driving: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The prediction for each driving frame, and the frame itself, both (H, W, 3) uint8."""
    from media.tensors import to_pixels, to_tensor

    frames, seen = itertools.tee(driving)  # as far apart as a batch
    for frame, out in zip(seen, animator.animate(map(to_tensor, frames)), strict=True):
        yield to_pixels(out["prediction"][0]), frame


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def load_networks(
    config: dict, config_path: Path, checkpoint: Path, device: torch.device, plain: bool
) -> tuple[nn.Module, nn.Module]:
    """Generator and keypoint detector in eval mode; on the CPU, unless `plain`, in their fast form."""
    from checkpoint import load_for_inference
    from modules.build import build_generator, build_kp_detector
    from modules.inference import fast_form

    generator, kp_detector = build_generator(config), build_kp_detector(config)
    load_for_inference(checkpoint, generator, kp_detector, config_path)
    if device.type == "cpu" and not plain:
        return fast_form(generator), fast_form(kp_detector)
    return generator.to(device).eval(), kp_detector.to(device).eval()


# ---------------------------------------------------------------------------------------------------------------------
# Notebooks


def load_checkpoints(
    config_path: str | Path, checkpoint_path: str | Path, cpu: bool = False
) -> tuple[nn.Module, nn.Module]:
    """Generator and keypoint detector of a checkpoint, on the best device there is or, with `cpu`, on the CPU.

    On the CPU they come in their fast form (`modules/inference.py`), which can't be trained. Raises `ConfigError` and
    `CheckpointError`.
    """
    from checkpoint import find_checkpoint
    from device import pick_device
    from modules.build import read_config

    config, device = read_config(config_path), pick_device("cpu" if cpu else None)
    return load_networks(config, config_path, find_checkpoint(checkpoint_path), device, plain=False)


def make_animation(
    source_image: np.ndarray,
    driving_video: Iterable[np.ndarray],
    generator: nn.Module,
    kp_detector: nn.Module,
    relative: bool = True,
    adapt_movement_scale: bool = True,
    cpu: bool = False,
) -> list[np.ndarray]:
    """Animate `source_image` (H, W, 3) with frames of the same size: a list of float32 (H, W, 3), a frame each.

    All values are in [0, 1] (or uint8, for inputs), and H, W the size that the networks take. It computes where the networks
    are; `cpu` first moves them to the CPU.
    """
    from animate import Animator
    from media.tensors import to_tensor

    if cpu:
        generator, kp_detector = generator.cpu(), kp_detector.cpu()
    device = next(generator.parameters()).device
    source = to_tensor(np.asarray(source_image)).unsqueeze(0).to(device)
    animator = Animator(generator, kp_detector, source, transfer(relative, adapt_movement_scale))
    driving = (to_tensor(np.asarray(frame)) for frame in driving_video)
    return [to_array(out["prediction"]) for out in animator.animate(driving)]


if __name__ == "__main__":
    main()
