"""Measure how calm the border of a pasted piece is, for 12 puppets, with its movement faded and without.

    python -m tools.benchmarks.border [--sheet FILE.png]

A square is cut out of a larger drawing, animated relative to another puppet's first frame, and put back.
"border" and "middle" are the mean differences of the results to the drawing, in levels of 255, in the outer
tenth of the square and in the rest. The sheet shows drawing, result without and result with the fade.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from faces.paste import Paster, calm_border
from faces.regions import Region, cut_out
from inference.animation import transfer
from inference.animator import Animator
from inference.interface import load_checkpoints
from inference.networks import size_for
from inference.samples import SAMPLE
from media.pictures import write_image
from media.tensors import to_pixels, to_tensor
from tools.pictures import film, performance, portrait
from utils.options import OptionParser
from utils.program import command_line

PUPPETS, FRAMES, SIDE = 12, 12, 512
REGION = Region.of_box((61, 20, 451, 410))  # it cuts through the shoulders


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("--sheet", type=Path, help="a picture of the results")
    sheet = parser.parse_args(argv).sheet
    networks = load_checkpoints(SAMPLE["config"], SAMPLE["checkpoint"], cpu=True)
    size = size_for(networks[0], SAMPLE["source_image"])
    movement = calm_border(np.ones(4, bool), size)
    border = movement <= 0.5  # the outer tenth
    figures, rows = [], []
    for number in range(PUPPETS):
        picture = portrait(number, SIDE)
        piece = cut_out(picture, REGION, size)
        driving = [to_tensor(frame) for frame in film(40 - number, size[0], performance(40 - number, FRAMES))]
        paster, row = Paster(picture.shape[:2], [REGION]), [picture]
        for fade in (None, torch.from_numpy(movement)[None, None]):
            source = to_tensor(piece).unsqueeze(0)
            animator = Animator(*networks, source, transfer(True, True), movement=fade)
            results = [to_pixels(out["prediction"][0]) for out in animator.animate(driving)]
            difference = np.abs(np.stack(results).astype(int) - piece).mean(axis=(0, 3))  # (H, W)
            figures.append((difference[border].mean(), difference[~border].mean()))
            before = None if fade is None else paster.before(picture, [piece])
            row.append(paster.paste(picture, [results[-1]], before))
        rows.append(np.concatenate(row, axis=1)[::2, ::2])
    means = np.array(figures).reshape(PUPPETS, 2, 2).mean(axis=0)
    for name, (at_border, in_middle) in zip(("without", "with"), means, strict=True):
        print(f"{name:8} border {at_border:.2f}, middle {in_middle:.2f} levels of 255")
    if sheet is not None:
        half = PUPPETS // 2
        columns = [np.concatenate(rows[:half]), np.concatenate(rows[half:])]
        write_image(sheet, np.concatenate(columns, axis=1))


if __name__ == "__main__":
    main()
