"""The page in a browser: animate a sample, watch and cancel, errors, boxes, the insides, several people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="pip install -r requirements-dev.txt")
from playwright.sync_api import Browser, Page, expect

from checkpoints.hub import CACHE
from inference.samples import SAMPLE
from media.clips import open_clip
from media.pictures import write_image
from media.writer import VideoWriter
from tests.browser import opened
from tests.test_demo_crop import people


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with opened(browser, address) as page:
        yield page


def choose_sample(page: Page) -> None:
    page.locator("#examples button").first.click()
    expect(page.locator("#driving video")).to_be_visible()


def result_line(page: Page) -> str:
    status = page.locator("#status .progress-line")
    page.wait_for_function("e => / in .* s, /.test(e.textContent)", arg=status.element_handle())
    return status.inner_text()


def result_video(page: Page) -> dict[str, Any]:
    """What the browser knows of the result, once it has read its beginning: size in pixels, seconds."""
    page.wait_for_function("() => document.querySelector('#result video')?.readyState > 0")
    return page.locator("#result video").evaluate(
        "video => ({size: [video.videoWidth, video.videoHeight], seconds: video.duration})"
    )


def upload(page: Page, source: Path, driving: Path) -> None:
    page.locator("#source input[type=file]").set_input_files(source)
    page.locator("#driving input[type=file]").set_input_files(driving)
    # What comes later would push down what is below it.
    expect(page.locator("#source img").first).to_be_visible()
    expect(page.locator("#driving video")).to_be_visible()


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    frames = list(open_clip(SAMPLE["driving_video"]))
    with VideoWriter(path, 30) as writer:
        for number in range(600):
            writer.write(frames[number % len(frames)])
    return path


# ---- Animate -----------------------------------------------------------------


def test_two_clicks_from_sample_to_playing_result(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        choose_sample(page)
        page.get_by_role("button", name="Animate", exact=True).click()
        page.wait_for_function("() => document.querySelector('#result video')?.currentTime > 0")
        assert result_video(page) == {"size": [128, 128], "seconds": pytest.approx(72 / 25, abs=0.05)}
        assert result_line(page).startswith("72 frames in ")
        command = page.locator("#command textarea").input_value()
        assert command.startswith(
            "python demo.py --source_image source.png --driving_video driving.mp4 --relative"
        )
        assert "--audio" not in command  # the sample has no sound
        with page.expect_download() as download:
            page.locator("#download a").first.click()
        assert len(open_clip(download.value.path().rename(download.value.path().with_suffix(".mp4")))) == 72


def test_progress_and_cancel_keep_what_is_done(
    page: Page, browser: Browser, address: str, long_video: Path
) -> None:
    """Meanwhile others wait: one closes the page, another one leaves the queue."""
    upload(page, SAMPLE["source_image"], long_video)
    page.get_by_role("button", name="Animate", exact=True).click()
    status = page.locator("#status .progress-line")
    page.wait_for_function(
        "e => /animation: [1-9]\\d*\\/600 frames, [\\d.]+ frames\\/s, [\\d:]+ left …$/.test(e.textContent)",
        arg=status.element_handle(),
    )
    with opened(browser, address) as closed:
        choose_sample(closed)
        closed.get_by_role("tab", name="Inside").click()
        closed.get_by_role("button", name="Look inside").click()
        expect(closed.locator("#inside")).to_contain_text("waiting about")
    with opened(browser, address) as other:
        choose_sample(other)
        other.get_by_role("button", name="Animate", exact=True).click()
        waiting = re.compile(r"waiting about \d+ s, with 1 before this one …")
        expect(other.locator("#status .progress-line")).to_have_text(waiting)
        assert status.inner_text().startswith("animation: ")  # so that this is the one before
        other.get_by_role("button", name="Cancel").click()
        told = "cancelled before the first frame, so there is no result"
        expect(other.locator("#status .progress-line")).to_have_text(told)
    page.get_by_role("button", name="Cancel").click()
    line = result_line(page)
    kept = int(line.split()[2])
    assert line.startswith(f"stopped after {kept} of 600 frames; {kept} frames in ") and 0 < kept < 600
    assert result_video(page)["seconds"] == pytest.approx(kept / 30, abs=0.05)


def test_the_browser_asks_before_a_video_is_left_and_whoever_stays_gets_it(page: Page) -> None:
    choose_sample(page)
    page.get_by_role("button", name="Animate", exact=True).click()
    expect(page.locator("#status .progress-line")).to_contain_text("animation: ")
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.evaluate("() => { setTimeout(() => location.reload()) }")
    assert result_line(page).startswith("72 frames")
    assert asked == ["beforeunload"]
    page.reload()  # now without a question
    assert asked == ["beforeunload"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("broken.png", b"\x89PNG\r\n\x1a\nbroken", "broken.png: can't be read as a picture"),
        ("broken.mp4", b"\0\0\0\x18ftypmp42broken", "broken.mp4: "),
    ],
)
def test_a_broken_file_is_told_and_the_server_goes_on(
    page: Page, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    broken = tmp_path / name
    broken.write_bytes(content)
    choose_sample(page)
    where = "#source" if name.endswith("png") else "#driving"
    remove = page.locator(where).get_by_label("Clear").or_(page.locator(where).get_by_label("Remove")).first
    remove.click()
    page.locator(f"{where} input[type=file]").set_input_files(broken)
    expect(remove).to_be_visible()  # now it is with the server
    page.get_by_role("button", name="Animate", exact=True).click()
    toast = page.locator(".toast-body").filter(has_text=told).first
    expect(toast).to_be_visible()
    assert "/" not in toast.inner_text()
    page.reload()
    choose_sample(page)
    page.get_by_role("button", name="Animate", exact=True).click()
    assert result_line(page).startswith("72 frames")


def test_two_people_at_once_get_their_own(browser: Browser, address: str, tmp_path: Path) -> None:
    lengths = (9, 14)
    frames = list(open_clip(SAMPLE["driving_video"]))
    with opened(browser, address) as first, opened(browser, address) as second:
        pages = (first, second)
        for page, length in zip(pages, lengths, strict=True):
            with VideoWriter(tmp_path / f"{length}.mp4", 10) as writer:
                for frame in frames[:length]:
                    writer.write(frame)
            upload(page, SAMPLE["source_image"], tmp_path / f"{length}.mp4")
        for page in pages:
            page.get_by_role("button", name="Animate", exact=True).click()
        for page, length in zip(pages, lengths, strict=True):
            assert result_line(page).startswith(f"{length} frames in ")


def test_the_slider_of_the_reference_shows_its_frame(page: Page) -> None:
    choose_sample(page)
    page.get_by_role("button", name="Motion").click()
    slider = page.get_by_role("slider", name="range slider for Movement is measured from frame").first
    expect(slider).to_have_attribute("max", "71")
    image = page.locator("#reference-frame img")
    before = image.get_attribute("src")
    slider.focus()
    for _ in range(12):
        slider.press("ArrowRight")
    expect(image).not_to_have_attribute("src", before)


# ---- Photos, settings, hints ----------------------------------------------------


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A photo of two people, and a video of one of them."""
    folder = tmp_path_factory.mktemp("photo")
    write_image(folder / "people.png", people())
    with VideoWriter(folder / "moving.mp4", 10) as writer:
        for number in range(6):
            writer.write(np.roll(people()[:, :300], 4 * number, axis=1))
    return folder / "people.png", folder / "moving.mp4"


