"""Logs, checkpoints, pictures and curves of a training run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from skimage.draw import disk
from torch import Tensor, nn

from checkpoints.files import load_parts, read_checkpoint, set_aside_later, write_checkpoint
from media.pictures import to_uint8, write_image
from utils.errors import UserError
from utils.files import atomic_write, regular_file
from utils.values import integer

SCORES_LOG, MACHINE_LOG = "log.txt", "log.jsonl"
MAX_LOG_BYTES = 2**30

# ---- Scores ------------------------------------------------------------------


class Logger:
    """Writes the logs, pictures and checkpoints of a training run, and its curves to `curves`.

    `log.txt` has a line an epoch with the mean of each loss; `log.jsonl` has the same for programs, with
    speed, memory and validation, and every `STEPS_PER_LINE`-th step. Curves are over the steps of the run.
    """

    STEPS_PER_LINE = 100

    def __init__(
        self,
        log_dir: str | Path,
        checkpoint_freq: int = 100,
        visualizer_params: dict | None = None,
        zfill_num: int = 8,
        log_file_name: str = SCORES_LOG,
        curves: Any = None,
        steps_per_epoch: int = 1,
    ):
        self.folder, self.curves, self.steps_per_epoch = Path(log_dir), curves, steps_per_epoch
        self.checkpoint_freq, self.zfill_num = checkpoint_freq, zfill_num
        self.visualizer = Visualizer(**(visualizer_params or {}))
        self.scores_path, self.machine_path = self.folder / log_file_name, self.folder / MACHINE_LOG
        (self.folder / "train-vis").mkdir(parents=True, exist_ok=True)

    def log_iter(
        self, epoch: int, step: int, losses: dict[str, float], measured: dict[str, dict[str, float]]
    ) -> None:
        """Log the losses of a step and what else was measured; `step` counts within the epoch."""
        self._write_machine_line({"epoch": epoch, "step": step, "losses": losses} | measured)
        self._draw({"loss": losses} | measured, epoch * self.steps_per_epoch + step)

    def log_epoch(self, epoch: int, losses: dict[str, float], measured: dict[str, Any]) -> None:
        """Log the mean losses of a finished epoch, its speed and memory, and the validation."""
        scores = "; ".join(f"{name} - {value:.5f}" for name, value in losses.items())
        with self.scores_path.open("a", encoding="utf-8") as file:
            file.write(f"{epoch:0{self.zfill_num}d}) {scores}\n")
        self._write_machine_line({"epoch": epoch, "losses": losses} | measured)
        means = {"epoch": losses, "validation": measured.get("validation", {})}
        self._draw(means, (epoch + 1) * self.steps_per_epoch - 1)

    def _draw(self, points: dict[str, dict[str, float]], steps: int) -> None:
        if self.curves is not None:
            for kind, named in points.items():
                for name, value in named.items():
                    self.curves.add_scalar(f"{kind}/{name}", value, steps)

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
        """Draw a batch and the results for it; `step` for a picture within the epoch."""
        image = self.visualizer.visualize(inp["driving"], inp["source"], out)
        moment = f"{epoch:0{self.zfill_num}d}" + ("" if step is None else f"-{step:06d}")
        write_image(self.folder / "train-vis" / f"{moment}-{name}.png", image)
        if self.curves is not None:
            tag = "reconstruction" if name == "rec" else name
            done = epoch * self.steps_per_epoch + (self.steps_per_epoch if step is None else step)
            self.curves.add_image(tag, image, done - 1, dataformats="HWC")

    def close(self) -> None:
        if self.curves is not None:
            self.curves.close()

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
        """Load parts of a checkpoint; return its epoch, if it has one. Raises `CheckpointError`."""
        content = read_checkpoint(checkpoint_path)
        parts = {
            "generator": generator,
            "discriminator": discriminator,
            "kp_detector": kp_detector,
            "optimizer_generator": optimizer_generator,
            "optimizer_discriminator": optimizer_discriminator,
            "optimizer_kp_detector": optimizer_kp_detector,
        }
        given = {name: part for name, part in parts.items() if part is not None}
        load_parts(content, given, checkpoint_path, config_path)
        return content.get("epoch")


# ---- Resuming ----------------------------------------------------------------


def rewind(folder: Path, start: tuple[int, int]) -> None:
    """Drop the log lines of a run's folder from `start`, an (epoch, step), on; set later checkpoints aside.

    Raises `UserError` for a log of another kind, before anything is changed.
    """
    moments = {folder / SCORES_LOG: moment_of_scores, folder / MACHINE_LOG: moment_of_entry}
    kept = {path: lines_before(start, path, moment) for path, moment in moments.items() if path.exists()}
    for path, text in kept.items():
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    # What a killed process was writing.
    for leftover in [*folder.glob("*.tmp"), *folder.glob("train-vis/*.tmp")]:
        leftover.unlink()
    set_aside_later(folder, start)


Moment = tuple[int, float]  # epoch and step; the line of a whole epoch comes after all of its steps


def moment_of_scores(line: str) -> Moment:
    return integer(line.split(")")[0]), math.inf


def moment_of_entry(line: str) -> Moment:
    entry = json.loads(line)
    return entry["epoch"], entry.get("step", math.inf)


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a log, without one that was not written to its end."""
    return regular_file(path, UserError, MAX_LOG_BYTES).read_text(encoding="utf-8").split("\n")[:-1]


