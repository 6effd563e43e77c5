"""What a run leaves behind: checkpoints, scores for people and for machines, pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.draw import disk
from torch import Tensor, nn

from media.pictures import to_uint8, write_image
from modules.build import load_weights
from modules.errors import CheckpointError, UserError

# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints
#
# A `.pth.tar` is a file of torch.save (not an archive to unpack) with the published keys "generator", "discriminator",
# "kp_detector", "optimizer_generator", "optimizer_discriminator", "optimizer_kp_detector" and "epoch" (the epoch that was
# finished or, when training was stopped within one, begun last), and beside them "resume": what else an exact continuation
# needs (see train.py).

NETWORKS = ("generator", "discriminator", "kp_detector")


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file, given itself or the run folder whose newest one is meant. Raises `CheckpointError`."""
    path = Path(path)
    if path.is_dir():
        checkpoints = sorted(path.glob("*-checkpoint.pth.tar"))
        if not checkpoints:
            raise CheckpointError(f"{path}: holds no checkpoint (looked for *-checkpoint.pth.tar)")
        return checkpoints[-1]
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint; --checkpoint takes a .pth.tar file or the folder of a run"
        )
    return path


def read_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint on the CPU; published ones too. Nothing but tensors and plain values is ever unpickled.

    Raises `CheckpointError` if the file is damaged or is not a checkpoint of this project.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damage brings about
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: damaged, or not a checkpoint (don't unpack a .pth.tar): {reason}"
        ) from error
    if not isinstance(content, dict) or not {"generator", "kp_detector"} <= content.keys():
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: has no 'generator' and 'kp_detector'; it holds {found}")
    return content


def save_atomically(content: dict, path: Path) -> None:
    """`torch.save` that leaves either the old file or the whole new one, whenever the process dies."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


# ---------------------------------------------------------------------------------------------------------------------
# Scores


class Logger:
    """The files of a training run.

    `log.txt`: one line an epoch with the mean of each loss. `log.jsonl`: the same for machines with speed and memory, and
    the losses of every `STEPS_PER_LINE`-th step. `train-vis/`: a picture an epoch. `%08d-checkpoint.pth.tar`: every
    `checkpoint_freq` epochs. TensorBoard event files where the package `tensorboard` is installed.

    Continuing a run from (epoch, step) drops what its files say of later times.
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
        (self.folder / "train-vis").mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink()
        self._forget_after(*start)
        self.board = tensorboard_writer(self.folder)

    def _forget_after(self, epoch: int, step: int) -> None:
        def happened(line: str) -> bool:
            entry = json.loads(line)
            return (entry["epoch"], entry.get("step", 0)) < (epoch, step) or entry["epoch"] < epoch

        keep_lines(self.scores_path, lambda line: int(line.split(")")[0]) < epoch)
        keep_lines(self.machine_path, happened)

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
        if self.board is not None:
            for name, value in losses.items():
                self.board.add_scalar(f"loss/{name}", value, epoch)

    def _write_machine_line(self, entry: dict) -> None:
        with self.machine_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def visualize_rec(self, epoch: int, inp: dict[str, Tensor], out: dict[str, Tensor]) -> None:
        """Draw a batch and what was generated from it."""
        image = self.visualizer.visualize(inp["driving"], inp["source"], out)
        write_image(self.folder / "train-vis" / f"{epoch:0{self.zfill_num}d}-rec.png", image)
        if self.board is not None:
            self.board.add_image("reconstruction", image, epoch, dataformats="HWC")

    def checkpoint_is_due(self, epoch: int) -> bool:
        return (epoch + 1) % self.checkpoint_freq == 0

    def save_cpk(self, epoch: int, content: dict) -> Path:
        """Write `content` as the checkpoint of `epoch`."""
        path = self.folder / f"{epoch:0{self.zfill_num}d}-checkpoint.pth.tar"
        save_atomically(content, path)
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


def load_parts(
    content: dict,
    parts: dict[str, nn.Module | torch.optim.Optimizer],
    path: str | Path,
    config_path: str | Path = "the config",
) -> None:
    """Load networks and optimisers, by their names in a checkpoint, from its `content`. Raises as `Logger.load_cpk`."""
    for name in parts:
        if name not in content:
            raise CheckpointError(f"{path}: has no '{name}'; it holds {sorted(content)}")
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            load_weights(part, content[name], name, path, config_path)
        else:
            load_optimizer(part, content[name], name, path)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict, name: str, path: str | Path) -> None:
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: its '{name}' does not fit the config: {error}") from error


def keep_lines(path: Path, wanted: Callable[[str], bool]) -> None:
    """Drop the other lines of a text file, if it exists, and a last line that was not written to its end."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(
        "".join(line for line in lines if line.endswith("\n") and wanted(line)), encoding="utf-8"
    )
    temporary.replace(path)


def tensorboard_writer(folder: Path):
    """A TensorBoard writer, or None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


class Visualizer:
    """Draws what the networks saw and did, a row for each image of a batch.

    `kp_size`: radius of a keypoint in pixels. `draw_border`: a white line around each picture. `colormap`: matplotlib's name
    of the colours of the keypoints.
    """

    MOST_ROWS = 8

    def __init__(self, kp_size: int = 5, draw_border: bool = False, colormap: str = "gist_rainbow"):
        import matplotlib  # only drawing needs it

        if colormap not in matplotlib.colormaps:
            raise UserError(
                f"visualizer_params.colormap: matplotlib has no colormap '{colormap}'; try gist_rainbow"
            )
        self.kp_size, self.draw_border, self.colormap = kp_size, draw_border, matplotlib.colormaps[colormap]

    def visualize(self, driving: Tensor, source: Tensor, out: dict) -> np.ndarray:
        """The columns source, transformed frame, driving, deformed, prediction, occlusion, and each motion with its mask.

        `driving`, `source` (B, 3, H, W) in [0, 1]; `out` is the generator's result with "kp_source" and "kp_driving". Columns
        of what `out` lacks are left out. Returns uint8 (rows·H, columns·W, 3) of the first `MOST_ROWS` images.
        """
        size = source.shape[2:]
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

    def _motions(self, sparse_deformed: Tensor, mask: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """The source under each motion, followed by where the motion is used, in the colour of its keypoint."""
        images = []
        for i, color in enumerate([np.ones(3), *self._colors(mask.shape[1] - 1)]):
            color = torch.as_tensor(color, dtype=mask.dtype, device=mask.device).view(1, 3, 1, 1)
            images.append(enlarge(sparse_deformed[:, i], size))
            images.append(enlarge(mask[:, i : i + 1], size) * color)
        return images

    def _colors(self, count: int) -> list[np.ndarray]:
        return [np.array(self.colormap(i / count)[:3]) for i in range(count)]

    def _column(self, images: Tensor, kp: dict[str, Tensor] | None) -> np.ndarray:
        """Images (B, 1 or 3, H, W), drawn upon and stacked: float (rows·H, W, 3)."""
        images = (
            images[: self.MOST_ROWS]
            .detach()
            .float()
            .expand(-1, 3, -1, -1)
            .permute(0, 2, 3, 1)
            .cpu()
            .numpy()
            .copy()
        )
        for i, image in enumerate(images):
            if kp is not None:
                self._draw_keypoints(image, kp["value"][i].detach().float().cpu().numpy())
            if self.draw_border:
                image[[0, -1]], image[:, [0, -1]] = 1, 1
        return np.concatenate(list(images), axis=0)

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
