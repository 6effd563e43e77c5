"""The losses (paper Sec. 3.3 and supplementary) and the two full models that weigh them.

Each loss term is a small pure function and a line of `TERMS`; a new one needs no more than that. The full
models run the networks, so that `DataParallel` splits networks and losses alike.

Shapes: `B` batch, `K` keypoints, `C` channels, `H, W` image size, `xy` in [-1, 1].
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.discriminator import MultiScaleDiscriminator
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from modules.transform import Transform
from modules.util import (
    AntiAliasInterpolation2d,
    Keypoints,
    at_least_float32,
    full_precision,
    inverse_2x2,
)
from modules.vgg import Vgg19

Pyramid = dict[str, Tensor]  # "prediction_<scale>" -> (B, C, scale·H, scale·W)


class ImagePyramide(nn.Module):
    """Image (B, C, H, W) -> {"prediction_<scale>": (B, C, scale·H, scale·W)}, blurred against aliasing."""

    def __init__(self, scales: Sequence[float], num_channels: int):
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


# ---- Loss terms --------------------------------------------------------------


def total(losses: Iterable[Tensor]) -> Tensor:
    return functools.reduce(operator.add, losses)


def over_scales(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`loss` for arguments that are lists, an item for each scale: its sum over the scales."""

    def summed(*lists: list, **same: Any) -> Tensor:
        return total(loss(*items, **same) for items in zip(*lists, strict=True))

    return summed


def weighted_l1(features: list[Tensor], target: list[Tensor], weights: list[float]) -> Tensor:
    """L1 between feature maps of a generated and a real image.

    They are VGG's (Sec. 3.3) or, for feature matching, a discriminator's.
    """
    pairs = zip(features, target, weights, strict=False)  # VGG ends with the last weight that is not 0
    return total(weight * F.l1_loss(a, b) for a, b, weight in pairs if weight != 0)


def pyramid_loss(generated: Pyramid, real: Pyramid) -> Tensor:
    """L1 between the pixels of a generated and a real image, summed over the scales of their pyramids."""
    return total(F.l1_loss(generated[name], real[name]) for name in real)


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
    """Eq. 11 as |1 - J⁻¹ J_T J_transformed|: the inverse on one side keeps Jacobians from collapsing."""
    with full_precision(like=kp["value"]):
        jacobian = at_least_float32(transformed_kp["jacobian"])  # (B, K, 2, 2)
        expected = transform.jacobian(transformed_kp["value"]) @ jacobian
        product = inverse_2x2(kp["jacobian"]) @ expected
    return (torch.eye(2, device=product.device, dtype=product.dtype) - product).abs().mean()


def keypoint_prior_loss(kp: Keypoints, threshold: float = 0.1) -> Tensor:
    """Keeps keypoints apart: how far the squared distance of each pair is below `threshold`, summed.

    Source: Wang et al., "One-Shot Free-View Neural Talking-Head Synthesis", CVPR 2021, without its depths.
    """
    count = kp["value"].shape[1]
    first, second = torch.triu_indices(count, count, offset=1, device=kp["value"].device)
    squared_distance = (kp["value"][:, first] - kp["value"][:, second]).square().sum(-1)  # (B, pairs)
    return (threshold - squared_distance).clamp(min=0).sum(-1).mean()


def occlusion_prior_loss(occlusion_logit: Tensor) -> Tensor:
    """Keeps an occlusion map off 0 and 1, where its sigmoid has no gradient left to learn from.

    The cross entropy of one half and the map, less its minimum: 0 where the map is 1/2. From the logits
    (B, 1, h, w) of the map, so that this slope doesn't fade where the map is 0 or 1 to the last bit.
    """
    return ((F.softplus(occlusion_logit) + F.softplus(-occlusion_logit)) / 2).mean() - math.log(2)


def mask_prior_loss(mask: Tensor, threshold: float = 0.01) -> Tensor:
    """Keeps the motions of a mask (B, K+1, h, w) in use: how far the log of a share is below log `threshold`.

    Summed over the motions; a share is the mean over pictures and pixels. A motion that lost all its pixels
    has next to no gradient from the pictures, and would never come back. This slope doesn't fade.
    """
    shares = mask.mean(dim=(0, 2, 3))  # (K+1,)
    return (math.log(threshold) - shares.clamp(min=1e-12).log()).clamp(min=0).sum()


# ---- The table of terms ------------------------------------------------------


class Requirement(NamedTuple):
    """A check of a config's `model_params`, and what it asks for in words."""

    met_by: Callable[[dict], bool]
    words: str