def lines_before(start: tuple[int, int], path: Path, moment: Callable[[str], Moment]) -> str:
    """Return the lines of a log from before `start`. Raises `UserError` for lines of another kind."""
    try:
        return "".join(f"{line}\n" for line in whole_lines(path) if moment(line) < start)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: holds something else than training writes there; mend it, or move the file away and go "
            "on without it"
        ) from error


# ---- Curves ------------------------------------------------------------------

TRACKERS = ("tensorboard", "wandb")  # the names of their packages


class WandbWriter:
    """Weights & Biases with the methods of TensorBoard's `SummaryWriter`."""

    def __init__(self, folder: Path, config: dict[str, Any]):
        import wandb  # optional

        name = folder.name  # also the run's id, so that a resumed run adds to its curves
        self.as_image = wandb.Image
        with wandb_errors():
            self.run = wandb.init(
                project="first-order-model", name=name, id=name, resume="allow", dir=folder, config=config
            )
        self.run.define_metric("*", step_metric="steps")

    def add_scalar(self, tag: str, value: float, steps: int) -> None:
        self.run.log({"steps": steps, tag: value})

    def add_image(self, tag: str, image: np.ndarray, steps: int, dataformats: str) -> None:
        self.run.log({"steps": steps, tag: self.as_image(image)})

    def close(self) -> None:
        self.run.finish()


@contextlib.contextmanager
def wandb_errors() -> Iterator[None]:
    """Turn what Weights & Biases refuses into a `UserError`."""
    import wandb  # optional

    try:
        yield
    except wandb.Error as error:
        raise UserError(
            f"--tracker wandb: {error}; log in (wandb login), or set WANDB_MODE=offline"
        ) from error


def check_tracker(name: str | None) -> None:
    """Raise `UserError` if the tracker that was asked for is not installed, or nobody is logged in."""
    if name is not None and importlib.util.find_spec(name) is None:
        raise UserError(
            f"--tracker {name}: is not installed here; pip install {name}, or leave --tracker out"
        )
    if name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online":
        import wandb  # optional

        with wandb_errors():
            wandb.login(verify=False)


def open_curves(tracker: str | None, folder: Path, config: dict[str, Any], begun: int) -> Any:
    """Open the writer of a tracker; by default TensorBoard's, or None where it is not installed.

    `begun`: the steps that the run has; TensorBoard drops later points, which the run left behind.
    """
    if tracker == "wandb":
        return WandbWriter(folder, config)
    try:
        from torch.utils.tensorboard import SummaryWriter  # optional

        return SummaryWriter(str(folder), purge_step=begun)
    except (ImportError, UnicodeEncodeError):  # it writes to no folder whose name is not UTF-8
        return None


# ---- Pictures ----------------------------------------------------------------


