"""The interface of detectors and comparisons, and how they say that a package or a weight file is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from utils.errors import CheckpointError, UserError


class Instrument(Protocol):
    """Looks at frames, uint8 (B, H, W, 3) RGB, and returns an array whose first axis is B.

    A detector is called with the frames of one clip, a comparison with generated and real frames. `load`
    comes first. It fetches what the instrument needs, and raises `CheckpointError` where weights are missing.
    """

    name: str
    version: str  # changes with the figures: results of another version are not used again

    def load(self, device: torch.device) -> None: ...

    def __call__(self, *frames: Any, **options: Any) -> np.ndarray: ...


def version_of(package: str, wanted_by: str) -> str:
    """Return `<package> <version>` of an optional package. Raises `UserError` where it is not installed."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        raise UserError(
            f"{wanted_by} needs the package {package}; install it with: pip install {package}"
        ) from None


def hub_folder() -> Path:
    """Return the folder in which torchvision and others look for weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


@contextlib.contextmanager
def weights_needed(wanted_by: str, files: str, folder: Path) -> Iterator[None]:
    """Turn a failure within the block into a `CheckpointError` that says which files belong where."""
    try:
        yield
    except Exception as error:  # the libraries and torch.load raise all kinds: no network, a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{wanted_by} needs weights that could not be downloaded or read ({reason}): put {files} into "
            f"{folder}"
        ) from error
