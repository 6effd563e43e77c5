"""Mistakes on run.py's command line: one clear line, exit status 2, and nothing made."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

import export
import run
from checkpoints.files import NETWORKS, read_checkpoint
from modules.build import build_discriminator, build_generator, build_kp_detector
from tests.clips import write_dataset
from tests.small import small_config, write_config

ROOT = Path(__file__).parent.parent
BUILDERS = {
    "generator": build_generator,
    "discriminator": build_discriminator,
    "kp_detector": build_kp_detector,
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a good config, data and checkpoint, and bad ones of each."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data", train=2)
    config = small_config()
    write_config(tmp_path / "good.yaml", config)
    write_config(tmp_path / "typo.yaml", small_config({"train_params.num_epoch": 3}))
    write_config(tmp_path / "nodata.yaml", small_config({"dataset_params.root_dir": "nowhere"}))
    write_config(tmp_path / "other.yaml", small_config({"model_params.common_params.num_kp": 2}))
    write_config(tmp_path / "rainbow.yaml", small_config({"visualizer_params.colormap": "no_such_map"}))
    write_config(tmp_path / "batch.yaml", small_config({"train_params.batch_size": 3}))
    write_config(tmp_path / "size.yaml", small_config({"dataset_params.frame_shape": [64, 64, 3]}))
    checkpoint = {name: BUILDERS[name](config).state_dict() for name in NETWORKS}
    torch.save(checkpoint, tmp_path / "good.pth.tar")
    torch.save({"generator": {}}, tmp_path / "half.pth.tar")
    other = {"weight": torch.ones(1)}
    torch.save({"generator": other, "kp_detector": other}, tmp_path / "foreign.pth.tar")
    (tmp_path / "damaged.pth.tar").write_bytes((tmp_path / "good.pth.tar").read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give one config"),
        ("good.yaml --config good.yaml", "give one config"),
        ("good.yaml --mode reconstruct", "invalid choice: 'reconstruct'"),
        ("good.yaml --device_ids 0;1", "'0;1' is not a whole number from 0 to 1023"),
        (
            "good.yaml --mode reconstruction",
            "reconstruction needs --checkpoint (a .pth.tar written by training",
        ),
        ("good.yaml --mode animate", "animate needs --checkpoint"),
        ("absent.yaml", "absent.yaml: no such config file"),
        ("empty", "empty: can't be read as a config"),
        ("typo.yaml", "typo.yaml: unknown key 'train_params.num_epoch'"),
        ("nodata.yaml", "nowhere: no such folder"),
        ("batch.yaml", "an epoch has 2 samples, less than one batch of 3"),
        ("size.yaml", "its frames are 32x32 (height x width), frame_shape is 64x64"),
        ("rainbow.yaml", "matplotlib has no colormap 'no_such_map'"),
        ("good.yaml --device cuda", "no CUDA device"),
        ("good.yaml --device_ids 0,1", "no CUDA device"),
        ("good.yaml --device mps", "no Apple GPU"),
        ("good.yaml --log_dir good.yaml", "the run's folder can't be made"),
        ("good.yaml --checkpoint absent.pth.tar", "absent.pth.tar: no such checkpoint"),
        ("good.yaml --checkpoint empty", "empty: holds no checkpoint"),
        ("good.yaml --checkpoint damaged.pth.tar", "damaged.pth.tar: damaged, or not a checkpoint"),
        (
            "good.yaml --checkpoint half.pth.tar",
            "half.pth.tar: has no 'generator' and 'kp_detector'; it holds ['generator']",
        ),
        ("good.yaml --checkpoint foreign.pth.tar", "its 'generator' does not fit good.yaml"),
        ("other.yaml --checkpoint good.pth.tar", "its 'generator' does not fit other.yaml"),
        ("other.yaml --checkpoint good.pth.tar --mode animate", "its 'generator' does not fit other.yaml"),
    ],
)
def test_a_mistake_is_one_line(
    place: Path, capsys: pytest.CaptureFixture, arguments: str, message: str
) -> None:
    if torch.cuda.is_available() and "no CUDA" in message:
        arguments, message = "good.yaml --device_ids 0,99", "no CUDA device 99"
    before = sorted(place.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        run.main(arguments.split())
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert len([line for line in err.splitlines() if "error:" in line]) == 1 and "Traceback" not in err
    assert sorted(place.rglob("*")) == before


def test_training_leaves_small_numbers_to_the_rest_of_the_process(place: Path) -> None:
    with pytest.raises(SystemExit):
        run.main(["nodata.yaml", "--device", "cpu"])
    assert torch.tensor(1e-40, dtype=torch.float32).mul(0.5) > 0


def test_verbose_prints_the_networks(place: Path, capsys: pytest.CaptureFixture) -> None:
    run.main(["good.yaml", "--device", "cpu", "--verbose"])
    assert "KPDetector(" in capsys.readouterr().out


def test_a_stripped_checkpoint_holds_what_inference_needs(place: Path, capsys: pytest.CaptureFixture) -> None:
    export.main(["--checkpoint", "good.pth.tar", "--out", "small.pth.tar"])
    whole, stripped = read_checkpoint("good.pth.tar"), read_checkpoint("small.pth.tar")
    assert stripped.keys() == {"generator", "kp_detector"}
    assert all(
        torch.equal(stripped["generator"][name], tensor) for name, tensor in whole["generator"].items()
    )
    assert hashlib.sha256(Path("small.pth.tar").read_bytes()).hexdigest() in capsys.readouterr().out
    with pytest.raises(SystemExit):
        export.main(["--checkpoint", "good.pth.tar", "--out", "small.pth.tar"])
    assert "small.pth.tar: exists already" in capsys.readouterr().err
