"""Processes of torchrun, which tests start and kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def torchrun(options: list[str], script: str, *arguments: object) -> subprocess.Popen:
    """Start a script of the project in processes that a test may kill; stdout and stderr are one pipe."""
    module = [sys.executable, "-m", "torch.distributed.run", *options]
    return subprocess.Popen(
        [*module, str(ROOT / script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def workers(job: subprocess.Popen) -> list[int]:
    """Return the process ids of the workers, by rank."""
    ids = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    ranks = {int(variables(int(each)).get("RANK", -1)): int(each) for each in ids}
    return [ranks[rank] for rank in sorted(ranks) if rank >= 0]


def variables(process: int) -> dict[str, str]:
    text = Path(f"/proc/{process}/environ").read_text()
    return dict(line.partition("=")[::2] for line in text.split("\0"))
