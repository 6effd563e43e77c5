"""What people may upload and ask for, and how errors are told to them: in one line of the page's words."""

from __future__ import annotations

import math
import re
import traceback
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from gradio.utils import get_upload_folder

from checkpoints.hub import CACHE
from checkpoints.table import read_table
from inference.jobs import Job, limited
from media.clips import Clip
from media.pictures import Size, read_image, read_image_size
from modules.build import build_generator, build_kp_detector
from utils.errors import MediaError, UserError, told
from utils.progress import Cancelled

# What a file may have, each in the unit of its message
MAX_UPLOAD = 1024  # MiB of any file; the published checkpoints take 700
MAX_PICTURE, MAX_VIDEO = 32, 256  # MiB
MAX_PICTURE_PIXELS, MAX_FRAME_PIXELS = 40, 8.3  # million
MAX_FRAMES = 5400  # three minutes at 30 frames a second
MAX_READ = 12000  # million pixels of all frames: three minutes of 1920x1080

# What a job may cost
MAX_HEIGHT = 1024  # of what the networks paint
MAX_FEATURES = 70  # million numbers in the widest layer: 64 at each of 1024x1024 pixels, and some
MAX_WEIGHTS = 200  # million; the published models have about 60
MAX_FACES = 8  # painted in each frame
MAX_WRITTEN = 6000  # million pixels of all frames of the result

FILES = gr.Image | gr.Video | gr.File  # widgets whose values are uploads
LABELS: dict[str, str] = {}  # of the widgets, by names of options

# An absolute path up to its last slash, or backslash; what follows a colon or a slash is an address.
FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/:;,'\"]+/)+|\b[A-Za-z]:\\(?:[^\s\\:;,'\"]+\\)+")


def shown(error: Exception) -> gr.Error:
    """Turn an error into a line on the page. The traceback of a bug goes to the terminal."""
    message = error.message if isinstance(error, gr.Error) else told(error)
    if isinstance(error, Cancelled):
        message = "cancelled"
    if message is None:
        traceback.print_exception(error)
        message = "something went wrong in the program; the terminal that it runs in says what"
    return gr.Error(in_words(message), print_exception=False)


def in_words(message: str) -> str:
    """Name options by their widgets, and files of the server without their folders, but for the cache."""
    cache = str(CACHE)
    message = cache.join(FOLDERS.sub("", part) for part in message.split(cache))
    message = re.sub(
        r"--model ([\w-]+)", lambda found: f"the model '{read_table()[found[1]].label}'", message
    )
    return re.sub(r"--([a-z_]+)", lambda found: option_label(found[1]), message)


def option_label(name: str) -> str:
    return f"'{LABELS[name]}' ({name})" if name in LABELS else name


def check_uploads(name: str, value: Any) -> None:
    """Raise `UserError` if a value of the field `name` is a file that was not uploaded to this server.

    Gradio checks only a mapping that says by its `meta` that it is a file.
    """
    folder = Path(get_upload_folder()).resolve()
    for file in value if isinstance(value, list) else [value]:
        if file is None:
            continue
        path = file.get("path") if isinstance(file, dict) else None
        if not isinstance(path, str) or "\0" in path or folder not in Path(path).resolve().parents:
            raise UserError(f"--{name}: is no file that was uploaded here; upload it first")
        if not Path(path).is_file():
            raise UserError(f"--{name}: {Path(path).name} was deleted here after some time; choose it again")


def upload(file: Any) -> Path | None:
    """Return the path of an upload that `check_uploads` has seen."""
    return None if file is None else Path(file["path"])


def read_picture(path: Path) -> np.ndarray:
    """Read an uploaded picture: (h, w, 3) uint8. Raises `UserError` where it is too large."""
    check_size(path, path.stat().st_size / 2**20, MAX_PICTURE, "MiB")
    height, width = read_image_size(path)
    check_size(path, height * width / 1e6, MAX_PICTURE_PIXELS, "million pixels")
    return read_image(path)


def check_clip(clip: Clip) -> None:
    """Raise `UserError` for a video that is too large."""
    check_size(clip.path, clip.path.stat().st_size / 2**20, MAX_VIDEO, "MiB")
    pixels = clip.size[0] * clip.size[1] / 1e6
    check_size(clip.path, pixels, MAX_FRAME_PIXELS, "million pixels")
    check_size(clip.path, len(clip), MAX_FRAMES, "frames", "cut it shorter")
    check_size(clip.path, len(clip) * pixels, MAX_READ, "million pixels in all frames", "cut it shorter")


def check_size(file: Path, size: float, most: float, unit: str, remedy: str = "make it smaller") -> None:
    if size > most:
        raise MediaError(f"{file.name}: has {math.ceil(size)} {unit}, more than {most:g}; {remedy}")


def check_job(job: Job, config: dict, whole: Size, frames: int, faces: int = 1) -> None:
    """Raise `UserError` for a job that costs too much; `whole`: the size of what is pasted into."""
    options = job.options
    check_model(config, job.painted)
    size = limited(whole, options.max_side)[0] if options.paste_back else job.painted
    written = frames * size[0] * size[1] * (3 if options.side_by_side else 1)
    check_cost("face", faces, MAX_FACES, "faces", "choose one, or cut the picture smaller")
    check_cost("driving_video", written / 1e6, MAX_WRITTEN, "million pixels of a result", "cut it shorter")


def check_model(config: dict, size: Size) -> None:
    """Raise `UserError` for a model that costs too much, or that paints too much at `size`."""
    with torch.device("meta"):  # takes no memory
        networks = build_generator(config), build_kp_detector(config)
    weights = [weight.numel() for network in networks for weight in network.parameters()]
    widest = size[0] * size[1] * config["model_params"]["generator_params"]["block_expansion"]
    check_cost("config", sum(weights) / 1e6, MAX_WEIGHTS, "million weights", "take a smaller model")
    check_cost("size", widest / 1e6, MAX_FEATURES, "million numbers a layer", "lower it")


def check_cost(name: str, cost: float, most: float, unit: str, remedy: str) -> None:
    if cost > most:
        raise UserError(f"--{name}: would take {math.ceil(cost)} {unit}, more than {most:g}; {remedy}")
