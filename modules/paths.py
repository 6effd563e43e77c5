"""What may be opened, and what may be replaced: files, and not what only looks like one in a listing."""

from __future__ import annotations

import stat
from pathlib import Path

from modules.errors import UserError


def regular_file(path: str | Path, error: type[UserError], max_bytes: int | None = None) -> Path:
    """`path`, if it is a file, after all links are followed, of at most `max_bytes`; else raises `error`.

    Everything that reads what a user names asks this first. A named pipe keeps its reader waiting for ever,
    and /dev/zero fills the memory. A folder passes: whoever opens it gets an `OSError` at once. Raises
    `OSError` where there is nothing, or nothing that may be looked at.
    """
    path = Path(path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # folders can't be opened
        raise error(f"{path}: is {kind_of(status.st_mode)}, and a file is needed here; give its path")
    if max_bytes is not None and status.st_size > max_bytes:
        raise error(f"{path}: has {status.st_size:,} bytes, more than the {max_bytes:,} that are read here")
    return path


def check_replaceable(path: Path) -> None:
    """Raise `UserError` where something other than a file or a folder would be replaced, as /dev/null.

    A folder passes: whoever renames a file to it gets an `OSError`.
    """
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing is there, or whoever writes there is told
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path}: is {kind_of(mode)}, which is not replaced by a file; choose another name")


def kind_of(mode: int) -> str:
    """What a mode of `os.stat` stands for, in words."""
    kinds = {
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "no file")
