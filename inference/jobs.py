"""From pictures and driving videos to results: what is cut, which pairs are animated, what is pasted back.

`demo.py` and the page both call this. Command line and widgets are theirs.

Shapes: `H, W` size that the model takes, `N, M` of a larger result.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from checkpoints.table import DEFAULT_MODEL
from faces.choose import NoFaceError
from faces.cuts import Cuts, cuts_of_source, cuts_of_video, preview_of
from faces.paste import Paster, calm_border
from faces.regions import Region, cut_out
from faces.yunet import FaceDetector
from inference.animation import (
    Driving,
    FittedClip,
    KnownMotion,
    SourcePictures,
    Timeline,
    Written,
    analyse,
    make_animators,
    write_animation,
)
from inference.inputs import NO_CLIPS, Clips, DemoPair, in_folder
from inference.networks import InferenceNetworks, larger_size
from inference.options import DemoOptions
from inference.samples import SAMPLE
from inference.source_video import SourceVideo, at_rate, write_source_video
from media.clips import Clip
from media.pictures import Size, fit, read_alpha, read_image, write_image
from media.rates import repeated
from media.writer import ALPHA_SUFFIXES, VideoWriter
from utils.errors import UserError
from utils.hints import hint, warn
from utils.kept import Kept
from utils.progress import ShowProgress

MAX_ENLARGED = 2  # times that a face is enlarged without a hint
SURELY_REAL = 0.9  # score of a face; of 60 puppets none got more than 0.892

CUTS = Kept[Cuts](most=16)  # of videos

Paste = Callable[[Sequence[np.ndarray]], np.ndarray]  # animated pieces -> a frame of the result


@dataclass(frozen=True)
class Job:
    """How results are made.

    `sizes`: (H, W), and (N, M) or None. `detect` is there where it is needed. `drivings`: what moves, by the
    paths of pairs. `background`: what is pasted into, if not the picture itself. `source_clip`: the video
    whose face is animated, if there is no picture.
    """

    options: DemoOptions
    sizes: tuple[Size, Size | None]
    detect: FaceDetector | None
    drivings: Mapping[Path, Clip | KnownMotion]
    background: Clip | None
    source_clip: Clip | None

    @property
    def painted(self) -> Size:
        """The size of what the networks paint."""
        return self.sizes[1] or self.sizes[0]


def make_job(options: DemoOptions, size: Size, clips: Clips = NO_CLIPS) -> Job:
    """Prepare what the options need beside networks of `size` (H, W). Raises `UserError`."""
    detect = FaceDetector() if options.crop or options.fit == "crop" else None
    return Job(options, (size, larger_size(size, options.size)), detect, *clips)


def check_best_frame(number: int | None, driving: Clip | Driving, path: Path) -> None:
    """Raise `UserError` for a number that no frame has."""
    if number is not None and not 0 <= number < len(driving):
        raise UserError(f"--best_frame {number}: {path} has the frames 0 to {len(driving) - 1}")


# ---- Regions -----------------------------------------------------------------


class Places(NamedTuple):
    """What will be cut out of each source and driving video, and where that goes in the background."""

    sources: Mapping[Path, Cuts]
    drivings: Mapping[Path, Cuts]
    background: list[Region]


def source_cuts(path: Path, picture: np.ndarray, job: Job) -> Cuts:
    """Find what to cut out of the picture (h, w, 3) that lies at `path`. Raises `UserError`."""
    return cuts_of_source(picture, path, job.sizes[0], job.options, job.detect)


def driving_cuts(clip: Clip, job: Job, show: ShowProgress) -> Cuts:
    """Find what to cut out of all frames of a driving video. Raises `UserError`."""
    return cuts_of_video(clip, job.sizes[0], job.options, "crop_driving", job.detect, show)


def known_cuts(clip: Clip, job: Job, show: ShowProgress) -> Cuts:
    """Do what `driving_cuts` does, unless it was done before.

    For files that stay as they are, like uploads to the page, whose paths name their content.
    """
    options = job.options
    part = job.sizes[0], options.start, options.end
    key = clip.path, *part, options.fit, options.crop, options.crop_driving
    return CUTS.get(key, lambda: driving_cuts(clip, job, show))


SearchVideo = Callable[[Clip, Job, ShowProgress], Cuts]


def find_places(
    sources: Iterable[Path], job: Job, show: ShowProgress, search: SearchVideo = driving_cuts
) -> Places:
    """Find all that will be cut, before anything is computed. Raises `UserError`.

    `search`: how driving videos are. Of several sources, those without a face are left out with a warning.
    """
    found: dict[Path, Cuts] = {}
    faceless = []
    if job.source_clip is not None:
        clip, sources = job.source_clip, ()
        found[clip.path] = cuts_of_video(clip, job.sizes[0], job.options, "crop_source", job.detect, show)
    for path in sources:
        try:
            found[path] = cuts_with_hints(path, job)
        except NoFaceError as error:
            faceless.append(error)
    if not found or (faceless and not in_folder(job.options)):
        raise faceless[0]
    for reason in faceless:
        warn(str(reason))
    background: list[Region] = []
    if job.background is not None:
        clip = job.background
        background = source_cuts(clip.path, next(iter(clip)), job).regions
        faces, most = max(
            ((len(cuts.regions), path) for path, cuts in found.items()), key=lambda pair: pair[0]
        )
        if len(background) < faces:
            raise UserError(
                f"--background {clip.path}: has a place for {len(background)} of the {faces} "
                f"faces of {most}; choose one with --face"
            )
    clips = [driving for driving in job.drivings.values() if isinstance(driving, Clip)]
    return Places(found, {clip.path: search(clip, job, show) for clip in clips}, background)


def cuts_with_hints(path: Path, job: Job) -> Cuts:
    """Find what to cut out of a source, and say where that will not look well."""
    picture, options = read_image(path), job.options
    cuts = source_cuts(path, picture, job)
    ships = options.model in (None, DEFAULT_MODEL) and options.checkpoint in (None, SAMPLE["checkpoint"])
    if ships and cuts.surest >= SURELY_REAL:
        hint(
            f"{path} shows a real face, and this model was trained on cartoon heads; --model vox was "
            "trained on faces"
        )
    _, factor = limited(picture.shape[:2], options.max_side)
    largest = max((factor * region.height for region in cuts.regions), default=0)
    painted = job.painted[0]
    if options.paste_back and largest > MAX_ENLARGED * painted:
        hint(
            f"{path}: a face of {painted} pixels is enlarged to {largest:.0f} and looks soft; "
            f"--size {2 * painted} paints it larger"
        )
    return cuts


def write_preview(path: Path, sources: Iterable[Path], job: Job, show: ShowProgress) -> None:
    """Draw what will be cut out of each source and each driving video, and where it goes in the background.

    Of a video it is the first frame that shows the face.
    """
    pictures, cuts = [], []
    for source in sources:
        pictures.append(read_image(source))
        cuts.append(source_cuts(source, pictures[-1], job))
    videos = [(clip, "crop_driving") for clip in job.drivings.values() if isinstance(clip, Clip)]
    if job.source_clip is not None:
        videos.insert(0, (job.source_clip, "crop_source"))
    for clip, by_hand in videos:
        cuts.append(cuts_of_video(clip, job.sizes[0], job.options, by_hand, job.detect, show))
        present = cuts[-1].present
        pictures.append(clip.read([0 if present is None else int(present.argmax())])[0])
    if job.background is not None:
        pictures.append(next(iter(job.background)))
        cuts.append(source_cuts(job.background.path, pictures[-1], job))
    write_image(path, preview_of(pictures, cuts, job.sizes[0]))


# ---- Results -----------------------------------------------------------------


class Done(NamedTuple):
    """What was written where, of how many expected frames, in how many seconds, and why there is no sound."""

    pair: DemoPair
    written: Written
    expected: int
    fps: float
    seconds: float
    audio_note: str | None

    @property
    def figures(self) -> str:
        frames = self.written.frames
        return f"{frames} frames in {self.seconds:.1f} s, {frames / max(self.seconds, 1e-9):.1f} frames/s"


def write_results(
    networks: InferenceNetworks,
    pairs: Iterable[DemoPair],
    several: bool,
    job: Job,
    places: Places,
    show: ShowProgress,
    cancelled: Callable[[], bool],
) -> Iterator[Done]:
    """Animate pairs and write their results; yield each when it is there, before the next pair is taken.

    Neighbours with one source encode it once. Of `several` pairs each driving video is analysed once, and its
    motion kept; a single one is animated as it is read. When `cancelled()`, the result ends with the frames
    that are done. Raises `UserError`, and `Cancelled` if there are none.
    """
    if job.source_clip is not None:
        for pair in pairs:
            yield write_video(networks, pair, job.source_clip, job, places, show, cancelled)
        return
    motions: dict[Path, KnownMotion] = {}
    for path, neighbours in itertools.groupby(pairs, key=lambda pair: pair.source):
        first = next(neighbours)
        source, matte = source_of(path, read_image(path), job, places), matte_of(first, job)
        if matte is not None:
            source = replace(source, matte=source_of(path, matte, job, places))
        animators = make_animators(networks, source, job.options)
        for pair in itertools.chain([first], neighbours):
            driving = motions.get(pair.driving) or driving_of(pair.driving, job, places)
            if several and isinstance(driving, FittedClip):
                what = f"motion of {pair.driving.name}"
                driving = analyse(animators[0], driving, job.options, show, cancelled, what)
                motions[pair.driving] = driving
            if job.background is not None:
                source = replace(source, paste=paste_into(job.background, path, job, places, driving.fps))
            sound = pair.driving if job.options.audio else None
            start = job.drivings[pair.driving].start + driving.timeline.start / driving.fps
            frames = len(driving.timeline.shown)
            with VideoWriter(pair.result, driving.fps, sound, start, frames) as writer:
                started = time.monotonic()
                written = write_animation(
                    animators,
                    source,
                    driving,
                    writer,
                    job.options,
                    show,
                    cancelled,
                    pair.result.name if several else "animation",
                )
            seconds = time.monotonic() - started
            yield Done(pair, written, frames, driving.fps, seconds, writer.audio_note)


def write_video(
    networks: InferenceNetworks,
    pair: DemoPair,
    clip: Clip,
    job: Job,
    places: Places,
    show: ShowProgress,
    cancelled: Callable[[], bool],
) -> Done:
    """Animate the face inside a video and write the result, with the sound of either."""
    driving, video = driving_of(pair.driving, job, places), places.sources[clip.path]
    present = np.ones(len(clip), bool) if video.present is None else video.present
    source = SourceVideo(clip, video.regions[0], present, *limited(clip.size, job.options.max_side))
    sound = pair.driving if job.options.audio else clip.path if clip.has_audio else None
    start = job.drivings[pair.driving].start if job.options.audio else 0
    with VideoWriter(pair.result, clip.fps, sound, audio_start=start) as writer:
        started = time.monotonic()
        written = write_source_video(
            networks, source, driving, writer, job.options, job.sizes, show, cancelled
        )
    seconds, expected = time.monotonic() - started, len(at_rate(driving, clip))
    return Done(pair, written, expected, clip.fps, seconds, writer.audio_note)


def source_of(path: Path, picture: np.ndarray, job: Job, places: Places) -> SourcePictures:
    """Cut what is animated out of the picture (h, w, 3) that lies at `path`."""
    regions, (size, large) = places.sources[path].regions, job.sizes

    def cut(size: Size) -> list[np.ndarray]:
        pieces = [cut_out(picture, region, size) for region in regions]
        return pieces or [fit(picture, size, job.options.fit)]

    source = SourcePictures(cut(size), None if large is None else cut(large))
    if not job.options.paste_back:
        return source
    # What is pasted back must fit what lies around it.
    inner = [region.inner_sides(picture.shape[:2]) for region in regions]
    source = replace(source, movements=[calm_border(sides, job.sizes[0]) for sides in inner])
    if job.background is not None:
        return source
    whole, factor = limited(picture.shape[:2], job.options.max_side)
    under = fit(picture, whole, "stretch")
    paster = Paster(whole, [region.scaled(factor) for region in regions])
    before = paster.before(under, [cut_out(under, region, job.painted) for region in paster.regions])
    return replace(source, paste=functools.partial(paster.paste, under, before=before))


def matte_of(pair: DemoPair, job: Job) -> np.ndarray | None:
    """Return how opaque a source is, as a grey picture (h, w, 3), where its result can be transparent."""
    opaque = job.options.side_by_side or job.background is not None
    if opaque or pair.result.suffix.lower() not in ALPHA_SUFFIXES:
        return None
    alpha = read_alpha(pair.source)
    return None if alpha is None else np.repeat(alpha[..., None], 3, axis=2)


def driving_of(path: Path, job: Job, places: Places) -> Driving:
    """Return a driving video in the size of the model, or the motion that stands for one."""
    driving = job.drivings[path]
    if isinstance(driving, KnownMotion):
        return driving
    cuts = places.drivings[driving.path]
    timeline = None if cuts.present is None else Timeline.of_face(cuts.present, job.options.lost == "cut")
    return FittedClip(driving, job.sizes[0], job.options.fit, next(iter(cuts.regions), None), timeline)


def paste_into(background: Clip, path: Path, job: Job, places: Places, fps: float) -> Paste:
    """Return what makes frames of a result, at `fps`, of the animated pieces of the picture at `path`."""
    size, factor = limited(background.size, job.options.max_side)
    regions = places.background[: len(places.sources[path].regions)]
    paste = Paster(size, [region.scaled(factor) for region in regions]).paste
    frames = repeated(background, fps)
    return lambda pieces: paste(fit(next(frames), size, "stretch"), pieces)


def limited(size: Size, longest: int) -> tuple[Size, float]:
    """Return the size of a picture whose longer side is at most `longest` (0: any), and the factor to it."""
    factor = min(1.0, longest / max(size)) if longest else 1.0
    height, width = (max(2, round(side * factor / 2) * 2) if factor < 1 else side for side in size)
    return (height, width), factor
