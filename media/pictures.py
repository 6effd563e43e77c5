"""Read, fit and write pictures: files, encoded ones in memory, PIL images and arrays.

Shapes: `H, W` height and width after rotation. A picture is (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import base64
import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import av
import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngImageFile

from utils.errors import MediaError
from utils.files import atomic_write, regular_file

Size = tuple[int, int]  # (height, width)
Box = tuple[float, float, float, float]  # (left, top, right, bottom)
Picture = str | Path | bytes | Image.Image | np.ndarray

# Which files of a folder are tried; what a file holds decides how it is read.
IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .bmp .tif .tiff .avif .heic .heif".split()  # noqa: SIM905
)
# What people have. Pillow knows fifty formats more, and starts Ghostscript for one of them (EPS).
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "AVIF")
# How files of these formats begin, but for GIF, which is read as a video; and HEIF, what phones take.
_HEIF = re.compile(rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)
_PICTURE = re.compile(
    rb"\x89PNG|\xff\xd8\xff|BM|RIFF....WEBP|II\*\0|MM\0\*|....ftypavi[fs]|" + _HEIF.pattern, re.DOTALL
)
_SRGB = ImageCms.createProfile("sRGB")
_KINDS = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # modes by the names that profiles have for them
DEFAULT_DURATION = 100  # milliseconds of a frame that has none, as in browsers
MAX_PIXELS = 178_956_970  # of a picture or of a frame of a video; from here on Pillow refuses
MAX_STRIP_PIXELS = 2**28  # of a strip: 4,096 frames of 256x256
MAX_FILE_BYTES = 2**30  # of a picture's file, which may be read as a whole
MAX_OVERSHOOT = 0.1  # beyond [0, 1]; resizing with a sharp filter brings about that much


# ---- Values -----------------------------------------------------------------


def to_float(pixels: np.ndarray, order: Literal["K", "C"] = "K") -> np.ndarray:
    """Copy pixels, uint8 or in [0, 1], to float32 in [0, 1], in the order of memory ("K") or shape ("C")."""
    if pixels.dtype == np.uint8:
        return np.divide(pixels, np.float32(255), order=order)
    return pixels.astype(np.float32, order=order)


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Round values in [0, 1] to uint8. What lies outside is clipped."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def lay_on_white(rgba: np.ndarray) -> np.ndarray:
    """Lay a picture (H, W, 4) uint8 with straight alpha on white: (H, W, 3) uint8."""
    laid = np.empty((*rgba.shape[:2], 3), np.uint8)
    rows = max(1, 2**22 // rgba.shape[1])  # at a time, as the numbers on the way take eight times the memory
    for top in range(0, len(rgba), rows):
        band = rgba[top : top + rows].astype(np.uint16)
        colour, alpha = band[..., :3], band[..., 3:]
        laid[top : top + rows] = (colour * alpha + 255 * (255 - alpha) + 127) // 255
    return laid  # (H, W, 3)


def lift_off_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return (H, W, 4) uint8 that looks on white as `pixels` (H, W, 3) do, with `alpha` (H, W).

    Where there is hardly anything to see, colours are left near white, so that errors stay small.
    """
    share = np.maximum(alpha, 32)[..., None].astype(np.float32) / 255
    return np.dstack([to_uint8(1 - (1 - pixels / np.float32(255)) / share), alpha])


def checked_frame(frame: np.ndarray, channels: tuple[int, ...] = (3,)) -> np.ndarray:
    """Return `frame` with contiguous memory. Raises `ValueError` unless it is (H, W, 3) uint8."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in channels or not frame.size:
        raise ValueError(f"a frame is uint8 of shape (H, W, 3), not {frame.dtype} of shape {frame.shape}")
    return np.ascontiguousarray(frame)


# ---- Errors -----------------------------------------------------------------


@contextlib.contextmanager
def media_errors(path: Path, remedy: str) -> Iterator[None]:
    """Turn the exceptions of PyAV and of the file system into a `MediaError` about `path`."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: {error.strerror or error}; {remedy}") from error


