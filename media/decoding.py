"""The index of a video's `N` frames, and decoding from a keyframe. Times are in ticks of the time base."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

# PyAV, because it seeks inside one process: two frames of a clip cost a fraction of decoding it.
# imageio-ffmpeg pays for a new process at each seek.
import av
import numpy as np
from av.buffer import Buffer

from media.colours import Colours
from media.pictures import MAX_PIXELS, Size, media_errors
from utils.errors import MediaError
from utils.files import regular_file

LOOKS = 4  # at places of an HDR video, for its brightest light
MAX_ASPECT = 4  # of a pixel; the widest in use are twice as wide as high
DEFAULT_FPS = 25.0  # frames per second of clips that do not store it
MIN_FPS, MAX_FPS = 0.01, 1000  # of what is read and written

# Codecs whose every packet is one shown frame, so that counting packets counts frames.
_FRAME_PER_PACKET = frozenset({"h264", "hevc", "vp9", "av1", "mjpeg"})
# FFmpeg's names of the containers that store when a frame is shown; in others (.avi) that time is a guess.
_MP4, _MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
_TIMED_CONTAINERS = frozenset({_MP4, _MATROSKA})
# FFmpeg may read these kinds of file only, and nothing but the file itself. Others are lists of files, of any
# name and on any server.
_READ_CONTAINERS = f"{_MP4},{_MATROSKA},avi,gif,mpegts,mpeg,flv,asf,ogg"
_MAX_HEAD = 32  # bytes
_ONE_FILE = {"format_whitelist": _READ_CONTAINERS, "protocol_whitelist": "file"}


def open_container(path: Path) -> av.container.InputContainer:
    """Open the video file at `path`, whatever its name. Raises `MediaError` and PyAV's errors."""
    regular_file(path, MediaError)
    # An absolute path can't be taken for a protocol, as "id1:2.mp4" would be.
    return av.open(str(path.absolute()), metadata_errors="ignore", options=_ONE_FILE)


