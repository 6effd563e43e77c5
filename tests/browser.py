"""A running page and a headless Chromium for the tests of the page."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MANDATORY = "BROWSER_TESTS"  # set to "1" where a missing browser is a failure, as .ci/run does
HOW = "apt-get install chromium, and pip install -r requirements-dev.txt -r requirements-app.txt"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The path of the browser. Without one the test is skipped or, where it is mandatory, fails."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        complain = pytest.fail if os.environ.get(MANDATORY) == "1" else pytest.skip
        complain(f"no Chromium on this machine: {HOW}")
    return path


def arguments(camera: Path | None = None) -> list[str]:
    """Options of the browser; `camera`: a .y4m that is shown as if filmed, in a loop."""
    options = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    if camera is not None:
        options += [
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={camera}",
        ]
    return options


@contextlib.contextmanager
def served(*options: str) -> Iterator[str]:
    """`python app.py` with these options and the model that ships; yields its address."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--offline", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        lines = []
        try:
            for line in process.stdout:
                lines.append(line)
                if line.startswith("The page is at "):
                    yield line.split()[4]
                    break
            else:
                raise AssertionError("".join(lines))
        finally:
            process.terminate()
            print("".join(lines) + process.stdout.read())  # what the server told, where a test fails
