"""The losses (paper Sec. 3.3 and supplementary) and the two full models that weigh and sum them.

Each loss term is a small pure function; `GeneratorFullModel` and `DiscriminatorFullModel` run the networks, so that
`DataParallel` splits networks and losses alike.

Shapes: `B` batch, `K` keypoints, `C` channels, `H, W` image size, `xy` in [-1, 1].
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.errors import CheckpointError
from modules.util import (
    AntiAliasInterpolation2d,
    Keypoints,
    at_least_float32,
    full_precision,
    inverse_2x2,
    make_coordinate_grid,
    warp,
)
from modules.weight_files import check_tensor, read_weights, require

Pyramid = dict[str, Tensor]  # "prediction_<scale>" -> (B, C, scale·H, scale·W)

# ---------------------------------------------------------------------------------------------------------------------
# Perceptual features

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RELU_X_1 = (
    1,
    6,
    11,
    20,
    29,
)  # positions of relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 in torchvision's vgg19().features


class Vgg19(nn.Module):
    """RGB image (B, 3, H, W) in [0, 1] -> features at the first `depth` of relu1_1, relu2_1, relu3_1, relu4_1, relu5_1.

    `weights`: "imagenet" (torchvision's, downloaded once to torch's cache), the path of a file with the `state_dict` of a
    torchvision VGG-19, or "random" (the same random network every time).
    Raises `CheckpointError` if the weights can't be had.
    """

    def __init__(self, requires_grad: bool = False, weights: str = "imagenet", depth: int = len(RELU_X_1)):
        super().__init__()
        self.features = load_vgg19(weights).features[: RELU_X_1[depth - 1] + 1]
        self.requires_grad_(requires_grad)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x - self.mean) / self.std
        taps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in RELU_X_1:
                taps.append(x)
        return taps


def load_vgg19(weights: str) -> nn.Module:
    """A torchvision VGG-19 with the weights that `Vgg19` describes."""
    from torchvision.models import VGG19_Weights, vgg19  # takes seconds, and only training needs it

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = vgg19()
    if weights == "random":
        return network
    if weights == "imagenet":
        try:
            state = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        except (
            OSError,
            RuntimeError,
        ) as error:  # no network, no disk space; a broken download fails its hash
            name = Path(VGG19_Weights.IMAGENET1K_V1.url).name
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise CheckpointError(
                f"the perceptual loss needs VGG-19's ImageNet weights, and they could not be downloaded ({error}): "
                f"put {name} into {folder}, or its path into the config as train_params.vgg_weights"
            ) from error
    else:
        state = read_vgg19_file(weights)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{weights}: not the state_dict of a torchvision VGG-19") from error
    return network


def read_vgg19_file(path: str) -> dict[str, Tensor]:
    try:
        state = read_weights(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file (train_params.vgg_weights takes 'imagenet', 'random' or a file with VGG-19 weights)"
        ) from None
    require(isinstance(state, dict), f"{path}: it", "a state_dict of a torchvision VGG-19")
    for name, tensor in state.items():
        check_tensor(tensor, f"{path}: its '{name}'")
    return state


class ImagePyramide(nn.Module):
    """Image (B, C, H, W) -> {"prediction_<scale>": (B, C, scale·H, scale·W)}, blurred against aliasing."""

    def __init__(self, scales: list[float], num_channels: int):
        super().__init__()
        self.scales = scales
        self.downs = nn.ModuleDict(
            {str(scale).replace(".", "-"): AntiAliasInterpolation2d(num_channels, scale) for scale in scales}
        )

    def forward(self, x: Tensor) -> Pyramid:
        return {
            f"prediction_{scale}": down(x)
            for scale, down in zip(self.scales, self.downs.values(), strict=True)
        }


# ---------------------------------------------------------------------------------------------------------------------
# The random transform of the equivariance loss


class Transform:
    """A random affine map plus a thin-plate spline for each image of a batch: T(xy) = θ [xy; 1] + Σ w φ(|xy - c|₁).

    `sigma_affine`: standard deviation of the six affine numbers around the identity.
    `sigma_tps`, `points_tps`: standard deviation of the spline's weights w, and its control points c per side; without them
    the map is affine. `generator` makes the draw repeatable; it is made on the CPU, so that every device gets the same one.
    """

    def __init__(
        self,
        bs: int,
        sigma_affine: float,
        sigma_tps: float | None = None,
        points_tps: int | None = None,
        generator: torch.Generator | None = None,
    ):
        self.theta = torch.eye(2, 3) + sigma_affine * torch.randn(bs, 2, 3, generator=generator)
        self.control_params = None  # (B, 1, points_tps²)
        if sigma_tps is not None and points_tps is not None:
            self.control_params = sigma_tps * torch.randn(bs, 1, points_tps**2, generator=generator)

    def state(self) -> dict[str, Tensor]:
        """What was drawn, as tensors with a batch dimension, which `DataParallel` can split."""
        state = {"theta": self.theta, "control_params": self.control_params}
        return {name: tensor for name, tensor in state.items() if tensor is not None}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Transform:
        transform = cls.__new__(cls)
        transform.theta = state["theta"]
        transform.control_params = state.get("control_params")
        return transform

    def to(self, like: Tensor) -> Transform:
        """The same transform on the device and in the dtype of `like`."""
        return Transform.from_state({name: tensor.to(like) for name, tensor in self.state().items()})

    def transform_frame(self, frame: Tensor) -> Tensor:
        """Warp images (B, C, H, W): what was at T(xy) comes to xy."""
        height, width = frame.shape[2:]
        grid = make_coordinate_grid((height, width), like=frame).view(1, height * width, 2)
        return warp(frame, self.warp_coordinates(grid).view(-1, height, width, 2), padding_mode="reflection")

    def warp_coordinates(self, coordinates: Tensor) -> Tensor:
        """T at coordinates (B or 1, N, 2): (B, N, 2)."""
        with full_precision(like=coordinates):
            warped = coordinates @ self.theta[:, :, :2].mT + self.theta[:, None, :, 2]  # (B, N, 2)
        if self.control_params is None:
            return warped
        radius = self._offsets(coordinates).abs().sum(dim=-1)  # (B or 1, N, P)
        bump = radius.square() * torch.log(radius + 1e-6)
        return warped + (bump * self.control_params).sum(dim=-1, keepdim=True)

    def jacobian(self, coordinates: Tensor) -> Tensor:
        """dT/dxy at coordinates (B, N, 2), in closed form: (B, N, 2, 2)."""
        linear = self.theta[:, None, :, :2]  # (B, 1, 2, 2)
        if self.control_params is None:
            return linear.expand(-1, coordinates.shape[1], -1, -1)
        offsets = self._offsets(coordinates)  # (B, N, P, 2)
        radius = offsets.abs().sum(dim=-1)  # (B, N, P)
        slope = 2 * radius * torch.log(radius + 1e-6) + radius.square() / (radius + 1e-6)  # d(bump)/d(radius)
        gradient = ((slope * self.control_params).unsqueeze(-1) * offsets.sign()).sum(dim=2)  # (B, N, 2)
        return linear + gradient.unsqueeze(-2)  # the spline moves x and y alike

    def _offsets(self, coordinates: Tensor) -> Tensor:
        """Coordinates (B, N, 2) relative to each of the P control points: (B, N, P, 2)."""
        per_side = math.isqrt(self.control_params.shape[-1])
        points = make_coordinate_grid((per_side, per_side), like=coordinates).flatten(0, 1)  # (P, 2)
        return coordinates.unsqueeze(2) - points


# ---------------------------------------------------------------------------------------------------------------------
# Loss terms


def weighted_l1(features: list[Tensor], target: list[Tensor], weights: list[float]) -> Tensor:
    """L1 between feature maps of a generated and a real image: VGG's (Sec. 3.3) or, for feature matching, a discriminator's."""
    return sum(
        weight * F.l1_loss(a, b)
        for a, b, weight in zip(features, target, weights, strict=False)
        if weight != 0
    )


def pyramid_loss(generated: Pyramid, real: Pyramid) -> Tensor:
    """L1 between the pixels of a generated and a real image, summed over the scales of their pyramids."""
    return sum(F.l1_loss(generated[name], real[name]) for name in real)


def generator_gan_loss(prediction_map: Tensor) -> Tensor:
    """LSGAN: the generator wants its pictures judged 1."""
    return (1 - prediction_map).square().mean()


def discriminator_gan_loss(real_map: Tensor, generated_map: Tensor) -> Tensor:
    """LSGAN: the discriminator wants real pictures judged 1 and generated ones 0."""
    return ((1 - real_map).square() + generated_map.square()).mean()


def equivariance_value_loss(kp: Keypoints, transformed_kp: Keypoints, transform: Transform) -> Tensor:
    """Eq. 9: keypoints of the transformed image, mapped back, are the keypoints of the image."""
    return (kp["value"] - transform.warp_coordinates(transformed_kp["value"])).abs().mean()


def equivariance_jacobian_loss(kp: Keypoints, transformed_kp: Keypoints, transform: Transform) -> Tensor:
    """Eq. 11, written with the inverse on one side so that collapsing Jacobians don't lower it: |1 - J⁻¹ J_T J_transformed|."""
    with full_precision(like=kp["value"]):
        expected = transform.jacobian(transformed_kp["value"]) @ at_least_float32(
            transformed_kp["jacobian"]
        )  # (B, K, 2, 2)
        product = inverse_2x2(kp["jacobian"]) @ expected
    return (torch.eye(2, device=product.device, dtype=product.dtype) - product).abs().mean()


