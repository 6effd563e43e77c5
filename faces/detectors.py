"""Detectors of faces in one frame.

A detector is called with a frame (H, W, 3) uint8 and returns boxes (F, 4) of its `F` faces.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from faces.boxes import iou, merge_overlapping
from utils.errors import UserError

FaceDetector = Callable[[np.ndarray], np.ndarray]  # a frame (H, W, 3) uint8 -> boxes (F, 4)


def load_detector(name: str | None, device: str | None) -> FaceDetector:
    """Load the detector "face-alignment" or "cascade"; for None the first one whose package is installed.

    `device`: where face-alignment runs, by default the best there is. Raises `UserError` where its
    package or its weights are missing.
    """
    installed = importlib.util.find_spec("face_alignment") is not None
    if name == "face-alignment" and not installed:
        raise UserError("--detector face-alignment needs that package: pip install face-alignment")
    if name == "cascade" or not installed:
        return CascadeDetector()
    return FaceAlignmentDetector(device)


class FaceAlignmentDetector:
    """The S3FD network of the package face-alignment, which the published script uses."""

    MAX_SIDE = 640  # pixels to which larger frames are shrunk, as published

    def __init__(self, device: str | None):
        # The package is optional, and PyTorch takes seconds that the other detector does not need.
        import torch
        from face_alignment.detection import sfd

        from utils.device import pick_device

        try:
            self._network = sfd.FaceDetector(device=pick_device(device).type, verbose=False)
        except (OSError, RuntimeError) as error:  # no connection, or a damaged file
            place = Path(torch.hub.get_dir()) / "checkpoints"
            raise UserError(
                f"face-alignment can't load its weights ({error}); put s3fd-619a316812.pth into {place}, or "
                "use --detector cascade"
            ) from error

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        image = Image.fromarray(frame)
        scale = min(1, self.MAX_SIDE / max(image.size))
        found = self._network.detect_from_image(np.array(_scaled(image, scale)))
        # Each face is left, top, right, bottom, score.
        return np.array([face[:4] for face in found], float).reshape(-1, 4) / scale  # (F, 4)


class CascadeDetector:
    """scikit-image's cascade of local binary patterns, made to see tilted heads and raise few false alarms.

    The cascade alone knows upright faces only. Here it scans the frame at three tilts. Each place that it
    finds is scanned again, enlarged, at seven tilts. A face is found at several tilts in a row, most other
    things at one.
    """

    WINDOW = 24  # side of the pictures that the cascade was trained on, and of the smallest face
    SHORT_SIDE = 8 * WINDOW  # of the frame in the first scan
    MAX_LONG_SIDE = 16 * SHORT_SIDE  # so that a frame of 30000x2 is not enlarged to millions of columns
    TILTS = (-20, 0, 20)  # degrees
    CLOSE_WINDOW = 48  # side of the face in the second scan
    CLOSE_TILTS = range(-30, 31, 10)
    MARGIN = 0.4  # around the face in the second scan, as a share of its side
    MIN_TILTS = 2  # of the second scan at which a face must be found
    SAME_FACE = 0.35  # intersection over union
    CHIN = 0.15  # the cascade's boxes end at the lip; the chin is lower by this share of the height

    def __init__(self) -> None:
        from skimage.data import lbp_frontal_face_cascade_filename  # slow, and only faces need it
        from skimage.feature import Cascade

        self._cascade = Cascade(lbp_frontal_face_cascade_filename())

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        image = Image.fromarray(frame).convert("L")
        faces: list[np.ndarray] = []
        for tilts, box in sorted(self._candidates(image), key=lambda candidate: -candidate[0]):
            is_new = not any(iou(box[None], face[None]) > self.SAME_FACE for face in faces)
            if tilts >= self.MIN_TILTS and is_new:
                faces.append(box)
        boxes = np.array(faces).reshape(-1, 4)
        boxes[:, 3] += self.CHIN * (boxes[:, 3] - boxes[:, 1])
        return boxes  # (F, 4)

    def _candidates(self, image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
        """Yield for each place that may be a face at how many tilts it is found, and its box (4,)."""
        scale = min(self.SHORT_SIDE / min(image.size), self.MAX_LONG_SIDE / max(image.size))
        sizes = self.WINDOW, self.SHORT_SIDE
        _, places = self._scan(_scaled(image, scale), self.TILTS, sizes, scale_step=1.2, neighbours=2)
        for place in merge_overlapping(places / scale, self.SAME_FACE):
            yield self._scan_closely(image, place)

    def _scan_closely(self, image: Image.Image, place: np.ndarray) -> tuple[int, np.ndarray]:
        """Return at how many tilts the face at `place` (4,) is found, and the mean of its boxes."""
        side = place[2] - place[0]
        scale = self.CLOSE_WINDOW / side
        area = place + self.MARGIN * side * np.array([-1, -1, 1, 1])
        pixels = round(self.CLOSE_WINDOW * (1 + 2 * self.MARGIN))
        patch = image.transform(
            (pixels, pixels), Image.Transform.EXTENT, tuple(area), Image.Resampling.BILINEAR
        )
        sizes = round(0.65 * self.CLOSE_WINDOW), round(1.5 * self.CLOSE_WINDOW)
        tilts, boxes = self._scan(patch, self.CLOSE_TILTS, sizes, scale_step=1.1, neighbours=3)
        boxes = boxes / scale + np.tile(area[:2], 2)
        same = iou(boxes, place[None])[:, 0] > self.SAME_FACE  # (F,)
        return len(set(tilts[same])), boxes[same].mean(axis=0) if same.any() else place

    def _scan(
        self,
        image: Image.Image,
        tilts: Iterable[int],
        sizes: tuple[int, int],
        scale_step: float,
        neighbours: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scan `image` turned by each of `tilts`: the tilt (F,) and the upright box (F, 4) of each find.

        `sizes`: sides of the smallest and the largest face. `neighbours`: how often a place must be found.
        """
        smallest, largest = sizes
        found_at, boxes = [], []
        for tilt in tilts:
            turned = image.rotate(tilt, Image.Resampling.BILINEAR, expand=True)
            cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
            for face in self._cascade.detect_multi_scale(
                np.asarray(turned),
                scale_factor=scale_step,
                step_ratio=1,
                min_size=(smallest, smallest),
                max_size=(largest, largest),
                min_neighbor_number=neighbours,
            ):
                half = face["width"] / 2
                # The middle of the face from the middle of the turned picture, then in the upright one.
                x, y = face["c"] + half - turned.width / 2, face["r"] + half - turned.height / 2
                x, y = x * cos - y * sin + image.width / 2, x * sin + y * cos + image.height / 2
                found_at.append(tilt)
                boxes.append((x - half, y - half, x + half, y + half))
        return np.array(found_at), np.array(boxes, float).reshape(-1, 4)


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BILINEAR)
