"""Reduce a training checkpoint to the weights that inference needs, about a quarter of its size.

    python strip_checkpoint.py log/vox-256_2026-01-31_12-00-00 vox-small.pth.tar
    python strip_checkpoint.py vox-small.pth.tar vox-small.safetensors

The suffix of the output decides the format. A .safetensors file can hold no pickle, and any program that
knows the format reads it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from utils.errors import UserError
from utils.options import OptionParser
from utils.program import command_line

SUFFIXES = (".pth.tar", ".pth", ".pt", ".safetensors")


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument(
        "checkpoint",
        help="a .pth.tar or .safetensors file, or the folder of a run, whose newest one is taken",
    )
    parser.add_argument(
        "output", type=Path, help="the .pth.tar or .safetensors file to write; it must not exist"
    )
    options = parser.parse_args(argv)
    # Here, so that --help answers at once, without PyTorch.
    from checkpoints.files import find_checkpoint, inference_weights, read_checkpoint, write_checkpoint

    if not options.output.name.lower().endswith(SUFFIXES):
        raise UserError(f"{options.output}: end the name with {' or '.join(SUFFIXES)}, which says the format")
    if options.output.exists() or not options.output.parent.is_dir():
        raise UserError(f"{options.output}: exists already, or its folder does not; choose another name")
    content = read_checkpoint(find_checkpoint(options.checkpoint))
    write_checkpoint(inference_weights(content), options.output)
    data = options.output.read_bytes()
    print(f"{options.output}: {len(data) / 2**20:.1f} MiB, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
