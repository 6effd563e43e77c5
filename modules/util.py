"""Grids, Gaussians, warping and the convolutional blocks that every network is made of.

Attribute names inside the blocks are the published checkpoint format: renaming one breaks every `.pth.tar`.

Shapes: `B` batch, `K` keypoints, `C` channels, `H, W` map size, `xy` a point in [-1, 1]², x first;
-1 and 1 are the centres of the corner pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sync_batchnorm import SynchronizedBatchNorm2d as BatchNorm2d
from utils.errors import UserError

# "value" (B, K, 2) in [-1, 1] and, for first-order motion, "jacobian" (B, K, 2, 2)
Keypoints = dict[str, Tensor]

# ---- Coordinates -------------------------------------------------------------


def make_coordinate_grid(spatial_size: Sequence[int], like: Tensor) -> Tensor:
    """Return the xy position of every pixel of an H×W map, (H, W, 2), with device and dtype of `like`."""
    height, width = spatial_size
    y = torch.arange(height, device=like.device, dtype=like.dtype)
    x = torch.arange(width, device=like.device, dtype=like.dtype)
    yy, xx = torch.meshgrid(2 * (y / (height - 1)) - 1, 2 * (x / (width - 1)) - 1, indexing="ij")
    return torch.stack([xx, yy], dim=-1)  # (H, W, 2)


def kp2gaussian(kp: Keypoints, spatial_size: Sequence[int], kp_variance: float) -> Tensor:
    """Draw a Gaussian of variance `kp_variance` and peak 1 at each keypoint: (B, K, H, W)."""
    mean = kp["value"][:, :, None, None, :]  # (B, K, 1, 1, 2)
    grid = make_coordinate_grid(spatial_size, like=mean)  # (H, W, 2)
    return torch.exp(-0.5 * (grid - mean).square().sum(dim=-1) / kp_variance)  # (B, K, H, W)


def warp(image: Tensor, grid: Tensor, padding_mode: str = "zeros", align_corners: bool = True) -> Tensor:
    """Sample `image` (B or 1, C, H, W) bilinearly at the xy positions `grid` (B, h, w, 2): (B, C, h, w).

    `align_corners`: whether -1 and 1 are the centres of the outer pixels, as in our grids, or their edges.
    """
    image = image.expand(grid.shape[0], -1, -1, -1)
    # The wider dtype, since half-precision coordinates are off by whole pixels. With `align_corners`, the
    # identity grid returns the image: PyTorch 1.0, of the published weights, did nothing else.
    dtype = torch.promote_types(image.dtype, grid.dtype)
    sampled = F.grid_sample(
        image.to(dtype),
        grid.to(dtype),
        mode="bilinear",
        padding_mode=padding_mode,
        align_corners=align_corners,
    )
    return sampled.to(image.dtype)


def resize(maps: Tensor, spatial_size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Resize (B, C, h, w) bilinearly to (B, C, H, W); return maps of that size as they are."""
    if maps.shape[2:] == spatial_size:
        return maps
    return F.interpolate(maps, size=spatial_size, mode="bilinear", align_corners=align_corners)


# ---- Numerics ----------------------------------------------------------------

SMALLEST_DETERMINANT = 1e-6


def at_least_float32(tensor: Tensor) -> Tensor:
    """Widen half precision to float32; leave float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def full_precision(like: Tensor) -> contextlib.AbstractContextManager:
    """Switch autocast off for products of coordinates: bf16's 8 bits would move them by pixels."""
    if like.is_meta:  # a device without autocast
        return contextlib.nullcontext()
    return torch.autocast(device_type=like.device.type, enabled=False)


