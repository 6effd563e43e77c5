"""A headless Chromium for the tests of the page."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from inference.samples import SAMPLE
from tools.page import ARGUMENTS, BROWSERS, write_camera

MANDATORY = "BROWSER_TESTS"  # set to "1" where a missing browser is a failure, as .ci/run does
HOW = "apt-get install chromium, and pip install -r requirements-dev.txt -r requirements-app.txt"
PATIENCE = 60_000  # ms: a busy machine is no failure
# What Gradio writes when a page that still listens to the server is left, or loaded again.
LEFT = (
    "AbortError: signal is aborted",
    "AbortError: BodyStreamBuffer was aborted",
    "Unexpected error Connection errored out",
)

expect.set_options(timeout=PATIENCE)


def chromium() -> str:
    """The path of the browser. Without one the test is skipped or, where it is mandatory, fails."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        complain = pytest.fail if os.environ.get(MANDATORY) == "1" else pytest.skip
        complain(f"no Chromium on this machine: {HOW}")
    return path


@contextlib.contextmanager
def launched(camera: Path) -> Iterator[Browser]:
    """A headless browser whose camera shows the sample's driving video, which is written to `camera`."""
    path = chromium()
    write_camera(camera, SAMPLE["driving_video"])
    with sync_playwright() as playwright:
        arguments = [*ARGUMENTS, f"--use-file-for-fake-video-capture={camera}"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """The page for one person. A request to another host, or an error in its console, fails the test."""
    with contextlib.closing(
        browser.new_context(**{"viewport": {"width": 1280, "height": 1000}} | options)
    ) as context:
        context.set_default_timeout(PATIENCE)
        page, wrong = context.new_page(), []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        own = (address, "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
        page.goto(address)
        page.get_by_role("tab", name="Animate").wait_for()
        yield page
        wrong = [text for text in wrong if not text.startswith(LEFT)]
        assert not wrong, wrong
