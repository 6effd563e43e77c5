"""One picture and one driving video become a video, frame by frame.

Shapes: `H, W` size that the model takes, `N, M` size of a larger result, `K` keypoints.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from faces.choose import Corners
from faces.crops import cut_out
from inference.animator import Animator, pick
from inference.engines import AnyNetworks
from inference.motion import Motion, Record, smooth
from media.clips import Clip
from media.pictures import Size, fit
from media.tensors import to_pixels, to_tensor
from media.writer import VideoWriter
from modules.util import Keypoints
from utils.pipeline import ahead, behind
from utils.progress import Progress

Item = TypeVar("Item")

FRAMES_AHEAD = 4  # that are read, in the model's size, before the networks need them
FRAMES_BEHIND = 4  # that wait for the encoder

# ---- What goes in and comes out ------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How a video is animated. Each is the option of the command line that has its name."""

    relative: bool = False
    adapt_scale: bool = False
    find_best_frame: bool = False
    best_frame: int | None = None
    smooth: float | None = None
    fit: str = "stretch"
    side_by_side: bool = False
    batch_size: int = 1
    precision: str = "fp32"


class Cancelled(Exception):
    """The caller asked to stop before there was anything to keep."""


class Written(NamedTuple):
    """The number of frames in a result, the frame that movement was measured from if one was chosen, and the
    keypoints of the driving frames as they were found, (1, K, ...) each."""

    frames: int
    best_frame: int | None
    keypoints: list[Keypoints]


@dataclass(frozen=True)
class Source:
    """The pictures to animate, one for each face.

    `pictures`: (H, W, 3) uint8. `large`: the same as (N, M, 3), for results of that size. `paste` makes a
    frame of the result of the animated pictures; without it there is one picture, which is the frame.
    """

    pictures: Sequence[np.ndarray]
    large: Sequence[np.ndarray] | None = None
    paste: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None


def cut_source(
    picture: np.ndarray, boxes: Sequence[Corners], sizes: tuple[Size, Size | None], how: str
) -> Source:
    """What is animated: the `boxes` of the picture or, where there are none, all of it.

    `sizes`: the model's, and a larger one for the result. `how`: as of `fit`, for a whole picture.
    """

    def cut(size: Size) -> list[np.ndarray]:
        return [cut_out(picture, box, size) for box in boxes] or [fit(picture, size, how)]

    size, large = sizes
    return Source(cut(size), None if large is None else cut(large))


class FittedClip:
    """The frames of a clip in the model's size, (H, W, 3) uint8; each loop reads them anew, one at a time.

    `box` is cut out of each frame; without one, `how` says how all of it gets that size.
    """

    def __init__(self, clip: Clip, size: tuple[int, int], how: str, box: Corners | None = None):
        self.clip, self.size, self.how, self.box = clip, size, how, box
        self.path, self.fps = clip.path, clip.fps

    def __len__(self) -> int:
        return len(self.clip)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._fitted, self.clip)

    def __getitem__(self, number: int) -> np.ndarray:
        return self._fitted(self.clip.read([number])[0])

    def _fitted(self, frame: np.ndarray) -> np.ndarray:
        if self.box is not None:
            return cut_out(frame, self.box, self.size)
        return fit(frame, self.size, self.how)


class SavedMotion:
    """The keypoints of a motion file, (1, K, ...) for each frame, in the place of a driving video.

    Or of a driving video that was read before: `frames`, if they are shown beside the result.
    """

    def __init__(self, motion: Motion, path: Path, frames: FittedClip | None = None):
        self.path, self.fps, self.frames = path, motion.rate, frames
        self.keypoints = [pick(motion.keypoints, i) for i in range(len(motion.keypoints["value"]))]

    def __len__(self) -> int:
        return len(self.keypoints)


Driving = FittedClip | SavedMotion

# ---- From the first frame to the last ------------------------------------------


def write_animation(
    networks: AnyNetworks,
    source: Source | np.ndarray,
    driving: Driving,
    writer: VideoWriter,
    settings: Settings,
    show: Callable[[str, int], Progress] = lambda what, total: Progress(total, what, "frames", quiet=True),
    cancelled: Callable[[], bool] = lambda: False,
    animators: Sequence[Animator] | None = None,
) -> Written:
    """Write the result to its end, or as far as it has come when `cancelled()`.

    `source`: a single picture may be given as it is, (H, W, 3) uint8. `show(what, total)` gives the progress
    bar of each of the passes over the video. `animators`: those of the source, if they were made before.
    Raises `Cancelled` if no frame was written.
    """
    if isinstance(source, np.ndarray):
        source = Source([source])
    animators = animators or make_animators(networks, source, settings)
    best_frame = set_initial_frame(animators, driving, settings, show, cancelled)
    keypoints = Record()
    done = 0
    with (
        show("animation", len(driving)) as progress,
        behind(writer.write, FRAMES_BEHIND) as write,
        detect(animators[0], driving) as found,
    ):
        detected = smoothed(recorded(found, keypoints), driving.fps, settings.smooth)
        for outs in until(cancelled, animate_together(animators, detected)):
            write(result_frame(outs, source, settings.side_by_side))
            progress.advance(1)
            done += 1
    if done == 0:
        raise Cancelled
    writer.finish()
    return Written(done, best_frame, keypoints.first(done))


