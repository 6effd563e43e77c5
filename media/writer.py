"""Write videos, gifs and folders of frames, which appear under their names only when whole."""

from __future__ import annotations

import contextlib
import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from media.clips import open_clip
from media.colours import EXACT, HD_LINES
from media.decoding import MAX_FPS, MIN_FPS
from media.pictures import Size, checked_frame, media_errors, save_picture
from media.sound import created, mux_sound
from utils.errors import MediaError
from utils.files import atomic_write, check_replaceable, temporary_name

# The kinds of file, by FFmpeg's names of their containers.
_CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".gif": "gif"}
_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # by Pillow's names; of a single frame
WRITTEN_SUFFIXES = frozenset({*_CONTAINERS, *_PICTURES})
ALPHA_SUFFIXES = frozenset({".webm", ".mov", ".png", ""})  # of results that may be transparent
MAX_GIF_FPS = 50  # browsers slow a gif with shorter delays down to 10 frames per second

# The YUV matrix by the numbers of swscale and of FFmpeg's encoders.
_BT709, _BT601 = (Colorspace.ITU709, 1), (Colorspace.ITU601, 6)


def check_target(path: Path, fps: float, frames: int | None = None) -> None:
    """Raise `MediaError` if a video of that name, rate and number of frames can't be written."""
    suffix = path.suffix.lower()
    if path.name in ("", ".."):
        raise MediaError(f"{path}: is a folder that can't be replaced; give the name of one in it")
    if suffix not in {*_CONTAINERS, ""} and not (suffix in _PICTURES and frames == 1):
        known, what = (
            ", ".join(_CONTAINERS),
            f"{suffix} of {frames} frames" if suffix in _PICTURES else suffix,
        )
        raise MediaError(f"{path}: {what} can't be written; use {known}, or no suffix for a folder of pngs")
    if not MIN_FPS <= fps <= MAX_FPS:
        raise MediaError(
            f"{path}: can't be written at {fps} frames per second; use a number from {MIN_FPS} to {MAX_FPS}"
        )
    check_replaceable(path)
    if suffix and path.is_dir():
        raise MediaError(f"{path}: is a folder; choose another name")
    is_ours = path.is_dir() and all(re.fullmatch(r"\d{7}\.png", entry.name) for entry in path.iterdir())
    if not suffix and path.exists() and not is_ours:
        raise MediaError(f"{path}: exists and is not a folder of numbered pngs; choose another name")
    probe = temporary_name(path)
    with media_errors(path, "check that its folder exists and is writable"):
        probe.touch()
        probe.unlink()


