"""Mistakes of the user, told in one line.

`utils.program.command_line` prints a `UserError`, or what the system refuses (`OSError`, too little memory),
and exits with status 2. Any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import os

MAX_LINE = 5000  # characters of an error: a path can have 4,096


class UserError(Exception):
    """A mistake that the user can mend; the message is one line that says how."""


class ConfigError(UserError):
    """A config file that is missing, unreadable, or holds a key or value that is not allowed."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or belongs to another config."""


class MediaError(UserError):
    """An image or video that can't be opened, decoded or written."""


class DatasetError(UserError):
    """A dataset folder or pair list that does not hold what is asked of it."""


def told(error: Exception) -> str | None:
    """Return an error as one line for the user, or None if it is a bug."""
    if isinstance(error, UserError):
        return last_line(error)
    if isinstance(error, OSError):
        return one_line(system_error(error))
    # PyTorch's own kinds of this error can't be named here without importing it.
    wanting = (
        "allocate memory",
        "out of memory",
        "can't start new thread",
        "Cannot allocate",
        "could not create a primitive",  # oneDNN
        "failed to map segment",  # a library that is loaded late
        "unable to resize file",  # memory that the workers of a data loader share
    )
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError) and any(words in str(error) for words in wanting)
    ):
        reason = last_line(error) or type(error).__name__
        return (
            f"the machine has too little memory for this ({reason}); close other programs, or take fewer or "
            "smaller pictures"
        )
    return None


REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space, the quota is used up",
    errno.EFBIG: "files may not be that large here; raise the limit (ulimit -f) or write to another disk",
    errno.EACCES: "check its permissions and those of its folder",
    errno.EPERM: "check its permissions and those of its folder",
    errno.EROFS: "it lies on a read-only disk; choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links go in a circle; remove them",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is no folder; check it",
    errno.EISDIR: "a file is needed here; choose another name",
    errno.EEXIST: "choose another name",
    errno.ENOTEMPTY: "choose another name",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open; close other programs",
    errno.ENOMEM: "close other programs",
    errno.EAGAIN: "too many processes or threads; raise the limit (ulimit -u)",
}


def system_error(error: OSError) -> str:
    """Return what the system refused, on which path if it says so, and the remedy."""
    reason = error.strerror or last_line(error) or type(error).__name__
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    if error.errno == errno.ENOENT and not place:
        return f"{reason}; the current folder may have been removed: change to another one and start again"
    return f"{place}{reason}; {REMEDIES.get(error.errno, 'check the path, its permissions and its disk')}"


def last_line(error: Exception) -> str:
    """Return the message of an error, without the traceback of a data loader's worker before it."""
    text = str(error).strip()
    if text.startswith("Caught ") and "\n" in text:
        text = text.splitlines()[-1].removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
    return one_line(text)


def one_line(text: object) -> str:
    """Write out the line breaks and control characters of `text`, which a file's name can hold, too."""
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE // 2]} … {line[-MAX_LINE // 2 :]}"
