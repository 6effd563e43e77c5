"""Logs, checkpoints and pictures of a training run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.draw import disk
from torch import Tensor, nn

from checkpoints.files import load_parts, read_checkpoint, set_aside_later, write_checkpoint
from media.pictures import to_uint8, write_image
from trackers import NoTracker, Tracker
from utils.errors import UserError
from utils.files import atomic_write, regular_file

MAX_LOG_BYTES = 2**30

# ---- Scores ------------------------------------------------------------------


class Logger:
    """Writes the files of a training run.

    - `log.txt`: a line an epoch with the mean of each loss.
    - `log.jsonl`: the same for programs, with speed, memory and validation; and the losses of every
      `STEPS_PER_LINE`-th step.
    - `train-vis/`: pictures.
    - `%08d-checkpoint.pth.tar`: every `checkpoint_freq` epochs. Others are named in checkpoint.py.

    Going on from `start`, an (epoch, step), drops the lines of later times and sets later checkpoints aside.
    """

    STEPS_PER_LINE = 100

    def __init__(
        self,
        log_dir: str | Path,
        checkpoint_freq: int = 100,
        visualizer_params: dict | None = None,
        zfill_num: int = 8,
        log_file_name: str = "log.txt",
        start: tuple[int, int] = (0, 0),
    ):
        self.folder = Path(log_dir)
        self.checkpoint_freq, self.zfill_num = checkpoint_freq, zfill_num
        self.visualizer = Visualizer(**(visualizer_params or {}))
        self.scores_path, self.machine_path = self.folder / log_file_name, self.folder / "log.jsonl"
        self.tracker: Tracker = NoTracker()
        pictures = self.folder / "train-vis"
        pictures.mkdir(parents=True, exist_ok=True)
        self._forget_after(start)
        for leftover in (path for folder in (self.folder, pictures) for path in folder.glob("*.tmp")):
            leftover.unlink()
        set_aside_later(self.folder, start)

    def _forget_after(self, start: tuple[int, int]) -> None:
        """Drop the lines of what the run does again. Both files are read before one is written."""
        moments = {self.scores_path: moment_of_scores, self.machine_path: moment_of_entry}
        kept = {path: lines_before(start, path, moment) for path, moment in moments.items() if path.exists()}
        for path, text in kept.items():
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def log_iter(self, epoch: int, step: int, losses: dict[str, float]) -> None:
        """Note the losses of one step; `step` counts within the epoch."""
        if step % self.STEPS_PER_LINE == 0:
            self._write_machine_line({"epoch": epoch, "step": step, "losses": losses})

    def log_epoch(self, epoch: int, losses: dict[str, float], measured: dict[str, Any]) -> None:
        """Note the mean losses of a finished epoch, and what was measured of its speed and memory."""
        scores = "; ".join(f"{name} - {value:.5f}" for name, value in losses.items())
        with self.scores_path.open("a", encoding="utf-8") as file:
            file.write(f"{epoch:0{self.zfill_num}d}) {scores}\n")
        self._write_machine_line({"epoch": epoch, "losses": losses} | measured)
        scalars = {f"loss/{name}": value for name, value in losses.items()}
        scalars |= {f"validation/{name}": value for name, value in measured.get("validation", {}).items()}
        self.tracker.scalars(scalars, epoch)

    def _write_machine_line(self, entry: dict) -> None:
        with self.machine_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def visualize_rec(
        self,
        epoch: int,
        inp: dict[str, Tensor],
        out: dict[str, Tensor],
        step: int | None = None,
        name: str = "rec",
    ) -> None:
        """Draw a batch and what was generated from it; `step` for a picture within the epoch."""
        image = self.visualizer.visualize(inp["driving"], inp["source"], out)
        moment = f"{epoch:0{self.zfill_num}d}" + ("" if step is None else f"-{step:06d}")
        write_image(self.folder / "train-vis" / f"{moment}-{name}.png", image)
        self.tracker.image("reconstruction" if name == "rec" else name, image, epoch)

    def checkpoint_is_due(self, epoch: int) -> bool:
        return (epoch + 1) % self.checkpoint_freq == 0

    def save_cpk(self, epoch: int, content: dict, name: str | None = None) -> Path:
        """Write `content` as the checkpoint of `epoch`, or under another `name`."""
        path = self.folder / (name or f"{epoch:0{self.zfill_num}d}-checkpoint.pth.tar")
        write_checkpoint(content, path)
        return path

    @staticmethod
    def load_cpk(
        checkpoint_path: str | Path,
        generator: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        kp_detector: nn.Module | None = None,
        optimizer_generator: torch.optim.Optimizer | None = None,
        optimizer_discriminator: torch.optim.Optimizer | None = None,
        optimizer_kp_detector: torch.optim.Optimizer | None = None,
        config_path: str | Path = "the config",
    ) -> int | None:
        """Load what is given from a checkpoint; return its epoch (None in files with weights only).

        Raises `CheckpointError` if a part is missing or fits another config.
        """
        content = read_checkpoint(checkpoint_path)
        parts = {
            "generator": generator,
            "discriminator": discriminator,
            "kp_detector": kp_detector,
            "optimizer_generator": optimizer_generator,
            "optimizer_discriminator": optimizer_discriminator,
            "optimizer_kp_detector": optimizer_kp_detector,
        }
        load_parts(
            content,
            {name: part for name, part in parts.items() if part is not None},
            checkpoint_path,
            config_path,
        )
        return content.get("epoch")


Moment = tuple[int, float]  # epoch and step; a line of a whole epoch comes after all of its steps


def moment_of_scores(line: str) -> Moment:
    """The moment of a line of `log.txt`. Raises `ValueError` for a line of another kind."""
    return int(line.split(")")[0]), math.inf


def moment_of_entry(line: str) -> Moment:
    """The moment of a line of `log.jsonl`. Raises `ValueError` for a line of another kind."""
    entry = json.loads(line)
    if not isinstance(entry, dict):
        raise ValueError("no mapping")
    epoch, step = entry.get("epoch"), entry.get("step", math.inf)
    if not isinstance(epoch, int) or not isinstance(step, int | float):
        raise ValueError("no epoch, or a step that is no number")
    return epoch, step


def lines_before(start: tuple[int, int], path: Path, moment: Callable[[str], Moment]) -> str:
    """The lines of a log from before `start`, without a last one that was not written to its end.

    Raises `UserError` for a line of which `moment` can't tell when it was written.
    """
    what = "is not what training wrote there; mend it, or move the file away and go on without it"
    try:
        *lines, _ = regular_file(path, UserError, MAX_LOG_BYTES).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: its text {what}") from error
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            if moment(line) < start:
                kept.append(line + "\n")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} {what}") from error
    return "".join(kept)


# ---- Pictures ----------------------------------------------------------------


class Visualizer:
    """Draws what the networks saw and did, a row for each image of a batch.

    `kp_size`: radius of a keypoint in pixels. `draw_border`: a white line around each picture. `colormap`:
    matplotlib's name of the colours of the keypoints. Raises `UserError` for one that it lacks.
    """

    MAX_ROWS = 8

    def __init__(self, kp_size: int = 5, draw_border: bool = False, colormap: str = "gist_rainbow"):
        import matplotlib  # slow, and only drawing needs it

        if colormap not in matplotlib.colormaps:
            raise UserError(
                f"visualizer_params.colormap: matplotlib has no colormap '{colormap}'; try gist_rainbow"
            )
        self.kp_size, self.draw_border, self.colormap = kp_size, draw_border, matplotlib.colormaps[colormap]

    def visualize(self, driving: Tensor, source: Tensor, out: dict) -> np.ndarray:
        """Columns: source, transformed frame, driving, deformed, prediction, occlusion, motions and masks.

        `driving`, `source` (B, 3, H, W) in [0, 1]; `out` is the generator's result with "kp_source" and
        "kp_driving". Columns of what `out` lacks are left out. Returns uint8 (rows·H, columns·W, 3) of the
        first `MAX_ROWS` images.
        """
        height, width = source.shape[2:]
        size = (height, width)
        columns = [(source, out["kp_source"])]
        if "transformed_frame" in out:
            columns.append((out["transformed_frame"], out["transformed_kp"]))
        columns.append((driving, out["kp_driving"]))
        if "deformed" in out:
            columns.append((out["deformed"], None))
        columns.append((out["prediction"], None))
        if "kp_norm" in out:
            columns.append((out["prediction"], out["kp_norm"]))
        if "occlusion_map" in out:
            columns.append((enlarge(out["occlusion_map"], size), None))
        if "sparse_deformed" in out:
            columns += [(image, None) for image in self._motions(out["sparse_deformed"], out["mask"], size)]
        grid = np.concatenate([self._column(image, kp) for image, kp in columns], axis=1)
        return to_uint8(grid)

    def with_keypoints(self, image: Tensor, kp: dict[str, Tensor]) -> np.ndarray:
        """An image (1, 3, H, W) in [0, 1] with keypoints (1, K, ...) drawn on it: (H, W, 3) uint8."""
        return to_uint8(self._column(image, kp))

    def _motions(self, sparse_deformed: Tensor, mask: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """The source under each motion, followed by where that is used, in the colour of its keypoint."""
        images = []
        for i, rgb in enumerate([np.ones(3), *self._colors(mask.shape[1] - 1)]):
            color = torch.as_tensor(rgb, dtype=mask.dtype, device=mask.device).view(1, 3, 1, 1)
            images.append(enlarge(sparse_deformed[:, i], size))
            images.append(enlarge(mask[:, i : i + 1], size) * color)
        return images

    def _colors(self, count: int) -> list[np.ndarray]:
        return [np.array(self.colormap(i / count)[:3]) for i in range(count)]

    def _column(self, images: Tensor, kp: dict[str, Tensor] | None) -> np.ndarray:
        """Images (B, 1 or 3, H, W), drawn upon and stacked: float (rows·H, W, 3)."""
        rows = images[: self.MAX_ROWS].detach().float().expand(-1, 3, -1, -1)
        pictures = rows.permute(0, 2, 3, 1).cpu().numpy().copy()  # (rows, H, W, 3)
        for i, image in enumerate(pictures):
            if kp is not None:
                self._draw_keypoints(image, kp["value"][i].detach().float().cpu().numpy())
            if self.draw_border:
                image[[0, -1]], image[:, [0, -1]] = 1, 1
        return np.concatenate(list(pictures), axis=0)

    def _draw_keypoints(self, image: np.ndarray, points: np.ndarray) -> None:
        """Draw points (K, 2), xy in [-1, 1], as discs onto an image (H, W, 3)."""
        height, width = image.shape[:2]
        pixels = (points + 1) / 2 * (width - 1, height - 1)
        for (x, y), color in zip(pixels, self._colors(len(points)), strict=True):
            rows, columns = disk((y, x), self.kp_size, shape=(height, width))
            image[rows, columns] = color


def enlarge(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat the pixels of (B, C, h, w) until they fill `size`."""
    return nn.functional.interpolate(images, size=size)
