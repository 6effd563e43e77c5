"""YuNet, a network of 53,104 weights that finds faces and five landmarks of each.

Wu, Peng & Yu, *YuNet: A Tiny Millisecond-level Face Detector*, Machine Intelligence Research 2023. The
weights are those of OpenCV's model zoo (`yunet-LICENSE.txt`); attribute names are their format.

Shapes: `B` batch, `H, W` picture size, `S` places of the three maps together, `F` faces that are found.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from faces.boxes import iou

WEIGHTS = Path(__file__).with_name("yunet.safetensors")
STRIDES = (8, 16, 32)  # of the three maps
CHANNELS = {"cls": 1, "bbox": 4, "obj": 1, "kps": 10}  # of the heads
MAX_SIDE = 640  # pixels to which larger pictures are shrunk: faces of about 10 to 300 pixels are seen
MIN_SCORE = 0.7
MAX_OVERLAP = 0.3  # intersection over union of two faces


class Faces(NamedTuple):
    """The faces of a picture, surest first, in its pixels.

    `boxes` (F, 4): left, top, right, bottom. `landmarks` (F, 5, 2), xy: the person's right eye, left eye,
    nose, right and left corner of the mouth. `scores` (F,) in [0, 1].
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray


class YuNet(nn.Module):
    """Picture (B, 3, H, W), BGR from 0 to 255, sides multiples of 32 -> what each of S places sees.

    Returns boxes (B, S, 4), landmarks (B, S, 5, 2) and scores (B, S), as in `Faces`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            unit(16, 16),
            nn.MaxPool2d(2),
            unit(16, 16),
            unit(16, 32),
            unit(32, 32),
            unit(32, 64),
            nn.MaxPool2d(2),
            unit(64, 64),
            unit(64, 64),
        )
        self.mid = nn.Sequential(nn.MaxPool2d(2), unit(64, 64), unit(64, 64))
        self.deep = nn.Sequential(nn.MaxPool2d(2), unit(64, 64), unit(64, 64))
        self.fine_out, self.mid_out, self.deep_out = unit(64, 64), unit(64, 64), unit(64, 64)
        self.heads = nn.ModuleDict(
            {
                name: nn.ModuleList(unit(64, width)[:2] for _ in STRIDES)  # without the ReLU
                for name, width in CHANNELS.items()
            }
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Three maps, and from the deepest down each adds what the one below has seen.
        fine = self.stem(x)  # (B, 64, H/8, W/8)
        mid = self.mid(fine)
        deep = self.deep_out(self.deep(mid))
        mid = self.mid_out(mid + F.interpolate(deep, scale_factor=2))
        fine = self.fine_out(fine + F.interpolate(mid, scale_factor=2))
        seen = [self.read(level, maps) for level, maps in enumerate((fine, mid, deep))]
        boxes, landmarks, scores = (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
        return boxes, landmarks, scores

    def read(self, level: int, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read what the places of one map (B, 64, h, w) see."""
        stride, (height, width) = STRIDES[level], maps.shape[2:]
        heads = {name: self.get_submodule(f"heads.{name}.{level}") for name in CHANNELS}
        out = {name: head(maps).flatten(2).mT for name, head in heads.items()}  # (B, S, .)
        place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(1)  # (S, 2), xy
        centre = (place + out["bbox"][..., :2]) * stride  # (B, S, 2)
        half = out["bbox"][..., 2:].exp() * (stride / 2)
        landmarks = (place.unsqueeze(1) + out["kps"].unflatten(2, (5, 2))) * stride  # (B, S, 5, 2)
        score = (out["cls"].sigmoid() * out["obj"].sigmoid()).sqrt().squeeze(2)  # (B, S)
        return torch.cat([centre - half, centre + half], dim=2), landmarks, score


def unit(inputs: int, outputs: int) -> nn.Sequential:
    """Build a 1×1 convolution, a depthwise 3×3 one and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=1),
        nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, groups=outputs),
        nn.ReLU(),
    )


class FaceDetector:
    """Finds the faces of pictures, on the CPU."""

    def __init__(self) -> None:
        self.network = YuNet().requires_grad_(False).to(memory_format=torch.channels_last)
        self.network.load_state_dict(load_file(WEIGHTS))

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray) -> Faces:
        """Find the faces of a picture (H, W, 3) uint8, RGB."""
        scale = min(1.0, MAX_SIDE / max(picture.shape[:2]))
        small = shrunk(picture, scale) if scale < 1 else picture
        x = torch.from_numpy(np.ascontiguousarray(small[..., ::-1])).permute(2, 0, 1).unsqueeze(0).float()
        x = F.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32)).contiguous(memory_format=torch.channels_last)
        boxes, landmarks, scores = (found[0].numpy() for found in self.network(x))
        order = np.argsort(-scores, kind="stable")
        kept = without_overlaps(boxes, order[scores[order] >= MIN_SCORE])
        return Faces(boxes[kept] / scale, landmarks[kept] / scale, scores[kept])


def shrunk(picture: np.ndarray, scale: float) -> np.ndarray:
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))


def without_overlaps(boxes: np.ndarray, order: np.ndarray) -> list[int]:
    """The numbers in `order` without those whose box (4,) overlaps an earlier one."""
    kept: list[int] = []
    for number in order.tolist():
        if not kept or iou(boxes[kept], boxes[[number]]).max() <= MAX_OVERLAP:
            kept.append(number)
    return kept
