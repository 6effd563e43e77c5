"""Faces: found in scikit-image's astronaut, followed, chosen, and the boxes that are cut around them."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from faces.boxes import crop_box, iou
from faces.choose import (
    check_box,
    choose_faces,
    find_faces,
    find_main_face,
    main_face,
    prominence,
    shaped,
    steady_region,
)
from faces.options import box_option
from faces.preview import CROP, FACE, preview
from faces.regions import Region, cut_out
from faces.tracks import Track, find_tracks, link
from faces.yunet import FaceDetector, Faces
from media.clips import Clip, open_clip
from tests.face_scenes import scene, write
from utils.errors import UserError

PHOTO = Path("photo.jpg")
LARGE, SMALL, CORNER = (60, 40, 140, 120), (20, 80, 50, 110), (150, 0, 200, 50)


def seen(boxes: list) -> Faces:
    boxes = np.array(boxes, float).reshape(-1, 4)
    return Faces(boxes, np.zeros((len(boxes), 5, 2)), np.ones(len(boxes)))


def fixed(*boxes: tuple[float, ...]) -> FaceDetector:
    """Find `boxes` in every frame."""
    return lambda frame: seen(list(boxes))


def grey(path: Path, frames: int, fps: float = 25) -> Clip:
    return open_clip(write(path, [np.full((120, 160, 3), 90, np.uint8)] * frames, fps))


# ---- Real pictures -------------------------------------------------------------


def test_the_moving_astronaut_is_found_and_held(tmp_path: Path) -> None:
    angles = np.linspace(0, 2, 41)
    frames, faces = zip(
        *(scene([(70 + 50 * np.sin(a), 30 + 25 * np.cos(1.7 * a))], scale=0.5 + 0.05 * a) for a in angles),
        strict=True,
    )
    clip = open_clip(write(tmp_path / "moving.mp4", frames))
    track = find_main_face(clip, FaceDetector())
    assert track is not None and track.numbers == sorted({*range(0, 41, 5), 40})
    for number, box in zip(track.numbers, track.boxes, strict=True):
        assert iou(box[None], faces[number]).item() >= 0.5
    # Every face lies in the one region, which is level and little larger than it has to be.
    region = steady_region(clip, track, FaceDetector(), 1)
    left, top, right, bottom = region.bounds
    corners = np.concatenate(faces)  # (frames, 4)
    assert (corners[:, :2] > (left, top)).all() and (corners[:, 2:] < (right, bottom)).all()
    way = np.ptp(corners[:, :2], axis=0).max()
    assert abs(region.angle) < 0.2 and region.height < 4.5 * 25 + way + 10


# ---- Tracks --------------------------------------------------------------------


def square(x: float, y: float = 0.0, side: float = 10.0) -> np.ndarray:
    return np.array([x, y, x + side, y + side])


def linked(detections: list[list], min_iou: float = 0.25, max_gap: float = 25) -> list[Track]:
    """Link the boxes in frame 0, 1, 2, ..."""
    frames = ((number, np.array(boxes, float).reshape(-1, 4)) for number, boxes in enumerate(detections))
    return link(frames, min_iou, max_gap)


def test_a_face_that_leaves_its_first_place_begins_a_new_track() -> None:
    tracks = linked([[square(i)] for i in range(12)])  # from 7 on, less than a quarter of the first is shared
    assert [track.numbers for track in tracks] == [list(range(7)), list(range(6, 12))]
    assert [(track.start, track.end) for track in tracks] == [(0, 7), (7, 12)]


def test_two_faces_that_come_close_keep_their_tracks() -> None:
    tracks = linked([[square(i), square(14 - i)][:: 1 if i % 2 else -1] for i in range(5)])
    first, second = sorted(tracks, key=lambda track: track.boxes[0][0])
    assert [box[0] for box in first.boxes] == [0, 1, 2, 3, 4]
    assert [box[0] for box in second.boxes] == [14, 13, 12, 11, 10]


@pytest.mark.parametrize(("max_gap", "parts"), [(10, 1), (9, 2)])
def test_a_face_may_go_unseen_for_a_while(max_gap: int, parts: int) -> None:
    assert len(linked([[square(0)], *[[]] * 9, [square(0)]], max_gap=max_gap)) == parts


def test_false_alarms_and_a_single_bad_box_leave_no_trace(tmp_path: Path) -> None:
    calls = iter(range(20))

    def detect(frame: np.ndarray) -> Faces:
        i = next(calls)
        alarm = [square(100)] if i % 3 == 0 else []
        return seen([square(0, side=18 if i == 7 else 10), *alarm])

    (track,) = find_tracks(grey(tmp_path / "a.mp4", 20, fps=5), detect, 0.25)  # a detection in every frame
    assert (track.start, track.end) == (0, 20)
    assert track.surrounding_box.tolist() == square(0).tolist()


def test_one_missing_detection_at_either_end_does_not_shorten_a_track(tmp_path: Path) -> None:
    calls = iter([[], *[[square(0)]] * 6, []])  # at 0, 3, ..., 18 and 19
    clip = grey(tmp_path / "a.mp4", 20, fps=15)
    (track,) = find_tracks(clip, lambda frame: seen(next(calls)), 0.25)
    assert track.numbers == [3, 6, 9, 12, 15, 18]
    assert (track.start, track.end) == (0, 20)


# ---- Choice --------------------------------------------------------------------


def test_size_and_centre_count_and_not_the_detectors_order() -> None:
    found = find_faces(np.array([CORNER, SMALL, LARGE]), (200, 200), PHOTO)
    assert found.tolist() == [list(LARGE), list(CORNER), list(SMALL)]
    middle, corner = prominence(np.array([[80, 80, 120, 120], [160, 160, 200, 200]]), (200, 200))
    assert middle == 40 and 20 < corner < 25


def test_faces_are_chosen_by_word_or_number() -> None:
    boxes = np.array([LARGE, CORNER])
    assert choose_faces(boxes, "largest", PHOTO).tolist() == [list(LARGE)]
    assert choose_faces(boxes, "2", PHOTO).tolist() == [list(CORNER)]
    assert choose_faces(boxes, "all", PHOTO).tolist() == boxes.tolist()
    with pytest.raises(UserError, match=r"^--face 7: 2 faces were found in photo\.jpg; --preview"):
        choose_faces(boxes, "7", PHOTO)


def test_the_main_face_is_there_longest() -> None:
    frames = [[LARGE, SMALL] if number < 3 else [SMALL] for number in range(30)]
    assert main_face(linked(frames, 0), (200, 200)).surrounding_box.tolist() == list(SMALL)


def test_a_face_that_went_unseen_is_still_the_same() -> None:
    moved = tuple(side + 10 for side in LARGE)
    track = main_face(linked([[LARGE]] * 10 + [[]] * 20 + [[moved]] * 10, 0, 5), (200, 200))
    assert (track.start, track.end) == (0, 40)
    assert track.surrounding_box.tolist() == [60, 40, 150, 130]


def test_others_are_not_taken_into_the_box() -> None:
    """Neither one elsewhere at another time, nor one that overlaps at the same time."""
    beside = tuple(side + 15 for side in LARGE)
    for frames in ([[LARGE]] * 10 + [[]] * 20 + [[SMALL]] * 3, [[LARGE, beside]] * 3 + [[LARGE]] * 10):
        track = main_face(linked(frames, 0, 5), (200, 200))
        assert track.surrounding_box.tolist() == list(LARGE)


# ---- Boxes ---------------------------------------------------------------------


def test_boxes_are_grown_and_get_the_models_shape() -> None:
    assert shaped((100, 100, 180, 200), aspect=1, growth=0.1).box == (80, 90, 200, 210)
    assert shaped((0, 0, 100, 100), aspect=1, growth=0.1).box == (-10, -10, 110, 110)
    assert shaped((100, 100, 180, 200), aspect=2, growth=0.1).box == (20, 90, 260, 210)
    assert shaped((10, 10, 30, 20, 30), aspect=1).box == (10, 5, 30, 25, 30)


def test_boxes_by_hand() -> None:
    assert box_option("-20,0,44,64") == (-20, 0, 44, 64) and box_option("0,0,44,64,-20") == (
        0,
        0,
        44,
        64,
        -20,
    )
    for text in ("1,2,3", "1,2,30,40,5,6", "a,b,c,d", "0,0,1.5,9", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="not four whole numbers"):
            box_option(text)
    for text in ("50,0,10,64", "0,0,7,64"):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 8 higher"):
            box_option(text)
    check_box((-20, -20, 44, 44), (64, 48), "--crop_source", PHOTO)
    for box in ((48, 0, 90, 40), (0, 64, 30, 90), (-50, 0, 0, 40), (0, -50, 9, 0)):
        with pytest.raises(UserError, match=r"^--crop_source .*: lies outside photo\.jpg, which is 48 wide"):
            check_box(box, (64, 48), "--crop_source", PHOTO)


@pytest.mark.parametrize("image_shape", [(256, 256), (128, 256), (256, 64)])
def test_crops_stay_in_the_frame_and_keep_their_shape(image_shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        height, width = random.integers(50, 300, 2)
        corners = np.sort(random.uniform(0, 1, (2, 2)), axis=0) * (width, height)
        box = crop_box(corners.ravel(), (height, width), image_shape, increase=0.1)
        left, top, right, bottom = box.corners
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
        assert all(number % 2 == 0 for number in box)
        aspect = image_shape[0] / image_shape[1]
        assert abs(box.width - aspect * box.height) <= 2 * max(1, aspect)


def test_the_box_grows_as_published_and_moves_inside() -> None:
    assert crop_box(np.array([100, 100, 150, 200]), (400, 400), (256, 256), 0.1) == (64, 90, 120, 120)
    assert crop_box(np.array([0, 300, 50, 400]), (400, 400), (256, 256), 0.1) == (0, 280, 120, 120)
    wide = np.array([50, 0, 250, 100])  # more than the frame holds
    assert crop_box(wide, (101, 400), (256, 256), 0.1) == (100, 0, 100, 100)


def test_what_is_cut_beyond_the_edge_repeats_it() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(cut_out(picture, Region.of_box((4, 3, 14, 13)), (10, 10)), picture[3:13, 4:14])
    over = cut_out(picture, Region.of_box((-5, 12, 35, 32)), (20, 40))
    assert np.array_equal(over[:8, 5:35], picture[12:])
    assert (over[:8, :5] == picture[12:, :1]).all() and (over[8:, 5:35] == picture[-1]).all()


# ---- Preview -------------------------------------------------------------------


def test_a_preview_shows_faces_boxes_and_crops() -> None:
    picture, crop = np.zeros((100, 200, 3), np.uint8), np.full((64, 64, 3), 77, np.uint8)
    regions = [Region.of_box(box) for box in ((50, 20, 110, 80), (150, 50, 260, 160))]
    drawn = preview(picture, np.array([[60, 30, 100, 70]]), regions, [crop] * 2)
    assert drawn.shape == (512, 200 + 256, 3)
    assert tuple(drawn[40, 60]) == FACE and tuple(drawn[50, 50]) == CROP and tuple(drawn[50, 180]) == CROP
    assert (drawn[:, 200:] == 77).all()
    for height, shrunk in ((100, 26), (1, 1)):
        strip = np.zeros((height, 5000, 3), np.uint8)
        assert preview(strip, np.zeros((0, 4)), [], []).shape == (shrunk, 1280, 3)
