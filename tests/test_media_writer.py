"""Everything that `VideoWriter` promises, with and without sound."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from media.clips import open_clip
from media.writer import VideoWriter
from tests.media_files import folder_of_frames, halves, still_video, text_as_video, with_sound
from utils.errors import MediaError


def write(path: Path, frames: list[np.ndarray], fps: float = 25, **options) -> VideoWriter:
    with VideoWriter(path, fps, **options) as writer:
        for frame in frames:
            writer.write(frame)
    return writer


def smooth(count: int, height: int, width: int) -> list[np.ndarray]:
    y, x = np.mgrid[:height, :width]
    return [
        np.stack([x * 200 // width, y * 200 // height, (x + y) // 2 + number], -1).astype(np.uint8)
        for number in range(count)
    ]


@pytest.mark.parametrize(("name", "tolerance"), [("a.mp4", 4), ("a.webm", 4), ("a.gif", 8), ("frames", 0)])
def test_what_is_written_is_read_back(name, tolerance, tmp_path):
    frames = smooth(12, 48, 64)
    write(tmp_path / name, frames, fps=12.5)
    clip = open_clip(tmp_path / name)
    assert clip.fps == (25.0 if name == "frames" else 12.5)
    assert np.abs(np.stack(list(clip)).astype(int) - np.stack(frames)).mean() <= tolerance
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_mp4_is_what_browsers_play(tmp_path):
    write(tmp_path / "a.mp4", smooth(3, 48, 64), fps=30000 / 1001)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert container.streams.video[0].average_rate.limit_denominator(1001).numerator == 30000
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (2, 2), (48, 47)])
def test_odd_sizes_are_padded_by_their_last_row_and_column(size, tmp_path):
    height, width = size
    frames = [np.full((height, width, 3), 90, np.uint8)] * 3
    write(tmp_path / "a.mp4", frames)
    clip = open_clip(tmp_path / "a.mp4")
    assert clip.size == (height + height % 2, width + width % 2)
    assert np.abs(clip.read([2]).astype(int) - 90).max() <= 3
    write(tmp_path / "c.gif", frames)
    assert open_clip(tmp_path / "c.gif").size == size


def test_an_exception_discards_what_was_written(tmp_path):
    for name in ("a.mp4", "b.gif", "c"):
        with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / name, 25) as writer:
            writer.write(halves())
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_finish_keeps_what_was_written_before_the_exception(tmp_path):
    for name in ("a.mp4", "b.gif", "c"):
        with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / name, 25) as writer:
            writer.write(halves())
            writer.write(halves())
            writer.finish()
            raise KeyboardInterrupt
        assert len(open_clip(tmp_path / name)) == 2
    assert len(list(tmp_path.iterdir())) == 3


def test_the_earlier_file_stays_until_the_new_one_is_whole(tmp_path):
    for name in ("a.mp4", "c"):
        write(tmp_path / name, [halves()] * 4)
        with pytest.raises(RuntimeError), VideoWriter(tmp_path / name, 25) as writer:
            writer.write(halves())
            raise RuntimeError
        assert len(open_clip(tmp_path / name)) == 4
        write(tmp_path / name, [halves()] * 2)
        assert len(open_clip(tmp_path / name)) == 2


@pytest.mark.parametrize(
    ("name", "fps", "words"),
    [
        ("none/a.mp4", 25, "folder exists"),
        ("file/a.mp4", 25, "folder exists"),
        ("a.avi", 25, "use .mp4"),
        ("a.png", 25, "use .mp4"),
        ("a.mp4", 0, "frames per second"),
        ("a.mp4", float("nan"), "frames per second"),
        ("full", 25, "another name"),
        ("file", 25, "another name"),
        ("dir.mp4", 25, "is a folder"),
    ],
)
def test_a_name_that_can_not_be_written_is_refused_at_once(name, fps, words, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dir.mp4").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(MediaError, match=words) as caught:
        VideoWriter(tmp_path / name, fps)
    assert str(tmp_path / name) in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dir.mp4", "file", "full"]


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(MediaError, match="no frame"), VideoWriter(tmp_path / "a.mp4", 25):
        pass
    assert not list(tmp_path.iterdir())


def test_frames_of_another_kind_or_size_are_refused(tmp_path):
    for wrong in (halves().astype(np.float32), halves()[..., 0], halves(16, 16)):
        with pytest.raises(ValueError, match="frame"), VideoWriter(tmp_path / "a.mp4", 25) as writer:
            writer.write(halves())
            writer.write(wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "codec", "result"),
    [
        ("a.mp4", "aac", "out.mp4"),
        ("a.mkv", "libmp3lame", "out.mp4"),
        ("a.webm", "libopus", "out.mp4"),
        ("a.mkv", "flac", "out.mp4"),
        ("a.mov", "pcm_s16le", "out.mp4"),
        ("a.avi", "pcm_s16le", "out.mp4"),
        ("a.webm", "libopus", "out.mov"),
        ("a.mkv", "flac", "out.mov"),
    ],
)
def test_sound_is_carried_over_and_cut_to_the_picture(name, codec, result, tmp_path):
    source = with_sound(tmp_path / name, codec, 2.0)
    target = tmp_path / result
    assert write(target, smooth(25, 48, 64), audio_from=source).audio_note is None
    assert len(open_clip(target)) == 25
    with av.open(str(target)) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.codec.canonical_name == "aac"
        assert 0.88 < float(sound.duration * sound.time_base) <= 1.0
        loudness = [np.abs(frame.to_ndarray().astype(np.float64)).max() for frame in container.decode(sound)]
        assert np.median(loudness) > 0.2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([name, result])


def damaged_sound(folder: Path) -> Path:
    """A video whose sound is of a codec that no one knows."""
    source = with_sound(folder / "source.mp4", "aac", 2.0)
    source.write_bytes(source.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz"))
    return source


@pytest.mark.parametrize(
    "source",
    [
        still_video,
        damaged_sound,
        lambda d: d / "none.mp4",
        text_as_video,
        lambda d: folder_of_frames(d, ("1.png",)),
    ],
    ids=["silent", "unknown codec", "missing", "text", "folder"],
)
def test_the_picture_is_kept_where_there_is_no_sound_to_carry(source, tmp_path):
    writer = write(tmp_path / "out.mp4", smooth(5, 48, 64), audio_from=source(tmp_path))
    assert "has no sound" in writer.audio_note
    clip = open_clip(tmp_path / "out.mp4")
    assert (len(clip), clip.has_audio) == (5, False)


def test_a_gif_says_that_it_holds_no_sound(tmp_path):
    source = with_sound(tmp_path / "a.mp4", "aac", 1.0)
    assert "only .mp4" in write(tmp_path / "a.gif", smooth(5, 48, 64), audio_from=source).audio_note
