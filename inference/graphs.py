"""A model as three ONNX graphs, for programs without PyTorch.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faces.paste import calm_border
from inference.animator import Animator
from inference.networks import InferenceNetworks, load_networks, model_size
from media.pictures import Size
from modules.build import read_config
from modules.fast import in_fast_form
from modules.generator import OcclusionAwareGenerator, SourceEncoding
from modules.keypoint_detector import KPDetector
from utils.errors import UserError
from utils.files import new_folder

FORMAT = 1  # of the folder
OPSET = 20
MAX_DIFFERENCE = 1 / 255
NEEDED = ("onnx", "onnxscript", "onnxruntime")  # by an export and its check

# ---- Parts ---------------------------------------------------------------------


Named = dict[str, Tensor]


class GraphPart(nn.Module):
    """A network and what of it becomes a graph: a function from tensors by name to tensors by name.

    `inputs` are examples; those named in `batched` may have a batch of any size.
    """

    def __init__(
        self, network: nn.Module, compute: Callable[[Named], Named], inputs: Named, batched: set[str]
    ):
        super().__init__()
        self.network, self.compute, self.inputs, self.batched = network, compute, inputs, batched

    def forward(self, *tensors: Tensor) -> Named:
        return self.compute(dict(zip(self.inputs, tensors, strict=True)))


@torch.no_grad()
def parts_of(
    generator: OcclusionAwareGenerator, kp_detector: KPDetector, size: Size, movement: Tensor | None
) -> dict[str, GraphPart]:
    def encode(inputs: Named) -> Named:
        encoding = generator.encode(inputs["source"])
        return {"small": encoding.small, "features": encoding.features}

    def find(inputs: Named) -> Named:
        return kp_detector(inputs["frame"])

    def generate(inputs: Named) -> Named:
        image = inputs.get("source", inputs["small"])  # only `image_skip` reads it
        encoding = SourceEncoding(image, inputs["small"], inputs["features"])
        kp_source, kp_driving = (
            {name: inputs[f"{whose}_{name}"] for name in ("value", "jacobian") if f"{whose}_{name}" in inputs}
            for whose in ("source", "driving")
        )
        out = generator.generate(encoding, kp_driving, kp_source, deformed=False, movement=movement)
        return {"prediction": out["prediction"]}

    source, driving = textures(3, size).split([1, 2])
    inputs = {"source": source} if generator.image_skip else {}
    inputs |= encode({"source": source})
    inputs |= {f"source_{name}": tensor for name, tensor in kp_detector(source).items()}
    of_driving = {f"driving_{name}": tensor for name, tensor in kp_detector(driving).items()}
    return {
        "encoder": GraphPart(generator, encode, {"source": driving}, {"source"}),
        "keypoints": GraphPart(kp_detector, find, {"frame": driving}, {"frame"}),
        "frame": GraphPart(generator, generate, inputs | of_driving, set(of_driving)),
    }


# ---- Export ------------------------------------------------------------------


def check_installed(purpose: str, *packages: str) -> None:
    """Raise `UserError` unless all the packages can be imported."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{purpose} needs {', '.join(missing)}: pip install {' '.join(missing)}")


def export_model(config_path: Path, checkpoint: Path, folder: Path, calm: bool = False) -> float:
    """Write graphs and manifest to a new folder; return the largest difference to PyTorch, in [0, 1].

    `calm`: movement fades at all four sides, for results that are pasted back.
    """
    config = read_config(config_path)
    size = model_size(config, config_path)
    networks = load_networks(config, config_path, checkpoint, torch.device("cpu"), plain=True)
    movement = torch.from_numpy(calm_border(np.ones(4, bool), size))[None, None] if calm else None
    with new_folder(folder) as temporary:
        # Write, and compare.
        export_graphs(*networks, size, temporary, movement)
        graphs = open_graphs(temporary)
        difference = largest_difference(networks, graphs, size, movement)
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
            "calm_border": calm,
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
    generator: OcclusionAwareGenerator,
    kp_detector: KPDetector,
    size: Size,
    folder: Path,
    movement: Tensor | None = None,
) -> None:
    """Write the three graphs of plain networks on the CPU into `folder`; batches may have any size."""
    if in_fast_form(generator) or in_fast_form(kp_detector):
        raise ValueError("no engine runs the graphs of the fast form; export the plain networks")
    if generator.dense_motion_network is None:
        raise UserError("a model without dense motion can't be exported: nothing in it moves")
    for name, part in parts_of(generator.eval(), kp_detector.eval(), size, movement).items():
        write_graph(part.eval(), folder / f"{name}.onnx")


@torch.no_grad()
def write_graph(part: GraphPart, path: Path) -> None:
    batch, examples = torch.export.Dim("batch", min=1), tuple(part.inputs.values())
    shapes: Any = tuple({0: batch} if name in part.batched else None for name in part.inputs)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(
            part,
            examples,
            path,
            input_names=list(part.inputs),
            output_names=list(part(*examples)),
            dynamic_shapes=(shapes,),  # of `*tensors`
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


def largest_difference(
    networks: InferenceNetworks, graphs: dict[str, Any], size: Size, movement: Tensor | None = None
) -> float:
    """Return by how much any pixel, in [0, 1], of PyTorch's and the graphs' predictions differs at most."""
    source, driving = textures(5, size).split([1, 4])
    animator = Animator(*networks, source, movement=movement)
    expected = torch.cat([out["prediction"] for out in animator.animate(driving)])

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
