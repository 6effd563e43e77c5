"""demo.py --engine: exported graphs give the pictures of PyTorch."""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import demo
from inference import exports
from inference.engines import open_networks
from inference.exports import engine_networks
from media.clips import open_clip
from modules.build import read_config
from modules.generator import SourceEncoding
from tests.demo_files import INPUTS, MODEL
from tests.small import error_of
from tools.benchmarks.__main__ import in_bf16
from utils.device import best_precision
from utils.errors import UserError

for package in ("onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="pip install -r requirements-engines.txt")

ENGINES = ["onnxruntime", "openvino"]
COMMAND = [*MODEL, *INPUTS, "--relative", "--adapt_scale"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for the user's cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "engine_networks", functools.partial(engine_networks, cache=cache))


def frames(path: Path) -> np.ndarray:
    return np.stack(list(open_clip(path))).astype(int)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", ["1", "3"])
def test_the_pictures_are_those_of_torch(place: Path, engine: str, size: str) -> None:
    for name in ("torch", engine):
        result = str(place / name)
        demo.main([*COMMAND, "--engine", name, "--batch_size", size, "--result_video", result])
    expected, found = frames(place / "torch"), frames(place / engine)
    assert found.shape == expected.shape and abs(found - expected).max() <= 1
    assert expected.std() > 10  # they show something
    assert abs(expected[1:] - expected[:-1]).max() > 10  # that moves


@pytest.mark.parametrize("engine", ENGINES)
def test_frames_are_computed_side_by_side(place: Path, engine: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        demo.main([*COMMAND, "--engine", engine, "--result_video", str(place / "two")])
    finally:
        torch.set_num_threads(threads)
    demo.main([*COMMAND, "--engine", engine, "--result_video", str(place / "one")])
    assert abs(frames(place / "two") - frames(place / "one")).max() <= 1


def load(cache: Path, config: dict) -> Path:
    """Open the model in the working folder; returns the folder of its graphs."""

    def folders() -> set[Path]:
        return {path.parent for path in cache.glob("onnx/*/manifest.json")}

    before = folders()
    engine_networks("onnxruntime", config, "good.yaml", Path("good.pth.tar"), cache=cache)
    (folder,) = folders() - before or before
    return folder


def test_a_model_is_exported_once(
    place: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = read_config("good.yaml")
    load(cache, config)
    shutil.copytree(cache, tmp_path / "cache")
    capsys.readouterr()
    folder = load(tmp_path / "cache", config)
    assert capsys.readouterr().err == ""
    (folder / "frame.onnx").write_bytes((folder / "frame.onnx").read_bytes()[:-100])  # a disk that was full
    load(tmp_path / "cache", config)
    assert capsys.readouterr().err == f"hint: good.pth.tar is exported once, to {folder}\n"
    config["model_params"]["kp_detector_params"]["temperature"] *= 2
    assert load(tmp_path / "cache", config) != folder  # another model


@pytest.mark.parametrize("engine", ENGINES)
def test_a_missing_package_is_named(
    place: Path, engine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    target = place / "result.mp4"
    error = error_of(capsys, lambda: demo.main([*COMMAND, "--engine", engine, "--result_video", str(target)]))
    assert error == f"error: --engine {engine} needs {engine}: pip install {engine}\n"
    assert not target.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--size 64", "--size needs --engine torch"),
        ("--precision bf16", "--precision bf16 needs --engine torch"),
        ("--precision fp16", "--precision fp16 needs --engine torch"),
        ("--device mps", "--device mps needs --engine torch"),
    ],
)
def test_what_an_engine_can_not_do_is_one_line(
    place: Path, options: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    command = [argument for argument in COMMAND if argument != "--cpu"]
    error = error_of(capsys, lambda: demo.main([*command, "--engine", "openvino", *options.split()]))
    assert message in error and len([line for line in error.splitlines() if "error:" in line]) == 1


def test_an_engine_gives_predictions_alone(place: Path, cache: Path) -> None:
    config = read_config("good.yaml")
    generator, _ = engine_networks("onnxruntime", config, "good.yaml", Path("good.pth.tar"), cache=cache)
    with pytest.raises(ValueError, match="no deformed source"):
        generator.generate(SourceEncoding(*[torch.zeros(1)] * 3), {}, {}, deformed=True)


def test_graphs_that_can_not_be_read_are_one_line(tmp_path: Path) -> None:
    for name in ("encoder", "keypoints", "frame"):
        (tmp_path / f"{name}.onnx").write_bytes(b"no graph")
    for engine in ENGINES:
        with pytest.raises(UserError, match=f"{engine} can't open its graphs"):
            open_networks(engine, tmp_path)


# ---- --precision auto ----------------------------------------------------------


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", "avx2"])
def test_auto_takes_bf16_where_the_processor_has_it(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True}, raising=False)
    assert best_precision(torch.device("cpu")) == ("fp32" if feature == "avx2" else "bf16")
    assert best_precision(torch.device("mps")) == "fp32"


def test_the_benchmark_leaves_out_what_takes_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    for feature, rows in (("avx512_bf16", ["bf16"]), ("avx2", [])):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True}, raising=False)  # noqa: B023
        assert list(in_bf16("bf16", "step-bf16")) == rows


@pytest.mark.parametrize(("feature", "told"), [("avx512_bf16", False), ("avx2", True)])
def test_a_precision_that_the_processor_lacks_is_told(
    place: Path,
    feature: str,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True}, raising=False)
    for precision in ("fp32", "bf16"):
        demo.main([*COMMAND, "--precision", precision, "--result_video", str(place / precision)])
        line = f"hint: --precision {precision}: this processor is not known to compute in it"
        assert (line in capsys.readouterr().err) == (told and precision == "bf16")


def test_auto_is_fp32_in_an_engine(place: Path) -> None:
    for precision in ("auto", "fp32"):
        result = str(place / precision)
        demo.main([*COMMAND, "--engine", "openvino", "--precision", precision, "--result_video", result])
    assert (frames(place / "auto") == frames(place / "fp32")).all()


def test_auto_is_one_of_the_others(place: Path) -> None:
    for precision in ("auto", best_precision(torch.device("cpu"))):
        demo.main([*COMMAND, "--precision", precision, "--result_video", str(place / precision)])
    assert (frames(place / "auto") == frames(place / best_precision(torch.device("cpu")))).all()
