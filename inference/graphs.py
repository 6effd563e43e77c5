"""The networks of a model as three ONNX graphs; export.py makes a folder of them.

encoder.onnx runs once for a source, keypoints.onnx for each frame, and frame.onnx makes a prediction from
what they give.

Shapes: `B` batch, `K` keypoints, `H, W` the model's size.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.animator import Animator
from inference.engines import AnyNetworks, frame_inputs
from media.pictures import Size
from modules.fast import in_fast_form
from modules.generator import OcclusionAwareGenerator, SourceEncoding
from modules.keypoint_detector import KPDetector
from utils.errors import UserError

OPSET = 20
NEEDED = ("onnx", "onnxscript", "onnxruntime")  # by an export and its check

# ---- Parts ---------------------------------------------------------------------


class Encoder(nn.Module):
    """What is computed once for a source (B, 3, H, W)."""

    def __init__(self, generator: OcclusionAwareGenerator):
        super().__init__()
        self.generator = generator

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        encoding = self.generator.encode(source)
        return encoding.small, encoding.features


class Detector(nn.Module):
    """The keypoints of frames (B, 3, H, W): (B, K, 2) and, where the model has them, (B, K, 2, 2)."""

    def __init__(self, kp_detector: KPDetector):
        super().__init__()
        self.kp_detector = kp_detector

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.kp_detector(frame).values())


class Frame(nn.Module):
    """Predictions (B, 3, H, W) from the encoding and keypoints of a source and driving keypoints (B, ...)."""

    def __init__(self, generator: OcclusionAwareGenerator, inputs: Sequence[str]):
        super().__init__()
        self.generator, self.inputs = generator, inputs

    def forward(self, *tensors: Tensor) -> Tensor:
        values = dict(zip(self.inputs, tensors, strict=True))
        image = values.get("source", values["small"])  # only `image_skip` reads it
        encoding = SourceEncoding(image, values["small"], values["features"])
        kp_source, kp_driving = (
            {name: values[f"{whose}_{name}"] for name in ("value", "jacobian") if f"{whose}_{name}" in values}
            for whose in ("source", "driving")
        )
        return self.generator.generate(encoding, kp_driving, kp_source, deformed=False)["prediction"]


class Part(NamedTuple):
    """A network to export: examples of its inputs by name, those with a batch of any size, its outputs."""

    network: nn.Module
    inputs: dict[str, Tensor]
    batched: set[str]
    outputs: list[str]


@torch.no_grad()
def parts_of(generator: OcclusionAwareGenerator, kp_detector: KPDetector, size: Size) -> dict[str, Part]:
    source, driving = textures(3, size).split([1, 2])
    encoding, kp_source, kp_driving = generator.encode(source), kp_detector(source), kp_detector(driving)
    inputs = frame_inputs(encoding, kp_driving, kp_source)
    if not generator.image_skip:
        del inputs["source"]
    of_driving = {name for name in inputs if name.startswith("driving_")}
    return {
        "encoder": Part(Encoder(generator), {"source": driving}, {"source"}, ["small", "features"]),
        "keypoints": Part(Detector(kp_detector), {"frame": driving}, {"frame"}, list(kp_driving)),
        "frame": Part(Frame(generator, list(inputs)), inputs, of_driving, ["prediction"]),
    }


# ---- Export ------------------------------------------------------------------


def export_graphs(
    generator: OcclusionAwareGenerator, kp_detector: KPDetector, size: Size, folder: Path
) -> None:
    """Write the three graphs of plain networks on the CPU into `folder`.

    Batches may have any size, but a frame has one source. Raises `UserError` for networks without dense
    motion, and `ValueError` for those in fast form: what the exporter makes of their slabs runs in no engine.
    """
    if in_fast_form(generator) or in_fast_form(kp_detector):
        raise ValueError("no engine runs the graphs of the fast form; export the plain networks")
    if generator.dense_motion_network is None:
        raise UserError("a model without dense motion can't be exported: nothing in it moves")
    for name, part in parts_of(generator.eval(), kp_detector.eval(), size).items():
        write_graph(part, folder / f"{name}.onnx")


@torch.no_grad()
def write_graph(part: Part, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    shapes: Any = tuple({0: batch} if name in part.batched else None for name in part.inputs)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(
            part.network.eval(),
            tuple(part.inputs.values()),
            path,
            input_names=list(part.inputs),
            output_names=part.outputs,
            dynamic_shapes=(shapes,) if isinstance(part.network, Frame) else shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


# ---- The check ------------------------------------------------------------------


def textures(count: int, size: Size) -> Tensor:
    """Smooth pictures that differ from each other: (count, 3, H, W) in [0, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)


def largest_difference(networks: AnyNetworks, others: AnyNetworks, size: Size) -> float:
    """Of any pixel of predictions in [0, 1], for batches of 3 and of 1."""
    source, driving = textures(5, size).split([1, 4])
    one, other = (
        torch.cat([out["prediction"] for out in Animator(*pair, source, batch_size=3).animate(driving)])
        for pair in (networks, others)
    )
    return (one - other).abs().max().item()
