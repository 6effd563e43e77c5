"""Random changes of a training clip: flips, rotation, resizing, cropping, colour.

One draw holds for every frame of a clip, so that source and driving still belong together.
Shapes: `T` frames, `H, W` size; `planes` (T, 3, H, W) is the order in which networks read a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from media.pictures import to_float
from modules.schema import AUGMENTATION
from utils.values import check_keys

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # planes -> planes


class AllAugmentationTransform:
    """The transforms that a config asks for, in the order flip, rotation, resize, crop, jitter.

    Each parameter holds the keyword arguments of a class below, or is None to leave that transform out.
    """

    def __init__(
        self,
        resize_param: Mapping[str, Any] | None = None,
        rotation_param: Mapping[str, Any] | None = None,
        flip_param: Mapping[str, Any] | None = None,
        crop_param: Mapping[str, Any] | None = None,
        jitter_param: Mapping[str, Any] | None = None,
    ):
        self.flip = RandomFlip(**(flip_param or {}))
        changes: dict[Callable[..., Change], Mapping[str, Any] | None] = {
            RandomRotation: rotation_param,
            RandomResize: resize_param,
            RandomCrop: crop_param,
            ColorJitter: jitter_param,
        }
        self.transforms = [change(**params) for change, params in changes.items() if params is not None]
        self.changes_size = resize_param is not None or crop_param is not None

    @classmethod
    def from_config(cls, augmentation_params: Mapping[str, Any] | None) -> AllAugmentationTransform:
        """Build the transform of a config's `augmentation_params`, if any. Raises `ConfigError`."""
        if augmentation_params is None:
            return cls()
        check_keys(augmentation_params, AUGMENTATION, "dataset_params", "augmentation_params")
        # An empty value in a config counts as left out.
        given = {name: params for name, params in augmentation_params.items() if params is not None}
        filled = {name: {k: v for k, v in params.items() if v is not None} for name, params in given.items()}
        return cls(**filled)

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Turn a clip (T, H, W, 3), uint8 or in [0, 1], into new float32 planes (T, 3, H', W')."""
        rng = np.random.default_rng() if rng is None else rng
        turned = self.flip(np.asarray(clip).transpose(0, 3, 1, 2), rng)
        planes = to_float(turned, order="C")  # (T, 3, H, W), a copy
        for transform in self.transforms:
            planes = transform(planes, rng)
        return planes


# ---- Geometry ---------------------------------------------------------------


class RandomFlip:
    """Play backwards with probability 1/2, and mirror with probability 1/2, independently."""

    def __init__(self, time_flip: bool = False, horizontal_flip: bool = False):
        self.time_flip, self.horizontal_flip = time_flip, horizontal_flip

    def __call__(self, planes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.time_flip and rng.random() < 0.5:
            planes = planes[::-1]
        if self.horizontal_flip and rng.random() < 0.5:
            planes = planes[..., ::-1]
        return planes


class RandomRotation:
    """Rotate by an angle from `degrees`: [lo, hi], or one number d for [-d, d]. Corners become black."""

    def __init__(self, degrees: float | Sequence[float]):
        self.low, self.high = (-degrees, degrees) if isinstance(degrees, int | float) else degrees

    def __call__(self, planes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        angle = rng.uniform(self.low, self.high)
        return ndimage.rotate(planes, angle, axes=(3, 2), reshape=False, order=1, mode="constant")


class RandomResize:
    """Scale both sides by one factor from `ratio` = [lo, hi]; `interpolation` is nearest or bilinear."""

    def __init__(self, ratio: Sequence[float] = (3 / 4, 4 / 3), interpolation: str = "nearest"):
        self.low, self.high = ratio
        self.bilinear = interpolation == "bilinear"

    def __call__(self, planes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        factor = rng.uniform(self.low, self.high)
        size = [max(1, round(side * factor)) for side in planes.shape[2:]]
        mode = "bilinear" if self.bilinear else "nearest-exact"
        images = torch.from_numpy(np.ascontiguousarray(planes))
        resized = functional.interpolate(images, size=size, mode=mode, antialias=self.bilinear)
        return resized.clamp(0, 1).numpy()  # (T, 3, H', W')


class RandomCrop:
    """Cut out a random window of `size`, a number or [height, width]; edge pixels fill what is smaller."""

    def __init__(self, size: int | Sequence[int]):
        self.height, self.width = (size, size) if isinstance(size, int) else size

    def __call__(self, planes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rows, columns = (
            max(0, wanted - side)
            for wanted, side in zip((self.height, self.width), planes.shape[2:], strict=True)
        )
        if rows or columns:
            margins = [(0, 0), (0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)]
            planes = np.pad(planes, margins, mode="edge")
        top = rng.integers(planes.shape[2] - self.height + 1)
        left = rng.integers(planes.shape[3] - self.width + 1)
        return planes[..., top : top + self.height, left : left + self.width]


# ---- Colour -----------------------------------------------------------------

Adjust = Callable[[np.ndarray, float], None]  # changes a frame (3, H, W) in [0, 1] by an amount, in place


class ColorJitter:
    """Change brightness, contrast, saturation and hue, in random order.

    The first three are multiplied by a factor from [max(0, 1 - x), 1 + x]; hue is turned by a part of the
    colour circle from [-x, x], x up to 0.5.
    """

    def __init__(self, brightness: float = 0, contrast: float = 0, saturation: float = 0, hue: float = 0):
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.parts = [(ADJUST[key], max(0, 1 - x), 1 + x) for key, x in amounts.items() if x > 0]
        if hue > 0:
            self.parts.append((ADJUST["hue"], -hue, hue))

    def __call__(self, planes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        parts = [self.parts[number] for number in rng.permutation(len(self.parts))]
        amounts = [float(rng.uniform(low, high)) for _, low, high in parts]
        for frame in planes:  # one at a time, which stays in the cache
            for (adjust, _, _), amount in zip(parts, amounts, strict=True):
                adjust(frame, amount)
        return planes


# The results are those of torchvision within rounding, whose hue takes at least eight times as long. These
# work in place and block by block, as fresh memory for large temporary arrays costs more than the sums.
BLOCK_ROWS = 64


def adjust_brightness(frame: np.ndarray, factor: float) -> None:
    """Blend a frame (3, H, W) with black, in place; a factor above 1 brightens."""
    frame *= factor
    _clip_after_blend(frame, factor)


def adjust_contrast(frame: np.ndarray, factor: float) -> None:
    """Blend a frame (3, H, W) with its mean grey, in place."""
    _blend(frame, luma(frame.mean(axis=(1, 2))), factor)


def adjust_saturation(frame: np.ndarray, factor: float) -> None:
    """Blend each pixel of a frame (3, H, W) with its own grey, in place."""
    for block in _blocks(frame):
        _blend(block, luma(block), factor)


def adjust_hue(frame: np.ndarray, shift: float) -> None:
    """Turn the hue (of HSV) of a frame (3, H, W) by `shift` circles, in [-0.5, 0.5], in place."""
    for block in _blocks(frame):
        _turn_hue(block, shift)


ADJUST: dict[str, Adjust] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def luma(colour: np.ndarray) -> np.ndarray:
    """Return the grey of (3, ...) with the weights of ITU-R BT.601."""
    red, green, blue = colour
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _blocks(frame: np.ndarray) -> Iterator[np.ndarray]:
    """Yield views (3, h, W) that tile a frame (3, H, W)."""
    for top in range(0, frame.shape[1], BLOCK_ROWS):
        yield frame[:, top : top + BLOCK_ROWS]


def _blend(colour: np.ndarray, other: np.ndarray, factor: float) -> None:
    """Replace `colour` by factor * colour + (1 - factor) * other."""
    colour *= factor
    colour += (1 - factor) * other
    _clip_after_blend(colour, factor)


def _clip_after_blend(colour: np.ndarray, factor: float) -> None:
    if factor > 1:  # else the result lies between the two colours that were blended
        np.clip(colour, 0, 1, out=colour)


def _turn_hue(block: np.ndarray, shift: float) -> None:
    """Turn the hue of one block (3, h, W) without going through HSV."""
    # As hue goes round, each channel is a wave cut off at the lowest and the highest of the three. Before the
    # cut, the wave is 2 * channel - middle, and turning the hue by up to a sixth of the circle slides it up
    # or down by 6 * turn * chroma.
    thirds = round(3 * shift)
    if thirds:
        # A third of the circle makes red green, green blue, and blue red.
        block[:] = np.roll(block, thirds, axis=0)
    red, green, blue = block
    rises = green < blue, blue < red, red < green  # where turning from red to green adds to each channel

    larger, smaller = np.maximum(red, green), np.minimum(red, green)  # (h, W)
    high, low = np.maximum(larger, blue), np.minimum(smaller, blue)
    middle = np.maximum(smaller, np.minimum(larger, blue))
    slide = (high - low) * (6 * (shift - thirds / 3))  # in [-chroma, chroma]
    middle += slide
    slide *= 2
    for channel, rising in zip(block, rises, strict=True):
        wave = rising * slide
        wave += channel
        wave += channel
        wave -= middle
        np.maximum(wave, low, out=wave)
        np.minimum(wave, high, out=channel)
