"""The folder of a training run: its name, its copy of the config, and the lock of the process that trains."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from types import TracebackType

import yaml
from filelock import FileLock, Timeout

from utils.errors import UserError
from utils.files import atomic_write


class RunFolder:
    """The folder of one run. Leaving the block `with RunFolder(…)` gives it free.

    Two processes that train in one folder would mix their logs and checkpoints. So one holds a lock, which
    the system opens when that process ends in any way.
    """

    def __init__(self, path: Path, config_path: Path):
        self.path, self.config_path = path, config_path
        self._lock = FileLock(path / ".lock")

    @classmethod
    def new(cls, parent: Path, config_path: Path) -> RunFolder:
        """`<config>_<timestamp>` under `parent`, still to be made. Raises `UserError` if it can't be."""
        existing = next(folder for folder in (parent, *parent.absolute().parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"{existing}: the run's folder can't be made in it; choose another --log_dir")
        return cls(parent / f"{config_path.stem}_{time.strftime('%Y-%m-%d_%H-%M-%S')}", config_path)

    def is_run(self) -> bool:
        """Whether it is that of a training run with a config of this name."""
        return (self.path / "train-vis").is_dir() and (self.path / self.config_path.name).exists()

    def make(self) -> None:
        """Make the folder with a copy of the config in it, and lock it."""
        try:
            self.path.mkdir(parents=True)
            shutil.copy(self.config_path, self.path / self.config_path.name)
        except OSError as error:
            raise UserError(
                f"{self.path}: the run's folder can't be made ({error}); choose another --log_dir"
            ) from error
        self.lock()

    def lock(self) -> None:
        """Keep other processes from this folder. Raises `UserError` if one is training in it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.path}: another process is training in this folder; wait for its end, or stop it"
            ) from None

    def record_changes(self, config: dict, changes: list[str]) -> None:
        """Replace the run's copy of its config by one that has the changes of `--set`."""
        name = self.config_path.name
        text = f"# {name} with --set {' '.join(changes)}\n" + yaml.safe_dump(config, sort_keys=False)
        with atomic_write(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()
