"""Live animation: pictures of the model's size (H, W) that follow the frames of a camera.

Shapes: `K` keypoints.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from inference.animation import transfer
from inference.animator import Animator
from inference.motion import OneEuroFilter
from inference.networks import InferenceNetworks, fitted, size_for
from media.pictures import Picture
from media.tensors import to_pixels
from modules.util import Keypoints

MIN_RATE, MAX_RATE = 1.0, 60.0  # frames a second that the filter is told; a camera may pause

# From where on a pose differs enough to tell, and what corrects it where it is too low, or too high.
HINTS = {
    "x": (0.12, "move right", "move left"),  # of the picture, which is 2 wide
    "y": (0.12, "move down", "move up"),
    "scale": (math.log(1.15), "come closer", "move away"),
    "roll": (math.radians(8), "tilt right", "tilt left"),
    "yaw": (0.15, "turn right", "turn left"),
    "pitch": (0.15, "look down", "look up"),
}


class LiveAnimation:
    """Pictures, one of which moves as the frames do that `animate` is called with; threads may share it.

    `relative`: measure movement from a reference frame, at first the first one. `auto_reference`: a frame
    whose pose is closer to the picture's becomes the reference. `smooth`: strength of the filter, None for
    none. `fit`: as of `media.pictures.fit`. Instances may share networks.
    """

    def __init__(
        self,
        networks: InferenceNetworks,
        sources: Sequence[Picture],
        relative: bool = True,
        adapt_scale: bool = True,
        smooth: float | None = None,
        auto_reference: bool = False,
        fit: str = "crop",
    ):
        self.networks, self.size, self.fit = networks, size_for(networks[0], sources[0]), fit
        self.transfer = transfer(relative, adapt_scale)
        self.auto_reference = auto_reference
        self.distance = math.inf  # of the last frame's pose from the picture's; 0 is the same pose
        self.hint = ""  # how the last frame's pose gets closer to the picture's
        self._shown = 0
        self._reference: Keypoints | None = None
        self._reference_distance = math.inf
        self._filter = None if smooth is None else OneEuroFilter(MAX_RATE, smooth)
        self._last_time = -math.inf
        self._lock = threading.Lock()
        self.set_pictures(sources)

    def set_pictures(self, sources: Sequence[Picture]) -> None:
        """Move these pictures from now on. The reference stays."""
        device = next(self.networks[0].parameters()).device
        tensors = [fitted(source, self.size, self.fit).unsqueeze(0).to(device) for source in sources]
        animators = [Animator(*self.networks, tensor, self.transfer) for tensor in tensors]
        with self._lock:
            self.animators, self._shown = animators, min(self._shown, len(animators) - 1)
            self._reference_distance = math.inf

    def set_transfer(self, relative: bool, adapt_scale: bool, strength: float = 1.0) -> None:
        """Change how movement is carried over, as of `inference.animation.transfer`."""
        with self._lock:
            self.transfer = transfer(relative, adapt_scale, strength)
            for animator in self.animators:
                animator.normalization_params = self.transfer

    def show(self, number: int) -> None:
        """Move the picture of that number, counted from 0, from now on. The reference stays."""
        with self._lock:
            if number != self._shown:
                self._shown, self._reference_distance = number, math.inf

    def set_reference(self) -> None:
        """Measure movement from the next frame."""
        with self._lock:
            self._reference = None

    def set_smoothing(self, strength: float | None) -> None:
        """Change the strength of the filter; None for none."""
        with self._lock:
            if strength != (self._filter and self._filter.strength):
                self._filter = None if strength is None else OneEuroFilter(MAX_RATE, strength)

    @torch.inference_mode()
    def animate(self, frame: Picture) -> np.ndarray:
        """Return the picture moved as the frame says: (H, W, 3) uint8. Raises `MediaError`."""
        driving = fitted(frame, self.size, self.fit)  # (3, H, W)
        # One frame at a time: the filter and the reference remember the one before.
        with self._lock:
            animator = self.animators[self._shown]
            keypoints = self._smoothed(animator.find(driving))
            reference = self._choose_reference(animator, keypoints)
            out = next(animator.generate([{"kp_driving": keypoints}], reference))
        return to_pixels(out["prediction"][0])

    def _smoothed(self, keypoints: Keypoints) -> Keypoints:
        now = time.monotonic()
        seconds, self._last_time = now - self._last_time, now
        if self._filter is None:
            return keypoints
        self._filter.rate = min(max(1 / max(seconds, 1e-6), MIN_RATE), MAX_RATE)
        return self._filter(keypoints)

    def _choose_reference(self, animator: Animator, keypoints: Keypoints) -> Keypoints:
        """Return the keypoints that movement is measured from; those of this frame may become it."""
        self.distance = animator.pose_distance(keypoints)
        self.hint = pose_hint(animator.kp_source["value"], keypoints["value"])
        closer = self.auto_reference and self.distance < self._reference_distance
        if self._reference is None or closer:
            self._reference, self._reference_distance = keypoints, self.distance
        return self._reference


def pose_hint(wanted: Tensor, seen: Tensor) -> str:
    """Say what to do, as the viewer sees it, so that keypoints `seen` (1, K, 2) come closer to `wanted`.

    It is about what differs most. "" where little does.
    """
    differences = pose_difference(wanted[0].cpu().double().numpy(), seen[0].cpu().double().numpy())
    amounts = {name: differences[name] / tolerance for name, (tolerance, _, _) in HINTS.items()}
    most = max(amounts, key=lambda name: abs(amounts[name]))
    _, low, high = HINTS[most]
    return "" if abs(amounts[most]) < 1 else low if amounts[most] < 0 else high


def pose_difference(wanted: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """Explain by least squares how a head got from keypoints `wanted` (K, 2) to `seen`, by keys of `HINTS`.

    The keypoints lie on half a ball that faces us: what is near its middle moves most where it turns.
    """
    middle = wanted.mean(axis=0)
    (x, y), squares = (wanted - middle).T, np.square(wanted - middle).sum(axis=1)  # (K,) each
    depth = np.sqrt(squares.max() - squares)
    depth, none, one = depth - depth.mean(), np.zeros(len(x)), np.ones(len(x))
    # Columns: both shifts, cosine and sine of the roll times the scale, yaw and pitch.
    across = np.stack([one, none, x, -y, depth, none], axis=1)
    down = np.stack([none, one, y, x, none, depth], axis=1)
    moved = np.concatenate((seen - middle).T)  # (2K,)
    dx, dy, cos, sin, yaw, pitch = np.linalg.lstsq(np.concatenate([across, down]), moved, rcond=None)[0]
    scale, roll = math.log(max(math.hypot(cos, sin), 1e-6)), math.atan2(sin, cos)
    return {"x": dx, "y": dy, "scale": scale, "roll": roll, "yaw": yaw, "pitch": pitch}
