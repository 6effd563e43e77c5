"""Detectors of landmarks, identities and Inception features, each known by a name.

A detector is an `Instrument` that is called with frames uint8 (B, H, W, 3) RGB. A detector of landmarks
returns (B, L, 2), (x, y) in pixels of the frame. The others return a vector for each frame, (B, D). What was
not found is NaN. Making a detector raises `UserError` where its package is missing, and loading it
`CheckpointError` where its weights are.

To add one, write such a class and put it into `LANDMARKS` or `IDENTITIES`. Each is made with the folder of
the puppets' dataset, which only the puppets' own detectors use. PyTorch and the detectors' packages are
imported where they compute: the former takes seconds, and the latter are optional.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.cache import FOLDER
from evaluation.comparisons import on_device
from evaluation.instrument import Instrument
from evaluation.weights import missing_weights, version_of
from utils.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from evaluation.puppets import PuppetNet

PERSON_SCORE = 0.75  # a body below counts as none
KEYPOINT_SCORE = 2.0  # a keypoint below (the peak of its heatmap, a logit) counts as missing


# ---- Landmarks ---------------------------------------------------------------


class FaceAlignment:
    """68 points of the largest face, by the package face-alignment. Without a face all are missing."""

    name = "face-alignment"
    POINTS = 68
    FILES = ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar")

    def __init__(self, puppets: Path) -> None:
        self.version = version_of("face-alignment", "the detector face-alignment")

    def load(self, device: torch.device) -> None:
        import face_alignment
        import torch

        with missing_weights(
            "the detector face-alignment", self.FILES, Path(torch.hub.get_dir()) / "checkpoints"
        ):
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
        """(68, 2) from the package's answer for one picture: the points of each face, or None."""
        if not faces:
            return np.full((cls.POINTS, 2), np.nan)
        return max(faces, key=lambda points: np.ptp(points[:, :2], axis=0).prod())[:, :2]  # (68, 2)


class KeypointRCNN:
    """17 points (those of COCO) of the surest person, by torchvision's keypoint R-CNN."""

    name = "keypoint-rcnn"
    POINTS = 17

    def __init__(self, puppets: Path) -> None:
        self.version = (
            f"{version_of('torchvision', 'the detector keypoint-rcnn')} {PERSON_SCORE} {KEYPOINT_SCORE}"
        )

    def load(self, device: torch.device) -> None:
        import torch
        from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights, keypointrcnn_resnet50_fpn

        weights = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        with missing_weights("the detector keypoint-rcnn", [Path(weights.url).name], folder):
            self._network = keypointrcnn_resnet50_fpn(weights=weights).eval().to(device)
        self._device = device

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            people = self._network(list(on_device(frames, self._device)))
        return np.stack([self.surest_person(found) for found in people])  # (B, 17, 2)

    @classmethod
    def surest_person(cls, found: dict[str, torch.Tensor]) -> np.ndarray:
        """(17, 2) from the network's answer for one picture: people, surest first, and keypoint scores."""
        if len(found["scores"]) == 0 or found["scores"][0] < PERSON_SCORE:
            return np.full((cls.POINTS, 2), np.nan, np.float32)
        points = found["keypoints"][0, :, :2].clone()  # (17, 2)
        points[found["keypoints_scores"][0] < KEYPOINT_SCORE] = float("nan")
        return points.cpu().numpy()


class PuppetLandmarks:
    """The ten landmarks of a puppet, by a small network fitted on the puppets' true ones."""

    name = "puppets-landmarks"

    def __init__(self, puppets: Path) -> None:
        self._weights, self.version = fitted_puppets(puppets)

    def load(self, device: torch.device) -> None:
        self._network, self._device = load_puppets(self._weights, device), device

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return self._network.find_landmarks(on_device(frames, self._device)).cpu().numpy()  # (B, 10, 2)


# ---- Identity ----------------------------------------------------------------


