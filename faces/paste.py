"""Put animated pieces back into the picture that they were cut from.

Shapes: `H, W` size of the picture, `N, M` of a piece, `h, w` of the upright box around a region. Pictures are
(., ., 3) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from faces.regions import Region, put_back
from media.pictures import Size

FEATHER = 0.1  # width of the soft border, as a share of the region's side
CALM = 0.2  # width of the border in which movement fades, likewise
AROUND = 0.25  # and of the ring around the face
SAME = 32  # levels of 255: what changes less, outside of the face, has not changed
SHARPNESS = 8  # of the border between two regions that overlap


class Place(NamedTuple):
    """Where a piece goes: the upright box around its region, and how much of it each visible pixel takes."""

    box: tuple[int, int, int, int]  # left, top, right, bottom
    rows: slice
    columns: slice
    share: np.ndarray  # (rows, columns, 1) in [0, 1]
    still: np.ndarray  # (rows, columns, 1) in [0, 1], how much of its movement the border takes
    outer: np.ndarray  # (rows, columns, 1) in [0, 1], 1 outside of the face


class Before(NamedTuple):
    """The pixels (rows, columns, 3) at a place: of the picture, and of the piece that was cut out of it."""

    picture: np.ndarray
    piece: np.ndarray


class Paster:
    """Puts pieces into pictures of one size, each at its region, with soft borders.

    `size`: (H, W). Where a region ends at the picture's edge or beyond, its border there is not soft. Where
    regions overlap, each pixel belongs to the one in which it lies deeper.
    """

    def __init__(self, size: Size, regions: Sequence[Region]):
        self.size, self.regions = size, list(regions)
        self.places = [self._place(number) for number in range(len(self.regions))]

    def paste(
        self, picture: np.ndarray, pieces: Sequence[np.ndarray], before: Sequence[Before] | None = None
    ) -> np.ndarray:
        """Lay `pieces` (N, M, 3) into a copy of `picture` (H, W, 3); outside the regions nothing changes."""
        result = picture.copy()
        for number, (place, piece) in enumerate(zip(self.places, pieces, strict=True)):
            seen = self._seen(piece, number)
            if before is not None:
                seen = sharpened(seen, before[number], place)
            under = result[place.rows, place.columns].astype(np.float32)
            mixed = np.rint(under + place.share * (seen - under)).clip(0, 255)
            result[place.rows, place.columns] = mixed.astype(np.uint8)
        return result

    def before(self, picture: np.ndarray, cut: Sequence[np.ndarray]) -> list[Before]:
        """Keep what `paste` needs of the picture that the pieces were `cut` from, before they moved."""
        return [
            Before(picture[place.rows, place.columns].astype(np.float32), self._seen(piece, number))
            for number, (place, piece) in enumerate(zip(self.places, cut, strict=True))
        ]

    def _seen(self, piece: np.ndarray, number: int) -> np.ndarray:
        """Return the pixels of a piece at its place, as far as they lie in the picture."""
        place = self.places[number]
        left, top = place.box[:2]
        return put_back(piece, self.regions[number], place.box)[
            place.rows.start - top : place.rows.stop - top,
            place.columns.start - left : place.columns.stop - left,
        ].astype(np.float32)

    def _place(self, number: int) -> Place:
        """The place of a piece, where the earlier ones lie below it.

        All pieces are laid down one after another, and together make the weights that their depths give.
        """
        left, top, right, bottom = box = self.regions[number].bounds
        rows = slice(max(0, top), min(self.size[0], bottom))
        columns = slice(max(0, left), min(self.size[1], right))
        borders = [border(region, self.size, rows, columns) for region in self.regions]
        soft, depth = (np.stack(maps) for maps in zip(*borders, strict=True))  # (regions, rows, columns)
        weights = soft * depth**SHARPNESS
        # The picture shows through where no region is solid.
        covered = 1 - (1 - soft).prod(axis=0)
        weights *= covered / np.maximum(weights.sum(axis=0), 1e-300)
        left_over = 1 - weights[number + 1 :].sum(axis=0)
        share = (weights[number] / np.maximum(left_over, 1e-6)).clip(0, 1).astype(np.float32)
        inner, nearest = sides(self.regions[number], self.size, rows, columns)
        still = 1 - smoothstep(inner / CALM).astype(np.float32)
        outer = 1 - smoothstep((nearest - AROUND) / FEATHER).astype(np.float32)
        return Place(box, rows, columns, share[..., None], still[..., None], outer[..., None])


def sharpened(seen: np.ndarray, before: Before, place: Place) -> np.ndarray:
    """Give a piece back what cutting it out has lost of its picture, where it does not move.

    It does not at a calm border, nor around the face where it has hardly changed.
    """
    change = seen - before.piece
    same = place.outer * (1 - smoothstep(np.abs(change).max(axis=2, keepdims=True) / SAME))
    lost = before.picture - before.piece
    return before.piece + (1 - same) * change + np.maximum(place.still, same) * lost


def border(region: Region, size: Size, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return how solid a region is at pixels of a picture of `size`, and how deep in it they lie.

    Both are (rows, columns), and 0 at its sides and outside. The depth is 1 in the middle. What is solid is 1
    except near sides that lie within the picture.
    """
    inner, nearest = sides(region, size, rows, columns)
    return (nearest > 0) * smoothstep(inner / FEATHER), (2 * nearest).clip(0)


def sides(region: Region, size: Size, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return how far pixels are from the nearest side within the picture, and from any, as shares."""
    y, x = np.mgrid[rows, columns] + 0.5
    places = region.places_of(np.stack([x, y], axis=-1)) / (region.width, region.height)
    u, v = np.moveaxis(places, -1, 0)  # in [0, 1] inside
    distances = np.stack([u, v, 1 - u, 1 - v])  # (4, rows, columns), from left, top, right and bottom
    inner = np.where(region.inner_sides(size)[:, None, None], distances, 1)
    return inner.min(axis=0), distances.min(axis=0)


def smoothstep(values: np.ndarray) -> np.ndarray:
    """Rise from 0 at 0 to 1 at 1, level at both ends."""
    t = values.clip(0, 1)
    return t * t * (3 - 2 * t)


def calm_border(sides: np.ndarray, size: Size) -> np.ndarray:
    """Return how much movement is left at each pixel of a piece of `size`: 1, but less near the `sides` (4,).

    float32 (height, width). `sides`: whether it is near left, top, right and bottom, as of `inner_sides`.
    """
    v, u = ((np.arange(length) + 0.5) / length for length in size)
    left, top, right, bottom = (np.where(side, 1.0, np.inf) for side in sides)
    across, down = np.minimum(u * left, (1 - u) * right), np.minimum(v * top, (1 - v) * bottom)
    return smoothstep(np.minimum(down[:, None], across[None]) / CALM).astype(np.float32)
