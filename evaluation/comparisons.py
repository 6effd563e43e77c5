"""Measures that compare the pixels of a generated frame with those of the real one: L1, PSNR, SSIM, LPIPS.

A comparison has a `name`, a `version` that changes with what it computes, `load(device)`, which must come first and fetches
what it needs, and is called with generated and real frames, both uint8 (B, H, W, 3) RGB, for a value each: float64 (B,).
"""

from __future__ import annotations

import math
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluation.weights import missing_weights
from modules.errors import DatasetError

if TYPE_CHECKING:  # imported where they compute
    import torch

SSIM_WINDOW = 11  # pixels; pictures must be larger than half of it
PSNR_OF_ROUNDING = 10 * math.log10(
    12 * 255**2
)  # dB; rounding to whole levels has a mean squared error of 1/12 of a level
LPIPS_LEAST = 32  # pixels; below, AlexNet has nothing left to look at


class L1:
    """Mean absolute difference in [0, 1]."""

    name, version = "l1", "1"

    def load(self, device: torch.device) -> None:
        """Nothing to fetch."""

    def __call__(self, generated: np.ndarray, real: np.ndarray) -> np.ndarray:
        difference = np.abs(generated.astype(np.int16) - real)  # (B, H, W, 3)
        return difference.mean((1, 2, 3)) / 255  # (B,)


class Torchmetrics:
    """A comparison that torchmetrics computes."""

    version = f"torchmetrics {metadata.version('torchmetrics')}"

    def load(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, generated: np.ndarray, real: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            values = self._compare(to_tensor(generated, self._device), to_tensor(real, self._device))
        return values.reshape(-1).double().cpu().numpy()  # (B,)

    def _compare(self, generated: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] → B values."""
        raise NotImplementedError


class Psnr(Torchmetrics):
    """Peak signal-to-noise ratio in dB.

    Frames that are equal in all 8 bits count as `PSNR_OF_ROUNDING`: they are as near as 8 bits can say, and the infinity that
    the formula gives for a first frame that a model reproduces would be the mean of everything.
    """

    name = "psnr"
    version = f"{Torchmetrics.version}, at most {PSNR_OF_ROUNDING:.2f} dB"

    def _compare(self, generated, real):
        from torchmetrics.functional.image import peak_signal_noise_ratio

        values = peak_signal_noise_ratio(generated, real, data_range=1.0, reduction="none", dim=(1, 2, 3))
        return values.clamp(max=PSNR_OF_ROUNDING)


class Ssim(Torchmetrics):
    """Structural similarity of Wang et al. (2004), of the colour channels, with a Gaussian window."""

    name = "ssim"

    def _compare(self, generated, real):
        from torchmetrics.functional.image import structural_similarity_index_measure

        if min(real.shape[2:]) <= SSIM_WINDOW // 2:
            raise DatasetError(
                f"frames of {real.shape[2]}x{real.shape[3]} are too small for ssim, which compares windows of "
                f"{SSIM_WINDOW}x{SSIM_WINDOW}; leave it out of --metrics"
            )
        return structural_similarity_index_measure(
            generated, real, data_range=1.0, kernel_size=SSIM_WINDOW, reduction="none"
        )


class Lpips(Torchmetrics):
    """LPIPS of Zhang et al. (2018) on AlexNet, whose ImageNet weights torchvision downloads once to torch's cache."""

    name = "lpips"

    def load(self, device):
        import torch
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
        from torchvision.models import AlexNet_Weights

        super().load(device)
        files = [Path(AlexNet_Weights.IMAGENET1K_V1.url).name]
        with missing_weights("lpips", files, Path(torch.hub.get_dir()) / "checkpoints"):
            self._metric = LearnedPerceptualImagePatchSimilarity(reduction="none", normalize=True).to(device)

    def _compare(self, generated, real):
        if min(real.shape[2:]) < LPIPS_LEAST:
            raise DatasetError(
                f"frames of {real.shape[2]}x{real.shape[3]} are too small for lpips, whose network needs "
                f"{LPIPS_LEAST}x{LPIPS_LEAST}; leave it out of --metrics"
            )
        values = self._metric(generated, real)
        self._metric.reset()  # the values of the batch are enough
        return values


COMPARISONS = {comparison.name: comparison for comparison in (L1, Psnr, Ssim, Lpips)}


def to_tensor(frames: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 (B, H, W, 3) → float32 (B, 3, H, W) in [0, 1]."""
    import torch

    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).contiguous().float() / 255
