"""Trained networks in their fast inference form: the same pictures from a quarter of the arithmetic.

    generator, kp_detector = fast_form(generator), fast_form(kp_detector)

The plain networks already run near the processor's matrix peak, so the fast form does fewer products. It is a
copy of the network, of the same class and with the same forward, in which layers have been swapped:

1. A batch norm behind a convolution goes into its weights (`fold`).
2. 3×3 convolutions, above all those of the bottleneck, take a quarter of the products (`WinogradConv2d`).
3. Nearest upsampling and a 3×3 convolution become products on the small map: a quarter again
   (`UpsampledConv2d`).
4. The last convolution computes four pixels at once, which fills the processor's vectors (`FourPixelConv2d`).

Each layer takes the convolution that it stands for, transforms its weights in float64 and stores them in that
convolution's dtype. Maps are kept channels last, and large ones are worked through in slabs of rows, so that
what lies between two steps stays in the processor's cache.

Shapes: `B` batch, `C` channels in, `O` channels out, `H, W` map size, `R, S` rows and columns of a slab (of
tiles or of pixels).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from modules.generator import OcclusionAwareGenerator
from modules.util import DownBlock2d, Hourglass, ResBlock2d, SameBlock2d, UpBlock2d

Network = TypeVar("Network", bound=nn.Module)
Tensors = Sequence[Tensor] | Tensor  # several, also as a tensor that is indexed by its first axis

# ---- A network in its fast form ----------------------------------------------


PAINTS = re.compile("$|bottleneck[.]|up_blocks[.]")  # names of the modules that paint: "" is the generator


class Products(NamedTuple):
    """How a generator in fast form multiplies where it paints: in bottleneck, decoder and last convolution.

    Maps and sums keep their dtype. So does the motion: beside an edge a flow that is off by half a pixel
    changes a picture by half of the edge's height.

    dtype: of the factors, such as bfloat16.
    by_matrix_unit: the processor multiplies matrices of that dtype in a unit of its own (AMX). Then plain
        convolutions are faster than those with fewer products, whose sums take most of their time.
    """

    dtype: torch.dtype
    by_matrix_unit: bool


def fast_form(network: Network, painting: Products | None = None) -> Network:
    """The fast inference form of a trained network: a copy in eval mode, called as the original is.

    Blocks that it knows get other layers; everything else stays as it is. Later training of the original does
    not change it, and it can't be trained itself. Meant for CPUs. It runs on any device and in float32 or
    float64; `painting` makes a generator faster where half precision is. It is nothing for autocast: in half
    precision the Winograd transforms lose digits.
    """
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    for name, module in list(fast.named_modules()):
        # The very class: a subclass may do something else between a convolution and its norm.
        if type(module) in SWAPS:
            SWAPS[type(module)](module, painting if PAINTS.match(name) else None)
    return fast.eval().to(memory_format=torch.channels_last)  # eval again, for the new layers


def in_fast_form(network: nn.Module) -> bool:
    """Whether `fast_form` made this network."""
    return any(isinstance(module, ChannelsLast) for module in network.modules())


def swap_in_same_block(block: SameBlock2d, products: Products | None) -> None:
    fold_norm(block, "conv", "norm")


def swap_in_down_block(block: DownBlock2d, products: Products | None) -> None:
    fold_norm(block, "conv", "norm")
    block.conv = fast_conv3x3(block.conv, products)


def swap_in_up_block(block: UpBlock2d, products: Products | None) -> None:
    fold_norm(block, "conv", "norm")
    if products is not None and products.by_matrix_unit:
        narrow = Narrow(products.dtype, block.upsample, block.conv, widen=False)
        block.upsample, block.conv = nn.Identity(), narrow
    elif keeps_size(block.conv, kernel_size=3):
        block.upsample, block.conv = nn.Identity(), narrowed(UpsampledConv2d(block.conv), products)


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
    SameBlock2d: swap_in_same_block,
    DownBlock2d: swap_in_down_block,
    UpBlock2d: swap_in_up_block,
    ResBlock2d: swap_in_res_block,
    Hourglass: swap_in_hourglass,
    OcclusionAwareGenerator: swap_in_generator,
}


def fast_conv3x3(conv: nn.Module, products: Products | None) -> nn.Module:
    """Winograd where it pays, else `conv` itself.

    It does not pay with few channels, where the transforms cost more than the products they save, and not
    with many: the widest layers belong to the smallest maps, where reading four times the weights takes
    longest.
    """
    if keeps_size(conv, kernel_size=3) and conv.in_channels >= 64 and conv.out_channels <= 512:
        return narrowed(WinogradConv2d(conv), products)
    return conv


def narrowed(layer: ProductLayer, products: Products | None) -> ProductLayer:
    """The same layer, which multiplies as `products` say."""
    if products is not None:
        layer.multiply_in(products.dtype)
    return layer


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
    """One convolution that does what `conv` and then `norm` in eval mode do.

    In float64, since PyTorch's function rounds after each of its steps: so a weight is rounded once.
    """
    exact = fuse_conv_bn_eval(copy.deepcopy(conv).double(), copy.deepcopy(norm).double())
    return exact.to(conv.weight.dtype)


def bias_of(conv: nn.Conv2d) -> Tensor:
    """A copy of the bias (O,), which each convolution that is swapped has (`keeps_size`)."""
    assert conv.bias is not None
    return conv.bias.detach().clone()


# ---- Products ----------------------------------------------------------------


class ProductLayer(nn.Module):
    """A layer of matrix products, whose dtype may be narrower than that of maps, sums and transforms."""

    def multiply_in(self, dtype: torch.dtype) -> None:
        """Store the factors of products in `dtype`."""
        for name, factor in self.named_buffers(recurse=False):
            if name != "bias":
                setattr(self, name, factor.to(dtype))


def product(x: Tensor, factor: Tensor) -> Tensor:
    """x @ factor in the dtype of `factor`, returned in that of x."""
    return (x.to(factor.dtype) @ factor).to(x.dtype)


class Narrow(nn.Sequential):
    """Layers, one after the other, that compute in a narrower dtype than maps have.

    widen: give the result the dtype that the last layer had. Without, the next layer must be narrow as well.
    """

    def __init__(self, dtype: torch.dtype, *layers: nn.Module, widen: bool):
        super().__init__(*layers)
        self.narrow, self.result = dtype, layers[-1].weight.dtype if widen else dtype
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.narrow)).to(self.result)


# ---- Winograd convolution ----------------------------------------------------


class WinogradConv2d(ProductLayer):
    """A 3×3 convolution with padding 1 as Winograd's F(4×4, 3×3): (B, C, H, W) -> (B, O, H, W).

    Lavin & Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016. The output is cut into
    tiles of 4×4, each of which depends on 6×6 inputs. With G, B and A of the paper a tile is

        Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A      g the 3×3 kernel, d the 6×6 inputs, Y the 4×4 outputs

    ⊙ takes 36 products where the convolution takes 144. Summed over channels, each of the 36 is a matrix
    product over all tiles.
    """

    # In a slab: the fastest of 16 to 512 on an Intel Xeon. With 256 channels its transform takes 2.4 MB.
    TILES = 64

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        # G evaluates a kernel, read as a polynomial, at the points 0, 1, -1, 2, -2 and infinity. It carries
        # the scale that `winograd_input` leaves out.
        points = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
        g = torch.tensor(points, dtype=torch.float64, device=conv.weight.device) / 24  # (6, 3)
        kernel = conv.weight.detach().double()  # (O, C, 3, 3)
        weight = torch.einsum("xr,ys,ocsr->xyco", g, g, kernel)  # (6, 6, C, O), column before row
        self.register_buffer("weight", weight.flatten(0, 1).to(conv.weight.dtype))  # (36, C, O)
        self.register_buffer("bias", bias_of(conv))  # (O,)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        rows, columns = -(-height // 4), -(-width // 4)  # of tiles, the last ones may stand out
        padding = (0, 0, 1, 4 * columns - width + 1, 1, 4 * rows - height + 1)
        x = F.pad(x.permute(0, 2, 3, 1), padding)  # (B, 4·rows + 2, 4·columns + 2, C)
        out = x.new_empty(batch, rows, 4, columns, 4, self.bias.numel())
        step = max(1, self.TILES // (batch * columns))  # rows of tiles in a slab
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
        products = product(tiles.flatten(0, 1).flatten(1, 3), self.weight)  # (36, B·R·S, O)
        products[7] += self.bias  # the product at point (1, 1) enters every output once
        products = products.view(6, 6, batch, rows, columns, width)
        # Aᵀ · A: the columns of every tile, then its rows, straight to where they belong.
        strips = products.new_empty(4, *products.shape[1:])  # (4 columns, 6 rows, B, R, S, O)
        winograd_output(products, strips)
        winograd_output(strips.unbind(1), [out[:, :, i].permute(3, 0, 1, 2, 4) for i in range(4)])


def winograd_input(x: Tensors, out: Tensors) -> None:
    """Bᵀ: six neighbouring inputs -> values at the points 0, 1, -1, 2, -2 and infinity.

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