@pytest.mark.parametrize("width", [1280, 390])
def test_a_photo_takes_a_preset_and_a_click(
    browser: Browser, address: str, photo: tuple[Path, Path], width: int
) -> None:
    """From first visit to a pasted-back result; the cartoon model warns, and names the one for faces."""
    with opened(browser, address, viewport={"width": width, "height": 844}) as page:
        upload(page, *photo)
        page.get_by_label("Faces in a photo").check()
        page.get_by_role("button", name="Crop").first.click()
        expect(page.get_by_label("Paste back").first).to_be_checked()
        page.get_by_role("button", name="Animate", exact=True).click()
        toast = page.locator(".toast-body").filter(has_text="real face").first
        expect(toast).to_contain_text("the model 'Faces, 695 MiB, downloaded once'")
        assert result_line(page).startswith("6 frames in ")
        command = page.locator("#command textarea").input_value()
        for word in ("--crop", "--paste_back", "--relative", "--find_best_frame", "--smooth 1"):
            assert word in command
        expect(page.locator("#result video")).to_be_in_viewport()
        assert result_video(page)["size"][0] == people().shape[1]


def test_settings_stay_over_a_reload(page: Page) -> None:
    page.get_by_label("Faces, 695 MiB").first.check()
    page.get_by_role("button", name="Result").first.click()
    page.get_by_label("webm").check()
    page.get_by_label("Faces in a photo").check()
    page.get_by_role("button", name="Crop").first.click()
    page.get_by_label("Box in the picture").fill("0,0,100,100")
    expect(page.get_by_label("Paste back").first).to_be_checked()
    page.wait_for_timeout(1000)
    page.reload()
    expect(page.get_by_label("Faces, 695 MiB").first).to_be_checked()
    page.get_by_role("button", name="Result").first.click()
    expect(page.get_by_label("webm")).to_be_checked()
    page.get_by_role("button", name="Crop").first.click()
    for name in ("Faces in a photo", "Find faces", "Paste back"):
        expect(page.get_by_label(name).first).to_be_checked()
    expect(page.get_by_label("Box in the picture").first).to_have_value("")
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.get_by_label("Cartoon heads").first).to_be_checked()
    expect(page.get_by_label("mp4")).to_be_checked()


