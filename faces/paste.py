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
SHARPNESS = 8  # of the border between two regions that overlap


class Place(NamedTuple):
    """Where a piece goes: the upright box around its region, and how much of it each visible pixel takes."""

    box: tuple[int, int, int, int]  # left, top, right, bottom
    rows: slice
    columns: slice
    share: np.ndarray  # (rows, columns, 1) in [0, 1]


class Paster:
    """Puts pieces into pictures of one size, each at its region, with soft borders.

    `size`: (H, W). Where a region ends at the picture's edge or beyond, its border there is not soft. Where
    regions overlap, each pixel belongs to the one in which it lies deeper.
    """

    def __init__(self, size: Size, regions: Sequence[Region]):
        self.size, self.regions = size, list(regions)
        self.places = [self._place(number) for number in range(len(self.regions))]

    def paste(self, picture: np.ndarray, pieces: Sequence[np.ndarray]) -> np.ndarray:
        """Copy `picture` (H, W, 3) and lay `pieces` (N, M, 3) into it; outside the regions nothing changes."""
        result = picture.copy()
        for region, place, piece in zip(self.regions, self.places, pieces, strict=True):
            left, top = place.box[:2]
            whole = put_back(piece, region, place.box)  # (h, w, 3)
            seen = whole[
                place.rows.start - top : place.rows.stop - top,
                place.columns.start - left : place.columns.stop - left,
            ]
            under = result[place.rows, place.columns].astype(np.float32)
            mixed = np.rint(under + place.share * (seen - under))
            result[place.rows, place.columns] = mixed.astype(np.uint8)
        return result

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
        return Place(box, rows, columns, share[..., None])


def border(region: Region, size: Size, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """How solid a region is at pixels of a picture of `size`, and how deep in it they lie: (rows, columns) each.

    Both are 0 at its sides and outside. The depth is 1 in the middle; what is solid is 1 except near sides that
    lie within the picture.
    """
    across, down = region.places(np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop))
    u, v = across / region.width, down / region.height  # in [0, 1] inside
    # Distances from left, top, right and bottom, as shares.
    distances = np.stack([u, v, 1 - u, 1 - v])  # (4, rows, columns)
    middles = (region.corners[[3, 0, 1, 2]] + region.corners) / 2  # of the four sides
    outside = ((middles < 1) | (middles > np.array(size[::-1]) - 1)).any(axis=1)
    t = (np.where(outside[:, None, None], 1, distances / FEATHER)).min(axis=0).clip(0, 1)
    inside = (distances > 0).all(axis=0)
    return inside * t * t * (3 - 2 * t), (2 * distances.min(axis=0)).clip(0)
