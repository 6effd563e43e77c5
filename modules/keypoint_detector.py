"""The keypoint detector: K keypoints and their local Jacobians, learned without labels (paper Sec. 3.1).

Attribute names are the published checkpoint format: renaming one breaks every `.pth.tar`.
Shapes: `B` batch, `K` keypoints, `H, W` image size, `h, w` the size of the heatmaps, `xy` in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modules.util import (
    AntiAliasInterpolation2d,
    Hourglass,
    Keypoints,
    Trunk,
    at_least_float32,
    check_size,
    downsampling_stride,
    joint_conv,
    make_coordinate_grid,
)


class KPDetector(nn.Module):
    """Image (B, num_channels, H, W) in [0, 1] -> {"value": (B, K, 2) in [-1, 1], "jacobian": (B, K, 2, 2)}.

    `temperature`: of the softmax over positions; smaller is sharper.
    `estimate_jacobian`: False gives zero-order motion, without "jacobian" in the result.
    `single_jacobian_map`: one Jacobian map shared by all keypoints instead of one each.
    `scale_factor`: the detector sees the image at this scale (1, 0.5, 0.25, …).
    `pad`: padding of the 7×7 heads; the published 0 keeps keypoints 3 pixels of the map away from the border.
    Raises `UserError` unless H and W are multiples of `size_multiple`.
    """

    def __init__(
        self,
        block_expansion: int,
        num_kp: int,
        num_channels: int,
        max_features: int,
        num_blocks: int,
        temperature: float,
        estimate_jacobian: bool = False,
        scale_factor: float = 1,
        single_jacobian_map: bool = False,
        pad: int = 0,
        trunk: Callable[[int, int, int, int], Trunk] = Hourglass,
    ):
        super().__init__()
        self.predictor = trunk(block_expansion, num_channels, num_blocks, max_features)
        self.kp = nn.Conv2d(self.predictor.out_filters, num_kp, kernel_size=7, padding=pad)
        self.jacobian = None
        if estimate_jacobian:
            num_maps = 1 if single_jacobian_map else num_kp
            self.jacobian = nn.Conv2d(self.predictor.out_filters, 4 * num_maps, kernel_size=7, padding=pad)
            nn.init.zeros_(self.jacobian.weight)
            self.jacobian.bias = nn.Parameter(torch.eye(2).flatten().repeat(num_maps))
        self.down = AntiAliasInterpolation2d(num_channels, scale_factor) if scale_factor != 1 else None
        self.temperature = temperature
        self.size_multiple = self.predictor.size_multiple * downsampling_stride(scale_factor)

    def forward(self, x: Tensor) -> Keypoints:
        check_size(x.shape[2:], self.size_multiple)
        small = x if self.down is None else self.down(x)
        logits, jacobian_maps = joint_conv(self.kp, self.jacobian, self.predictor(small))
        heatmap = spatial_softmax(logits, self.temperature)  # (B, K, h, w)
        kp = {"value": soft_argmax(heatmap)}  # (B, K, 2)
        if jacobian_maps is not None:
            kp["jacobian"] = expected_jacobian(heatmap, jacobian_maps)  # (B, K, 2, 2)
        # Autocast must not round coordinates: the dtype is the image's, whatever the layers computed in.
        return {name: tensor.to(x.dtype) for name, tensor in kp.items()}


def spatial_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Turn logits (B, K, h, w) into heatmaps that each sum to 1, in at least float32."""
    return (at_least_float32(logits).flatten(2) / temperature).softmax(dim=-1).view_as(logits)


def soft_argmax(heatmap: Tensor) -> Tensor:
    """Return the expected position under heatmaps (B, K, h, w) that each sum to 1: (B, K, 2)."""
    grid = make_coordinate_grid(heatmap.shape[2:], like=heatmap)  # (h, w, 2)
    return (heatmap.unsqueeze(-1) * grid).sum(dim=(2, 3))


def expected_jacobian(heatmap: Tensor, jacobian_maps: Tensor) -> Tensor:
    """Average Jacobian maps (B, 4·K or 4, h, w) under each heatmap (B, K, h, w): (B, K, 2, 2)."""
    maps = jacobian_maps.unflatten(1, (-1, 4))  # (B, K or 1, 4, h, w)
    return (heatmap.unsqueeze(2) * maps).sum(dim=(3, 4)).unflatten(-1, (2, 2))
