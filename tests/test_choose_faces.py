"""Which faces are meant, what is cut out around them, and the preview of it."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from faces.detectors import CascadeDetector, FaceDetector
from PIL import Image
from skimage import data

from faces.boxes import iou
from faces.choose import (
    GROWTH,
    GROWTH_OF_STILL,
    check_box,
    choose_faces,
    find_faces,
    find_steady_box,
    main_face,
    prominence,
    shaped,
)
from faces.crops import cut_out
from faces.options import box_option, face_option
from faces.preview import CROP, FACE, preview
from faces.tracks import Track, link
from media.clips import open_clip
from media.writer import VideoWriter
from utils.errors import UserError

TRUE_FACE = np.array([180, 72, 272, 178])  # in data.astronaut(), from hairline to chin; measured by eye
PHOTO = Path("photo.jpg")


@pytest.fixture(scope="module")
def cascade() -> CascadeDetector:
    return CascadeDetector()


def scene(place: tuple[int, int], size: tuple[int, int] = (480, 640), side: int = 320) -> tuple:
    """The astronaut `side` pixels large with its corner at `place` (x, y) of a canvas, and its face's box."""
    canvas = np.tile(np.linspace(60, 180, size[1], dtype=np.uint8)[None, :, None], (size[0], 1, 3))
    picture = Image.fromarray(canvas)
    picture.paste(Image.fromarray(data.astronaut()).resize((side, side), Image.Resampling.BICUBIC), place)
    return np.array(picture), TRUE_FACE * side / 512 + np.tile(place, 2)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return iou(np.asarray(a, float)[None], np.asarray(b, float)[None]).item()


def fixed(*boxes: tuple[float, ...]) -> FaceDetector:
    """A detector that always finds `boxes`."""
    return lambda frame: np.array(boxes, float).reshape(-1, 4)


# ---- On real pictures ----------------------------------------------------------


def test_the_source_box_is_the_true_one(cascade: FaceDetector) -> None:
    picture, face = scene((280, 60))
    found = find_faces(picture, cascade, PHOTO)
    assert overlap(shaped(found[0], 1, GROWTH_OF_STILL), shaped(face, 1, GROWTH_OF_STILL)) >= 0.7


def test_the_driving_box_is_steady_and_the_true_one(cascade: FaceDetector, tmp_path: Path) -> None:
    angles = np.linspace(0, 4, 60)
    places = [(round(150 + 60 * np.sin(a)), round(80 + 40 * np.cos(1.7 * a))) for a in angles]
    frames, faces = zip(*(scene(place) for place in places), strict=True)
    with VideoWriter(tmp_path / "moving.mp4", 25) as writer:
        for frame in frames:
            writer.write(frame)
    found = shaped(find_steady_box(open_clip(tmp_path / "moving.mp4"), cascade), 1, GROWTH)
    truth = np.concatenate([np.min(faces, axis=0)[:2], np.max(faces, axis=0)[2:]])
    assert overlap(found, shaped(truth, 1, GROWTH)) >= 0.7