def make_animators(networks: AnyNetworks, source: Source, settings: Settings) -> list[Animator]:
    """One for each picture, which is encoded once."""
    device = next((weight.device for weight in networks[0].parameters()), torch.device("cpu"))  # an engine's
    large: Sequence[np.ndarray | None] = (
        [None] * len(source.pictures) if source.large is None else source.large
    )
    return [
        Animator(
            *networks,
            to_tensor(picture).unsqueeze(0).to(device),
            transfer(settings.relative, settings.adapt_scale),
            batch_size=settings.batch_size,
            precision=settings.precision,
            large=None if larger is None else to_tensor(larger).unsqueeze(0).to(device),
        )
        for picture, larger in zip(source.pictures, large, strict=True)
    ]


def transfer(relative: bool, adapt_scale: bool) -> dict[str, bool]:
    """The arguments of `normalize_kp`, as in the published demo."""
    return {
        "use_relative_movement": relative,
        "use_relative_jacobian": relative,
        "adapt_movement_scale": adapt_scale,
    }


def animate_together(animators: Sequence[Animator], detected: Iterable[dict]) -> Iterator[tuple[dict, ...]]:
    """The results of all animators for each driving frame, whose keypoints were found once."""
    streams = itertools.tee(detected, len(animators))
    generated = (animator.generate(stream) for animator, stream in zip(animators, streams, strict=True))
    return zip(*generated, strict=True)


def result_frame(outs: Sequence[dict], source: Source, side_by_side: bool) -> np.ndarray:
    """The frame (., ., 3) uint8 that is written for the results of the animators."""
    pieces = [to_pixels(out["prediction"][0]) for out in outs]
    if source.paste is not None:
        return source.paste(pieces)
    if side_by_side:
        shown = ((source.large or source.pictures)[0], to_pixels(outs[0]["driving"][0]))
        pieces = [*(fit(picture, pieces[0].shape[:2], "stretch") for picture in shown), *pieces]
    return np.concatenate(pieces, axis=1)


# ---- Driving keypoints ---------------------------------------------------------


@contextlib.contextmanager
def detect(animator: Animator, driving: Driving) -> Iterator[Iterator[dict]]:
    """ "kp_driving" of each frame as found, with the frame as "driving" where there is one.

    Within the block frames are read ahead.
    """
    if isinstance(driving, SavedMotion):
        yield known_motion(driving)
        return
    with ahead(map(to_tensor, driving), FRAMES_AHEAD) as frames:
        yield animator.detect(frames)


def known_motion(driving: SavedMotion) -> Iterator[dict]:
    if driving.frames is None:
        yield from ({"kp_driving": kp} for kp in driving.keypoints)
        return
    for kp, frame in zip(driving.keypoints, driving.frames, strict=False):  # the end may come early
        yield {"kp_driving": kp, "driving": to_tensor(frame).unsqueeze(0)}


def until(cancelled: Callable[[], bool], items: Iterable[Item]) -> Iterator[Item]:
    for item in items:
        if cancelled():
            return
        yield item


def recorded(detected: Iterable[dict], keypoints: Record) -> Iterator[dict]:
    """The same, while the keypoints are added to a record."""
    for item in detected:
        keypoints.append(item["kp_driving"])
        yield item


def smoothed(detected: Iterator[dict], rate: float, strength: float | None) -> Iterator[dict]:
    """The same with smooth keypoints; a few frames are held for it. None leaves them as they are."""
    if strength is None:
        yield from detected
        return
    items, ahead = itertools.tee(detected)
    for item, kp in zip(items, smooth((item["kp_driving"] for item in ahead), rate, strength), strict=True):
        yield item | {"kp_driving": kp}


def set_initial_frame(
    animators: Sequence[Animator],
    driving: Driving,
    settings: Settings,
    show: Callable[[str, int], Progress],
    cancelled: Callable[[], bool],
) -> int | None:
    """Choose the frame that movement is measured from; returns its number, None for the first that comes.

    With `find_best_frame` it is the one closest in pose to the first picture, for which all are read once.
    The published code then animates forward and backward from there. As each frame depends on the source and
    the initial frame alone, going through them in their order gives the same pictures and needs none in
    memory.
    """
    number = settings.best_frame
    if not settings.relative or (number is None and not settings.find_best_frame):
        return None
    if number is not None and settings.smooth is None and isinstance(driving, FittedClip):
        animators[0].start_from(to_tensor(driving[number]))
    else:
        keypoints = Record()
        with (
            show("best frame", len(driving)) as progress,
            detect(animators[0], driving) as detected,
        ):
            for item in until(cancelled, smoothed(detected, driving.fps, settings.smooth)):
                keypoints.append(item["kp_driving"])
                progress.advance(1)
        if cancelled():
            raise Cancelled
        poses = keypoints.first(keypoints.length)
        number = animators[0].closest(poses) if number is None else number
        animators[0].kp_initial = {
            name: tensor.to(animators[0].source.device) for name, tensor in poses[number].items()
        }
    for animator in animators[1:]:
        animator.kp_initial = animators[0].kp_initial
    return number
