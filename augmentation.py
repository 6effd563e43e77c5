"""Random changes of a training clip: flips, rotation, resizing, cropping, colour.

One draw holds for every frame of a clip, so that source and driving still belong together. All randomness comes from the
generator that is passed in: equal generators give equal clips, and no global random state is read or changed.

Shapes: `T` frames, `H, W` size. Clips are (T, H, W, 3). Inside, they are `planes` (T, 3, H, W), which lets colour arithmetic
run over whole channels and is the order that networks read.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

from modules.errors import ConfigError


class AllAugmentationTransform:
    """The transforms that a config asks for, applied to a clip in the order flip, rotation, resize, crop, jitter.

    Each parameter is a mapping of the keyword arguments of `RandomResize`, `RandomRotation`, `RandomFlip`, `RandomCrop` and
    `ColorJitter`, or None to leave that transform out. Unknown keys and values that can't be used raise `ConfigError`.
    """

    def __init__(
        self, resize_param=None, rotation_param=None, flip_param=None, crop_param=None, jitter_param=None
    ):
        steps = {
            "flip_param": (RandomFlip, {} if flip_param is None else flip_param),
            "rotation_param": (RandomRotation, rotation_param),
            "resize_param": (RandomResize, resize_param),
            "crop_param": (RandomCrop, crop_param),
            "jitter_param": (ColorJitter, jitter_param),
        }
        self.flip, *self.transforms = [
            _build(name, step, params) for name, (step, params) in steps.items() if params is not None
        ]
        self.changes_size = resize_param is not None or crop_param is not None

    @classmethod
    def from_config(cls, augmentation_params: Mapping | None) -> AllAugmentationTransform:
        """The transform of a config's `augmentation_params`; none at all (None) only converts to float."""
        return _build("", cls, {} if augmentation_params is None else augmentation_params)

    def __call__(self, clip: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Change a clip (T, H, W, 3), uint8 or floating point in [0, 1], into float32 (T, H', W', 3) in [0, 1].

        Without `rng` every call draws from fresh entropy.
        """
        rng = np.random.default_rng() if rng is None else rng
        planes = self.flip(np.asarray(clip).transpose(0, 3, 1, 2), rng)
        planes = to_float(planes)  # (T, 3, H, W)
        for transform in self.transforms:
            planes = transform(planes, rng)
        return planes.transpose(0, 2, 3, 1)


def to_float(planes: np.ndarray) -> np.ndarray:
    """uint8, or floating point in [0, 1] → a contiguous float32 copy in [0, 1]."""
    if planes.dtype == np.uint8:
        return np.divide(planes, np.float32(255), order="C")
    return planes.astype(np.float32, order="C")


# ---- geometry ----


class RandomFlip:
    """Play backwards with probability 1/2, mirror left and right with probability 1/2; the two are independent."""

    def __init__(self, time_flip=False, horizontal_flip=False):
        for key, value in (("time_flip", time_flip), ("horizontal_flip", horizontal_flip)):
            _require(isinstance(value, bool), f"flip_param.{key}", value, "true or false")
        self.time_flip, self.horizontal_flip = time_flip, horizontal_flip

    def __call__(self, planes, rng):
        if self.time_flip and rng.random() < 0.5:
            planes = planes[::-1]
        if self.horizontal_flip and rng.random() < 0.5:
            planes = planes[..., ::-1]
        return planes


class RandomRotation:
    """Rotate about the centre by an angle from `degrees`: [lo, hi], or one number d for [-d, d]. Corners become black."""

    def __init__(self, degrees):
        if _is_number(degrees):
            degrees = (-abs(degrees), abs(degrees))
        _require(_is_range(degrees), "rotation_param.degrees", degrees, "a number or [lowest, highest]")
        self.degrees = degrees

    def __call__(self, planes, rng):
        angle = rng.uniform(*self.degrees)
        from scipy import ndimage  # a quarter of a second that only training with rotation needs

        return ndimage.rotate(planes, angle, axes=(3, 2), reshape=False, order=1, mode="constant")


class RandomResize:
    """Scale both sides by one factor from `ratio` = [lo, hi]; `interpolation` is nearest or bilinear."""

    def __init__(self, ratio=(3 / 4, 4 / 3), interpolation="nearest"):
        _require(
            _is_range(ratio) and ratio[0] > 0, "resize_param.ratio", ratio, "[lowest, highest], both above 0"
        )
        _require(
            interpolation in ("nearest", "bilinear"),
            "resize_param.interpolation",
            interpolation,
            "nearest or bilinear",
        )
        self.ratio = ratio
        self.how = (
            {"mode": "nearest-exact"}
            if interpolation == "nearest"
            else {"mode": "bilinear", "antialias": True}
        )

    def __call__(self, planes, rng):
        factor = rng.uniform(*self.ratio)
        size = [max(1, round(side * factor)) for side in planes.shape[2:]]
        resized = functional.interpolate(
            torch.from_numpy(np.ascontiguousarray(planes)), size=size, **self.how
        )
        return resized.clamp(0, 1).numpy()  # (T, 3, H', W')


class RandomCrop:
    """Cut a window of `size` (one number, or [height, width]) out at any valid offset, each equally likely.

    A clip that is smaller than the window is first padded on both sides with its edge pixels.
    """

    def __init__(self, size):
        size = (size, size) if _is_number(size) else size
        _require(
            isinstance(size, list | tuple)
            and len(size) == 2
            and all(type(side) is int and side > 0 for side in size),
            "crop_param.size",
            size,
            "a whole number of pixels or [height, width]",
        )
        self.size = size

    def __call__(self, planes, rng):
        missing = [max(0, wanted - side) for wanted, side in zip(self.size, planes.shape[2:], strict=True)]
        if any(missing):
            planes = np.pad(
                planes, [(0, 0), (0, 0), *((gap // 2, gap - gap // 2) for gap in missing)], mode="edge"
            )
        height, width = self.size
        top = rng.integers(planes.shape[2] - height + 1)
        left = rng.integers(planes.shape[3] - width + 1)
        return planes[..., top : top + height, left : left + width]


# ---- colour ----


class ColorJitter:
    """Change brightness, contrast, saturation and hue, in random order.

    The first three are multiplied by a factor from [max(0, 1 - x), 1 + x]; hue is turned by a part of the colour circle from
    [-x, x], x up to 0.5. A part that is 0 is left out.
    """

    def __init__(self, brightness=0, contrast=0, saturation=0, hue=0):
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for key, amount in amounts.items():
            most = 0.5 if key == "hue" else np.inf
            allowed = "a number from 0 to 0.5" if key == "hue" else "a number of 0 or more"
            _require(_is_number(amount) and 0 <= amount <= most, f"jitter_param.{key}", amount, allowed)
        self.parts = [
            (ADJUST[key], *_jitter_range(key, amount)) for key, amount in amounts.items() if amount > 0
        ]

    def __call__(self, planes, rng):
        for part in rng.permutation(len(self.parts)):
            adjust, low, high = self.parts[part]
            adjust(planes, float(rng.uniform(low, high)))
        return planes


# These work in place and block by block: fresh memory for large temporary arrays was measured to cost more than the sums.
BLOCK_ROWS = 64


def adjust_brightness(planes: np.ndarray, factor: float) -> None:
    """Blend `planes` (T, 3, H, W) with black, in place; a factor above 1 brightens."""
    planes *= factor
    _clip_after_blend(planes, factor)


def adjust_contrast(planes: np.ndarray, factor: float) -> None:
    """Blend each frame of `planes` (T, 3, H, W) with its mean grey, in place."""
    for frame in planes:
        _blend(frame, luma(frame.mean(axis=(1, 2))), factor)


def adjust_saturation(planes: np.ndarray, factor: float) -> None:
    """Blend each pixel of `planes` (T, 3, H, W) with its own grey, in place."""
    for block in _blocks(planes):
        _blend(block, luma(block), factor)


def adjust_hue(planes: np.ndarray, shift: float) -> None:
    """Turn the hue (of HSV) of `planes` (T, 3, H, W) by `shift` circles, in [-0.5, 0.5], in place."""
    for block in _blocks(planes):
        _turn_hue(block, shift)


def luma(colour: np.ndarray) -> np.ndarray:
    """Grey of (3, ...) with the weights of ITU-R BT.601."""
    red, green, blue = colour
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _blocks(planes):
    """Views (3, h, W) that tile the frames of (T, 3, H, W)."""
    for frame in planes:
        for top in range(0, frame.shape[1], BLOCK_ROWS):
            yield frame[:, top : top + BLOCK_ROWS]


def _blend(colour, other, factor):
    colour *= factor
    colour += (1 - factor) * other
    _clip_after_blend(colour, factor)


def _clip_after_blend(colour, factor):
    if factor > 1:  # else the result lies between the two colours that were blended
        np.clip(colour, 0, 1, out=colour)


def _turn_hue(block, shift):
    """`adjust_hue` of one block (3, h, W) without going through HSV.

    As hue goes round, each channel is a wave cut off at the lowest and the highest of the three. Before the cut, the wave is
    2 * channel - middle, and turning the hue by up to a sixth of the circle slides it up or down by 6 * turn * chroma.
    """
    thirds = round(3 * shift)
    if thirds:
        block[:] = np.roll(
            block, thirds, axis=0
        )  # a third of the circle makes red green, green blue, and blue red
    red, green, blue = block
    rises = (
        green < blue,
        blue < red,
        red < green,
    )  # where turning forward, from red to green, adds to each channel

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


ADJUST = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def _jitter_range(key, amount):
    return (-amount, amount) if key == "hue" else (max(0, 1 - amount), 1 + amount)


# ---- checking a config ----


def _build(name, step, params):
    """`step(**params)` after its keys are checked; `name` is the key in `augmentation_params`, empty for the whole of it."""
    place = f"augmentation_params.{name}".rstrip(".")
    arguments = inspect.signature(step).parameters
    if not isinstance(params, Mapping):
        raise ConfigError(f"{place}: expected a mapping with {', '.join(arguments)}, found {params!r}")
    for key in params:
        if key not in arguments:
            raise ConfigError(f"{place}: unknown key '{key}'; it takes {', '.join(arguments)}")
    for key, argument in arguments.items():
        if argument.default is argument.empty and key not in params:
            raise ConfigError(f"{place}: '{key}' is missing")
    return step(**params)


def _require(holds, key, value, allowed):
    if not holds:
        raise ConfigError(f"augmentation_params.{key}: {value!r} should be {allowed}")


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value):
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(map(_is_number, value))
        and value[0] <= value[1]
    )
