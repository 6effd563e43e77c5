"""Exported networks in another engine than PyTorch: ONNX Runtime or OpenVINO, on the CPU.

    generator, kp_detector = open_networks("onnxruntime", folder)

`folder` is what export.py wrote. The two are called as the networks are, by an `Animator` for one.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.generator import OcclusionAwareGenerator, SourceEncoding
from modules.keypoint_detector import KPDetector
from modules.util import Keypoints
from utils.errors import UserError
from utils.pipeline import workers_for

Values = dict[str, Tensor]  # by the names of a graph's inputs or outputs, float32 on the CPU
Graph = Callable[[Values], Values]  # takes what it needs of the values; threads may share it

# ---- Networks ------------------------------------------------------------------


class EngineDetector(nn.Module):
    """A `KPDetector` of which a graph computes everything."""

    def __init__(self, keypoints: Graph):
        super().__init__()
        self.keypoints = keypoints

    def forward(self, x: Tensor) -> Keypoints:
        return self.keypoints({"frame": x})


class EngineGenerator(nn.Module):
    """An `OcclusionAwareGenerator` of which two graphs compute everything; it gives predictions alone."""

    def __init__(self, encoder: Graph, frame: Graph):
        super().__init__()
        self.encoder, self.frame = encoder, frame

    def encode(self, source_image: Tensor) -> SourceEncoding:
        out = self.encoder({"source": source_image})
        return SourceEncoding(source_image, out["small"], out["features"])

    def generate(
        self, source: SourceEncoding, kp_driving: Keypoints, kp_source: Keypoints, deformed: bool = False
    ) -> dict[str, Tensor]:
        """Raises `ValueError` if more than "prediction" is wanted."""
        if deformed:
            raise ValueError("an engine gives no deformed source; use PyTorch's networks")
        return self.frame(frame_inputs(source, kp_driving, kp_source))


AnyGenerator = OcclusionAwareGenerator | EngineGenerator
AnyDetector = KPDetector | EngineDetector
AnyNetworks = tuple[AnyGenerator, AnyDetector]


def frame_inputs(source: SourceEncoding, kp_driving: Keypoints, kp_source: Keypoints) -> Values:
    """What a frame is made of, by the names that frame.onnx has for it."""
    values = {"source": source.image, "small": source.small, "features": source.features}
    for whose, keypoints in (("source", kp_source), ("driving", kp_driving)):
        values |= {f"{whose}_{name}": tensor for name, tensor in keypoints.items()}
    return values


# ---- Engines -------------------------------------------------------------------


def open_onnxruntime(path: Path, threads: int, workers: int) -> Graph:
    """A graph that `workers` call at the same time, with `threads` in all."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads - workers + 1  # a caller is one of them
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = [entry.name for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs()]

    def run(values: Values) -> Values:
        arrays = session.run(outputs, {name: values[name].contiguous().numpy() for name in inputs})
        return dict(zip(outputs, map(torch.from_numpy, arrays), strict=True))

    return run


def open_openvino(path: Path, threads: int, workers: int) -> Graph:
    """The same. In float32 even where the processor has bfloat16, which OpenVINO would take by itself."""
    import openvino

    settings = {
        "NUM_STREAMS": workers,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = openvino.Core().compile_model(path, "CPU", settings)
    inputs = [entry.any_name for entry in model.inputs]
    outputs = [entry.any_name for entry in model.outputs]
    own = threading.local()  # a request serves one thread

    def run(values: Values) -> Values:
        if not hasattr(own, "request"):
            own.request = model.create_infer_request()
        arrays = own.request.infer({name: values[name].contiguous().numpy() for name in inputs})
        return {name: torch.from_numpy(arrays[name]) for name in outputs}

    return run


OPENERS: dict[str, Callable[[Path, int, int], Graph]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}


def open_networks(
    engine: str, folder: Path, threads: int | None = None, workers: int | None = None
) -> tuple[EngineGenerator, EngineDetector]:
    """The networks of an export, in an engine that is installed.

    `threads`: those of PyTorch by default. `workers`: how many frames are computed side by side, by default
    as many as `in_order` does. Raises `UserError` for graphs that the engine can't read.
    """
    threads = threads or torch.get_num_threads()
    workers = workers or workers_for(threads)
    try:
        encoder, keypoints, frame = (
            OPENERS[engine](folder / f"{name}.onnx", threads, workers)
            for name in ("encoder", "keypoints", "frame")
        )
    except ImportError:
        raise
    except Exception as error:  # each engine has its own, some of which have no other base
        raise UserError(
            f"{folder}: {engine} can't open its graphs ({type(error).__name__}); remove the folder and "
            "export again"
        ) from error
    return EngineGenerator(encoder, frame), EngineDetector(keypoints)


def check_installed(purpose: str, *packages: str) -> None:
    """Raise `UserError` unless all the packages can be imported."""
    missing = [name for name in dict.fromkeys(packages) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{purpose} needs {', '.join(missing)}: pip install {' '.join(missing)}")