def test_options_are_there_when_they_have_an_effect(page: Page) -> None:
    page.get_by_role("button", name="Crop").first.click()
    paste, face = page.get_by_label("Paste back"), page.get_by_label("Face", exact=True)
    expect(page.get_by_label("Find faces").first).to_be_visible()
    expect(paste).not_to_be_visible()
    page.get_by_label("Find faces").first.check()
    expect(paste).to_be_visible()
    expect(face).to_be_visible()
    page.get_by_label("Box in the picture").fill("0,0,100,100")
    expect(face).not_to_be_visible()
    assert "--" not in page.locator("body").inner_text()


def test_a_picture_that_is_broken_is_refused_as_it_is_chosen(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    page.locator("#source input[type=file]").set_input_files(tmp_path / "broken.png")
    told = page.locator(".toast-body").filter(has_text="broken.png: can't be read as a picture").first
    expect(told).to_be_visible()
    expect(page.locator("#source img")).to_have_count(0)


# ---- Boxes and insides -------------------------------------------------------


def test_a_box_is_dragged_and_cut(page: Page) -> None:
    choose_sample(page)
    page.get_by_role("button", name="Crop").click()
    page.get_by_role("button", name="Show boxes").click()
    handle, field = page.locator("#source-box .crop-handle"), page.get_by_label("Box in the picture")
    handle.wait_for()
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    right, bottom = box["x"] + box["width"] - 4, box["y"] + box["height"] - 4
    page.mouse.move(right, bottom)
    page.mouse.down()
    page.mouse.move(right - box["width"] * 0.25, bottom - box["height"] * 0.25, steps=4)
    page.mouse.up()
    expect(field).not_to_have_value("")
    left, top, right, bottom = map(int, field.input_value().split(","))
    assert (left, top) == (0, 0) and right == bottom and abs(right - 192) < 8
    handle.press("ArrowRight")
    expect(field).to_have_value(f"3,0,{right + 3},{bottom}")
    page.get_by_role("button", name="Animate", exact=True).click()
    assert result_line(page).startswith("72 frames")
    command = page.locator("#command textarea").input_value()
    assert f"--crop_source=3,0,{right + 3},{bottom}" in command


def test_boxes_need_no_checkpoint(page: Page) -> None:
    """The server may not download anything."""
    choose_sample(page)
    page.get_by_label("Faces, 695 MiB").first.check()
    page.get_by_role("button", name="Crop").first.click()
    page.get_by_role("button", name="Show boxes").click()
    for box in ("#source-box", "#driving-box"):
        expect(page.locator(f"{box} .crop-handle")).to_be_visible()
    page.get_by_role("button", name="Animate", exact=True).click()
    told = page.locator("#status .progress-line")
    expect(told).to_contain_text(str(CACHE))  # the real folder


def test_every_face_is_pasted_back(
    page: Page, inputs: Path, tmp_path: Path, photo: tuple[Path, Path]
) -> None:
    upload(page, *photo)
    choose_model_of_tests(page, inputs)
    page.get_by_role("button", name="Crop").click()
    page.get_by_label("Find faces").check()
    page.get_by_role("button", name="Show boxes").click()
    expect(page.locator("#source-box .crop-faces div")).to_have_count(2)
    page.get_by_label("Face", exact=True).click()
    page.get_by_role("option", name="every face").click()
    page.get_by_role("button", name="Animate", exact=True).click()
    assert result_line(page).startswith("6 frames")
    command = page.locator("#command textarea").input_value()
    assert "--paste_back" in command and "--face all" in command
    with page.expect_download() as download:
        page.locator("#download a").first.click()
    download.value.save_as(tmp_path / "result.mp4")
    change = np.abs(open_clip(tmp_path / "result.mp4").read([5])[0].astype(int) - people()).mean(axis=2)
    first, second, wall = change[:, :300].mean(), change[:200, 310:].mean(), change[220:, 320:].mean()
    assert min(first, second) > 3 * wall, (first, second, wall)


def test_inside_shows_what_the_networks_see(page: Page) -> None:
    choose_sample(page)
    page.get_by_role("tab", name="Inside").click()
    expect(page.locator("#inside-frame input[type=range]")).to_have_attribute("max", "71")
    page.locator("#inside-frame input[type=number]").fill("40")
    page.get_by_role("button", name="Look inside").click()
    for title in (
        "source",
        "driving frame",
        "result",
        "flow",
        "masks",
        "occlusion map",
        "motion of keypoint 15",
    ):
        expect(page.locator("#inside").get_by_text(title, exact=True)).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    places = [item.bounding_box() for item in page.locator("#inside .gallery-item").all()]
    assert len(places) == 8 + 15 and all(place["x"] + place["width"] <= 390 for place in places)


def choose_model_of_tests(page: Page, inputs: Path) -> None:
    page.get_by_role("button", name="A model of your own").first.click()
    page.locator("#config input[type=file]").set_input_files(inputs / "good.yaml")
    page.locator("#checkpoint input[type=file]").set_input_files(inputs / "good.pth.tar")
    expect(page.locator("#checkpoint")).to_contain_text("good.pth")
