"""Find the faces of a video and cut each of them out, with one fixed box for as long as the face stays in its place.

    python crop_video.py --inp talk.mp4              # prints an ffmpeg command for each face
    python crop_video.py --inp talk.mp4 --out crops  # writes crops/talk#000.mp4, crops/talk#001.mp4, ...

The written crops have no sound; those that the ffmpeg commands make keep it. The commands tell time by the mean frame rate,
so for a video of variable frame rate use --out, which counts frames.

Faces are found by the package face-alignment where it is installed (as in the published script), else by the trained cascade
that comes with scikit-image, which sees frontal faces from an eighth of the frame's shorter side on.

Shapes: `F` faces, `N` looks at the video; a box is left, top, right, bottom in pixels of the upright frame.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from media.clips import Clip, VideoClip, open_clip
from media.writer import VideoWriter
from modules.errors import UserError, command_line
from progress import Progress

LOOKS_PER_SECOND = 5  # in between, boxes are interpolated
PATIENCE = 1.0  # seconds for which a face may go unseen
LEAST_FOUND = 0.5  # share of the looks in which a face must be seen; false alarms come and go
MOST_GROWTH = 1.5  # a box that is this much higher or lower than the median of its track is a mistake

Detector = Callable[[np.ndarray], np.ndarray]  # a frame (H, W, 3) uint8 -> boxes (F, 4)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--inp", type=Path, required=True, help="the video; with --out also a folder of frames"
    )
    parser.add_argument(
        "--out", type=Path, help="a folder to write the crops to; without it, ffmpeg commands are printed"
    )
    parser.add_argument(
        "--image_shape",
        type=shape,
        default=(256, 256),
        metavar="W,H",
        help="size of the crops (default: 256,256)",
    )
    parser.add_argument(
        "--increase",
        type=float,
        default=0.1,
        help="how far the box grows on each side, as a share of it (default: 0.1)",
    )
    parser.add_argument(
        "--iou_with_initial",
        type=float,
        default=0.25,
        help="a face that overlaps less with the place where it was first seen begins a new crop (default: 0.25)",
    )
    parser.add_argument(
        "--min_frames", type=int, default=150, help="shorter crops are dropped (default: 150)"
    )
    parser.add_argument(
        "--detector",
        choices=["face-alignment", "cascade"],
        help="default: face-alignment if that package is installed, else scikit-image's cascade",
    )
    parser.add_argument(
        "--cpu", action="store_true", help="run face-alignment on the CPU even if there is a GPU"
    )
    options = parser.parse_args(argv)
    if options.increase < 0 or options.min_frames < 1 or not 0 <= options.iou_with_initial <= 1:
        parser.error("--increase must be at least 0, --min_frames at least 1, --iou_with_initial from 0 to 1")
    return options


def shape(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 and int(part) % 2 == 0 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not two even numbers, width and height, like 256,256")
    return int(parts[0]), int(parts[1])


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    clip = open_clip(options.inp)
    check_output(options.out, clip)
    detect = load_detector(options.detector, options.cpu)
    found = find_tracks(clip, detect, options.iou_with_initial)
    tracks = long_tracks(found, clip, options.min_frames)
    boxes = [crop_box(track.tube, clip.size, options.image_shape, options.increase) for track in tracks]
    if options.out is not None:
        write_crops(clip, tracks, boxes, options.image_shape, options.out)
        return
    for number, (track, box) in enumerate(zip(tracks, boxes, strict=True)):
        print(ffmpeg_command(clip, track, box, options.image_shape, crop_name(clip, number)))


def check_output(out: Path | None, clip: Clip) -> None:
    """Raise `UserError` if the crops can't be written, or would replace files."""
    if out is None:
        if not isinstance(clip, VideoClip):
            raise UserError(
                f"{clip.path}: is not a video, so ffmpeg can't cut it; give --out to write the crops"
            )
        return
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    earlier = sorted(out.glob("*.mp4")) if out.exists() else []
    for path in earlier:
        if path.name.startswith(f"{clip.path.stem}#"):
            raise UserError(f"{path}: exists, maybe from an earlier run; remove it or give another --out")


def crop_name(clip: Clip, number: int) -> str:
    """What is before # is the same for all crops of a video: the datasets take that for the name of the person."""
    return f"{clip.path.stem}#{number:03d}.mp4"


# ---------------------------------------------------------------------------------------------------------------------
# Detectors


def load_detector(name: str | None, cpu: bool) -> Detector:
    installed = importlib.util.find_spec("face_alignment") is not None
    if name == "face-alignment" and not installed:
        raise UserError("--detector face-alignment needs that package: pip install face-alignment")
    if name == "cascade" or not installed:
        return CascadeDetector()
    return FaceAlignmentDetector(cpu)


