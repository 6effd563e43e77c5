"""How the page looks: narrow, dark, and to a screen reader."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("playwright", reason="pip install -r requirements-dev.txt")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.browser import opened

TABS = ("Animate", "Live", "Inside")
EXCEPT_EMPTY = {"exclude": [[".empty"]]}  # Gradio's own placeholders have a label that their role forbids
CAMERA: Any = {"permissions": ["camera"]}
SERIOUS = ("serious", "critical")


def open_tab(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()
    if tab == "Animate":
        for section in ("A model of your own", "Motion", "Crop", "A part of the video", "Result"):
            page.get_by_role("button", name=section).first.click()
    if tab == "Live":
        page.get_by_role("button", name="Start camera").click()
        page.wait_for_function("() => document.querySelector('.live').dataset.state === 'running'")
    page.wait_for_timeout(300)  # the sections open slowly


@pytest.mark.parametrize("tab", TABS)
def test_nothing_sticks_out_on_a_phone(browser: Browser, address: str, tab: str) -> None:
    with opened(browser, address, **CAMERA, viewport={"width": 390, "height": 844}) as page:
        more = page.get_by_role("button", name="Overflow").or_(page.locator(".overflow-menu > button"))
        if not page.get_by_role("tab", name=tab).is_visible():
            more.first.click()
        open_tab(page, tab)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tab", TABS)
def test_contrast_and_labels(browser: Browser, address: str, tab: str, scheme: str) -> None:
    with opened(browser, address, **CAMERA, color_scheme=scheme) as page:
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, colour[4:-1].split(",")[:3])) < 300) == (scheme == "dark")
        open_tab(page, tab)
        found = Axe().run(page, EXCEPT_EMPTY, {"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
        told = [
            f"{rule['id']}: {[node['html'][:150] for node in rule['nodes']]}"
            for rule in found
            if rule["impact"] in SERIOUS
        ]
        assert told == []