class UpsampledConv2d(ProductLayer):
    """Nearest upsampling by 2, then a 3×3 convolution with padding 1: (B, C, H, W) -> (B, O, 2H, 2W).

    Along one axis the three taps v, w, u of an output see only two different pixels. With s = v + w + u and
    the differences d[i] = x[i] - x[i - 1] the two outputs above pixel i are

        y[2i]     = v x[i - 1] + (w + u) x[i] = s x[i] - v d[i]
        y[2i + 1] = (v + w) x[i] + u x[i + 1] = s x[i] + u d[i + 1]

    which is three products instead of six. Along both axes it is nine instead of 36, with as many weights as
    before. The zero padding of the small map is exact: the upsampled map needs one pixel of it.
    """

    PIXELS = 1024  # in a slab, see `WinogradConv2d.TILES`

    of_pixel: Tensor
    of_dy: Tensor
    of_dx: Tensor
    of_dxdy: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        sums = [[1, 1, 1], [-1, 0, 0], [0, 0, 1]]  # s, -v and u
        taps = torch.tensor(sums, dtype=torch.float64, device=conv.weight.device)
        weight = torch.einsum("yr,xs,ocrs->cyxo", taps, taps, conv.weight.detach().double())  # (C, 3, 3, O)
        weight = weight.to(conv.weight.dtype)
        self.register_buffer("of_pixel", weight[:, 0, 0].contiguous())  # (C, O)
        self.register_buffer("of_dy", weight[:, 1:, 0].flatten(1).contiguous())  # (C, 2·O)
        self.register_buffer("of_dx", weight[:, 0, 1:].flatten(1).contiguous())  # (C, 2·O)
        self.register_buffer("of_dxdy", weight[:, 1:, 1:].flatten(1).contiguous())  # (C, 4·O)
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
        pixel = product(inner[:, 1:-1].contiguous(), self.of_pixel)  # (B, R, S, O)
        pixel += self.bias
        by_dy = product(dy, self.of_dy).unflatten(-1, (2, -1))  # (B, R + 1, S, 2, O)
        by_dx = product(dx[:, 1:-1].contiguous(), self.of_dx).unflatten(-1, (2, -1))  # (B, R, S + 1, 2, O)
        by_both = product(dxdy, self.of_dxdy).unflatten(-1, (2, 2, -1))  # (B, R + 1, S + 1, 2, 2, O)
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
    one larger, with stride 2, gives 4·O channels that are put side by side afterwards: a third more products,
    in a third of the time. A map of odd size is computed with one row or column more, which is cut off.
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
