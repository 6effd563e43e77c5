"""The names of the clips in a folder, and the index file that spares looking for them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from media.clips import VIDEO_SUFFIXES, is_clip
from media.pictures import IMAGE_SUFFIXES
from utils.errors import DatasetError
from utils.files import atomic_write, regular_file
from utils.hints import warn


class Names(Sequence[str]):
    """File names in one piece of memory: a list takes four times as much, in each worker."""

    def __init__(self, names: Iterable[str] | bytes):
        encoded = names if isinstance(names, bytes) else b"".join(os.fsencode(name) + b"\0" for name in names)
        self._encoded = encoded
        self._ends = np.flatnonzero(np.frombuffer(encoded, np.uint8) == 0)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        return map(os.fsdecode, self._encoded.split(b"\0")[:-1])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        start = self._ends[number - 1] + 1 if number else 0
        return os.fsdecode(self._encoded[start : self._ends[number]])


def index_of(folder: Path) -> Path:
    """Return the path of a folder's index: the names in their order, each ended by a zero byte."""
    folder = folder.absolute()  # which has a name, as "." has none
    return folder.with_name(f"{folder.name}.clips")


def list_clips(folder: Path) -> Names:
    """Return the sorted names of the clips in `folder`, by its index if that is up to date."""
    return _read_index(folder) or _look_for_clips(folder)


def _look_for_clips(folder: Path) -> Names:
    with os.scandir(folder) as entries:  # which knows without another look what is a folder
        names = sorted(entry.name for entry in entries if is_clip(entry))
    if not names:
        pictures, videos = (" ".join(sorted(suffixes)) for suffixes in (IMAGE_SUFFIXES, VIDEO_SUFFIXES))
        raise DatasetError(
            f"{folder}: holds no clips; looked for folders of frames, strips of them ({pictures}) and videos "
            f"({videos})"
        )
    return Names(names)


def _read_index(folder: Path) -> Names | None:
    """Read the index of a folder; None without one, or with a warning for one that is out of date."""
    index = index_of(folder)
    with contextlib.suppress(FileNotFoundError):
        is_new = regular_file(index, DatasetError).stat().st_mtime_ns >= folder.stat().st_mtime_ns
        encoded = index.read_bytes()
        # Whole, and of names alone, which lead nowhere else.
        if is_new and encoded.endswith(b"\0") and b"/" not in encoded:
            return Names(encoded)
        warn(
            f"{folder}: something was added or removed since its clips were listed, so all are looked for "
            f"anew; python data/prepare.py --index {folder} spares that"
        )
    return None


def write_index(folder: Path) -> int:
    """List the clips of `folder` in its index; return their number."""
    names = _look_for_clips(folder)
    with atomic_write(index_of(folder)) as temporary:
        temporary.write_bytes(names._encoded)
    return len(names)
