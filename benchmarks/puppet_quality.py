"""How good a model of puppets is on puppets that no training saw: reconstruction, meaning of its keypoints, transferred motion.

    python benchmarks/puppet_quality.py --config config/puppets-128.yaml --checkpoint sup-mat/puppets-128.pth.tar

Clips and true landmarks come from the config's `root_dir`, written by data/make_puppets.py. One clip of each test identity
takes part, with all its frames.

Reconstruction: the first frame of each clip is driven by all of its frames. L1 is the mean absolute difference in [0, 1], SSIM
that of scikit-image with Gaussian weights. "copy" is the first frame itself as the answer to every frame.

Landmarks: a linear regression from the keypoints' values, fitted on training identities, to the true landmarks. The error of a
landmark is its Euclidean distance to the truth over the distance between the true eyes of that frame.

Motion: each clip drives the first frame of the clip after it, relative to its own first frame. Landmarks regressed from the
keypoints of the result have a displacement since the first frame, and so have the true landmarks of the driving clip; the
figure is the correlation of the two, over all pairs, frames and both coordinates.

Colour: the face is the convex hull of the landmarks of the head, true ones in the source and regressed ones in the results.
The figure is the L1 between the mean colours of the face in a result and in its source. Beside it stands that between the faces
of the driving clip and the source, which a result would have that took on the driving clip's looks.

Shapes: `T` frames, `K` keypoints, `L` landmarks, `H, W` size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from skimage.draw import polygon2mask
from skimage.metrics import structural_similarity
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from animate import Animator
from checkpoint import find_checkpoint
from demo import load_networks
from frames_dataset import FramesDataset, clip_stem, identity
from modules.build import read_config
from modules.errors import DatasetError, UserError, command_line
from progress import Progress

ROOT = Path(__file__).resolve().parent.parent
RELATIVE = {"use_relative_movement": True, "use_relative_jacobian": True, "adapt_movement_scale": True}
BATCH_SIZE = 8
FITTED_FRAMES = 4  # of each training identity, for the regression


class Sample(NamedTuple):
    """Frames of one clip and what is known of them."""

    frames: Tensor  # (T, 3, H, W) in [0, 1]
    landmarks: np.ndarray  # (T, L, 2) in [-1, 1]
    names: tuple[str, ...]  # of the L landmarks


# ---- clips ----


def one_clip_each(dataset: FramesDataset) -> list[int]:
    """The number of the first clip of every identity."""
    first = {}
    for number, name in enumerate(dataset.clips):
        first.setdefault(identity(name), number)
    return list(first.values())


def read_sample(dataset: FramesDataset, number: int, frames: int | None = None) -> Sample:
    """A clip with its landmarks; with `frames`, only so many, spread evenly over it."""
    clip = dataset.clip(number)
    path = dataset.folder / f"{clip_stem(clip.name)}.npz"
    if not path.exists():
        raise DatasetError(
            f"{path}: no such file; true landmarks come with the clips of data/make_puppets.py"
        )
    with np.load(path) as truth:  # of plain arrays: pickles are refused by default
        landmarks, names = truth["xy"], tuple(truth["names"].tolist())
    chosen = np.unique(np.linspace(0, len(clip) - 1, frames or len(clip)).round().astype(int))
    pictures = torch.stack([frame for i, frame in enumerate(clip) if i in chosen])
    return Sample(pictures, landmarks[chosen].astype(float), names)


@torch.inference_mode()
def keypoints(kp_detector: nn.Module, frames: Tensor) -> np.ndarray:
    """Values of the keypoints of frames (T, 3, H, W): (T, K, 2)."""
    return np.concatenate([kp_detector(batch)["value"].numpy() for batch in frames.split(BATCH_SIZE)])


# ---- the figures ----


def reconstruction_scores(
    samples: Iterable[Sample], networks: tuple[nn.Module, nn.Module]
) -> dict[str, float]:
    rows = []
    for frames, *_ in samples:
        animator = Animator(*networks, frames[:1], batch_size=BATCH_SIZE)
        for real, out in zip(frames, animator.animate(frames), strict=True):
            rows.append([*scores(out["prediction"][0], real), *scores(frames[0], real)])
    l1, ssim, copy_l1, copy_ssim = np.mean(rows, axis=0).tolist()
    return {"l1": l1, "copy_l1": copy_l1, "l1_over_copy": l1 / copy_l1, "ssim": ssim, "copy_ssim": copy_ssim}


def scores(picture: Tensor, real: Tensor) -> tuple[float, float]:
    """L1 and SSIM of two pictures (3, H, W) in [0, 1]."""
    ssim = structural_similarity(
        picture.numpy(), real.numpy(), channel_axis=0, data_range=1, gaussian_weights=True
    )
    return (picture - real).abs().mean().item(), float(ssim)


class LandmarkRegression:
    """Landmarks (T, L, 2) as a linear function, with a constant, of the values of keypoints (T, K, 2); least squares."""

    def __init__(self, values: np.ndarray, landmarks: np.ndarray):
        self.shape = landmarks.shape[1:]
        self.weights = np.linalg.lstsq(
            self._inputs(values), landmarks.reshape(len(landmarks), -1), rcond=None
        )[0]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return (self._inputs(values) @ self.weights).reshape(len(values), *self.shape)

    @staticmethod
    def _inputs(values: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [values.reshape(len(values), -1), np.ones((len(values), 1))], axis=1
        )  # (T, 2K + 1)


def landmark_errors(found: np.ndarray, true: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Distances of landmarks (T, L, 2) to the truth over the distance between the true eyes of each frame: (T, L)."""
    left, right = (true[:, names.index(f"eye_{side}")] for side in ("left", "right"))
    return np.linalg.norm(found - true, axis=-1) / np.linalg.norm(left - right, axis=-1)[:, None]


