"""Processes of their own, for measuring their memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_alone(module: str, *arguments: str) -> str:
    """What `python -m module arguments` prints. Raises `CalledProcessError` if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def peak_memory() -> float:
    """This process's largest resident set so far, in MiB, on systems that count in KiB, as Linux does."""
    import resource  # not there on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
