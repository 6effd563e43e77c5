"""A model as three ONNX graphs, for programs without PyTorch.

encoder.onnx runs once for a source, keypoints.onnx for each frame, and frame.onnx makes a prediction from
what they give.

Shapes: `B` batch, `K` keypoints, `H, W` the model's size.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.animator import Animator
from inference.networks import InferenceNetworks, load_networks, model_size
from media.pictures import Size
from modules.build import read_config
from modules.fast import in_fast_form
from modules.generator import OcclusionAwareGenerator, SourceEncoding
from modules.keypoint_detector import KPDetector
from modules.util import Keypoints
from utils.errors import UserError
from utils.files import new_folder

FORMAT = 1  # of the folder
OPSET = 20
MAX_DIFFERENCE = 1 / 255
NEEDED = ("onnx", "onnxscript", "onnxruntime")  # by an export and its check

# ---- Parts ---------------------------------------------------------------------


class EncoderGraph(nn.Module):
    """What is computed once for a source (B, 3, H, W)."""

    def __init__(self, generator: OcclusionAwareGenerator):
        super().__init__()
        self.generator = generator

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        encoding = self.generator.encode(source)
        return encoding.small, encoding.features


class KeypointGraph(nn.Module):
    """The keypoints of frames (B, 3, H, W): (B, K, 2) and, where the model has them, (B, K, 2, 2)."""

    def __init__(self, kp_detector: KPDetector):
        super().__init__()
        self.kp_detector = kp_detector

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.kp_detector(frame).values())


class FrameGraph(nn.Module):
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


class GraphPart(NamedTuple):
    """A network to export: examples of its inputs by name, those with a batch of any size, its outputs."""

    network: nn.Module
    inputs: dict[str, Tensor]
    batched: set[str]
    outputs: list[str]


def frame_inputs(source: SourceEncoding, kp_driving: Keypoints, kp_source: Keypoints) -> dict[str, Tensor]:
    """Return what a frame is made of, by the names that frame.onnx has for it."""
    values = {"source": source.image, "small": source.small, "features": source.features}
    for whose, keypoints in (("source", kp_source), ("driving", kp_driving)):
        values |= {f"{whose}_{name}": tensor for name, tensor in keypoints.items()}
    return values


@torch.no_grad()
def parts_of(generator: OcclusionAwareGenerator, kp_detector: KPDetector, size: Size) -> dict[str, GraphPart]:
    source, driving = textures(3, size).split([1, 2])
    encoding, kp_source, kp_driving = generator.encode(source), kp_detector(source), kp_detector(driving)
    inputs = frame_inputs(encoding, kp_driving, kp_source)
    if not generator.image_skip:
        del inputs["source"]
    of_driving = {name for name in inputs if name.startswith("driving_")}
    return {
        "encoder": GraphPart(EncoderGraph(generator), {"source": driving}, {"source"}, ["small", "features"]),
        "keypoints": GraphPart(KeypointGraph(kp_detector), {"frame": driving}, {"frame"}, list(kp_driving)),
        "frame": GraphPart(FrameGraph(generator, list(inputs)), inputs, of_driving, ["prediction"]),
    }


# ---- Export ------------------------------------------------------------------


def check_installed(purpose: str, *packages: str) -> None:
    """Raise `UserError` unless all the packages can be imported."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{purpose} needs {', '.join(missing)}: pip install {' '.join(missing)}")


def export_model(config_path: Path, checkpoint: Path, folder: Path) -> float:
    """Write graphs and manifest to `folder`, which is new; return the largest difference to PyTorch.

    The folder is there when all of it is written and checked, or not at all. Raises `UserError`.
    """
    config = read_config(config_path)
    size = model_size(config, config_path)
    networks = load_networks(config, config_path, checkpoint, torch.device("cpu"), plain=True)
    with new_folder(folder) as temporary:
        # Write, and compare.
        export_graphs(*networks, size, temporary)
        graphs = open_graphs(temporary)
        difference = largest_difference(networks, graphs, size)
        if not difference <= MAX_DIFFERENCE:
            raise UserError(
                f"{checkpoint}: its export differs from PyTorch by {255 * difference:.2g} grey levels of 255 "
                "and is not kept; another version of torch or onnxruntime may export it right"
            )
        # Say what is there.
        manifest = {
            "format": FORMAT,
            "config": config_path.stem,
            "size": list(size),
            "checkpoint": {"file": checkpoint.name, "sha256": sha256(checkpoint)},
            "opset": OPSET,
            "graphs": {
                name: {
                    "file": f"{name}.onnx",
                    "sha256": sha256(temporary / f"{name}.onnx"),
                    "inputs": {entry.name: entry.shape for entry in graph.get_inputs()},
                    "outputs": {entry.name: entry.shape for entry in graph.get_outputs()},
                }
                for name, graph in sorted(graphs.items())
            },
            "largest_difference": difference,
            "versions": {"python": platform.python_version(), "torch": torch.__version__}
            | {package: importlib.metadata.version(package) for package in NEEDED},
        }
        text = json.dumps(manifest, indent=1) + "\n"
        (temporary / "manifest.json").write_text(text, encoding="utf-8")
    return difference


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
def write_graph(part: GraphPart, path: Path) -> None:
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
            dynamic_shapes=(shapes,) if isinstance(part.network, FrameGraph) else shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- The check ------------------------------------------------------------------


def textures(count: int, size: Size) -> Tensor:
    """Return smooth pictures that differ from each other: (count, 3, H, W) in [0, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)


def open_graphs(folder: Path) -> dict[str, Any]:
    """Open the three graphs in ONNX Runtime, by name."""
    import onnxruntime  # optional

    only = ["CPUExecutionProvider"]
    return {path.stem: onnxruntime.InferenceSession(path, providers=only) for path in folder.glob("*.onnx")}


def largest_difference(networks: InferenceNetworks, graphs: dict[str, Any], size: Size) -> float:
    """Compare predictions of PyTorch and of opened graphs, in [0, 1]: the largest difference of any pixel."""
    source, driving = textures(5, size).split([1, 4])
    expected = torch.cat([out["prediction"] for out in Animator(*networks, source).animate(driving)])

    def run(name: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs, outputs = graphs[name].get_inputs(), graphs[name].get_outputs()
        arrays = graphs[name].run(None, {entry.name: values[entry.name] for entry in inputs})
        return dict(zip([entry.name for entry in outputs], arrays, strict=True))

    known = {"source": source.numpy()} | run("encoder", {"source": source.numpy()})
    known |= {f"source_{name}": array for name, array in run("keypoints", {"frame": source.numpy()}).items()}
    # The graphs animate as their readers would.
    found = []
    for frames in driving.split(3):  # batches of 3 and of 1
        keypoints = run("keypoints", {"frame": frames.numpy()})
        values = known | {f"driving_{name}": array for name, array in keypoints.items()}
        found.append(run("frame", values)["prediction"])
    return float(np.abs(expected.numpy() - np.concatenate(found)).max())
