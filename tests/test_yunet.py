"""faces/yunet.py: faces of pictures that scikit-image ships, and of drawings of them."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from PIL import Image

from faces.yunet import FaceDetector

# Of skimage.data.astronaut(), recorded with another implementation of the same weights.
BOX = [178.2, 62.9, 268.1, 176.2]
LANDMARKS = [(200.1, 101.8), (247.1, 102.6), (220.4, 124.5), (198.6, 142.8), (239.7, 143.6)]


@pytest.fixture(scope="module")
def detect() -> FaceDetector:
    return FaceDetector()


def test_recorded_values(detect: FaceDetector) -> None:
    faces = detect(skimage.data.astronaut())
    assert faces.scores == pytest.approx([0.93], abs=0.005)
    np.testing.assert_allclose(faces.boxes, [BOX], atol=0.1)
    np.testing.assert_allclose(faces.landmarks, [LANDMARKS], atol=0.1)


def test_a_montage_of_twelve_at_five_scales(detect: FaceDetector) -> None:
    face = Image.fromarray(skimage.data.astronaut()[20:220, 120:320])
    montage = Image.new("RGB", (1040, 780), (90, 120, 90))
    middles = []
    for number in range(12):
        side = (80, 120, 160, 200, 240)[number % 5]
        left, top = 10 + 260 * (number % 4), 10 + 260 * (number // 4)
        montage.paste(face.resize((side, side), Image.Resampling.LANCZOS), (left, top))
        middles.append((left + side * 0.515, top + side * 0.5))
    found = detect(np.array(montage))
    middles_found = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert len(middles_found) == 12
    for middle in middles:
        assert np.linalg.norm(middles_found - middle, axis=1).min() < 12


@pytest.mark.parametrize("name", ["coffee", "rocket", "chelsea", "coins", "hubble_deep_field"])
def test_no_face_where_there_is_none(name: str, detect: FaceDetector) -> None:
    picture = getattr(skimage.data, name)()
    picture = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
    assert not len(detect(picture).boxes)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (33, 20), (3000, 8)])
def test_any_size(size: tuple[int, int], detect: FaceDetector) -> None:
    assert not len(detect(np.full((*size, 3), 127, np.uint8)).boxes)
