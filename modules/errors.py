"""Mistakes of the user, told in one line.

Everything a user can get wrong raises a `UserError`, whose message names the file or key and the remedy. The
entry points are wrapped in `command_line`, which prints that message on stderr and exits with status 2. Any
other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable


class UserError(Exception):
    """A mistake that the person at the keyboard can mend; the message is one line that says how."""


class ConfigError(UserError):
    """A config file that is missing, unreadable, or holds a key or value that is not allowed."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or belongs to another config."""


class MediaError(UserError):
    """An image or video that can't be opened, decoded or written."""


class DatasetError(UserError):
    """A dataset folder or pair list that does not hold what is asked of it."""


def command_line(main: Callable[[list[str] | None], None]) -> Callable[..., None]:
    """A `UserError` that leaves `main(argv)` is one line on stderr and exit status 2, Ctrl-C a quiet 130.

    Warnings are one line on stderr, too.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        warnings.formatwarning = lambda message, *place, **more: f"warning: {message}\n"
        try:
            main(argv)
        except UserError as error:
            print(f"error: {last_line(error)}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(130)  # 128 + SIGINT, as a shell reports it

    return wrapped


def last_line(error: UserError) -> str:
    """The message; where PyTorch wraps it in the traceback of a DataLoader's worker, what that ends in."""
    prefix = f"{type(error).__module__}.{type(error).__qualname__}: "
    return str(error).strip().splitlines()[-1].removeprefix(prefix)