class FaceAlignmentDetector:
    """The S3FD network of the package face-alignment, which the published script uses."""

    LONG_SIDE = 640  # pixels to which larger frames are shrunk, as published

    def __init__(self, cpu: bool):
        import torch
        from face_alignment.detection.sfd import FaceDetector

        from device import pick_device

        try:
            self.network = FaceDetector(device=pick_device("cpu" if cpu else None).type, verbose=False)
        except (OSError, RuntimeError) as error:  # no connection, or a damaged file
            place = Path(torch.hub.get_dir()) / "checkpoints"
            raise UserError(
                f"face-alignment can't load its weights ({error}); put s3fd-619a316812.pth into {place}, or use "
                "--detector cascade"
            ) from error

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        image = Image.fromarray(frame)
        scale = min(1, self.LONG_SIDE / max(image.size))
        small = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
        )
        found = self.network.detect_from_image(np.array(small))  # F times left, top, right, bottom, score
        return np.array([face[:4] for face in found], float).reshape(-1, 4) / scale  # (F, 4)


class CascadeDetector:
    """scikit-image's cascade of local binary patterns, made to see tilted heads and to raise few false alarms.

    The cascade alone knows upright faces only. Here it looks at the frame turned to three sides, and again at what it found
    there, closer and turned to seven: a face is seen at several tilts in a row, most other things at one.
    """

    WINDOW = 24  # side of the pictures that the cascade was trained on, and of the smallest face
    SHORT_SIDE = 8 * WINDOW  # of the frame in the first look
    TILTS = (-20, 0, 20)  # degrees
    CLOSE_WINDOW = 48  # side of the face in the second look
    CLOSE_TILTS = range(-30, 31, 10)
    MARGIN = 0.4  # around the face in the second look, as a share of its side
    LEAST_TILTS = 2
    SAME_FACE = 0.35  # intersection over union
    CHIN = 0.15  # the cascade's boxes end at the lip; the chin is lower by this share of the height

    def __init__(self):
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade

        self.cascade = Cascade(lbp_frontal_face_cascade_filename())

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        image = Image.fromarray(frame).convert("L")
        faces: list[np.ndarray] = []
        for count, box in sorted(self._confirmed(image), key=lambda pair: -pair[0]):
            if count >= self.LEAST_TILTS and not any(
                iou(box[None], face[None]) > self.SAME_FACE for face in faces
            ):
                faces.append(box)
        boxes = np.array(faces).reshape(-1, 4)
        boxes[:, 3] += self.CHIN * (boxes[:, 3] - boxes[:, 1])
        return boxes  # (F, 4)

    def _confirmed(self, image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
        """For each place that may be a face, the number of tilts at which it is seen and the mean of the boxes."""
        scale = self.SHORT_SIDE / min(image.size)
        small = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
        )
        sizes = self.WINDOW, self.SHORT_SIDE
        _, places = self._scan(small, self.TILTS, sizes, scale_step=1.2, neighbours=2)
        for place in distinct(places / scale, self.SAME_FACE):
            yield self._look_closer(image, place)

    def _look_closer(self, image: Image.Image, place: np.ndarray) -> tuple[int, np.ndarray]:
        side = place[2] - place[0]
        scale = self.CLOSE_WINDOW / side
        margin = self.MARGIN * side
        area = place + margin * np.array([-1, -1, 1, 1])
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
        """Look at `image` turned by each of `tilts`: the tilt (F,) and the upright box (F, 4) of all that is found."""
        smallest, largest = sizes
        at, boxes = [], []
        for tilt in tilts:
            turned = image.rotate(tilt, Image.Resampling.BILINEAR, expand=True)
            cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
            for face in self.cascade.detect_multi_scale(
                np.asarray(turned),
                scale_factor=scale_step,
                step_ratio=1,
                min_size=(smallest, smallest),
                max_size=(largest, largest),
                min_neighbor_number=neighbours,
            ):
                half = face["width"] / 2
                x, y = (
                    face["c"] + half - turned.width / 2,
                    face["r"] + half - turned.height / 2,
                )  # from the middle
                x, y = x * cos - y * sin + image.width / 2, x * sin + y * cos + image.height / 2
                at.append(tilt)
                boxes.append((x - half, y - half, x + half, y + half))
        return np.array(at), np.array(boxes, float).reshape(-1, 4)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4) -> (N, M)."""
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (N, M, 2)
    both = sides.clip(0).prod(-1)
    return both / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both)


def distinct(boxes: np.ndarray, same: float) -> list[np.ndarray]:
    """The means of groups of `boxes` (F, 4) that overlap by more than `same` with the first of their group."""
    means = []
    while len(boxes):
        group = iou(boxes, boxes[:1])[:, 0] > same  # (F,)
        means.append(boxes[group].mean(axis=0))
        boxes = boxes[~group]
    return means


# ---------------------------------------------------------------------------------------------------------------------
# Tracks


class Track:
    """One face for as long as it stays where it was first seen.

    Attributes: `start` and `end`, the frames of the video that show it (`end` not included).
    """

    def __init__(self, number: int, box: np.ndarray):
        self.numbers, self.boxes = [number], [box]
        self.start, self.end = number, number + 1

    def add(self, number: int, box: np.ndarray) -> None:
        self.numbers.append(number)
        self.boxes.append(box)
        self.end = number + 1

    def reach_ends(self, step: int, length: int) -> None:
        """Begin and end with the video, where no more than one look is missing there."""
        if self.start <= step:
            self.start = 0
        if self.end + step >= length:
            self.end = length

    def found(self, step: int) -> float:
        """The share of looks, from the first to the last, in which the face was seen."""
        return len(self.numbers) / (1 + math.ceil((self.numbers[-1] - self.numbers[0]) / step))

    @property
    def steady(self) -> np.ndarray:
        """Which boxes are about as high as most, (N,): the others are mistakes of the detector."""
        heights = np.array([box[3] - box[1] for box in self.boxes])
        return np.abs(np.log(heights / np.median(heights))) <= math.log(MOST_GROWTH)

    @property
    def tube(self) -> np.ndarray:
        """The smallest box around the face in all frames, (4,)."""
        boxes = np.array(self.boxes)[self.steady]
        return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])

    def boxes_at(self, numbers: np.ndarray) -> np.ndarray:
        """The face's box in the frames `numbers` (M,), interpolated between looks: (M, 4)."""
        looked, boxes = np.array(self.numbers)[self.steady], np.array(self.boxes)[self.steady]
        return np.stack([np.interp(numbers, looked, side) for side in boxes.T], axis=1)


