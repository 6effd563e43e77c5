"""Export a model: the weights that inference needs, or ONNX graphs for programs without PyTorch.

    python export.py --checkpoint log/vox-256_2026-01-31_12-00-00 --out vox-small.pth.tar
    python export.py --checkpoint vox-small.pth.tar --out vox-small.safetensors
    python export.py --config config/vox-256.yaml --checkpoint vox-cpk.pth.tar --out vox-onnx
    python export.py --model vox --out vox-onnx

A name that ends in .pth.tar, .pth, .pt or .safetensors becomes a file of the weights alone, about a quarter
of a training checkpoint. A .safetensors file can hold no pickle.

Any other name becomes a folder with three graphs and manifest.json, which names their inputs, outputs and
shapes. encoder.onnx runs once for a source, keypoints.onnx for each frame, and frame.onnx makes a prediction
from what they give. The export is only kept if, in ONNX Runtime, no pixel differs from PyTorch's by more
than 1/255.
"""

from __future__ import annotations

import utils.openmp  # noqa: F401 - sets how torch's threads wait

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.options import OptionParser, add_options, option, typed
from utils.program import command_line, say

SUFFIXES = (".pth.tar", ".pth", ".pt", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    model: str | None = option(None, "a model by name, as of demo.py", metavar="NAME")
    offline: bool = option(False, "never download a model")
    config: Path | None = option(None, "the YAML config that the model was trained with")
    checkpoint: Path | None = option(
        None, "a .pth.tar or .safetensors file, or the folder of a run, whose newest one is taken"
    )
    out: Path | None = option(None, "a new file of weights, or a new folder for graphs", metavar="PATH")
    calm_border: bool = option(
        False, "graphs whose movement fades at the border, to be pasted into a picture"
    )


def parse(argv: list[str] | None) -> ExportOptions:
    parser = OptionParser(__doc__)
    add_options(parser, ExportOptions)
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)  # of an earlier program
    parsed = parser.parse_args(argv)
    options = typed(ExportOptions, parsed)
    if parsed.paths:
        parser.error("paths have names: export.py --checkpoint CHECKPOINT --out OUTPUT")
    if options.out is None:
        parser.error("the following arguments are required: --out")
    given = (options.model is not None, options.config is not None, options.checkpoint is not None)
    if given not in [(True, False, False), (False, True, True)]:
        if not is_weights(options.out):
            parser.error(
                "give --model, or --config and --checkpoint; a file of weights needs --checkpoint alone, and "
                f"an --out that ends with {' or '.join(SUFFIXES)}"
            )
        if given != (False, False, True):
            parser.error("give --checkpoint, or --model")
    return options


def is_weights(out: Path) -> bool:
    return out.name.lower().endswith(SUFFIXES)


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    # Here, so that --help and a mistyped option answer at once, without PyTorch.
    from checkpoints import files, hub
    from inference import graphs

    # Is there room for it?
    out = options.out
    assert out is not None
    if is_weights(out):
        if out.exists() or not out.parent.is_dir():
            raise UserError(f"{out}: exists already, or its folder does not; choose another name")
    else:
        graphs.check_installed("export.py", *graphs.NEEDED)
        if out.exists():
            raise UserError(f"--out {out} exists already; name a new folder, or remove it first")

    # Which model?
    config_path, checkpoint = options.config, options.checkpoint
    if options.model is not None:
        config_path, checkpoint = hub.find_model(options.model, options.offline)
    assert checkpoint is not None
    checkpoint = files.find_checkpoint(checkpoint)

    # Weights
    if is_weights(out):
        files.write_checkpoint(files.inference_weights(files.read_checkpoint(checkpoint)), out)
        data = out.read_bytes()
        say(f"{out}: {len(data) / 2**20:.1f} MiB, sha256 {hashlib.sha256(data).hexdigest()}")
        return

    # Graphs
    assert config_path is not None
    difference = graphs.export_model(config_path, checkpoint, out, options.calm_border)
    say(f"{out}: differs from PyTorch by {255 * difference:.2g} grey levels of 255 at most")


if __name__ == "__main__":
    main()
