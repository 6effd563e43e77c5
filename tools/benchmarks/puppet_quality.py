"""How good a model of puppets is on puppets that no training saw.

    python -m tools.benchmarks.puppet_quality [--config FILE] [--checkpoint FILE] [--data FOLDER]

Clips and true landmarks come from the config's `root_dir`, written by data/make_puppets.py. One clip of each
test identity takes part, with all its frames.

Reconstruction: the first frame of each clip is driven by all of its frames. L1 is in [0, 1], SSIM that of
scikit-image with Gaussian weights. A pixel whose error, the mean over its channels, is above 0.25 is torn: a
part of the picture in the wrong place. "copy" is the first frame itself as the answer to every frame. A
keypoint is dead if its mask has a mean below 0.1%.

Landmarks: by a linear regression from the keypoints, fitted on training identities. Errors are distances to
the truth over the distance between the true eyes.

Motion: each clip drives the first frame of the next, relative to its own first frame. Displacements of the
result's landmarks since the first frame are correlated with those of the driving clip's true landmarks.

Expression: how far lids and mouth are open, by a linear ridge regression from the pixels around them, fitted
on training identities; correlations with the truth. Those of the drawn test frames bound the others. In
transfer both are changes since the first frame, and the true source opens and shuts no further than it can.

Shapes: `T` frames of a clip, `N` frames of all clips, `K` keypoints, `L` landmarks, `H, W` size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.files import find_checkpoint
from evaluation.metrics import ssim
from evaluation.puppets import LandmarkRegression, read_truth
from frames_dataset import FramesDataset, identity
from inference.animator import Animator
from inference.networks import InferenceNetworks, load_networks
from inference.samples import SAMPLE
from modules.build import read_config
from modules.util import make_coordinate_grid, warp
from utils.errors import UserError
from utils.files import atomic_write, check_writable
from utils.options import option, read_options
from utils.program import command_line
from utils.progress import Progress

RELATIVE = {"use_relative_movement": True, "use_relative_jacobian": True, "adapt_movement_scale": True}
BATCH_SIZE = 8
FITTED_FRAMES = 4  # of each training identity, for the regression
TORN_ERROR = 0.25  # a pixel with a larger error is torn
PATCH = 14  # pixels a side of what expressions are read from
EYE_BOX, MOUTH_BOX = (0.33, 0.33), (0.48, 0.4)  # half their width and height, in `face_patches`' units
RIDGE = 0.01  # penalty on squared weights, a frame
DEAD_SHARE = 0.001  # a keypoint that fewer of the pixels follow is dead


class Sample(NamedTuple):
    """Frames of one clip and what is known of them."""

    frames: Tensor  # (T, 3, H, W) in [0, 1]
    landmarks: np.ndarray  # (T, L, 2) in [-1, 1]
    names: tuple[str, ...]  # of the L landmarks
    openness: np.ndarray  # (T, 2) of lids and mouth, 0 shut to 1 open


# ---- Clips -------------------------------------------------------------------


def read_datasets(config: dict, data: Path | None) -> tuple[FramesDataset, FramesDataset]:
    """The train and the test clips of `data`, or of the config's dataset, which must have a split on disk."""
    params = config["dataset_params"]
    root = data or params["root_dir"]
    train, test = (
        FramesDataset(root, frame_shape=params["frame_shape"], is_train=is_train)
        for is_train in (True, False)
    )
    if not (train.root_dir / "test").is_dir():
        raise UserError(
            f"{train.root_dir}: has no train/ and test/, so that unseen identities can't be told from others"
        )
    return train, test


