"""Serve the page, and find a Chromium to look at it, for tests and pictures."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the path of the browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def browser_arguments(camera: Path | None = None) -> list[str]:
    """Return options of the browser; `camera`: a .y4m that is shown as if filmed, in a loop."""
    options = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    if camera is not None:
        options += [
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={camera}",
        ]
    return options


@contextlib.contextmanager
def served(
    *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, list[str], subprocess.Popen]]:
    """Run app.py with the model that ships; yield its address, the lines that it prints, and its process."""
    with subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--offline", *options],
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


def write_camera(path: Path, video: Path, size: tuple[int, int] = (256, 256)) -> Path:
    """Write a video as a .y4m of this (width, height), which Chromium takes for a camera."""
    with av.open(str(video)) as source, av.open(str(path), "w", format="yuv4mpegpipe") as target:
        stream = target.add_stream("wrapped_avframe", rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            picture = frame.reformat(*size, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 30)
            target.mux(stream.encode(picture))
        target.mux(stream.encode(None))
    return path
