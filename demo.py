"""Animate a picture with a video: the object in the picture moves as the one in the video does.

    python demo.py
    python demo.py --model vox --relative --adapt_scale --audio \\
        --source_image portrait.jpg --driving_video talk.mp4

Without --model, or --config and --checkpoint, the small model of sup-mat/ is used, without --source_image
or --driving_video its sample. Several sources and driving videos make all pairs, in a folder.

Frames are read, animated and written one after another, so the driving video may be of any length. In
notebooks, use `load_checkpoints` and `make_animation`.

Shapes: `h, w` size of a picture as it is, `H, W` size that the model takes.
"""

from __future__ import annotations

import utils.openmp  # noqa: F401 - sets how torch's threads wait

import argparse

from demo_options import read_options
from utils.program import command_line

if __name__ != "__main__":  # the published names, for notebooks
    from inference.interface import load_checkpoints, make_animation

__all__ = ["load_checkpoints", "main", "make_animation"]


def parse(argv: list[str] | None) -> argparse.Namespace:
    return read_options(argv, __doc__)


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    from inference.demo_run import (
        run_demo,  # here, so that --help and a mistyped option answer at once, without PyTorch
    )

    run_demo(options)


if __name__ == "__main__":
    main()
