"""Names that are no UTF-8 go through all programs; names with escape sequences don't reach the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import crop_video
import demo
import evaluate
import run
from data import prepare
from media.pictures import write_image
from reconstruction import read_scores
from tests.clips import write_clip
from tests.demo_files import write_model
from tests.small import error_of, pixels, small_config, write_config
from tests.training import config_file, start
from utils.progress import Progress

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names that other systems don't have")
BYTES = os.fsdecode(b"a\xff")
RAW = "x\n\x1b[31mred\x9b\r"
SEEN = r"x\n\x1b[31mred\x9b\r"


@pytest.mark.parametrize("name", [BYTES, RAW])
def test_odd_names_go_through_all_programs(tmp_path: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    """Prepared, checked, trained on, reconstructed and evaluated."""
    for i in range(3):
        write_clip(tmp_path / "in" / f"{name}{i}", seed=i)
    (tmp_path / "in" / f"{name}.txt").write_text("")
    root = tmp_path / "data"
    prepare.main([str(tmp_path / "in"), str(root), "--size", "32", "--workers", "1", "--test_share", "0.6"])
    config = config_file(root, train_params__num_epochs=1, train_params__batch_size=1)
    prepare.main(["--check", str(root), "--config", str(config)])
    shutil.copy(config, config.with_name(f"{name}.yaml"))
    folder = start(root, config.with_name(f"{name}.yaml"))
    assert folder.name.startswith(name)
    again = [str(config), "--mode", "reconstruction", "--checkpoint", str(folder), "--device", "cpu"]
    run.main(again)
    assert len(scores := read_scores(folder / "reconstruction" / "l1.csv")) == 2
    run.main([*again, "--skip_existing"])
    assert read_scores(folder / "reconstruction" / "l1.csv") == scores
    png = folder / "reconstruction" / "png"
    evaluate.main(["--generated", str(png), "--real", str(root / "test"), "--device", "cpu"])
    assert (png / "evaluation.csv").read_bytes().count(os.fsencode("a" if name == BYTES else "red")) >= 2
    shown = "".join(capsys.readouterr())
    assert not any(char in shown for char in "\x1b\x9b\r\udcff") and "\nred" not in shown


def test_results_are_named_in_one_line(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(Path("small.yaml"), small_config())
    write_model(Path("small.pth.tar"))
    for name in ("source.png", f"{RAW}.png"):
        write_image(name, pixels(0))
    model = ["--config", "small.yaml", "--checkpoint", "small.pth.tar", "--cpu"]
    one = [*model, "--source_image", f"{RAW}.png", "--driving_video", "source.png"]
    demo.main([*one, "--result_video", RAW])
    demo.main([*one, f"{RAW}.png", "--result_video", f"{RAW}s"])
    demo.main([*one, f"{RAW}.png", "--result_video", f"{RAW}s", "--skip_existing"])
    error_of(capsys, lambda: crop_video.main(["--inp", f"{RAW}.png", "--out", RAW]))
    demo.main([*one, "--result_video", f"{RAW}s2"])
    out, err = capsys.readouterr()
    assert f"{SEEN}s2: 1 frames in" in out
    assert not any(char in out + err for char in "\x1b\x9b\r") and "\nred" not in out + err


def test_a_bar_and_its_notes_are_one_line(capsys: pytest.CaptureFixture) -> None:
    with Progress(2, f"motion of {RAW}", "frames") as progress:
        progress.advance(1, RAW)
        progress.tell(RAW)
    out, err = capsys.readouterr()
    assert (
        out == f"{SEEN}\n" and err.startswith(f"motion of {SEEN}: 1/2 frames") and err.endswith(f"{SEEN}\n")
    )


@pytest.mark.parametrize("name", [".", "./", "..", "sub/.."])
def test_a_folder_that_cannot_be_replaced(tmp_path: Path, monkeypatch, capsys, name: str) -> None:
    (tmp_path / "work" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "sub")
    (tmp_path / "source.png").parent.mkdir(exist_ok=True)
    write_config(tmp_path / "small.yaml", small_config())
    write_model(tmp_path / "small.pth.tar")
    write_image(tmp_path / "source.png", pixels(0))
    model = [
        "--config",
        str(tmp_path / "small.yaml"),
        "--checkpoint",
        str(tmp_path / "small.pth.tar"),
        "--cpu",
    ]
    inputs = ["--source_image", str(tmp_path / "source.png"), "--driving_video", str(tmp_path / "source.png")]
    err = error_of(capsys, lambda: demo.main([*model, *inputs, "--result_video", name]))
    assert "is a folder that can't be replaced" in err or "there is no folder" in err
    assert Path.cwd().is_dir() and not list(Path.cwd().iterdir())
