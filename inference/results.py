"""The folder that reconstruction and animation write their videos and predictions to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from frames_dataset import LazyClip
from inference.animator import Animator
from logger import Visualizer
from media.pictures import write_image
from media.tensors import to_pixels
from media.writer import VideoWriter
from utils.errors import UserError
from utils.progress import Progress


class Results:
    """The folder of a mode: `<name><suffix>`, drawings of inputs and results, and predictions in `png/`.

    `png/<name>.png` is a lossless strip. Raises `UserError` if the folder can't be made.
    """

    def __init__(self, folder: Path, suffix: str, visualizer_params: dict | None, skip_existing: bool):
        self.folder, self.suffix, self.skip_existing = folder, suffix, skip_existing
        self.visualizer = Visualizer(**(visualizer_params or {}))
        try:
            (folder / "png").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: can't be made ({error}); choose another --log_dir") from error

    def paths(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}{self.suffix}", self.folder / "png" / f"{name}.png"

    def to_skip(self, name: str) -> bool:
        return self.skip_existing and all(path.exists() for path in self.paths(name))

    def write(
        self, name: str, animator: Animator, driving: LazyClip, progress: Progress
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Animate and write; yield each driving frame and its prediction, (3, H, W) each."""
        video_path, strip_path = self.paths(name)
        height, width = driving.size
        strip = np.empty((height, len(driving) * width, 3), np.uint8)
        with VideoWriter(video_path, driving.fps) as writer:
            for i, out in enumerate(animator.animate(driving, deformed=True)):
                out.pop("sparse_deformed", None)  # columns of each motion are for training's pictures
                writer.write(self.visualizer.visualize(out["driving"], animator.source, out))
                prediction = out["prediction"][0].float()
                strip[:, i * width : (i + 1) * width] = to_pixels(prediction)
                progress.advance(1, name)
                yield out["driving"][0], prediction
            write_image(strip_path, strip)
