"""From a photo to a pasted result: level heads, calm borders, frames without a face, faces inside videos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import demo
from faces.align import look_closely
from faces.paste import Paster, calm_border
from faces.regions import Region, cut_out, put_back
from faces.yunet import FaceDetector
from inference.animator import normalize_kp
from inference.motion import smooth
from media.clips import open_clip
from media.pictures import write_image
from media.writer import VideoWriter
from tests.demo_files import MODEL
from tests.media_files import with_sound

FPS = 25


@pytest.fixture(scope="module")
def detect() -> FaceDetector:
    return FaceDetector()


def turned(degrees: float) -> np.ndarray:
    """A photo turned clockwise."""
    photo = Image.fromarray(data.astronaut())
    return np.asarray(photo.rotate(-degrees, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128)))


def head(number: int) -> np.ndarray:
    """A frame (180, 320, 3) in which a head nods and drifts."""
    frame = Image.new("RGB", (320, 180), (90, 110, 130))
    photo = Image.fromarray(data.astronaut()[:300, 60:360]).resize((180, 180))
    photo = photo.rotate(4 * math.sin(number / 4), Image.Resampling.BICUBIC)
    frame.paste(photo, (70 + round(4 * math.sin(number / 3)), 0))
    return np.asarray(frame)


def write_clip(path: Path, frames: Sequence[np.ndarray]) -> Path:
    with VideoWriter(path, FPS) as writer:
        for frame in frames:
            writer.write(frame)
        writer.finish()
    return path


def run(result: Path, *options: str) -> np.ndarray:
    """The frames (N, H, W, 3) that the demo writes."""
    demo.main([*MODEL, "--result_video", str(result), *options])
    return np.stack(list(open_clip(result))).astype(int)


# ---- Regions -------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 10, 25, 40, -15, -35])
def test_a_tilted_head_is_levelled_at_one_scale(degrees: int, detect: FaceDetector) -> None:
    picture = turned(degrees)
    face = look_closely(picture, detect(picture).boxes[0], detect)
    assert face is not None and math.degrees(face.angle) == pytest.approx(degrees, abs=6)
    assert face.unit == pytest.approx(45, rel=0.06)
    eyes, mouth = np.array([223.5, 102]), np.array([219, 143])  # of the photo that is not turned
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    for found, true in ((face.eyes, eyes), (face.mouth, mouth)):
        assert np.linalg.norm(found - ((true - 256) @ turn + 256)) < 8


def test_a_region_that_is_turned_goes_back_to_its_place() -> None:
    smooth = np.asarray(Image.fromarray(data.astronaut()).resize((64, 64)).resize((512, 512), 3))
    region = Region(250.0, 240.0, 180.0, 180.0, math.radians(20))
    left, top, right, bottom = region.bounds
    back = put_back(cut_out(smooth, region, (180, 180)), region, region.bounds).astype(int)
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    across, down = np.moveaxis(region.places_of(np.stack([x, y], axis=-1)), -1, 0)
    inside = (np.minimum(across, down) > 2) & (np.maximum(across, down) < 178)
    assert np.abs(back - smooth[top:bottom, left:right])[inside].max() <= 4


@pytest.mark.parametrize("angle", [0, 30])
def test_a_region_is_moved_into_the_picture_before_edges_are_repeated(angle: float) -> None:
    region = Region(10, 90, 100, 100, math.radians(angle)).within((200, 300))
    assert (region.corners >= -1e-6).all() and region.width == 100
    large = Region(50, 50, 150, 150).within((140, 300))
    assert large.height == pytest.approx(140) and large.corners.min() >= -1e-6
    assert Region(50, 50, 400, 400).within((140, 300)).height == 320  # too large: the rest is edges


def test_a_picture_cut_and_put_back_unmoved_is_the_picture_at_its_border() -> None:
    photo = data.astronaut()
    region = Region(220.0, 110.0, 189.0, 189.0, math.radians(-3))
    paster = Paster(photo.shape[:2], [region])
    piece = cut_out(photo, region, (64, 64))
    difference = np.abs(paster.paste(photo, [piece], paster.before(photo, [piece])).astype(int) - photo).max(
        axis=2
    )
    y, x = np.mgrid[:512, :512] + 0.5
    across, down = np.moveaxis(region.places_of(np.stack([x, y], axis=-1)), -1, 0)
    depth = np.minimum(np.minimum(across, down), region.width - np.maximum(across, down)) / region.width
    assert difference[depth < 0.02].max() <= 1 and difference[depth <= 0].max() == 0
    assert difference.max() > 8  # the middle shows the piece


def test_movement_fades_at_the_sides_that_lie_within_the_picture() -> None:
    movement = calm_border(np.array([True, False, True, True]), (50, 50))  # left, top, right, bottom
    assert movement[25, 25] == 1 and movement[0, 25] == 1 and movement[-1, 25] < 0.02
    assert movement[25, 0] < 0.02 and (np.diff(movement[25, :11]) >= 0).all() and movement[25, 11] == 1


# ---- The demo ------------------------------------------------------------------


def test_pasting_means_relative_unless_it_is_said(place: Path) -> None:
    write_image(place / "photo.png", data.astronaut())
    options = ["--source_image", str(place / "photo.png"), "--driving_video", "driving", "--crop_source"]
    options += ["120,20,320,220", "--paste_back"]
    usual = run(place / "usual", *options)
    asked = run(place / "asked", *options, "--relative", "--adapt_scale", "--find_best_frame")
    absolute = run(place / "absolute", *options, "--absolute")
    assert np.array_equal(usual, asked) and not np.array_equal(usual, absolute)


def test_a_pasted_result_has_at_most_max_side(place: Path) -> None:
    write_image(place / "photo.png", np.asarray(Image.fromarray(data.astronaut()).resize((2100, 1050))))
    options = ["--source_image", str(place / "photo.png"), "--driving_video", "one", "--paste_back"]
    options += ["--crop_source", "400,100,900,600"]
    assert run(place / "a", *options).shape[1:3] == (960, 1920)
    assert run(place / "b", *options, "--max_side", "0").shape[1:3] == (1050, 2100)


def test_frames_without_the_face_hold_the_last_pose(place: Path, capsys: pytest.CaptureFixture) -> None:
    faces, sky = [head(number) for number in range(20)], np.full((180, 320, 3), 180, np.uint8)
    write_clip(place / "lost", [*[sky] * 17, *faces, np.zeros_like(sky)])
    write_clip(place / "faces", faces)
    options = [
        "--source_image",
        "source.png",
        "--crop_source",
        "0,0,32,32",
        "--crop",
        "--relative",
        "--smooth",
    ]
    lost = run(place / "a", "--driving_video", str(place / "lost"), *options)
    assert "18 of 38 frames don't show the face" in capsys.readouterr().err
    good = run(place / "b", "--driving_video", str(place / "faces"), *options)
    cut = run(place / "c", "--driving_video", str(place / "lost"), *options, "--lost", "cut")
    assert np.abs(lost[17:37] - good).max() <= 1 and len(lost) == 38
    assert (lost[:17] == lost[17]).all() and (lost[37] == lost[36]).all()
    assert np.array_equal(cut, lost[17:37])


def test_one_black_frame_does_not_spread() -> None:
    """Its keypoints jump away and back; smoothed, all frames lie on the line of the others."""
    line = torch.linspace(0, 0.3, 30)
    jumped = line.clone()
    jumped[12] += 0.8
    keypoints = ({"value": value.expand(1, 3, 2)} for value in jumped)
    found = torch.stack([kp["value"].mean() for kp in smooth(keypoints, FPS)])
    torch.testing.assert_close(found, line, atol=1e-3, rtol=0)  # without, 0.2 beside it


def test_a_frame_alone_between_gaps_is_itself() -> None:
    keypoints = [{"value": torch.full((1, 3, 2), value)} for value in (0.0, 0.8, 0.0)]
    found = smooth(keypoints, FPS, numbers=[0, 50, 100])
    assert [kp["value"].mean().item() for kp in found] == pytest.approx([0, 0.8, 0])


def test_pictures_without_a_face_are_skipped(place: Path, capsys: pytest.CaptureFixture) -> None:
    (place / "sources").mkdir()
    write_image(place / "sources" / "a.png", data.astronaut())
    write_image(place / "sources" / "b.png", data.coffee())
    options = [*MODEL, "--source_image", str(place / "sources"), "--driving_video", "one"]
    options += ["--crop", "--crop_driving", "0,0,32,32", "--result_video", str(place / "results")]
    with pytest.raises(SystemExit) as exit_of_demo:
        demo.main(options)
    assert exit_of_demo.value.code == 1
    assert "b.png: no face was found" in capsys.readouterr().err
    assert [path.name for path in (place / "results").iterdir()] == ["one-a.mp4"]


def test_a_sideways_photo_is_named(place: Path, capsys: pytest.CaptureFixture) -> None:
    write_image(place / "side.png", np.rot90(data.astronaut()))
    options = [
        "--source_image",
        str(place / "side.png"),
        "--driving_video",
        "one",
        "--crop_driving",
        "0,0,32,32",
    ]
    run(place / "a", *options, "--crop")
    assert "side.png: the face lies on its side" in capsys.readouterr().err


def test_a_face_inside_a_video(place: Path) -> None:
    frames = [head(number) for number in range(9)]
    frames[:3] = [np.full((180, 320, 3), 180, np.uint8)] * 3
    write_clip(place / "source", frames)
    options = ["--source_video", str(place / "source"), "--driving_video", "driving", "--crop"]
    result = run(place / "a", *options, "--crop_driving", "0,0,32,32")
    assert len(result) == 7  # the driving video is the shorter one
    changed = (result != np.stack(frames[:7])).any(axis=3)  # (T, H, W)
    rows, columns = changed.any(axis=(0, 2)), changed.any(axis=(0, 1))
    assert not changed[:3].any() and changed[3:].any(axis=(1, 2)).all()
    assert rows[:100].any() and not columns[:60].any() and not columns[250:].any()


def test_a_source_video_keeps_its_sound(place: Path) -> None:
    tone = with_sound(place / "tone.mp4", "aac", 1)
    options = ["--source_video", str(tone), "--driving_video", "driving", "--crop_source", "0,0,32,32"]
    run(place / "a.mp4", *options)
    result = open_clip(place / "a.mp4")
    assert result.has_audio and result.fps == open_clip(tone).fps


# ---- Strength ------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_strength_multiplies_relative_movement(strength: float) -> None:
    torch.manual_seed(0)
    source, initial, driving = ({"value": torch.randn(1, 4, 2)} for _ in range(3))
    for kp in (source, initial, driving):
        kp["jacobian"] = torch.eye(2) + 0.3 * torch.randn(1, 4, 2, 2)
    moved = normalize_kp(
        source, driving, initial, use_relative_movement=True, use_relative_jacobian=True, strength=strength
    )
    movement = driving["value"] - initial["value"]
    torch.testing.assert_close(moved["value"], source["value"] + strength * movement)
    change = driving["jacobian"] @ torch.inverse(initial["jacobian"])
    expected = (torch.eye(2) + strength * (change - torch.eye(2))) @ source["jacobian"]
    torch.testing.assert_close(moved["jacobian"], expected)