@contextlib.contextmanager
def _picture_errors(path: Path) -> Iterator[None]:
    """Turn the exceptions of reading a picture into a `MediaError`, and drop Pillow's warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError:
        raise MediaError(f"{path}: does not exist; check the path") from None
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # Pillow raises whatever the damage brings about
        raise MediaError(
            f"{path}: can't be read as a picture ({error}); save it again as .png or .jpg"
        ) from error


# ---- Reading ----------------------------------------------------------------


def read_image(path: str | Path, any_size: bool = False) -> np.ndarray:
    """Read a picture of any mode as (H, W, 3) uint8 RGB, upright; of an animated one the first frame.

    With `any_size` a png may have `MAX_STRIP_PIXELS`, else `MAX_PIXELS`. Raises `MediaError`.
    """
    path = Path(path)
    with _picture_errors(path):
        regular_file(path, MediaError, MAX_FILE_BYTES)
        with _open_with_pillow(path, any_size) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)


def read_alpha(path: str | Path) -> np.ndarray | None:
    """Return how opaque the pixels of `read_image` were, (H, W) uint8; None where all of them are."""
    path = Path(path)
    with _picture_errors(path), _open_with_pillow(path, any_size=False) as image:
        if not image.has_transparency_data:
            return None
        alpha = np.asarray(ImageOps.exif_transpose(image).convert("RGBA").getchannel("A"))
        return None if (alpha == 255).all() else alpha


def read_image_size(path: str | Path) -> Size:
    """Return (height, width) of what `read_image` returns. Raises `MediaError`."""
    path = Path(path)
    with _picture_errors(path):
        regular_file(path, MediaError, MAX_FILE_BYTES)
        with _open_with_pillow(path, any_size=False) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return image.height, image.width


def is_animated(path: Path) -> bool:
    """Say whether a picture's file holds frames to be shown one after another."""
    with _picture_errors(path), _open_with_pillow(path, any_size=True) as image:
        return image.format in ("PNG", "WEBP", "AVIF") and getattr(image, "n_frames", 1) > 1


