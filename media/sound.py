"""Put the sound of one video under the picture of another."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av

from media.decoding import open_container

_RATE = 48000  # samples per second
_MAX_ROUNDING = Fraction(1, 20)  # seconds; what comes later than this comes after a pause
_PIECE = 1024  # samples that are kept or left out together
_BIT_RATE = 192_000  # per second, at which the loss can't be heard


def created(path: Path, container: str) -> av.container.OutputContainer:
    """Open a new file of the format `container`, by FFmpeg's name of it."""
    # The table of contents first: playing starts before all is downloaded.
    options = {"movflags": "+faststart"} if container in ("mp4", "mov") else {}
    return av.open(str(path.absolute()), "w", format=container, options=options)


def mux_sound(picture: Path, source: Path, target: Path, container: str, offset: float = 0) -> None:
    """Write to `target` the video of `picture` with the first sound track of `source`, cut to its length.

    The sound begins `offset` seconds after the picture of `source` does. `container`: FFmpeg's name of the
    format, in which `picture` is, too.
    """
    with (
        av.open(str(picture.absolute())) as pictures,
        open_container(source) as sounds,
        created(target, container) as output,
    ):
        # Both streams must be there before the first packet is muxed.
        video, sound = pictures.streams.video[0], sounds.streams.audio[0]
        video_out = output.add_stream_from_template(video)
        codec, samples = ("libopus", "flt") if container == "webm" else ("aac", "fltp")
        layout = "mono" if sound.codec_context.layout.nb_channels == 1 else "stereo"
        sound_out = cast(av.AudioStream, output.add_stream(codec, rate=_RATE, layout=layout, format=samples))
        sound_out.bit_rate = _BIT_RATE

        # Packets in the order of their times: a player reads on without seeking.
        shown = sounds.streams.best("video")
        begins = _seconds(shown.start_time, shown.time_base) if shown and shown.start_time else 0
        start = begins + Fraction(offset).limit_denominator(_RATE)
        frames = _between(sounds, sound, sound_out, start, start + _picture_seconds(pictures, video))
        sound_packets = (packet for frame in frames for packet in sound_out.encode(frame))
        video_packets = (packet for packet in pictures.demux(video) if packet.size)
        for packet in heapq.merge(
            video_packets, sound_packets, key=lambda packet: _seconds(packet.dts, packet.time_base)
        ):
            if packet.stream is video:
                packet.stream = video_out
            output.mux(packet)


def _picture_seconds(container: av.container.InputContainer, video: av.VideoStream) -> Fraction:
    """Return the length of the picture in a file that we wrote; some containers tell it of the whole only."""
    if video.duration is not None:
        return _seconds(video.duration, video.time_base)
    return _seconds(container.duration, Fraction(1, av.time_base))


def _seconds(ticks: int | None, time_base: Fraction | None) -> Fraction:
    """Return a time in seconds. Raises `ValueError` where the file does not tell it."""
    if ticks is None or time_base is None:
        raise ValueError("its times are missing")
    return ticks * time_base


def _without_holes(frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """Let each frame begin where the one before it ended: files round times, or leave them out."""
    clock: Fraction | None = None
    for frame in frames:
        time = clock or Fraction(0) if frame.pts is None else _seconds(frame.pts, frame.time_base)
        clock = time if clock is None or time > clock + _MAX_ROUNDING else clock
        frame.pts, frame.time_base = round(clock * frame.sample_rate), Fraction(1, frame.sample_rate)
        clock += Fraction(frame.samples, frame.sample_rate)
        yield frame


def _between(
    sounds: av.container.InputContainer,
    sound: av.AudioStream,
    target: av.AudioStream,
    start: Fraction,
    end: Fraction,
) -> Iterator[av.AudioFrame | None]:
    """Yield the sound from `start` to `end` seconds for `target`, retimed to begin at 0, and at last None."""
    context = target.codec_context
    resampler = av.AudioResampler(context.format, context.layout, _RATE, frame_size=_PIECE)
    for frame in itertools.chain(_without_holes(sounds.decode(sound)), [None]):
        for piece in resampler.resample(frame):
            begins = _seconds(piece.pts, piece.time_base)
            ends = begins + Fraction(piece.samples, _RATE)
            if ends > end:
                yield None
                return
            if ends > start:
                piece.pts, piece.time_base = round((begins - start) * _RATE), Fraction(1, _RATE)
                yield piece
    yield None
