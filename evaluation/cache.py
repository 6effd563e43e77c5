"""Results beside the data they come from, so that they are computed once."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from files import atomic_write
from modules.errors import UserError
from modules.paths import regular_file

FOLDER = ".evaluation"  # hidden, so that no program takes it for a clip


class Cache:
    """Arrays in `<folder of the clip>/.evaluation/<what>/<name of the clip>.npz`.

    Each is stored with a key, which names the version of the clip and of the detector. A result under another
    key counts as absent, and so does a damaged file. If the folder can't be written to, there is one warning
    and nothing is stored.
    """

    def __init__(self) -> None:
        self._writable = True

    def load(self, what: str, clip: Path, key: str) -> np.ndarray | None:
        """The array that `store` wrote under this key, or None."""
        try:
            with np.load(regular_file(_path_of(what, clip), UserError), allow_pickle=False) as content:
                return content["values"] if str(content["key"]) == key else None
        except Exception:  # NumPy raises whatever the damage brings about
            return None

    def store(self, what: str, clip: Path, key: str, values: np.ndarray) -> None:
        """Write an array; it appears under its name only when it is whole."""
        path = _path_of(what, clip)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.savez(file, key=np.array(key), values=values)
        except (OSError, UserError) as error:
            if self._writable:
                warnings.warn(
                    f"{path.parent}: results can't be kept there ({error}), the next run computes them again",
                    stacklevel=2,
                )
            self._writable = False


def _path_of(what: str, clip: Path) -> Path:
    return clip.parent / FOLDER / what / f"{clip.name}.npz"
