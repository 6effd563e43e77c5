"""What a rough box costs: a puppet off-centre in a large picture, animated and pasted back by the demo.

    python -m benchmarks.paste_back [--clips 4] [--frames 8] [--show FILE.png]

A puppet of 512 pixels hangs in a picture of 1024x768. Its first frame is animated with its later ones, cut
out by a box by hand that is larger than the puppet's picture and beside it. The same is done with a box that
fits exactly. L1 is the mean absolute difference in [0, 1] to the true frames, where the puppet's picture is.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import demo
from data.puppets.dataset import Clip
from data.puppets.render import render
from media.clips import open_clip
from media.pictures import write_image
from media.writer import VideoWriter
from utils.options import OptionParser
from utils.program import command_line

SEED = 7117  # no dataset of this project is made with it
LEFT, TOP, SIDE = 430, 150, 512
EXACT = (LEFT, TOP, LEFT + SIDE, TOP + SIDE)
ROUGH = (LEFT - 34, TOP - 12, LEFT + SIDE + 10, TOP + SIDE + 32)


def scene(number: int, frames: int) -> list[np.ndarray]:
    """Frames (768, 1024, 3) of a puppet that moves."""
    puppet, poses = Clip(Path(), SEED, number, 0, 24, SIDE).performance()
    wall = np.tile(np.linspace(80, 180, 1024, dtype=np.uint8)[None, :, None], (768, 1, 3))
    pictures = []
    for t in np.linspace(0, 23, frames).round().astype(int):
        picture = wall.copy()
        picture[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = render(puppet, poses[t], SIDE)
        pictures.append(picture)
    return pictures


def animated(folder: Path, box: tuple[int, int, int, int]) -> list[np.ndarray]:
    """The frames that the demo makes of `photo.png` and `video` in a folder."""
    place = ",".join(map(str, box))
    files = ["--source_image", str(folder / "photo.png"), "--driving_video", str(folder / "video")]
    files += ["--result_video", str(folder / "result")]
    demo.main([*files, "--crop_source", place, "--crop_driving", place, "--paste_back", "--cpu"])
    return list(open_clip(folder / "result"))


def distance(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """L1 in the puppet's picture, of all frames but the first, which is the source."""
    left, top, right, bottom = EXACT
    inside = (np.stack(frames[1:])[:, top:bottom, left:right] / np.float32(255) for frames in (a, b))
    return float(np.abs(np.subtract(*inside)).mean())


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser("Compare a rough box with one that fits exactly.")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--show", type=Path, help="write the last clip's frames: true, exact, rough")
    options = parser.parse_args(argv)
    rows = []
    for number in range(options.clips):
        true = scene(number, options.frames)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_image(folder / "photo.png", true[0])
            with VideoWriter(folder / "video", 25) as writer:
                for frame in true:
                    writer.write(frame)
            exact, rough = (animated(folder, box) for box in (EXACT, ROUGH))
        rows.append((distance(exact, true), distance(rough, true)))
        outside = np.ones(true[0].shape[:2], bool)
        outside[ROUGH[1] : ROUGH[3], ROUGH[0] : ROUGH[2]] = False
        assert all((frame[outside] == true[0][outside]).all() for frame in rough)
    if options.show is not None:
        write_image(options.show, np.concatenate([true[-1], exact[-1], rough[-1]], axis=1)[::2, ::2])
    exact_l1, rough_l1 = np.mean(rows, axis=0)
    print(f"{options.clips} clips of {options.frames} frames, {1024}x{768}")
    print(f"exact box L1 {exact_l1:.4f}, rough box L1 {rough_l1:.4f}: {rough_l1 / exact_l1 - 1:+.1%}")


if __name__ == "__main__":
    main()
