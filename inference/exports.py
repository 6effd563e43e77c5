"""Exports of models: folders of ONNX graphs, written, checked, and kept in the cache for engines."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import pooch
import torch

from checkpoints.hub import CACHE, one_process_at_a_time
from inference.engines import EngineDetector, EngineGenerator, open_networks
from inference.graphs import NEEDED, OPSET, export_graphs, largest_difference
from inference.networks import load_networks, model_size
from utils.errors import UserError
from utils.files import new_folder

FORMAT = 1  # of the folder; another number makes the cached ones be exported anew
MAX_DIFFERENCE = 1 / 255
CPU = torch.device("cpu")

# ---- A whole export ------------------------------------------------------------


def export_model(config: dict, config_path: str | Path, checkpoint: Path, folder: Path) -> float:
    """Write graphs and manifest to `folder`, which is new; returns the largest difference to PyTorch.

    It is there when all of it is written and checked, or not at all. Raises `UserError`.
    """
    size = model_size(config, config_path)
    networks = load_networks(config, config_path, checkpoint, CPU, plain=True)
    with new_folder(folder) as temporary:
        export_graphs(*networks, size, temporary)
        difference = largest_difference(networks, open_networks("onnxruntime", temporary), size)
        if not difference <= MAX_DIFFERENCE:
            raise UserError(
                f"{checkpoint}: its export differs from PyTorch by {255 * difference:.2g} grey levels of 255 "
                "and is not kept; another version of torch or onnxruntime may export it right"
            )
        manifest = {
            "format": FORMAT,
            "config": Path(config_path).stem,
            "size": list(size),
            "checkpoint": {"file": checkpoint.name, "sha256": sha256(checkpoint)},
            "opset": OPSET,
            "graphs": {path.stem: described(path) for path in sorted(temporary.glob("*.onnx"))},
            "largest_difference": difference,
            "versions": {"python": platform.python_version(), "torch": torch.__version__}
            | {package: importlib.metadata.version(package) for package in NEEDED},
        }
        text = json.dumps(manifest, indent=1) + "\n"
        (temporary / "manifest.json").write_text(text, encoding="utf-8")
    return difference


def described(path: Path) -> dict[str, object]:
    """The entry of a graph in the manifest."""
    import onnx

    graph = onnx.load(path).graph

    def shapes(values: Any) -> dict[str, list[int | str]]:
        return {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in values
        }

    return {
        "file": path.name,
        "sha256": sha256(path),
        "inputs": shapes(graph.input),
        "outputs": shapes(graph.output),
    }


def sha256(path: Path) -> str:
    return pooch.file_hash(str(path), alg="sha256")


# ---- The user's cache ----------------------------------------------------------


def engine_networks(
    engine: str, config: dict, config_path: str | Path, checkpoint: Path, cache: Path = CACHE
) -> tuple[EngineGenerator, EngineDetector]:
    """A model in an engine. It is exported into the folder `cache` the first time. Raises `UserError`."""
    content = {"checkpoint": sha256(checkpoint), "model": config["model_params"], "format": FORMAT}
    content["size"] = model_size(config, config_path)
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    folder = cache / "onnx" / key[:32]
    with one_process_at_a_time(folder):
        if not is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            print(f"hint: {checkpoint.name} is exported once, to {folder}", file=sys.stderr)
            export_model(config, config_path, checkpoint, folder)
    return open_networks(engine, folder)


def is_whole(folder: Path) -> bool:
    """Whether the graphs are those that the folder's manifest names."""
    try:
        graphs = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["graphs"]
        return all(sha256(folder / graph["file"]) == graph["sha256"] for graph in graphs.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
