"""The loop that animates: pictures and the frames of a driving video become the frames of a result.

Shapes: `H, W` size that the model takes, `N, M` size of a larger result, `K` keypoints.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from faces.regions import Region, cut_out
from inference.animator import Animator, item_of
from inference.motion import Record, load_motion, smooth
from inference.networks import InferenceNetworks
from inference.options import DemoOptions
from media.clips import Clip
from media.pictures import Size, fit, lift_off_white
from media.rates import shown
from media.tensors import to_pixels, to_tensor
from media.writer import VideoWriter
from modules.util import Keypoints
from utils.pipeline import ahead, behind
from utils.progress import Cancelled, ShowProgress, no_bar

FRAMES_AHEAD = 4  # that are read, in the model's size, before the networks need them
FRAMES_BEHIND = 4  # that wait for the encoder

# ---- What moves ----------------------------------------------------------------


@dataclass(frozen=True)
class SourcePictures:
    """The pictures to animate, one for each face of a source.

    `pictures`: (H, W, 3) uint8. `large`: the same as (N, M, 3), for results of that size. `movements`:
    float32 (H, W) in [0, 1] each, how much of the motion is kept. `paste` makes a frame of the result of the
    animated pictures; without it there is one picture, which is the frame. `matte`: the same of a picture
    that is grey where this one is transparent, if it is.
    """

    pictures: Sequence[np.ndarray]
    large: Sequence[np.ndarray] | None = None
    movements: Sequence[np.ndarray] | None = None
    paste: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None
    matte: SourcePictures | None = None

    @property
    def shown(self) -> Sequence[np.ndarray]:
        """The pictures in the size of the result."""
        return self.large or self.pictures


def transfer(relative: bool, adapt_scale: bool, strength: float = 1.0) -> dict[str, Any]:
    """Return the arguments of `normalize_kp`, as in the published demo."""
    return {
        "use_relative_movement": relative,
        "use_relative_jacobian": relative,
        "adapt_movement_scale": adapt_scale,
        "strength": strength,
    }


def make_animators(
    networks: InferenceNetworks, source: SourcePictures, options: DemoOptions
) -> list[Animator]:
    """Encode each picture once."""
    device = next(networks[0].parameters()).device
    nothing = [None] * len(source.pictures)
    mattes = nothing if source.matte is None else source.matte.shown
    rows = zip(source.pictures, source.large or nothing, source.movements or nothing, mattes, strict=True)
    return [
        Animator(
            *networks,
            to_tensor(picture).unsqueeze(0).to(device),
            transfer(options.relative, options.adapt_scale, options.strength),
            batch_size=options.batch_size,
            precision=options.precision,
            large=None if larger is None else to_tensor(larger).unsqueeze(0).to(device),
            movement=None if movement is None else torch.from_numpy(movement)[None, None].to(device),
            alpha=None if matte is None else to_tensor(matte[..., :1]).unsqueeze(0).to(device),
        )
        for picture, larger, movement, matte in rows
    ]


# ---- What moves it -------------------------------------------------------------


class Timeline(NamedTuple):
    """Which frames of a driving video move something, and which of these is shown when.

    `numbers` (P,): their sorted numbers in the video. `shown` (T,): for each frame of the result a place in
    `numbers`, in order. `start`: the number of the frame with which the result begins.
    """

    numbers: np.ndarray
    shown: np.ndarray
    start: int = 0

    @classmethod
    def whole(cls, length: int) -> Timeline:
        return cls(np.arange(length), np.arange(length))

    @classmethod
    def of_face(cls, present: np.ndarray, cut: bool) -> Timeline:
        """Hold the last pose where the face is not `present` (T,), and the first one before it.

        `cut` leaves out what comes before the first and after the last frame with the face.
        """
        numbers = np.flatnonzero(present)
        shown = (np.cumsum(present) - 1).clip(0)
        if not cut:
            return cls(numbers, shown)
        return cls(numbers, shown[numbers[0] : numbers[-1] + 1], int(numbers[0]))

    def place_of(self, number: int) -> int:
        """Return the place of the frame that stands for frame `number` of the video."""
        return int(np.abs(self.numbers - number).argmin())


class FittedClip:
    """The frames of a clip that move something, (3, H, W) in [0, 1]; each loop reads them anew.

    `region` is cut out of each frame; without one, `how` says how all of it gets `size`. `timeline` tells
    which frames these are.
    """

    def __init__(
        self,
        clip: Clip,
        size: Size,
        how: str,
        region: Region | None = None,
        timeline: Timeline | None = None,
    ):
        self.clip, self.size, self.how, self.region = clip, size, how, region
        self.timeline = timeline or Timeline.whole(len(clip))
        self.fps = clip.fps

    def __len__(self) -> int:
        return len(self.timeline.numbers)

    def __iter__(self) -> Iterator[Tensor]:
        if len(self) == len(self.clip):
            return map(self._fitted, self.clip)
        return (self._fitted(frame) for _, frame in self.clip.chosen(self.timeline.numbers.tolist()))

    def __getitem__(self, place: int) -> Tensor:
        return self._fitted(self.clip.read([self.timeline.numbers[place]])[0])

    def _fitted(self, frame: np.ndarray) -> Tensor:
        if self.region is not None:
            return to_tensor(cut_out(frame, self.region, self.size))
        return to_tensor(fit(frame, self.size, self.how))


@dataclass(frozen=True)
class KnownMotion:
    """The keypoints (1, K, ...) of the frames of a driving video, from a motion file or found before.

    `frames` (3, H, W) are needed where they are shown beside the result.
    """

    keypoints: Sequence[Keypoints]
    fps: float
    timeline: Timeline
    frames: Iterable[Tensor] | None = None
    start: float = 0.0  # as of `Clip`

    @classmethod
    def read(cls, path: Path, fingerprint: str, config: dict) -> KnownMotion:
        """Read a motion file of the model with a fingerprint and a config. Raises `MediaError`."""
        params = config["model_params"]["common_params"]
        shapes: dict[str, tuple[int, ...]] = {"value": (params["num_kp"], 2)}
        if params.get("estimate_jacobian", False):
            shapes["jacobian"] = (params["num_kp"], 2, 2)
        motion = load_motion(path, fingerprint, shapes)
        frames = range(len(motion.keypoints["value"]))
        return cls([item_of(motion.keypoints, i) for i in frames], motion.rate, Timeline.whole(len(frames)))

    def __len__(self) -> int:
        return len(self.keypoints)

    def items(self) -> Iterator[dict]:
        """Yield what `Animator.detect` would."""
        if self.frames is None:
            yield from ({"kp_driving": kp} for kp in self.keypoints)
            return
        for kp, frame in zip(self.keypoints, self.frames, strict=False):  # the end may come early
            yield {"kp_driving": kp, "driving": frame.unsqueeze(0)}


Driving = FittedClip | KnownMotion


@contextlib.contextmanager
def detect(animator: Animator, driving: Iterable[Tensor] | KnownMotion) -> Iterator[Iterator[dict]]:
    """Find the keypoints of each frame, and read frames ahead within the block."""
    if isinstance(driving, KnownMotion):
        yield driving.items()
        return
    with ahead(driving, FRAMES_AHEAD) as frames:
        yield animator.detect(frames)


def analyse(
    animator: Animator,
    driving: FittedClip,
    options: DemoOptions,
    show: ShowProgress,
    cancelled: Callable[[], bool],
    what: str = "best frame",
) -> KnownMotion:
    """Find the keypoints of all frames before any is animated. Raises `Cancelled`."""
    record = Record()
    with show(what, len(driving)) as progress, detect(animator, driving) as found:
        for item in itertools.takewhile(lambda _: not cancelled(), found):
            record.append(item["kp_driving"])
            progress.advance(1)
    if cancelled():
        raise Cancelled
    frames = driving if options.side_by_side else None
    return KnownMotion(record.first(record.length), driving.fps, driving.timeline, frames)


# ---- The loop ------------------------------------------------------------------


class Reference(NamedTuple):
    """The frame that relative movement is measured from; without keypoints it is the first that comes."""

    number: int | None = None
    keypoints: Keypoints | None = None


def choose_reference(
    animator: Animator,
    driving: Driving,
    options: DemoOptions,
    show: ShowProgress = no_bar,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[Reference, Driving]:
    """Choose the reference frame; of a video that was read for it, return the motion in its place.

    With `find_best_frame` it is the frame closest in pose to the source. The published code then animates
    forward and backward from there. As each frame depends on the source and the reference alone, going
    through them in their order gives the same pictures and needs none in memory.
    """
    if not options.measured_elsewhere:
        return Reference(), driving
    timeline = driving.timeline
    place = None if options.best_frame is None else timeline.place_of(options.best_frame)
    if isinstance(driving, FittedClip):
        if place is not None and options.smooth is None:
            return Reference(options.best_frame, animator.find(driving[place])), driving
        driving = analyse(animator, driving, options, show, cancelled)

    # A smoothed frame, or the one closest in pose, takes them all.
    known = ({"kp_driving": kp} for kp in driving.keypoints)
    poses = [item["kp_driving"] for item in smoothed(known, driving.fps, options.smooth, timeline.numbers)]
    if place is None:
        place = min(range(len(poses)), key=lambda i: animator.pose_distance(poses[i]))
    return Reference(int(timeline.numbers[place]), poses[place]), driving


def recorded(detected: Iterable[dict], record: Record) -> Iterator[dict]:
    """Pass items through and record their keypoints."""
    for item in detected:
        record.append(item["kp_driving"])
        yield item


def smoothed(
    detected: Iterator[dict], rate: float, strength: float | None, numbers: Iterable[int] | None = None
) -> Iterator[dict]:
    """Pass items through with smooth keypoints, holding a few; without a strength as they are."""
    if strength is None:
        yield from detected
        return
    items, coming = itertools.tee(detected)
    keypoints = (item["kp_driving"] for item in coming)
    for item, kp in zip(items, smooth(keypoints, rate, strength, numbers), strict=True):
        yield item | {"kp_driving": kp}


# ---- What is written -----------------------------------------------------------


class Written(NamedTuple):
    """What a result holds.

    The number of its frames, that of the frame which movement was measured from if one was chosen, and the
    keypoints (1, K, ...) of the driving frames as they were found.
    """

    frames: int
    best_frame: int | None
    keypoints: list[Keypoints]


def write_animation(
    animators: Sequence[Animator],
    source: SourcePictures,
    driving: Driving,
    writer: VideoWriter,
    options: DemoOptions,
    show: ShowProgress = no_bar,
    cancelled: Callable[[], bool] = lambda: False,
    what: str = "animation",
) -> Written:
    """Write the result to its end, or as far as it has come when `cancelled()`.

    `animators`: of `make_animators`. `show` gives the progress bar of each pass over the video. Raises
    `Cancelled` if no frame was written.
    """
    reference, driving = choose_reference(animators[0], driving, options, show, cancelled)

    # Reading, computing and encoding run at the same time. What is held is what smoothing and batches need.
    record, timeline = Record(), driving.timeline
    with detect(animators[0], driving) as found:
        poses = smoothed(recorded(found, record), driving.fps, options.smooth, timeline.numbers)
        moved = zip(animators, itertools.tee(poses, len(animators)), strict=True)
        results = zip(
            *(animator.generate(items, reference.keypoints) for animator, items in moved), strict=True
        )
        frames = (result_frame(outs, source, options.side_by_side) for outs in shown(results, timeline.shown))
        done = write_frames(frames, len(timeline.shown), writer, show, cancelled, what)
    keypoints = record.first(record.length)
    return Written(done, reference.number, [keypoints[place] for place in timeline.shown[:done]])


def write_frames(
    frames: Iterable[np.ndarray],
    total: int,
    writer: VideoWriter,
    show: ShowProgress,
    cancelled: Callable[[], bool],
    what: str = "animation",
) -> int:
    """Write frames to their end, or until `cancelled()`; return how many. Raises `Cancelled` if none."""
    done = 0
    with show(what, total) as progress, behind(writer.write, FRAMES_BEHIND) as write:
        for frame in itertools.takewhile(lambda _: not cancelled(), frames):
            write(frame)
            progress.advance(1)
            done += 1
    if done == 0:
        raise Cancelled
    writer.finish()
    return done


def result_frame(outs: Sequence[dict], source: SourcePictures, side_by_side: bool) -> np.ndarray:
    """Make the frame (., ., 3) uint8, or 4 with alpha, that is written of the results of the animators."""
    pieces = [to_pixels(out["prediction"][0]) for out in outs]
    frame = pieces[0] if source.paste is None else source.paste(pieces)
    if source.matte is not None:
        mattes = [to_pixels(out["deformed"][0, -1:].expand(3, -1, -1)) for out in outs]
        alpha = mattes[0] if source.matte.paste is None else source.matte.paste(mattes)
        return lift_off_white(frame, alpha[..., 0])
    if side_by_side:
        shown = (source.shown[0], to_pixels(outs[0]["driving"][0]))
        return np.hstack([*(fit(picture, frame.shape[:2], "stretch") for picture in shown), frame])
    return frame
