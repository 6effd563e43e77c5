"""A browser whose camera is a video. Live: frames, guidance, changes, recording. Animate: what it films."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("playwright", reason="pip install -r requirements-dev.txt")
import requests
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect
from skimage import data

from faces.yunet import FaceDetector
from inference.samples import SAMPLE
from media.clips import open_clip
from media.pictures import decode_picture, fit, read_image, write_image
from media.rates import steady
from tests.browser import opened

MAX_AGE = 500  # ms of what is shown; how fast it goes depends on what else computes
RESULT = "document.querySelector('.live-result')"
SOURCE = "document.querySelector('.live-overlay').src"  # the picture as it was cut out


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


def next_token(page: Page) -> str:
    with page.expect_request("**/live/frame*") as caught:
        pass
    return caught.value.headers["x-live-token"]


def has_session(address: str, token: str) -> bool:
    """Whether a session goes on: it complains of an empty frame only then."""
    answer = requests.post(f"{address}live/frame", data=b"", headers={"x-live-token": token})
    assert answer.status_code in (400, 410)
    return answer.status_code == 400


def expect_the_end(page: Page, address: str, token: str) -> None:
    for _ in range(100):
        if not has_session(address, token):
            return
        page.wait_for_timeout(100)
    raise AssertionError("the session goes on")


def test_sessions_end_where_they_are_stopped_or_left(browser: Browser, page: Page, address: str) -> None:
    """More often than there are places."""
    for _ in range(9):
        token = next_token(page)
        assert has_session(address, token)
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.locator(".live-figures")).to_have_text("stopped")
        expect_the_end(page, address, token)
        page.get_by_role("button", name="Start camera").click()
        wait_for_frames(page, 1)

    # Another tab of the page, and another page.
    token = next_token(page)
    page.get_by_role("tab", name="Animate").click()
    expect_the_end(page, address, token)
    page.get_by_role("tab", name="Live").click()
    expect(page.locator(".live")).to_have_attribute("data-state", "stopped")
    page.get_by_role("button", name="Start camera").click()
    wait_for_frames(page, 1)
    token = next_token(page)
    page.goto("about:blank")
    with opened(browser, address) as other:
        expect_the_end(other, address, token)


def test_pictures_and_model_change_while_live(page: Page, address: str, inputs: Path, tmp_path: Path) -> None:
    token = next_token(page)
    page.locator("#live-pictures").get_by_label("Remove this file").or_(
        page.locator("#live-pictures").get_by_role("button", name="Clear")
    ).first.click()
    expect(page.locator(".live-pictures button")).to_have_count(1)
    wait_for_frames(page, 3)

    # A broken picture is told, and it goes on.
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"broken")
    page.locator("#live-pictures input[type=file]").set_input_files(broken)
    expect(page.locator(".live-error")).to_contain_text("broken.png: ")
    wait_for_frames(page, 3)
    page.get_by_role("button", name="A model of your own").click()
    page.locator("#live-config input[type=file]").set_input_files(inputs / "good.yaml")
    page.locator("#live-pictures").get_by_role("button", name="Clear").or_(
        page.locator("#live-pictures").get_by_label("Remove this file")
    ).first.click()
    page.locator("#live-checkpoint input[type=file]").set_input_files(inputs / "good.pth.tar")
    page.wait_for_function(f"() => {RESULT}.width === 32")
    wait_for_frames(page, 3)
    expect(page.locator(".live-error")).to_have_text("")
    assert next_token(page) == token and has_session(address, token)


def test_movement_and_strength_change_while_live(page: Page) -> None:
    wanted = ("relative=0", "strength=2")
    with page.expect_request(lambda request: all(part in request.url for part in wanted)):
        page.get_by_label("Relative movement").uncheck()
        page.get_by_label("Strength").fill("2")
    wait_for_frames(page, 3)


def test_a_countdown_and_hints_guide(page: Page) -> None:
    told = page.locator(".live-told")
    expect(told).to_have_text("")  # the countdown of the start is over
    with page.expect_request(lambda request: "reference=1" in request.url) as caught:
        page.keyboard.press("x")
        expect(told).to_contain_text("3")
        assert page.locator(".live-overlay").is_visible()
        expect(told).to_contain_text("1")
    assert caught.value
    expect(page.locator(".live-overlay")).to_be_hidden()

    # A hint is of what the viewer sees: in a mirror, left is left.
    page.keyboard.press("c")
    page.route("**/live/frame*", hinted)
    expect(told).to_have_text("turn left")
    page.keyboard.press("r")
    expect(told).to_have_text("turn right")
    page.unroute_all(behavior="wait")


def hinted(route: Route) -> None:
    answer = route.fetch()
    route.fulfill(response=answer, headers=answer.headers | {"x-hint": "turn left"})


def test_zoom_and_shift_by_keys(browser: Browser, address: str) -> None:
    """The camera's colours say where in it a pixel was: red from left to right, green downwards."""
    camera = """() => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 640, height: 480 });
        const context = canvas.getContext("2d"), pixels = context.createImageData(640, 480);
        for (let i = 0; i < 640 * 480; i += 1)
            pixels.data.set([(i % 640) * 255 / 639, Math.floor(i / 640) * 255 / 479, 0, 255], 4 * i);
        setInterval(() => context.putImageData(pixels, 0, 0), 30);
        navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(30);
    }"""
    corners = """() => {
        const canvas = document.querySelector(".live-camera"), context = canvas.getContext("2d");
        const at = (x, y) => [...context.getImageData(x, y, 1, 1).data];
        const [first, last] = [at(0, 0), at(canvas.width - 1, canvas.height - 1)];
        return [first[0] * 639 / 255, first[1] * 479 / 255, last[0] * 639 / 255, last[1] * 479 / 255];
    }"""

    def cut(keys: str) -> list[float]:
        """Press keys; return left, top, right and bottom of what is cut out of the camera then."""
        for key in keys:
            page.keyboard.press(f"Shift+{key.lower()}" if key.isupper() else key)
        wait_for_frames(page, 2)
        return page.evaluate(corners)

    with opened(browser, address) as page:
        page.evaluate(camera)
        page.get_by_role("tab", name="Live").click()
        page.get_by_role("button", name="Start camera").click()
        wait_for_frames(page, 1)
        page.get_by_label("Mirror").uncheck()
        near = 8  # pixels of the camera: two of the model, and the rounding of a colour
        assert cut("") == pytest.approx([80, 0, 560, 480], abs=near)
        assert cut("kkkkkkkk") == pytest.approx([120, 0, 600, 480], abs=near)
        assert cut("j") == pytest.approx([120, 0, 600, 480], abs=near)  # there is nothing below
        left, top, right, bottom = cut("wwwwwww")  # 1.1**7 is 1.95
        assert (right - left, bottom - top) == pytest.approx((246, 246), abs=2 * near)
        assert (left + right, top + bottom) == pytest.approx((720, 480), abs=2 * near)
        assert cut("uuuuhhhh") == pytest.approx([left - 20, top - 20, right - 20, bottom - 20], abs=near)
        assert cut("Z") == pytest.approx([80, 0, 560, 480], abs=near)
        page.get_by_label("Mirror").check()
        left, _, right, _ = cut("kkkkkkkk")  # as the viewer sees it
        assert (left, right) == pytest.approx((520, 40), abs=near)


