"""Compare the pixels of a generated frame with those of the real one: L1, PSNR, SSIM, LPIPS.

A comparison is an `Instrument`. It is called with generated and real frames, both uint8 (B, H, W, 3) RGB, and
returns a value for each pair of frames: float64 (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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


def l1(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return mean absolute differences in [0, 1]."""
    difference = np.abs(generated.astype(np.int16) - real)  # (B, H, W, 3)
    return difference.mean((1, 2, 3)) / 255  # (B,)


def psnr(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return peak signal-to-noise ratios in dB, by torchmetrics.

    Frames that are equal in all 8 bits count as `PSNR_OF_ROUNDING`, which is as near as 8 bits can say. The
    formula gives infinity for them, and a single such frame would make the mean infinite.
    """
    pictures = to_tensor(generated), to_tensor(real)  # (B, 3, H, W) each
    values = peak_signal_noise_ratio(*pictures, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return values.clamp(max=PSNR_OF_ROUNDING).double().numpy()  # (B,)


@dataclass(eq=False)
class Comparison:
    """An instrument whose figures are those of a function."""

    name: str
    version: str
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray]
    min_size: int = 1  # pixels of a picture's side

    def load(self, device: torch.device) -> None:
        """Nothing to fetch."""

    def __call__(self, generated: np.ndarray, real: np.ndarray) -> np.ndarray:
        height, width = real.shape[1:3]
        if min(height, width) < self.min_size:
            raise DatasetError(
                f"frames of {height}x{width} are too small for {self.name}, which needs "
                f"{self.min_size}x{self.min_size}; leave it out of --metrics"
            )
        return self.compare(generated, real)


class Lpips(Comparison):
    """LPIPS of Zhang et al. (2018) on AlexNet, whose weights torchvision downloads once to torch's cache."""

    def __init__(self) -> None:
        # Smaller pictures vanish in AlexNet's strides.
        super().__init__("lpips", TORCHMETRICS, self._compare, min_size=32)

    def load(self, device: torch.device) -> None:
        self._device = device
        with weights_needed("lpips", Path(AlexNet_Weights.IMAGENET1K_V1.url).name, hub_folder()):
            self._metric = LearnedPerceptualImagePatchSimilarity(reduction="none", normalize=True).to(device)

    @torch.inference_mode()
    def _compare(self, generated: np.ndarray, real: np.ndarray) -> np.ndarray:
        values = self._metric(on_device(generated, self._device), on_device(real, self._device))
        self._metric.reset()  # the values of the batch are enough
        return values.reshape(-1).double().cpu().numpy()  # (B,)


SCIKIT_IMAGE, TORCHMETRICS = (f"{name} {metadata.version(name)}" for name in ("scikit-image", "torchmetrics"))
COMPARISONS: dict[str, Instrument] = {
    "l1": Comparison("l1", "1", l1),
    "psnr": Comparison("psnr", f"{TORCHMETRICS}, at most {PSNR_OF_ROUNDING:.2f} dB", psnr),
    "ssim": Comparison(
        "ssim", SCIKIT_IMAGE, lambda *frames: np.array([*map(ssim, *frames)]), min_size=SSIM_WINDOW
    ),
    "lpips": Lpips(),
}


def on_device(frames: np.ndarray, device: torch.device) -> Tensor:
    """Turn uint8 (B, H, W, 3) into float32 (B, 3, H, W) in [0, 1]."""
    return to_tensor(frames).contiguous().to(device)
