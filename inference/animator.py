"""Motion transfer: keypoints of a driving video, carried over to a source image, frame by frame.

Shapes: `B` batch, `K` keypoints, `H, W` image size.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from modules.fast import in_fast_form
from modules.generator import OcclusionAwareGenerator, encode_larger
from modules.keypoint_detector import KPDetector
from modules.util import Keypoints, full_precision, inverse_2x2
from utils.device import autocast
from utils.errors import CheckpointError
from utils.pipeline import in_order

Item = TypeVar("Item")

# ---- Keypoint transfer -------------------------------------------------------


def normalize_kp(
    kp_source: Keypoints,
    kp_driving: Keypoints,
    kp_driving_initial: Keypoints,
    adapt_movement_scale: bool = False,
    use_relative_movement: bool = False,
    use_relative_jacobian: bool = False,
    strength: float = 1.0,
) -> Keypoints:
    """Return the keypoints that the source takes on for a driving frame (paper Sec. 3.4).

    Without `use_relative_movement` those of the driving frame. With it the source's own, moved as the driving
    keypoints have moved since the initial frame and, with `use_relative_jacobian`, turned by the product of
    Jacobians J_driving J_initial⁻¹. `adapt_movement_scale` scales the movement by the ratio of the two
    objects' sizes, the square roots of the areas of their keypoints' convex hulls (1 where keypoints lie on a
    line and have no area).

    `strength` multiplies the movement. Of Jacobians it multiplies the difference of their change to the
    identity: 1 + strength (J_driving J_initial⁻¹ - 1), which is exact at 0 and 1 and, unlike a power, always
    real.

    Batch sizes are B or 1; the result has batch size B.
    """
    if not use_relative_movement:
        return dict(kp_driving)
    movement = kp_driving["value"] - kp_driving_initial["value"]  # (B, K, 2)
    if adapt_movement_scale:
        movement = movement * size_ratio(kp_source["value"], kp_driving_initial["value"])
    kp_new = dict(kp_driving) | {"value": kp_source["value"] + strength * movement}
    if use_relative_jacobian and "jacobian" in kp_driving:
        with full_precision(like=movement):
            change = kp_driving["jacobian"] @ inverse_2x2(kp_driving_initial["jacobian"]).to(movement.dtype)
            if strength != 1:
                change = torch.lerp(torch.eye(2).to(change), change, strength)
            kp_new["jacobian"] = change @ kp_source["jacobian"]  # (B, K, 2, 2)
    return kp_new


def size_ratio(value_a: Tensor, value_b: Tensor) -> Tensor:
    """Return how many times as large as `value_b` (B, K, 2) the keypoints `value_a` are: (B, 1, 1)."""
    pairs = zip(*torch.broadcast_tensors(value_a, value_b), strict=True)
    ratios = [
        np.sqrt(a / b) if a > 0 and b > 0 else 1.0
        for a, b in ((hull_area(a), hull_area(b)) for a, b in pairs)
    ]
    return value_a.new_tensor(ratios).view(-1, 1, 1)


def hull_area(points: Tensor) -> float:
    """Return the area of the convex hull of points (K, 2); 0 if they lie on a line.

    Raises `CheckpointError` for NaN.
    """
    from scipy.spatial import ConvexHull, QhullError  # slow, and absolute movement needs none

    check_finite(points)
    try:
        return ConvexHull(points.detach().cpu().double().numpy()).volume
    except QhullError:
        return 0.0


def pose(value: Tensor) -> Tensor:
    """Return keypoints (B, K, 2) without place and size: centred, with a convex hull of area 1 if any."""
    areas = value.new_tensor([hull_area(points) or 1.0 for points in value]).view(-1, 1, 1)
    return (value - value.mean(dim=1, keepdim=True)) / areas.sqrt()


class Animator:
    """One source image that any number of driving frames move; every way to inference goes through it.

    `source`: (1, 3, H, W) in [0, 1]; it is encoded once, on the device where it and the networks are.
    `normalization_params`: arguments of `normalize_kp`; None drives with the frames' own keypoints, as
    reconstruction does. `batch_size`: driving frames that go through the networks together. `precision`:
    "fp32", "bf16" or "fp16"; networks in fast form have their own. `large`: the source as (1, 3, N, M), for
    predictions of that size. `movement`: (1, 1, H, W) in [0, 1], how much of the motion is kept at each
    place. `alpha`: (1, 1, ., .) in [0, 1], how opaque the source is in the size of the predictions.
    """

    def __init__(
        self,
        generator: OcclusionAwareGenerator,
        kp_detector: KPDetector,
        source: Tensor,
        normalization_params: dict | None = None,
        batch_size: int = 1,
        precision: str = "fp32",
        large: Tensor | None = None,
        movement: Tensor | None = None,
        alpha: Tensor | None = None,
    ):
        self.generator, self.kp_detector = generator.eval(), kp_detector.eval()
        self.source, self.normalization_params = source, normalization_params
        self.batch_size, self.movement = batch_size, movement
        self.precision = "fp32" if in_fast_form(generator) else precision
        with torch.inference_mode(), autocast(source.device, self.precision):
            if large is None:
                self.encoding = self.generator.encode(source)
            else:
                self.encoding = encode_larger(self.generator, large, source)
            self.kp_source = self.kp_detector(source)
        self.has_alpha = alpha is not None
        if alpha is not None:
            self.encoding = self.encoding._replace(image=torch.cat([self.encoding.image, alpha], dim=1))

    def find(self, frame: Tensor) -> Keypoints:
        """Return the keypoints (1, K, ...) of a driving frame (3, H, W) in [0, 1]."""
        return next(self.detect([frame]))["kp_driving"]

    def pose_distance(self, keypoints: Keypoints) -> float:
        """Return how far keypoints (1, K, ...) are from the source's, apart from place and size."""
        own = pose(self.kp_source["value"])  # (1, K, 2)
        return (pose(keypoints["value"].to(own.device)) - own).square().sum().item()

    def animate(
        self, frames: Iterable[Tensor], initial: Keypoints | None = None, deformed: bool = False
    ) -> Iterator[dict]:
        """Yield the generator's result, of batch size 1, for each driving frame (3, H, W) in [0, 1].

        With it comes what `detect` and `generate` give. A CPU's cores compute batches side by side
        (`in_order`), and no more of them are held.
        """
        return self.generate(self.detect(frames), initial, deformed)

    def detect(self, frames: Iterable[Tensor]) -> Iterator[dict]:
        """Yield each driving frame (3, H, W) as "driving" (1, 3, H, W), with its "kp_driving"."""
        batches = batched(frames, self.batch_size)
        return itertools.chain.from_iterable(in_order(self._detect_batch, batches, self.source.device))

    @torch.inference_mode()
    def _detect_batch(self, batch: list[Tensor]) -> list[dict]:
        # Frames come one by one, and go on one by one.
        driving = torch.stack(batch).to(self.source)  # (B, 3, H, W)
        with autocast(self.source.device, self.precision):
            out = {"driving": driving, "kp_driving": self.kp_detector(driving)}
        return [item_of(out, i) for i in range(len(batch))]

    def generate(
        self, detected: Iterable[dict], initial: Keypoints | None = None, deformed: bool = False
    ) -> Iterator[dict]:
        """Yield dictionaries with the "kp_driving" of one frame, and with the generator's result beside it.

        Relative movement is measured from the keypoints `initial` (1, K, ...), without them from the first
        that come. "kp_source" comes along and, where keypoints are transferred, "kp_norm". `deformed`: with
        the source image under the flow alone, which a `Visualizer` draws.
        """
        detected = iter(detected)
        # Without a reference the first item is it.
        if self.normalization_params is not None and initial is None:
            first = next(detected, None)
            if first is None:
                return
            initial, detected = first["kp_driving"], itertools.chain([first], detected)
        if initial is not None:
            initial = join([initial], self.source.device)
        generate_batch = functools.partial(self._generate_batch, initial=initial, deformed=deformed)
        batches = batched(detected, self.batch_size)
        yield from itertools.chain.from_iterable(in_order(generate_batch, batches, self.source.device))

    @torch.inference_mode()
    def _generate_batch(self, batch: list[dict], initial: Keypoints | None, deformed: bool) -> list[dict]:
        kp = kp_driving = join([item["kp_driving"] for item in batch], self.source.device)
        out: dict[str, Any] = {"kp_source": expand(self.kp_source, len(batch))}
        with autocast(self.source.device, self.precision):
            if self.normalization_params is not None and initial is not None:
                kp = normalize_kp(self.kp_source, kp_driving, initial, **self.normalization_params)
                out["kp_norm"] = kp
            out |= self.generator.generate(
                self.encoding,
                kp,
                self.kp_source,
                deformed=deformed or self.has_alpha,
                movement=self.movement,
            )
        check_finite(*kp.values(), out["prediction"])
        return [item | item_of(out, i) for i, item in enumerate(batch)]


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last may be shorter. No more than one is held."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def join(keypoints: Sequence[Keypoints], device: torch.device) -> Keypoints:
    """Return keypoints of single frames as a batch."""
    return {name: torch.cat([kp[name] for kp in keypoints]).to(device) for name in keypoints[0]}


def check_finite(*tensors: Tensor) -> None:
    """Raise `CheckpointError` for inf or NaN from the networks, which would end in black or torn pictures."""
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise CheckpointError(
            "the networks' results are not finite numbers: the checkpoint's weights are damaged, or too "
            "large for --precision fp16; try fp32, or another checkpoint"
        )


def expand(kp: Keypoints, batch: int) -> Keypoints:
    return {name: tensor.expand(batch, *tensor.shape[1:]) for name, tensor in kp.items()}


def item_of(batched: dict, index: int) -> dict:
    """Return item `index` of every tensor in a dictionary of dictionaries, as batches of one."""
    return {
        name: item_of(value, index) if isinstance(value, dict) else value[index : index + 1]
        for name, value in batched.items()
    }