def keypoint_prior_loss(kp: Keypoints, threshold: float = 0.1) -> Tensor:
    """Keeps keypoints apart: how far the squared distance of each pair is below `threshold`, summed over the pairs.

    Source: Wang et al., "One-Shot Free-View Neural Talking-Head Synthesis", CVPR 2021, without its depths.
    """
    first, second = torch.triu_indices(*2 * kp["value"].shape[1:2], offset=1, device=kp["value"].device)
    squared_distance = (kp["value"][:, first] - kp["value"][:, second]).square().sum(-1)  # (B, K (K - 1) / 2)
    return (threshold - squared_distance).clamp(min=0).sum(-1).mean()


def occlusion_prior_loss(occlusion_map: Tensor) -> Tensor:
    """Keeps an occlusion map (B, 1, h, w) off 0 and 1, where its sigmoid has no gradient left to learn from.

    The cross entropy of one half and the map, less its minimum: 0 where the map is 1/2.
    """
    visible = occlusion_map.clamp(1e-7, 1 - 1e-7)
    return -(4 * visible * (1 - visible)).log().mean() / 2


# ---------------------------------------------------------------------------------------------------------------------
# Full models


def detach_kp(kp: Keypoints) -> Keypoints:
    return {name: tensor.detach() for name, tensor in kp.items()}


