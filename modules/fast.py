"""Trained networks in their fast inference form: the same pictures from a quarter of the arithmetic.

    generator, kp_detector = fast_form(generator), fast_form(kp_detector)

It is a copy of the network, with the same class and forward, in which layers have been swapped:

1. A batch norm behind a convolution goes into its weights (`fold`).
2. 3×3 convolutions, above all those of the bottleneck, take a quarter of the products (`WinogradConv2d`).
3. Nearest upsampling and a 3×3 convolution become products on the small map: a quarter again
   (`UpsampledConv2d`).
4. The last convolution computes four pixels at once, which fills the processor's vectors (`FourPixelConv2d`).

Each layer transforms its convolution's weights in float64. Maps are kept channels last, and large ones are
worked through in slabs of rows, so that what lies between two steps stays in the processor's cache.

Shapes: `B` batch, `C` channels in, `O` out, `H, W` map size, `R, S` rows and columns of a slab.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from modules.generator import OcclusionAwareGenerator
from modules.util import DownBlock2d, Hourglass, ResBlock2d, SameBlock2d, UpBlock2d
from utils.device import cpu_has, cpu_is_amd

Network = TypeVar("Network", bound=nn.Module)
Tensors = Sequence[Tensor] | Tensor  # several, also as a tensor that is indexed by its first axis

# ---- A network in its fast form ----------------------------------------------


PAINTS = re.compile("$|bottleneck[.]|up_blocks[.]")  # names of the modules that paint: "" is the generator


class Products(NamedTuple):
    """How a generator in fast form multiplies where it paints: in bottleneck, decoder and last convolution.

    Maps, sums and the motion keep their dtype: beside an edge, half a pixel is half of the edge's height.
    """

    dtype: torch.dtype  # of the factors, such as bfloat16
    by_matrix_unit: bool  # AMX: its plain convolutions are faster than Winograd's sums


def fast_form(network: Network, painting: Products | None = None) -> Network:
    """The fast inference form of a trained network: a copy in eval mode, called as the original is.

    Meant for CPUs, in float32 or float64: under autocast the Winograd transforms lose digits.
    """
    if in_fast_form(network):
        return network
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    for name, module in list(fast.named_modules()):
        if type(module) in SWAPS:  # a subclass may do something else between a convolution and its norm
            SWAPS[type(module)](module, painting if PAINTS.match(name) else None)
    return fast.eval().to(memory_format=torch.channels_last)  # eval again, for the new layers


def in_fast_form(network: nn.Module) -> bool:
    """Whether `fast_form` made this network."""
    return any(isinstance(module, ChannelsLast) for module in network.modules())


def swap_in_block(block: SameBlock2d | DownBlock2d, products: Products | None) -> None:
    fold_norm(block, "conv", "norm")
    block.conv = fast_conv3x3(block.conv, products)


def swap_in_up_block(block: UpBlock2d, products: Products | None) -> None:
    fold_norm(block, "conv", "norm")
    if products is not None and products.by_matrix_unit:
        narrow = Narrow(products.dtype, block.upsample, block.conv, widen=False)
        block.upsample, block.conv = nn.Identity(), narrow
    elif keeps_size(block.conv, kernel_size=3):
        block.upsample, block.conv = nn.Identity(), UpsampledConv2d(block.conv, products)


def swap_in_res_block(block: ResBlock2d, products: Products | None) -> None:
    fold_norm(block, "conv1", "norm2")  # norm1 has a ReLU between itself and the next convolution, and stays
    if products is not None and products.by_matrix_unit:
        block.conv1 = Narrow(products.dtype, block.conv1, widen=False)
        block.conv2 = Narrow(products.dtype, block.conv2, widen=True)  # is added to what is wide
    else:
        block.conv1, block.conv2 = (fast_conv3x3(conv, products) for conv in (block.conv1, block.conv2))


def swap_in_hourglass(hourglass: Hourglass, products: Products | None) -> None:
    # The input is read twice, by the first block and by the last skip connection: one conversion serves both.
    hourglass.encoder = nn.Sequential(ChannelsLast(), hourglass.encoder)


def swap_in_generator(generator: OcclusionAwareGenerator, products: Products | None) -> None:
    # `warp` gives channels first, and each residual block reads its input twice.
    generator.bottleneck = nn.Sequential(ChannelsLast(), generator.bottleneck)
    if keeps_size(generator.final, kernel_size=7):
        generator.final = FourPixelConv2d(generator.final)
    if products is not None and products.by_matrix_unit:
        generator.final = Narrow(products.dtype, generator.final, widen=True)


SWAPS: dict[type[nn.Module], Callable[..., None]] = {
    SameBlock2d: swap_in_block,
    DownBlock2d: swap_in_block,
    UpBlock2d: swap_in_up_block,
    ResBlock2d: swap_in_res_block,
    Hourglass: swap_in_hourglass,
    OcclusionAwareGenerator: swap_in_generator,
}


def fast_conv3x3(conv: nn.Module, products: Products | None) -> nn.Module:
    """Take Winograd where it pays, else `conv` itself.

    With few channels the transforms cost more than they save. The widest layers belong to the smallest maps,
    where reading four times the weights takes longest.
    """
    if keeps_size(conv, kernel_size=3) and conv.in_channels >= 64 and conv.out_channels <= 512:
        return WinogradConv2d(conv, products)
    return conv


def keeps_size(conv: nn.Module, kernel_size: int) -> TypeGuard[nn.Conv2d]:
    """Whether this is a plain convolution of that kernel size, with a bias, that keeps the size of a map."""
    if type(conv) is not nn.Conv2d or conv.bias is None or conv.padding_mode != "zeros":
        return False
    shape = (conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups)
    return shape == ((kernel_size,) * 2, (kernel_size // 2,) * 2, (1, 1), (1, 1), 1)


# ---- Folding -----------------------------------------------------------------


def fold_norm(block: nn.Module, conv_name: str, norm_name: str) -> None:
    """Put a batch norm of `block` into the convolution in front of it, and leave nothing in its place."""
    conv, norm = getattr(block, conv_name), getattr(block, norm_name)
    if isinstance(norm, nn.BatchNorm2d):
        setattr(block, conv_name, fold(conv, norm))
        setattr(block, norm_name, nn.Identity())


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Join `conv` and a `norm` in eval mode to one convolution."""
    # In float64, since PyTorch's function rounds after each of its steps.
    exact = fuse_conv_bn_eval(copy.deepcopy(conv).double(), copy.deepcopy(norm).double())
    return exact.to(conv.weight.dtype)


