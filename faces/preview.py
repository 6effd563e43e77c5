"""Draw what will be cut, so that people see it before they wait."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faces.regions import Region

FACE, CROP = (255, 208, 0), (0, 224, 128)
CROP_HEIGHT = 256  # pixels of the crops beside the picture
MAX_SIDE = 1280  # pixels of the picture in a preview


def preview(
    picture: np.ndarray, faces: np.ndarray, regions: Sequence[Region], crops: Sequence[np.ndarray]
) -> np.ndarray:
    """A picture (H, W, 3) uint8 with the `faces` (F, 4) found, numbered from 1, and the `regions` to cut.

    On its right stand the `crops`, each (h, w, 3), one below the other. Returns (., ., 3) uint8.
    """
    scale = min(1, MAX_SIDE / max(picture.shape[:2]))
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    drawn = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(max(12, max(size) // 40))
    for region in regions:
        corners = [tuple(corner) for corner in region.corners * scale]
        pen.line([*corners, *corners[:2]], CROP, width=max(2, max(size) // 300), joint="curve")
    for number, face in enumerate(np.asarray(faces) * scale, start=1):
        left, top, right, bottom = (round(side) for side in face)
        outline = left, top, max(left, right - 1), max(top, bottom - 1)
        pen.rectangle(outline, outline=FACE, width=max(1, max(size) // 600))
        pen.text((face[0] + 3, face[1] + 1), str(number), FACE, font, stroke_width=2, stroke_fill=(0, 0, 0))
    return beside(np.array(drawn), crops)


def beside(picture: np.ndarray, crops: Sequence[np.ndarray]) -> np.ndarray:
    """`picture`, and a column of `crops` on its right, each `CROP_HEIGHT` high."""
    images = [Image.fromarray(crop) for crop in crops]
    images = [image.resize((image.width * CROP_HEIGHT // image.height, CROP_HEIGHT)) for image in images]
    column = max((image.width for image in images), default=0)
    canvas = Image.new(
        "RGB", (picture.shape[1] + column, max(picture.shape[0], CROP_HEIGHT * len(images))), (32, 32, 32)
    )
    canvas.paste(Image.fromarray(picture))
    for number, image in enumerate(images):
        canvas.paste(image, (picture.shape[1], CROP_HEIGHT * number))
    return np.array(canvas)