def find_tracks(clip: Clip, detect: Detector, iou_with_initial: float) -> list[Track]:
    """All faces that are seen in at least `LEAST_FOUND` of the looks, in the order of their first frame."""
    step = max(1, round(clip.fps / LOOKS_PER_SECOND))
    with Progress(len(clip), "looking for faces", "frames") as progress:
        tracks = link(looks(clip, detect, step, progress.advance), iou_with_initial, PATIENCE * clip.fps)
    for track in tracks:
        track.reach_ends(step, len(clip))
    return [track for track in tracks if track.found(step) >= LEAST_FOUND]


def looks(
    clip: Clip, detect: Detector, step: int, advance: Callable[[int], None]
) -> Iterator[tuple[int, np.ndarray]]:
    """Every `step`-th frame's number, and the last one's, with the boxes (F, 4) in it."""
    last = len(clip) - 1
    for number, frame in enumerate(clip):
        if number % step == 0 or number == last:
            yield number, detect(frame)
        advance(1)


def link(
    detections: Iterable[tuple[int, np.ndarray]], iou_with_initial: float, patience: float
) -> list[Track]:
    """Give each box to the track whose last box it overlaps most; what fits none begins a track.

    A box fits a track whose first box it overlaps by `iou_with_initial`, and which was seen within `patience` frames.
    """
    from scipy.optimize import linear_sum_assignment

    tracks: list[Track] = []
    for number, boxes in detections:
        near = [track for track in tracks if number - track.numbers[-1] <= patience]
        first, last = (np.array([track.boxes[i] for track in near]).reshape(-1, 4) for i in (0, -1))
        fits = (iou(first, boxes) >= iou_with_initial) & (iou(last, boxes) > 0)  # (near tracks, F)
        rows, columns = linear_sum_assignment(np.where(fits, iou(last, boxes), 0), maximize=True)
        taken = {column: near[row] for row, column in zip(rows, columns, strict=True) if fits[row, column]}
        for column, box in enumerate(boxes):
            if column in taken:
                taken[column].add(number, box)
            else:
                tracks.append(
                    begun(
                        number,
                        box,
                        [track for track in near if track not in taken.values()],
                        iou_with_initial,
                    )
                )
    return tracks