def inverse_2x2(matrix: Tensor) -> Tensor:
    """Invert matrices (..., 2, 2) in closed form, in at least float32; finite where one has collapsed."""
    a, b, c, d = at_least_float32(matrix).flatten(-2).unbind(-1)
    determinant = a * d - b * c
    # A smaller determinant becomes ±1e-6 and gets no gradient. ONNX exporters can't translate copysign.
    bound = torch.full_like(determinant, SMALLEST_DETERMINANT)
    bound = torch.where(determinant < 0, -bound, bound)
    determinant = torch.where(determinant.abs() < SMALLEST_DETERMINANT, bound, determinant)
    adjugate = torch.stack([d, -b, -c, a], dim=-1).unflatten(-1, (2, 2))
    return adjugate / determinant[..., None, None]  # (..., 2, 2)


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Make the module's weights constants for the block: gradients pass through, none are computed for it."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def check_size(size: Sequence[int], multiple: int) -> None:
    """Raise `UserError` unless a height and a width are multiples of `multiple`."""
    height, width = size
    if height % multiple or width % multiple:
        below = [max(size // multiple, 1) * multiple for size in (height, width)]
        raise UserError(
            f"images of {height}x{width} (height x width) don't fit this model: both must be multiples of "
            f"{multiple}, for example {below[0]}x{below[1]}; resize them or change the config's frame_shape"
        )


# ---- Blocks ------------------------------------------------------------------
#
# A block's norm directly follows its convolution; modules/fast.py folds the one into the other.
# ReLUs work in place: what they overwrite is a norm's result, which no backward pass reads.


class ResBlock2d(nn.Module):
    """Pre-activation residual block that keeps size and channels: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, in_features: int, kernel_size: int, padding: int):
        super().__init__()
        self.conv1: nn.Module = nn.Conv2d(in_features, in_features, kernel_size, padding=padding)
        self.conv2: nn.Module = nn.Conv2d(in_features, in_features, kernel_size, padding=padding)
        self.norm1 = BatchNorm2d(in_features, affine=True)
        self.norm2 = BatchNorm2d(in_features, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.norm1(x), inplace=True))
        out = self.conv2(F.relu(self.norm2(out), inplace=True))
        return out.add_(x)


class ConvBlock(nn.Module):
    """What the next three have in common: a convolution and its batch norm."""

    def __init__(
        self, in_features: int, out_features: int, kernel_size: int = 3, padding: int = 1, groups: int = 1
    ):
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(
            in_features, out_features, kernel_size, padding=padding, groups=groups
        )
        self.norm = BatchNorm2d(out_features, affine=True)


class UpBlock2d(ConvBlock):
    """Nearest upsampling, convolution, batch norm, ReLU: (B, C, H, W) -> (B, C', 2H, 2W)."""

    def __init__(
        self, in_features: int, out_features: int, kernel_size: int = 3, padding: int = 1, groups: int = 1
    ):
        super().__init__(in_features, out_features, kernel_size, padding, groups)
        self.upsample: nn.Module = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(self.upsample(x))), inplace=True)


class DownBlock2d(ConvBlock):
    """Convolution, batch norm, ReLU, 2×2 average pooling: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.relu(self.norm(self.conv(x)), inplace=True), kernel_size=2)


class SameBlock2d(ConvBlock):
    """Convolution, batch norm, ReLU at the same size: (B, C, H, W) -> (B, C', H, W)."""

    def __init__(
        self, in_features: int, out_features: int, groups: int = 1, kernel_size: int = 3, padding: int = 1
    ):
        super().__init__(in_features, out_features, kernel_size, padding, groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


def joint_conv(first: nn.Conv2d, second: nn.Conv2d | None, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Compute two heads of the maps x (B, C, H, W) by one convolution; a second one of None gives None."""
    if second is None:
        return first(x), None
    # About half the time of two: x is read once, and few output channels leave a processor's vectors idle.
    weight = torch.cat([first.weight, second.weight])  # (sum of output channels, C, k, k)
    bias = torch.cat([conv.bias for conv in (first, second) if conv.bias is not None])
    maps = F.conv2d(x, weight, bias, padding=first.padding)
    of_first, of_second = maps.split([first.out_channels, second.out_channels], dim=1)
    return of_first, of_second


# ---- Hourglass ---------------------------------------------------------------


def features_at(level: int, block_expansion: int, max_features: int) -> int:
    """Return the channels after `level` halvings: doubled each time, at most `max_features`."""
    return min(max_features, block_expansion * 2**level)


class Encoder(nn.Module):
    """`num_blocks` halvings; returns the input and every level, from fine to coarse."""

    def __init__(self, block_expansion: int, in_features: int, num_blocks: int = 3, max_features: int = 256):
        super().__init__()
        widths = [in_features] + [
            features_at(i + 1, block_expansion, max_features) for i in range(num_blocks)
        ]
        self.down_blocks = nn.ModuleList(DownBlock2d(widths[i], widths[i + 1]) for i in range(num_blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = [x]
        for down_block in self.down_blocks:
            levels.append(down_block(levels[-1]))
        return levels


class Decoder(nn.Module):
    """`num_blocks` doublings, each followed by a skip connection from the encoder's level of that size."""

    def __init__(self, block_expansion: int, in_features: int, num_blocks: int = 3, max_features: int = 256):
        super().__init__()
        up_blocks = []
        for i in reversed(range(num_blocks)):
            skipped = 1 if i == num_blocks - 1 else 2  # the coarsest block has no skip connection behind it
            width = skipped * features_at(i + 1, block_expansion, max_features)
            up_blocks.append(UpBlock2d(width, features_at(i, block_expansion, max_features)))
        self.up_blocks = nn.ModuleList(up_blocks)
        self.out_filters = block_expansion + in_features

    def forward(self, levels: list[Tensor]) -> Tensor:
        *skips, out = levels
        for up_block, skip in zip(self.up_blocks, reversed(skips), strict=True):
            out = torch.cat([up_block(out), skip], dim=1)
        return out


class Trunk(Protocol):
    """What finds the features that heads read: (B, in_features, H, W) -> (B, out_filters, H, W)."""

    out_filters: int
    size_multiple: int  # of H and W

    def __call__(self, x: Tensor) -> Tensor: ...


class Hourglass(nn.Module):
    """U-Net, a `Trunk`: (B, in_features, H, W) -> (B, block_expansion + in_features, H, W)."""

    def __init__(self, block_expansion: int, in_features: int, num_blocks: int = 3, max_features: int = 256):
        super().__init__()
        self.encoder: nn.Module = Encoder(block_expansion, in_features, num_blocks, max_features)
        self.decoder = Decoder(block_expansion, in_features, num_blocks, max_features)
        self.out_filters = self.decoder.out_filters
        self.size_multiple = 2**num_blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


# ---- Anti-aliased downsampling -----------------------------------------------


def downsampling_stride(scale: float) -> int:
    """Return 1/scale as an integer. Raises `UserError` if it isn't one."""
    stride = round(1 / scale)
    if abs(stride * scale - 1) > 1e-6:
        raise UserError(
            f"scale {scale}: images can only be made smaller by a whole factor (1, 0.5, 0.25, 0.125, …)"
        )
    return stride


class AntiAliasInterpolation2d(nn.Module):
    """Gaussian blur of sigma (1/scale - 1) / 2, then every (1/scale)-th pixel: (B, C, scale·H, scale·W).

    A strided convolution, or under autocast a matrix product each for rows and columns: their backward pass
    is up to six times as fast in bfloat16; in float32 the convolution keeps the published last bits.
    """

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.channels = channels
        self.stride = downsampling_stride(scale)
        sigma = (self.stride - 1) / 2
        radius = round(sigma * 4)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
        profile = torch.exp(-offsets.square() / (2 * sigma**2)) if sigma else torch.ones(1)
        kernel = torch.outer(profile, profile)
        kernel = (kernel / kernel.sum()).expand(channels, 1, -1, -1).contiguous()
        self.weight: Tensor
        self.register_buffer("weight", kernel)  # (C, 1, 2·radius + 1, 2·radius + 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        kind = x.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            return F.conv2d(
                x,
                self.weight.to(x.dtype),
                stride=self.stride,
                padding=self.weight.shape[-1] // 2,
                groups=self.channels,
            )
        height, width = (self.matrix(size, x.dtype) for size in x.shape[2:])  # (H, scale·H), (W, scale·W)
        return height.T @ (x @ width)

    def matrix(self, size: int, dtype: torch.dtype) -> Tensor:
        """Return what a line of `size` pixels is multiplied by to blur and stride it: (size, scale·size)."""
        # The sum of the kernel is 1, and so is that of its profile: the sums of its columns are the profile.
        profile = self.weight[:1].sum(dim=2).to(dtype)  # (1, 1, 2·radius + 1)
        pixels = torch.eye(size, dtype=dtype, device=profile.device).unsqueeze(1)  # (size, 1, size)
        return F.conv1d(pixels, profile, stride=self.stride, padding=profile.shape[-1] // 2).squeeze(1)
