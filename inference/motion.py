"""The motion of a driving video as keypoints over time: smoothed, saved, read back.

Shapes: `T` frames, `K` keypoints. Keypoints of one frame are a dictionary of "value" (1, K, 2) and, for
first-order motion, "jacobian" (1, K, 2, 2); those of a whole video have T in the place of 1.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from media.decoding import MAX_FPS, MIN_FPS
from modules.util import Keypoints
from utils.errors import MediaError
from utils.files import atomic_write, regular_file

# ---- Smoothing -----------------------------------------------------------------

SIGMA = 0.06  # seconds, of the Gaussian at strength 1
REACH = 4  # sigmas, beyond which a frame has no weight
# Of half a picture, by which keypoints jump on average at a cut, or in a frame that is left out.
OUTLIER = 0.1
MIN_CUTOFF = 0.7  # Hz, at rest and at strength 1
# Hz for each unit of speed: half of the picture, or a Jacobian's own size, in a second.
BETA = 10.0
SPEED_CUTOFF = 1.0  # Hz, as in the paper


def smooth(
    keypoints: Iterable[Keypoints], rate: float, strength: float = 1.0, numbers: Iterable[int] | None = None
) -> Iterator[Keypoints]:
    """Smooth the keypoints of the frames of a video without lag: as many come out as come in.

    A straight line is fitted around each frame, with the weights of a Gaussian of `strength` times `SIGMA`
    (local linear regression; Cleveland, *Robust Locally Weighted Regression*, JASA 1979). Away from the ends
    that is a plain Gaussian filter, whose phase is zero; at the ends it follows a steady movement, where a
    filter that repeats or mirrors the first frame would hold it back. At a hard cut it starts anew.

    `rate`: frames a second. `numbers` of the frames, where some are left out. A frame comes out when those up
    to `REACH` sigmas later have come in, and the one after them; no more than these are held.
    """
    sigma = strength * SIGMA * rate  # frames
    reach = math.ceil(REACH * sigma)
    held: deque[tuple[int, Keypoints]] = deque()
    waiting: deque[int] = deque()  # numbers of the frames that still have to come out
    cuts: list[int] = []  # numbers of the frames that begin a scene

    def fitted() -> Keypoints:
        number = waiting.popleft()
        scene = bisect.bisect(cuts, number)
        near = [
            frame
            for frame in held
            if abs(frame[0] - number) <= reach and bisect.bisect(cuts, frame[0]) == scene
        ]
        offsets = torch.tensor([float(other - number) for other, _ in near])
        return weighted_sum([kp for _, kp in near], line_weights(offsets, sigma))

    for number, kp in zip(itertools.count() if numbers is None else numbers, keypoints, strict=False):
        held.append((number, kp))
        waiting.append(number)
        if len(held) > 2:
            away, back, both = jumps(*(held[i][1]["value"] for i in (-3, -2, -1)))
            # A frame between two neighbours that are like each other says nothing of the motion.
            if number - held[-3][0] == 2 and min(away, back) > OUTLIER + 4 * both:
                del held[-2]
            elif away > OUTLIER + 4 * back:
                cuts.append(held[-2][0])
        while waiting[0] + reach < number:
            while held[0][0] < waiting[0] - reach:
                held.popleft()
            yield fitted()
            if not waiting:
                break
    # The last frame has none after it to be compared with.
    if len(held) > 2 and back > OUTLIER + 4 * away:
        cuts.append(held[-1][0])
    while waiting:
        yield fitted()


def jumps(before: Tensor, value: Tensor, after: Tensor) -> list[float]:
    """Return how far keypoints (1, K, 2) move on average: into a frame, out of it, and past it."""
    return [float((a - b).abs().mean()) for a, b in ((value, before), (after, value), (after, before))]


def line_weights(offsets: Tensor, sigma: float) -> Tensor:
    """Return what the values at `offsets` (N,) add to the height at 0 of the line fitted to them: (N,)."""
    exponents = -0.5 * (offsets / max(sigma, 1e-6)).square()
    weights = torch.exp(exponents - exponents.max())  # the nearest frame counts, however far it is
    total, first, second = (float((weights * offsets**power).sum()) for power in range(3))
    determinant = total * second - first**2
    if determinant < 1e-6 * total**2:  # one frame alone has weight
        return weights / total
    return weights * (second - first * offsets) / determinant


def weighted_sum(keypoints: Sequence[Keypoints], weights: Tensor) -> Keypoints:
    """Sum keypoints of single frames, by weights (N,)."""
    return {
        name: torch.einsum("n,n...->...", weights.to(like), torch.stack([kp[name] for kp in keypoints]))
        for name, like in keypoints[0].items()
    }


class OneEuroFilter:
    """Smooths keypoints as they come, for live use: steady when they rest, quick when they move.

    A low-pass filter whose cut-off frequency rises with the speed: Casiez, Roussel & Vogel, *1€ Filter: A
    Simple Speed-based Low-pass Filter for Noisy Input in Interactive Systems*, CHI 2012. Here all coordinates
    of a keypoint share one speed, so that the filter does not depend on the direction.
    """

    def __init__(self, rate: float, strength: float = 1.0):
        self.rate, self.strength = rate, strength
        self.last: Keypoints = {}
        self.speed: Keypoints = {}

    def __call__(self, keypoints: Keypoints) -> Keypoints:
        """Smooth the next frame's keypoints."""
        self.last = {name: self._next(name, tensor) for name, tensor in keypoints.items()}
        return dict(self.last)

    def _next(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self.last:
            self.speed[name] = torch.zeros_like(tensor)
            return tensor
        # How fast is the keypoint?
        change = (tensor - self.last[name]) * self.rate  # (1, K, ...)
        self.speed[name] = torch.lerp(self.speed[name], change, self.share(SPEED_CUTOFF))
        speed = norms(self.speed[name])
        if name == "jacobian":  # how large those of a model are means nothing, only their ratios do
            speed = speed / norms(self.last[name]).clamp(min=1e-6)
        # The faster, the less it is smoothed.
        cutoff = MIN_CUTOFF / self.strength + BETA * speed
        return torch.lerp(self.last[name], tensor, self.share(cutoff))

    def share(self, cutoff: float | Tensor) -> float | Tensor:
        """Return the share of a new value in a low-pass filter with a cut-off frequency in Hz."""
        return 1 / (1 + self.rate / (2 * math.pi * cutoff))


def norms(tensor: Tensor) -> Tensor:
    """Return the norm of each keypoint's vector or matrix: (1, K, 1) or (1, K, 1, 1)."""
    return tensor.flatten(2).norm(dim=-1).view(*tensor.shape[:2], *[1] * (tensor.ndim - 2))


# ---- Kept keypoints ------------------------------------------------------------


class Record:
    """The keypoints of frames, (1, K, ...) each, in a few large blocks of memory on the CPU.

    A small tensor a frame, kept between large pictures that come and go, would break the free memory into
    pieces that no picture fits into: 3,000 frames took hundreds of MiB.
    """

    def __init__(self) -> None:
        self.blocks: Keypoints = {}  # (capacity, K, ...)
        self.length = 0

    def append(self, keypoints: Keypoints) -> None:
        for name, tensor in keypoints.items():
            block = self.blocks.get(name)
            # Double a block that is full.
            if block is None or len(block) == self.length:
                larger = tensor.new_empty((max(1024, 2 * self.length), *tensor.shape[1:]), device="cpu")
                if block is not None:
                    larger[: self.length] = block
                self.blocks[name] = larger
            self.blocks[name][self.length] = tensor[0]
        self.length += 1

    def first(self, count: int) -> list[Keypoints]:
        """Return the keypoints of the first `count` frames."""
        return [{name: block[i : i + 1] for name, block in self.blocks.items()} for i in range(count)]


# ---- Files ---------------------------------------------------------------------


class Motion(NamedTuple):
    """The keypoints of a video's T frames, and how many of them a second."""

    keypoints: Keypoints
    rate: float


def model_fingerprint(kp_state: dict[str, Tensor], kp_params: dict) -> str:
    """Return a sha256 of a keypoint detector's weights and config, the same for every checkpoint format.

    Keypoints of another detector are other places.
    """
    digest = hashlib.sha256(json.dumps(kp_params, sort_keys=True).encode())
    for name, tensor in sorted(kp_state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


MAX_BYTES = 2**28  # unpacked; the motion of an hour at 30 frames a second and 80 keypoints has less


def save_motion(path: Path, keypoints: Iterable[Keypoints], rate: float, fingerprint: str) -> None:
    """Write the keypoints of a video's frames as a .npz of plain arrays. Raises `MediaError`.

    "value" float32 (T, K, 2), "jacobian" float32 (T, K, 2, 2) where there is one, "rate", "fingerprint".
    """
    frames = [{name: tensor.float().cpu() for name, tensor in kp.items()} for kp in keypoints]
    arrays: dict[str, Any] = {name: torch.cat([kp[name] for kp in frames]).numpy() for name in frames[0]}
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, rate=np.float64(rate), fingerprint=np.array(fingerprint), **arrays)
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}; check that its folder exists and is writable") from error