def begun(number: int, box: np.ndarray, near: list[Track], least_iou: float) -> Track:
    """A track for `box`; if it goes on where one of `near` ends, it begins there, so that no frame lies between the two."""
    overlaps = [iou(track.boxes[-1][None], box[None]).item() for track in near]
    if not near or max(overlaps) < max(least_iou, 1e-9):
        return Track(number, box)
    before = near[int(np.argmax(overlaps))]
    track = Track(before.numbers[-1], before.boxes[-1])
    track.start = before.end
    track.add(number, box)
    return track


def long_tracks(tracks: list[Track], clip: Clip, min_frames: int) -> list[Track]:
    """The tracks of `min_frames` frames; in a shorter video, of half its length. Raises `UserError` if there are none."""
    if not tracks:
        raise UserError(
            f"{clip.path}: no face was found in its {len(clip)} frames; faces must look at the camera and be at "
            "least an eighth of the frame's shorter side"
        )
    if len(clip) < min_frames:
        print(
            f"hint: {clip.path} has {len(clip)} frames, fewer than --min_frames {min_frames}; crops are kept from half of "
            "its length on",
            file=sys.stderr,
        )
        min_frames = math.ceil(len(clip) / 2)
    kept = [track for track in tracks if track.end - track.start >= min_frames]
    if not kept:
        longest = max(track.end - track.start for track in tracks)
        raise UserError(
            f"{clip.path}: no face stays in its place for {min_frames} frames; the longest stays for {longest}: "
            "lower --min_frames or --iou_with_initial"
        )
    return kept


# ---------------------------------------------------------------------------------------------------------------------
# Crops


class Box(NamedTuple):
    """A part of a frame in whole pixels, all even, so that video with halved colour can be cut there."""

    left: int
    top: int
    width: int
    height: int


def crop_box(tube: np.ndarray, size: tuple[int, int], image_shape: tuple[int, int], increase: float) -> Box:
    """`tube` (4,) grown by `increase` on each side and to the shape of `image_shape` (width, height).

    It lies within the frame of `size` (height, width): moved inside, and shrunk only where it is larger than the frame.
    """
    aspect = image_shape[0] / image_shape[1]
    left, top, right, bottom = tube
    height = (1 + 2 * increase) * max(bottom - top, (right - left) / aspect)
    height = min(height, size[0], size[1] / aspect)
    sides = [max(2, even(height * aspect)), max(2, even(height))]
    middle = (left + right) / 2, (top + bottom) / 2
    space = size[1] - sides[0], size[0] - sides[1]
    corner = [
        even(min(max(0, at - side / 2), most)) for at, side, most in zip(middle, sides, space, strict=True)
    ]
    return Box(*corner, *sides)


def even(value: float) -> int:
    return int(value) // 2 * 2


def ffmpeg_command(clip: Clip, track: Track, box: Box, image_shape: tuple[int, int], name: str) -> str:
    # A little early, as a rounded time must not fall behind the frame that is meant.
    start, end = (max(0, number - 0.2) / clip.fps for number in (track.start, track.end))
    crop = f"crop={box.width}:{box.height}:{box.left}:{box.top}, scale={image_shape[0]}:{image_shape[1]}"
    output = f"./{name}" if name.startswith("-") else name
    return shlex.join(
        [
            "ffmpeg",
            "-i",
            str(clip.path),
            "-ss",
            f"{start:.4f}",
            "-t",
            f"{end - start:.4f}",
            "-filter:v",
            crop,
            output,
        ]
    )


def write_crops(
    clip: Clip, tracks: list[Track], boxes: list[Box], image_shape: tuple[int, int], out: Path
) -> None:
    """Write all crops in one pass through the video."""
    out.mkdir(parents=True, exist_ok=True)
    writers = [VideoWriter(out / crop_name(clip, number), clip.fps) for number in range(len(tracks))]
    with Progress(len(clip), "cropping", "frames") as progress, contextlib.ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        for number, frame in enumerate(clip):
            for writer, track, box in zip(writers, tracks, boxes, strict=True):
                if track.start <= number < track.end:
                    writer.write(cut(frame, box, image_shape))
                if number == track.end - 1:
                    writer.finish()
            progress.advance(1)
    for writer, track, box in zip(writers, tracks, boxes, strict=True):
        print(
            f"{writer.path}: frames {track.start} to {track.end - 1}, {box.width}x{box.height} at {box.left},{box.top}"
        )


def cut(frame: np.ndarray, box: Box, image_shape: tuple[int, int]) -> np.ndarray:
    """The part `box` of a frame (H, W, 3) uint8, resized to `image_shape` (width, height)."""
    area = (box.left, box.top, box.left + box.width, box.top + box.height)
    return np.array(
        Image.fromarray(frame).resize(image_shape, Image.Resampling.BICUBIC, box=area, reducing_gap=2)
    )


if __name__ == "__main__":
    main()
