"""What people may upload, and how errors are told to them: one line, without paths of the server."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np

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
    """The message with the names of files in the place of their absolute paths."""
    return FOLDERS.sub("", message)


def check_upload(path: str | None) -> Path:
    """An uploaded picture. Raises `UserError` for one beyond the limits."""
    file = uploaded(path, "picture", MAX_PICTURE_BYTES)
    height, width = read_image_size(file)
    check_pixels(file, height * width, MAX_PICTURE_PIXELS)
    return file


def read_upload(path: str | None) -> np.ndarray:
    """The same as (h, w, 3) uint8."""
    return read_image(check_upload(path))


def open_upload(path: str | None) -> Clip:
    """An uploaded video, at a constant rate. Raises `UserError` for one beyond the limits."""
    file = uploaded(path, "driving video", MAX_VIDEO_BYTES)
    clip = steady(open_clip(file))
    check_pixels(file, clip.size[0] * clip.size[1], MAX_FRAME_PIXELS)
    if len(clip) > MAX_FRAMES:
        raise MediaError(f"{file.name}: has {len(clip)} frames, more than {MAX_FRAMES}; cut it shorter")
    return clip


def uploaded(path: str | None, what: str, max_bytes: int) -> Path:
    if path is None:
        raise UserError(f"there is no {what}; choose one in the tab Animate, or click the sample there")
    file = Path(path)
    if file.stat().st_size > max_bytes:
        raise MediaError(
            f"{file.name}: has {file.stat().st_size // MEBIBYTE} MiB, more than "
            f"{max_bytes // MEBIBYTE}; make it smaller"
        )
    return file


def check_pixels(file: Path, pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise MediaError(
            f"{file.name}: has {pixels / 1e6:.0f} million pixels, more than {max_pixels / 1e6:.0f}; "
            "make it smaller"
        )