@contextlib.contextmanager
def opened_video(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Yield the container at `path` and its main video stream."""
    with (
        media_errors(path, "the file is damaged or is not a video, convert or download it again"),
        open_container(path) as container,
    ):
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise MediaError(
                f"{path}: holds no video that can be decoded; convert it to H.264 .mp4, or download it again"
            )
        stream.codec_context.thread_count = 1  # data loaders run many workers
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # checked before memory is asked for
        yield container, stream


# ---- The index of a video ---------------------------------------------------


@dataclass(frozen=True)
class Orientation:
    """The turn of a coded picture that makes it upright: first transposed, then mirrored."""

    transposed: bool
    mirrored_y: bool
    mirrored_x: bool

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """Read the display matrix [a b u; c d v; x y w]."""
        side_data = frame.side_data.get("DISPLAYMATRIX")
        if not isinstance(side_data, Buffer):
            return cls(False, False, False)
        # It maps (x, y) to (a x + c y, b x + d y), with y pointing down.
        a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
        if abs(b) > abs(a):
            return cls(True, b < 0, c < 0)
        return cls(False, d < 0, a < 0)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Turn a picture (H, W, 3) or (W, H, 3) upright."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        return np.ascontiguousarray(pixels[:: -1 if self.mirrored_y else 1, :: -1 if self.mirrored_x else 1])


@dataclass(frozen=True)
class VideoIndex:
    """All that opening a video finds out."""

    length: int
    pts: np.ndarray | None  # (N,), sorted; None where frames can't be told by their time, but are counted
    times: np.ndarray | None  # (N,) in seconds, also of counted frames; None where the file does not tell
    keyframes: np.ndarray  # the sorted times at which decoding can start
    coded_size: Size  # (height, width) with square pixels, before it is turned upright
    has_square_pixels: bool  # also as coded
    orientation: Orientation
    fps: float
    has_audio: bool
    colours: Colours


# An entry takes 16 bytes a frame. Workers come back to the same clips epoch after epoch.
@functools.lru_cache(maxsize=4096)
def video_index(path: Path, mtime_ns: int, size: int) -> VideoIndex:
    """Index the video at `path`, which `mtime_ns` and `size` tell from an earlier one."""
    with opened_video(path) as (container, stream):
        first, packets = _demux(container, stream)
        if packets is None or _ends_early(path, container, stream, packets):
            raise MediaError(f"{path}: ends early or is damaged; convert or download it again")
        if first is None:
            raise MediaError(f"{path}: holds no frames; convert or download it again")
        packets = [packet for packet in packets if packet.stream == stream.index]
        # The times of frames: from their packets, or else by decoding all of them.
        pts, keyframes = _frame_times(container, stream, packets)
        if pts is None:
            length, times = _count_frames(path)
        else:
            length, times = len(pts), pts * float(stream.time_base or 0)
        aspect = _pixel_aspect(stream)
        return VideoIndex(
            length=length,
            pts=pts,
            times=times,
            keyframes=keyframes,
            coded_size=(first.height, max(1, round(first.width * aspect))),
            has_square_pixels=aspect == 1,
            orientation=Orientation.of(first),
            fps=_mean_fps(times, stream),
            has_audio=bool(container.streams.audio),
            colours=Colours.of(first, lambda: _looks(container, stream)),
        )


class _Packet(NamedTuple):
    stream: int
    pts: int | None
    end: float  # seconds, 0 if the file does not tell
    place: int  # in the file, where it ends
    is_keyframe: bool
    is_shown: bool


def _demux(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[av.VideoFrame | None, list[_Packet] | None]:
    """Return the first frame, if any, and the packets of all streams, or None if one is damaged."""
    first: av.VideoFrame | None = None
    packets = []
    for packet in container.demux():
        if packet.is_corrupt:
            return first, None
        if packet.dts is not None or packet.size:  # else the mark of the end
            time = packet.dts if packet.pts is None else packet.pts
            packets.append(
                _Packet(
                    stream=packet.stream_index,
                    pts=packet.pts,
                    end=0 if time is None else float((time + (packet.duration or 0)) * packet.time_base),
                    place=(packet.pos or 0) + packet.size,
                    is_keyframe=packet.is_keyframe,
                    is_shown=packet.size > 0 and not packet.is_discard,
                )
            )
        if first is None and packet.stream_index == stream.index:
            first = next(iter(stream.codec_context.decode(packet)), None)
    return first, packets


def _ends_early(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, packets: list[_Packet]
) -> bool:
    """Say whether a file was cut off, as far as its format tells; FFmpeg plays half a download."""
    kind, own = container.format.name, [packet for packet in packets if packet.stream == stream.index]
    if kind == "gif":  # a mark stands at the end
        with path.open("rb") as file:
            file.seek(max(0, container.size - 1024))
            return not file.read().rstrip(b"\0").endswith(b";")
    if kind == _MP4:  # a cut between two packets damages none, but the table lists all of them
        return len(stream.index_entries) > len(own)
    if kind == _MATROSKA and packets:
        if container.duration is None:  # a recording: there may be the head of a block that was never filled
            return container.size - max(packet.place for packet in packets) > _MAX_HEAD
        # Something is missing if the header tells a time in which the longest frame would have ended.
        longest = max(np.diff(sorted(packet.end for packet in own)), default=0)
        return container.duration / av.time_base > max(packet.end for packet in packets) + 1.5 * longest
    return False


def _frame_times(
    container: av.container.InputContainer, stream: av.VideoStream, packets: list[_Packet]
) -> tuple[np.ndarray | None, np.ndarray]:
    """Return `pts` and `keyframes` of the index."""
    # Each packet must be a frame with its own time, and the first a keyframe that none precedes.
    times = [packet.pts for packet in packets if packet.pts is not None]
    if (
        container.format.name not in _TIMED_CONTAINERS
        or stream.codec_context.codec.canonical_name not in _FRAME_PER_PACKET
        or len(set(times)) < len(packets)
        or not packets[0].is_keyframe
        or times[0] != min(times)
    ):
        return None, np.empty(0, np.int64)
    shown = [time for time, packet in zip(times, packets, strict=True) if packet.is_shown]
    starts = [time for time, packet in zip(times, packets, strict=True) if packet.is_keyframe]
    return np.array(sorted(shown), np.int64), np.array(sorted(starts), np.int64)


def _count_frames(path: Path) -> tuple[int, np.ndarray | None]:
    """Decode the whole video; return its number of frames and, if they have them, their times in seconds."""
    with opened_video(path) as (container, stream):
        times = [frame.time for frame in container.decode(stream)]
    known = [time for time in times if time is not None]
    return len(times), np.array(known) if len(known) == len(times) else None


def _mean_fps(times: np.ndarray | None, stream: av.VideoStream) -> float:
    """Return the frames per second at which the frames last as long as the video does."""
    stated = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
    if times is None or len(times) < 2 or times[-1] <= times[0]:
        return stated
    measured = float((len(times) - 1) / (times[-1] - times[0]))
    # Times rounded to milliseconds (.mkv, .webm) blur a rate that the header states exactly.
    return stated if abs(measured - stated) < 0.01 * stated else measured


def _pixel_aspect(stream: av.VideoStream) -> Fraction:
    """Return how wide a pixel is if its height is 1; what can't be is taken for a square."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return aspect if 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else Fraction(1)


def _looks(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Decode single frames, as far as a damaged video has them."""
    for share in range(1, LOOKS):
        with contextlib.suppress(av.error.FFmpegError):
            container.seek((container.duration or 0) * share // LOOKS)
            yield from itertools.islice(container.decode(stream), 1)


# ---- Decoding from a keyframe -----------------------------------------------


def decode_chosen(
    container: av.container.InputContainer, stream: av.VideoStream, start: int, targets: Mapping[int, int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode from the keyframe at `start` and yield (number, frame) for the times in `targets`, if intact."""
    context = stream.codec_context
    waiting = set(targets)
    for position, packet in enumerate(container.demux(stream)):
        if not packet.size or (position == 0 and (packet.pts is None or packet.pts > start)):
            break  # the end, or a seek that landed too late
        if context.name == "h264":  # a non-reference picture is never needed for another one
            context.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
        yield from _intact(context.decode(packet), targets)
        waiting.discard(packet.pts)
        if not waiting:
            break
    yield from _intact(context.decode(None), targets)  # drained: the last ones may still be inside


def _intact(frames: list[av.VideoFrame], targets: Mapping[int, int]) -> Iterator[tuple[int, av.VideoFrame]]:
    for frame in frames:
        number = None if frame.pts is None else targets.get(frame.pts)
        if number is not None and not frame.is_corrupt:
            yield number, frame