class VideoWriter:
    """Write frames to a video, a .gif, a picture, or (without suffix) a folder of pngs from 0000000 on.

        with VideoWriter("out.mp4", fps=25, audio_from="driving.mp4") as writer:
            for frame in frames:
                writer.write(frame)  # (H, W, 3) uint8, or with alpha 4; one shape for the whole video

    The result appears under its name only when it is whole. An exception in the block discards it, unless
    `finish()` was called, which keeps the frames written so far. .mp4, .mov and .mkv are H.264, .webm is VP9:
    odd sides are padded by repeating the last row or column. Those of `ALPHA_SUFFIXES` take alpha; such a
    .mov is ProRes 4444.

    A picture has 1 for `frames`. `audio_from`: a video whose sound goes along, from `audio_start` seconds
    after its picture begins. After the block `audio_note` says why there is no sound, or is None. Raises
    `MediaError`.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        audio_from: str | Path | None = None,
        audio_start: float = 0,
        frames: int | None = None,
    ):
        self.path = Path(path)
        self.audio_note: str | None = None
        check_target(self.path, fps, frames)
        self._fps = Fraction(float(fps)).limit_denominator(1001)
        self._audio_from, self._audio_start = self._checked_audio(audio_from), audio_start
        self._temporary = temporary_name(self.path)
        # Opened with the first frame, which tells the size.
        self._output: _VideoOutput | _PicturesOutput | None = None
        self._finished = False

    def _checked_audio(self, source: str | Path | None) -> Path | None:
        """Return `source` if its sound can be carried over, else None, with a note."""
        if source is None:
            return None
        if self.path.suffix.lower() in {*_PICTURES, ".gif", ""}:
            self.audio_note = f"{self.path}: has no sound, only .mp4, .mov, .mkv and .webm can hold it"
            return None
        try:
            has_audio = open_clip(source).has_audio
        except MediaError as error:
            self.audio_note = f"{self.path}: has no sound: {error}"
            return None
        if not has_audio:
            self.audio_note = f"{self.path}: has no sound, because {source} has none"
            return None
        return Path(source)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.finish()
        elif not self._finished:
            self._discard()

    def write(self, frame: np.ndarray) -> None:
        """Append `frame` (H, W, 3) uint8. Raises `ValueError` for another kind or size than before."""
        frame = checked_frame(frame, (3, 4) if self.path.suffix.lower() in ALPHA_SUFFIXES else (3,))
        with media_errors(self.path, "check the space left on its disk"):
            if self._output is None:
                self._output = self._open_output(frame.shape[:2], frame.shape[2] == 4)
            if frame.shape[:2] != self._output.size:
                raise ValueError(
                    f"{self.path}: frame of size {frame.shape[:2]} in a video of size {self._output.size}"
                )
            self._output.write(frame)

    def _open_output(self, size: Size, has_alpha: bool) -> _VideoOutput | _PicturesOutput:
        suffix = self.path.suffix.lower()
        if suffix not in _CONTAINERS:
            return _PicturesOutput(self._temporary, size, _PICTURES.get(suffix))
        if suffix == ".gif":
            return _GifOutput(self._temporary, size, self._fps)
        return _YuvOutput(self._temporary, size, self._fps, _CONTAINERS[suffix], has_alpha)

    def finish(self) -> None:
        """Complete the file with the frames written so far and give it its name, unless done before."""
        if self._finished:
            return
        if self._output is None:
            raise MediaError(f"{self.path}: no frame was written; give at least one")
        try:
            with media_errors(self.path, "check the space left on its disk"):
                self._output.close()
                if self._audio_from is not None:
                    self._add_sound(self._audio_from)
                _put_in_place(self._temporary, self.path)
                self._finished = True
        finally:
            self._discard()

    def _add_sound(self, source: Path) -> None:
        try:
            with atomic_write(self._temporary) as with_sound:
                container = _CONTAINERS[self.path.suffix.lower()]
                mux_sound(self._temporary, source, with_sound, container, self._audio_start)
        except Exception as error:  # whatever is wrong with the sound, the picture is kept
            self.audio_note = f"{self.path}: has no sound, that of {source} can't be carried over ({error})"

    def _discard(self) -> None:
        if self._output is not None:
            self._output.abandon()
        _remove(self._temporary)


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.is_dir():
        temporary.replace(path)
        return
    # A folder can't be replaced. This one is known to hold only frames of an earlier run.
    earlier = temporary_name(path)
    path.rename(earlier)
    try:
        temporary.rename(path)
    except OSError:
        earlier.rename(path)
        raise
    _remove(earlier)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---- Kinds of output --------------------------------------------------------


class _PicturesOutput:
    """A folder of pngs, or one picture of a `kind`."""

    def __init__(self, path: Path, size: Size, kind: str | None):
        self._path, self.size, self._kind, self._count = path, size, kind, 0
        if kind is None:
            path.mkdir()

    def write(self, frame: np.ndarray) -> None:
        place = self._path / f"{self._count:07d}.png" if self._kind is None else self._path
        save_picture(place, frame, self._kind or "PNG")
        self._count += 1

    def close(self) -> None:
        """Every frame is on disk already."""

    def abandon(self) -> None:
        """No file is open."""


class _VideoOutput:
    """A file with one video stream, encoded as the frames come."""

    def __init__(
        self, path: Path, size: Size, fps: Fraction, container: str, codec: str, options: dict[str, str]
    ):
        self.size, self._fps, self._count = size, fps, 0
        self._container = created(path, container)
        self._stream = cast(av.VideoStream, self._container.add_stream(codec, rate=fps, options=options))
        self._stream.height, self._stream.width = size

    def _picture(self, frame: np.ndarray) -> av.VideoFrame:
        raise NotImplementedError

    def write(self, frame: np.ndarray) -> None:
        picture = self._picture(frame)
        picture.pts, picture.time_base = self._count, 1 / self._fps
        self._count += 1
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._container.close()


class _YuvOutput(_VideoOutput):
    """A video in the range and colour matrix of video; most have colours at half the resolution."""

    def __init__(self, path: Path, size: Size, fps: Fraction, container: str, has_alpha: bool):
        codec, pixels, options = "libx264", "yuv420p", {"crf": "18"}
        if container == "matroska":  # it keeps no decoding times, which sound is interleaved by
            options["bf"] = "0"
        if container == "webm":  # constant quality, at a speed that keeps up with the networks
            codec, pixels = "libvpx-vp9", "yuva420p" if has_alpha else "yuv420p"
            options = {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6", "auto-alt-ref": "0"}
        elif has_alpha:
            codec, pixels, options = "prores_ks", "yuva444p10le", {"profile": "4444"}
        super().__init__(path, size, fps, container, codec, options)
        self._stream.height, self._stream.width = (side + side % 2 for side in size)
        self._stream.pix_fmt = pixels
        # What readers assume of a video of that size whose tags they do not look at.
        context = self._stream.codec_context
        self._matrix, context.colorspace = _BT709 if size[0] >= HD_LINES else _BT601
        context.color_range = ColorRange.MPEG
        context.color_trc, context.color_primaries = ColorTrc.BT709, ColorPrimaries.BT709
        self._reformatter = VideoReformatter()

    def _picture(self, frame: np.ndarray) -> av.VideoFrame:
        height, width = self.size
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        return self._reformatter.reformat(
            av.VideoFrame.from_ndarray(padded, format="rgba" if frame.shape[2] == 4 else "rgb24"),
            format=self._stream.pix_fmt,
            dst_colorspace=self._matrix,
            dst_color_range=ColorRange.MPEG,
            interpolation=EXACT,
            threads=1,
        )


class _GifOutput(_VideoOutput):
    """A gif with a palette a frame."""

    def __init__(self, path: Path, size: Size, fps: Fraction):
        super().__init__(path, size, min(fps, Fraction(MAX_GIF_FPS)), "gif", "gif", {})
        self._stream.pix_fmt = "pal8"
        self._palette = _palette_graph(size, self._fps)

    def _picture(self, frame: np.ndarray) -> av.VideoFrame:
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts, picture.time_base = self._count, 1 / self._fps
        self._palette.vpush(picture)
        return self._palette.vpull()


def _palette_graph(size: Size, fps: Fraction) -> av.filter.Graph:
    """Build a filter from RGB frames to frames of 256 colours, chosen frame by frame so that none is kept."""
    height, width = size
    graph = av.filter.Graph()
    source = graph.add(
        "buffer", video_size=f"{width}x{height}", pix_fmt="rgb24", time_base=str(1 / fps), pixel_aspect="1/1"
    )
    split, choose = graph.add("split"), graph.add("palettegen", "stats_mode=single")
    apply, sink = graph.add("paletteuse", "new=1"), graph.add("buffersink")
    graph.link_nodes(source, split, apply, sink)  # the frame itself
    split.link_to(choose, 1, 0)  # its palette
    choose.link_to(apply, 0, 1)
    graph.configure()
    return graph
