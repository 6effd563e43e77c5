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
    """Turn a path, bytes of a file, PIL image or array into RGB (H, W, 3).

    Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Uint8 stays so; floating point in [0, 1] becomes
    float32. Transparent pixels are laid on white. Raises `MediaError`.
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
    """Decode the bytes of a picture's file as `read_image` does. Raises `MediaError` about `name`."""
    with _picture_errors(Path(name)), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def encode_jpeg(frame: np.ndarray, quality: int = 90) -> bytes:
    """Encode a picture (H, W, 3) uint8."""
    file = io.BytesIO()
    Image.fromarray(checked_frame(frame)).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    grey = array[..., None] if array.ndim == 2 else array
    if grey.ndim != 3 or grey.shape[2] not in (1, 3, 4) or not grey.size:
        raise MediaError(
            f"a picture of shape {array.shape}: arrays are (H, W), (H, W, 3) or, with alpha, (H, W, 4)"
        )
    if np.issubdtype(grey.dtype, np.floating):
        low, high = grey.min(), grey.max()
        if not (low >= -MAX_OVERSHOOT and high <= 1 + MAX_OVERSHOOT):  # NaN compares false
            raise MediaError(
                f"a picture of floating point from {low:g} to {high:g}: must be in [0, 1]; divide by 255, or "
                "give uint8"
            )
        if grey.shape[2] == 4:
            return lay_on_white(to_uint8(grey))
        return np.broadcast_to(grey, (*grey.shape[:2], 3)).astype(np.float32)
    if grey.dtype != np.uint8:
        raise MediaError(f"a picture of {grey.dtype}: arrays are uint8, or floating point in [0, 1]")
    if grey.shape[2] == 4:
        return lay_on_white(grey)
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))
