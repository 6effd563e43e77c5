"""The losses (paper Sec. 3.3 and supplementary) and the two full models that weigh them.

Each loss term is a small pure function and a line of `TERMS`; a new one needs no more than that.
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

from modules.discriminator import MultiScaleDiscriminator, scale_key
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from modules.transform import Transform
from modules.util import (
    AntiAliasInterpolation2d,
    Keypoints,
    at_least_float32,
    full_precision,
    inverse_2x2,
    kp2gaussian,
)
from modules.vgg import Vgg19

Pyramid = dict[str, Tensor]  # "prediction_<scale>" -> (B, C, scale·H, scale·W)


class ImagePyramide(nn.Module):
    """Image (B, C, H, W) -> {"prediction_<scale>": (B, C, scale·H, scale·W)}, blurred against aliasing."""

    def __init__(self, scales: Sequence[float], num_channels: int):
        super().__init__()
        self.scales = scales
        self.downs = nn.ModuleDict(
            {scale_key(scale): AntiAliasInterpolation2d(num_channels, scale) for scale in scales}
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
    """Sum `loss` over scales: its arguments become lists, an item for each scale."""

    def summed(*lists: list, **same: Any) -> Tensor:
        return total(loss(*items, **same) for items in zip(*lists, strict=True))

    return summed


def weighted_l1(features: list[Tensor], target: list[Tensor], weights: list[float]) -> Tensor:
    """Return the L1 between feature maps of two images: VGG's (Sec. 3.3), or a discriminator's."""
    pairs = zip(features, target, weights, strict=False)  # VGG ends with the last weight that is not 0
    return total(weight * F.l1_loss(a, b) for a, b, weight in pairs if weight != 0)


def pyramid_loss(generated: Pyramid, real: Pyramid) -> Tensor:
    """Return the L1 between the pixels of two images, summed over the scales of their pyramids."""
    return total(F.l1_loss(generated[name], real[name]) for name in real)


def generator_gan_loss(prediction_map: Tensor) -> Tensor:
    """LSGAN: compare the judgement of generated pictures with 1."""
    return (1 - prediction_map).square().mean()


def discriminator_gan_loss(real_map: Tensor, generated_map: Tensor) -> Tensor:
    """LSGAN: compare the judgement of real pictures with 1, of generated ones with 0."""
    return ((1 - real_map).square() + generated_map.square()).mean()


def equivariance_value_loss(kp: Keypoints, transformed_kp: Keypoints, transform: Transform) -> Tensor:
    """Eq. 9: compare keypoints with those of the transformed image, mapped back."""
    return (kp["value"] - transform.warp_coordinates(transformed_kp["value"])).abs().mean()


def equivariance_jacobian_loss(kp: Keypoints, transformed_kp: Keypoints, transform: Transform) -> Tensor:
    """Eq. 11 as |1 - J⁻¹ J_T J_transformed|; the inverse on one side keeps Jacobians from collapsing."""
    with full_precision(like=kp["value"]):
        jacobian = at_least_float32(transformed_kp["jacobian"])  # (B, K, 2, 2)
        expected = transform.jacobian(transformed_kp["value"]) @ jacobian
        product = inverse_2x2(kp["jacobian"]) @ expected
    return (torch.eye(2, device=product.device, dtype=product.dtype) - product).abs().mean()


def keypoint_prior_loss(kp: Keypoints, threshold: float = 0.1) -> Tensor:
    """Keep keypoints apart: sum up how far the squared distance of each pair is below `threshold`.

    Source: Wang et al., "One-Shot Free-View Neural Talking-Head Synthesis", CVPR 2021.
    """
    count = kp["value"].shape[1]
    first, second = torch.triu_indices(count, count, offset=1, device=kp["value"].device)
    squared_distance = (kp["value"][:, first] - kp["value"][:, second]).square().sum(-1)  # (B, pairs)
    return (threshold - squared_distance).clamp(min=0).sum(-1).mean()


def occlusion_prior_loss(occlusion_logit: Tensor) -> Tensor:
    """Keep an occlusion map off 0 and 1, where its sigmoid has no gradient left to learn from."""
    # Cross entropy of one half and the map, less its minimum: from logits its slope never fades.
    return ((F.softplus(occlusion_logit) + F.softplus(-occlusion_logit)) / 2).mean() - math.log(2)


def mask_prior_loss(mask: Tensor, threshold: float = 0.01) -> Tensor:
    """Keep the motions of a mask (B, K+1, h, w) in use: sum up how far log shares are below log `threshold`.

    A motion that lost all its pixels has next to no gradient from the pictures, and would never come back.
    """
    shares = mask.mean(dim=(0, 2, 3))  # (K+1,)
    return (math.log(threshold) - shares.clamp(min=1e-12).log()).clamp(min=0).sum()


def local_motion_loss(sparse_deformed: Tensor, driving: Tensor, kp_driving: Keypoints) -> Tensor:
    """Compare the source under each keypoint's motion (B, K+1, C, h, w) with the driving frame around it.

    The pictures teach a keypoint only where the mask follows it. This loss does everywhere.
    """
    height, width = sparse_deformed.shape[3:]
    target = F.adaptive_avg_pool2d(driving, (height, width)).unsqueeze(1)  # (B, 1, C, h, w)
    error = (sparse_deformed[:, 1:] - target).abs().mean(2)  # (B, K, h, w)
    # Keypoints must not move to where any motion is right.
    window = kp2gaussian(detach_kp(kp_driving), (height, width), kp_variance=0.01)  # (B, K, h, w)
    return ((error * window).sum((2, 3)) / window.sum((2, 3))).mean()


# ---- The table of terms ------------------------------------------------------


class Requirement(NamedTuple):
    """A check of a config's `model_params`, and what it asks for in words."""

    met_by: Callable[[dict], bool]
    words: str


