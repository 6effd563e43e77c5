"""The occlusion-aware generator (paper Sec. 3.2).

It encodes the source, warps its features with the dense motion, hides what is occluded and decodes the rest.

Attribute names are the published checkpoint format: renaming one breaks every `.pth.tar`.
Shapes: `B` batch, `C` image channels, `F` features at the bottleneck, `H, W` image size, `N, M` a larger one,
`h, w` bottleneck size, `.` a size that some other network decides.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules.dense_motion import DenseMotionNetwork
from modules.util import (
    DownBlock2d,
    Keypoints,
    ResBlock2d,
    SameBlock2d,
    UpBlock2d,
    check_size,
    features_at,
    make_coordinate_grid,
    resize,
    warp,
)
from utils.errors import UserError


class SourceEncoding(NamedTuple):
    """Everything that depends on the source image alone, computed once for a whole driving video."""

    image: Tensor  # (B, C, H, W) in [0, 1]
    small: Tensor  # (B, C, ., .), downsampled for the dense-motion network, if there is one
    features: Tensor  # (B, F, h, w)


class OcclusionAwareGenerator(nn.Module):
    """Source image (B, C, H, W) in [0, 1] and keypoints of both frames -> the source in the driving pose.

    Returns a dictionary: "prediction" (B, C, H, W) in [0, 1]; with dense motion also "deformed" (B, C, H, W),
    the source image under the flow alone, and what `DenseMotionNetwork` returns; with `image_skip` also
    "painted" (B, C, H, W) in [0, 1], what the decoder gives.

    `dense_motion_params`: arguments of the `DenseMotionNetwork`; None gives an auto-encoder without motion.
    `align_corners`: how the flow is brought to the size of what it warps. Its coordinates have -1 and 1 at
    the centres of the corner pixels; True resizes it so, and what stands still stays in place. The published
    False moves it by up to (ratio - 1) / (2 ratio) pixels of the flow. It matters where features are larger
    than the flow, as in no published config.
    `warp_align_corners`: that of `warp`. The published code has False on PyTorch 1.3 and newer, so a model
    that was trained there needs it; the published weights are older.
    `image_skip`: the occlusion map also blends the picture: where it is 1 the prediction is the warped source
    itself, where it is 0 what the decoder painted. Source: the skip connections of Siarohin et al., "Motion
    Representations for Articulated Animation", CVPR 2021, here for the image alone. Needs dense motion with
    an occlusion map.
    `estimate_jacobian` belongs to the parameters that all networks share; motion follows what the keypoints
    bring.

    Raises `UserError` unless H and W are multiples of `size_multiple`.
    """

    frame_size: tuple[int, int] | None = None  # (H, W) of the config's frames, set where one is known

    def __init__(
        self,
        num_channels: int,
        num_kp: int,
        block_expansion: int,
        max_features: int,
        num_down_blocks: int,
        num_bottleneck_blocks: int,
        estimate_occlusion_map: bool = False,
        dense_motion_params: dict | None = None,
        estimate_jacobian: bool = False,
        align_corners: bool = False,
        warp_align_corners: bool = True,
        image_skip: bool = False,
    ):
        super().__init__()
        self.num_channels = num_channels
        self.align_corners, self.warp_align_corners = align_corners, warp_align_corners
        self.image_skip = image_skip
        self.dense_motion_network = None
        self.size_multiple = 2**num_down_blocks
        if dense_motion_params is not None:
            self.dense_motion_network = DenseMotionNetwork(
                num_kp=num_kp,
                num_channels=num_channels,
                estimate_occlusion_map=estimate_occlusion_map,
                align_corners=warp_align_corners,
                **dense_motion_params,
            )
            self.size_multiple = max(self.size_multiple, self.dense_motion_network.size_multiple)

        # Encoder, decoder, and what is between them.
        widths = [features_at(i, block_expansion, max_features) for i in range(num_down_blocks + 1)]
        self.first = SameBlock2d(num_channels, widths[0], kernel_size=7, padding=3)
        self.down_blocks = nn.ModuleList(
            DownBlock2d(widths[i], widths[i + 1]) for i in range(num_down_blocks)
        )
        self.up_blocks = nn.ModuleList(
            UpBlock2d(widths[i + 1], widths[i]) for i in reversed(range(num_down_blocks))
        )
        self.bottleneck = nn.Sequential()
        for i in range(num_bottleneck_blocks):
            self.bottleneck.add_module(f"r{i}", ResBlock2d(widths[-1], kernel_size=3, padding=1))
        self.final: nn.Module = nn.Conv2d(widths[0], num_channels, kernel_size=7, padding=3)

    def forward(self, source_image: Tensor, kp_driving: Keypoints, kp_source: Keypoints) -> dict[str, Tensor]:
        return self.generate(self.encode(source_image), kp_driving=kp_driving, kp_source=kp_source)

    def encode(self, source_image: Tensor) -> SourceEncoding:
        """Compute the half that needs no driving frame."""
        check_size(source_image.shape[2:], self.size_multiple)
        features = self.first(source_image)  # (B, block_expansion, H, W)
        for down_block in self.down_blocks:
            features = down_block(features)  # in the end (B, F, h, w)
        small = source_image
        if self.dense_motion_network is not None:
            small = self.dense_motion_network.downsample(source_image)  # (B, C, ., .)
        return SourceEncoding(source_image, small, features)

    def generate(
        self,
        source: SourceEncoding,
        kp_driving: Keypoints,
        kp_source: Keypoints,
        deformed: bool = True,
        movement: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the half that is done for each driving frame; return what `forward` returns.

        A source of batch size 1 serves a batch of driving frames. Its image may have more channels than the
        network, which are warped along. `deformed=False` leaves out "deformed" where the prediction does not
        need it, which saves warping an image that nobody looks at. `movement` (1, 1, ., .) in [0, 1] is how
        much of the motion is kept at each place: it can be less near a border.
        """
        features, out = source.features, {}
        # Warp the source's features, and hide what it doesn't show.
        if self.dense_motion_network is not None:
            out = self.dense_motion_network.motion(source.small, kp_driving, kp_source)
            if movement is not None:
                out["deformation"] = settle(out["deformation"], movement)
                if "occlusion_map" in out:
                    out["occlusion_map"] = reveal(out["occlusion_map"], movement)
            flow = out["deformation"]  # (B, ., ., 2)
            features = occlude(self.deform(features, flow), out.get("occlusion_map"))  # (B, F, h, w)
            if deformed or self.image_skip:
                out["deformed"] = self.deform_image(source.image, flow)  # (B, C, H, W)
        # Paint, or paint only what the warped source can't give.
        painted = self.decode(features)  # (B, C, H, W)
        if not self.image_skip:
            return out | {"prediction": painted}
        warped = out["deformed"][:, : self.num_channels]
        return out | {"painted": painted, "prediction": blend(warped, painted, out["occlusion_map"])}

    def deform(self, maps: Tensor, deformation: Tensor) -> Tensor:
        """Warp maps (B, F, H, W) by a flow (B, h, w, 2) that is first resized to them."""
        flow = resize(deformation.permute(0, 3, 1, 2), maps.shape[2:], self.align_corners)  # (B, 2, H, W)
        return warp(maps, flow.permute(0, 2, 3, 1), align_corners=self.warp_align_corners)

    def deform_image(self, image: Tensor, deformation: Tensor) -> Tensor:
        """Warp the source; with `image_skip` its border continues beyond it instead of black.

        A clamped flow does that: not every device has grid_sample's own border padding (MPS).
        """
        return self.deform(image, deformation.clamp(-1, 1) if self.image_skip else deformation)

    def decode(self, features: Tensor) -> Tensor:
        """Paint an image (B, C, H, W) in [0, 1] from warped and occluded features (B, F, h, w)."""
        features = self.bottleneck(features)
        for up_block in self.up_blocks:
            features = up_block(features)  # in the end (B, block_expansion, H, W)
        return torch.sigmoid(self.final(features))


