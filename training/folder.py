"""The folder of a training run: where it is, who may write in it, and when it is made."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from checkpoints.files import read_checkpoint
from logger import Logger, open_curves, rewind
from training.record import read_record, write_record
from utils.distributed import rank
from utils.errors import UserError, one_line
from utils.files import atomic_write, check_folder
from utils.yaml_loader import dump_yaml

SECONDS_OF_DEAD_LOCKS = 120  # a file server may keep the lock of a machine that died for 90


class RunFolder:
    """The folder of one run, which `with` keeps other processes out of.

    `path` of a new run ends in `_2`, … where a folder has that name. `config_path`: the file to keep a copy
    of, with the `changes` that `--set` made to its values in `config`. `tracker`: where curves go, see
    `open_curves`. `resumes`: the folder is there, and its run is resumed. `restarts`: it is there, and
    torchrun's processes that trained in it before have ended.
    """

    def __init__(
        self,
        path: str | Path,
        config: dict,
        config_path: Path | None = None,
        changes: Sequence[str] = (),
        tracker: str | None = None,
        resumes: bool = False,
        restarts: bool = False,
    ):
        self.path, self.config, self.config_path = Path(path), config, config_path
        self.changes, self.tracker, self.resumes, self.restarts = changes, tracker, resumes, restarts
        self._lock: FileLock | None = None

    @property
    def is_new(self) -> bool:
        """Whether a run by this config file begins here."""
        return self.config_path is not None and not self.resumes

    def lock(self) -> None:
        """Keep other processes from this folder. Raises `UserError` if one is training in it."""
        self._lock = FileLock(self.path / ".lock")
        try:
            self._lock.acquire(timeout=SECONDS_OF_DEAD_LOCKS if self.restarts else 0)
        except Timeout:
            raise UserError(
                f"{self.path}: another process is training in this folder; wait for its end, or stop it"
            ) from None

    def open(self, start: tuple[int, int], steps_per_epoch: int, entry: dict[str, Any]) -> Logger:
        """Make the folder of a new run, and add `entry` to the record of any.

        Returns the logger of a run from `start`, an (epoch, step), on.
        """
        if not self.resumes:
            try:
                if not self.restarts:
                    self._make()
            except OSError as error:
                raise UserError(
                    f"{self.path}: the run's folder can't be made ({error}); choose another --log_dir"
                ) from error
            self.lock()
        # Only when the files of an earlier run are in order, they change.
        entries = read_record(self.path)
        rewind(self.path, start)
        write_record(self.path, [*entries, entry])
        if self.config_path is not None and self.changes:
            name = self.config_path.name
            header = one_line(f"# {name} with --set {' '.join(self.changes)}")
            with atomic_write(self.path / name) as temporary:
                temporary.write_text(f"{header}\n{dump_yaml(self.config)}", encoding="utf-8")
        try:
            begun = start[0] * steps_per_epoch + start[1]
            curves = open_curves(self.tracker, self.path, self.config, begun)
        except UserError:
            if self.is_new:
                shutil.rmtree(self.path)
            raise
        freq, drawing = self.config["train_params"]["checkpoint_freq"], self.config.get("visualizer_params")
        return Logger(self.path, freq, drawing, curves=curves, steps_per_epoch=steps_per_epoch)

    def _make(self) -> None:
        """Make the folder of a new run, under the first free name if it has a config of its own."""
        if self.config_path is None:
            self.path.mkdir(parents=True, exist_ok=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        wanted = self.path
        for number in itertools.count(2):
            # Other runs may begin in the same second.
            with contextlib.suppress(FileExistsError):
                self.path.mkdir()
                break
            self.path = wanted.with_name(f"{wanted.name}_{number}")
        shutil.copy(self.config_path, self.path / self.config_path.name)

    def __enter__(self) -> RunFolder:
        if self.resumes and rank() == 0:
            self.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release(force=True)


def run_of(checkpoint: Path, config_path: Path) -> Path | None:
    """Return the folder of the checkpoint's run if that has a config of this name, else None."""
    folder = checkpoint.parent
    # A downloaded checkpoint, without "resume", or a copy may lie beside configs that are no run's.
    if (folder / config_path.name).exists() and (
        (folder / "train-vis").is_dir()
        or (checkpoint.match("*-checkpoint.pth.tar") and read_checkpoint(checkpoint).get("resume"))
    ):
        return folder
    return None


def new_run(log_dir: Path, name: str | None, config_path: Path) -> Path:
    """Return the folder for a new run, which isn't made yet. Raises `UserError` where it can't be."""
    check_folder(log_dir, "the run's folder can't be made in it; choose another --log_dir")
    path = log_dir / (name or f"{config_path.stem}_{time.strftime('%Y-%m-%d_%H-%M-%S')}")
    if name is not None and path.exists():
        raise UserError(f"{path}: is there already; choose another --name, or go on with it by --resume")
    return path