def read_samples(dataset: FramesDataset, frames: int | None = None) -> list[Sample]:
    """The first clip of each identity; with `frames`, only so many of each, spread evenly over it."""
    numbers = {identity(name): number for number, name in reversed([*enumerate(dataset.clips)])}
    samples = []
    with Progress(len(numbers), "reading puppets", "clips") as progress:
        for number in sorted(numbers.values()):
            clip = dataset.clip(number)
            xy, names, openness = read_truth(
                dataset.folder / clip.name, len(clip), "expressions", "xy", "names", "openness"
            )
            chosen = np.unique(np.linspace(0, len(clip) - 1, frames or len(clip)).round().astype(int))
            pictures = torch.stack([frame for i, frame in enumerate(clip) if i in chosen])
            landmarks, openness = (array[chosen].astype(float) for array in (xy, openness))
            samples.append(Sample(pictures, landmarks, tuple(names.tolist()), openness))
            progress.advance(1, clip.name)
    return samples


@torch.inference_mode()
def keypoints(kp_detector: nn.Module, frames: Tensor) -> np.ndarray:
    """Values of the keypoints of frames (T, 3, H, W): (T, K, 2)."""
    return np.concatenate([kp_detector(batch)["value"].numpy() for batch in frames.split(BATCH_SIZE)])


# ---- Reconstruction ----------------------------------------------------------


class Reconstruction(NamedTuple):
    """Figures of every frame of every clip: of the model's, and of the clip's first frame in its place."""

    rebuilt: np.ndarray  # (N, 3): L1, SSIM and share of torn pixels
    copied: np.ndarray  # (N, 3)
    masks: np.ndarray  # (N, K): mean mask of each keypoint; (N, 0) without dense motion
    openness: np.ndarray  # (N, 2) found in the model's frames


def reconstruct(
    samples: Iterable[Sample], networks: InferenceNetworks, express: ExpressionRegression
) -> Reconstruction:
    rebuilt, copied, masks, openness = [], [], [], []
    for frames, landmarks, names, _ in samples:
        animator = Animator(*networks, frames[:1], batch_size=BATCH_SIZE)
        predictions = []
        for real, out in zip(frames, animator.animate(frames), strict=True):
            predictions.append(out["prediction"])
            rebuilt.append(scores(out["prediction"][0], real))
            copied.append(scores(frames[0], real))
            masks.append(out["mask"][0, 1:].mean((1, 2)).numpy() if "mask" in out else np.empty(0))
        openness.append(express(torch.cat(predictions), landmarks, names))
    return Reconstruction(np.array(rebuilt), np.array(copied), np.array(masks), np.concatenate(openness))


def scores(picture: Tensor, real: Tensor) -> tuple[float, float, float]:
    """L1, SSIM and the share of torn pixels of a picture (3, H, W) in [0, 1]."""
    similarity = ssim(*(each.permute(1, 2, 0).numpy() for each in (picture, real)))
    return (picture - real).abs().mean().item(), similarity, torn_pixels(picture, real)


def torn_pixels(picture: Tensor, real: Tensor) -> float:
    """Share of the pixels of a picture (3, H, W) whose error, a mean over channels, exceeds `TORN_ERROR`."""
    return ((picture - real).abs().mean(dim=0) > TORN_ERROR).float().mean().item()


def reconstruction_figures(found: Reconstruction) -> dict[str, Any]:
    figures = {}
    for prefix, values in (("", found.rebuilt), ("copy_", found.copied)):
        for name, value in zip(("l1", "ssim", "torn"), values.mean(axis=0).tolist(), strict=True):
            figures[prefix + name] = value
    figures["l1_over_copy"] = figures["l1"] / figures["copy_l1"]
    dead = np.flatnonzero(found.masks.mean(axis=0) < DEAD_SHARE).tolist()
    return {"reconstruction": figures, "dead_keypoints": dead}


# ---- Expression --------------------------------------------------------------


