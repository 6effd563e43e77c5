"""What people may upload, and how errors are told to them: one line, without paths of the server."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

from media.clips import Clip, open_clip
from media.pictures import read_image, read_image_size
from media.rates import steady
from utils.errors import MediaError, UserError, told

MEBIBYTE = 2**20
MAX_UPLOAD = 1024 * MEBIBYTE  # of any file; the published checkpoints take 700 MiB
MAX_PICTURE_BYTES = 32 * MEBIBYTE
MAX_VIDEO_BYTES = 256 * MEBIBYTE
MAX_PICTURE_PIXELS = 40_000_000
MAX_FRAME_PIXELS = 3840 * 2160
MAX_FRAMES = 5400  # three minutes at 30 frames a second
MAX_HEIGHT = 2160  # of a result

# An absolute path up to its last slash, or backslash; what follows a colon or a slash is an address.
FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/:;,'\"]+/)+|\b[A-Za-z]:\\(?:[^\s\\:;,'\"]+\\)+")


class PageError(gr.Error):
    """One line that the page shows. The terminal does not show it."""

    def __init__(self, message: str):
        super().__init__(message, print_exception=False)


@contextlib.contextmanager
def shown_errors() -> Iterator[None]:
    """Turn every error into a line on the page. The traceback of a bug goes to the terminal."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        message = told(error)
        if message is None:
            traceback.print_exc()
            message = "something went wrong in the program; the terminal that it runs in says what"
        raise PageError(without_folders(message)) from error


def without_folders(message: str) -> str:
    """Replace absolute paths in a message by the names of their files."""
    return FOLDERS.sub("", message)


# ---- Uploads -------------------------------------------------------------------


def upload_path(file: Any) -> Path | None:
    """The path of a file as a browser or program names it: a mapping, or None. Raises `UserError`.

    Only what was uploaded lies in the folder that is asked for. Gradio checks this for a mapping that says
    by its `meta` that it is a file, and only for such.
    """
    path = file.get("path") if isinstance(file, dict) else file
    if path is None:
        return None
    folder = Path(get_upload_folder()).resolve()
    if not isinstance(path, str) or "\0" in path or folder not in Path(path).resolve().parents:
        raise UserError("a file is named that was not uploaded; upload it first")
    return Path(path)


def check_picture(path: Path | None) -> Path:
    """Check an uploaded picture. Raises `UserError` where it is missing or too large."""
    file = check_bytes(path, "picture", MAX_PICTURE_BYTES)
    height, width = read_image_size(file)
    check_pixels(file, height * width, MAX_PICTURE_PIXELS)
    return file


def read_picture(path: Path | None) -> np.ndarray:
    """Read an uploaded picture: (h, w, 3) uint8. Raises `UserError`."""
    return read_image(check_picture(path))


def open_video(path: Path | None) -> Clip:
    """Open an uploaded video, at a constant rate. Raises `UserError` where it is missing or too large."""
    file = check_bytes(path, "driving video", MAX_VIDEO_BYTES)
    clip = steady(open_clip(file))
    check_pixels(file, clip.size[0] * clip.size[1], MAX_FRAME_PIXELS)
    if len(clip) > MAX_FRAMES:
        raise MediaError(f"{file.name}: has {len(clip)} frames, more than {MAX_FRAMES}; cut it shorter")
    return clip


def check_bytes(path: Path | None, what: str, most: int) -> Path:
    if path is None:
        raise UserError(f"there is no {what}; choose one in the tab Animate, or click the sample there")
    size = path.stat().st_size
    if size > most:
        raise MediaError(
            f"{path.name}: has {size // MEBIBYTE} MiB, more than {most // MEBIBYTE}; make it smaller"
        )
    return path


def check_pixels(file: Path, pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise MediaError(
            f"{file.name}: has {pixels / 1e6:.0f} million pixels, more than {max_pixels / 1e6:.0f}; "
            "make it smaller"
        )