@dataclass(frozen=True)
class Term:
    """A term of the generator's loss: `loss(*needs)` times its weight, left out where the weight is 0."""

    name: str  # in logs
    loss: Callable[..., Tensor]
    needs: tuple[str, ...]  # the arguments of `loss`, by their names in `Values`
    weight: str = ""  # the key of the weight in `train_params.loss_weights`, by default the name
    weighs_features: bool = False  # the weight is a list, a number for each feature map, for `loss`
    published: bool = False  # the key is in every published config and must not be left out
    only_with: str | None = None  # the key of another weight, without which this term is left out too
    requires: Requirement | None = None  # what the config's networks must have

    @property
    def key(self) -> str:
        return self.weight or self.name

    def wanted(self, weights: dict[str, Any]) -> bool:
        """Whether a config's `loss_weights` ask for this term."""
        weight = weights.get(self.key) or 0
        own = any(weight) if isinstance(weight, list | tuple) else weight != 0
        return own and (self.only_with is None or weights[self.only_with] != 0)

    def weighed(self, weights: dict[str, Any], values: Values) -> Tensor:
        arguments = [getattr(values, name) for name in self.needs]
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
    Term("local_motion", local_motion_loss, ("sparse_deformed", "driving", "kp_driving"), requires=MOTION),
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

# ---- What terms are computed from ----------------------------------------------


def once(compute: Callable[[Values], Any]) -> property:
    """Make `compute` a property that keeps its value. `functools.cached_property` can't be compiled."""

    def get(values: Values) -> Any:
        if compute not in values._kept:
            values._kept[compute] = compute(values)
        return values._kept[compute]

    return property(get)


def pyramid_of(name: str) -> property:
    """Make a property of the pyramid of the value `name`."""
    return once(lambda values: values._model.pyramid(getattr(values, name)))


