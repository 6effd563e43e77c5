"""Pieces put back into a picture."""

from __future__ import annotations

import numpy as np
import pytest

from faces.paste import Paster
from faces.regions import Region, cut_out

SIZE = (120, 160)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def plain(level: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), level, np.uint8)


def paster(boxes: list[tuple[int, int, int, int]]) -> Paster:
    return Paster(SIZE, [Region.of_box(box) for box in boxes])


def outside(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Which pixels are in none of the boxes, (H, W)."""
    mask = np.ones(SIZE, bool)
    for left, top, right, bottom in boxes:
        mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = False
    return mask


@pytest.mark.parametrize(
    "boxes",
    [
        [(40, 30, 100, 90)],
        [(-30, -20, 50, 60)],
        [(130, 90, 200, 160)],
        [(-10, -30, 170, 150)],
        [(10, 10, 60, 60), (90, 50, 150, 110)],
        [(10, 10, 90, 90), (60, 20, 120, 80), (50, 60, 110, 120)],
    ],
)
def test_outside_the_boxes_not_a_bit_changes(boxes: list[tuple[int, int, int, int]]) -> None:
    original = picture()
    pasted = paster(boxes).paste(original, [plain(255)] * len(boxes))
    kept = outside(*boxes)
    assert np.array_equal(original, picture()) and np.array_equal(pasted[kept], original[kept])
    for left, top, right, bottom in boxes:  # what it is all about
        row, column = min(119, max(0, (top + bottom) // 2)), min(159, max(0, (left + right) // 2))
        assert (pasted[row, column] == 255).all()


def test_what_was_cut_goes_back_to_its_place() -> None:
    original = picture()
    for box in ((40, 30, 100, 90), (-30, -20, 50, 60)):
        piece = cut_out(original, Region.of_box(box), (box[3] - box[1], box[2] - box[0]))
        assert np.array_equal(paster([box]).paste(original, [piece]), original)


@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_a_region_smaller_than_a_pixel_changes_that_pixel_at_most(angle: float) -> None:
    """As of a small face in a large photo, of which `--max_side` makes a small one."""
    picture = np.full((16, 16, 3), 100, np.uint8)
    paster = Paster((16, 16), [Region(8.4, 8.4, 0.2, 0.2, angle)])
    result = paster.paste(picture, [np.full((32, 32, 3), 200, np.uint8)])
    assert {tuple(place) for place in np.argwhere((result != picture).any(axis=2))} <= {(8, 8)}


def test_the_border_is_soft_within_the_picture_and_solid_at_its_edge() -> None:
    pasted = paster([(-20, 20, 80, 120)]).paste(np.zeros((*SIZE, 3), np.uint8), [plain(200)])
    row, column = pasted[70, :, 0].astype(int), pasted[:, 40, 0].astype(int)
    assert (row[:70] == 200).all() and (np.diff(row[69:80]) < 0).all() and (row[80:] == 0).all()
    at_edges = paster([(0, -2, 160, 122)]).paste(np.zeros((*SIZE, 3), np.uint8), [plain(200)])
    assert (at_edges == 200).all()
    assert (column[:20] == 0).all() and (np.diff(column[19:30]) > 0).all() and (column[30:] == 200).all()


def test_where_boxes_overlap_each_face_keeps_its_own_half_whatever_the_order() -> None:
    boxes, pieces = [(20, 20, 100, 100), (60, 20, 140, 100)], [plain(50), plain(250)]
    black = np.zeros((*SIZE, 3), np.uint8)
    pasted = paster(boxes).paste(black, pieces)
    turned = paster(boxes[::-1]).paste(black, pieces[::-1])
    assert np.abs(pasted.astype(int) - turned).max() <= 1
    assert (pasted[60, 40:70] == 50).all() and (pasted[60, 91:120] == 250).all()
    assert (np.diff(pasted[60, 62:98, 0].astype(int)) >= 0).all()  # no trace of the black picture between


def test_two_pieces_at_one_place_share_it() -> None:
    box = (40, 30, 100, 90)
    pasted = paster([box, box]).paste(picture(), [plain(100), plain(200)])
    assert (pasted[60, 70] == 150).all()
