"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{12}\.tmp")


def temporary_name(path: Path) -> Path:
    """A new name beside `path`, so that renaming it to `path` is atomic. Matches `TEMPORARY_NAME`."""
    return path.with_name(f".{uuid.uuid4().hex[:12]}.tmp")


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name to write to. It becomes `path` at the end of the block, or goes if that raises.

    A process that dies leaves the old file, if there was one, and perhaps a temporary one.
    """
    path = Path(path)
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
