"""Draw puppets from a seed: an endless, licence-free dataset of cartoon heads that move.

    python data/make_puppets.py --videos 400 --frames 32 --size 128 --format mp4 --out data/made-puppets

writes `train/` and `test/`, ready for `FramesDataset`. No identity is in both; of every ten identities the
last is for testing. A clip is `id00012#00003.mp4`, or a folder of png files `id00012#00003/`: clip 3 of
identity 12, counted from 0. Clips of an identity share the puppet and differ in background and motion.

Beside each clip lies `id00012#00003.npz`: `xy`, float32 (frames, 10, 2), true places of landmarks in [-1, 1],
also where they are hidden or outside the frame; `names`, the ten `LANDMARKS`, where left is the left of the
picture when the puppet faces us; `openness`, float32 (frames, 2), of lids and mouth, 0 shut to 1 open;
`moving`, float32 (frames, 3, 2), the middles of the left and the right upper lid and of the lower lip.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT, PATHS = str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")
if __name__ == "__main__" and not __package__ and ROOT not in PATHS.split(os.pathsep):
    # Python looks for imports beside the script that it is given; ours lie in the repository root.
    paths = os.pathsep.join(filter(None, [ROOT, PATHS]))
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONPATH": paths})

from data.puppets.dataset import make_dataset
from utils.options import MAX_SEED, option, read_options
from utils.program import command_line
from utils.signals import exit_on_signals


@dataclass(frozen=True)
class PuppetOptions:
    """The command line: the arguments of `make_dataset`."""

    videos: int = option(400, "number of clips, four for each identity (default 400)", bounds=(2, 10**6))
    frames: int = option(32, "frames in a clip (default 32)", bounds=(1, 10**5))
    size: int = option(128, "width and height of a frame in pixels (default 128)", bounds=(16, 2**12))
    format: str = option("png", "what a clip is: a folder or a video", choices=("png", "mp4"))
    framing: str = option(
        "close",
        "wide: the head fills half of the picture and turns further (default close: it talks and blinks)",
        choices=("close", "wide"),
    )
    out: Path = option(Path("data/made-puppets"), "new folder to write (data/made-puppets)")
    seed: int = option(0, "the same seed gives the same dataset (default 0)", bounds=(0, MAX_SEED))


@command_line
def main(argv: list[str] | None = None) -> None:
    description = "Draw a dataset of cartoon heads that move, with their true landmarks."
    options = read_options(PuppetOptions, argv, description)
    with exit_on_signals():
        make_dataset(**vars(options))


if __name__ == "__main__":
    main()
