"""The command: clips of every format, what is kept and what is computed again, and mistakes in one line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
from evaluation.comparisons import Lpips
from evaluation.detectors import IDENTITIES, LANDMARKS
from media.pictures import write_image
from tests.clips import plain_frames
from tests.media_files import encode_lossless
from utils.errors import CheckpointError

NAN = float("nan")
NOT_FOUND = (NAN, NAN)
SIZE = (32, 40)  # (H, W), not square

# ---- Detectors that find coloured dots ---------------------------------------


class DotLandmarks:
    """Landmark 0 is the red dot, landmark 1 the green one. Counts the frames it has seen."""

    name, version = "dots", "1"
    frames = 0
    stop_after = 10**9

    def __init__(self, puppets_folder: Path) -> None:
        pass

    def load(self, device: torch.device) -> None:
        pass

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        if DotLandmarks.frames >= DotLandmarks.stop_after:
            raise KeyboardInterrupt
        DotLandmarks.frames += len(frames)
        return np.stack(
            [[self.dot(frame[..., channel]) for channel in (0, 1)] for frame in frames]
        )  # (B, 2, 2)

    @staticmethod
    def dot(channel: np.ndarray) -> tuple[float, float]:
        y, x = np.unravel_index(channel.argmax(), channel.shape)
        return (float(x), float(y)) if channel[y, x] == 255 else NOT_FOUND


class BlueIdentity(DotLandmarks):
    """The embedding is (1, brightest blue); nobody is there without any."""

    name = "blue"

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        blue = frames[..., 2].max((1, 2)) / 255  # (B,)
        return np.where(blue[:, None] > 0, np.stack([np.ones_like(blue), blue], axis=1), NAN)


@pytest.fixture(autouse=True)
def dots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LANDMARKS, "dots", DotLandmarks)
    monkeypatch.setitem(IDENTITIES, "blue", BlueIdentity)
    monkeypatch.setattr(DotLandmarks, "frames", 0)


def dotted(red: tuple[int, int] | None, green: tuple[int, int] | None, blue: int = 51) -> np.ndarray:
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[0, 0, 2] = blue
    for channel, place in enumerate((red, green)):
        if place is not None:
            frame[place[1], place[0], channel] = 255
    return frame


def write_strip(path: Path, frames: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.concatenate(frames, axis=1))


def write_folder(path: Path, frames: list[np.ndarray]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        write_image(path / f"{number}.png", frame)


def run(folder: Path, *options: str) -> dict:
    folders = {"--generated": "png", "--real": "test", "--out": "out"}
    places = [text for option, name in folders.items() for text in (option, str(folder / name))]
    evaluate.main([*places, "--device", "cpu", *options])
    return json.loads((folder / "out" / "evaluation.json").read_text())


DOTS = ("--metrics", "akd", "mkr", "aed", "--landmarks", "dots", "--identity", "blue")


# ---- The command -------------------------------------------------------------


def test_reconstruction_strips_against_clips_of_any_format(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    still = [dotted((5, 6), (10, 20))]
    write_folder(tmp_path / "test" / "id1#a.v2.mp4", still)  # names match up to the first dot
    write_strip(tmp_path / "png" / "id1#a.v2.png", still)
    encode_lossless(tmp_path / "test" / "id2.mp4", [dotted((5, 6), (10, 20))] * 3)
    # Moved by 3 pixels to the right; red missing and another blue; both missing, nobody there.
    write_strip(
        tmp_path / "png" / "id2.png",
        [dotted((8, 6), (13, 20)), dotted(None, (10, 24), 255), dotted(None, None, 0)],
    )
    means = run(tmp_path, *DOTS)["metrics"]
    assert means["akd"] == {
        "mean_over_frames": pytest.approx((0 + 1.5 + 2) / 3),
        "mean_over_videos": pytest.approx(1.75 / 2),
        "frames": 3,
    }
    assert (
        means["mkr"]["mean_over_frames"] == pytest.approx((0 + 0 + 0.5 + 1) / 4)
        and means["mkr"]["frames"] == 4
    )
    assert means["aed_squared"]["mean_over_frames"] == pytest.approx((0 + 0 + 0.8**2) / 3)
    assert means["aed_euclidean"]["mean_over_frames"] == pytest.approx((0 + 0 + 0.8) / 3)
    rows = pd.read_csv(tmp_path / "out" / "evaluation.csv").set_index("video")
    assert rows.index.tolist() == ["id1#a", "id2"] and rows["frames"].tolist() == [1, 3]
    assert rows.loc["id2", "akd"] == pytest.approx(1.75) and rows.loc["id2", "akd_frames"] == 2
    table = capsys.readouterr().out
    assert "AKD, pixels" in table and "1.1667" in table


def test_l1_weighs_frames_and_not_videos(tmp_path: Path) -> None:
    write_folder(tmp_path / "test" / "short", list(plain_frames(0)))
    write_strip(tmp_path / "png" / "short.png", list(plain_frames(255)))
    write_folder(tmp_path / "test" / "long", list(plain_frames(7, 8, 9)))
    write_strip(tmp_path / "png" / "long.png", list(plain_frames(7, 8, 9)))
    summary = run(tmp_path, "--metrics", "l1", "psnr")
    assert summary["metrics"]["l1"] == {"mean_over_frames": 0.25, "mean_over_videos": 0.5, "frames": 4}
    assert summary["metrics"]["psnr"]["mean_over_frames"] == pytest.approx(
        3 / 4 * 10 * np.log10(12 * 255**2), abs=1e-4
    )
    assert (summary["videos"], summary["frames"]) == (2, 4)


def test_two_folders_of_strips_that_are_not_square(tmp_path: Path) -> None:
    for folder in ("png", "test"):
        write_strip(tmp_path / folder / "a.png", [dotted((5, 6), (x, 20)) for x in range(3)])
    summary = run(tmp_path, *DOTS, "--frame_size", str(SIZE[0]), str(SIZE[1]))
    assert summary["frames"] == 3 and summary["metrics"]["akd"]["mean_over_frames"] == 0


def test_nothing_found_anywhere_is_said_and_not_counted(tmp_path: Path) -> None:
    for folder in ("png", "test"):
        write_folder(tmp_path / folder / "a", [dotted(None, None, 0)] * 2)
    means = run(tmp_path, *DOTS)["metrics"]
    assert all(
        means[name] == {"mean_over_frames": None, "mean_over_videos": None, "frames": 0} for name in means
    )


# ---- What is kept ------------------------------------------------------------


def write_pairs(folder: Path, clips: int = 3, frames: int = 2) -> None:
    for number in range(clips):
        write_folder(folder / "test" / f"c{number}", [dotted((5, 6), (10, 20))] * frames)
        write_strip(folder / "png" / f"c{number}.png", [dotted((6, 6), (10, 20))] * frames)


def test_what_has_not_changed_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path)
    first = run(tmp_path, *DOTS)
    assert DotLandmarks.frames == 3 * 2 * 2
    assert run(tmp_path, *DOTS) == first and DotLandmarks.frames == 12

    write_strip(tmp_path / "png" / "c1.png", [dotted((9, 6), (10, 20))] * 2)
    changed = run(tmp_path, *DOTS)
    assert DotLandmarks.frames == 12 + 2
    assert changed["metrics"]["akd"]["mean_over_videos"] == pytest.approx((0.25 + 1 + 0.25) / 3)

    frame = tmp_path / "test" / "c2" / "1.png"
    os.utime(frame, ns=(0, frame.stat().st_mtime_ns + 1))
    run(tmp_path, *DOTS)
    assert DotLandmarks.frames == 14 + 2
    monkeypatch.setattr(DotLandmarks, "version", "2")
    run(tmp_path, *DOTS)
    assert DotLandmarks.frames == 16 + 12


def test_damaged_results_are_computed_again(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    first = run(tmp_path, *DOTS)
    for number, kept in enumerate(sorted((tmp_path / "png" / ".evaluation" / "dots").iterdir())):
        kept.write_bytes([b"", b"no zip", kept.read_bytes()[:-20]][number])
    assert run(tmp_path, *DOTS) == first and DotLandmarks.frames == 12 + 6


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path)
    monkeypatch.setattr(DotLandmarks, "stop_after", 6)  # in the middle of the second of three pairs
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *DOTS)
    assert stopped.value.code == 130 and not (tmp_path / "out").exists()
    monkeypatch.undo()
    monkeypatch.setitem(LANDMARKS, "dots", DotLandmarks)
    monkeypatch.setitem(IDENTITIES, "blue", BlueIdentity)
    DotLandmarks.frames = 0
    assert run(tmp_path, *DOTS)["metrics"]["akd"]["mean_over_frames"] == 0.25
    assert DotLandmarks.frames == 8  # the first pair was kept


def test_results_that_cannot_be_kept_are_warned_of_and_reported(tmp_path: Path) -> None:
    write_pairs(tmp_path, clips=1)
    (tmp_path / "test" / ".evaluation").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="results can't be kept there"):
        assert run(tmp_path, *DOTS)["metrics"]["akd"]["mean_over_frames"] == 0.25


# ---- Mistakes ----------------------------------------------------------------


def longer(folder: Path) -> None:
    write_folder(folder / "test" / "c1", [dotted(None, None)] * 5)


def larger(folder: Path) -> None:
    write_folder(folder / "test" / "a", [np.zeros((16, 16, 3), np.uint8)])
    write_folder(folder / "png" / "a", [np.zeros((16, 18, 3), np.uint8)])


def other_strip(folder: Path) -> None:
    write_strip(folder / "png" / "c1.png", [np.zeros((16, 16, 3), np.uint8)])


def above_the_strips(folder: Path) -> None:
    write_folder(folder / "png" / "png", [dotted(None, None)])


MISTAKES = {
    "generated only": (
        lambda d: write_strip(d / "png" / "new.png", [dotted(None, None)]),
        DOTS,
        "png: new without a real",
    ),
    "real only": (
        lambda d: write_folder(d / "test" / "new", [dotted(None, None)]),
        DOTS,
        "png: lacks new of",
    ),
    "a folder too high": (above_the_strips, DOTS, "give --generated"),
    "lengths": (longer, DOTS, "c1.png: has 2 frames and"),
    "sizes": (larger, DOTS, "its frames are 16x18 (height x width), those of"),
    "size of a strip": (
        other_strip,
        DOTS,
        "c1.png: is 16x16 (height x width), which is not a row of frames of 32x40",
    ),
    "names": (
        lambda d: write_folder(d / "test" / "c1.mp4", [dotted(None, None)]),
        DOTS,
        "c1 and c1.mp4 both count as 'c1'",
    ),
    "no detector": (
        lambda d: None,
        ("--metrics", "akd", "mkr"),
        "akd and mkr need --landmarks, one of face-alignment",
    ),
    "unknown detector": (
        lambda d: None,
        ("--metrics", "aed", "--identity", "faces"),
        "--identity faces: no such detector; choose one of insightface",
    ),
    "no puppets": (
        lambda d: None,
        ("--metrics", "akd", "--landmarks", "puppets"),
        "train: holds no puppets with landmarks",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_with_names(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prepare, options, expected = MISTAKES[name]
    write_pairs(tmp_path, clips=2)
    prepare(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *options)
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(lines) == 1 and expected in lines[0]
    assert not (tmp_path / "out").exists()


def test_where_the_results_go_is_looked_at_first(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_pairs(tmp_path, clips=1)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemExit):
        run(tmp_path, *DOTS)
    assert "out: the results can't be written there; choose another --out" in capsys.readouterr().err
    assert DotLandmarks.frames == 0


def test_damaged_weights_are_one_line_that_says_what_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"half a download")
    with pytest.raises(
        CheckpointError, match=r"^lpips needs weights .*: put alexnet-owt-7be5be79\.pth into .*checkpoints$"
    ):
        Lpips().load(torch.device("cpu"))


def test_an_optional_package_is_asked_for_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    nothing_installed = [path for path in sys.path if "site-packages" not in path]
    monkeypatch.setattr(sys, "path", nothing_installed)
    write_pairs(tmp_path, clips=1)
    with pytest.raises(SystemExit):
        run(tmp_path, "--metrics", "akd", "--landmarks", "face-alignment")
    assert capsys.readouterr().err == (
        "error: the detector face-alignment needs the package face-alignment; install it with: "
        "pip install face-alignment\n"
    )