@dataclass(frozen=True)
class Term:
    """A term of the generator's loss: `loss(*needs)` times its weight, left out where the weight is 0.

    name: what logs call it.
    needs: the arguments of `loss`, by their names in `GeneratorFullModel.value`.
    weight: the key of its weight in `train_params.loss_weights`, by default its name.
    weighs_features: the weight is a list, a number for each feature map, and `loss` takes it as `weights`.
    published: the key is in every published config and must not be left out.
    only_with: the key of another weight, without which this term is left out too.
    requires: what the config's networks must have.
    """

    name: str
    loss: Callable[..., Tensor]
    needs: tuple[str, ...]
    weight: str = ""
    weighs_features: bool = False
    published: bool = False
    only_with: str | None = None
    requires: Requirement | None = None

    @property
    def key(self) -> str:
        return self.weight or self.name

    def wanted(self, weights: dict[str, Any]) -> bool:
        """Whether a config's `loss_weights` ask for this term."""
        weight = weights.get(self.key) or 0
        own = any(weight) if isinstance(weight, list | tuple) else weight != 0
        return own and (self.only_with is None or weights[self.only_with] != 0)

    def weighed(self, weights: dict[str, Any], arguments: list[Any]) -> Tensor:
        if self.weighs_features:
            return self.loss(*arguments, weights=weights[self.key])
        return weights[self.key] * self.loss(*arguments)


def has_motion(model: dict) -> bool:
    return model["generator_params"].get("dense_motion_params") is not None


JACOBIANS = Requirement(
    lambda model: model["common_params"].get("estimate_jacobian", False),
    "model_params.common_params.estimate_jacobian",
)
MOTION = Requirement(has_motion, "generator_params.dense_motion_params: nothing is warped then")
IMAGE_SKIP = Requirement(
    lambda model: model["generator_params"].get("image_skip", False),
    "generator_params.image_skip: pyramid is the same then",
)
OCCLUSION_MAP = Requirement(
    lambda model: has_motion(model) and model["generator_params"].get("estimate_occlusion_map", False),
    "an occlusion map (generator_params.estimate_occlusion_map and dense_motion_params)",
)

TRANSFORMED = ("kp_driving", "transformed_kp", "transform")

TERMS = (
    Term(
        "perceptual",
        over_scales(weighted_l1),
        ("generated_features", "real_features"),
        weighs_features=True,
        published=True,
    ),
    Term("pyramid", pyramid_loss, ("generated_pyramid", "real_pyramid")),
    Term("deformed", pyramid_loss, ("deformed_pyramid", "real_pyramid"), requires=MOTION),
    Term("painted", pyramid_loss, ("painted_pyramid", "real_pyramid"), requires=IMAGE_SKIP),
    Term("keypoint_prior", keypoint_prior_loss, ("kp_driving",)),
    Term("occlusion_prior", occlusion_prior_loss, ("occlusion_logit",), requires=OCCLUSION_MAP),
    Term("mask_prior", mask_prior_loss, ("mask",), requires=MOTION),
    Term(
        "gen_gan",
        over_scales(generator_gan_loss),
        ("generated_judgements",),
        weight="generator_gan",
        published=True,
    ),
    Term(
        "feature_matching",
        over_scales(weighted_l1),
        ("generated_maps", "real_maps"),
        weighs_features=True,
        published=True,
        only_with="generator_gan",  # published configs without a discriminator have the weights nevertheless
    ),
    Term("equivariance_value", equivariance_value_loss, TRANSFORMED, published=True),
    Term(
        "equivariance_jacobian", equivariance_jacobian_loss, TRANSFORMED, published=True, requires=JACOBIANS
    ),
)

# ---- Full models -------------------------------------------------------------


def detach_kp(kp: Keypoints) -> Keypoints:
    return {name: tensor.detach() for name, tensor in kp.items()}


