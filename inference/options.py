"""The options of the demo, which the page sets by its widgets. Importing them takes no PyTorch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from checkpoints.table import DEFAULT_MODEL, read_table
from faces.options import CropOptions
from media.decoding import MAX_FPS, MIN_FPS
from utils.options import PRECISIONS, option

# Of movement, and of smoothing, which at 1 holds frames within a quarter of a second.
FACTOR = (0.001, 10)
MAX_SIDE = 2**15


def model_help() -> str:
    return f"a model that is downloaded on first use: {', '.join(read_table())} (default: {DEFAULT_MODEL})"


def png_option(text: str) -> Path:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"'{text}' does not end with .png")
    return Path(text)


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
    source_video: Path | None = option(
        None,
        "in the place of a picture: the video whose face is animated, frame by frame",
        type=Path,
        metavar="VIDEO",
    )
    driving_video: tuple[Path, ...] | None = option(
        None, "a video, a .gif or a folder of frames, or several of them", metavar="VIDEO"
    )
    fps: float | None = option(
        None, "frames a second of folders of frames (default: 25)", bounds=(MIN_FPS, MAX_FPS), metavar="N"
    )
    start: float | None = option(None, "leave out the driving video before this second", metavar="SECONDS")
    end: float | None = option(None, "leave out the driving video from this second on", metavar="SECONDS")
    driving_motion: tuple[Path, ...] | None = option(
        None,
        "in the place of a driving video: what --save_motion wrote with the same model",
        metavar="FILE.npz",
    )

    # The motion
    relative: bool = option(
        False, "move the source as the driving keypoints have moved; the default with --paste_back"
    )
    absolute: bool = option(False, "with --paste_back: take on the driving keypoints themselves")
    strength: float = option(1.0, "multiply relative movement (default: 1)", bounds=FACTOR, metavar="FACTOR")
    lost: str = option(
        "hold",
        "where a driving video does not show the face that --crop found: hold its last pose, or cut such "
        "frames off at both ends (default: hold)",
        choices=["hold", "cut"],
    )
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
        bounds=FACTOR,
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
        ".mp4, .mov, .mkv, .webm, .gif, a folder of pngs, or of one driving picture .png or .jpg (default: "
        "result.mp4); with several sources or driving videos a folder of videos (default: results)",
        metavar="RESULT",
    )
    skip_existing: bool = option(False, "leave results alone that are there already")
    background: Path | None = option(
        None, "with --paste_back: put it into this picture, video or folder of frames instead", metavar="PATH"
    )
    preview: Path | None = option(
        None, "draw what will be cut into a picture, and stop", type=png_option, metavar="FILE.png"
    )
    max_side: int = option(
        1920,
        "the longer side of a pasted result in pixels, at most; 0: that of the picture (default: 1920)",
        bounds=(0, MAX_SIDE),
        metavar="N",
    )
    size: int | None = option(
        None,
        "the height of the result, which is larger than the model's; the motion is found at the model's",
        bounds=(1, MAX_SIDE),
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
    batch_size: int = option(1, "frames computed together (default: 1)", bounds=(1, 1024))
    plain: bool = option(False, "on the CPU, don't turn the networks into their fast form")

    def resolved(self) -> DemoOptions:
        """Return the options with what --paste_back brings along: only relative movement fits a picture."""
        pasted = self.paste_back or self.source_video is not None
        if not pasted or self.absolute:
            return replace(self, paste_back=pasted)
        searched = self.find_best_frame or self.best_frame is None
        return replace(self, paste_back=True, relative=True, adapt_scale=True, find_best_frame=searched)

    @property
    def is_pasted(self) -> bool:
        """Whether the result is the whole picture; several faces and source videos have no other place."""
        return self.paste_back or self.face == "all" or self.source_video is not None

    @property
    def measured_elsewhere(self) -> bool:
        """Whether relative movement is measured from another frame than the first."""
        return self.relative and (self.find_best_frame or self.best_frame is not None)


@dataclass(frozen=True)
class When:
    """When an option has an effect, and how to say so."""

    is_so: Callable[[DemoOptions], bool]
    words: str


MOVES = When(lambda options: options.relative, "with relative movement")
FIXED = When(lambda options: options.relative and not options.find_best_frame, "without the best frame")
CUTS = When(lambda options: options.crop or options.crop_source is not None, "where something is cut out")
FINDS = When(lambda options: options.crop and options.crop_source is None, "where faces are found")
FOLLOWS = When(lambda options: options.crop and options.crop_driving is None, "where faces are found")
PASTES = When(lambda options: options.is_pasted, "where something is pasted back")
UNPASTED = When(lambda options: not options.is_pasted, "where nothing is pasted back")
FROM_VIDEO = When(lambda options: options.driving_motion is None, "with a driving video")