def load_motion(path: Path, fingerprint: str, shapes: dict[str, tuple[int, ...]] | None = None) -> Motion:
    """Read what `save_motion` wrote; no pickle is ever opened.

    Raises `MediaError` for a file that is something else, and for the motion of another model than the one
    of `fingerprint`, whose keypoints of a frame have `shapes`.
    """
    not_one = f"{path}: is no motion file; make one with --save_motion"
    try:
        regular_file(path, MediaError, MAX_BYTES)
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise MediaError(f"{path}: unpacks to more than {MAX_BYTES:,} bytes, so it is no motion file")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise MediaError(f"{path}: does not exist; check the path") from None
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # NumPy raises whatever the damage brings about
        raise MediaError(not_one) from error
    if not is_motion(arrays):
        raise MediaError(not_one)
    found = {name: arrays[name].shape[1:] for name in ("value", "jacobian") if name in arrays}
    if str(arrays["fingerprint"]) != fingerprint or (shapes is not None and found != shapes):
        raise MediaError(
            f"{path}: is motion of another model, whose keypoints mean other places; make it anew with "
            "--save_motion and this one"
        )
    keypoints = {name: torch.from_numpy(arrays[name]) for name in found}
    return Motion(keypoints, float(arrays["rate"]))


def is_motion(arrays: dict[str, np.ndarray]) -> bool:
    """Whether arrays are what `save_motion` writes."""
    if arrays.keys() | {"jacobian"} != {"value", "jacobian", "rate", "fingerprint"}:
        return False
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # another kind of file in the zip
        return False
    # Shapes and types, then numbers
    value, rate = arrays["value"], arrays["rate"]
    jacobian = arrays.get("jacobian", np.zeros((*value.shape, 2), np.float32))
    return (
        (value.ndim == 3 and value.shape[2] == 2 and value.size > 0 and rate.shape == ())
        and jacobian.shape == (*value.shape, 2)
        and (value.dtype == np.float32 and jacobian.dtype == np.float32)
        and (rate.dtype.kind, arrays["fingerprint"].dtype.kind) == ("f", "U")
        and bool(np.isfinite(value).all() and np.isfinite(jacobian).all() and MIN_FPS <= rate <= MAX_FPS)
    )
