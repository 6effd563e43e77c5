"""Compare the pixels of a generated frame with those of the real one: L1, PSNR, SSIM, LPIPS.

A comparison is an `Instrument`. It is called with generated and real frames, both uint8 (B, H, W, 3) RGB, and
returns a value for each pair of frames: float64 (B,).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights

from evaluation.instrument import Instrument, hub_folder, weights_needed
from evaluation.metrics import SSIM_WINDOW, ssim
from media.tensors import to_tensor
from utils.errors import DatasetError

# In dB. Rounding to whole levels has a mean squared error of 1/12 of a level.
PSNR_OF_ROUNDING = 10 * math.log10(12 * 255**2)


class L1:
    """Mean absolute difference in [0, 1]."""

    name, version = "l1", "1"

    def load(self, device: torch.device) -> None:
        """Nothing to fetch."""

    def __call__(self, generated: np.ndarray, real: np.ndarray) -> np.ndarray:
        difference = np.abs(generated.astype(np.int16) - real)  # (B, H, W, 3)
        return difference.mean((1, 2, 3)) / 255  # (B,)


class Ssim:
    """Structural similarity, by scikit-image."""

    name, version = "ssim", f"scikit-image {metadata.version('scikit-image')}"

    def load(self, device: torch.device) -> None:
        """Nothing to fetch."""

    def __call__(self, generated: np.ndarray, real: np.ndarray) -> np.ndarray:
        check_size(real, SSIM_WINDOW, self.name)
        return np.array([ssim(*pair) for pair in zip(generated, real, strict=True)])


def check_size(frames: np.ndarray, least: int, metric: str) -> None:
    """Raise `DatasetError` if frames (B, H, W, 3) are smaller than a metric needs."""
    height, width = frames.shape[1:3]
    if min(height, width) < least:
        raise DatasetError(
            f"frames of {height}x{width} are too small for {metric}, which needs {least}x{least}; leave it "
            "out of --metrics"
        )


class Torchmetrics(abc.ABC):
    """A comparison that torchmetrics computes."""

    name: str
    version = f"torchmetrics {metadata.version('torchmetrics')}"
    min_size = 1  # pixels of a picture's side

    def load(self, device: torch.device) -> None:
        self._device = device

    @torch.inference_mode()
    def __call__(self, generated: np.ndarray, real: np.ndarray) -> np.ndarray:
        check_size(real, self.min_size, self.name)
        values = self._compare(on_device(generated, self._device), on_device(real, self._device))
        return values.reshape(-1).double().cpu().numpy()  # (B,)

    @abc.abstractmethod
    def _compare(self, generated: Tensor, real: Tensor) -> Tensor:
        """Return B values of pictures (B, 3, H, W) in [0, 1]."""


class Psnr(Torchmetrics):
    """Peak signal-to-noise ratio in dB.

    Frames that are equal in all 8 bits count as `PSNR_OF_ROUNDING`, which is as near as 8 bits can say. The
    formula gives infinity for them, and a single such frame would make the mean infinite.
    """

    name = "psnr"
    version = f"{Torchmetrics.version}, at most {PSNR_OF_ROUNDING:.2f} dB"

    def _compare(self, generated: Tensor, real: Tensor) -> Tensor:
        values = peak_signal_noise_ratio(generated, real, data_range=1.0, reduction="none", dim=(1, 2, 3))
        return values.clamp(max=PSNR_OF_ROUNDING)


class Lpips(Torchmetrics):
    """LPIPS of Zhang et al. (2018) on AlexNet, whose weights torchvision downloads once to torch's cache."""

    name = "lpips"
    min_size = 32  # smaller pictures vanish in AlexNet's strides

    def load(self, device: torch.device) -> None:
        super().load(device)
        with weights_needed("lpips", Path(AlexNet_Weights.IMAGENET1K_V1.url).name, hub_folder()):
            self._metric = LearnedPerceptualImagePatchSimilarity(reduction="none", normalize=True).to(device)

    def _compare(self, generated: Tensor, real: Tensor) -> Tensor:
        values = self._metric(generated, real)
        self._metric.reset()  # the values of the batch are enough
        return values


COMPARISONS: dict[str, Callable[[], Instrument]] = {"l1": L1, "psnr": Psnr, "ssim": Ssim, "lpips": Lpips}


def on_device(frames: np.ndarray, device: torch.device) -> Tensor:
    """Turn uint8 (B, H, W, 3) into float32 (B, 3, H, W) in [0, 1]."""
    return to_tensor(frames).contiguous().to(device)