class Visualizer:
    """Draws inputs and results of the networks, a row for each image of a batch.

    `kp_size`: radius of a keypoint in pixels. Raises `UserError` for a `colormap` that matplotlib lacks.
    """

    MAX_ROWS = 8

    def __init__(self, kp_size: int = 5, draw_border: bool = False, colormap: str = "gist_rainbow"):
        if colormap not in matplotlib.colormaps:
            raise UserError(
                f"visualizer_params.colormap: matplotlib has no colormap {colormap!r}; try gist_rainbow"
            )
        self.kp_size, self.draw_border, self.colormap = kp_size, draw_border, matplotlib.colormaps[colormap]

    def visualize(self, driving: Tensor, source: Tensor, out: dict) -> np.ndarray:
        """Draw `driving`, `source` (B, 3, H, W) in [0, 1], and what became of them, at most `MAX_ROWS`.

        `out` is the generator's result with "kp_source" and "kp_driving"; columns for which it has nothing
        are left out. Returns uint8 (rows·H, columns·W, 3).
        """
        height, width = source.shape[2:]
        size = (height, width)
        # Frames, with their keypoints.
        columns = [(source, out["kp_source"])]
        if "transformed_frame" in out:
            columns.append((out["transformed_frame"], out["transformed_kp"]))
        columns.append((driving, out["kp_driving"]))
        # The results.
        if "deformed" in out:
            columns.append((out["deformed"], None))
        if "kp_norm" in out:
            columns.append((out["prediction"], out["kp_norm"]))
        columns.append((out["prediction"], None))
        # The motion.
        if "occlusion_map" in out:
            columns.append((enlarge(out["occlusion_map"], size), None))
        if "sparse_deformed" in out:
            columns += [(image, None) for image in self._motions(out["sparse_deformed"], out["mask"], size)]
        grid = np.concatenate([self._column(image, kp) for image, kp in columns], axis=1)
        return to_uint8(grid)

    def with_keypoints(self, image: Tensor, kp: dict[str, Tensor]) -> np.ndarray:
        """Draw keypoints (1, K, ...) on an image (1, 3, H, W) in [0, 1]: (H, W, 3) uint8."""
        return to_uint8(self._column(image, kp))

    def _motions(self, sparse_deformed: Tensor, mask: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """Return the source under each motion, each with its mask in a colour, then the sum of the masks."""
        colors = torch.as_tensor(np.array(self._colors(mask.shape[1] - 1)), dtype=mask.dtype).to(mask.device)
        masks = [enlarge(mask[:, i : i + 1], size) for i in range(mask.shape[1])]  # (B, 1, H, W) each
        # The background's mask is white, and black in the sum.
        coloured = [each * color.view(3, 1, 1) for each, color in zip(masks[1:], colors, strict=True)]
        images = []
        for i, drawn in enumerate([masks[0], *coloured]):
            images += [enlarge(sparse_deformed[:, i], size), drawn]
        return [*images, torch.stack(coloured).sum(0)]

    def _colors(self, count: int) -> list[np.ndarray]:
        return [np.array(self.colormap(i / count)[:3]) for i in range(count)]

    def _column(self, images: Tensor, kp: dict[str, Tensor] | None) -> np.ndarray:
        """Stack images (B, 1 or 3, H, W) with their keypoints: float (rows·H, W, 3)."""
        rows = images[: self.MAX_ROWS].detach().float().expand(-1, 3, -1, -1)
        pictures = rows.permute(0, 2, 3, 1).cpu().numpy().copy()  # (rows, H, W, 3)
        for i, image in enumerate(pictures):
            if kp is not None:
                self._draw_keypoints(image, kp["value"][i].detach().float().cpu().numpy())
            if self.draw_border:
                image[[0, -1]], image[:, [0, -1]] = 1, 1
        return np.concatenate(list(pictures), axis=0)

    def _draw_keypoints(self, image: np.ndarray, points: np.ndarray) -> None:
        """Draw points (K, 2), xy in [-1, 1], as discs on an image (H, W, 3)."""
        height, width = image.shape[:2]
        pixels = (points + 1) / 2 * (width - 1, height - 1)
        for (x, y), color in zip(pixels, self._colors(len(points)), strict=True):
            rows, columns = disk((y, x), self.kp_size, shape=(height, width))
            image[rows, columns] = color


def enlarge(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat the pixels of (B, C, h, w) until they fill `size`."""
    return nn.functional.interpolate(images, size=size)