class ExpressionRegression:
    """Openness of lids and mouth, (T, 2), as linear functions of the pixels around eyes and mouth."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        patches = [face_patches(sample.frames, sample.landmarks, sample.names) for sample in samples]
        openness = np.concatenate([sample.openness for sample in samples])
        self.fits = [
            ridge_regression(np.concatenate(inputs), openness[:, part])
            for part, inputs in enumerate(zip(*patches, strict=True))
        ]

    def __call__(self, frames: Tensor, landmarks: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        patches = face_patches(frames, landmarks, names)
        found = [inputs @ fit[:-1] + fit[-1] for inputs, fit in zip(patches, self.fits, strict=True)]
        return np.stack(found, axis=1)


def face_patches(
    frames: Tensor, landmarks: np.ndarray, names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels around both eyes (T, P), and around the mouth (T, Q), upright and of mean 0 and deviation 1."""
    points = {name: torch.from_numpy(landmarks[:, i]).float() for i, name in enumerate(names)}
    across = points["eye_right"] - points["eye_left"]
    mouth = (points["mouth_left"] + points["mouth_right"]) / 2
    down = mouth - (points["eye_left"] + points["eye_right"]) / 2
    unit = torch.hypot(across.norm(dim=1), down.norm(dim=1))  # (T,)
    right = across / across.norm(dim=1, keepdim=True) * unit[:, None]  # (T, 2)
    axes = torch.stack([right, torch.stack([-right[:, 1], right[:, 0]], 1)], 1)  # (T, 2, 2)
    square = make_coordinate_grid((PATCH, PATCH), like=unit)  # (P, P, 2)

    def patch(centre: Tensor, half: tuple[float, float]) -> Tensor:
        grid = centre[:, None, None] + torch.einsum("yxi,tij->tyxj", square * torch.tensor(half), axes)
        pixels = warp(frames, grid, padding_mode="border").flatten(1)  # (T, 3PP)
        return (pixels - pixels.mean(1, keepdim=True)) / (pixels.std(1, keepdim=True) + 1e-3)

    eyes = torch.cat([patch(points[f"eye_{side}"], EYE_BOX) for side in ("left", "right")], dim=1)
    below = mouth + 0.1 * axes[:, 1]
    return eyes.double().numpy(), patch(below, MOUTH_BOX).double().numpy()


