"""Pieces of listed videos: frames, part of the picture, names, what is gone, going on after a kill."""

from __future__ import annotations

import csv
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data import cutting
from frames_dataset import identity
from media.clips import open_clip
from tests.media_files import encode_lossless
from tests.small import error_of

FOLDER = Path(__file__).parents[1] / "data" / "taichi-loading"
load_videos = importlib.import_module("data.taichi-loading.load_videos")  # a hyphen is no part of a name

HEADER = "video_id,start,end,bbox,fps,width,height,partition\n"
DOWNLOADER = """#!{python}
import shutil, sys, time
template, address = sys.argv[sys.argv.index("--output") + 1], sys.argv[-1]
name = address.split("=")[1]
open({log!r}, "a").write(name + "\\n")
path = template.replace("%(ext)s", "mp4").replace("%%", "%")
if name == "gone":
    sys.exit("ERROR: [youtube] gone: Video unavailable")
with open(path + ".part", "w") as part:
    for _ in range({beats} if name == "slow" else 1):
        print("a bit of the video", file=part, flush=True)
        time.sleep(0.05)
shutil.move(path + ".part", path)
shutil.copyfile({video!r}, path)
"""


def coded(number: int, width: int = 64, height: int = 32) -> np.ndarray:
    """A frame that tells its number: grey 5 times the number, with a white right half."""
    frame = np.full((height, width, 3), 5 * number, np.uint8)
    frame[:, width // 2 :] = 255
    return frame


def write_video(path: Path, frames: int = 50, fps: float = 25, scale: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode_lossless(path, (coded(number, 64 * scale, 32 * scale) for number in range(frames)), fps)


def write_list(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "list.csv"
    path.write_text(header + "".join(line + "\n" for line in lines))
    return path


def run(tmp_path: Path, *lines: str, more: tuple[str, ...] = (), header: str = HEADER) -> Path:
    """Load the listed clips with the videos that are in out/videos."""
    table, out = write_list(tmp_path, *lines, header=header), tmp_path / "out"
    load_videos.main(
        [
            "--metadata",
            str(table),
            "--out_folder",
            str(out),
            "--image_shape",
            "16,16",
            "--workers",
            "1",
            "--youtube",
            "no-such-program",
            *more,
        ]
    )
    return out


def numbers(clip: Path) -> list[int]:
    return [round(frame.mean() / 5) for frame in open_clip(clip)]


def report(out: Path) -> list[list[str]]:
    with (out / "report.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def downloader(tmp_path: Path, beats: int = 1) -> tuple[Path, Path]:
    """A program that stands for yt-dlp, and the file where it notes what it was asked for.

    beats: how often it writes to the video "slow", twenty times a second.
    """
    log = tmp_path / "asked.txt"
    video = write_video(tmp_path / "source" / "v.mp4", frames=10)
    program = tmp_path / "downloader"
    program.write_text(DOWNLOADER.format(python=sys.executable, log=str(log), video=str(video), beats=beats))
    program.chmod(0o755)
    return program, log


@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_clips_are_cut_cropped_and_named(tmp_path, suffix):
    write_video(tmp_path / "out" / "videos" / "-a_B.mp4")
    out = run(
        tmp_path,
        "-a_B,3,8,0-0-32-32,25,64,32,train",
        "-a_B,40,43,32-0-64-32,25,64,32,test",
        more=("--format", suffix),
    )
    end = suffix.removesuffix(".png")
    train, test = out / "train" / f"-a_B#000003#000008{end}", out / "test" / f"-a_B#000040#000043{end}"
    assert {path for split in ("train", "test") for path in (out / split).iterdir()} == {train, test}
    assert open_clip(train).size == (16, 16)
    assert numbers(train) == [3, 4, 5, 6, 7]
    white = np.stack(list(open_clip(test)))
    assert len(white) == 3 and white.min() >= 240
    assert report(out) == []


def test_another_rate_and_size_give_the_same_seconds_and_part(tmp_path):
    write_video(tmp_path / "out" / "videos" / "v.mp4", scale=2)  # listed as half as large and half as fast
    out = run(tmp_path, "v,5,10,0-0-32-32,12.5,64,32,train")
    clip = out / "train" / "v#000005#000010"
    assert numbers(clip) == list(range(10, 20))
    assert (
        open_clip(clip).read([0])[:, :, :-2].max() < 60
    )  # nothing of the white half, but where it is blended at the rim


def test_a_rate_that_is_rounded_in_the_list_moves_no_frame(tmp_path):
    write_video(tmp_path / "out" / "videos" / "v.mp4", fps=30000 / 1001)
    out = run(tmp_path, "v,41,45,0-0-32-32,29.97,64,32,train", "v,0,50,0-0-32-32,29.97,64,32,train")
    assert numbers(out / "train" / "v#000041#000045") == [41, 42, 43, 44]
    assert len(open_clip(out / "train" / "v#000000#000050")) == 50


def test_frames_are_the_same_however_many_are_read_at_once(tmp_path, monkeypatch):
    clip = open_clip(write_video(tmp_path / "v.mp4"))
    monkeypatch.setattr(cutting, "MAX_READ", 3 * 64 * 32 * 3)
    found = np.stack(list(cutting.read_frames(clip, range(7, 30))))
    assert (found == clip.read(range(7, 30))).all()


def test_the_person_is_the_identity_where_the_list_knows_it(tmp_path):
    for name in ("v", "w"):
        write_video(tmp_path / "out" / "videos" / f"{name}.mp4", frames=4)
    out = run(tmp_path, "v,0,2,0-0-32-32,25,64,32,train,anna", header=HEADER.strip() + ",person_id\n")
    assert [path.name for path in (out / "train").iterdir()] == ["anna#v#000000#000002"]
    out = run(tmp_path, "w#ben,0,2,0-0-32-32,25,64,32,train")
    assert {identity(path.name) for path in (out / "train").iterdir()} == {"anna", "ben"}


def test_what_is_gone_or_damaged_is_reported_and_the_rest_is_made(tmp_path):
    program, _ = downloader(tmp_path)
    videos = tmp_path / "out" / "videos"
    write_video(videos / "short.mp4", frames=10)
    (videos / "torn.mp4").write_bytes((videos / "short.mp4").read_bytes()[:-200])
    out = run(
        tmp_path,
        "fetched,0,5,0-0-32-32,25,64,32,train",
        "gone,0,5,0-0-32-32,25,64,32,train",
        "torn,0,5,0-0-32-32,25,64,32,train",
        "short,20,60,0-0-32-32,25,64,32,test",
        more=("--youtube", str(program)),
    )
    assert numbers(out / "train" / "fetched#000000#000005") == [0, 1, 2, 3, 4]
    reasons = {video: (clip, reason) for video, clip, reason in report(out)}
    assert set(reasons) == {"gone", "torn", "short"}
    assert reasons["gone"] == ("gone#000000#000005", "ERROR: [youtube] gone: Video unavailable")
    assert "10 frames" in reasons["short"][1]
    assert "damaged" in reasons["torn"][1]
    assert [path.name for path in (out / "train").iterdir()] == ["fetched#000000#000005"]


def test_a_list_of_which_no_clip_can_be_had_is_an_error(tmp_path, capsys):
    write_video(tmp_path / "out" / "videos" / "short.mp4", frames=10)
    line = "short,20,60,0-0-32-32,25,64,32,test"
    assert "none of its 1 clips can be had; see " in error_of(capsys, lambda: run(tmp_path, line))
    assert [row[0] for row in report(tmp_path / "out")] == ["short"]


def test_a_second_run_downloads_and_cuts_only_what_is_missing(tmp_path):
    program, log = downloader(tmp_path)
    lines = [
        f"{name},{start},{start + 3},0-0-32-32,25,64,32,train" for name in ("a", "b") for start in (0, 4)
    ]
    out = run(tmp_path, *lines, more=("--youtube", str(program)))
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (out / "videos" / "a.mp4").unlink()
    again = out / "train" / "b#000004#000007"
    again.rename(tmp_path / "moved")
    run(tmp_path, *lines, more=("--youtube", str(program)))
    assert sorted(log.read_text().split()) == ["a", "b"]
    assert numbers(again) == [4, 5, 6]
    assert all(path.stat().st_mtime_ns == times[path] for path in out.rglob("*.png") if path.parent != again)


def test_a_killed_download_ends_and_is_taken_up_again(tmp_path):
    program, log = downloader(tmp_path, beats=10**6)
    table = write_list(tmp_path, "slow,0,5,0-0-32-32,25,64,32,train")
    arguments = [
        "--metadata",
        str(table),
        "--out_folder",
        str(tmp_path / "out"),
        "--image_shape",
        "16,16",
        "--workers",
        "1",
        "--youtube",
        str(program),
    ]
    partial = tmp_path / "out" / "videos" / ".partial" / "slow.mp4.part"
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / "load_videos.py"), *arguments], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: partial.exists() and partial.stat().st_size)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "out" / "videos" / "slow.mp4").exists()
    wait_for(lambda: not grows(partial))  # nobody is left to write to the file that is about to be continued
    downloader(tmp_path)
    load_videos.main(arguments)
    assert numbers(tmp_path / "out" / "train" / "slow#000000#000005") == [0, 1, 2, 3, 4]
    assert log.read_text().split() == ["slow", "slow"]
    assert not partial.exists()


