"""Variable frame rates: each frame plays at its time, with its sound; and a clip as an endless background."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

import demo
from media.clips import open_clip
from media.rates import repeated, steady
from media.writer import VideoWriter
from tests.demo_files import MODEL, assert_refused
from tests.media_files import encode, write_sound
from tests.small import error_of
from utils.errors import MediaError


def grey(level: int) -> np.ndarray:
    return np.full((48, 64, 3), level, np.uint8)


# 25 frames a second for two seconds, then every fourth: number 74 of the clock is shown at 2.96 s.
TIMES = [*range(50), *range(50, 100, 4)]


def levels(clip) -> list[int]:
    return [int(frame.mean()) for frame in clip]


def vfr(path: Path, times: list[int] = TIMES) -> Path:
    """Frames whose level is twice their time in 1/25 s."""
    return encode(path, [grey(2 * time) for time in times], pts=times, options={"crf": "1"})


# ---- At a constant rate --------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_every_frame_is_shown_at_its_time(tmp_path: Path, name: str) -> None:
    clip = open_clip(vfr(tmp_path / name))
    assert len(clip) == len(TIMES) and clip.fps < 17
    constant = steady(clip)
    assert constant.fps == pytest.approx(25, rel=0.01) and len(constant) == 99
    originals = dict(zip(TIMES, clip, strict=True))
    for number, frame in enumerate(constant):
        distance = min(abs(time - number) for time in TIMES)  # two frames may be as near
        near = [originals[time] for time in TIMES if abs(time - number) == distance]
        assert any((frame == original).all() for original in near)
    picked = constant.read([98, 3, 59, 3])
    assert (picked == np.stack([originals[time] for time in (98, 3, 58, 3)])).all()


def test_a_constant_rate_is_left_alone(tmp_path: Path) -> None:
    times = list(range(40))
    del times[20]  # one frame lost is half a frame to either side
    for clip in (
        open_clip(vfr(tmp_path / "a.mp4", list(range(40)))),
        open_clip(vfr(tmp_path / "b.mp4", times)),
    ):
        assert steady(clip) is clip


def test_times_that_can_not_be_are_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", [grey(0)] * 5, pts=[0, 1, 2, 3, 10_000])
    with pytest.raises(MediaError, match=r"a\.mkv: its 5 frames are spread over 400 seconds; convert"):
        steady(open_clip(path))


def test_delays_of_a_gif_count(tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.fromarray(grey(40 * i)) for i in range(5)]
    frames[0].save(
        tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[40, 40, 40, 400, 40]
    )
    clip = steady(open_clip(tmp_path / "a.gif"))
    assert clip.fps == pytest.approx(25, rel=0.01) and len(clip) == 14


# ---- In the demo ---------------------------------------------------------------


@pytest.fixture
def talk(place: Path) -> Path:
    """A video of variable rate whose tone begins when frame 74 is shown."""
    path = place / "talk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for time in TIMES:
            frame = av.VideoFrame.from_ndarray(grey(0 if time < 74 else 200), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        write_sound(container, sound, 4, silence=74 / 25)
    return path


@pytest.mark.parametrize("name", ["result.mp4", "result.mov", "result.mkv", "result.webm"])
def test_the_frame_of_2_96_seconds_plays_then(place: Path, talk: Path, name: str) -> None:
    files = [
        "--source_image",
        "source.png",
        "--driving_video",
        str(talk),
        "--result_video",
        str(place / name),
    ]
    demo.main([*MODEL, *files, "--audio", "--side_by_side"])
    with av.open(str(place / name)) as container:
        assert container.streams.video[0].codec_context.name == ("vp9" if name.endswith("webm") else "h264")
        light = [
            frame.time
            for frame in container.decode(video=0)
            if frame.to_ndarray(format="rgb24")[:, 32:64].mean() > 100
        ]
        container.seek(0)
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / 48000
    assert abs(light[0] - 2.96) <= 0.5 * 4 / 25 + 1e-3  # half of the frame that is shown there
    assert abs(seconds - 99 / 25) < 0.05


def test_folders_of_frames_take_a_rate(place: Path, capsys: pytest.CaptureFixture) -> None:
    options = [
        *MODEL,
        "--source_image",
        "source.png",
        "--result_video",
        str(place / "a.mp4"),
        "--fps",
        "12.5",
    ]
    demo.main([*options, "--driving_video", "driving"])
    assert open_clip(place / "a.mp4").fps == 12.5
    for wrong, message in (
        (["--driving_video", "talk.mp4"], "--fps 12.5: is for folders of frames"),
        (["--driving_video", "driving", "--fps", "0"], "'0' is not a number from 0.01 to 1000"),
    ):
        assert message in error_of(capsys, lambda wrong=wrong: demo.main([*options, *wrong]))


def test_a_part_of_the_video_plays_with_its_sound(place: Path, talk: Path) -> None:
    """From 2 to 3.6 seconds: light and tone begin after 0.96, and the frames are those of the whole."""
    options = [*MODEL, "--source_image", "source.png", "--driving_video", str(talk), "--side_by_side"]
    part, whole = place / "part.mkv", place / "whole.mkv"
    demo.main([*options, "--audio", "--start", "2", "--end", "3.6", "--result_video", str(part)])
    demo.main([*options, "--result_video", str(whole)])
    light = [frame[:, 32:64].mean() > 100 for frame in open_clip(part)]
    assert (
        len(light) == 40
        and light.index(True) == [frame[:, 32:64].mean() > 100 for frame in open_clip(whole)].index(True) - 50
    )
    with av.open(str(part)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert abs((np.abs(sound) > 0.1).argmax() / 48000 - 0.96) < 0.03
    assert abs(len(sound) / 48000 - 1.6) < 0.05


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["--start", "4"], "talk.mp4: has no frame from second 4 on, it lasts 3.96 seconds"),
        (["--start", "2", "--end", "2"], "--end must be after --start"),
        (["--start", "-1"], "'-1' is not a number from 0 to"),
        (["--end", "nan"], "'nan' is not a number from 0 to"),
    ],
)
def test_a_part_that_is_none_is_one_line(
    place: Path, talk: Path, capsys: pytest.CaptureFixture, times: list[str], message: str
) -> None:
    options = [*MODEL, "--source_image", "source.png", "--driving_video", str(talk), *times]
    assert_refused(place, capsys, options, message)


# ---- Backgrounds ---------------------------------------------------------------


def test_a_background_keeps_its_time_and_begins_anew(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip", 25) as writer:
        for number in range(4):
            writer.write(grey(number))
    clip = open_clip(tmp_path / "clip")
    for fps, expected in ((25, [0, 1, 2, 3, 0, 1]), (50, [0, 0, 1, 1, 2, 2, 3, 3, 0]), (12.5, [0, 2, 0, 2])):
        assert [
            int(frame[0, 0, 0]) for frame, _ in zip(repeated(clip, fps), expected, strict=False)
        ] == expected
