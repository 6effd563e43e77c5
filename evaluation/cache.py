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

    Each is kept with a key. A result under another key, of a clip or a detector that has changed since, counts as absent, and
    so does a damaged file. Where the folder can't be written to, that is warned of once and nothing is kept.
    """

    def __init__(self):
        self._writable = True

    def load(self, what: str, clip: Path, key: str) -> np.ndarray | None:
        """The array that `store` kept, or None."""
        try:
            with np.load(regular_file(_place(what, clip), UserError), allow_pickle=False) as content:
                return content["values"] if str(content["key"]) == key else None
        except Exception:  # NumPy raises whatever the damage brings about
            return None

    def store(self, what: str, clip: Path, key: str, values: np.ndarray) -> None:
        """Keep an array under its final name only when it is whole."""
        place = _place(what, clip)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            # A file, because np.savez adds .npz to a name.
            with atomic_write(place) as temporary, temporary.open("wb") as file:
                np.savez(file, key=np.array(key), values=values)
        except OSError as error:
            if self._writable:
                warnings.warn(
                    f"{place.parent}: results can't be kept there ({error}), the next run computes them again",
                    stacklevel=2,
                )
            self._writable = False


def _place(what: str, clip: Path) -> Path:
    return clip.parent / FOLDER / what / f"{clip.name}.npz"
