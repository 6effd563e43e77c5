"""The face inside an existing video is animated: each of its frames is a source of its own.

Shapes: `H, W` size that the model takes, `N, M` of a larger result, `T` frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from faces.paste import Paster, calm_border
from faces.regions import Region, cut_out
from inference.animation import (
    Driving,
    SourcePictures,
    Written,
    choose_reference,
    detect,
    make_animators,
    smoothed,
    write_frames,
)
from inference.networks import InferenceNetworks
from inference.options import DemoOptions
from media.clips import Clip
from media.pictures import Size, fit
from media.rates import shown
from media.tensors import to_pixels
from media.writer import VideoWriter
from utils.pipeline import ahead, in_order
from utils.progress import ShowProgress

FRAMES_AHEAD = 4  # that are read before they are animated


class SourceVideo(NamedTuple):
    """A video whose face is animated, in the frames in which it is `present` (T,).

    `region` is cut out of each frame. `size` is that of the result, `factor` times as large as the video's.
    """

    clip: Clip
    region: Region
    present: np.ndarray
    size: Size
    factor: float


def write_source_video(
    networks: InferenceNetworks,
    source: SourceVideo,
    driving: Driving,
    writer: VideoWriter,
    options: DemoOptions,
    sizes: tuple[Size, Size | None],
    show: ShowProgress,
    cancelled: Callable[[], bool],
) -> Written:
    """Write the video with its face animated to the end of the shorter one of the two. Raises `Cancelled`.

    `sizes`: (H, W), and (N, M) or None.
    """
    movement = calm_border(source.region.inner_sides(source.clip.size), sizes[0])
    paster = Paster(source.size, [source.region.scaled(source.factor)])

    def cut(frame: np.ndarray, size: Size) -> list[np.ndarray]:
        return [cut_out(frame, source.region, size)]

    # Relative movement is measured from a pose like that of the first frame with the face.
    first = source.clip.read([int(source.present.argmax())])[0]
    (animator,) = make_animators(networks, SourcePictures(cut(first, sizes[0])), options)
    reference, driving = choose_reference(animator, driving, options, show, cancelled)

    def animated(moment: tuple[np.ndarray, bool, dict]) -> np.ndarray:
        """Make one frame of the result."""
        frame, present, item = moment
        large = None if sizes[1] is None else cut(frame, sizes[1])
        pictures = SourcePictures(cut(frame, sizes[0]), large, [movement])
        frame = fit(frame, source.size, "stretch")
        if not present:
            return frame
        (animator,) = make_animators(networks, pictures, options)
        out = next(animator.generate([item], reference.keypoints))
        before = paster.before(frame, pictures.shown)
        return paster.paste(frame, [to_pixels(out["prediction"][0])], before)

    numbers = at_rate(driving, source.clip)
    with ahead(source.clip, FRAMES_AHEAD) as frames, detect(animator, driving) as found:
        items = smoothed(found, driving.fps, options.smooth, driving.timeline.numbers)
        moments = zip(frames, source.present.tolist(), shown(items, numbers), strict=False)
        results = in_order(animated, moments, animator.source.device)
        done = write_frames(results, len(numbers), writer, show, cancelled)
    return Written(done, reference.number, [])


def at_rate(driving: Driving, clip: Clip) -> np.ndarray:
    """Return which driving frame belongs to each frame of a clip, up to the end of the shorter one: (T,)."""
    times = np.arange(len(clip)) / clip.fps
    numbers = (times * driving.fps + 1e-6).astype(int)
    return driving.timeline.shown[numbers[numbers < len(driving.timeline.shown)]]
