"""Patch discriminators at one or several scales, for configs that set `generator_gan`.

Attribute names are the published checkpoint format: renaming one breaks every `.pth.tar`.
Shapes: `B` batch, `C` image channels, `K` keypoints, `H, W` image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.util import Keypoints, features_at, kp2gaussian


class DownBlock2d(nn.Module):
    """4×4 convolution, instance norm, leaky ReLU, pooling: (B, C, H, W) -> (B, C', H-3, W-3), or half of it.

    `sn` adds spectral normalisation.
    """

    def __init__(
        self, in_features: int, out_features: int, norm: bool = False, pool: bool = False, sn: bool = False
    ):
        super().__init__()
        self.conv = maybe_spectral_norm(nn.Conv2d(in_features, out_features, kernel_size=4), sn)
        self.norm = nn.InstanceNorm2d(out_features, affine=True) if norm else None
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        if self.norm is not None:
            out = self.norm(out)
        out = F.leaky_relu(out, 0.2)
        return F.avg_pool2d(out, 2) if self.pool else out


def maybe_spectral_norm(conv: nn.Conv2d, sn: bool) -> nn.Conv2d:
    # By hooks and not by parametrisation: published checkpoints hold weight_orig, weight_u and weight_v.
    return nn.utils.spectral_norm(conv) if sn else conv


class Discriminator(nn.Module):
    """Image (B, C, H, W) in [0, 1] -> (feature maps of every block, prediction map (B, 1, ., .)).

    With `use_kp` it is judged together with Gaussians of the driving keypoints.
    """

    def __init__(
        self,
        num_channels: int = 3,
        block_expansion: int = 64,
        num_blocks: int = 4,
        max_features: int = 512,
        sn: bool = False,
        use_kp: bool = False,
        num_kp: int = 10,
        kp_variance: float = 0.01,
    ):
        super().__init__()
        widths = [num_channels + num_kp * use_kp]
        widths += [features_at(i + 1, block_expansion, max_features) for i in range(num_blocks)]
        self.down_blocks = nn.ModuleList(
            DownBlock2d(widths[i], widths[i + 1], norm=i != 0, pool=i != num_blocks - 1, sn=sn)
            for i in range(num_blocks)
        )
        self.conv = maybe_spectral_norm(nn.Conv2d(widths[-1], 1, kernel_size=1), sn)
        self.use_kp = use_kp
        self.kp_variance = kp_variance

    def forward(self, x: Tensor, kp: Keypoints | None = None) -> tuple[list[Tensor], Tensor]:
        if self.use_kp:
            if kp is None:
                raise ValueError("a discriminator with use_kp needs keypoints")
            x = torch.cat([x, kp2gaussian(kp, x.shape[2:], self.kp_variance).to(x.dtype)], dim=1)
        feature_maps = []
        for down_block in self.down_blocks:
            x = down_block(x)
            feature_maps.append(x)
        return feature_maps, self.conv(x)


class MultiScaleDiscriminator(nn.Module):
    """One `Discriminator` for each of `scales`, all with the same further parameters `params`.

    Takes an image pyramid {"prediction_<scale>": (B, C, scale·H, scale·W)} and returns for each scale
    "feature_maps_<scale>" (a list) and "prediction_map_<scale>" (B, 1, ., .). `estimate_jacobian` is one of
    the parameters that all networks share, and changes nothing here.
    """

    def __init__(self, scales: Sequence[float] = (), estimate_jacobian: bool = False, **params: Any):
        super().__init__()
        self.scales = scales
        self.discs = nn.ModuleDict({scale_key(scale): Discriminator(**params) for scale in scales})

    def forward(self, x: dict[str, Tensor], kp: Keypoints | None = None) -> dict[str, Tensor | list[Tensor]]:
        out = {}
        for scale in self.scales:
            feature_maps, prediction_map = self.discs[scale_key(scale)](x[f"prediction_{scale}"], kp)
            out[f"feature_maps_{scale}"] = feature_maps
            out[f"prediction_map_{scale}"] = prediction_map
        return out


def scale_key(scale: float) -> str:
    """Turn a scale into a module name, which can't hold a dot: 0.5 -> "0-5"."""
    return str(scale).replace(".", "-")
