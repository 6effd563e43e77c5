"""Detectors of landmarks, identities and Inception features, each known by a name.

A detector is an `Instrument` that is called with frames uint8 (B, H, W, 3) RGB. A detector of landmarks
returns (B, L, 2), (x, y) in pixels of the frame. The others return a vector for each frame, (B, D). What was
not found is NaN. Making a detector raises `UserError` where its package is missing, and loading it
`CheckpointError` where its weights are.

To add one, write such a class and put it into `LANDMARKS` or `IDENTITIES`. Each is made with the folder of
the puppets' dataset, which only the puppets' own detector uses.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.image.fid import NoTrainInceptionV3
from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights, keypointrcnn_resnet50_fpn

from evaluation.comparisons import on_device
from evaluation.instrument import Instrument, hub_folder, version_of, weights_needed
from evaluation.puppets import PuppetLandmarks
from utils.errors import UserError

PERSON_SCORE = 0.75  # a body below counts as none
KEYPOINT_SCORE = 2.0  # a keypoint below (the peak of its heatmap, a logit) counts as missing


# ---- Landmarks ---------------------------------------------------------------


class FaceAlignment:
    """68 points of the largest face, by the package face-alignment. Without a face all are missing."""

    name = "face-alignment"
    POINTS = 68
    FILES = "s3fd-619a316812.pth and 2DFAN4-11f355bf06.pth.tar"

    def __init__(self, puppets: Path) -> None:
        self.version = version_of("face-alignment", "the detector face-alignment")

    def load(self, device: torch.device) -> None:
        import face_alignment  # optional

        with weights_needed("the detector face-alignment", self.FILES, hub_folder()):
            self._network = face_alignment.FaceAlignment(
                face_alignment.LandmarksType.TWO_D, device=str(device), flip_input=False, compile=False
            )

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every frame without a face
            found = [self._network.get_landmarks_from_image(frame) for frame in frames]
        return np.stack([self.largest_face(faces) for faces in found]).astype(np.float32)  # (B, 68, 2)

    @classmethod
    def largest_face(cls, faces: list[np.ndarray] | None) -> np.ndarray:
        """Return (68, 2) from the package's answer for one picture: the points of each face, or None."""
        if not faces:
            return np.full((cls.POINTS, 2), np.nan)
        return max(faces, key=lambda points: np.ptp(points[:, :2], axis=0).prod())[:, :2]  # (68, 2)


class KeypointRCNN:
    """17 points (those of COCO) of the surest person, by torchvision's keypoint R-CNN."""

    name = "keypoint-rcnn"
    POINTS = 17
    WEIGHTS = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1

    def __init__(self, puppets: Path) -> None:
        torchvision = version_of("torchvision", "the detector keypoint-rcnn")
        self.version = f"{torchvision} {PERSON_SCORE} {KEYPOINT_SCORE}"

    def load(self, device: torch.device) -> None:
        with weights_needed("the detector keypoint-rcnn", Path(self.WEIGHTS.url).name, hub_folder()):
            self._network = keypointrcnn_resnet50_fpn(weights=self.WEIGHTS).eval().to(device)
        self._device = device

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        people = self._network(list(on_device(frames, self._device)))
        return np.stack([self.surest_person(found) for found in people])  # (B, 17, 2)

    @classmethod
    def surest_person(cls, found: dict[str, Tensor]) -> np.ndarray:
        """Return (17, 2) from the network's answer for a picture: people, surest first, and their scores."""
        if len(found["scores"]) == 0 or found["scores"][0] < PERSON_SCORE:
            return np.full((cls.POINTS, 2), np.nan, np.float32)
        points = found["keypoints"][0, :, :2].clone()  # (17, 2)
        points[found["keypoints_scores"][0] < KEYPOINT_SCORE] = float("nan")
        return points.cpu().numpy()


# ---- Identity ----------------------------------------------------------------


class InsightFace:
    """ArcFace's embedding, of length 1, of the largest face, by the package insightface."""

    name = "insightface"
    MODELS = "buffalo_l"
    LENGTH = 512

    def __init__(self, puppets: Path) -> None:
        self.version = f"{version_of('insightface', 'the detector insightface')} {self.MODELS}"

    def load(self, device: torch.device) -> None:
        from insightface.app import FaceAnalysis  # optional

        folder = Path("~/.insightface/models").expanduser() / self.MODELS
        with (
            weights_needed("the detector insightface", f"the files of {self.MODELS}.zip", folder),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            self._faces = FaceAnalysis(self.MODELS, allowed_modules=["detection", "recognition"])
            self._faces.prepare(ctx_id=0 if device.type == "cuda" else -1)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        found = [self._faces.get(np.ascontiguousarray(frame[..., ::-1])) for frame in frames]  # it takes BGR
        return np.stack([self.largest_face(faces) for faces in found]).astype(np.float32)  # (B, 512)

    @classmethod
    def largest_face(cls, faces: list[Any]) -> np.ndarray:
        """Return (512,) from the package's answer for one picture: faces with a box and an embedding."""
        if not faces:
            return np.full(cls.LENGTH, np.nan)
        return max(faces, key=lambda face: np.prod(face.bbox[2:] - face.bbox[:2])).normed_embedding  # (512,)


# ---- Inception ---------------------------------------------------------------


class Inception:
    """The 2,048 features of Inception-v3 that FID compares, with weights of the package torch-fidelity."""

    name = "inception"

    def __init__(self) -> None:
        self.version = version_of("torch-fidelity", "fid")

    def load(self, device: torch.device) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3  # optional

        path = hub_folder() / Path(URL_INCEPTION_V3).name
        with weights_needed("fid", path.name, path.parent):
            if path.exists():
                # The library would unpickle anything, so a file with more than weights must fail here.
                torch.load(path, map_location="cpu", weights_only=True)
            self._network = NoTrainInceptionV3("inception-v3-compat", ["2048"]).to(device)
        self._device = device

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        pictures = torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2)  # (B, 3, H, W) uint8
        return self._network(pictures).float().cpu().numpy()  # (B, 2048)


# ---- By name -----------------------------------------------------------------

Maker = Callable[[Path], Instrument]
LANDMARKS: dict[str, Maker] = {
    "face-alignment": FaceAlignment,
    "keypoint-rcnn": KeypointRCNN,
    "puppets": PuppetLandmarks,
}
IDENTITIES: dict[str, Maker] = {"insightface": InsightFace}


def make_detectors(
    metrics: Sequence[str], landmarks: str | None, identity: str | None, puppets: Path
) -> dict[str, Instrument]:
    """Make the detectors that the metrics need, by role.

    Raises `UserError` if one is not chosen or unknown, or its package is missing.
    """
    detectors: dict[str, Instrument] = {}
    for role, needing, choice, known in (
        ("landmarks", {"akd", "mkr"} & set(metrics), landmarks, LANDMARKS),
        ("identity", {"aed"} & set(metrics), identity, IDENTITIES),
    ):
        if needing and choice is None:
            raise UserError(f"{' and '.join(sorted(needing))} need --{role}, one of {', '.join(known)}")
        if choice is not None and choice not in known:
            raise UserError(f"--{role} {choice}: no such detector; choose one of {', '.join(known)}")
        if needing and choice is not None:
            detectors[role] = known[choice](puppets)
    if "fid" in metrics:
        detectors["inception"] = Inception()
    return detectors
