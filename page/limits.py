"""What people may upload, and how errors are told to them: one line, without paths of the server."""

from __future__ import annotations

import math
import re
import traceback
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

from media.clips import Clip, open_clip
from media.pictures import read_image, read_image_size
from media.rates import steady
from utils.errors import MediaError, UserError, told

MAX_UPLOAD = 1024  # MiB of any file; the published checkpoints take 700
MAX_PICTURE, MAX_VIDEO = 32, 256  # MiB
MAX_PICTURE_PIXELS, MAX_FRAME_PIXELS = 40, 8.3  # million
MAX_FRAMES = 5400  # three minutes at 30 frames a second
MAX_HEIGHT = 2160  # of a result

# An absolute path up to its last slash, or backslash; what follows a colon or a slash is an address.
FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/:;,'\"]+/)+|\b[A-Za-z]:\\(?:[^\s\\:;,'\"]+\\)+")


def shown(error: Exception) -> gr.Error:
    """Turn an error into a line on the page. The traceback of a bug goes to the terminal."""
    message = error.message if isinstance(error, gr.Error) else told(error)
    if message is None:
        traceback.print_exception(error)
        message = "something went wrong in the program; the terminal that it runs in says what"
    return gr.Error(without_folders(message), print_exception=False)


def without_folders(message: str) -> str:
    """Replace absolute paths in a message by the names of their files."""
    return FOLDERS.sub("", message)


def check_uploads(name: str, value: Any) -> None:
    """Raise `UserError` if a value of the field `name` is a file that was not uploaded to this server.

    Gradio checks only a mapping that says by its `meta` that it is a file.
    """
    folder = Path(get_upload_folder()).resolve()
    for file in value if isinstance(value, list) else [value]:
        path = file.get("path") if isinstance(file, dict) else "" if file is not None else None
        if file is not None and (
            not isinstance(path, str) or "\0" in path or folder not in Path(path).resolve().parents
        ):
            raise UserError(f"{name}: is no file that was uploaded here; upload it first")


def upload(file: Any) -> Path | None:
    """Return the path of an upload that `check_uploads` has seen. Raises `UserError` where it is gone."""
    path = None if file is None else Path(file["path"])
    if path is not None and not path.is_file():
        raise UserError(f"{path.name}: was deleted here some time after its upload; choose it again")
    return path


def check_picture(path: Path | None) -> Path:
    """Check an uploaded picture. Raises `UserError` where it is missing or too large."""
    file = check_file(path, "source_image", "picture", MAX_PICTURE)
    height, width = read_image_size(file)
    check_size(file, height * width / 1e6, MAX_PICTURE_PIXELS, "million pixels")
    return file


def read_picture(path: Path | None) -> np.ndarray:
    """Read an uploaded picture: (h, w, 3) uint8. Raises `UserError`."""
    return read_image(check_picture(path))


def open_video(path: Path | None) -> Clip:
    """Open an uploaded video, at a constant rate. Raises `UserError` where it is missing or too large."""
    file = check_file(path, "driving_video", "driving video", MAX_VIDEO)
    clip = steady(open_clip(file))
    check_size(file, clip.size[0] * clip.size[1] / 1e6, MAX_FRAME_PIXELS, "million pixels")
    check_size(file, len(clip), MAX_FRAMES, "frames", "cut it shorter")
    return clip


def check_file(path: Path | None, name: str, what: str, mebibytes: int) -> Path:
    if path is None:
        raise UserError(f"{name}: there is no {what}; choose one in the tab Animate, or click a sample there")
    check_size(path, path.stat().st_size / 2**20, mebibytes, "MiB")
    return path


def check_size(file: Path, size: float, most: float, unit: str, remedy: str = "make it smaller") -> None:
    if size > most:
        raise MediaError(f"{file.name}: has {math.ceil(size)} {unit}, more than {most:g}; {remedy}")
