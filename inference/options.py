"""The options of the demo, which the page sets by its widgets. Importing them takes no PyTorch."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from checkpoints.table import DEFAULT_MODEL, read_table
from faces.options import CropOptions
from media.rates import fps_option
from utils.options import PRECISIONS, option

MAX_STRENGTH = 10  # of smoothing; at 1, frames within a quarter of a second are held


def model_help() -> str:
    return f"a model that is downloaded on first use: {', '.join(read_table())} (default: {DEFAULT_MODEL})"


def png_option(text: str) -> Path:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"'{text}' does not end with .png")
    return Path(text)


def strength_option(text: str) -> float:
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not 0 < strength <= MAX_STRENGTH:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0, up to {MAX_STRENGTH}")
    return strength


@dataclass(frozen=True, kw_only=True)
class DemoOptions(CropOptions):
    """Each field is the option of `demo.py` that has its name."""

    # The model
    model: str | None = option(None, model_help, metavar="NAME")
    offline: bool = option(False, "never download a model")
    config: Path | None = option(None, "the YAML config that the model was trained with, see config/")
    checkpoint: Path | None = option(
        None, "a .pth.tar or .safetensors file, or the folder of a run, whose newest one is taken"
    )

    # What is read
    source_image: tuple[Path, ...] | None = option(
        None, "the picture to animate, or several, or a folder of them", metavar="PICTURE"
    )
    driving_video: tuple[Path, ...] | None = option(
        None, "a video, a .gif or a folder of frames, or several of them", metavar="VIDEO"
    )
    fps: float | None = option(
        None, "frames a second of folders of frames (default: 25)", type=fps_option, metavar="N"
    )
    driving_motion: tuple[Path, ...] | None = option(
        None,
        "in the place of a driving video: what --save_motion wrote with the same model",
        metavar="FILE.npz",
    )

    # The motion
    relative: bool = option(False, "move the source as the driving keypoints have moved")
    adapt_scale: bool = option(False, "scale that movement by the ratio of the objects' sizes")
    find_best_frame: bool = option(
        False,
        "with --relative: measure movement from the driving frame whose pose is closest to the source's",
    )
    best_frame: int | None = option(
        None, "with --relative: measure it from frame N, counted from 0", metavar="N"
    )
    smooth: float | None = option(
        None,
        "smooth the motion over time, without lag (1 where no strength is given)",
        type=strength_option,
        nargs="?",
        const=1.0,
        metavar="STRENGTH",
    )

    # What is written
    save_motion: Path | None = option(
        None,
        "write the motion of the driving video, too; of several, into a folder of that name",
        metavar="FILE.npz",
    )
    result_video: Path | None = option(
        None,
        ".mp4, .mov, .mkv, .webm, .gif, or a folder of pngs (default: result.mp4); with several sources or "
        "driving videos a folder of videos (default: results)",
        metavar="RESULT",
    )
    skip_existing: bool = option(False, "leave results alone that are there already")
    background: Path | None = option(
        None, "with --paste_back: put it into this picture, video or folder of frames instead", metavar="PATH"
    )
    preview: Path | None = option(
        None, "draw what will be cut into a picture, and stop", type=png_option, metavar="FILE.png"
    )
    size: int | None = option(
        None,
        "the height of the result, which is larger than the model's; the motion is found at the model's",
        metavar="N",
    )
    side_by_side: bool = option(False, "write source, driving frame and result in a row")
    audio: bool = option(False, "carry over the driving video's sound")

    # How it is computed
    device: str | None = option(None, "default: the best there is", choices=["cuda", "mps", "cpu"])
    precision: str = option(
        "fp32",
        "auto: bf16 where the processor or GPU has it, else fp32 (default: fp32)",
        choices=[*PRECISIONS, "auto"],
    )
    batch_size: int = option(1, "frames computed together (default: 1)")
    plain: bool = option(False, "on the CPU, don't turn the networks into their fast form")

    @property
    def measured_elsewhere(self) -> bool:
        """Whether relative movement is measured from another frame than the first."""
        return self.relative and (self.find_best_frame or self.best_frame is not None)
