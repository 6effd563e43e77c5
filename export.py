"""Export a model as ONNX graphs, for programs without PyTorch and for `demo.py --engine`.

    python export.py --model vox --out vox-onnx
    python export.py --config config/vox-256.yaml --checkpoint vox-cpk.pth.tar --out vox-onnx

The folder gets three graphs and manifest.json, which names their inputs, outputs and shapes. encoder.onnx
runs once for a source, keypoints.onnx for each frame, and frame.onnx makes a prediction from what they give.
ONNX Runtime then animates with them, and the export is only kept if no pixel differs from PyTorch's by more
than 1/255.
"""

from __future__ import annotations

import utils.openmp  # noqa: F401 - sets how torch's threads wait

import argparse
from pathlib import Path

from utils.errors import UserError
from utils.options import OptionParser
from utils.program import command_line


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OptionParser(__doc__)
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
    # Here, so that --help and a mistyped option answer at once, without PyTorch.
    from checkpoints.files import find_checkpoint
    from checkpoints.hub import find_model
    from inference.engines import check_installed
    from inference.exports import export_model
    from inference.graphs import NEEDED
    from modules.build import read_config

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