class GeneratorFullModel(nn.Module):
    """Keypoint detector and generator with every loss they are trained on.

    `forward({"source": (B, 3, H, W), "driving": (B, 3, H, W)})` returns the weighted losses by name and what
    was generated (the generator's result, "kp_source", "kp_driving", and "transformed_frame",
    "transformed_kp" of the equivariance loss). A loss whose weights are all zero is neither computed nor
    returned.

    Nothing of the real branch is kept for the backward pass. Call it within `frozen(discriminator)`: then
    gradients pass through the discriminator to the generator, and none are computed for the discriminator's
    own weights.
    """

    def __init__(
        self,
        kp_extractor: KPDetector,
        generator: OcclusionAwareGenerator,
        discriminator: MultiScaleDiscriminator,
        train_params: dict,
    ):
        super().__init__()
        self.kp_extractor = kp_extractor
        self.generator = generator
        self.discriminator = discriminator
        self.train_params = train_params
        self.loss_weights: dict[str, Any] = train_params["loss_weights"]
        self.terms = [term for term in TERMS if term.wanted(self.loss_weights)]
        self.pyramid = ImagePyramide(train_params["scales"], generator.num_channels)
        weights = self.loss_weights["perceptual"]
        if any(weights):
            depth = max(i for i, weight in enumerate(weights, start=1) if weight != 0)
            self.vgg = Vgg19(weights=train_params.get("vgg_weights", "imagenet"), depth=depth)

    def forward(
        self, x: dict[str, Tensor], transform: dict[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """`transform`: the state of the equivariance loss's `Transform`; by default a new one is drawn."""
        kp_source = self.kp_extractor(x["source"])
        kp_driving = self.kp_extractor(x["driving"])
        generated = self.generator(x["source"], kp_source=kp_source, kp_driving=kp_driving)
        generated |= {"kp_source": kp_source, "kp_driving": kp_driving}

        known = x | generated | {"transform_state": transform}
        losses = {}
        for term in self.terms:
            arguments = [self.value(name, known) for name in term.needs]
            losses[term.name] = term.weighed(self.loss_weights, arguments)
        shown = {name: known[name] for name in ("transformed_frame", "transformed_kp") if name in known}
        return losses, generated | shown

    def value(self, name: str, known: dict[str, Any]) -> Any:
        """What terms call `name`. What is not `known` is computed, and noted there for other terms."""
        if name not in known:
            match name:
                case "real_pyramid":
                    known[name] = self.pyramid(known["driving"])
                case "generated_pyramid":
                    known[name] = self.pyramid(known["prediction"])
                case "deformed_pyramid" | "painted_pyramid":
                    known[name] = self.pyramid(known[name.removesuffix("_pyramid")])
                case "generated_features":
                    known[name] = self.features(self.value("generated_pyramid", known))
                case "real_features":
                    with torch.no_grad():
                        known[name] = self.features(self.value("real_pyramid", known))
                case "generated_judgements" | "generated_maps" | "real_maps":
                    known |= self.judge(known)
                case "transform" | "transformed_kp":
                    known |= self.transform_driving(known)
        return known[name]

    def features(self, pyramid: Pyramid) -> list[list[Tensor]]:
        """VGG's feature maps of every level."""
        return [self.vgg(level) for level in pyramid.values()]

    def judge(self, known: dict[str, Any]) -> dict[str, list]:
        """For each scale the discriminator's judgement of the prediction, and its feature maps of both."""
        kp = detach_kp(known["kp_driving"])
        generated = self.discriminator(self.value("generated_pyramid", known), kp=kp)
        with torch.no_grad():
            real = self.discriminator(self.value("real_pyramid", known), kp=kp)
        scales = self.discriminator.scales
        return {
            "generated_judgements": [generated[f"prediction_map_{scale}"] for scale in scales],
            "generated_maps": [generated[f"feature_maps_{scale}"] for scale in scales],
            "real_maps": [real[f"feature_maps_{scale}"] for scale in scales],
        }

    def transform_driving(self, known: dict[str, Any]) -> dict[str, Any]:
        """The transform of the equivariance loss, the driving frame under it, and the keypoints of that."""
        frame, state = known["driving"], known["transform_state"]
        if state is None:
            transform = Transform(len(frame), **self.train_params["transform_params"]).to(frame)
        else:
            transform = Transform.from_state(state)
        transformed = transform.transform_frame(frame)
        return {
            "transform": transform,
            "transformed_frame": transformed,
            "transformed_kp": self.kp_extractor(transformed),
        }


class DiscriminatorFullModel(nn.Module):
    """The discriminator with its loss.

    `forward(x, generated)` takes what `GeneratorFullModel` took and returned, and returns the weighted loss
    by name. It takes the keypoint detector and the generator as the published class does, and needs neither.
    """

    def __init__(
        self,
        kp_extractor: KPDetector,
        generator: OcclusionAwareGenerator,
        discriminator: MultiScaleDiscriminator,
        train_params: dict,
    ):
        super().__init__()
        self.discriminator = discriminator
        self.pyramid = ImagePyramide(discriminator.scales, generator.num_channels)
        self.weight: float = train_params["loss_weights"]["discriminator_gan"]

    def forward(self, x: dict[str, Tensor], generated: dict[str, Any]) -> dict[str, Tensor]:
        kp = detach_kp(generated["kp_driving"])
        judged_generated = self.discriminator(self.pyramid(generated["prediction"].detach()), kp=kp)
        judged_real = self.discriminator(self.pyramid(x["driving"]), kp=kp)
        maps = [f"prediction_map_{scale}" for scale in self.discriminator.scales]
        loss = total(discriminator_gan_loss(judged_real[name], judged_generated[name]) for name in maps)
        return {"disc_gan": self.weight * loss}
