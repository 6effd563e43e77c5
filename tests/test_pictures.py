"""The pictures of the README: made from a checkpoint alone, the same each time, and true to the networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from media.clips import open_clip
from media.pictures import read_image
from modules.build import build_generator, build_kp_detector
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from tests.clips import write_clip, write_dataset
from tests.small import randomize, small_config, write_config
from tools import pictures

SIZE = 32


def networks(config: dict) -> tuple[OcclusionAwareGenerator, KPDetector]:
    torch.manual_seed(0)
    generator, kp_detector = build_generator(config), build_kp_detector(config)
    for network in (generator, kp_detector):
        randomize(network).eval()
    return generator, kp_detector


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    """The arguments that name the config and the checkpoint of a small model."""
    config = small_config()
    generator, kp_detector = networks(config)
    torch.save(
        {"generator": generator.state_dict(), "kp_detector": kp_detector.state_dict()},
        tmp_path / "small.pth.tar",
    )
    return [
        "--config",
        str(write_config(tmp_path / "small.yaml", config)),
        "--checkpoint",
        str(tmp_path / "small.pth.tar"),
    ]


def complaint(capsys: pytest.CaptureFixture, argv: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        pictures.main(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_one_command_makes_every_picture(
    model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pictures, "TEASER_DRIVING", pictures.TEASER_DRIVING[:1]
    )  # fewer puppets, to take less time
    monkeypatch.setattr(pictures, "INSIDE_PAIRS", pictures.INSIDE_PAIRS[:1])
    out = tmp_path / "out"
    out.mkdir()
    pictures.main([*model, "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {
        "source.png",
        "driving.mp4",
        "teaser.gif",
        "inside.png",
        "absolute-vs-relative.png",
        "preview.jpg",
        "paste-back.jpg",
        "face-all.jpg",
        "size.jpg",
        "examples",
    }
    assert read_image(out / "source.png").shape == (256, 256, 3)
    driving = open_clip(out / "driving.mp4")
    assert (len(driving), driving.fps, tuple(driving.size)) == (72, 25, (256, 256))


def test_the_same_model_gives_the_same_bytes(model: list[str], tmp_path: Path) -> None:
    contents = []
    for run in ("a", "b"):
        out = tmp_path / run
        out.mkdir()
        loaded = pictures.load_picture_model(Path(model[1]), Path(model[3]))
        pictures.write_teaser(out / "teaser.gif", loaded, poses=3, cell=SIZE)
        pictures.write_inside(out / "inside.png", loaded)
        contents.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert len(contents[0]) == 2
    assert contents[0] == contents[1]


def test_driving_puppets_begin_near_rest() -> None:
    performances = [pictures.performance(number, 24) for number in range(20)]
    assert all(len(poses) == 24 for poses in performances)
    unrest = np.array([[pictures.unrest(pose) for pose in poses] for poses in performances])  # (20, 24)
    assert unrest[:, 0].max() < 0.5 * unrest.mean()


def test_the_teaser_goes_forth_and_back_on_white(model: list[str], tmp_path: Path) -> None:
    loaded = pictures.load_picture_model(Path(model[1]), Path(model[3]))
    pictures.write_teaser(tmp_path / "teaser.gif", loaded, poses=4, cell=80)
    frames = list(open_clip(tmp_path / "teaser.gif"))
    gap, columns = pictures.GAP, 1 + len(pictures.TEASER_DRIVING)
    assert len(frames) == 6
    assert np.array_equal(frames[1], frames[5])
    assert not np.array_equal(frames[0], frames[3])
    assert all((frame[:, :gap] == 255).all() and (frame[:gap] == 255).all() for frame in frames)
    assert frames[0].shape[1] == columns * 80 + (columns + 1) * gap


def test_cells_keep_their_pixels() -> None:
    small, large = np.full((4, 4, 3), 1, np.uint8), np.full((8, 10, 3), 2, np.uint8)
    sheet, gap = pictures.grid([[small, large], [None, small]]), pictures.GAP
    assert sheet.shape == (12 + 3 * gap, 14 + 3 * gap, 3)
    assert np.array_equal(sheet[gap + 2 : gap + 6, gap : gap + 4], small)
    assert np.array_equal(sheet[gap : gap + 8, 2 * gap + 4 : 2 * gap + 14], large)
    assert (sheet != 255).any(axis=2).sum() == 16 + 80 + 16


def test_a_sheet_shows_pairs_of_different_identities_by_each_model(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = write_dataset(tmp_path / "data", train=1, test=3)
    write_clip(data / "test" / "id100#7", seed=9)
    heights = []
    for checkpoints in (model[3:], [model[3], model[3]]):
        arguments = [*model[:3], *checkpoints, "--data", str(data), "--sheet", str(tmp_path / "sheet.png")]
        pictures.main(arguments)
        heights.append(read_image(tmp_path / "sheet.png").shape[0])
    row = SIZE + pictures.GAP
    assert heights == [6 * 2 * row + pictures.GAP, 6 * 3 * row + pictures.GAP]
    assert capsys.readouterr().out.count("sheet.png") == 2


def test_mistakes_are_one_line(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    alone = tmp_path / "alone"
    write_dataset(alone, train=1, test=1)
    assert "one identity" in complaint(
        capsys, [*model, "--data", str(alone), "--sheet", str(tmp_path / "sheet.png")]
    )
    assert "check that its folder exists" in complaint(capsys, [*model, "--out", str(tmp_path / "absent")])
    flat = write_config(
        tmp_path / "flat.yaml", small_config({"model_params.generator_params.estimate_occlusion_map": False})
    )
    assert "occlusion map" in complaint(capsys, ["--config", str(flat), *model[2:]])