def read_animation(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    """Yield the frames of an animated picture, and for how many seconds each is shown."""
    with _picture_errors(path):
        image = _open_with_pillow(path, any_size=True)
    with image:
        first = getattr(image, "default_image", False)  # shown by programs that know no animations
        for number in range(first, image.n_frames):  # type: ignore[attr-defined]
            with _picture_errors(path):
                image.seek(number)
                image.load()
                frame = _to_rgb(image)
            yield frame, (image.info.get("duration") or DEFAULT_DURATION) / 1000


def is_picture(path: Path) -> bool:
    """Say whether a file begins as a picture does, whatever its name."""
    return _begins(regular_file(path, MediaError), _PICTURE)


def _begins(path: Path, as_these: re.Pattern[bytes]) -> bool:
    with path.open("rb") as file:
        return as_these.match(file.read(16)) is not None


def _open_with_pillow(path: Path, any_size: bool) -> Image.Image:
    """Open `path` without decoding it. What it claims to hold is checked before memory is asked for."""
    if _begins(path, _HEIF):
        try:
            import pillow_heif  # optional
        except ImportError:
            raise MediaError(f"{path}: needs the package pillow-heif: pip install pillow-heif") from None
        pillow_heif.register_heif_opener()
        return Image.open(path, formats=(*_FORMATS, "HEIF"))
    try:
        return Image.open(path, formats=_FORMATS)
    except Image.DecompressionBombError:
        if not any_size:
            raise
        image = PngImageFile(path)  # Image.open refuses by size, the format itself does not
        if image.width * image.height > MAX_STRIP_PIXELS:
            raise
        return image


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = (np.asarray(image).clip(0, 65535).astype(np.uint32) + 128) // 257  # (H, W) in [0, 255]
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":  # in [0, 1] or, if brighter, in levels of 255
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if not (low >= -MAX_OVERSHOOT and high <= 255):  # NaN compares false
            raise ValueError(f"floating point from {low:g} to {high:g}, not in [0, 1]")
        grey = to_uint8(values / (1 if high <= 1 + MAX_OVERSHOOT else 255))  # (H, W)
        return np.repeat(grey[..., None], 3, axis=2)
    colours = _in_srgb(image)
    if image.has_transparency_data:
        colours.putalpha(image.convert("RGBA").getchannel("A"))
        return lay_on_white(np.asarray(colours))
    return np.array(colours)


def _in_srgb(image: Image.Image) -> Image.Image:
    """Return a picture in mode RGB, converted by its ICC profile if it has one that fits."""
    kind = "CMYK" if image.mode == "CMYK" else Image.getmodebase(image.mode)
    with contextlib.suppress(ImageCms.PyCMSError, OSError):  # a damaged profile is ignored
        if data := image.info.get("icc_profile"):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
            is_srgb = "sRGB" in ImageCms.getProfileDescription(profile)
            if _KINDS.get(profile.profile.xcolor_space) == kind and not is_srgb:
                image = image.convert(kind)
                image = ImageCms.profileToProfile(image, profile, _SRGB, outputMode="RGB") or image
    return image.convert("RGB")


# ---- Pictures that are not files --------------------------------------------


def as_pixels(picture: Picture) -> np.ndarray:
    """Turn a path, bytes of a file, PIL image or array into RGB (H, W, 3). Raises `MediaError`.

    Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Uint8 stays so; floating point in [0, 1] becomes
    float32.
    """
    if isinstance(picture, np.ndarray):
        return _array_to_rgb(picture)
    if isinstance(picture, bytes):
        return decode_picture(picture)
    if isinstance(picture, Image.Image):
        with _picture_errors(Path("the picture")):
            return _to_rgb(ImageOps.exif_transpose(picture))
    return read_image(picture)


def decode_picture(data: bytes, name: str = "the picture", most: float = math.inf) -> np.ndarray:
    """Decode the bytes of a picture's file as `read_image` does, if it has at most so many pixels.

    Raises `MediaError` about `name`.
    """
    with _picture_errors(Path(name)), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        if image.width * image.height > most:
            raise MediaError(f"{name}: has {image.width}x{image.height} pixels, more than {most:g}")
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def encode_jpeg(frame: np.ndarray, quality: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(checked_frame(frame)).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def data_url(picture: np.ndarray) -> str:
    """Encode a picture (h, w, 3) uint8 as the address of a JPEG that holds itself."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(picture)).decode()


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    grey = array[..., None] if array.ndim == 2 else array
    if grey.ndim != 3 or grey.shape[2] not in (1, 3, 4) or not grey.size:
        raise MediaError(
            f"a picture of shape {array.shape}: arrays are (H, W), (H, W, 3) or, with alpha, (H, W, 4)"
        )
    is_float = np.issubdtype(grey.dtype, np.floating)
    if is_float:
        low, high = grey.min(), grey.max()
        if not (low >= -MAX_OVERSHOOT and high <= 1 + MAX_OVERSHOOT):  # NaN compares false
            raise MediaError(
                f"a picture of floating point from {low:g} to {high:g}: must be in [0, 1]; divide by 255, or "
                "give uint8"
            )
    elif grey.dtype != np.uint8:
        raise MediaError(f"a picture of {grey.dtype}: arrays are uint8, or floating point in [0, 1]")
    if grey.shape[2] == 4:
        return lay_on_white(to_uint8(grey) if is_float else grey)
    return np.broadcast_to(grey, (*grey.shape[:2], 3)).astype(np.float32 if is_float else np.uint8, order="C")


# ---- Fitting ----------------------------------------------------------------


def fit(frame: np.ndarray, size: Size, how: str, box: Box | None = None) -> np.ndarray:
    """Resize the part `box` of a picture (h, w, 3) uint8, all of it if None, to `size` (H, W).

    `how`: "stretch" distorts it, "crop" cuts the longer side around the middle, "pad" adds black.
    """
    height, width = size
    left, top, right, bottom = (0, 0, frame.shape[1], frame.shape[0]) if box is None else box
    ratio_x, ratio_y = (right - left) / width, (bottom - top) / height
    image = Image.fromarray(frame)
    if how == "pad":  # as large as fits, in the middle of black
        largest = max(ratio_x, ratio_y)
        inner = max(1, round(width * ratio_x / largest)), max(1, round(height * ratio_y / largest))
        canvas = Image.new("RGB", (width, height))
        corner = (width - inner[0]) // 2, (height - inner[1]) // 2
        canvas.paste(_resized(image, inner, (left, top, right, bottom)), corner)
        return np.array(canvas)
    if how == "crop":  # a smaller box of the right shape, in the middle of the box
        smallest = min(ratio_x, ratio_y)
        margin_x = (right - left - width * smallest) / 2
        margin_y = (bottom - top - height * smallest) / 2
        left, top, right, bottom = left + margin_x, top + margin_y, right - margin_x, bottom - margin_y
    return np.array(_resized(image, (width, height), (left, top, right, bottom)))


def _resized(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    left, top, right, bottom = box
    inside = max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height)
    # With the gap, Pillow first shrinks by a whole number where at least twice the size remains. For
    # 1920x1080 that takes half the time.
    return image.resize(size, Image.Resampling.BICUBIC, box=inside, reducing_gap=2)


# ---- Writing ----------------------------------------------------------------


def write_image(path: str | Path, frame: np.ndarray) -> None:
    """Write `frame` (H, W, 3) uint8 as a png, which appears under its name only when whole."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise MediaError(f"{path}: only .png pictures are written; end the name with .png")
    with media_errors(path, "check that its folder exists and is writable"), atomic_write(path) as temporary:
        save_picture(temporary, frame)


def save_picture(path: Path, frame: np.ndarray, kind: str = "PNG") -> None:
    """Write `frame` (H, W, 3), or 4 with alpha, to `path` itself, as Pillow's format `kind`."""
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(checked_frame(frame, (3, 4))).save(path, format=kind, **options)
