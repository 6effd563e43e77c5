"""Put the sound of one video under the picture of another."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar, cast

import av

from media.decoding import open_container

# Sound that browsers play inside an .mp4 or a .webm and that is therefore copied as it is.
_COPIED_SOUND = frozenset({"aac", "mp3", "opus", "flac"})
_COPIED_INTO_WEBM = frozenset({"opus", "vorbis"})
_RATE = 48000  # samples per second of sound that is turned into another kind
_AAC, _OPUS = ("aac", "fltp", 1024), ("libopus", "flt", 960)  # encoder, its samples, how many in a packet

Interval = tuple[Fraction, Fraction]  # (start, end) in seconds
Piece = TypeVar("Piece", av.Packet, av.AudioFrame)


def muxer_options(container: str) -> dict[str, str]:
    """Options that FFmpeg gets for writing a `container`."""
    # The table of contents first: playing starts before all is downloaded.
    return {"movflags": "+faststart"} if container in ("mp4", "mov") else {}


def mux_sound(picture: Path, source: Path, target: Path, container: str = "mp4", offset: float = 0) -> None:
    """Write to `target` the video of `picture` with the sound of `source`, cut to the same length.

    The sound is that of the first track, from `offset` seconds after the picture of `source` begins.
    `container`: FFmpeg's name of the format, in which `picture` is, too.
    """
    with (
        av.open(str(picture.absolute())) as pictures,
        open_container(source) as sounds,
        av.open(str(target.absolute()), "w", format=container, options=muxer_options(container)) as output,
    ):
        video, sound = pictures.streams.video[0], sounds.streams.audio[0]
        video_out = output.add_stream_from_template(video)
        start = _picture_start(sounds) + Fraction(offset).limit_denominator(_RATE)
        interval = (start, start + _picture_seconds(pictures, video))
        name = sound.codec_context.codec.canonical_name
        if name in (_COPIED_INTO_WEBM if container == "webm" else _COPIED_SOUND):
            sound_packets = _copied_sound(sounds, sound, output, interval)
        else:
            kind = _OPUS if container == "webm" else _AAC
            sound_packets = _encoded_sound(sounds, sound, output, interval, kind)
        video_packets = (_moved(packet, video_out) for packet in pictures.demux(video) if packet.size)
        for packet in heapq.merge(
            video_packets, sound_packets, key=lambda packet: _seconds(packet.dts, packet.time_base)
        ):
            output.mux(packet)


def _picture_start(container: av.container.InputContainer) -> Fraction:
    """The second at which the video's picture begins."""
    shown = container.streams.best("video")
    if shown is None or not shown.start_time:
        return Fraction(0)
    return _seconds(shown.start_time, shown.time_base)


def _picture_seconds(container: av.container.InputContainer, video: av.VideoStream) -> Fraction:
    """How long the picture of a file is that we wrote; some containers tell it of the whole file only."""
    if video.duration is not None:
        return _seconds(video.duration, video.time_base)
    return _seconds(container.duration, Fraction(1, av.time_base))


def _seconds(ticks: int | None, time_base: Fraction | None) -> Fraction:
    """A time in seconds. Raises `ValueError` where the file does not tell it."""
    if ticks is None or time_base is None:
        raise ValueError("its times are missing")
    return ticks * time_base


def _moved(packet: av.Packet, stream: av.stream.Stream) -> av.Packet:
    packet.stream = stream
    return packet


def _within(pieces: Iterable[tuple[Piece, Fraction]], interval: Interval) -> Iterator[Piece]:
    """The packets or frames of sound that lie in `interval`, retimed to begin at 0.

    `pieces`: (piece, its seconds).
    """
    start, end = interval
    for piece, seconds in pieces:
        ticks, time_base = piece.pts, piece.time_base
        ends = _seconds(ticks, time_base) + seconds
        if ends > end:
            return
        if ends > start and ticks is not None and time_base is not None:
            piece.pts = ticks - round(start / time_base)
            yield piece


def _copied_sound(
    sounds: av.container.InputContainer,
    sound: av.AudioStream,
    output: av.container.OutputContainer,
    interval: Interval,
) -> Iterator[av.Packet]:
    stream = output.add_stream_from_template(sound)
    packets = (
        (packet, (packet.duration or 0) * packet.time_base)
        for packet in sounds.demux(sound)
        if packet.size and packet.pts is not None
    )

    def retimed() -> Iterator[av.Packet]:
        for packet in _within(packets, interval):
            packet.dts = packet.pts
            yield _moved(packet, stream)

    return retimed()  # the stream above must be there before the first packet is muxed


def _encoded_sound(
    sounds: av.container.InputContainer,
    sound: av.AudioStream,
    output: av.container.OutputContainer,
    interval: Interval,
    kind: tuple[str, str, int],
) -> Iterator[av.Packet]:
    codec, samples, frame_size = kind
    layout = "mono" if sound.codec_context.layout.nb_channels == 1 else "stereo"
    stream = cast(av.AudioStream, output.add_stream(codec, rate=_RATE, layout=layout, format=samples))
    resampler = av.AudioResampler(format=samples, layout=layout, rate=_RATE, frame_size=frame_size)

    def resampled() -> Iterator[tuple[av.AudioFrame, Fraction]]:
        for frame in itertools.chain(sounds.decode(sound), [None]):
            for piece in resampler.resample(frame):
                yield piece, Fraction(piece.samples, _RATE)

    def encoded() -> Iterator[av.Packet]:
        for frame in _within(resampled(), interval):
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return encoded()  # the stream above must be there before the first packet is muxed
