"""Cut faces out of pictures and videos."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg

from faces.boxes import CropBox
from faces.tracks import Track
from media.clips import Clip, StripClip
from media.pictures import Size, fit, write_image
from media.writer import VideoWriter
from utils.errors import UserError
from utils.progress import Progress


def write_crops(
    clip: Clip, tracks: Sequence[Track], boxes: Sequence[CropBox], size: Size, paths: Sequence[Path]
) -> list[str]:
    """Write to each of `paths` the frames of a track, cut to its box and resized to `size` (height, width).

    A .png gets the frame of a photo; a video keeps the sound of its frames. The video is read once. An error
    leaves the crops that were finished before it. Returns lines about sound that is missing. Raises
    `MediaError`.
    """
    # Photos
    if isinstance(clip, StripClip):
        for box, path in zip(boxes, paths, strict=True):
            write_image(path, fit(next(iter(clip)), size, "stretch", box.corners))
        return []
    # Videos, all at the same time
    sound = clip.path if clip.has_audio else None
    writers = [
        VideoWriter(path, clip.fps, sound, audio_start=track.start / clip.fps)
        for path, track in zip(paths, tracks, strict=True)
    ]
    with Progress(len(clip), "cropping", "frames") as progress, contextlib.ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        for number, frame in enumerate(clip):
            for writer, track, box in zip(writers, tracks, boxes, strict=True):
                if track.start <= number < track.end:
                    writer.write(fit(frame, size, "stretch", box.corners))
                if number == track.end - 1:
                    writer.finish()
            progress.advance(1)
    return [writer.audio_note for writer in writers if writer.audio_note is not None]


def ffmpeg_command(
    program: str, clip: Clip, track: Track, box: CropBox, image_shape: tuple[int, int], name: str
) -> str:
    """Return the shell command that cuts `track` out of `clip`, with sound, into the file `name`.

    `image_shape`: (width, height) of the crop.
    """
    # A little early, as a rounded time must not fall behind the frame that is meant.
    start, end = (max(0, number - 0.2) / clip.fps for number in (track.start, track.end))
    crop = f"crop={box.width}:{box.height}:{box.left}:{box.top}, scale={image_shape[0]}:{image_shape[1]}"
    if not clip.has_square_pixels:  # the box lies in the picture as it is shown
        crop = f"scale={clip.size[1]}:{clip.size[0]}, {crop}, setsar=1"
    output = f"./{name}" if name.startswith("-") else name
    times = ["-ss", f"{start:.4f}", "-t", f"{end - start:.4f}"]
    return shlex.join([program, "-i", str(clip.path), *times, "-filter:v", crop, output])


def ffmpeg_program() -> str:
    """Return `ffmpeg` if it is on the PATH, else the path of the one that imageio-ffmpeg brings.

    Raises `UserError` where there is none.
    """
    if shutil.which("ffmpeg"):
        return "ffmpeg"
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:  # its wheel for this platform holds none
        raise UserError(
            "there is no ffmpeg to cut with; install it, or give --out to write the crops"
        ) from error