def bias_of(conv: nn.Conv2d) -> Tensor:
    """A copy of the bias (O,), which each convolution that is swapped has (`keeps_size`)."""
    assert conv.bias is not None
    return conv.bias.detach().clone()


# ---- Products ----------------------------------------------------------------


class Factor(nn.Module):
    """Multiply maps (..., C) by a matrix (C, O), or maps (N, ..., C) by N of them, in a dtype of its own."""

    def __init__(self, weight: Tensor, dtype: torch.dtype):
        super().__init__()
        self.dtype, weight = dtype, weight.to(dtype)
        self.packed: list[Tensor] = []
        if weight.device.type == "cpu" and packing_pays(dtype):
            self.packed = [packed(matrix) for matrix in weight.view(-1, *weight.shape[-2:])]
            weight = weight.new_empty(0)  # nothing is kept twice
        self.weight: Tensor
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        factors = x.to(self.dtype)
        if not self.packed:
            return (factors @ self.weight).to(x.dtype)
        if len(self.packed) == 1:
            return times_packed(factors, self.packed[0]).to(x.dtype)
        products = [times_packed(part, matrix) for part, matrix in zip(factors, self.packed, strict=True)]
        return torch.stack(products).to(x.dtype)


def packed(matrix: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(matrix.t().contiguous(), WinogradConv2d.PACKED_TILES)


def times_packed(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, matrix, None, "none", [], "")


@functools.cache
def packing_pays(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies faster than PyTorch's own products: on AMD's processors with AVX-512."""
    # The processor decides, and no trial, so that a machine always gives the same pixels.
    if not (cpu_is_amd() and cpu_has("avx512_f")):
        return False
    x, identity = torch.ones(2, 16, dtype=dtype), torch.eye(16, dtype=dtype)
    try:  # these operators are not PyTorch's public interface, and don't take every dtype
        return torch.equal(times_packed(x, packed(identity)), x)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False


class Narrow(nn.Sequential):
    """Layers that compute in a narrower dtype; `widen` gives the result the dtype of maps again."""

    def __init__(self, dtype: torch.dtype, *layers: nn.Module, widen: bool):
        super().__init__(*layers)
        self.narrow, self.result = dtype, layers[-1].weight.dtype if widen else dtype
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.narrow)).to(self.result)


# ---- Winograd convolution ----------------------------------------------------


class WinogradConv2d(nn.Module):
    """A 3×3 convolution with padding 1 as Winograd's F(4×4, 3×3): (B, C, H, W) -> (B, O, H, W).

    Lavin & Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016. The output is cut into
    tiles of 4×4, each of which depends on 6×6 inputs. With G, B and A of the paper a tile is

        Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A      g the 3×3 kernel, d the 6×6 inputs, Y the 4×4 outputs

    ⊙ takes 36 products where the convolution takes 144. Summed over channels, each of the 36 is a matrix
    product over all tiles.
    """

    # In a slab: its transform should stay in the cache, and packed factors want more rows.
    TILES, PACKED_TILES = 64, 256

    bias: Tensor

    def __init__(self, conv: nn.Conv2d, products: Products | None = None):
        super().__init__()
        # G evaluates a kernel, read as a polynomial, at the points 0, 1, -1, 2, -2 and infinity. It carries
        # the scale that `winograd_input` leaves out.
        points = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
        g = torch.tensor(points, dtype=torch.float64, device=conv.weight.device) / 24  # (6, 3)
        kernel = conv.weight.detach().double()  # (O, C, 3, 3)
        weight = torch.einsum("xr,ys,ocsr->xyco", g, g, kernel)  # (6, 6, C, O), column before row
        self.factor = Factor(
            weight.flatten(0, 1), products.dtype if products else conv.weight.dtype
        )  # (36, C, O)
        self.register_buffer("bias", bias_of(conv))  # (O,)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        rows, columns = -(-height // 4), -(-width // 4)  # of tiles, the last ones may stand out
        padding = (0, 0, 1, 4 * columns - width + 1, 1, 4 * rows - height + 1)
        x = F.pad(x.permute(0, 2, 3, 1), padding)  # (B, 4·rows + 2, 4·columns + 2, C)
        out = x.new_empty(batch, rows, 4, columns, 4, self.bias.numel())
        most = self.PACKED_TILES if self.factor.packed else self.TILES
        step = max(1, most // (batch * columns))  # rows of tiles in a slab
        for top in range(0, rows, step):
            self.convolve(x[:, 4 * top : 4 * (top + step) + 2], out[:, top : top + step])
        out = out.flatten(3, 4).flatten(1, 2)  # (B, 4·rows, 4·columns, O)
        return out[:, :height, :width].permute(0, 3, 1, 2)  # (B, O, H, W), channels last

    def convolve(self, x: Tensor, out: Tensor) -> None:
        """A slab of padded rows (B, 4·R + 2, 4·S + 2, C) into R×S tiles (B, R, 4, S, 4, O)."""
        batch, rows, _, columns, _, width = out.shape
        # Bᵀ d B: first down the rows of every tile, then along the columns.
        strips = x.new_empty(6, batch, rows, x.shape[2], x.shape[3])  # (6, B, R, 4·S + 2, C)
        winograd_input([x[:, i : i + 4 * rows - 3 : 4] for i in range(6)], strips)
        tiles = x.new_empty(6, 6, batch, rows, columns, x.shape[3])  # (6 columns, 6 rows, B, R, S, C)
        winograd_input([strips[:, :, :, j : j + 4 * columns - 3 : 4] for j in range(6)], tiles)
        # ⊙, summed over the channels.
        products = self.factor(tiles.flatten(0, 1).flatten(1, 3))  # (36, B·R·S, O)
        products[7] += self.bias  # the product at point (1, 1) enters every output once
        products = products.view(6, 6, batch, rows, columns, width)
        # Aᵀ · A: the columns of every tile, then its rows, straight to where they belong.
        strips = products.new_empty(4, *products.shape[1:])  # (4 columns, 6 rows, B, R, S, O)
        winograd_output(products, strips)
        winograd_output(strips.unbind(1), [out[:, :, i].permute(3, 0, 1, 2, 4) for i in range(4)])


def winograd_input(x: Tensors, out: Tensors) -> None:
    """Bᵀ: six neighbouring inputs -> values at the points 0, 1, -1, 2, -2 and infinity."""
    # Here and in `winograd_output` every step writes to where a result goes: memory is the limit.
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


def winograd_output(m: Tensors, out: Tensors) -> None:
    """Aᵀ: products at the six points, which are overwritten -> four neighbouring outputs."""
    add_and_subtract(m[1], m[2])
    add_and_subtract(m[3], m[4])
    torch.add(m[0], m[1], out=out[0]).add_(m[3])  # m0 + m1 + m2 + m3 + m4
    torch.add(m[2], m[4], alpha=2, out=out[1])  # m1 - m2 + 2 m3 - 2 m4
    torch.add(m[1], m[3], alpha=4, out=out[2])  # m1 + m2 + 4 m3 + 4 m4
    torch.add(m[2], m[5], out=out[3]).add_(m[4], alpha=8)  # m1 - m2 + 8 m3 - 8 m4 + m5


def add_and_subtract(a: Tensor, b: Tensor, factor: float = 1) -> None:
    """In place: a and b become a + factor·b and a - factor·b."""
    a.add_(b, alpha=factor)
    torch.sub(a, b, alpha=2 * factor, out=b)


# ---- Convolution of an upsampled map -----------------------------------------


class UpsampledConv2d(nn.Module):
    """Nearest upsampling by 2, then a 3×3 convolution with padding 1: (B, C, H, W) -> (B, O, 2H, 2W).

    Along one axis the taps v, w, u of an output see only two different pixels. With s = v + w + u and
    the differences d[i] = x[i] - x[i - 1] the two outputs above pixel i are

        y[2i]     = v x[i - 1] + (w + u) x[i] = s x[i] - v d[i]
        y[2i + 1] = (v + w) x[i] + u x[i + 1] = s x[i] + u d[i + 1]

    which is three products instead of six. Along both axes it is nine instead of 36, with as many weights as
    before. The zero padding of the small map is exact: the upsampled map needs one pixel of it.
    """

    PIXELS = 1024  # in a slab, see `WinogradConv2d.TILES`

    bias: Tensor

    def __init__(self, conv: nn.Conv2d, products: Products | None = None):
        super().__init__()
        sums = [[1, 1, 1], [-1, 0, 0], [0, 0, 1]]  # s, -v and u
        taps = torch.tensor(sums, dtype=torch.float64, device=conv.weight.device)
        weight = torch.einsum("yr,xs,ocrs->cyxo", taps, taps, conv.weight.detach().double())  # (C, 3, 3, O)
        dtype = products.dtype if products else conv.weight.dtype
        self.of_pixel = Factor(weight[:, 0, 0].contiguous(), dtype)  # (C, O)
        self.of_dy = Factor(weight[:, 1:, 0].flatten(1), dtype)  # (C, 2·O)
        self.of_dx = Factor(weight[:, 0, 1:].flatten(1), dtype)  # (C, 2·O)
        self.of_dxdy = Factor(weight[:, 1:, 1:].flatten(1), dtype)  # (C, 4·O)
        self.register_buffer("bias", bias_of(conv))  # (O,)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (B, H + 2, W + 2, C)
        out = x.new_empty(batch, height, 2, width, 2, self.bias.numel())
        step = max(1, self.PIXELS // (batch * width))  # rows of pixels in a slab
        for top in range(0, height, step):
            self.convolve(x[:, top : top + step + 2], out[:, top : top + step])
        return out.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)  # (B, O, 2H, 2W), channels last

    def convolve(self, x: Tensor, out: Tensor) -> None:
        """A slab of padded rows (B, R + 2, S + 2, C) into outputs above its R×S pixels (B, R, 2, S, 2, O)."""
        _, rows, _, columns, _, _ = out.shape
        inner = x[:, :, 1:-1]  # (B, R + 2, S, C)
        dy = inner[:, 1:] - inner[:, :-1]  # (B, R + 1, S, C)
        dx = x[:, :, 1:] - x[:, :, :-1]  # (B, R + 2, S + 1, C)
        dxdy = dx[:, 1:] - dx[:, :-1]  # (B, R + 1, S + 1, C)
        pixel = self.of_pixel(inner[:, 1:-1].contiguous())  # (B, R, S, O)
        pixel += self.bias
        by_dy = self.of_dy(dy).unflatten(-1, (2, -1))  # (B, R + 1, S, 2, O)
        by_dx = self.of_dx(dx[:, 1:-1].contiguous()).unflatten(-1, (2, -1))  # (B, R, S + 1, 2, O)
        by_both = self.of_dxdy(dxdy).unflatten(-1, (2, 2, -1))  # (B, R + 1, S + 1, 2, 2, O)
        # Output a, b of a pixel takes the differences towards its own side: before the pixel or behind it.
        for a in range(2):
            above = by_dy[:, a : a + rows, :, a].add_(pixel)  # (B, R, S, O)
            for b in range(2):
                beside = by_both[:, a : a + rows, b : b + columns, a, b].add_(by_dx[:, :, b : b + columns, b])
                torch.add(above, beside, out=out[:, :, a, :, b])


# ---- Convolution with few output channels ------------------------------------


class FourPixelConv2d(nn.Module):
    """A convolution that keeps the size, four output pixels at a time: (B, C, H, W) -> (B, O, H, W).

    Vector units compute 16 output channels at once, and most of them idle when there are 3. A kernel that is
    one larger, with stride 2, gives 4·O channels, for a third more products. A map of odd size gets a row or
    column more.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        size = conv.kernel_size[0]
        # Each of the 2×2 pixels sees the kernel at its own place in the larger one.
        weight = conv.weight.new_zeros(conv.out_channels, 2, 2, conv.in_channels, size + 1, size + 1)
        for a in range(2):
            for b in range(2):
                weight[:, a, b, :, a : a + size, b : b + size] = conv.weight.detach()
        self.register_buffer("weight", weight.flatten(0, 2))  # (4·O, C, k + 1, k + 1)
        self.register_buffer("bias", bias_of(conv).repeat_interleave(4))  # (4·O,)
        self.padding = size // 2

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2))
        out = F.conv2d(x, self.weight, self.bias, stride=2, padding=self.padding)  # (B, 4·O, H/2, W/2)
        return F.pixel_shuffle(out, 2)[..., :height, :width]


# ---- Layout ------------------------------------------------------------------


class ChannelsLast(nn.Module):
    """The same map (B, C, H, W), channels last in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)