class InsightFace:
    """ArcFace's embedding, of length 1, of the largest face, by the package insightface."""

    name = "insightface"
    MODELS = "buffalo_l"
    LENGTH = 512

    def __init__(self, puppets: Path) -> None:
        self.version = f"{version_of('insightface', 'the detector insightface')} {self.MODELS}"

    def load(self, device: torch.device) -> None:
        from insightface.app import FaceAnalysis

        files = [f"the files of {self.MODELS}.zip"]
        folder = Path("~/.insightface/models").expanduser() / self.MODELS
        with (
            missing_weights("the detector insightface", files, folder),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            self._faces = FaceAnalysis(self.MODELS, allowed_modules=["detection", "recognition"])
            self._faces.prepare(ctx_id=0 if device.type == "cuda" else -1)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        found = [self._faces.get(np.ascontiguousarray(frame[..., ::-1])) for frame in frames]  # it takes BGR
        return np.stack([self.largest_face(faces) for faces in found]).astype(np.float32)  # (B, 512)

    @classmethod
    def largest_face(cls, faces: list[Any]) -> np.ndarray:
        """(512,) from the package's answer for one picture: faces with a box and an embedding."""
        if not faces:
            return np.full(cls.LENGTH, np.nan)
        return max(faces, key=lambda face: np.prod(face.bbox[2:] - face.bbox[:2])).normed_embedding  # (512,)


class PuppetIdentity:
    """An embedding of length 1 that tells puppets apart, by the network that finds their landmarks."""

    name = "puppets-identity"

    def __init__(self, puppets: Path) -> None:
        self._weights, self.version = fitted_puppets(puppets)

    def load(self, device: torch.device) -> None:
        self._network, self._device = load_puppets(self._weights, device), device

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return self._network.embed(on_device(frames, self._device)).cpu().numpy()  # (B, D)


Maker = Callable[[Path], Instrument]
LANDMARKS: dict[str, Maker] = {
    "face-alignment": FaceAlignment,
    "keypoint-rcnn": KeypointRCNN,
    "puppets": PuppetLandmarks,
}
IDENTITIES: dict[str, Maker] = {"insightface": InsightFace, "puppets": PuppetIdentity}


# ---- The puppets' network ----------------------------------------------------


def fitted_puppets(puppets: Path) -> tuple[Path, str]:
    """The file of weights of the puppets' network and its digest. Fits the network at the first call."""
    weights = puppets / FOLDER / "puppets.pth"
    if not weights.exists():
        from evaluation.puppets import fit_puppets

        fit_puppets(puppets / "train", weights)
    return weights, hashlib.sha256(weights.read_bytes()).hexdigest()[:12]


def load_puppets(weights: Path, device: torch.device) -> PuppetNet:
    """The fitted network. Raises `CheckpointError`."""
    from evaluation.puppets import PuppetNet

    try:
        return PuppetNet.read(weights).to(device)
    except Exception as error:  # torch.load raises whatever the damage brings about
        raise CheckpointError(f"{weights}: damaged; remove it, and the network is fitted again") from error


# ---- Inception ---------------------------------------------------------------


class Inception:
    """The 2,048 features of Inception-v3 that FID compares, with weights of the package torch-fidelity."""

    name = "inception"

    def __init__(self) -> None:
        self.version = version_of("torch-fidelity", "fid")

    def load(self, device: torch.device) -> None:
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
        from torchmetrics.image.fid import NoTrainInceptionV3

        file, folder = Path(URL_INCEPTION_V3).name, Path(torch.hub.get_dir()) / "checkpoints"
        with missing_weights("fid", [file], folder):
            if (folder / file).exists():
                # The library would unpickle anything, so a file with more than weights must fail here.
                torch.load(folder / file, map_location="cpu", weights_only=True)
            self._network = NoTrainInceptionV3("inception-v3-compat", ["2048"]).to(device)
        self._device = device

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            pictures = torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2)  # (B, 3, H, W) uint8
            return self._network(pictures).float().cpu().numpy()  # (B, 2048)
