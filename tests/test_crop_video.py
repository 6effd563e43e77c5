"""crop_video.py on scikit-image's astronaut, whose face is known; tracks and boxes on made-up detections."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from skimage import data

from crop_video import main
from faces.boxes import crop_box, iou
from faces.detectors import CascadeDetector, load_detector
from faces.tracks import Track, find_tracks, link
from media.clips import open_clip
from media.writer import VideoWriter

FACE = np.array([180, 72, 272, 178])  # in data.astronaut(), from hairline to chin; measured by eye
HEAD = (130, 0, 330, 200)  # a part of it that holds the head
MIDDLES = (58, 82), (178, 112)  # of the faces of `still`


@pytest.fixture(scope="module")
def cascade():
    return CascadeDetector()


def scene(places, size=(160, 240), scale=0.5):
    """A grey frame of `size` with the astronaut's head at each of `places`, and the boxes of the faces."""
    frame = np.tile(np.linspace(60, 180, size[1], dtype=np.uint8)[None, :, None], (size[0], 1, 3))
    canvas = Image.fromarray(frame)
    side = round((HEAD[2] - HEAD[0]) * scale)
    head = Image.fromarray(data.astronaut()).crop(HEAD).resize((side, side), Image.Resampling.BICUBIC)
    for x, y in places:
        canvas.paste(head, (round(x), round(y)))
    corner = np.tile(HEAD[:2], 2)
    return np.array(canvas), np.array(
        [(FACE - corner) * scale + np.tile((round(x), round(y)), 2) for x, y in places]
    )


