"""The dense-motion network: K local affine motions -> one dense backward flow (paper Sec. 3.1 and 3.2).

Attribute names are the published checkpoint format: renaming one breaks every `.pth.tar`.
Shapes: `B` batch, `K` keypoints, `C` image channels, `h, w` the size at which motion is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.util import (
    AntiAliasInterpolation2d,
    Hourglass,
    Keypoints,
    Trunk,
    at_least_float32,
    downsampling_stride,
    full_precision,
    inverse_2x2,
    joint_conv,
    kp2gaussian,
    make_coordinate_grid,
    warp,
)


class DenseMotionNetwork(nn.Module):
    """Source image (B, C, H, W) and keypoints of both frames -> where each driving pixel comes from.

    Returns "deformation" (B, h, w, 2), xy positions in the source; "mask" (B, K+1, h, w), which motion each
    pixel follows (background first); "sparse_deformed" (B, K+1, C, h, w), the source under each motion; with
    `estimate_occlusion_map` also "occlusion_map" (B, 1, h, w) in [0, 1], where 0 is what the source doesn't
    show, and "occlusion_logit", of which it is the sigmoid. Mask and occlusion map are in at least float32.
    `kp_variance` is that of the Gaussians of Eq. 6, `scale_factor` the scale at which motion is estimated,
    `align_corners` that of `warp`.
    """

    def __init__(
        self,
        block_expansion: int,
        num_blocks: int,
        max_features: int,
        num_kp: int,
        num_channels: int,
        estimate_occlusion_map: bool = False,
        scale_factor: float = 1,
        kp_variance: float = 0.01,
        align_corners: bool = True,
        trunk: Callable[[int, int, int, int], Trunk] = Hourglass,
    ):
        super().__init__()
        in_features = (num_kp + 1) * (num_channels + 1)
        self.hourglass = trunk(block_expansion, in_features, num_blocks, max_features)
        self.mask = nn.Conv2d(self.hourglass.out_filters, num_kp + 1, kernel_size=7, padding=3)
        self.occlusion = None
        if estimate_occlusion_map:
            self.occlusion = nn.Conv2d(self.hourglass.out_filters, 1, kernel_size=7, padding=3)
        self.down = AntiAliasInterpolation2d(num_channels, scale_factor) if scale_factor != 1 else None
        self.kp_variance, self.align_corners = kp_variance, align_corners
        self.size_multiple = self.hourglass.size_multiple * downsampling_stride(scale_factor)

    def forward(self, source_image: Tensor, kp_driving: Keypoints, kp_source: Keypoints) -> dict[str, Tensor]:
        return self.motion(self.downsample(source_image), kp_driving, kp_source)

    def downsample(self, source_image: Tensor) -> Tensor:
        """Compute the part that depends on the source alone: (B, C, H, W) -> (B, C, h, w)."""
        return source_image if self.down is None else self.down(source_image)

    def motion(self, source: Tensor, kp_driving: Keypoints, kp_source: Keypoints) -> dict[str, Tensor]:
        """Estimate the motion from the downsampled source (B, C, h, w); return what `forward` returns."""
        # K+1 motions: where each is (Eq. 6), where it leads (Eq. 4), the source under it.
        size = source.shape[2:]
        heatmaps = difference_heatmaps(kp_driving, kp_source, size, self.kp_variance)  # (B, K+1, 1, h, w)
        motions = sparse_motions(kp_driving, kp_source, size)  # (B, K+1, h, w, 2)
        deformed = deform_by_each(source, motions, self.align_corners)  # (B, K+1, C, h, w)
        # The motion that each pixel follows, and what the source doesn't show.
        seen = torch.cat([heatmaps.to(source.dtype), deformed], dim=2).flatten(1, 2)  # (B, (K+1)·(1+C), h, w)
        logits, occlusion = joint_conv(self.mask, self.occlusion, self.hourglass(seen))
        mask = at_least_float32(logits).softmax(dim=1)  # (B, K+1, h, w)
        out = {"sparse_deformed": deformed, "mask": mask, "deformation": blend_motions(motions, mask)}
        if occlusion is not None:
            out["occlusion_logit"] = at_least_float32(occlusion)  # before the sigmoid: bf16 has no 0.999
            out["occlusion_map"] = torch.sigmoid(out["occlusion_logit"])  # (B, 1, h, w)
        return out


def difference_heatmaps(
    kp_driving: Keypoints, kp_source: Keypoints, size: Sequence[int], kp_variance: float
) -> Tensor:
    """Eq. 6: subtract Gaussians at source keypoints from driving ones: (B, K+1, 1, h, w), background 0."""
    driving = kp2gaussian(kp_driving, size, kp_variance)  # (B, K, h, w)
    heatmaps = driving - kp2gaussian(kp_source, size, kp_variance)  # (B, K, h, w)
    return F.pad(heatmaps, (0, 0, 0, 0, 1, 0)).unsqueeze(2)


def sparse_motions(kp_driving: Keypoints, kp_source: Keypoints, size: Sequence[int]) -> Tensor:
    """Eq. 4 and 5: around each keypoint, T(z) = p_source + J_source J_driving⁻¹ (z - p_driving).

    Returns (B, K+1, h, w, 2) in at least float32: for each driving pixel z the source position under each
    motion, the background's (the identity) first. Without Jacobians the motion is a translation (zero order).
    """
    driving, source = at_least_float32(kp_driving["value"]), at_least_float32(kp_source["value"])  # (B, K, 2)
    identity = make_coordinate_grid(size, like=driving)  # (h, w, 2)
    offset = identity - driving[:, :, None, None, :]  # (B, K, h, w, 2)
    if "jacobian" in kp_driving:
        with full_precision(like=offset):
            inverse = inverse_2x2(kp_driving["jacobian"])  # (B, K, 2, 2)
            jacobian = at_least_float32(kp_source["jacobian"]) @ inverse  # (B, K, 2, 2)
            # One product of (h·w, 2) and (2, 2) for each keypoint, instead of one for each pixel.
            offset = (offset.flatten(2, 3) @ jacobian.transpose(2, 3)).view_as(offset)  # (B, K, h, w, 2)
    motion = source[:, :, None, None, :] + offset  # (B, K, h, w, 2)
    background = identity.expand(motion.shape[0], 1, -1, -1, -1)  # (B, 1, h, w, 2)
    return torch.cat([background, motion], dim=1)


def deform_by_each(source: Tensor, motions: Tensor, align_corners: bool = True) -> Tensor:
    """Warp the source (B, C, h, w) by each of the motions (B, K+1, h, w, 2): (B, K+1, C, h, w)."""
    batch, num_motions = motions.shape[:2]
    copies = source.unsqueeze(1).expand(batch, num_motions, -1, -1, -1)
    deformed = warp(copies.flatten(0, 1), motions.flatten(0, 1), align_corners=align_corners)
    return deformed.unflatten(0, (batch, num_motions))


def blend_motions(motions: Tensor, mask: Tensor) -> Tensor:
    """Eq. 7: sum the motions (B, K+1, h, w, 2), weighted by the mask (B, K+1, h, w): (B, h, w, 2)."""
    return (motions * mask.unsqueeze(-1)).sum(dim=1)