class Values:
    """Every value that a term may need, under its name; the properties are computed when first asked for."""

    # The batch, (B, C, H, W) in [0, 1].
    source: Tensor
    driving: Tensor
    # What detector and generator give.
    kp_source: Keypoints
    kp_driving: Keypoints
    prediction: Tensor  # (B, C, H, W)
    deformed: Tensor  # (B, C, H, W), with dense motion, as the next two
    mask: Tensor  # (B, K+1, h, w)
    sparse_deformed: Tensor  # (B, K+1, C, h, w)
    occlusion_map: Tensor  # (B, 1, h, w), where it is estimated, as the next
    occlusion_logit: Tensor  # (B, 1, h, w)
    painted: Tensor  # (B, C, H, W), with `image_skip`

    def __init__(
        self,
        model: GeneratorFullModel,
        x: dict[str, Tensor],
        generated: dict[str, Any],
        drawn: dict[str, Tensor] | None,
    ):
        self._model, self._drawn = model, drawn
        self._kept: dict[Callable, Any] = {}
        for name, value in (x | generated).items():
            setattr(self, name, value)

    @classmethod
    def check(cls, term: Term) -> None:
        """Raise `ValueError` if a term needs what is no value."""
        names = set(cls.__annotations__) | {name for name in vars(cls) if not name.startswith("_")}
        unknown = [name for name in term.needs if name not in names]
        if unknown:
            raise ValueError(f"the loss '{term.name}' needs {unknown}; there are {sorted(names)}")

    real_pyramid = pyramid_of("driving")
    generated_pyramid = pyramid_of("prediction")
    deformed_pyramid = pyramid_of("deformed")
    painted_pyramid = pyramid_of("painted")

    @once
    def generated_features(self) -> list[list[Tensor]]:
        return [self._model.vgg(level) for level in self.generated_pyramid.values()]

    @once
    def real_features(self) -> list[list[Tensor]]:
        with torch.no_grad():
            return [self._model.vgg(level) for level in self.real_pyramid.values()]

    @once
    def _judged(self) -> tuple[dict, dict]:
        """What the discriminator says of the prediction, and of the driving frame."""
        kp = detach_kp(self.kp_driving)
        generated = self._model.discriminator(self.generated_pyramid, kp=kp)
        with torch.no_grad():
            return generated, self._model.discriminator(self.real_pyramid, kp=kp)

    @property
    def generated_judgements(self) -> list[Tensor]:
        return [self._judged[0][f"prediction_map_{scale}"] for scale in self._model.discriminator.scales]

    @property
    def generated_maps(self) -> list[list[Tensor]]:
        return [self._judged[0][f"feature_maps_{scale}"] for scale in self._model.discriminator.scales]

    @property
    def real_maps(self) -> list[list[Tensor]]:
        return [self._judged[1][f"feature_maps_{scale}"] for scale in self._model.discriminator.scales]

    @once
    def transform(self) -> Transform:
        if self._drawn is not None:
            return Transform.from_state(self._drawn)
        params = self._model.train_params["transform_params"]
        return Transform(len(self.driving), **params).to(self.driving)

    @once
    def transformed_frame(self) -> Tensor:
        """The driving frame under the transform, (B, C, H, W)."""
        return self.transform.transform_frame(self.driving, self._model.generator.warp_align_corners)

    @once
    def transformed_kp(self) -> Keypoints:
        return self._model.kp_extractor(self.transformed_frame)


# ---- Full models -------------------------------------------------------------


def detach_kp(kp: Keypoints) -> Keypoints:
    return {name: tensor.detach() for name, tensor in kp.items()}


class GeneratorFullModel(nn.Module):
    """Keypoint detector and generator with every loss they are trained on.

    `forward({"source": (B, 3, H, W), "driving": (B, 3, H, W)})` returns the weighted losses by name, but for
    those of weight 0, and what was generated: the generator's result, "kp_source", "kp_driving", and
    "transformed_frame", "transformed_kp" of the equivariance loss. Call it within `frozen(discriminator)`,
    which gets no gradients from it.
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
        for term in self.terms:
            Values.check(term)
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

        # Each term takes the values that it names.
        values = Values(self, x, generated, transform)
        losses = {term.name: term.weighed(self.loss_weights, values) for term in self.terms}
        if any("transform" in term.needs for term in self.terms):  # for pictures
            generated |= {name: getattr(values, name) for name in ("transformed_frame", "transformed_kp")}
        return losses, generated


class DiscriminatorFullModel(nn.Module):
    """The discriminator with its loss, of what `GeneratorFullModel` took and returned."""

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
