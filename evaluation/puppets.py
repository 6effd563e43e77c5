"""Find the ten landmarks of puppets offline: a linear regression from keypoints, fitted by least squares.

The keypoints are those that the model in sup-mat/ finds, the truth lies beside the clips of
`data/make_puppets.py`. A frame whose keypoints are further from those of all puppets than any fitted frame
counts as one without a puppet: all its landmarks are missing. So is a landmark outside the frame.

Shapes: `N` frames of all clips, `B` frames of a batch, `K` keypoints, `L` landmarks.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from checkpoints.files import inference_weights, load_parts, read_checkpoint
from checkpoints.hub import find_model
from evaluation.comparisons import on_device
from media.clips import clip_stem, open_clip
from modules.build import build_kp_detector, frame_shape, read_config
from utils.errors import DatasetError
from utils.files import regular_file
from utils.progress import Progress

CLIPS, FRAMES = 300, 4  # that are fitted: clips at most, and frames of each
OUTLIER = 2  # a squared distance this many times the largest of the fitted frames is no puppet's


class LandmarkRegression:
    """Landmarks (N, L, 2) as a linear function, with a constant, of values of keypoints (N, K, 2)."""

    def __init__(self, values: np.ndarray, landmarks: np.ndarray) -> None:
        self.shape = landmarks.shape[1:]
        targets = landmarks.reshape(len(landmarks), -1)  # (N, 2L)
        self.weights = np.linalg.lstsq(self._inputs(values), targets, rcond=None)[0]  # (2K + 1, 2L)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return (self._inputs(values) @ self.weights).reshape(len(values), *self.shape)

    @staticmethod
    def _inputs(values: np.ndarray) -> np.ndarray:
        values = values.reshape(len(values), -1)
        return np.concatenate([values, np.ones((len(values), 1))], axis=1)  # (N, 2K + 1)


class Familiarity:
    """Whether keypoints (N, K, 2) lie about as those that it was made with, by their Mahalanobis distance."""

    def __init__(self, values: np.ndarray) -> None:
        flat = values.reshape(len(values), -1)  # (N, 2K)
        self.mean, self.precision = flat.mean(axis=0), np.linalg.pinv(np.cov(flat.T))
        self.limit = OUTLIER * self._distance(values).max()

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return self._distance(values) <= self.limit  # (N,)

    def _distance(self, values: np.ndarray) -> np.ndarray:
        offset = values.reshape(len(values), -1) - self.mean  # (N, 2K)
        return np.einsum("ni,ij,nj->n", offset, self.precision, offset)


class PuppetLandmarks:
    """The ten landmarks of a puppet, by its keypoints."""

    name = "puppets"

    def __init__(self, puppets: Path) -> None:
        self._clips = fitted_clips(puppets / "train")
        self._model = find_model("puppets")
        fitted = [(str(clip), clip.stat().st_mtime_ns) for clip in self._clips]
        digest = hashlib.sha256(self._model.checkpoint.read_bytes() + repr(fitted).encode())
        self.version = digest.hexdigest()[:32]

    def load(self, device: torch.device) -> None:
        """Load the keypoint detector, and fit the regression with it."""
        config = read_config(self._model.config)
        self._device, self._size = device, frame_shape(config)[:2]
        self._network = build_kp_detector(config)
        weights = inference_weights(read_checkpoint(self._model.checkpoint))
        load_parts(weights, {"kp_detector": self._network}, self._model.checkpoint, self._model.config)
        self._network.eval().to(device)

        # Fit: a few frames of every clip, with the truth that lies beside it.
        values, landmarks = [], []
        with Progress(len(self._clips), "fitting landmarks", "clips") as progress:
            for clip in self._clips:
                pictures = open_clip(clip)
                (xy,) = read_truth(clip, len(pictures), "landmarks", "xy")
                chosen = np.unique(np.linspace(0, len(xy) - 1, FRAMES).round().astype(int))
                values.append(self._keypoints(pictures.read(chosen)))
                landmarks.append(xy[chosen])
                progress.advance(1)
        self._regress = LandmarkRegression(np.concatenate(values), np.concatenate(landmarks))
        self._is_puppet = Familiarity(np.concatenate(values))

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        values = self._keypoints(frames)
        xy = self._regress(values)  # (B, L, 2) in [-1, 1], where ±1 are the centres of the corner pixels
        found = (abs(xy) <= 1).all(-1, keepdims=True) & self._is_puppet(values)[:, None, None]
        pixels = (xy + 1) / 2 * (frames.shape[2] - 1, frames.shape[1] - 1)
        return np.where(found, pixels, np.nan).astype(np.float32)

    @torch.inference_mode()
    def _keypoints(self, frames: np.ndarray) -> np.ndarray:
        """Find the keypoints (B, K, 2) of frames of any size."""
        pictures = on_device(frames, self._device)
        pictures = F.interpolate(pictures, self._size, mode="bilinear", antialias=True, align_corners=False)
        return self._network(pictures)["value"].double().cpu().numpy()


def fitted_clips(train: Path) -> list[Path]:
    """Return clips of `train` that have their true landmarks beside them, evenly chosen."""
    clips = [
        clip
        for clip in (sorted(train.iterdir()) if train.is_dir() else [])
        if (clip.is_dir() or clip.suffix == ".mp4") and truth_of(clip).exists()
    ]
    if not clips:
        raise DatasetError(
            f"{train}: holds no puppets with landmarks to fit their detector on; make some with "
            "data/make_puppets.py, and give --puppets that dataset"
        )
    return clips[:: -(-len(clips) // CLIPS)]


def truth_of(clip: Path) -> Path:
    return clip.with_name(f"{clip_stem(clip.name)}.npz")


def read_truth(clip: Path, frames: int, what: str, *names: str) -> list[np.ndarray]:
    """Read the arrays of these names from beside a clip; raise `DatasetError`, which calls them `what`.

    Numbers must be there for each of its `frames`.
    """
    path = truth_of(clip)
    try:
        with np.load(regular_file(path, DatasetError), allow_pickle=False) as truth:
            arrays = [truth[name] for name in names]
        fits = all(array.dtype.kind == "U" or len(array) == frames for array in arrays)
    except (DatasetError, MemoryError):
        raise
    except Exception:  # NumPy raises whatever the damage brings about
        fits = False
    if not fits:
        raise DatasetError(f"{path}: has no {what}; draw the clips with data/make_puppets.py")
    return arrays
