"""Compute measures of landmarks, identity and structure, frame by frame.

A landmark is (x, y) in pixels of the frame. One that was not found is NaN, and so is the embedding of a frame
in which nobody was found. A frame that a measure does not count is NaN in its result.

Shapes: `T` frames, `L` landmarks, `D` numbers in an embedding.
"""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

SSIM_WINDOW = 11  # pixels


def keypoint_distance(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return AKD of each frame in pixels: mean absolute difference of coordinates of landmarks found in both.

    generated, real (T, L, 2); returns (T,). Frames without a landmark found in both don't count.
    """
    both = found(generated) & found(real)  # (T, L)
    difference = np.abs(generated - real).mean(-1)  # (T, L)
    return ratio(np.where(both, difference, 0).sum(1), both.sum(1))  # (T,)


def missing_rate(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return MKR of each frame: the share of the real frame's landmarks that the generated one lacks.

    generated, real (T, L, 2); returns (T,) in [0, 1]. Frames without a real landmark don't count.
    """
    in_real = found(real)  # (T, L)
    missing = in_real & ~found(generated)  # (T, L)
    return ratio(missing.sum(1), in_real.sum(1))  # (T,)


def squared_embedding_distance(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return AED of each frame as published code computes it: squared differences without a root.

    generated, real (T, D); returns (T,).
    """
    return np.square(generated - real).sum(-1)  # (T,)


def euclidean_embedding_distance(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return AED as its name says: the Euclidean distance of the embeddings of each frame.

    generated, real (T, D); returns (T,).
    """
    return np.sqrt(squared_embedding_distance(generated, real))  # (T,)


def ssim(generated: np.ndarray, real: np.ndarray) -> float:
    """Return the structural similarity of pictures (H, W, 3), both uint8 or both float in [0, 1].

    Source: Wang et al., "Image Quality Assessment", 2004, with their window, on each colour channel. Sides
    are at least `SSIM_WINDOW` pixels.
    """
    data_range = 255 if real.dtype == np.uint8 else 1.0
    similarity = structural_similarity(
        generated,
        real,
        channel_axis=-1,
        data_range=data_range,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(similarity)


def found(landmarks: np.ndarray) -> np.ndarray:
    """Tell which landmarks (..., 2) were found: bool (...)."""
    return ~np.isnan(landmarks).any(-1)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; NaN where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), np.nan)


def mean_of_counted(values: np.ndarray) -> float:
    """Average the values that are not NaN; NaN if there is none."""
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if counted.size else float("nan")
