"""crop_video.py: crops and commands, photos, sound, and one box for a whole clip."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

import crop_video
from faces.choose import whole_track
from faces.yunet import Faces
from media.clips import open_clip
from media.pictures import read_image, write_image
from tests.face_scenes import scene, write
from tests.media_files import encode, with_sound
from tests.small import error_of

FACE = (70, 40, 110, 90)
MIDDLES = (58, 82), (178, 112)  # of the faces of `still`


def run(*arguments: object) -> None:
    crop_video.main([*map(str, arguments)])


def failure(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    (message,) = (
        line for line in error_of(capsys, lambda: run(*arguments)).splitlines() if line.startswith("error: ")
    )
    return message


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Callable[[list], None]:
    """Let these faces be found, one list after another."""

    def find(faces: list) -> None:
        found = iter(faces)
        monkeypatch.setattr("faces.yunet.FaceDetector", lambda: lambda frame: seen(next(found)))

    return find


def seen(faces: list) -> Faces:
    boxes = np.array(faces, float).reshape(-1, 4)
    return Faces(boxes, np.zeros((len(boxes), 5, 2)), np.ones(len(boxes)))


def grey(path: Path, frames: int, fps: float = 25) -> Path:
    return write(path, [np.full((120, 160, 3), number % 200, np.uint8) for number in range(frames)], fps)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of two faces that stay where they are, for 12 frames."""
    frame, _ = scene([(10, 20), (130, 50)])
    return write(tmp_path_factory.mktemp("still") / "two faces.mp4", [frame] * 12)


# ---- Crops ---------------------------------------------------------------------


def place_in(line: str) -> tuple[int, int, int, int]:
    """The box that a line tells: left, top, right, bottom."""
    width, height, left, top = map(int, re.search(r"(\d+)x(\d+) at (\d+),(\d+)$", line).groups())
    return left, top, left + width, top + height