def settle(flow: Tensor, movement: Tensor) -> Tensor:
    """Fade a flow (B, h, w, 2) to the identity where `movement` (1, 1, ., .) falls from 1 to 0."""
    identity = make_coordinate_grid(flow.shape[1:3], like=flow)  # (h, w, 2)
    weight = resize(movement.to(flow), flow.shape[1:3]).permute(0, 2, 3, 1)  # (1, h, w, 1)
    return identity + weight * (flow - identity)


def reveal(occlusion_map: Tensor, movement: Tensor) -> Tensor:
    """Fade an occlusion map (B, 1, h, w) to 1, nothing hidden, where `movement` (1, 1, ., .) falls to 0."""
    weight = resize(movement.to(occlusion_map), occlusion_map.shape[2:])
    return 1 - weight * (1 - occlusion_map)


def occlude(features: Tensor, occlusion_map: Tensor | None) -> Tensor:
    """Eq. 8: multiply the warped features (B, F, h, w) by the occlusion map (B, 1, ., .), if there is one."""
    if occlusion_map is None:
        return features
    return features * resize(occlusion_map, features.shape[2:]).to(features.dtype)


def blend(deformed: Tensor, painted: Tensor, occlusion_map: Tensor) -> Tensor:
    """Take the warped source where the occlusion map (B, 1, ., .) is 1, the painted picture where it is 0.

    The result has the size (B, C, H, W) and the dtype of the warped source.
    """
    painted = resize(painted, deformed.shape[2:])
    visible = resize(occlusion_map, deformed.shape[2:])
    return (visible * deformed + (1 - visible) * painted).to(deformed.dtype)


def encode_larger(generator: OcclusionAwareGenerator, large: Tensor, small: Tensor) -> SourceEncoding:
    """Encode a source that is larger than the model's pictures, so that `generate` predicts (B, C, N, M).

    `large`: the source (B, C, N, M) in [0, 1]; `small`: the same at the model's size, (B, C, H, W). Motion is
    estimated at the model's size, as are the keypoints: at another one, keypoints wander and masks fall
    apart, but a flow can be enlarged. Raises `UserError` for a generator without dense motion, and where it
    paints at the larger size, and N and M are not multiples of `size_multiple`.
    """
    if generator.dense_motion_network is None:
        raise UserError("this model has no dense motion, so it can't make larger pictures; leave out --size")
    # Warp the large source and paint at the model's size: little of a picture is painted.
    if generator.image_skip:
        return generator.encode(small)._replace(image=large)
    # Paint everything from the features of the large source: convolutions serve any size.
    return generator.encode(large)._replace(small=generator.dense_motion_network.downsample(small))
