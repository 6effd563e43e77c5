"""Validation during training: reconstruction of a fixed handful of clips that are not trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.metrics import SSIM_WINDOW, ssim
from frames_dataset import ClipDataset
from utils.errors import DatasetError

MAX_CLIPS = 8
FRAMES_PER_CLIP = 4


class Validation:
    """Reconstruction of frames, evenly spread and decoded once, from the first frames of clips."""

    def __init__(self, dataset: ClipDataset):
        count = len(dataset.clips)
        numbers = np.linspace(0, count - 1, min(MAX_CLIPS, count)).round().astype(int)
        self.clips = [spread_frames(dataset, number) for number in np.unique(numbers)]  # each (T, 3, H, W)
        height, width = self.clips[0].shape[2:]
        if min(height, width) < SSIM_WINDOW:
            raise DatasetError(
                f"frames of {height}x{width} are too small to validate; leave train_params.eval_freq out"
            )

    @torch.inference_mode()
    def __call__(
        self, generator: nn.Module, kp_detector: nn.Module, device: torch.device
    ) -> tuple[dict[str, float], dict[str, Tensor], dict]:
        """Return L1 and SSIM of networks in eval mode: means over frames, pixels in [0, 1].

        For a picture, also return the last frame of each clip as `{"source", "driving"}` and the generator's
        result for them.
        """
        rows, sources, drivings = [], [], []
        for frames in self.clips:
            driving = frames[1:].to(device)
            source = frames[:1].to(device).expand_as(driving)  # (T - 1, 3, H, W), as the driving frames
            generated = rebuild(generator, kp_detector, source, driving)["prediction"].float()
            pictures = [each.permute(0, 2, 3, 1).cpu().numpy() for each in (generated, driving)]
            similarity = np.mean([ssim(*pair) for pair in zip(*pictures, strict=True)])
            rows.append([(generated - driving).abs().mean().item(), similarity])
            sources.append(source[-1])
            drivings.append(driving[-1])
        shown = {"source": torch.stack(sources), "driving": torch.stack(drivings)}
        l1, similarity = np.mean(rows, axis=0).tolist()
        return {"l1": l1, "ssim": similarity}, shown, rebuild(generator, kp_detector, **shown)


def spread_frames(dataset: ClipDataset, number: int) -> Tensor:
    """Read the first frame of a clip and `FRAMES_PER_CLIP` others, or a single frame twice: (T, 3, H, W)."""
    clip = dataset.clip(number)
    chosen = np.linspace(0, len(clip) - 1, FRAMES_PER_CLIP + 1).round().astype(int)
    wanted = {0, *chosen.tolist()}
    frames = [frame for index, frame in enumerate(clip) if index in wanted]
    return torch.stack(frames if len(frames) > 1 else frames * 2)


def rebuild(generator: nn.Module, kp_detector: nn.Module, source: Tensor, driving: Tensor) -> dict:
    """Drive sources by frames, (B, 3, H, W) each; return the generator's result with both keypoints."""
    kp_source, kp_driving = kp_detector(source), kp_detector(driving)
    generated = generator(source, kp_source=kp_source, kp_driving=kp_driving)
    return generated | {"kp_source": kp_source, "kp_driving": kp_driving}
