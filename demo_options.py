"""The options of demo.py."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from checkpoints.table import DEFAULT_MODEL, read_table
from faces.choose import box_option, face_option
from media.rates import fps_option
from utils.options import ENGINES, PRECISIONS, OptionParser

MAX_STRENGTH = 10  # of smoothing; at 1, frames within a quarter of a second are held


def read_options(argv: list[str] | None, description: str | None) -> argparse.Namespace:
    """The options; a wrong value, or two that don't go together, end the program with one line."""
    parser = OptionParser(description)
    add_files(parser)
    add_crops(parser)
    add_settings(parser)
    parser.add_argument("--audio", action="store_true", help="carry over the driving video's sound")
    parser.add_argument("--cpu", action="store_true", help="the same as --device cpu")
    parser.add_argument("--device", choices=["cuda", "mps", "cpu"], help="default: the best there is")
    parser.add_argument(
        "--plain", action="store_true", help="on the CPU, don't turn the networks into their fast form"
    )
    parser.add_argument(
        "--engine",
        default="torch",
        choices=ENGINES,
        help="what computes the networks; other engines run on the CPU, and export the model on first use "
        "(default: torch)",
    )
    options = parser.parse_args(argv)
    if options.model is not None and (options.config is not None or options.checkpoint is not None):
        parser.error("--model stands for a config and a checkpoint: give it, or --config and --checkpoint")
    if (options.config is None) != (options.checkpoint is None):
        parser.error(
            "--config and --checkpoint go together: a checkpoint fits the config it was trained with"
        )
    for wrong, problem in contradictions(options):
        if wrong:
            parser.error(problem)
    if options.cpu and options.device not in (None, "cpu"):
        parser.error(f"--cpu and --device {options.device} exclude each other")
    if options.batch_size < 1:
        parser.error("--batch_size must be at least 1")
    return options


def contradictions(options: argparse.Namespace) -> list[tuple[bool, str]]:
    """Which options don't go together: (whether they are given so, what to say then)."""
    cuts_source = options.crop or options.crop_source is not None
    finds_source = options.crop and options.crop_source is None
    motion = options.driving_motion is not None
    engine = options.engine != "torch"
    several = options.face == "all" and not options.paste_back and options.preview is None
    return [
        (options.face != "largest" and not finds_source, "--face needs --crop, which finds faces"),
        (several, "--face all needs --paste_back, which puts the faces into one picture"),
        (options.paste_back and not cuts_source, "--paste_back needs --crop or --crop_source"),
        (
            options.background is not None and not options.paste_back,
            "--background needs --paste_back, which puts the crops into it",
        ),
        (
            motion and options.driving_video is not None,
            "--driving_motion and --driving_video exclude each other",
        ),
        *(
            (motion and bool(getattr(options, name)), f"--{name} needs a driving video, not --driving_motion")
            for name in ("audio", "side_by_side", "crop_driving", "save_motion")
        ),
        (options.paste_back and options.side_by_side, "--paste_back and --side_by_side exclude each other"),
        (
            options.preview is not None and not cuts_source and options.crop_driving is None,
            "--preview shows what is cut: it needs --crop, --crop_source or --crop_driving",
        ),
        (engine and options.size is not None, "--size needs --engine torch: exported graphs have one size"),
        (
            engine and options.precision in ("bf16", "fp16"),
            f"--precision {options.precision} needs --engine torch: others compute in fp32",
        ),
        (
            engine and options.device not in (None, "cpu"),
            f"--device {options.device} needs --engine torch: others run on the CPU",
        ),
    ]


def add_files(parser: OptionParser) -> None:
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
    parser.add_argument(
        "--source_image",
        type=Path,
        nargs="+",
        metavar="PICTURE",
        help="the picture to animate, or several, or a folder of them",
    )
    parser.add_argument(
        "--driving_video",
        type=Path,
        nargs="+",
        metavar="VIDEO",
        help="a video, a .gif or a folder of frames, or several of them",
    )
    parser.add_argument(
        "--fps", type=fps_option, metavar="N", help="frames a second of folders of frames (default: 25)"
    )
    parser.add_argument(
        "--driving_motion",
        type=Path,
        nargs="+",
        metavar="FILE.npz",
        help="in the place of a driving video: what --save_motion wrote with the same model",
    )
    parser.add_argument(
        "--save_motion",
        type=Path,
        metavar="FILE.npz",
        help="write the motion of the driving video, too; of several, into a folder of that name",
    )
    parser.add_argument(
        "--result_video",
        type=Path,
        metavar="RESULT",
        help=".mp4, .mov, .mkv, .webm, .gif, or a folder of pngs (default: result.mp4); with several sources "
        "or driving videos a folder of videos (default: results)",
    )
    parser.add_argument(
        "--skip_existing", action="store_true", help="leave results alone that are there already"
    )


def add_crops(parser: OptionParser) -> None:
    """The options that become `CropSettings`, and what is done with the crops."""
    parser.add_argument(
        "--crop", action="store_true", help="find the face in source and driving video, and cut around it"
    )
    for name, what in (("crop_source", "the source"), ("crop_driving", "each driving frame")):
        parser.add_argument(
            f"--{name}",
            type=box_option,
            metavar="L,T,R,B",
            help=f"cut this box out of {what}: left, top, right, bottom in pixels",
        )
    parser.add_argument(
        "--face",
        type=face_option,
        default="largest",
        metavar="largest|N|all",
        help="with --crop: which face of the source, by its number in a preview (default: largest)",
    )
    parser.add_argument(
        "--paste_back", action="store_true", help="put what was cut out of the source back into it, animated"
    )
    parser.add_argument(
        "--background",
        type=Path,
        metavar="PATH",
        help="with --paste_back: put it into this picture, video or folder of frames instead",
    )
    parser.add_argument(
        "--preview",
        type=png_option,
        metavar="FILE.png",
        help="draw what will be cut into a picture, and stop",
    )


def png_option(text: str) -> Path:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"'{text}' does not end with .png")
    return Path(text)


def add_settings(parser: OptionParser) -> None:
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
        "--size",
        type=int,
        metavar="N",
        help="the height of the result, which is larger than the model's; the motion is found at the model's",
    )
    parser.add_argument(
        "--side_by_side", action="store_true", help="write source, driving frame and result in a row"
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=[*PRECISIONS, "auto"],
        help="auto: bf16 where the processor or GPU has it, else fp32 (default: fp32)",
    )
    parser.add_argument("--batch_size", type=int, default=1, help="frames computed together (default: 1)")


def strength_option(text: str) -> float:
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not 0 < strength <= MAX_STRENGTH:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0, up to {MAX_STRENGTH}")
    return strength