def test_a_snapshot_and_a_recording(page: Page, tmp_path: Path) -> None:
    with page.expect_download() as download:
        page.get_by_role("button", name="Snapshot").click()
    download.value.save_as(tmp_path / download.value.suggested_filename)
    assert read_image(tmp_path / "live.png").shape == (128, 128, 3)

    page.get_by_role("button", name="Record", exact=True).click()
    wait_for_frames(page, 15)
    with page.expect_download() as download:
        page.get_by_role("button", name="Stop recording").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.suffix == ".webm"
    frames = list(steady(open_clip(path)))
    assert len(frames) >= 10 and frames[0].shape == (128, 128, 3)
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1
    page.locator("#live-pictures").page.set_content("<video muted></video>")
    page.evaluate(
        "data => { document.querySelector('video').src = 'data:video/webm;base64,' + data; }",
        base64.b64encode(path.read_bytes()).decode(),
    )
    page.evaluate("() => document.querySelector('video').play()")
    page.wait_for_function("() => document.querySelector('video').currentTime > 0.3")


def test_the_picture_fills_the_window(page: Page) -> None:
    page.get_by_role("button", name="Full window").click()
    assert page.locator(".live-result").bounding_box() == {"x": 0, "y": 0, "width": 1280, "height": 1000}
    page.keyboard.press("Escape")
    box = page.locator(".live-result").bounding_box()
    assert box is not None and box["width"] < 600


