"""Each metric against sums done by hand, and what counts as found in the answers of detectors' packages."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation import metrics
from evaluation.comparisons import COMPARISONS
from evaluation.detectors import FaceAlignment, InsightFace, KeypointRCNN
from evaluation.report import frechet_inception_distance
from tests.clips import plain_frames

NAN = float("nan")
NOT_FOUND = (NAN, NAN)
CPU = torch.device("cpu")

# ---- Each metric by hand -----------------------------------------------------


def test_keypoint_distance_is_the_mean_over_the_coordinates_found_in_both() -> None:
    real = np.array(
        [[(10, 20), (30, 40)], [(10, 20), (30, 40)], [(10, 20), NOT_FOUND], [NOT_FOUND, NOT_FOUND]]
    )
    made = np.array([[(13, 20), (30, 35)], [(12, 20), NOT_FOUND], [NOT_FOUND, (30, 40)], [(1, 1), (2, 2)]])
    values = metrics.keypoint_distance(made, real)
    np.testing.assert_array_equal(values, [(3 + 0 + 0 + 5) / 4, (2 + 0) / 2, NAN, NAN])
    assert metrics.mean_of_counted(values) == 1.5  # frames first: not (3 + 5 + 2) / 6


def test_missing_rate_is_a_share_of_what_the_real_frame_shows() -> None:
    here = (1, 1)
    real = np.array([[here, here, here, NOT_FOUND], [here, here, here, here], [NOT_FOUND] * 4])
    made = np.array([[here, NOT_FOUND, NOT_FOUND, here], [here, here, here, here], [here] * 4])
    np.testing.assert_array_equal(metrics.missing_rate(made, real), [2 / 3, 0, NAN])


def test_embedding_distances_with_and_without_the_root() -> None:
    real, made = np.array([[0.0, 0, 1], [1, 0, 0], [NAN] * 3]), np.array([[3.0, 4, 1], [NAN] * 3, [0, 0, 0]])
    np.testing.assert_array_equal(metrics.squared_embedding_distance(made, real), [25, NAN, NAN])
    np.testing.assert_array_equal(metrics.euclidean_embedding_distance(made, real), [5, NAN, NAN])


def test_the_mean_of_nothing_is_no_number() -> None:
    assert np.isnan(metrics.mean_of_counted(np.array([NAN, NAN])))


def test_pixel_comparisons_of_plain_frames() -> None:
    made, real = plain_frames(100, 0, 51), plain_frames(101, 255, 51)
    compared = {}
    for comparison in (COMPARISONS[name] for name in ("l1", "psnr", "ssim")):
        comparison.load(CPU)
        compared[comparison.name] = comparison(made, real)
    np.testing.assert_allclose(compared["l1"], [1 / 255, 1, 0])
    np.testing.assert_allclose(
        compared["psnr"], [20 * np.log10(255), 0, 10 * np.log10(12 * 255**2)], atol=1e-4
    )
    a, b = 100 / 255, 101 / 255
    luminance = (2 * a * b + 0.01**2) / (
        a * a + b * b + 0.01**2
    )  # contrast and structure of plain frames are 1
    np.testing.assert_allclose(
        compared["ssim"], [luminance, 0.01**2 / (1 + 0.01**2), 1], atol=5e-4
    )  # float32


def test_fid_of_one_feature() -> None:
    real, made = np.array([[0.0], [2]]), np.array([[3.0], [7]])  # means 1 and 5, variances 2 and 8
    assert frechet_inception_distance(made, real) == pytest.approx(
        (5 - 1) ** 2 + (np.sqrt(8) - np.sqrt(2)) ** 2
    )


# ---- From the packages' answers to landmarks and embeddings ------------------


def test_the_largest_of_several_faces_counts_and_no_face_lacks_everything() -> None:
    small = np.random.default_rng(0).random((68, 2)) * 10
    large = np.concatenate([small * 5, np.ones((68, 1))], axis=1)
    np.testing.assert_array_equal(FaceAlignment.largest_face([small, large]), small * 5)
    assert (
        FaceAlignment.largest_face(None).shape == (68, 2)
        and not metrics.found(FaceAlignment.largest_face(None)).any()
    )

    faces = [
        SimpleNamespace(bbox=np.array([0, 0, side, side]), normed_embedding=np.full(512, side))
        for side in (3, 9, 5)
    ]
    np.testing.assert_array_equal(InsightFace.largest_face(faces), np.full(512, 9))
    assert InsightFace.largest_face([]).shape == (512,) and np.isnan(InsightFace.largest_face([])).all()


def test_unsure_bodies_and_keypoints_are_missing() -> None:
    points = torch.arange(2 * 17 * 3.0).view(2, 17, 3)
    sureness = torch.full((2, 17), 5.0)
    sureness[0, 4] = 1.9
    person = {"scores": torch.tensor([0.9, 0.8]), "keypoints": points, "keypoints_scores": sureness}
    landmarks = KeypointRCNN.surest_person(person)
    assert metrics.found(landmarks).tolist() == [number != 4 for number in range(17)]
    np.testing.assert_array_equal(landmarks[5], points[0, 5, :2])
    nobody = {
        "scores": torch.zeros(0),
        "keypoints": torch.zeros(0, 17, 3),
        "keypoints_scores": torch.zeros(0, 17),
    }
    for unsure in (person | {"scores": torch.tensor([0.7, 0.6])}, nobody):
        assert not metrics.found(KeypointRCNN.surest_person(unsure)).any()
