"""Files that may be opened or replaced, that appear only when whole, and names for every system."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import re
import shutil
import stat
import time
import unicodedata
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from utils.errors import UserError

Key = TypeVar("Key", str, tuple[str, ...])

TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{12}\.tmp")


# ---- Reading -----------------------------------------------------------------


def regular_file(path: str | Path, error: type[UserError], max_bytes: int | None = None) -> Path:
    """Return `path` if it leads to a file of at most `max_bytes`; else raise `error`, or `OSError`."""
    path = Path(path)
    status = path.stat()
    # A named pipe keeps its reader waiting for ever, and /dev/zero fills the memory.
    if kind := special_kind(status.st_mode):
        raise error(f"{path}: is {kind}, and a file is needed here; give its path")
    if max_bytes is not None and status.st_size > max_bytes:
        raise error(f"{path}: has {status.st_size:,} bytes, more than the {max_bytes:,} that are read here")
    return path


def check_replaceable(path: Path) -> None:
    """Raise `UserError` where something other than a file or a folder would be replaced, as /dev/null."""
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing is there, or whoever writes there is told
        return
    if kind := special_kind(mode):
        raise UserError(f"{path}: is {kind}, which is not replaced by a file; choose another name")


def special_kind(mode: int) -> str | None:
    """Return what a mode of `os.stat` stands for in words, or None for a file or folder."""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_csv(
    path: str | Path, columns: Sequence[str], error: type[UserError]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row of a CSV file with its line; raise `error` where it can't be read, or lacks a column."""
    needs = f"it must be a CSV file with the columns {','.join(columns)}"
    try:
        with regular_file(path, error).open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restval="", skipinitialspace=True)
            names = table.fieldnames or []
            if missing := [name for name in columns if name not in names]:
                for sign, called in {";": "semicolons", "\t": "tabs"}.items():
                    if len(names) == 1 and sign in names[0]:
                        raise error(f"{path}: is separated by {called}; save it with commas, {needs}")
                raise error(f"{path}: has no column {' or '.join(sorted(missing))}; {needs}")
            yield from ((table.line_num, row) for row in table)
    except (OSError, UnicodeDecodeError, csv.Error) as failure:
        raise error(f"{path}: can't be read as a table ({failure}); {needs}") from failure


# ---- Writing -----------------------------------------------------------------


def check_folder(path: Path, what: str) -> None:
    """Raise `UserError`, which ends with `what`, if a folder can't be made or written to."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{existing}: {what}")


def check_writable(path: Path) -> None:
    """Raise `UserError` or `OSError` if `atomic_write` can't write `path`, before the work for it begins."""
    check_replaceable(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, and a file is needed here; choose another name")
    probe = temporary_name(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        error.filename = str(path)  # nobody knows the temporary name
        raise


def temporary_name(path: Path) -> Path:
    """Return a new name beside `path`, so that renaming it to `path` is atomic."""
    return path.absolute().parent / f".{uuid.uuid4().hex[:12]}.tmp"


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name, which becomes `path` at the end of the block, unless that raises."""
    path = Path(path)
    check_replaceable(path)
    temporary = temporary_name(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # nobody knows the temporary name
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `path` at the end of the block, unless that raises."""
    temporary = temporary_name(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# ---- Names -------------------------------------------------------------------

MAX_NAME = 240  # bytes, so that suffixes still fit into the 255 that systems allow
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[ .]+$')  # by Windows
_DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL
)


def portable_name(name: str) -> str:
    """Return `name`, without suffix, as Linux, macOS and Windows allow it; most names stay as they are."""
    data = name.encode(errors="surrogateescape")
    if len(data) > MAX_NAME:
        name = data[:MAX_NAME].decode(errors="ignore")
    name = _FORBIDDEN.sub(lambda found: "_" * len(found[0]), name)
    return f"_{name}" if _DEVICES.fullmatch(name) else name


def distinct_names(wanted: Mapping[Key, str]) -> dict[Key, str]:
    """Return a portable name for each key: the wanted one, if no other key's is the same to some system."""
    names = {key: portable_name(name) for key, name in wanted.items()}
    while True:
        counts = Counter(map(same_name, names.values()))
        shared = [key for key, name in names.items() if counts[same_name(name)] > 1]
        if not shared:
            return names
        # By their own sha256, so that a key's name depends on no order.
        names |= {key: f"{names[key]}_{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}" for key in shared}


def same_name(name: str) -> str:
    """Return a text that is equal for names that are one on some system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def delete_old_files(folder: Path, seconds: float) -> None:
    """Delete files below `folder` that changed longer ago, and the folders that get empty."""
    oldest = time.time() - seconds
    for path in list(folder.rglob("*")):
        with contextlib.suppress(OSError):  # somebody else may be quicker
            if path.is_file() and path.stat().st_ctime < oldest:
                path.unlink()
                path.parent.rmdir()  # refuses while there is more in it