def ridge_regression(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights (D + 1,), the last a constant, from inputs (N, D) to targets (N,)."""
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    penalty = RIDGE * len(inputs) * np.eye(inputs.shape[1])
    return np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets)


def expression_correlation(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Correlation of openness (N, 2) with the truth."""
    return {
        part: float(np.corrcoef(found[:, i], true[:, i])[0, 1]) for i, part in enumerate(("lids", "mouth"))
    }


# ---- Landmarks and motion ----------------------------------------------------


def landmark_errors(found: np.ndarray, true: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Distances of landmarks (T, L, 2) to the truth, over the distance of the frame's true eyes: (T, L)."""
    left, right = (true[:, names.index(f"eye_{side}")] for side in ("left", "right"))
    return np.linalg.norm(found - true, axis=-1) / np.linalg.norm(left - right, axis=-1)[:, None]


def mean_without_ears(names: tuple[str, ...], values: np.ndarray) -> float:
    """The mean of the values (L,) of the named landmarks without the ears, which hair may hide."""
    return float(np.mean([value for name, value in zip(names, values, strict=True) if "ear_" not in name]))


def with_mean(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    """The values (L,) by the names of the landmarks, and their "mean"."""
    return dict(zip(names, values.tolist(), strict=True)) | {"mean": float(values.mean())}


def motion_correlation(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Correlation of displacements (N, L, 2) for each landmark, over all N and both coordinates: (L,)."""
    return np.array(
        [np.corrcoef(found[:, i].ravel(), true[:, i].ravel())[0, 1] for i in range(found.shape[1])]
    )


def transfer_scores(
    samples: list[Sample],
    networks: InferenceNetworks,
    regress: LandmarkRegression,
    express: ExpressionRegression,
) -> tuple[np.ndarray, dict[str, float]]:
    """Animate by another identity: correlations (L,) of the landmarks, and those of lids and mouth."""
    found, true = [], []
    openness, true_openness = [], []
    for driving, source in zip(samples, samples[1:] + samples[:1], strict=True):
        animator = Animator(*networks, source.frames[:1], RELATIVE, batch_size=BATCH_SIZE)
        results = torch.cat([out["prediction"] for out in animator.animate(driving.frames)])  # (T, 3, H, W)
        landmarks = regress(keypoints(networks[1], results))
        found.append(landmarks - landmarks[0])
        true.append(driving.landmarks - driving.landmarks[0])
        opened = express(results, landmarks, source.names)  # (T, 2)
        openness.append(opened - opened[0])
        moved = np.clip(source.openness[0] + driving.openness - driving.openness[0], 0, 1)
        true_openness.append(moved - moved[0])
    motion = motion_correlation(np.concatenate(found), np.concatenate(true))
    return motion, expression_correlation(np.concatenate(openness), np.concatenate(true_openness))


# ---- Command line ------------------------------------------------------------


@dataclass(frozen=True)
class QualityOptions:
    """The command line."""

    config: Path = option(SAMPLE["config"], "default: that of the model that ships")
    checkpoint: Path = option(SAMPLE["checkpoint"], "default: the model that ships")
    data: Path | None = option(None, "folder of the puppets (default: the config's root_dir)")
    json: Path | None = option(None, "also write the figures to this file")


def measure(config_path: Path, checkpoint: Path, data: Path | None = None) -> dict[str, Any]:
    """All figures of a model, by name."""
    config = read_config(config_path)
    networks = load_networks(
        config, config_path, find_checkpoint(checkpoint), torch.device("cpu"), plain=True
    )
    train, test = read_datasets(config, data)
    fitted, samples = read_samples(train, FITTED_FRAMES), read_samples(test)
    names = samples[0].names

    values = np.concatenate([keypoints(networks[1], sample.frames) for sample in fitted])
    regress = LandmarkRegression(values, np.concatenate([sample.landmarks for sample in fitted]))
    express = ExpressionRegression(fitted)
    errors = np.concatenate(
        [landmark_errors(regress(keypoints(networks[1], s.frames)), s.landmarks, names) for s in samples]
    )
    rebuilt = reconstruct(samples, networks, express)
    motion, transfer = transfer_scores(samples, networks, regress, express)
    openness = np.concatenate([sample.openness for sample in samples])
    drawn = np.concatenate([express(sample.frames, sample.landmarks, names) for sample in samples])
    return {
        "identities": len(samples),
        "frames": sum(len(sample.frames) for sample in samples),
        **reconstruction_figures(rebuilt),
        "landmark_error": with_mean(names, errors.mean(axis=0)),
        "landmark_error_without_ears": mean_without_ears(names, errors.mean(axis=0)),
        "motion_correlation": with_mean(names, motion),
        "expression": {
            "drawn": expression_correlation(drawn, openness),
            "reconstruction": expression_correlation(rebuilt.openness, openness),
            "transfer": transfer,
        },
    }


def print_figures(figures: dict[str, Any]) -> None:
    print(f"{figures['identities']} unseen identities, {figures['frames']} frames")
    print(", ".join(f"{name} {value:.4f}" for name, value in figures["reconstruction"].items()))
    for kind, found in figures["expression"].items():
        print(f"expression, {kind}: lids {found['lids']:.3f}, mouth {found['mouth']:.3f}")
    print(f"dead keypoints: {len(figures['dead_keypoints'])} {figures['dead_keypoints']}")
    print(f"{'landmark':16}{'error':>8}{'motion':>8}")
    for name, error in figures["landmark_error"].items():
        print(f"{name:16}{error:8.1%}{figures['motion_correlation'][name]:8.3f}")
    print(f"{'without ears':16}{figures['landmark_error_without_ears']:8.1%}")


@command_line
def main(argv: list[str] | None = None) -> None:
    options = read_options(QualityOptions, argv, __doc__)
    if options.json is not None:
        check_writable(options.json)
    figures = measure(options.config, options.checkpoint, options.data)
    print_figures(figures)
    if options.json is not None:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
