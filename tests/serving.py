"""The page's server, for its tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

from inference.samples import ROOT


@contextlib.contextmanager
def served(
    *options: str, environment: Mapping[str, str] | None = None, limits: str = "true"
) -> Iterator[tuple[str, list[str], subprocess.Popen]]:
    """Run app.py with the model that ships; yield its address, the lines that it prints, and its process.

    `limits`: what its shell does before.
    """
    command = [sys.executable, str(ROOT / "app.py"), "--offline"]
    with subprocess.Popen(
        ["bash", "-c", f'{limits} && exec "$@"', "app.py", *command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        try:
            for line in process.stdout:
                lines.append(line)
                if line.startswith("The page is at "):
                    yield line.split()[4], lines, process
                    break
            else:
                raise AssertionError("".join(lines))
        finally:
            process.terminate()
            lines += process.stdout