def grows(path: Path) -> bool:
    before = path.stat().st_size
    time.sleep(1)
    return path.stat().st_size > before


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_the_program_own_videos_still_work(tmp_path, capsys):
    write_video(tmp_path / "out" / "videos" / "mine.mp4", frames=10)
    out = run(tmp_path, "mine,0,5,0-0-32-32,25,64,32,train", "theirs,0,5,0-0-32-32,25,64,32,train")
    assert "1 of 2 videos" in capsys.readouterr().err
    assert len(open_clip(out / "train" / "mine#000000#000005")) == 5
    assert [line[0] for line in report(out)] == ["theirs"]


def test_without_the_program_and_videos_nothing_is_written(tmp_path, capsys):
    assert "no-such-program: no such program" in error_of(
        capsys, lambda: run(tmp_path, "v,0,5,0-0-32-32,25,64,32,train")
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line, told",
    [
        ("../v,0,5,0-0-32-32,25,64,32,train", "video_id"),
        ("v,5,5,0-0-32-32,25,64,32,train", "end must lie behind start"),
        ("v,0,5,0-0-32,25,64,32,train", "bbox"),
        ("v,0,5,0-0-65-32,25,64,32,train", "bbox"),
        ("v,0,5,a-0-32-32,25,64,32,train", "numbers"),
        ("v,0,5,0-0-32-32,0,64,32,train", "fps"),
        ("v,0,5,0-0-32-32,25,64,32,validation", "partition"),
        ("v,0", "numbers"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, capsys, line, told):
    fine = "u,0,5,0-0-32-32,25,64,32,train"
    error = error_of(capsys, lambda: run(tmp_path, fine, line))
    assert "line 3" in error and told in error
    assert not (tmp_path / "out").exists()


def test_two_clips_of_one_name_are_refused(tmp_path, capsys):
    lines = ("v,0,5,0-0-32-32,25,64,32,train", "v,0,5,32-0-64-32,25,64,32,train")
    assert "two clips of v" in error_of(capsys, lambda: run(tmp_path, *lines))


def test_the_published_list_is_read_and_names_its_test_pairs():
    clips = load_videos.read_list(FOLDER / "taichi-metadata.csv")
    assert len(clips) == 3334
    names = {f"{clip.name}.mp4" for clip in clips if clip.partition == "test"}
    with (FOLDER.parent / "taichi256.csv").open(newline="") as file:
        pairs = [name for row in csv.DictReader(file) for name in (row["source"], row["driving"])]
    assert set(pairs) <= names


def test_a_list_with_semicolons_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "list.csv"
    path.write_text(HEADER.replace(",", ";") + "v;0;5;0-0-32-32;25;64;32;train\n")
    arguments = ["--metadata", str(path), "--out_folder", str(tmp_path / "out")]
    assert "is separated by semicolons" in error_of(capsys, lambda: load_videos.main(arguments))
    assert not (tmp_path / "out").exists()
