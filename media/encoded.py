"""Pictures that are not files: encoded ones in memory, PIL images and arrays.

Shapes: `H, W` height and width after rotation. A picture is (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from media.pictures import (
    _FORMATS,
    _picture_errors,
    _to_rgb,
    checked_frame,
    lay_on_white,
    read_image,
    to_uint8,
)
from utils.errors import MediaError

Picture = str | Path | bytes | Image.Image | np.ndarray
MAX_OVERSHOOT = 0.1  # beyond [0, 1]; resizing with a sharp filter brings about that much


def as_pixels(picture: Picture) -> np.ndarray:
    """A picture in any form -> (H, W, 3), uint8 or, of an array of floating point, float32 in [0, 1].

    A path, the bytes of a file, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8
    or of floating point in [0, 1]. Grey becomes RGB, transparent pixels are laid on white. Raises
    `MediaError`, for floating point of another range too.
    """
    if isinstance(picture, np.ndarray):
        return _array_to_rgb(picture)
    if isinstance(picture, bytes):
        return decode_picture(picture)
    if isinstance(picture, Image.Image):
        with _picture_errors(Path("the picture")):
            return _to_rgb(ImageOps.exif_transpose(picture))
    return read_image(picture)


def decode_picture(data: bytes, name: str = "the picture") -> np.ndarray:
    """The bytes of a picture's file as `read_image` reads it. Raises `MediaError` about `name`."""
    with _picture_errors(Path(name)), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def encode_jpeg(frame: np.ndarray, quality: int = 90) -> bytes:
    """The file of a picture (H, W, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(checked_frame(frame)).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    """An array of uint8, or floating point in [0, 1], of one to four channels -> (H, W, 3) of that kind."""
    grey = array[..., None] if array.ndim == 2 else array
    if grey.ndim != 3 or grey.shape[2] not in (1, 3, 4) or not grey.size:
        raise MediaError(
            f"a picture of shape {array.shape}: arrays are (H, W), (H, W, 3) or, with alpha, (H, W, 4)"
        )
    if np.issubdtype(grey.dtype, np.floating):
        _check_range(grey)
        if grey.shape[2] == 4:
            return lay_on_white(to_uint8(grey))
        return np.broadcast_to(grey, (*grey.shape[:2], 3)).astype(np.float32)
    if grey.dtype != np.uint8:
        raise MediaError(f"a picture of {grey.dtype}: arrays are uint8, or floating point in [0, 1]")
    if grey.shape[2] == 4:
        return lay_on_white(grey)
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))


def _check_range(values: np.ndarray) -> None:
    """Raise `MediaError` unless they are in [0, 1], or nearly so."""
    low, high = values.min(), values.max()
    if not (low >= -MAX_OVERSHOOT and high <= 1 + MAX_OVERSHOOT):  # NaN compares false
        raise MediaError(
            f"a picture of floating point from {low:g} to {high:g}: must be in [0, 1]; divide by 255, or "
            "give uint8"
        )
