"""A browser whose camera is a video. Live: frames, reference, pictures, keys. Animate: what it films."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="pip install -r requirements-dev.txt")
from playwright.sync_api import Browser, Page, expect

from inference.samples import SAMPLE
from media.pictures import read_image, write_image
from tests.browser import opened

MAX_AGE = 500  # ms of what is shown; how fast it goes depends on what else computes
RESULT = "document.querySelector('.live-result')"


@pytest.fixture
def page(browser: Browser, address: str, tmp_path: Path) -> Iterator[Page]:
    """The tab, live, with two pictures."""
    flipped = tmp_path / "flipped.png"
    write_image(flipped, read_image(SAMPLE["source_image"])[:, ::-1] // 2)
    with opened(browser, address, permissions=["camera"]) as page:
        page.get_by_role("tab", name="Live").click()
        page.locator("#live-pictures input[type=file]").set_input_files([SAMPLE["source_image"], flipped])
        expect(page.locator("#live-pictures")).to_contain_text("flipped")
        page.get_by_role("button", name="Start camera").click()
        wait_for_frames(page, 3)
        yield page


def wait_for_frames(page: Page, count: int) -> None:
    """Until so many more frames have been shown."""
    shown = int(page.locator(".live").get_attribute("data-shown") or 0)
    page.wait_for_function(
        "wanted => Number(document.querySelector('.live')?.dataset.shown) >= wanted", arg=shown + count
    )


def brightness(page: Page) -> float:
    """The mean of the red channel of what is shown."""
    return page.evaluate(
        f"""() => {{
            const canvas = {RESULT};
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            let sum = 0;
            for (let i = 0; i < pixels.length; i += 4) sum += pixels[i];
            return sum / (pixels.length / 4);
        }}"""
    )


def test_frames_change(page: Page) -> None:
    before = page.evaluate(f"() => {RESULT}.toDataURL()")
    wait_for_frames(page, 20)
    assert page.evaluate(f"() => {RESULT}.toDataURL()") != before
    data = page.locator(".live").evaluate("node => ({...node.dataset})")
    rate, latency, age = (float(data[name]) for name in ("rate", "latency", "age"))
    print(f"live: {rate:.1f} frames/s, {latency:.0f} ms from camera to screen, at most {age:.0f} ms")
    assert rate > 0 and latency > 0 and age <= MAX_AGE
    figures = page.locator(".live-figures").inner_text()
    assert "frames/s" in figures and "ms from camera to screen" in figures


def test_a_reference_is_set_by_button_and_key(page: Page) -> None:
    for act in (page.get_by_role("button", name="Set reference (X)").click, lambda: page.keyboard.press("x")):
        with page.expect_request(lambda request: "reference=1" in request.url):
            act()
    wait_for_frames(page, 3)


def test_pictures_switch_by_keys_and_clicks(page: Page) -> None:
    bright = brightness(page)
    page.keyboard.press("2")
    wait_for_frames(page, 3)
    assert brightness(page) < 0.7 * bright
    expect(page.get_by_role("button", name="Picture 2")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Picture 1").click()
    wait_for_frames(page, 3)
    assert brightness(page) > 0.8 * bright
    page.keyboard.press("7")  # there is none
    expect(page.get_by_role("button", name="Picture 1")).to_have_attribute("aria-pressed", "true")


def test_mirror_overlay_smoothing_and_automatic_reference(page: Page) -> None:
    overlay = page.locator(".live-overlay")
    expect(overlay).to_be_hidden()
    page.get_by_label("Overlay the pose to match").check()
    expect(overlay).to_be_visible()
    page.get_by_label("Mirror").uncheck()
    with page.expect_request(lambda request: "auto=1" in request.url and "smooth=5" in request.url):
        page.get_by_label("Automatic reference").check()
        page.get_by_label("Smoothing").fill("5")
    wait_for_frames(page, 3)


def test_stop_and_start_again(page: Page) -> None:
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".live-figures")).to_have_text("stopped")
    page.get_by_role("button", name="Start camera").click()
    page.wait_for_function("() => document.querySelector('.live').dataset.state === 'running'")
    wait_for_frames(page, 3)


def test_no_camera_is_told(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        refuse = "async () => { throw new Error('Requested device not found') }"
        page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {refuse} }}")
        page.get_by_role("tab", name="Live").click()
        page.get_by_role("button", name="Start camera").click()
        told = "no camera: Requested device not found"
        expect(page.locator(".live-error")).to_have_text(told)


def test_uploaded_model(browser: Browser, address: str, inputs: Path) -> None:
    """As in the tab Animate; it is 32x32."""
    with opened(browser, address, permissions=["camera"]) as page:
        page.get_by_role("tab", name="Live").click()
        page.get_by_role("button", name="Model").click()
        page.locator("#live-config input[type=file]").set_input_files(inputs / "good.yaml")
        page.locator("#live-checkpoint input[type=file]").set_input_files(inputs / "good.pth.tar")
        expect(page.locator("#live-checkpoint")).to_contain_text("good.pth")
        page.get_by_role("button", name="Start camera").click()
        wait_for_frames(page, 3)
        assert page.evaluate(f"() => [{RESULT}.width, {RESULT}.height]") == [32, 32]


def test_a_recording_drives(browser: Browser, address: str) -> None:
    with opened(browser, address, permissions=["camera"]) as page:
        page.locator("#source input[type=file]").set_input_files(SAMPLE["source_image"])
        driving = page.locator("#driving")
        driving.get_by_label("Capture from camera").click()
        driving.get_by_text("Click to Access Webcam").click()
        driving.get_by_label("start recording").click()
        page.wait_for_timeout(1500)
        driving.get_by_label("start recording").click()  # its text is now "Stop"
        expect(driving.locator("video[src]")).to_be_visible()
        page.get_by_role("button", name="Animate", exact=True).click()
        page.wait_for_function("() => document.querySelector('#result video')?.duration > 0")