def test_out_writes_a_crop_for_each_face(still: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run("--inp", still, "--out", tmp_path / "new" / "crops", "--image_shape", "96,64", "--min_frames", 12)
    files = sorted((tmp_path / "new" / "crops").iterdir())
    assert [file.name for file in files] == ["two faces#000.mp4", "two faces#001.mp4"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(file) for file in files]
    frame, faces = Image.fromarray(open_clip(still).read([0])[0]), []
    for file, line in zip(files, lines, strict=True):
        crop = open_clip(file)
        assert (len(crop), crop.size, crop.fps) == (12, (64, 96), 25)
        left, top, right, bottom = place_in(line)
        expected = frame.resize((96, 64), Image.Resampling.BICUBIC, (left, top, right, bottom))
        assert np.abs(crop.read([6])[0] - np.asarray(expected, float)).mean() < 8
        faces += [i for i, (x, y) in enumerate(MIDDLES) if left < x < right and top < y < bottom]
    assert sorted(faces) == [0, 1]


def test_a_photo_becomes_pngs_of_its_pixels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photo, faces = scene([(10, 20), (130, 50)])
    write_image(tmp_path / "two.png", photo)
    run("--inp", tmp_path / "two.png", "--out", tmp_path / "c", "--image_shape", "64,64")
    files = sorted((tmp_path / "c").iterdir())
    assert [file.name for file in files] == ["two#000.png", "two#001.png"]
    out, err = capsys.readouterr()
    assert "hint" not in err
    for file, line in zip(files, out.splitlines(), strict=True):
        left, top, right, bottom = place_in(line)
        expected = Image.fromarray(photo).resize(
            (64, 64), Image.Resampling.BICUBIC, (left, top, right, bottom), reducing_gap=2
        )
        assert (read_image(file) == np.asarray(expected)).all()
        assert any(left < f[0] and top < f[1] and f[2] < right and f[3] < bottom for f in faces)


def test_crops_keep_the_sound_of_their_frames(tmp_path: Path, find: Callable[[list], None]) -> None:
    """The tone lasts one second of two; a crop of the second half is silent there."""
    video = with_sound(tmp_path / "tone.mp4", "aac", 2)
    find([[]] * 5 + [[(20, 10, 40, 35)]] * 6)
    run("--inp", video, "--out", tmp_path, "--min_frames", 10, "--image_shape", "64,64")
    crop = open_clip(tmp_path / "tone#000.mp4")
    assert crop.has_audio and len(crop) == 25
    with av.open(str(crop.path)) as container:
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / 48000
    assert abs(seconds - 1) < 0.05


def test_a_short_video_gives_its_whole_length_and_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    frame, _ = scene([(60, 30)])
    run("--inp", write(tmp_path / "short.mp4", [frame] * 3), "--out", tmp_path)
    assert "short.mp4 has 3 frames, fewer than --min_frames 150" in capsys.readouterr().err
    assert len(open_clip(tmp_path / "short#000.mp4")) == 3


@pytest.mark.parametrize(("lost", "length"), [(2, 100), (6, 70)])
def test_the_last_frames_are_kept_or_their_loss_is_told(
    tmp_path: Path, find: Callable[[list], None], capsys: pytest.CaptureFixture, lost: int, length: int
) -> None:
    """Faces are looked for in frame 0, 5, ..., 95 and 99."""
    find([[FACE]] * (21 - lost) + [[]] * lost)
    run("--inp", grey(tmp_path / "a.mp4", 100), "--out", tmp_path, "--min_frames", 20)
    kept = len(open_clip(tmp_path / "a#000.mp4"))
    hint = f"no crop has the frames {kept} to 99" in capsys.readouterr().err
    assert (kept == 100) == (not hint) and (kept == 100 if lost == 2 else 70 < kept <= 76)


# ---- One box for the whole clip ------------------------------------------------


def test_whole_keeps_every_frame_in_one_box(tmp_path: Path, find: Callable[[list], None]) -> None:
    """The face leaves its first place and is unseen for the last third."""
    video = grey(tmp_path / "a.mp4", 90)
    path = [(60 + 12 * i, 40, 90 + 12 * i, 80) for i in range(4)]
    faces = [[path[min(i, 3)]] if i < 12 else [] for i in range(19)]
    find(faces)
    run("--inp", video, "--out", tmp_path, "--whole")
    assert len(open_clip(tmp_path / "a#000.mp4")) == 90
    found = iter(faces)
    track = whole_track(open_clip(video), lambda frame: seen(next(found)))
    assert track.surrounding_box.tolist() == [60, 40, 126, 80] and (track.start, track.end) == (0, 90)


def test_whole_takes_a_face_that_is_seen_rarely(tmp_path: Path, find: Callable[[list], None]) -> None:
    find([[FACE] if i % 4 == 0 else [] for i in range(51)])
    run("--inp", grey(tmp_path / "a.mp4", 250), "--out", tmp_path, "--whole")
    assert len(open_clip(tmp_path / "a#000.mp4")) == 250


def test_frames_of_a_folder_have_the_rate_that_is_told(
    tmp_path: Path, find: Callable[[list], None], capsys: pytest.CaptureFixture
) -> None:
    find([[FACE]] * 6)
    options = ["--out", tmp_path, "--fps", "10", "--whole"]
    run("--inp", write(tmp_path / "frames", [np.zeros((120, 160, 3), np.uint8)] * 6), *options)
    assert open_clip(tmp_path / "frames#000.mp4").fps == 10
    message = failure(capsys, "--inp", grey(tmp_path / "a.mp4", 3), *options)
    assert "--fps 10: is for folders of frames" in message


# ---- Commands ------------------------------------------------------------------


@pytest.mark.parametrize("installed", [True, False])
def test_the_printed_commands_cut_the_same_frames(
    still: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
) -> None:
    bundled = imageio_ffmpeg.get_ffmpeg_exe()
    programs = tmp_path / "programs"
    programs.mkdir()
    if installed:
        shutil.copy(bundled, programs / ("ffmpeg" + Path(bundled).suffix * (os.name == "nt")))
    monkeypatch.setenv("PATH", str(programs))
    run("--inp", still, "--min_frames", 12)
    commands = capsys.readouterr().out.splitlines()
    names = [shlex.split(command)[-1] for command in commands]
    assert names == ["two faces#000.mp4", "two faces#001.mp4"]
    for command, name in zip(commands, names, strict=True):
        program, *arguments = shlex.split(command)
        assert program == ("ffmpeg" if installed else bundled)
        quiet = ["-nostdin", "-loglevel", "error"]
        subprocess.run([program, *quiet, *arguments], cwd=tmp_path, check=True)
        crop = open_clip(tmp_path / name)
        assert (len(crop), crop.size) == (12, (256, 256))


def test_faces_of_wide_pixels_get_their_width_by_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A PAL recording: what is shown of 720x576 is 1024x576."""
    frame, _ = scene([(300, 100)], size=(576, 1024), scale=1)
    narrow = np.asarray(Image.fromarray(frame).resize((720, 576), Image.Resampling.BICUBIC))
    pal = encode(tmp_path / "pal.mp4", [narrow] * 6, aspect="64/45")
    square = write(tmp_path / "square.mp4", [frame] * 6)
    crops = []
    for video in (pal, square):
        run("--inp", video, "--out", tmp_path / video.stem, "--min_frames", 6)
        crops.append(open_clip(tmp_path / video.stem / f"{video.stem}#000.mp4").read([3])[0].astype(float))
        capsys.readouterr()
        run("--inp", video, "--min_frames", 6)
        _, *arguments = shlex.split(capsys.readouterr().out)
        program = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y"]
        subprocess.run([*program, *arguments], cwd=tmp_path, check=True)
        clip = open_clip(tmp_path / arguments[-1])
        assert clip.size == (256, 256)
        crops.append(clip.read([3])[0].astype(float))
    assert [np.abs(crops[i] - crops[i + 1]).mean() < 4 for i in (0, 2)] == [True, True]
    assert np.abs(crops[0] - crops[2]).mean() < 14  # the boxes differ by some pixels


def test_without_any_ffmpeg_the_remedy_is_told_at_once(
    still: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent() -> None:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", absent)
    assert "install it, or give --out" in failure(capsys, "--inp", still)


# ---- Mistakes ------------------------------------------------------------------


@pytest.mark.parametrize("whole", [["--whole"], []])
def test_no_face_is_told(
    tmp_path: Path, find: Callable[[list], None], capsys: pytest.CaptureFixture, whole: list[str]
) -> None:
    find([[]] * 11)
    video = grey(tmp_path / "a.mp4", 50)
    assert "no face was found in its 50 frames" in failure(
        capsys, "--inp", video, "--out", tmp_path / "c", *whole
    )
    assert not (tmp_path / "c").exists()


def test_faces_that_do_not_stay_have_whole_as_remedy(
    tmp_path: Path, find: Callable[[list], None], capsys: pytest.CaptureFixture
) -> None:
    find([[(10 + 20 * (i // 4), 20, 40 + 20 * (i // 4), 60)] for i in range(13)])
    options = ["--inp", grey(tmp_path / "a.mp4", 60), "--out", tmp_path / "c", "--min_frames", 50]
    message = failure(capsys, *options)
    assert "no face stays in its place for 50 frames" in message and "--whole cuts one box" in message


def test_nothing_is_overwritten(still: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    earlier = tmp_path / "two faces#007.mp4"
    earlier.write_bytes(b"mine")
    assert f"{earlier}: exists" in failure(capsys, "--inp", still, "--out", tmp_path)
    assert list(tmp_path.iterdir()) == [earlier] and earlier.read_bytes() == b"mine"


def test_commands_are_printed_for_videos_only(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path / "frames", [scene([])[0]])
    assert "give --out" in failure(capsys, "--inp", tmp_path / "frames")
