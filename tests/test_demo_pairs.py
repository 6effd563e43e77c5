"""demo.py with several sources and driving videos."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import demo
from inference.animator import Animator
from media.clips import open_clip
from media.pictures import write_image
from media.writer import VideoWriter
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from tests.demo_files import FRAMES, MODEL, SIZE, assert_refused, picture
from tests.small import error_of

ROOT = Path(__file__).parent.parent
SOURCES = ["source.png", "more"]  # the folder holds two
DRIVINGS = ["driving", "talk.mp4"]
RESULTS = [f"{driving}-{source}.mp4" for driving in ("driving", "talk") for source in ("b10", "b9", "source")]


@pytest.fixture(autouse=True)
def folder(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the inputs as the working folder, with more pictures."""
    for name in ("good.yaml", "good.pth.tar", "source.png", "talk.mp4", "text.png"):
        shutil.copy(inputs / name, tmp_path)
    shutil.copytree(inputs / "driving", tmp_path / "driving")
    (tmp_path / "more").mkdir()
    write_image(tmp_path / "more" / "b10.png", picture(20))
    write_image(tmp_path / "more" / "b9.png", picture(21, 48))
    (tmp_path / "more" / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*options: str) -> list[str]:
    return [*MODEL, "--source_image", *SOURCES, "--driving_video", *DRIVINGS, *options]


def frames_of(path: str | Path) -> np.ndarray:
    return np.stack(list(open_clip(path)))


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[Path, list[np.ndarray]]:
    """The frames of each result before they are encoded."""
    frames: dict[Path, list[np.ndarray]] = {}
    write = VideoWriter.write

    def record(self: VideoWriter, frame: np.ndarray) -> None:
        frames.setdefault(self.path, []).append(frame)
        write(self, frame)

    monkeypatch.setattr(VideoWriter, "write", record)
    return frames


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) == FRAMES and np.abs(np.stack(a).astype(int) - np.stack(b)).max() <= 1


# ---- What is written -----------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--relative", "--find_best_frame", "--smooth", "--side_by_side", "--batch_size", "3"],
        ["--crop_source", "2,2,26,26", "--crop_driving", "0,0,30,30", "--paste_back", "--size", "64"],
    ],
)
def test_each_result_is_that_of_its_pair_alone(
    options: list[str], written: dict[Path, list[np.ndarray]]
) -> None:
    demo.main(command(*options))
    assert names("results") == sorted(RESULTS)
    for source in ("source.png", "more/b10.png", "more/b9.png"):
        for driving in DRIVINGS:
            alone = Path(f"{Path(driving).stem}-{Path(source).stem}.mp4")
            pair = ["--source_image", source, "--driving_video", driving, "--result_video", str(alone)]
            demo.main([*MODEL, *pair, *options])
            assert same(written["results" / alone], written[alone])
            assert open_clip("results" / alone).fps == open_clip(alone).fps


def test_sources_are_encoded_and_videos_analysed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, looked = [], []
    encode, detect = OcclusionAwareGenerator.encode, KPDetector.forward
    monkeypatch.setattr(
        OcclusionAwareGenerator, "encode", lambda self, x: (encoded.append(1), encode(self, x))[1]
    )
    monkeypatch.setattr(KPDetector, "forward", lambda self, x: (looked.append(len(x)), detect(self, x))[1])
    demo.main(command("--plain", "--relative", "--find_best_frame"))
    assert len(encoded) == 3
    assert sum(looked) == 3 + 2 * FRAMES  # of the sources, and of the frames