def write(path, frames, fps=25):
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def run(*arguments):
    main([str(argument) for argument in (*arguments, "--detector", "cascade")])


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A video of two faces that stay where they are, for 12 frames."""
    frame, _ = scene([(10, 20), (130, 50)])
    return write(tmp_path_factory.mktemp("still") / "two faces.mp4", [frame] * 12)


# ---- Faces ------------------------------------------------------------------


def test_the_moving_astronaut_is_found_in_95_percent_of_frames(tmp_path, cascade):
    angles = np.linspace(0, 2, 41)
    frames, faces = zip(
        *(scene([(70 + 50 * np.sin(a), 30 + 25 * np.cos(1.7 * a))], scale=0.5 + 0.05 * a) for a in angles),
        strict=True,
    )
    clip = open_clip(write(tmp_path / "moving.mp4", frames))
    tracks = find_tracks(clip, cascade, iou_with_initial=0.25)
    best = np.zeros(len(frames))
    for track in tracks:
        numbers = np.arange(track.start, track.end)
        overlaps = [
            iou(box[None], faces[number]).item()
            for number, box in zip(numbers, track.boxes_at(numbers), strict=True)
        ]
        best[numbers] = np.maximum(best[numbers], overlaps)
    assert (best >= 0.5).mean() >= 0.95, best


@pytest.mark.parametrize("tilt", [-25, 0, 25])
def test_one_face_is_found_however_the_head_is_tilted(cascade, tilt):
    middle = tuple((FACE[:2] + FACE[2:]) / 2)
    turned = Image.fromarray(data.astronaut()).rotate(tilt, Image.Resampling.BICUBIC, center=middle)
    boxes = cascade(np.array(turned))
    assert len(boxes) == 1 and iou(boxes, FACE[None]).item() >= 0.5


def test_what_is_no_face_is_not_found(cascade):
    for picture in (data.coffee(), data.rocket()):
        assert cascade(picture).shape == (0, 4)


# ---- Tracks -----------------------------------------------------------------


def square(x, y=0.0, side=10.0):
    return np.array([x, y, x + side, y + side])


def linked(detections, max_gap=25):
    return link([(number, np.array(boxes).reshape(-1, 4)) for number, boxes in detections], 0.25, max_gap)


def test_a_face_that_leaves_its_first_place_begins_a_new_track():
    tracks = linked(
        [(i, [square(i)]) for i in range(12)]
    )  # from 7 on, less than a quarter of the first box is shared
    assert [track.numbers for track in tracks] == [list(range(7)), list(range(6, 12))]
    assert [(track.start, track.end) for track in tracks] == [(0, 7), (7, 12)]


def test_two_faces_that_come_close_keep_their_tracks():
    detections = [(i, [square(i), square(14 - i)][:: 1 if i % 2 else -1]) for i in range(5)]
    first, second = sorted(linked(detections), key=lambda track: track.boxes[0][0])
    assert [box[0] for box in first.boxes] == [0, 1, 2, 3, 4]
    assert [box[0] for box in second.boxes] == [14, 13, 12, 11, 10]


@pytest.mark.parametrize(("max_gap", "parts"), [(10, 1), (9, 2)])
def test_a_face_may_go_unseen_for_a_while(max_gap, parts):
    assert len(linked([(0, [square(0)]), (5, []), (10, [square(0)])], max_gap)) == parts


def test_false_alarms_and_a_single_bad_box_leave_no_trace(tmp_path):
    clip = open_clip(write(tmp_path / "a.mp4", [scene([])[0]] * 20, fps=5))  # a detection in every frame
    calls = iter(range(20))

    def detect(frame):
        i = next(calls)
        alarm = [square(100)] if i % 3 == 0 else []
        return np.array([square(0, side=18 if i == 7 else 10), *alarm])

    (track,) = find_tracks(clip, detect, 0.25)
    assert (track.start, track.end) == (0, 20)
    assert track.surrounding_box.tolist() == square(0).tolist()


def test_one_missing_detection_at_either_end_does_not_shorten_a_track(tmp_path):
    clip = open_clip(
        write(tmp_path / "a.mp4", [scene([])[0]] * 20, fps=15)
    )  # detections at 0, 3, ..., 18 and 19
    calls = iter([[], *[[square(0)]] * 6, []])
    (track,) = find_tracks(clip, lambda frame: np.array(next(calls)).reshape(-1, 4), 0.25)
    assert track.numbers == [3, 6, 9, 12, 15, 18]
    assert (track.start, track.end) == (0, 20)


def test_boxes_are_interpolated_between_detections():
    track = Track(0, square(0))
    for number in (10, 20):
        track.add(number, square(number / 2))
    assert track.boxes_at(np.array([5, 10])).tolist() == [square(2.5).tolist(), square(5).tolist()]


# ---- Boxes ------------------------------------------------------------------


@pytest.mark.parametrize("image_shape", [(256, 256), (128, 256), (256, 64)])
def test_crops_stay_in_the_frame_and_keep_their_shape(image_shape):
    random = np.random.default_rng(0)
    for _ in range(300):
        height, width = random.integers(50, 300, 2)
        corners = np.sort(random.uniform(0, 1, (2, 2)), axis=0) * (width, height)
        box = crop_box(corners.ravel(), (height, width), image_shape, increase=0.1)
        assert (
            box.left >= 0
            and box.top >= 0
            and box.left + box.width <= width
            and box.top + box.height <= height
        )
        assert all(number % 2 == 0 for number in box)
        aspect = image_shape[0] / image_shape[1]
        assert abs(box.width - aspect * box.height) <= 2 * max(1, aspect)


def test_the_box_grows_as_published_and_moves_inside():
    assert crop_box(np.array([100, 100, 150, 200]), (400, 400), (256, 256), 0.1) == (64, 90, 120, 120)
    assert crop_box(np.array([0, 300, 50, 400]), (400, 400), (256, 256), 0.1) == (0, 280, 120, 120)
    assert crop_box(np.array([50, 0, 250, 100]), (101, 400), (256, 256), 0.1) == (
        100,
        0,
        100,
        100,
    )  # more than the frame holds


# ---- The command line -------------------------------------------------------


def test_out_writes_a_crop_for_each_face(still, tmp_path, capsys):
    run("--inp", still, "--out", tmp_path / "new" / "crops", "--image_shape", "96,64", "--min_frames", 12)
    files = sorted((tmp_path / "new" / "crops").iterdir())
    assert [file.name for file in files] == ["two faces#000.mp4", "two faces#001.mp4"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(file) for file in files]
    frame, faces = Image.fromarray(open_clip(still).read([0])[0]), []
    for file, line in zip(files, lines, strict=True):
        crop = open_clip(file)
        assert (len(crop), crop.size, crop.fps) == (12, (64, 96), 25)
        width, height, left, top = map(int, re.search(r"(\d+)x(\d+) at (\d+),(\d+)$", line).groups())
        expected = np.asarray(
            frame.resize((96, 64), Image.Resampling.BICUBIC, (left, top, left + width, top + height)), float
        )
        assert np.abs(crop.read([6])[0] - expected).mean() < 8
        faces.append(
            next(i for i, (x, y) in enumerate(MIDDLES) if left < x < left + width and top < y < top + height)
        )
    assert sorted(faces) == [0, 1]


@pytest.mark.parametrize("installed", [True, False])
def test_the_printed_commands_cut_the_same_frames(still, tmp_path, capsys, monkeypatch, installed):
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


def test_without_any_ffmpeg_the_remedy_is_told_at_once(still, capsys, monkeypatch, tmp_path):
    def absent():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", absent)
    assert "install it, or give --out" in failure(capsys, "--inp", still)


def failure(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    return message[0]


def test_a_short_video_gives_its_whole_length_and_a_hint(tmp_path, capsys):
    frame, _ = scene([(60, 30)])
    run("--inp", write(tmp_path / "short.mp4", [frame] * 3), "--out", tmp_path)
    assert "short.mp4 has 3 frames, fewer than --min_frames 150" in capsys.readouterr().err
    assert len(open_clip(tmp_path / "short#000.mp4")) == 3


def test_faces_that_do_not_stay_are_told(tmp_path, capsys):
    frame, _ = scene([(60, 30)])
    video = write(tmp_path / "brief.mp4", [frame] * 4 + [scene([])[0]] * 4, fps=5)
    message = failure(capsys, "--inp", video, "--min_frames", 7, "--out", tmp_path / "crops")
    assert "no face stays in its place for 7 frames; the longest stays for 4" in message
    assert not (tmp_path / "crops").exists()


def test_a_video_without_faces_is_told(tmp_path, capsys):
    video = write(tmp_path / "empty.mp4", [scene([])[0]] * 2)
    assert "no face was found in its 2 frames" in failure(capsys, "--inp", video, "--out", tmp_path / "crops")
    assert not (tmp_path / "crops").exists()


def test_nothing_is_overwritten(still, tmp_path, capsys):
    earlier = tmp_path / "two faces#007.mp4"
    earlier.write_bytes(b"mine")
    assert f"{earlier}: exists" in failure(capsys, "--inp", still, "--out", tmp_path)
    assert list(tmp_path.iterdir()) == [earlier] and earlier.read_bytes() == b"mine"


def test_commands_are_printed_for_videos_only(tmp_path, capsys):
    write(tmp_path / "frames", [scene([])[0]])
    assert "give --out" in failure(capsys, "--inp", tmp_path / "frames")


def test_a_detector_that_is_not_installed_is_named(still, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(SystemExit):
        main(["--inp", str(still), "--detector", "face-alignment"])
    assert "pip install face-alignment" in capsys.readouterr().err
    assert isinstance(load_detector(None, "cpu"), CascadeDetector)
