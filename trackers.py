"""Where a run's curves are shown beside its own files: TensorBoard or Weights & Biases, where installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from utils.errors import UserError

if TYPE_CHECKING:  # run.py shows its help without it
    import numpy as np

TRACKERS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}  # and the modules they need


class Tracker(Protocol):
    """Takes the scores and pictures of an epoch."""

    def scalars(self, values: dict[str, float], epoch: int) -> None: ...

    def image(self, name: str, image: np.ndarray, epoch: int) -> None:
        """`image`: uint8 (H, W, 3)."""

    def close(self) -> None: ...


class NoTracker:
    """For machines where nothing is installed."""

    def scalars(self, values: dict[str, float], epoch: int) -> None:
        pass

    def image(self, name: str, image: np.ndarray, epoch: int) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardTracker:
    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter  # optional

        self.writer = SummaryWriter(str(folder))

    def scalars(self, values: dict[str, float], epoch: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)

    def image(self, name: str, image: np.ndarray, epoch: int) -> None:
        self.writer.add_image(name, image, epoch, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class WandbTracker:
    """The run's folder name is its id, so that a run that goes on adds to the same curves."""

    def __init__(self, folder: Path, config: dict[str, Any]):
        import wandb  # optional

        self.as_image = wandb.Image
        self.run = wandb.init(
            project="first-order-model",
            name=folder.name,
            id=folder.name,
            resume="allow",
            dir=folder,
            config=config,
        )
        self.run.define_metric("*", step_metric="epoch")

    def scalars(self, values: dict[str, float], epoch: int) -> None:
        self.run.log({"epoch": epoch} | values)

    def image(self, name: str, image: np.ndarray, epoch: int) -> None:
        self.run.log({"epoch": epoch, name: self.as_image(image)})

    def close(self) -> None:
        self.run.finish()


def check_tracker(name: str | None) -> None:
    """Raise `UserError` if the tracker that was asked for is not installed."""
    if name is not None:
        try:
            importlib.import_module(TRACKERS[name])
        except ImportError as error:
            raise UserError(
                f"--tracker {name}: is not installed here; pip install {name}, or leave --tracker out"
            ) from error


def make_tracker(name: str | None, folder: Path, config: dict[str, Any]) -> Tracker:
    """The tracker called `name`; by default TensorBoard, or none where that is not installed."""
    if name == "wandb":
        return WandbTracker(folder, config)
    try:
        return TensorBoardTracker(folder)
    except ImportError:
        return NoTracker()
