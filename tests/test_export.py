"""export.py: graphs that other programs can run, kept only when they are right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import export
from inference import graphs
from inference.interface import load_checkpoints, make_animation
from modules.build import build_generator, build_kp_detector
from modules.fast import fast_form
from tests.small import error_of, randomize, small_config, write_config

pytest.importorskip("onnxruntime", reason="pip install -r requirements-dev.txt")
pytest.importorskip("onnxscript", reason="pip install -r requirements-dev.txt")

ROOT = Path(__file__).parent.parent

# An export takes seconds, so that each tries several things.
CONFIGS = {
    "no Jacobians, nothing scaled down": {
        "model_params.common_params.estimate_jacobian": False,
        "train_params.loss_weights.equivariance_jacobian": 0,
        "model_params.kp_detector_params.scale_factor": 1,
        "model_params.generator_params.dense_motion_params.scale_factor": 1,
    },
    "image skip, wide": {
        "model_params.generator_params.image_skip": True,
        "dataset_params.frame_shape": [32, 48, 3],
    },
    "no occlusion map": {"model_params.generator_params.estimate_occlusion_map": False},
}


def write_model(changes: dict) -> list[str]:
    """A small model in the working folder; the options that name it."""
    config = small_config(changes)
    torch.manual_seed(0)
    generator, kp_detector = randomize(build_generator(config)), randomize(build_kp_detector(config))
    kp_detector.kp.weight.data *= 100  # keypoints follow the picture, and predictions have contrast
    generator.final.weight.data *= 20
    torch.save(
        {"generator": generator.state_dict(), "kp_detector": kp_detector.state_dict()}, "model.pth.tar"
    )
    write_config(Path("small.yaml"), config)
    return ["--config", "small.yaml", "--checkpoint", "model.pth.tar"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_every_kind_of_model_is_exported_right(changes: dict, capsys: pytest.CaptureFixture) -> None:
    export.main([*write_model(changes), "--out", "graphs"])  # which compares with PyTorch
    assert sorted(path.name for path in Path().iterdir()) == ["graphs", "model.pth.tar", "small.yaml"]
    out, err = capsys.readouterr()
    assert out.startswith("graphs: differs from PyTorch by") and len(out.splitlines()) == 1 and err == ""
    manifest = json.loads(Path("graphs/manifest.json").read_text(encoding="utf-8"))
    assert manifest["largest_difference"] < 1e-4 and manifest["config"] == "small"
    assert manifest["size"] == changes.get("dataset_params.frame_shape", [32, 32, 3])[:2]
    assert manifest["checkpoint"]["sha256"] == graphs.sha256(Path("model.pth.tar"))


def test_a_calm_border_is_a_part_of_the_graphs() -> None:
    model = write_model({})
    export.main([*model, "--out", "calm", "--calm_border"])  # which compares with PyTorch
    export.main([*model, "--out", "plain"])
    frames = [Path(name, "frame.onnx").read_bytes() for name in ("calm", "plain")]
    assert frames[0] != frames[1] and json.loads(Path("calm/manifest.json").read_text())["calm_border"]


def test_the_program_of_the_docs_animates() -> None:
    """It knows the graphs by the names of their inputs, and gets the pictures of PyTorch."""
    export.main([*write_model({}), "--out", "graphs"])
    text = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```py\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    Path("sup-mat").symlink_to(ROOT / "sup-mat")
    names: dict[str, Any] = {}
    exec(program.replace('"puppets-onnx", (128, 128)', '"graphs", (32, 32)'), names)
    generator, detector = load_checkpoints("small.yaml", "model.pth.tar", cpu=True, plain=True)
    source = names["source"][0].transpose(1, 2, 0)
    driving = [names["read"](frame)[0].transpose(1, 2, 0) for frame in iio.imiter("sup-mat/driving.mp4")]
    expected = make_animation(
        source, driving, generator, detector, relative=False, adapt_movement_scale=False
    )
    assert np.std(expected) > 0.05 and np.std(expected, axis=0).max() > 0.01
    assert np.abs(np.array(names["results"]) - 255 * np.array(expected)).max() < 2


def test_a_wrong_export_does_not_stay(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    model = write_model({})

    export_graphs = graphs.export_graphs

    def other_model(generator, kp_detector, *more):
        generator.final.weight.data += 0.1
        export_graphs(generator, kp_detector, *more)
        generator.final.weight.data -= 0.1

    monkeypatch.setattr(graphs, "export_graphs", other_model)
    error = error_of(capsys, lambda: export.main([*model, "--out", "graphs"]))
    assert "its export differs from PyTorch by" in error and len(error.splitlines()) == 1
    assert sorted(path.name for path in Path().iterdir()) == ["model.pth.tar", "small.yaml"]


def test_the_fast_form_is_refused(tmp_path: Path) -> None:
    config = small_config()
    networks = fast_form(build_generator(config)), fast_form(build_kp_detector(config))
    with pytest.raises(ValueError, match="export the plain networks"):
        graphs.export_graphs(*networks, (32, 32), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_moves_nothing_is_refused(capsys: pytest.CaptureFixture) -> None:
    model = write_model({"model_params.generator_params.dense_motion_params": None})
    error = error_of(capsys, lambda: export.main([*model, "--out", "graphs"]))
    assert error.startswith("error: a model without dense motion") and len(error.splitlines()) == 1
    assert not Path("graphs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "give --model, or --config and --checkpoint"),
        ("--checkpoint model.pth.tar", "give --model, or --config and --checkpoint"),
        ("model.pth.tar new.pth.tar", "paths have names: export.py --checkpoint CHECKPOINT --out OUTPUT"),
        ("--out new.pth.tar", "give --checkpoint, or --model"),
        ("--model puppets --config small.yaml", "give --model, or --config and --checkpoint"),
        ("--config small.yaml", "give --model, or --config and --checkpoint"),
        ("--model nobody", "--model nobody: no such model"),
        ("--config small.yaml --checkpoint absent.pth.tar", "absent.pth.tar"),
        ("--config small.yaml --checkpoint model.pth.tar --out full", "--out full exists already"),
    ],
)
def test_a_mistake_is_one_line(options: str, message: str, capsys: pytest.CaptureFixture) -> None:
    write_model({})
    Path("full").mkdir()
    before = sorted(Path().rglob("*"))
    error = error_of(capsys, lambda: export.main(["--out", "graphs", *options.split()]))
    assert message in error and len([line for line in error.splitlines() if "error:" in line]) == 1
    assert sorted(Path().rglob("*")) == before