def motion_correlation(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Correlation of displacements (N, L, 2) for each landmark, over all N and both coordinates: (L,)."""
    return np.array(
        [np.corrcoef(found[:, i].ravel(), true[:, i].ravel())[0, 1] for i in range(found.shape[1])]
    )


def face_colour(picture: Tensor, landmarks: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Mean colour (3,) of a picture (3, H, W) inside the convex hull of the landmarks (L, 2) that belong to the head."""
    from scipy.spatial import ConvexHull

    height, width = picture.shape[1:]
    head = np.array([point for point, name in zip(landmarks, names, strict=True) if "shoulder" not in name])
    corners = head[ConvexHull(head).vertices][:, ::-1]  # (., 2) as (y, x)
    mask = polygon2mask((height, width), (corners + 1) / 2 * (height - 1, width - 1))  # (H, W)
    return picture.numpy()[:, mask].mean(axis=1)


def transfer_scores(
    samples: list[Sample], networks: tuple[nn.Module, nn.Module], regress: LandmarkRegression
) -> tuple[np.ndarray, float, float]:
    """Motion correlation of each landmark (L,), and the colour differences of result and source, driving clip and source."""
    found, true, kept, taken = [], [], [], []
    for driving, source in zip(samples, samples[1:] + samples[:1], strict=True):
        animator = Animator(*networks, source.frames[:1], RELATIVE, batch_size=BATCH_SIZE)
        results = torch.cat([out["prediction"] for out in animator.animate(driving.frames)])  # (T, 3, H, W)
        landmarks = regress(keypoints(networks[1], results))
        found.append(landmarks - landmarks[0])
        true.append(driving.landmarks - driving.landmarks[0])
        looks = face_colour(source.frames[0], source.landmarks[0], source.names)
        kept += [
            abs(face_colour(*pair, source.names) - looks).mean()
            for pair in zip(results, landmarks, strict=True)
        ]
        taken += [
            abs(face_colour(*pair, source.names) - looks).mean()
            for pair in zip(driving.frames, driving.landmarks, strict=True)
        ]
    return (
        motion_correlation(np.concatenate(found), np.concatenate(true)),
        float(np.mean(kept)),
        float(np.mean(taken)),
    )


# ---- command line ----


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=ROOT / "config" / "puppets-128.yaml")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "sup-mat" / "puppets-128.pth.tar")
    parser.add_argument("--data", type=Path, help="folder of the puppets (default: the config's root_dir)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args(argv)


def measure(config_path: Path, checkpoint: Path, data: Path | None = None) -> dict:
    """All figures of a model, by name."""
    config = read_config(config_path)
    networks = load_networks(
        config, config_path, find_checkpoint(checkpoint), torch.device("cpu"), plain=True
    )
    params = {
        "root_dir": data or config["dataset_params"]["root_dir"],
        "frame_shape": config["dataset_params"]["frame_shape"],
    }
    train, test = (FramesDataset(**params, is_train=is_train) for is_train in (True, False))
    if not (train.root_dir / "test").is_dir():
        raise UserError(
            f"{train.root_dir}: has no train/ and test/, so that unseen identities can't be told from others"
        )

    numbers = one_clip_each(train)
    with Progress(len(numbers), "fitting landmarks", "clips") as progress:
        fitted = []
        for number in numbers:
            sample = read_sample(train, number, FITTED_FRAMES)
            fitted.append((keypoints(networks[1], sample.frames), sample.landmarks))
            progress.advance(1, train.clips[number])
    regress = LandmarkRegression(*(np.concatenate(arrays) for arrays in zip(*fitted, strict=True)))

    samples = [read_sample(test, number) for number in one_clip_each(test)]
    names = samples[0].names
    errors = np.concatenate(
        [landmark_errors(regress(keypoints(networks[1], s.frames)), s.landmarks, names) for s in samples]
    )
    correlation, kept, taken = transfer_scores(samples, networks, regress)
    return {
        "identities": len(samples),
        "frames": sum(len(sample.frames) for sample in samples),
        "reconstruction": reconstruction_scores(samples, networks),
        "landmark_error": dict(zip(names, errors.mean(axis=0).tolist(), strict=True))
        | {"mean": float(errors.mean())},
        "motion_correlation": dict(zip(names, correlation.tolist(), strict=True))
        | {"mean": float(correlation.mean())},
        "face_colour": {"result_to_source": kept, "driving_to_source": taken},
    }


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    figures = measure(options.config, options.checkpoint, options.data)
    print(f"{figures['identities']} unseen identities, {figures['frames']} frames")
    for group in ("reconstruction", "face_colour"):
        print(f"{group}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures[group].items()))
    print(f"{'landmark':16}{'error':>8}{'motion':>8}")
    for name, error in figures["landmark_error"].items():
        print(f"{name:16}{error:8.1%}{figures['motion_correlation'][name]:8.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
