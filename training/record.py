"""`run.json`: how a run was begun, and how it was resumed each time since."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch

from utils.distributed import job_id, rank, world_size
from utils.errors import UserError
from utils.files import atomic_write, regular_file
from utils.program import say

RECORD = "run.json"
MAX_RECORD_BYTES = 2**26
ROOT = Path(__file__).parents[1]


def describe(
    config: dict, seed: int, precision: str, device: torch.device, checkpoint: str | Path | None
) -> dict[str, Any]:
    """Return the entry of a run that begins or resumes here, from `checkpoint` if there is one.

    It is empty for all but rank 0, which alone writes it.
    """
    if rank() != 0:
        return {}
    parent = None
    if checkpoint is not None:
        digest = pooch.file_hash(str(checkpoint), alg="sha256")
        parent = {"path": str(Path(checkpoint).absolute()), "sha256": digest}
    on_gpu = device.type == "cuda"
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "torchrun": job_id(),
        "seed": seed,
        "precision": precision,
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "world_size": world_size(),
        "checkpoint": parent,
        "commit": git("rev-parse", "HEAD"),
        "clean": git("status", "--porcelain", "--untracked-files=no") == "",
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a class of its own, which no checkpoint may hold
            "cuda": torch.version.cuda,
            "numpy": np.__version__,
            "system": platform.platform(),
        },
        "config": config,
    }


def git(*words: str) -> str | None:
    """Return what git says of this project's own repository, or None without git or a repository."""
    # Named, or a user's repository around a copy of this project would answer.
    where = ("--git-dir", str(ROOT / ".git"), "--work-tree", str(ROOT))
    try:
        done = subprocess.run(["git", *where, *words], capture_output=True, text=True, timeout=60, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read_record(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a run; none for one begun before there were any. Raises `UserError`."""
    path = folder / RECORD
    if not path.exists():
        return []
    try:
        record = json.loads(regular_file(path, UserError, MAX_RECORD_BYTES).read_text(encoding="utf-8"))
        if isinstance(record["entries"], list) and all(
            isinstance(entry, dict) for entry in record["entries"]
        ):
            return record["entries"]
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise UserError(f"{path}: is not what training writes there; mend it, or move the file away")


def write_record(folder: Path, entries: list[dict[str, Any]]) -> None:
    with atomic_write(folder / RECORD) as temporary:
        temporary.write_text(json.dumps({"entries": entries}, indent=1) + "\n", encoding="utf-8")


def run_of_job(folders: Iterable[Path]) -> Path | None:
    """Return the one of these folders whose run this command began or resumed before in torchrun's job."""
    for folder in folders:
        with contextlib.suppress(UserError, OSError):  # it is another's
            for entry in read_record(folder)[-1:]:
                if (entry.get("torchrun"), entry.get("command")) == (job_id(), sys.argv):
                    return folder
    return None


def tell_changes(resume: dict, entry: dict[str, Any]) -> None:
    """Print what differs from the run before; `resume`: that of its checkpoint, which older ones lack."""
    if rank() != 0:
        return
    before = {"config": resume.get("config", entry["config"])} | resume.get("run", {})
    changes = differences(before["config"], entry["config"])
    for name in ("precision", "device", "world_size", "validation", "commit"):
        changes |= differences(before.get(name, entry[name]), entry[name], name)
    if changes:
        say("changed since: " + "; ".join(f"{name} {a} -> {b}" for name, (a, b) in changes.items()))


def differences(old: Any, new: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Return old and new value of each dotted key of two configs that differs; None where it is missing."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in old | new:
            found |= differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return found
    return {} if old == new else {name: (old, new)}
