"""Trained networks in their fast inference form: the same pictures from a quarter of the arithmetic.

    generator, kp_detector = fast_generator(generator), fast_kp_detector(kp_detector)

The plain networks already run near the processor's matrix peak, so the fast form does fewer products:

1. A batch norm behind a convolution goes into its weights (`fold`).
2. 3×3 convolutions, above all those of the bottleneck, take a quarter of the products (`WinogradConv2d`).
3. Nearest upsampling and a 3×3 convolution become products on the small map: a quarter again (`UpsampledConv2d`).
4. The last convolution computes four pixels at once, which fills the processor's vectors (`FourPixelConv2d`).
5. Heads that read the same features are one convolution (`joint`), and the image under the flow alone is not made.

Weights are transformed in float64 and stored in the network's own dtype. Maps are kept channels last, and large ones are worked
through in slabs of rows, so that what lies between two steps stays in the processor's cache.

Shapes: `B` batch, `C` channels in, `O` channels out, `K` keypoints, `H, W` map size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.dense_motion import DenseMotionNetwork, deform_by_each, difference_heatmaps, sparse_motions
from modules.generator import OcclusionAwareGenerator, SourceEncoding, blend, occlude
from modules.keypoint_detector import KPDetector, expected_jacobian, soft_argmax
from modules.util import (
    DownBlock2d,
    Hourglass,
    Keypoints,
    ResBlock2d,
    SameBlock2d,
    UpBlock2d,
    at_least_float32,
    check_size,
)

# ---------------------------------------------------------------------------------------------------------------------
# Weights


def affine(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """The scale (C,) and shift (C,), in float64, that a batch norm in eval mode applies."""
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def fold(conv: nn.Conv2d, norm: nn.modules.batchnorm._BatchNorm) -> nn.Conv2d:
    """One convolution that does what `conv` and then `norm` in eval mode do."""
    scale, shift = affine(norm)
    weight = conv.weight.detach().double() * scale[:, None, None, None]
    return conv_like(conv, weight, conv.bias.detach().double() * scale + shift)


def joint(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """One convolution whose output channels are those of `convs`, in order; of a single one, its copy."""
    weights, biases = [conv.weight.detach() for conv in convs], [conv.bias.detach() for conv in convs]
    return conv_like(convs[0], torch.cat(weights), torch.cat(biases))


def conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution with the padding, device and dtype of `conv` and these weights, laid out for channels-last maps."""
    new = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], padding=conv.padding, device="meta")
    new.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    new.bias = nn.Parameter(bias.to(conv.bias.dtype), requires_grad=False)
    return new.to(memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------------------------------------
# Winograd convolution


class WinogradConv2d(nn.Module):
    """A 3×3 convolution with padding 1 as Winograd's F(4×4, 3×3): (B, C, H, W) -> (B, O, H, W).

    Lavin & Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016. The output is cut into tiles of 4×4, each of
    which depends on 6×6 inputs. Tiles, transformed along both axes, multiply elementwise with the transformed kernel:
    36 products instead of 144. With the channels, each of the 36 is a matrix product over all tiles.
    """

    TILES = 256  # in a slab: matrix products are efficient from there on, and with 256 channels its transform takes 9 MB

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        # Evaluates the kernel, read as a polynomial, at 0, 1, -1, 2, -2 and infinity, with the scale that
        # `winograd_input` leaves out.
        points = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
        points = torch.tensor(points, dtype=torch.float64, device=conv.weight.device) / 24
        weight = torch.einsum(
            "xr,ys,ocsr->xyco", points, points, conv.weight.detach().double()
        )  # (6, 6, C, O)
        self.register_buffer("weight", weight.flatten(0, 1).to(conv.weight.dtype))  # (36, C, O)
        self.register_buffer("bias", conv.bias.detach().clone())  # (O,)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        rows, columns = -(-height // 4), -(-width // 4)  # of tiles
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 4 * columns - width + 1, 1, 4 * rows - height + 1))
        out = x.new_empty(batch, rows, 4, columns, 4, self.bias.numel())
        step = max(1, self.TILES // (batch * columns))
        for top in range(0, rows, step):
            self.convolve(x[:, 4 * top : 4 * (top + step) + 2], out[:, top : top + step])
        return out.flatten(3, 4).flatten(1, 2)[:, :height, :width].permute(0, 3, 1, 2)  # (B, O, H, W)

    def convolve(self, x: Tensor, out: Tensor) -> None:
        """A slab of padded rows (B, 4·R + 2, 4·S + 2, C) into R×S tiles (B, R, 4, S, 4, O)."""
        batch, rows, _, columns, _, width = out.shape
        strips = x.new_empty(6, batch, rows, x.shape[2], x.shape[3])
        winograd_input([x[:, i : i + 4 * rows - 3 : 4] for i in range(6)], strips)
        tiles = x.new_empty(
            6, 6, batch, rows, columns, x.shape[3]
        )  # axes: column in the tile, row in the tile, tile
        winograd_input([strips[:, :, :, j : j + 4 * columns - 3 : 4] for j in range(6)], tiles)
        products = tiles.flatten(0, 1).flatten(1, 3) @ self.weight  # (36, B·R·S, O)
        products[7] += self.bias  # the product at point (1, 1) enters every output once
        products = products.view(6, 6, batch, rows, columns, width)
        strips = products.new_empty(4, *products.shape[1:])
        winograd_output(products, strips)
        winograd_output(strips.unbind(1), [out[:, :, i].permute(3, 0, 1, 2, 4) for i in range(4)])


def winograd_input(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Six neighbouring inputs -> values at the points 0, 1, -1, 2, -2 and infinity (Bᵀ of Lavin & Gray).

    Here and in `winograd_output` every step writes to where a result goes, since memory is what limits them.
    """
    torch.sub(x[4], x[2], alpha=4, out=out[1])
    torch.sub(x[3], x[1], alpha=4, out=out[2])
    add_and_subtract(out[1], out[2])  # -4 x1 - 4 x2 + x3 + x4 and 4 x1 - 4 x2 - x3 + x4
    torch.sub(x[4], x[2], out=out[3])
    torch.sub(x[3], x[1], out=out[4])
    torch.sub(x[0], x[2], out=out[0])
    torch.add(out[3], out[0], alpha=4, out=out[0])  # 4 x0 - 5 x2 + x4
    torch.sub(x[5], x[3], out=out[5])
    out[5].sub_(out[4], alpha=4)  # 4 x1 - 5 x3 + x5
    add_and_subtract(out[3], out[4], factor=2)  # -2 x1 - x2 + 2 x3 + x4 and 2 x1 - x2 - 2 x3 + x4


def winograd_output(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Products at the six points, which are overwritten -> four neighbouring outputs (Aᵀ of Lavin & Gray)."""
    add_and_subtract(m[1], m[2])
    add_and_subtract(m[3], m[4])
    torch.add(m[0], m[1], out=out[0]).add_(m[3])
    torch.add(m[2], m[4], alpha=2, out=out[1])
    torch.add(m[1], m[3], alpha=4, out=out[2])
    torch.add(m[2], m[5], out=out[3]).add_(m[4], alpha=8)


def add_and_subtract(a: Tensor, b: Tensor, factor: float = 1) -> None:
    """In place: a and b become a + factor·b and a - factor·b."""
    a.add_(b, alpha=factor)
    torch.sub(a, b, alpha=2 * factor, out=b)


# ---------------------------------------------------------------------------------------------------------------------
# Convolution of an upsampled map


class UpsampledConv2d(nn.Module):
    """Nearest upsampling by 2, then a 3×3 convolution with padding 1: (B, C, H, W) -> (B, O, 2H, 2W).

    Along one axis the three taps v, w, u of an output see only two different pixels. With s = v + w + u and the differences
    d[i] = x[i] - x[i - 1] the two outputs above pixel i are
        y[2i]     = v x[i - 1] + (w + u) x[i] = s x[i] - v d[i]
        y[2i + 1] = (v + w) x[i] + u x[i + 1] = s x[i] + u d[i + 1]
    which is three products instead of six. Along both axes it is nine instead of 36, with as many weights as before.
    The zero padding of the small map is exact: the upsampled map needs one pixel of it.
    """

    PIXELS = 1024  # in a slab, see `WinogradConv2d`

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        taps = torch.tensor(
            [[1, 1, 1], [-1, 0, 0], [0, 0, 1]], dtype=torch.float64, device=conv.weight.device
        )
        weight = torch.einsum("yr,xs,ocrs->cyxo", taps, taps, conv.weight.detach().double())  # (C, 3, 3, O)
        weight = weight.to(conv.weight.dtype)
        self.register_buffer("of_pixel", weight[:, 0, 0].contiguous())  # (C, O)
        self.register_buffer("of_dy", weight[:, 1:, 0].flatten(1).contiguous())  # (C, 2·O)
        self.register_buffer("of_dx", weight[:, 0, 1:].flatten(1).contiguous())  # (C, 2·O)
        self.register_buffer("of_dxdy", weight[:, 1:, 1:].flatten(1).contiguous())  # (C, 4·O)
        self.register_buffer("bias", conv.bias.detach().clone())  # (O,)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        out = x.new_empty(batch, height, 2, width, 2, self.bias.numel())
        step = max(1, self.PIXELS // (batch * width))
        for top in range(0, height, step):
            self.convolve(x[:, top : top + step + 2], out[:, top : top + step])
        return out.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)  # (B, O, 2H, 2W)

    def convolve(self, x: Tensor, out: Tensor) -> None:
        """A slab of padded rows (B, R + 2, W + 2, C) into the outputs above its R×W pixels (B, R, 2, W, 2, O)."""
        _, rows, _, columns, _, _ = out.shape
        inner, dx = x[:, :, 1:-1], x[:, :, 1:] - x[:, :, :-1]  # (B, R + 2, W, C), (B, R + 2, W + 1, C)
        pixel = inner[:, 1:-1].contiguous() @ self.of_pixel  # (B, R, W, O)
        pixel += self.bias
        by_dy = ((inner[:, 1:] - inner[:, :-1]) @ self.of_dy).unflatten(-1, (2, -1))  # (B, R + 1, W, 2, O)
        by_dx = (dx[:, 1:-1].contiguous() @ self.of_dx).unflatten(-1, (2, -1))  # (B, R, W + 1, 2, O)
        by_both = ((dx[:, 1:] - dx[:, :-1]) @ self.of_dxdy).unflatten(
            -1, (2, 2, -1)
        )  # (B, R + 1, W + 1, 2, 2, O)
        for a in range(2):
            above = by_dy[:, a : a + rows, :, a].add_(pixel)
            for b in range(2):
                beside = by_both[:, a : a + rows, b : b + columns, a, b].add_(by_dx[:, :, b : b + columns, b])
                torch.add(above, beside, out=out[:, :, a, :, b])


# ---------------------------------------------------------------------------------------------------------------------
# Convolution with few output channels


class FourPixelConv2d(nn.Module):
    """A convolution that keeps an even size, four output pixels at a time: (B, C, H, W) -> (B, O, H, W).

    Vector units compute 16 output channels at once, and most of them idle when there are 3. A kernel that is one larger, with
    stride 2, gives 4·O channels that are put side by side afterwards: a third more products, in a third of the time.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        size = conv.kernel_size[0]
        weight = conv.weight.new_zeros(conv.out_channels, 2, 2, conv.in_channels, size + 1, size + 1)
        for a in range(2):
            for b in range(2):
                weight[:, a, b, :, a : a + size, b : b + size] = conv.weight.detach()
        self.conv = conv_like(conv, weight.flatten(0, 2), conv.bias.detach().repeat_interleave(4))
        self.conv.stride = 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


# ---------------------------------------------------------------------------------------------------------------------
# Blocks


def fast_conv3x3(conv: nn.Conv2d) -> nn.Module:
    """Winograd where it pays: not with few channels, where the transforms cost more than the products they save, and not with
    many, since the widest layers belong to the smallest maps, where reading four times the weights takes longest."""
    return WinogradConv2d(conv) if conv.in_channels >= 64 and conv.out_channels <= 512 else conv


class FastResBlock(nn.Module):
    """`ResBlock2d` in eval mode: the second norm goes into the first convolution, the first norm is a scale and a shift."""

    def __init__(self, block: ResBlock2d):
        super().__init__()
        scale, shift = (
            value.to(block.conv1.weight.dtype)[None, :, None, None] for value in affine(block.norm1)
        )
        self.register_buffer("scale", scale)  # (1, C, 1, 1)
        self.register_buffer("shift", shift)  # (1, C, 1, 1)
        self.conv1 = fast_conv3x3(fold(block.conv1, block.norm2))
        self.conv2 = fast_conv3x3(joint([block.conv2]))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.addcmul(self.shift, x, self.scale).relu_()
        return self.conv2(self.conv1(out).relu_()).add_(x)


def fast_same_block(block: SameBlock2d) -> nn.Module:
    return nn.Sequential(fold(block.conv, block.norm), nn.ReLU(inplace=True))


def fast_down_block(block: DownBlock2d) -> nn.Module:
    return nn.Sequential(
        fast_conv3x3(fold(block.conv, block.norm)), nn.ReLU(inplace=True), copy.deepcopy(block.pool)
    )


def fast_up_block(block: UpBlock2d) -> nn.Module:
    return nn.Sequential(UpsampledConv2d(fold(block.conv, block.norm)), nn.ReLU(inplace=True))


def fast_hourglass(hourglass: Hourglass) -> Hourglass:
    fast = copy.deepcopy(hourglass)
    fast.encoder.down_blocks = nn.ModuleList(map(fast_down_block, hourglass.encoder.down_blocks))
    fast.decoder.up_blocks = nn.ModuleList(map(fast_up_block, hourglass.decoder.up_blocks))
    return fast


# ---------------------------------------------------------------------------------------------------------------------
# Networks. Each overrides the steps of the plain network that change, and takes over the rest.


class FastKPDetector(KPDetector):
    """`KPDetector` in its fast form: the same call, the same result."""

    def __init__(self, kp_detector: KPDetector):
        nn.Module.__init__(self)
        self.predictor = fast_hourglass(kp_detector.predictor)
        self.num_kp = kp_detector.kp.out_channels
        self.heads = joint([head for head in (kp_detector.kp, kp_detector.jacobian) if head is not None])
        self.down = copy.deepcopy(kp_detector.down)
        self.temperature = kp_detector.temperature
        self.size_multiple = kp_detector.size_multiple

    @torch.no_grad()
    def forward(self, x: Tensor) -> Keypoints:
        check_size(x, self.size_multiple)
        if self.down is not None:
            x = self.down(x)
        maps = self.heads(self.predictor(channels_last(x)))  # (B, K + 4·K, h, w)
        logits = at_least_float32(maps[:, : self.num_kp])  # (B, K, h, w)
        heatmap = (
            (logits.flatten(2) / self.temperature).softmax(dim=-1).view_as(logits)
        )  # (B, K, h, w), sums to 1
        kp = {"value": soft_argmax(heatmap)}
        if maps.shape[1] > self.num_kp:
            kp["jacobian"] = expected_jacobian(heatmap, maps[:, self.num_kp :])
        return {name: tensor.to(x.dtype) for name, tensor in kp.items()}


class FastDenseMotionNetwork(DenseMotionNetwork):
    """`DenseMotionNetwork` in its fast form: `motion` returns "deformation", "mask" and "occlusion_map" alone."""

    def __init__(self, network: DenseMotionNetwork):
        nn.Module.__init__(self)
        self.hourglass = fast_hourglass(network.hourglass)
        self.num_motions = network.mask.out_channels
        self.heads = joint([head for head in (network.mask, network.occlusion) if head is not None])
        self.down = copy.deepcopy(network.down)
        self.kp_variance = network.kp_variance
        self.size_multiple = network.size_multiple

    def motion(self, source: Tensor, kp_driving: Keypoints, kp_source: Keypoints) -> dict[str, Tensor]:
        heatmaps = difference_heatmaps(
            kp_driving, kp_source, source.shape[2:], self.kp_variance
        )  # (B, K+1, 1, h, w)
        motions = sparse_motions(kp_driving, kp_source, source.shape[2:])  # (B, K+1, h, w, 2)
        deformed = deform_by_each(source, motions)  # (B, K+1, C, h, w)
        features = torch.cat([heatmaps.to(source.dtype), deformed], dim=2).flatten(1, 2)
        maps = self.heads(self.hourglass(channels_last(features)))  # (B, K + 2, h, w), the occlusion map last
        mask = at_least_float32(maps[:, : self.num_motions]).softmax(dim=1)  # (B, K+1, h, w)
        out = {"mask": mask, "deformation": (motions * mask.unsqueeze(-1)).sum(dim=1)}  # (B, h, w, 2)
        if maps.shape[1] > self.num_motions:
            out["occlusion_map"] = torch.sigmoid(
                at_least_float32(maps[:, self.num_motions :])
            )  # (B, 1, h, w)
        return out


class FastGenerator(OcclusionAwareGenerator):
    """`OcclusionAwareGenerator` in its fast form, without "deformed", "sparse_deformed" and "painted" in the result.

    A `SourceEncoding` of batch size 1 serves a batch of driving keypoints.
    """

    def __init__(self, generator: OcclusionAwareGenerator):
        nn.Module.__init__(self)
        self.num_channels = generator.num_channels
        self.align_corners = generator.align_corners
        self.image_skip = generator.image_skip
        self.size_multiple = generator.size_multiple
        self.dense_motion_network = None
        if generator.dense_motion_network is not None:
            self.dense_motion_network = FastDenseMotionNetwork(generator.dense_motion_network)
        self.first = fast_same_block(generator.first)
        self.down_blocks = nn.ModuleList(map(fast_down_block, generator.down_blocks))
        self.bottleneck = nn.Sequential(*map(FastResBlock, generator.bottleneck))
        self.up_blocks = nn.ModuleList(map(fast_up_block, generator.up_blocks))
        even = generator.size_multiple % 2 == 0
        self.final = FourPixelConv2d(generator.final) if even else joint([generator.final])

    @torch.no_grad()
    def encode(self, source_image: Tensor) -> SourceEncoding:
        return super().encode(channels_last(source_image))

    @torch.no_grad()
    def generate(
        self, source: SourceEncoding, kp_driving: Keypoints, kp_source: Keypoints
    ) -> dict[str, Tensor]:
        features, out = source.features, {}
        if self.dense_motion_network is not None:
            out = self.dense_motion_network.motion(source.small, kp_driving=kp_driving, kp_source=kp_source)
            deformation = out.pop("deformation")
            features = occlude(self.deform(features, deformation), out.get("occlusion_map"))  # (B, F, h, w)
        painted = self.decode(channels_last(features))
        if not self.image_skip:
            return out | {"prediction": painted}
        return out | {
            "prediction": blend(self.deform_image(source.image, deformation), painted, out["occlusion_map"])
        }


def channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def fast_generator(generator: OcclusionAwareGenerator) -> FastGenerator:
    """The fast inference form of a trained generator, in eval mode: a copy that later training of the original leaves alone.

    Meant for CPUs. It runs on any device and in float32 or float64; in half precision the Winograd transforms lose digits.
    """
    return FastGenerator(generator).eval()


def fast_kp_detector(kp_detector: KPDetector) -> FastKPDetector:
    """The fast inference form of a trained keypoint detector, in eval mode: a copy, as `fast_generator`."""
    return FastKPDetector(kp_detector).eval()
