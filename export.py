"""Export a model as ONNX graphs, for programs without PyTorch and for `demo.py --engine`.

    python export.py --model vox --out vox-onnx
    python export.py --config config/vox-256.yaml --checkpoint vox-cpk.pth.tar --out vox-onnx

The folder gets three graphs and manifest.json, which names their inputs, outputs and shapes. encoder.onnx
runs once for a source, keypoints.onnx for each frame, and frame.onnx makes a prediction from what they give.
ONNX Runtime then animates with them, and the export is only kept if no pixel differs from PyTorch's by more
than 1/255.
"""

from __future__ import annotations

import openmp  # noqa: F401 - sets how torch's threads wait

import argparse
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

from checkpoint import find_checkpoint
from engines import EngineDetector, EngineGenerator, check_installed, open_networks
from files import new_folder
from graphs import NEEDED, OPSET, export_graphs, largest_difference
from modules.build import read_config
from modules.errors import UserError, command_line
from networks import load_networks, model_size
from weights import CACHE, find_model, one_process_at_a_time

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


# ---- The command line ----------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="NAME", help="a model by name, as of demo.py")
    parser.add_argument("--offline", action="store_true", help="never download a model")
    parser.add_argument("--config", type=Path, help="the YAML config that the model was trained with")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="a .pth.tar or .safetensors file, or the folder of a run, whose newest one is taken",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    options = parser.parse_args(argv)
    given = (options.model is not None, options.config is not None, options.checkpoint is not None)
    if given not in [(True, False, False), (False, True, True)]:
        parser.error("give --model, or --config and --checkpoint")
    return options


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    check_installed("export.py", *NEEDED)
    if options.out.exists():
        raise UserError(f"--out {options.out} exists already; name a new folder, or remove it first")
    if options.model is not None:
        config_path, checkpoint = find_model(options.model, options.offline)
    else:
        config_path, checkpoint = options.config, find_checkpoint(options.checkpoint)
    difference = export_model(read_config(config_path), config_path, checkpoint, options.out)
    print(f"{options.out}: differs from PyTorch by {255 * difference:.2g} grey levels of 255 at most")


if __name__ == "__main__":
    main()
