"""Deletes what people uploaded and what was made for them, after a time.

Gradio can do this itself, but its task dies when somebody uploads while it looks through its list of files.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


class Sweeper:
    """Deletes files below `folder` that are older than `seconds`, but for those that are there already."""

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self.kept = set(folder.rglob("*"))  # the sample
        self.next_time = 0.0

    def sweep_when_due(self) -> None:
        """Look through the folder, if that was not done lately."""
        if time.monotonic() >= self.next_time:
            self.next_time = time.monotonic() + min(300, self.seconds / 2)
            self.sweep()

    def sweep(self) -> None:
        oldest = time.time() - self.seconds
        for path in set(self.folder.rglob("*")) - self.kept:
            with contextlib.suppress(OSError):  # somebody else may be quicker
                if path.is_file() and path.stat().st_ctime < oldest:
                    path.unlink()
                    path.parent.rmdir()  # refuses while there is more in it