def test_where_there_is_no_face_the_remedy_is_named(tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(UserError, match=r"^photo\.jpg: no face was found; .*--crop_source L,T,R,B$"):
        find_faces(picture, fixed(), PHOTO)
    with VideoWriter(tmp_path / "plain.mp4", 25) as writer:
        writer.write(picture)
    with pytest.raises(UserError, match=r"plain\.mp4: no face was found; .*--crop_driving L,T,R,B$"):
        find_steady_box(open_clip(tmp_path / "plain.mp4"), fixed())


# ---- Choice --------------------------------------------------------------------

LARGE, SMALL, CORNER = (60, 40, 140, 120), (20, 80, 50, 110), (150, 0, 200, 50)


def test_size_and_centre_count_and_not_the_detectors_order() -> None:
    found = find_faces(np.zeros((200, 200, 3), np.uint8), fixed(CORNER, SMALL, LARGE), PHOTO)
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
    assert face_option("all") == "all" and face_option("3") == "3"
    for text in ("0", "-1", "smallest", "1.5", "²"):
        with pytest.raises(argparse.ArgumentTypeError, match="neither largest nor all nor a number"):
            face_option(text)


def linked(frames: list[list[tuple[float, ...]]], max_gap: int = 5) -> list[Track]:
    return link([(n, np.array(boxes, float).reshape(-1, 4)) for n, boxes in enumerate(frames)], 0, max_gap)


def test_the_main_face_is_there_longest() -> None:
    frames = [[LARGE, SMALL] if number < 3 else [SMALL] for number in range(30)]
    assert main_face(linked(frames), (200, 200)).surrounding_box.tolist() == list(SMALL)


def test_a_face_that_went_unseen_is_still_the_same() -> None:
    moved = tuple(side + 10 for side in LARGE)
    track = main_face(linked([[LARGE]] * 10 + [[]] * 20 + [[moved]] * 10), (200, 200))
    assert (track.start, track.end) == (0, 40)
    assert track.surrounding_box.tolist() == [60, 40, 150, 130]


def test_others_are_not_taken_into_the_box() -> None:
    """Neither one elsewhere at another time, nor one that overlaps at the same time."""
    beside = tuple(side + 15 for side in LARGE)
    track = main_face(linked([[LARGE]] * 10 + [[]] * 20 + [[SMALL]] * 3), (200, 200))
    assert track.surrounding_box.tolist() == list(LARGE)
    track = main_face(linked([[LARGE, beside]] * 3 + [[LARGE]] * 10), (200, 200))
    assert track.surrounding_box.tolist() == list(LARGE)


# ---- Boxes ---------------------------------------------------------------------


def test_boxes_are_grown_and_get_the_models_shape() -> None:
    assert shaped((100, 100, 180, 200), aspect=1, growth=0.1) == (80, 90, 200, 210)
    assert shaped((0, 0, 100, 100), aspect=1, growth=0.1) == (-10, -10, 110, 110)
    assert shaped((100, 100, 180, 200), aspect=2, growth=0.1) == (20, 90, 260, 210)
    assert shaped((10, 10, 30, 20), aspect=1) == (10, 5, 30, 25)


def test_boxes_by_hand() -> None:
    assert box_option("-20,0,44,64") == (-20, 0, 44, 64)
    for text in ("1,2,3", "a,b,c,d", "0,0,1.5,9", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="not four whole numbers"):
            box_option(text)
    for text in ("50,0,10,64", "0,0,7,64"):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 8 higher"):
            box_option(text)
    check_box((-20, -20, 44, 44), (64, 48), "--crop_source", PHOTO)
    for box in ((48, 0, 90, 40), (0, 64, 30, 90), (-50, 0, 0, 40), (0, -50, 9, 0)):
        with pytest.raises(UserError, match=r"^--crop_source .*: lies outside photo\.jpg, which is 48 wide"):
            check_box(box, (64, 48), "--crop_source", PHOTO)


def test_what_is_cut_beyond_the_edge_repeats_it() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(cut_out(picture, (4, 3, 14, 13), (10, 10)), picture[3:13, 4:14])
    over = cut_out(picture, (-5, 12, 35, 32), (20, 40))
    assert np.array_equal(over[:8, 5:35], picture[12:])
    assert (over[:8, :5] == picture[12:, :1]).all() and (over[8:, 5:35] == picture[-1]).all()


# ---- Preview -------------------------------------------------------------------


def test_a_preview_shows_faces_boxes_and_crops() -> None:
    picture, crop = np.zeros((100, 200, 3), np.uint8), np.full((64, 64, 3), 77, np.uint8)
    drawn = preview(
        picture, np.array([[60, 30, 100, 70]]), [(50, 20, 110, 80), (150, 50, 260, 160)], [crop] * 2
    )
    assert drawn.shape == (512, 200 + 256, 3)
    assert tuple(drawn[40, 60]) == FACE and tuple(drawn[50, 50]) == CROP and tuple(drawn[50, 180]) == CROP
    assert (drawn[:, 200:] == 77).all()
    assert preview(np.zeros((100, 5000, 3), np.uint8), np.zeros((0, 4)), [], []).shape == (26, 1280, 3)


def test_a_thin_frame_is_not_enlarged_without_bound() -> None:
    detector = CascadeDetector()
    sizes = []
    scan = detector._scan
    detector._scan = lambda image, *more, **named: sizes.append(image.size) or scan(image, *more, **named)
    assert len(detector(np.zeros((2, 30_000, 3), np.uint8))) == 0
    assert max(sizes[0]) <= detector.MAX_LONG_SIDE
