"""The page in a browser: the box that is drawn is the one that is cut, however it came about."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("playwright", reason="pip install -r requirements-dev.txt")
from playwright.sync_api import Browser, Locator, Page, expect

import demo
from inference.jobs import driving_cuts, make_job, source_cuts
from media.clips import open_clip
from media.pictures import read_image, write_image
from media.writer import VideoWriter
from tests.browser import opened
from tests.test_app import choose_model_of_tests, result_line, upload
from tests.test_demo_crop import people
from utils.progress import no_bar

SIZE = (32, 32)  # of the model of the tests


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A picture of two people, and a video that is twice as high as wide."""
    folder = tmp_path_factory.mktemp("files")
    write_image(folder / "people.png", people())
    with VideoWriter(folder / "tall.mp4", 10) as writer:
        for number in range(3):
            frame = np.full((480, 240, 3), 120, np.uint8)
            frame[40 + number : 240 + number, 20:220] = people()[:200, 310:510]
            writer.write(frame)
    return folder / "people.png", folder / "tall.mp4"


@pytest.fixture
def page(browser: Browser, address: str, inputs: Path, files: tuple[Path, Path]) -> Iterator[Page]:
    """The tab with faces that were found in the files."""
    with opened(browser, address) as page:
        upload(page, *files)
        choose_model_of_tests(page, inputs)
        page.get_by_role("button", name="Crop").click()
        page.get_by_label("Find faces").check()
        show(page)
        yield page


def show(page: Page) -> None:
    page.get_by_role("button", name="Show boxes").click()
    expect(page.locator("#driving-box .crop-handle")).to_be_visible()


def drawn(box: Locator) -> list[float] | None:
    """The box on the page in pixels of its picture, before it is turned; None where there is none."""
    return box.evaluate(
        """node => {
            const handle = node.querySelector(".crop-handle"), image = node.querySelector("img");
            if (handle.offsetParent === null) return null;
            const scale = Number(image.naturalWidth) / image.clientWidth;
            return [handle.offsetLeft, handle.offsetTop, handle.offsetLeft + handle.offsetWidth,
                    handle.offsetTop + handle.offsetHeight].map((side) => side * scale);
        }"""
    )


def check_command(page: Page, files: tuple[Path, Path]) -> None:
    """Animate, and compare both boxes with what the page's command cuts."""
    page.locator("#status .progress-line").evaluate("node => node.replaceChildren()")  # that of the last time
    page.get_by_role("button", name="Animate", exact=True).click()
    result_line(page)
    words = shlex.split(page.locator("#command textarea").input_value())
    job = make_job(demo.parse(words[2:]), SIZE)
    picture, clip = read_image(files[0]), open_clip(files[1])
    for box, cuts in (
        ("#source-box", source_cuts(files[0], picture, job)),
        ("#driving-box", driving_cuts(clip, job, no_bar)),
    ):
        expected = cuts.regions[0].box[:4]
        assert drawn(page.locator(box)) == pytest.approx(expected, abs=2), box


def drag(page: Page, handle: Locator, x: int, y: int) -> None:
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + x, middle[1] + y, steps=2)
    page.mouse.up()


def test_what_is_drawn_is_cut(page: Page, files: tuple[Path, Path]) -> None:
    """Found, dragged, typed, and emptied again."""
    source, driving = page.locator("#source-box"), page.locator("#driving-box")
    source_field, driving_field = (
        page.get_by_label("Box in the picture"),
        page.get_by_label("Box in the video"),
    )
    expect(source.locator(".face")).to_have_text(["1", "2"])
    found = drawn(driving)
    check_command(page, files)

    # A drag of one box by three pixels leaves the other one alone.
    drag(page, source.locator(".crop-handle"), 3, 0)
    expect(source_field).not_to_have_value("")
    assert drawn(driving) == found and driving_field.input_value() == ""
    check_command(page, files)

    # A box that is typed has not the model's shape; what is drawn has.
    driving_field.fill("20,30,120,330")
    expect(driving.locator("figcaption")).to_contain_text("-80,30,220,330")
    check_command(page, files)
    driving_field.fill("20,30,120")
    expect(driving.locator(".crop-handle")).to_be_hidden()
    driving_field.fill("")
    expect(driving.locator(".crop-handle")).to_be_visible()
    assert drawn(driving) == found
    check_command(page, files)


def test_boxes_go_with_what_they_were_found_for(page: Page, files: tuple[Path, Path], tmp_path: Path) -> None:
    source, driving = page.locator("#source-box .crop-box"), page.locator("#driving-box .crop-box")
    drag(page, source.locator(".crop-handle"), 3, 0)
    field = page.get_by_label("Box in the picture")
    expect(field).not_to_have_value("")

    # Without faces others are cut; a box by hand stays until its text goes.
    page.get_by_label("Find faces").uncheck()
    expect(driving).to_be_hidden()
    expect(source).to_be_visible()
    show(page)
    check_command(page, files)
    field.fill("")
    expect(source).to_be_hidden()

    # Another picture has no box.
    show(page)
    drag(page, source.locator(".crop-handle"), -3, 0)
    expect(field).not_to_have_value("")
    page.locator("#source").get_by_label("Clear").or_(
        page.locator("#source").get_by_label("Remove")
    ).first.click()
    expect(source).to_be_hidden()
    expect(field).to_have_value("")
    expect(driving).to_be_visible()


def test_the_whole_picture_is_drawn_where_it_is_taken(page: Page) -> None:
    page.get_by_label("Find faces").uncheck()
    page.get_by_role("button", name="Result", exact=False).first.click()
    page.get_by_label("pad", exact=True).check()
    show(page)
    assert drawn(page.locator("#driving-box")) == pytest.approx([0, 0, 240, 480], abs=2)


def test_boxes_on_a_phone(browser: Browser, address: str, inputs: Path, files: tuple[Path, Path]) -> None:
    """A portrait fits the window, and a swipe beside the box scrolls."""
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(browser, address, **phone) as page:
        upload(page, *files)
        choose_model_of_tests(page, inputs)
        page.get_by_role("button", name="Crop").click()
        show(page)
        stage = page.locator("#driving-box .crop-stage")
        box = stage.bounding_box()
        assert box is not None and box["height"] <= 0.75 * 844
        parts = "[node, node.querySelector('.crop-handle')]"
        actions = f"node => {parts}.map((part) => getComputedStyle(part).touchAction)"
        assert stage.evaluate(actions) == ["auto", "none"]

        # The picture's lower part is beside the box.
        stage.scroll_into_view_if_needed()
        box = stage.bounding_box()
        assert box is not None
        before = page.evaluate("() => window.scrollY")
        x, y = box["x"] + box["width"] / 2, box["y"] + 0.95 * box["height"]
        session = page.context.new_cdp_session(page)
        for step in range(12):
            kind, at = ("touchMove" if step else "touchStart"), {"x": x, "y": y + 10 * step}
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_function("before => window.scrollY < before - 50", arg=before)