def test_another_camera_is_chosen(page: Page) -> None:
    page.evaluate(
        """() => {
            const devices = navigator.mediaDevices, open = devices.getUserMedia.bind(devices);
            devices.enumerateDevices = async () => ["one", "two"].map((deviceId) => ({
                kind: "videoinput", deviceId, label: `Camera ${deviceId}` }));
            devices.getUserMedia = async (wanted) => {
                window.wanted = wanted.video.deviceId;
                return open({ video: true });
            };
        }"""
    )
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Start camera").click()
    expect(page.locator(".live-device").locator("option")).to_have_text(["Camera one", "Camera two"])
    page.locator(".live-device").select_option("Camera two")
    page.wait_for_function("() => window.wanted?.exact === 'two'")
    wait_for_frames(page, 3)


def cut_picture(page: Page) -> np.ndarray:
    """The picture as it was cut out: (H, W, 3)."""
    encoded = page.evaluate(f"() => {SOURCE}").partition(",")[2]
    return decode_picture(base64.b64decode(encoded))


def test_a_portrait_keeps_its_head(browser: Browser, address: str, tmp_path: Path) -> None:
    """What is cut out is what the tab Animate cuts: around a face, also where none is asked for."""
    tall = np.full((900, 300, 3), 90, np.uint8)
    tall[:300] = np.asarray(Image.fromarray(data.astronaut()).resize((300, 300)))
    write_image(tmp_path / "tall.png", tall)
    with opened(browser, address, permissions=["camera"]) as page:
        page.get_by_role("tab", name="Live").click()
        page.locator("#live-pictures input[type=file]").set_input_files(tmp_path / "tall.png")
        expect(page.locator("#live-pictures")).to_contain_text("tall")
        page.get_by_role("button", name="Start camera").click()
        wait_for_frames(page, 1)
        assert np.abs(cut_picture(page) - fit(tall[:300], (128, 128), "stretch").astype(int)).mean() < 6

        # Around the face alone, and by hand.
        before = page.evaluate(f"() => {SOURCE}")
        page.get_by_label("Find faces").check()
        page.wait_for_function(f"before => {SOURCE} !== before", arg=before)
        assert len(FaceDetector()(cut_picture(page)).boxes) == 1
        before = page.evaluate(f"() => {SOURCE}")
        page.get_by_role("button", name="Crop").click()
        page.get_by_label("Box in the picture").fill("100,100,200,200")
        page.get_by_label("Box in the picture").press("Enter")
        page.wait_for_function(f"before => {SOURCE} !== before", arg=before)
        expected = fit(tall[100:200, 100:200], (128, 128), "stretch").astype(int)
        assert np.abs(cut_picture(page) - expected).mean() < 6

        # The box is drawn, and follows the keys.
        before = page.evaluate(f"() => {SOURCE}")
        page.get_by_role("button", name="Show box").click()
        expect(page.locator("#live-box .crop-handle")).to_be_visible()
        page.locator("#live-box .crop-handle").press("ArrowDown")
        expect(page.get_by_label("Box in the picture")).to_have_value("100,103,200,203")
        page.wait_for_function(f"before => {SOURCE} !== before", arg=before)
        expected = fit(tall[103:203, 100:200], (128, 128), "stretch").astype(int)
        assert np.abs(cut_picture(page) - expected).mean() < 6


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
        page.get_by_role("button", name="A model of your own").click()
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
