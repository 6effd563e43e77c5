"""Make the pictures of the page's documentation, in a browser.

    python -m tools.page_pictures
    python -m tools.page_pictures --width 390 --out /tmp/phone

They are `page.png`, the tab Animate with a result, `page-live.jpg` and `page-inside.jpg`. The camera shows
the sample's driving video. Chromium must be installed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from inference.samples import ROOT, SAMPLE
from tools.browser import browser_arguments, find_chromium, served, write_camera
from utils.errors import UserError
from utils.options import OptionParser
from utils.program import command_line

SECONDS_OF_RESULT = 1.2  # where the sample's result is stopped: the head is turned
LIVE_FRAMES = 40  # that were shown before the picture of the tab Live
MIN_HEIGHT = 600


def show_animate(page: Page) -> None:
    page.locator("table tbody tr").first.click()
    page.locator("#driving video").wait_for()
    page.get_by_role("button", name="Animate", exact=True).click()
    page.wait_for_function("() => document.querySelector('#result video')?.currentTime > 0")
    page.evaluate(
        """(seconds) => {
            const video = document.querySelector("#result video");
            video.pause();
            video.currentTime = seconds;
        }""",
        SECONDS_OF_RESULT,
    )


def show_live(page: Page) -> None:
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Start camera").click()
    page.wait_for_function(
        "count => Number(document.querySelector('.live')?.dataset.shown) > count", arg=LIVE_FRAMES
    )


def show_inside(page: Page) -> None:
    """Show the files of `show_animate`."""
    page.get_by_role("tab", name="Inside").click()
    page.get_by_role("button", name="Look inside").click()
    page.locator("#inside").get_by_text("flow", exact=True).wait_for()
    page.wait_for_function("() => [...document.querySelectorAll('#inside img')].every(one => one.complete)")


def take(page: Page, path: Path) -> None:
    """Take all of the tab, from its top, without the empty space below."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)  # what fades in has come
    quality = None if path.suffix == ".png" else 85  # the suffix says which kind it is
    page.screenshot(path=path, quality=quality, full_page=True, animations="disabled")


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "sup-mat", help="an existing folder (default: sup-mat)"
    )
    parser.add_argument(
        "--width", type=int, default=1024, help="of the browser's window, in pixels (default: 1024)"
    )
    options = parser.parse_args(argv)
    chromium = find_chromium()
    if chromium is None:
        raise UserError("no Chromium on this machine: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        served() as (address, _, _),
        sync_playwright() as playwright,
    ):
        camera = write_camera(Path(folder) / "clip.y4m", SAMPLE["driving_video"])
        browser = playwright.chromium.launch(executable_path=chromium, args=browser_arguments(camera))
        page = browser.new_page(
            viewport={"width": options.width, "height": MIN_HEIGHT}, permissions=["camera"]
        )
        page.goto(address)
        steps = {"page.png": show_animate, "page-live.jpg": show_live, "page-inside.jpg": show_inside}
        for name, show in steps.items():
            show(page)
            take(page, options.out / name)
            print(options.out / name)
        browser.close()


if __name__ == "__main__":
    main()
