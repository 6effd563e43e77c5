"""Put animated pieces back into the picture that they were cut from.

Shapes: `H, W` size of the picture, `N, M` of a piece. Pictures are (., ., 3) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from media.pictures import Size, fit

FEATHER = 0.1  # width of the soft border, as a share of the box's side
SHARPNESS = 8  # of the border between two boxes that overlap


class Paster:
    """Put pieces into pictures of one size, each at its box, with soft borders.

    `size`: (H, W). `boxes`: left, top, right, bottom in whole pixels, each with some of the picture in it.
    Where a box ends at the picture's edge or beyond, its border there is not soft. Where boxes overlap, each
    pixel belongs to the one in which it lies deeper.
    """

    def __init__(self, size: Size, boxes: Sequence[Sequence[int]]):
        self.size = size
        self.boxes = [tuple(box) for box in boxes]
        self.shares = [self._share(number) for number in range(len(self.boxes))]

    def paste(self, picture: np.ndarray, pieces: Sequence[np.ndarray]) -> np.ndarray:
        """Return a copy of `picture` (H, W, 3) with `pieces` (N, M, 3) in it, unchanged outside the boxes."""
        result = picture.copy()
        for box, share, piece in zip(self.boxes, self.shares, pieces, strict=True):
            left, top, right, bottom = box
            rows, columns = self._visible(box)
            # A box may reach over the edge of the picture.
            enlarged = fit(piece, (bottom - top, right - left), "stretch")
            enlarged = enlarged[
                rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
            ]
            # Blend.
            under = result[rows, columns].astype(np.float32)
            result[rows, columns] = np.rint(under + share[..., None] * (enlarged - under)).astype(np.uint8)
        return result

    def _visible(self, box: Sequence[int]) -> tuple[slice, slice]:
        """Return the rows and columns of the picture in a box."""
        left, top, right, bottom = box
        return slice(max(0, top), min(self.size[0], bottom)), slice(max(0, left), min(self.size[1], right))

    def _share(self, number: int) -> np.ndarray:
        """Return the share of piece `number` in each pixel of its box when the earlier ones lie below it.

        All pieces are laid down one after another, and together make the weights that their depths give.
        """
        place = self._visible(self.boxes[number])
        soft = np.stack([self._softness(box, place) for box in self.boxes])  # (boxes, rows, columns)
        depth = np.stack([depth_in(box, place) for box in self.boxes])
        weights = soft * depth**SHARPNESS
        # The picture shows through where no box is solid.
        covered = 1 - (1 - soft).prod(axis=0)
        weights *= covered / np.maximum(weights.sum(axis=0), 1e-300)
        left_over = 1 - weights[number + 1 :].sum(axis=0)
        return (weights[number] / np.maximum(left_over, 1e-6)).clip(0, 1).astype(np.float32)

    def _softness(self, box: Sequence[int], place: tuple[slice, slice]) -> np.ndarray:
        """1 in the solid part of a box, falling to 0 at its sides, for the pixels of `place`."""
        left, top, right, bottom = box
        rows = soft_edges(np.arange(place[0].start, place[0].stop), top, bottom, self.size[0])
        columns = soft_edges(np.arange(place[1].start, place[1].stop), left, right, self.size[1])
        return rows[:, None] * columns


def soft_edges(places: np.ndarray, start: int, stop: int, length: int) -> np.ndarray:
    """Return the softness along one side of a picture of `length` pixels, of a box from `start` to `stop`."""
    width = FEATHER * (stop - start)
    begin = np.ones(len(places)) if start <= 0 else (places - start) / width
    end = np.ones(len(places)) if stop >= length else (stop - 1 - places) / width
    t = np.minimum(begin, end).clip(0, 1)
    return t * t * (3 - 2 * t)  # smoothstep


def depth_in(box: Sequence[int], place: tuple[slice, slice]) -> np.ndarray:
    """1 in the middle of a box, 0 at its sides and outside, for the pixels of `place`."""
    left, top, right, bottom = box
    sides = []
    for along, start, stop in ((place[0], top, bottom), (place[1], left, right)):
        middles = np.arange(along.start, along.stop) + 0.5
        sides.append(1 - np.abs(2 * middles - start - stop) / (stop - start))
    return np.minimum(sides[0][:, None], sides[1]).clip(0)
