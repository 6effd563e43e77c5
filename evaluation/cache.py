"""Keep results beside the data they come from, so that they are computed once."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import atomic_write, regular_file

FOLDER = ".evaluation"  # hidden, so that no program takes it for a clip
MAX_BYTES = 2**31  # of the 2,048 features of 250,000 frames


class Cache:
    """Arrays in `<folder of the clip>/.evaluation/<what>/<name of the clip>.npz`.

    Each is stored with a key, which names the version of the clip and of the detector. A result under another
    key counts as absent, and so does a damaged file. If the folder can't be written to, there is one warning
    and nothing is stored.
    """

    def __init__(self) -> None:
        self._writable = True

    def load(self, what: str, clip: Path, key: str) -> np.ndarray | None:
        """Return the array that `store` wrote under this key, or None."""
        try:
            path = regular_file(_path_of(what, clip), UserError, MAX_BYTES)
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    return None  # not ours, and could unpack to anything
            with np.load(path, allow_pickle=False) as content:  # arrays of numbers, never objects
                values = content["values"]
                is_ours = str(content["key"]) == key and values.dtype.kind in "fiu"
                return values if is_ours else None
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
