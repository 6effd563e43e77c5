"""A running page and a headless Chromium for the tests of the page."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parent.parent
MANDATORY = "BROWSER_TESTS"  # set to "1" where a missing browser is a failure, as .ci/run does
HOW = "apt-get install chromium, and pip install -r requirements-dev.txt -r requirements-app.txt"
# What Gradio writes when a page that still listens to the server is left, or loaded again.
LEFT = ("AbortError: signal is aborted", "Unexpected error Connection errored out")
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


def write_camera(path: Path, video: Path, size: tuple[int, int] = (256, 256)) -> Path:
    """A video as a .y4m of this (width, height), which Chromium takes for a camera."""
    with av.open(str(video)) as source, av.open(str(path), "w", format="yuv4mpegpipe") as target:
        stream = target.add_stream("wrapped_avframe", rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            picture = frame.reformat(*size, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 30)
            target.mux(stream.encode(picture))
        target.mux(stream.encode(None))
    return path


@contextlib.contextmanager
def launched(camera: Path | None = None) -> Iterator[Browser]:
    """A headless browser."""
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments(camera))
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """The page for one person; other hosts are out of reach. Errors in its console fail the test."""
    with contextlib.closing(
        browser.new_context(**{"viewport": {"width": 1280, "height": 1000}} | options)
    ) as context:
        page, wrong = context.new_page(), []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        own = (address, "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
        page.goto(address)
        page.get_by_role("tab", name="Animate").wait_for(timeout=60_000)
        yield page
        wrong = [text for text in wrong if not text.startswith(LEFT)]
        assert not wrong, wrong
