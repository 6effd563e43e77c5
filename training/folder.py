"""The folder of a training run: where it is, who may write in it, and when it is made."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from checkpoints.files import read_checkpoint
from logger import Logger, open_curves, rewind
from utils.distributed import rank
from utils.errors import UserError, one_line
from utils.files import atomic_write
from utils.yaml_loader import dump_yaml


class RunFolder:
    """The folder of one run, which `with` keeps other processes out of.

    `config_path`: the file to keep a copy of, with the `changes` that `--set` made to its values in `config`.
    `tracker`: where curves go, see `open_curves`. `resumes`: the folder is there, and its run is resumed.
    """

    def __init__(
        self,
        path: str | Path,
        config: dict,
        config_path: Path | None = None,
        changes: Sequence[str] = (),
        tracker: str | None = None,
        resumes: bool = False,
    ):
        self.path, self.config, self.config_path = Path(path), config, config_path
        self.changes, self.tracker, self.resumes = changes, tracker, resumes
        self._lock = FileLock(self.path / ".lock")

    @classmethod
    def find(
        cls,
        checkpoint: Path | None,
        log_dir: Path,
        config: dict,
        config_path: Path,
        changes: Sequence[str],
        tracker: str | None,
    ) -> RunFolder:
        """Return the folder of the checkpoint's run if that has a config of this name, else a new one."""
        if checkpoint is not None:
            path = checkpoint.parent
            # A downloaded checkpoint, without "resume", or a copy may lie beside configs that are no run's.
            if (path / config_path.name).exists() and (
                (path / "train-vis").is_dir()
                or (checkpoint.match("*-checkpoint.pth.tar") and read_checkpoint(checkpoint).get("resume"))
            ):
                return cls(path, config, config_path, changes, tracker, resumes=True)
        existing = next(folder for folder in (log_dir, *log_dir.absolute().parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"{existing}: the run's folder can't be made in it; choose another --log_dir")
        path = log_dir / f"{config_path.stem}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        return cls(path, config, config_path, changes, tracker)

    @property
    def is_new(self) -> bool:
        """Whether a run by this config file begins here."""
        return self.config_path is not None and not self.resumes

    def lock(self) -> None:
        """Keep other processes from this folder. Raises `UserError` if one is training in it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.path}: another process is training in this folder; wait for its end, or stop it"
            ) from None

    def open(self, start: tuple[int, int]) -> Logger:
        """Make the folder of a new run; return the logger of a run from `start`, an (epoch, step), on."""
        if not self.resumes:
            try:
                self.path.mkdir(parents=True, exist_ok=self.config_path is None)
                if self.config_path is not None:
                    shutil.copy(self.config_path, self.path / self.config_path.name)
            except OSError as error:
                raise UserError(
                    f"{self.path}: the run's folder can't be made ({error}); choose another --log_dir"
                ) from error
            self.lock()
        # Only when the logs of an earlier run are in order, the copy of the config changes.
        rewind(self.path, start)
        if self.config_path is not None and self.changes:
            name = self.config_path.name
            header = one_line(f"# {name} with --set {' '.join(self.changes)}")
            with atomic_write(self.path / name) as temporary:
                temporary.write_text(f"{header}\n{dump_yaml(self.config)}", encoding="utf-8")
        try:
            curves = open_curves(self.tracker, self.path, self.config)
        except UserError:
            if self.is_new:
                shutil.rmtree(self.path)
            raise
        freq, drawing = self.config["train_params"]["checkpoint_freq"], self.config.get("visualizer_params")
        return Logger(self.path, freq, drawing, curves=curves)

    def __enter__(self) -> RunFolder:
        if self.resumes and rank() == 0:
            self.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release(force=True)
