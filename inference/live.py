"""Live animation: pictures of the model's size (H, W) that follow the frames of a camera."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

import numpy as np
import torch

from inference.animation import transfer
from inference.animator import Animator
from inference.motion import OneEuroFilter
from inference.networks import InferenceNetworks, fitted, size_for
from media.pictures import Picture
from media.tensors import to_pixels
from modules.util import Keypoints

MIN_RATE, MAX_RATE = 1.0, 60.0  # frames a second that the filter is told; a camera may pause


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
        self.size, self.fit = size_for(networks[0], sources[0]), fit
        device = next(networks[0].parameters()).device
        self.animators = [
            Animator(
                *networks,
                fitted(source, self.size, fit).unsqueeze(0).to(device),
                transfer(relative, adapt_scale),
            )
            for source in sources
        ]
        self.auto_reference = auto_reference
        self.distance = math.inf  # of the last frame's pose from the picture's; 0 is the same pose
        self._shown = 0
        self._reference: Keypoints | None = None
        self._reference_distance = math.inf
        self._filter = None if smooth is None else OneEuroFilter(MAX_RATE, smooth)
        self._last_time = -math.inf
        self._lock = threading.Lock()

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
        closer = self.auto_reference and self.distance < self._reference_distance
        if self._reference is None or closer:
            self._reference, self._reference_distance = keypoints, self.distance
        return self._reference