class GeneratorFullModel(nn.Module):
    """Keypoint detector and generator with every loss they are trained on.

    `forward({"source": (B, 3, H, W), "driving": (B, 3, H, W)})` returns the weighted losses by name and what was generated
    (the generator's result, "kp_source", "kp_driving", and "transformed_frame", "transformed_kp" of the equivariance loss).
    A loss whose weights are all zero is neither computed nor returned.

    Nothing of the real branch is kept for the backward pass. Call it within `frozen(discriminator)`: then gradients pass
    through the discriminator to the generator, and none are computed for the discriminator's own weights.
    """

    def __init__(
        self, kp_extractor: nn.Module, generator: nn.Module, discriminator: nn.Module, train_params: dict
    ):
        super().__init__()
        self.kp_extractor = kp_extractor
        self.generator = generator
        self.discriminator = discriminator
        self.train_params = train_params
        self.scales = train_params["scales"]
        self.disc_scales = discriminator.scales
        self.pyramid = ImagePyramide(self.scales, generator.num_channels)
        self.loss_weights = train_params["loss_weights"]
        if any(self.loss_weights["perceptual"]):
            depth = max(i for i, weight in enumerate(self.loss_weights["perceptual"], start=1) if weight != 0)
            self.vgg = Vgg19(weights=train_params.get("vgg_weights", "imagenet"), depth=depth)

    def forward(self, x: dict[str, Tensor], transform: dict[str, Tensor] | None = None):
        """`transform`: the state of the equivariance loss's `Transform`; by default a new one is drawn."""
        kp_source = self.kp_extractor(x["source"])
        kp_driving = self.kp_extractor(x["driving"])
        generated = self.generator(x["source"], kp_source=kp_source, kp_driving=kp_driving)
        generated |= {"kp_source": kp_source, "kp_driving": kp_driving}

        weights = self.loss_weights
        real_pyramid = self.pyramid(x["driving"])
        generated_pyramid = self.pyramid(generated["prediction"])
        losses = {}
        if any(weights["perceptual"]):
            losses["perceptual"] = self.perceptual(real_pyramid, generated_pyramid)
        if weights.get("pyramid", 0) != 0:
            losses["pyramid"] = weights["pyramid"] * pyramid_loss(generated_pyramid, real_pyramid)
        for part in ("deformed", "painted"):
            if weights.get(part, 0) != 0:
                losses[part] = weights[part] * pyramid_loss(self.pyramid(generated[part]), real_pyramid)
        if weights.get("keypoint_prior", 0) != 0:
            losses["keypoint_prior"] = weights["keypoint_prior"] * keypoint_prior_loss(kp_driving)
        if weights.get("occlusion_prior", 0) != 0:
            losses["occlusion_prior"] = weights["occlusion_prior"] * occlusion_prior_loss(
                generated["occlusion_map"]
            )
        if weights["generator_gan"] != 0:
            losses |= self.adversarial(real_pyramid, generated_pyramid, detach_kp(kp_driving))
        if weights["equivariance_value"] != 0 or weights["equivariance_jacobian"] != 0:
            transform = self.make_transform(transform, like=x["driving"])
            transformed_frame = transform.transform_frame(x["driving"])
            transformed_kp = self.kp_extractor(transformed_frame)
            generated |= {"transformed_frame": transformed_frame, "transformed_kp": transformed_kp}
            losses |= self.equivariance(kp_driving, transformed_kp, transform)
        return losses, generated

    def perceptual(self, real: Pyramid, generated: Pyramid) -> Tensor:
        loss = 0
        for scale in self.scales:
            with torch.no_grad():
                target = self.vgg(real[f"prediction_{scale}"])
            features = self.vgg(generated[f"prediction_{scale}"])
            loss = loss + weighted_l1(features, target, self.loss_weights["perceptual"])
        return loss

    def adversarial(self, real: Pyramid, generated: Pyramid, kp: Keypoints) -> dict[str, Tensor]:
        judged = self.discriminator(generated, kp=kp)
        with torch.no_grad():
            target = self.discriminator(real, kp=kp)
        gan, matching = 0, 0
        for scale in self.disc_scales:
            features, target_features = judged[f"feature_maps_{scale}"], target[f"feature_maps_{scale}"]
            gan = gan + generator_gan_loss(judged[f"prediction_map_{scale}"])
            matching = matching + weighted_l1(
                features, target_features, self.loss_weights["feature_matching"]
            )
        losses = {"gen_gan": self.loss_weights["generator_gan"] * gan}
        return losses | ({"feature_matching": matching} if any(self.loss_weights["feature_matching"]) else {})

    def make_transform(self, state: dict[str, Tensor] | None, like: Tensor) -> Transform:
        if state is not None:
            return Transform.from_state(state)
        return Transform(like.shape[0], **self.train_params["transform_params"]).to(like)

    def equivariance(
        self, kp: Keypoints, transformed_kp: Keypoints, transform: Transform
    ) -> dict[str, Tensor]:
        terms = {
            "equivariance_value": equivariance_value_loss,
            "equivariance_jacobian": equivariance_jacobian_loss,
        }
        weights = {name: self.loss_weights[name] for name in terms}
        return {
            name: weights[name] * term(kp, transformed_kp, transform)
            for name, term in terms.items()
            if weights[name] != 0
        }


class DiscriminatorFullModel(nn.Module):
    """The discriminator with its loss.

    `forward(x, generated)` takes what `GeneratorFullModel` took and returned, and returns the weighted loss by name. It takes
    the keypoint detector and the generator as the published class does, and needs neither.
    """

    def __init__(
        self, kp_extractor: nn.Module, generator: nn.Module, discriminator: nn.Module, train_params: dict
    ):
        super().__init__()
        self.discriminator = discriminator
        self.scales = discriminator.scales
        self.pyramid = ImagePyramide(self.scales, generator.num_channels)
        self.weight = train_params["loss_weights"]["discriminator_gan"]

    def forward(self, x: dict[str, Tensor], generated: dict[str, Tensor]) -> dict[str, Tensor]:
        kp = detach_kp(generated["kp_driving"])
        judged_generated = self.discriminator(self.pyramid(generated["prediction"].detach()), kp=kp)
        judged_real = self.discriminator(self.pyramid(x["driving"]), kp=kp)
        loss = 0
        for scale in self.scales:
            name = f"prediction_map_{scale}"
            loss = loss + discriminator_gan_loss(judged_real[name], judged_generated[name])
        return {"disc_gan": self.weight * loss}