def test_what_is_there_is_skipped(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("results").mkdir()
    for name in RESULTS[:4]:
        Path("results", name).write_text("mine")
    encoded = []
    monkeypatch.setattr(Animator, "__init__", counted(Animator.__init__, encoded))
    demo.main(command("--skip_existing", "--audio"))
    out = capsys.readouterr().out
    assert "4 of 6 results exist and are skipped" in out and out.count("frames/s") == 2
    assert [name for name in RESULTS if Path("results", name).stat().st_size == 4] == RESULTS[:4]
    assert len(encoded) == 2 and open_clip("results/talk-source.mp4").has_audio
    demo.main(command("--skip_existing"))
    assert "6 of 6 results exist" in capsys.readouterr().out and len(encoded) == 2


def counted(function, calls: list):
    def wrapped(*arguments, **named):
        calls.append(1)
        return function(*arguments, **named)

    return wrapped


def test_motion_of_each_video_is_saved_and_drives(written: dict[Path, list[np.ndarray]]) -> None:
    demo.main(command("--save_motion", "motions"))
    assert names("motions") == ["driving.npz", "talk.npz"]
    motions = ["--driving_motion", "motions/driving.npz", "motions/talk.npz"]
    demo.main([*MODEL, "--source_image", *SOURCES, *motions, "--result_video", "again"])
    assert names("again") == names("results")
    for name in RESULTS:
        assert same(written[Path("again", name)], written[Path("results", name)])


def test_one_bar_for_all(capsys: pytest.CaptureFixture) -> None:
    demo.main(command())
    lines = [line for line in capsys.readouterr().err.splitlines() if "frames/s" in line]
    assert lines and all(f"/{(2 + 6) * FRAMES} frames" in line for line in lines)


def test_a_signal_keeps_whole_results_only() -> None:
    with VideoWriter("long.mp4", 25) as writer:
        for number in range(3000):
            writer.write(np.roll(picture(0), number, axis=1))
    options = [*MODEL, "--source_image", "source.png", "--driving_video", "driving", "long.mp4"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "demo.py"), *options, "--result_video", "results"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout.readline().startswith("results/driving-source.mp4: ")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "stopped: results has 1 of 2 results" in err
    assert (
        names("results") == ["driving-source.mp4"] and len(frames_of("results/driving-source.mp4")) == FRAMES
    )


# ---- Mistakes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--result_video all.mp4", "--result_video all.mp4: several results go into a folder"),
        ("--result_video source.png", "several results go into a folder"),
        ("--result_video no/where", "--result_video no/where: there is no folder no; make it first"),
        ("--save_motion all.npz", "--save_motion all.npz: the motion of several videos goes into a folder"),
        ("--source_image source.png more/source.png", "driving-source.mp4: would be the result of"),
        ("--source_image source.png more/Source.png", "driving-Source.mp4: would be the result of"),
        ("--source_image source.png text.png", "text.png: can't be read as a picture"),
        ("--driving_video driving absent.mp4", "absent.mp4: does not exist"),
        ("--best_frame 9", "--best_frame 9: driving has the frames 0 to 6"),
        ("--crop_source 40,0,60,30", "--crop_source 40,0,60,30: lies outside source.png"),
        ("--face all --crop", "--face all needs --paste_back"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture, options: str, message: str
) -> None:
    assert_refused(folder, capsys, command(*options.split()), message)


def test_no_input_is_replaced(capsys: pytest.CaptureFixture) -> None:
    shutil.copy("talk.mp4", "a-source.mp4")
    shutil.copy("talk.mp4", "a.mp4")
    options = [*MODEL, "--source_image", "source.png", "--driving_video", "a.mp4", "a-source.mp4"]
    err = error_of(capsys, lambda: demo.main([*options, "--result_video", "."]))
    assert "a-source.mp4 would replace --driving_video a-source.mp4" in err


def test_a_wrong_frame_leaves_the_results_before_it(capsys: pytest.CaptureFixture) -> None:
    write_image("driving/0000003.png", picture(0, SIZE + 2))
    pair = ["--source_image", "source.png", "--driving_video", "talk.mp4", "driving"]
    err = error_of(capsys, lambda: demo.main([*MODEL, *pair]))
    assert "0000003.png: is 34x34" in err and names("results") == ["talk-source.mp4"]
