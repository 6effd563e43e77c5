"""Photograph the page in Chromium, for the documentation or to be looked at.

    python -m tools.page
    python -m tools.page --all shots

The first writes a picture of each tab into sup-mat/, or into --out: the sample animated, live with a camera
that shows the sample's driving video, and inside. The second writes each tab at the widths of a desktop, a
tablet and a phone, light and dark. Both need requirements-dev.txt, requirements-app.txt and Chromium.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from inference.samples import ROOT, SAMPLE
from media.pictures import read_image
from utils.errors import UserError
from utils.files import atomic_write
from utils.options import option, read_options
from utils.program import command_line

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
SHOTS = {"Animate": "page.png", "Live": "page-live.jpg", "Inside": "page-inside.jpg"}
WIDTHS, SCHEMES, HEIGHT = (1280, 1024, 390), ("light", "dark"), 900
PATIENCE = 120_000  # ms


@contextlib.contextmanager
def served() -> Iterator[str]:
    """Serve the page with the model that ships; yield its address."""
    command = [sys.executable, "-u", str(ROOT / "app.py"), "--offline"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("The page is at "):
                    yield line.split()[4]
                    return
            raise UserError("app.py did not start; it says why above")
        finally:
            process.terminate()


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


# ---- Each tab, with something in it ----------------------------------------------


def show_animate(page: Page) -> None:
    """Animate the sample."""
    page.locator("#source input[type=file]").set_input_files(SAMPLE["source_image"])
    page.locator("#driving input[type=file]").set_input_files(SAMPLE["driving_video"])
    page.locator("#driving video").wait_for()
    page.get_by_role("button", name="Animate", exact=True).click()
    page.wait_for_function("() => document.querySelector('#result video')?.currentTime > 0")


def show_live(page: Page) -> None:
    """Follow the camera, with the outline over it."""
    open_tab(page, "Live")
    page.get_by_role("button", name="Start camera").click()
    page.get_by_label("Overlay the pose to match").check()
    page.wait_for_function("() => Number(document.querySelector('.live').dataset.shown) > 5")
    page.locator(".live-device option").evaluate("node => { node.text = 'Webcam'; }")  # a file's name else


def show_inside(page: Page) -> None:
    """Look into the middle of the sample."""
    show_animate(page)
    open_tab(page, "Inside")
    page.get_by_role("button", name="Look inside").click()
    page.locator("#inside img").first.wait_for()


def open_tab(page: Page, name: str) -> None:
    """Open a tab; on a narrow page it is in a menu."""
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").first.click()
    tab.click()


TABS = {"Animate": show_animate, "Live": show_live, "Inside": show_inside}


# ---- Pictures --------------------------------------------------------------------


def photograph(
    browser: Browser, address: str, tab: str, width: int = WIDTHS[0], scheme: Any = SCHEMES[0]
) -> bytes:
    """Return a .png of all of a tab."""
    look: Any = {"viewport": {"width": width, "height": HEIGHT}, "color_scheme": scheme}
    with contextlib.closing(browser.new_context(**look, permissions=["camera"])) as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(address)
        page.get_by_role("tab", name="Animate").wait_for()
        TABS[tab](page)
        page.wait_for_timeout(1000)  # what opens slowly is open
        return page.screenshot(full_page=True)


def write_shot(path: Path, png: bytes) -> None:
    """Write a screenshot, as small as its format allows."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    with atomic_write(path) as temporary:
        if path.suffix == ".jpg":
            image.save(temporary, format="JPEG", quality=85, optimize=True)
        else:
            image.quantize(256, dither=Image.Dither.NONE).save(temporary, format="PNG", optimize=True)
    height, width = read_image(path).shape[:2]
    print(f"{path}: {width}x{height}, {path.stat().st_size / 1024:.0f} KiB")


@dataclass(frozen=True)
class ShotOptions:
    """The command line."""

    out: Path = option(ROOT / "sup-mat", "an existing folder (default: sup-mat)")
    all: Path | None = option(
        None, "write every tab in every look into this folder instead", metavar="FOLDER"
    )


@command_line
def main(argv: list[str] | None = None) -> None:
    options = read_options(ShotOptions, argv, __doc__)
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise UserError("there is no Chromium on this machine: apt-get install chromium")
    with served() as address, tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        camera = write_camera(Path(folder) / "camera.y4m", SAMPLE["driving_video"])
        arguments = [*ARGUMENTS, f"--use-file-for-fake-video-capture={camera}"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        if options.all is None:
            for tab, name in SHOTS.items():
                write_shot(options.out / name, photograph(browser, address, tab))
            return
        options.all.mkdir(parents=True, exist_ok=True)
        for tab, width, scheme in itertools.product(TABS, WIDTHS, SCHEMES):
            path = options.all / f"{tab.lower()}-{width}-{scheme}.png"
            write_shot(path, photograph(browser, address, tab, width, scheme))


if __name__ == "__main__":
    main()
