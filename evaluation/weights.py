"""Packages and weights that only some metrics need. Whatever is missing is told in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from utils.errors import CheckpointError, UserError


def version_of(package: str, wanted_by: str) -> str:
    """`<package> <version>` of an optional package. Raises `UserError` where it is not installed."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        raise UserError(
            f"{wanted_by} needs the package {package}; install it with: pip install {package}"
        ) from None


@contextlib.contextmanager
def missing_weights(wanted_by: str, files: Sequence[str], folder: Path) -> Iterator[None]:
    """Turn a failure within the block into a `CheckpointError` that says which file belongs where."""
    try:
        yield
    except Exception as error:  # the libraries and torch.load raise all kinds: no network, a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{wanted_by} needs weights that could not be downloaded or read ({reason}): put "
            f"{' and '.join(files)} into {folder}"
        ) from error
