"""crop_video.py: photos, sound, one box for a whole clip, and what the detector gets wrong."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import crop_video
from faces.choose import whole_track
from faces.tracks import find_tracks
from media.clips import open_clip
from media.pictures import read_image, write_image
from media.writer import VideoWriter
from tests.media_files import with_sound
from tests.small import error_of
from tests.test_crop_video import scene, write

FACE = (70, 40, 110, 90)


def run(*arguments: object, faces: list | None = None, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """Crop with the cascade or, one after another, with these `faces` found."""
    if faces is not None and monkeypatch is not None:
        found = iter(faces)
        monkeypatch.setattr(
            crop_video, "load_detector", lambda name, device: lambda frame: boxes(next(found))
        )
    crop_video.main([*map(str, arguments), "--detector", "cascade", "--image_shape", "64,64"])


def boxes(faces: list) -> np.ndarray:
    return np.array(faces, float).reshape(-1, 4)


def grey(path: Path, frames: int, fps: float = 25) -> Path:
    return write(path, [np.full((120, 160, 3), number % 200, np.uint8) for number in range(frames)], fps)


# ---- Photos --------------------------------------------------------------------


def test_a_photo_becomes_pngs_of_its_pixels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photo, faces = scene([(10, 20), (130, 50)])
    write_image(tmp_path / "two.png", photo)
    run("--inp", tmp_path / "two.png", "--out", tmp_path / "c")
    files = sorted((tmp_path / "c").iterdir())
    assert [file.name for file in files] == ["two#000.png", "two#001.png"]
    out, err = capsys.readouterr()
    assert "hint" not in err
    for file, line in zip(files, out.splitlines(), strict=True):
        place = line.split(", ")[-1]
        side, at = place.split(" at ")
        width, height = map(int, side.split("x"))
        left, top = map(int, at.split(","))
        expected = Image.fromarray(photo).resize(
            (64, 64), Image.Resampling.BICUBIC, (left, top, left + width, top + height), reducing_gap=2
        )
        assert (read_image(file) == np.asarray(expected)).all()
        assert any(
            left < face[0] and top < face[1] and face[2] < left + width and face[3] < top + height
            for face in faces
        )


# ---- Sound ---------------------------------------------------------------------


def test_crops_keep_the_sound_of_their_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tone lasts one second of two; a crop of the second half is silent there."""
    video = with_sound(tmp_path / "tone.mp4", "aac", 2)
    faces = [[]] * 5 + [[(20, 10, 40, 35)]] * 6
    options = ["--inp", video, "--out", tmp_path, "--min_frames", 10]
    run(*options, faces=faces, monkeypatch=monkeypatch)
    crop = open_clip(tmp_path / "tone#000.mp4")
    assert crop.has_audio and len(crop) == 25
    with av.open(str(crop.path)) as container:
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / 48000
    assert abs(seconds - 1) < 0.05


# ---- One box for the whole clip ------------------------------------------------


def test_whole_keeps_every_frame_in_one_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The face leaves its first place and is unseen for the last third."""
    video = grey(tmp_path / "a.mp4", 90)
    path = [(60 + 12 * i, 40, 90 + 12 * i, 80) for i in range(4)]
    faces = [[path[min(i, 3)]] if i < 12 else [] for i in range(19)]
    run("--inp", video, "--out", tmp_path, "--whole", faces=faces, monkeypatch=monkeypatch)
    assert len(open_clip(tmp_path / "a#000.mp4")) == 90
    clip, found = open_clip(video), iter(faces)
    track = whole_track(clip, lambda frame: boxes(next(found)))
    assert track.surrounding_box.tolist() == [60, 40, 126, 80] and (track.start, track.end) == (0, 90)


def test_whole_takes_a_face_that_is_seen_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = grey(tmp_path / "a.mp4", 250)
    faces = [[FACE] if i % 4 == 0 else [] for i in range(51)]
    run("--inp", video, "--out", tmp_path, "--whole", faces=faces, monkeypatch=monkeypatch)
    assert len(open_clip(tmp_path / "a#000.mp4")) == 250


@pytest.mark.parametrize("whole", [["--whole"], []])
def test_no_face_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, whole: list[str]
) -> None:
    video, faces = grey(tmp_path / "a.mp4", 50), [[]] * 11
    options = ["--inp", video, "--out", tmp_path / "c", *whole]
    err = error_of(capsys, lambda: run(*options, faces=faces, monkeypatch=monkeypatch))
    assert "no face was found in its 50 frames" in err and not (tmp_path / "c").exists()


def test_faces_that_do_not_stay_have_whole_as_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    video = grey(tmp_path / "a.mp4", 60)
    faces = [[(10 + 20 * (i // 4), 20, 40 + 20 * (i // 4), 60)] for i in range(13)]
    options = ["--inp", video, "--out", tmp_path / "c", "--min_frames", 50]
    err = error_of(capsys, lambda: run(*options, faces=faces, monkeypatch=monkeypatch))
    assert "no face stays in its place for 50 frames" in err and "--whole cuts one box" in err


# ---- Ends, and half faces ------------------------------------------------------


@pytest.mark.parametrize(("lost", "length"), [(2, 100), (6, 70)])
def test_the_last_frames_are_kept_or_their_loss_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    lost: int,
    length: int,
) -> None:
    """Faces are looked for in frame 0, 5, ..., 95 and 99."""
    video, faces = grey(tmp_path / "a.mp4", 100), [[FACE]] * (21 - lost) + [[]] * lost
    options = ["--inp", video, "--out", tmp_path, "--min_frames", 20]
    run(*options, faces=faces, monkeypatch=monkeypatch)
    kept = len(open_clip(tmp_path / "a#000.mp4"))
    hint = f"no crop has the frames {kept} to 99" in capsys.readouterr().err
    assert (kept == 100) == (not hint) and (kept == 100 if lost == 2 else 70 < kept <= 76)


def test_half_a_face_is_no_second_one(tmp_path: Path) -> None:
    clip = open_clip(grey(tmp_path / "a.mp4", 50))
    half, other = (60, 45, 90, 90), (5, 40, 45, 90)
    tracks = find_tracks(clip, lambda frame: boxes([half, FACE, other]), 0.25)
    assert {tuple(track.boxes[0]) for track in tracks} == {FACE, other}


def test_the_face_seen_more_often_is_kept(tmp_path: Path) -> None:
    clip, looks = open_clip(grey(tmp_path / "a.mp4", 50)), iter(range(11))
    half = (60, 45, 90, 90)
    (track,) = find_tracks(clip, lambda frame: boxes([half, FACE][: 1 + (next(looks) % 3 > 0)][::-1]), 0.25)
    assert len(track.numbers) == 11


def test_frames_of_a_folder_have_the_rate_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with VideoWriter(tmp_path / "frames", 25) as writer:
        for _ in range(6):
            writer.write(np.zeros((120, 160, 3), np.uint8))
    options = ["--out", tmp_path, "--fps", "10", "--whole"]
    run("--inp", tmp_path / "frames", *options, faces=[[FACE]] * 6, monkeypatch=monkeypatch)
    assert open_clip(tmp_path / "frames#000.mp4").fps == 10
    err = error_of(capsys, lambda: run("--inp", grey(tmp_path / "a.mp4", 3), *options))
    assert "--fps 10: is for a folder of frames" in err
