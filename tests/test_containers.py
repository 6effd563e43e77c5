"""Videos of any container and name through the demo and prepare.py: frames, times and sound."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest

import demo
from data import prepare
from media.clips import open_clip
from tests.demo_files import MODEL
from tests.media_files import write_sound

FRAMES = 30
# Name, FFmpeg's container, video and sound; the tone begins after half a second.
KINDS = [
    ("a.m4v", "ipod", "libx264", "aac"),
    ("b.3gp", "3gp", "mpeg4", "aac"),
    ("c.wmv", "asf", "wmv2", "wmav2"),
    ("d.mpg", "mpeg", "mpeg2video", "mp2"),
    ("e.ts", "mpegts", "libx264", "aac"),
    ("f.MTS", "mpegts", "libx264", "ac3"),
    ("g.flv", "flv", "flv", "aac"),
    ("h.ogv", "ogg", "libvpx", "libopus"),
    ("i.vob", "vob", "mpeg2video", "ac3"),
    ("j.qt", "mov", "mjpeg", "pcm_s16le"),
    ("k.avi", "avi", "mpeg4", "ac3"),
    ("l.mp4", "matroska", "libx264", "flac"),  # a wrong name
    ("m.webm", "mp4", "libx264", "libopus"),
]


def write_talk(path: Path, container: str, codec: str, sound_codec: str) -> None:
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.max_b_frames = 0
        sound = output.add_stream(sound_codec, rate=44100 if container == "flv" else 48000, layout="mono")
        sound.bit_rate = 96_000
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        write_sound(output, sound, FRAMES / 25, silence=0.5)


def heard_from(path: Path) -> float:
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        return float((np.abs(sound) > 0.1).argmax() / container.streams.audio[0].rate)


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talks")
    for name, *codecs in KINDS:
        write_talk(folder / name, *codecs)
    return folder


@pytest.mark.parametrize("name", [name for name, *_ in KINDS])
def test_the_demo_reads_it_with_its_sound(
    place: Path, talks: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    result = place / "result.mp4"
    files = ["--source_image", "source.png", "--driving_video", str(talks / name)]
    demo.main([*MODEL, *files, "--result_video", str(result), "--audio", "--side_by_side"])
    assert "warning" not in capsys.readouterr().err
    clip = open_clip(result)
    levels = np.array([frame[10:20, 42:54].mean() for frame in clip])
    assert clip.fps == 25 and len(clip) == FRAMES
    assert np.abs(levels - 8 * np.arange(FRAMES)).max() < 8
    assert abs(heard_from(result) - 0.5) < 0.05


def test_prepare_takes_them_all(talks: Path, tmp_path: Path) -> None:
    prepare.main([str(talks), str(tmp_path), "--size", "16", "--test_share", "0"])
    assert {path.name: len(open_clip(path)) for path in (tmp_path / "train").iterdir()} == {
        Path(name).stem: FRAMES for name, *_ in KINDS
    }


@pytest.mark.parametrize("name", ["driving.jpg", "driving", "driving.txt"])
def test_a_video_is_known_by_its_content(place: Path, talks: Path, name: str) -> None:
    shutil.copy(talks / "e.ts", place / name)
    assert len(open_clip(place / name)) == FRAMES
