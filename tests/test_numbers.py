"""Options: numbers without an end or without a meaning, boxes, and names that are cut short."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import app
import crop_video
import demo
import evaluate
import export
import run
from data import make_puppets, prepare
from faces.options import box_option
from modules.build import read_config
from tests.small import error_of, small_config, write_config
from utils.errors import ConfigError
from utils.values import WrongNumber, integer, number

load_videos = importlib.import_module("data.taichi-loading.load_videos")
LONG = "1" + 5000 * "0"
FOLDERS = ["--generated", ".", "--real", "."]


@pytest.mark.parametrize("text", ["", " ", "x", "1.0", "٣", "²", "1_0", "-1", "11", LONG, f"-{LONG}", "0x1"])
def test_no_integer(text: str) -> None:
    with pytest.raises(WrongNumber, match="is not a whole number from 0 to 10"):
        integer(text, 0, 10)


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "1e999", "-0.1", "10.5", LONG])
def test_no_number(text: str) -> None:
    with pytest.raises(WrongNumber, match="is not a number from 0 to 10"):
        number(text, 0, 10)


@pytest.mark.parametrize("value", ["2147483648", "999999999999", "1" + 30 * "0", LONG, "nan", "-1", "1e9"])
@pytest.mark.parametrize(
    ("main", "words"),
    [
        (demo.main, ["--size"]),
        (demo.main, ["--batch_size"]),
        (demo.main, ["--max_side"]),
        (demo.main, ["--best_frame"]),
        (demo.main, ["--strength"]),
        (demo.main, ["--smooth"]),
        (demo.main, ["--fps"]),
        (demo.main, ["--crop", "--face"]),
        (crop_video.main, ["--inp", "x.mp4", "--increase"]),
        (crop_video.main, ["--inp", "x.mp4", "--iou_with_initial"]),
        (crop_video.main, ["--inp", "x.mp4", "--min_frames"]),
        (evaluate.main, [*FOLDERS, "--frame_size", "64"]),
        (run.main, ["x.yaml", "--device_ids"]),
        (prepare.main, ["in", "out", "--workers"]),
        (prepare.main, ["in", "out", "--size"]),
        (prepare.main, ["in", "out", "--test_share"]),
        (make_puppets.main, ["--frames"]),
        (load_videos.main, ["--metadata", "x.csv", "--out_folder", "out", "--workers"]),
        (app.main, ["--port"]),
        (app.main, ["--keep"]),
    ],
)
def test_a_number_out_of_bounds_is_one_line(
    main: Callable, words: list[str], value: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    err = error_of(capsys, lambda: main([*words, value]))
    line = err.splitlines()[-1]
    assert (" is not a " in line or " is neither " in line) and len(line) < 6000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value", ["0,0,2147483648,2147483648", f"0,0,{LONG},90", "0,0,nan,90", "0,0,9,9,99999999999"]
)
def test_a_box_has_bounds(value: str, capsys) -> None:
    assert "is not four whole numbers" in error_of(capsys, lambda: demo.main(["--crop_source", value]))


def test_a_box_may_begin_with_a_minus_sign() -> None:
    assert demo.parse(["--crop_source", "-5,0,90,90"]).crop_source == (-5, 0, 90, 90)
    assert demo.parse(["--crop_driving", "-5,-6,90,90,-30"]).crop_driving == (-5, -6, 90, 90, -30)
    assert box_option("-5, 0, 90, 90") == (-5, 0, 90, 90)


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (run.main, ["x.yaml", "--mod", "train"]),
        (demo.main, ["--mode", "vox"]),
        (export.main, ["--mode", "vox", "--out", "x.pth"]),
        (evaluate.main, [*FOLDERS, "--metric", "l1"]),
        (crop_video.main, ["--in", "x.mp4"]),
        (prepare.main, ["in", "out", "--work", "2"]),
        (make_puppets.main, ["--video", "4"]),
        (load_videos.main, ["--meta", "x.csv", "--out_folder", "out"]),
        (app.main, ["--por", "7860"]),
    ],
)
def test_options_are_never_abbreviated(main: Callable, words: list[str], capsys) -> None:
    err = error_of(capsys, lambda: main(words))
    assert "unrecognized arguments" in err or "required: --" in err


@pytest.mark.parametrize(
    ("main", "words", "name"),
    [
        (run.main, ["x.yaml", "--checkpoint", ""], "--checkpoint"),
        (demo.main, ["--source_image", "", "--relative"], "--source_image"),
        (demo.main, ["--result_video="], "--result_video"),
        (prepare.main, ["in", ""], "OUT"),
    ],
)
def test_an_empty_value_is_neither_the_folder_nor_none(
    main: Callable, words: list[str], name: str, capsys
) -> None:
    assert f"argument {name}: its value is empty" in error_of(capsys, lambda: main(words))


def test_numbers_of_a_config_have_bounds(tmp_path: Path) -> None:
    text = write_config(tmp_path / "a.yaml", small_config()).read_text()
    for value in ("0x" + 5000 * "f", LONG, "-0x" + 5000 * "f"):
        path = tmp_path / "b.yaml"
        path.write_text(text.replace("num_epochs: 2", f"num_epochs: {value}"))
        with pytest.raises(ConfigError, match="not valid YAML") as told:
            read_config(path)
        assert len(str(told.value)) < 500


def test_the_environment_of_torchrun_has_bounds(tmp_path: Path, monkeypatch, capsys) -> None:
    path = str(write_config(tmp_path / "a.yaml", small_config()))
    for name, value in {"LOCAL_RANK": "0", "RANK": LONG, "WORLD_SIZE": "1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    assert "RANK='1000" in error_of(capsys, lambda: run.main([path]))
    assert sys.get_int_max_str_digits() == 4300
