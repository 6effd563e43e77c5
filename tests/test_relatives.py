"""Checkpoints of relatives: other methods, wrapped networks, single ones, blur kernels of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import demo
from checkpoints.files import load_for_inference, read_checkpoint
from media.clips import open_clip
from media.pictures import write_image
from modules.build import build_generator, build_kp_detector
from tests.demo_files import trained
from tests.small import error_of, images, pixels, small_config, write_config
from tests.training import assert_same
from utils.errors import CheckpointError

WEIGHTS = {"first.conv.weight": torch.ones(2, 3), "first.conv.bias": torch.ones(2)}
KP = "model_params.kp_detector_params"
MOTION = "model_params.generator_params.dense_motion_params"


def states(config: dict | None = None) -> dict[str, dict]:
    return {name: network.state_dict() for name, network in trained(config or small_config()).items()}


def wide(scale: float) -> dict:
    """A config for pictures of 64x64 whose keypoints and motion are found at a scale."""
    changes = {"dataset_params.frame_shape": [64, 64, 3], f"{KP}.scale_factor": scale}
    return small_config(changes | {f"{MOTION}.scale_factor": scale})


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (dict.fromkeys(["kp_detector", "dense_motion_network", "inpainting_network"], WEIGHTS), "Thin-Plate"),
        (dict.fromkeys(["generator", "bg_predictor", "region_predictor"], WEIGHTS), "articulated-animation"),
        (dict.fromkeys(["generator", "kp_detector", "he_estimator"], WEIGHTS), "face-vid2vid"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth.tar", ".safetensors"])
def test_another_method_is_named(content: dict, name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        flat = {f"{part}.{key}": value.clone() for part in content for key, value in WEIGHTS.items()}
        save_file(flat, path)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"is a checkpoint of .*{name}.*; use it there"):
        read_checkpoint(path)


def test_a_bare_state_is_one_short_line(tmp_path: Path) -> None:
    torch.save(states()["generator"], tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"it holds the state of one network, \[.*\] and \d+ more$"
    ) as told:
        read_checkpoint(tmp_path / "a.pth")
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_networks_load(wrapper: str, tmp_path: Path) -> None:
    content = states()
    wrapped = {
        name: {wrapper + key: value for key, value in state.items()} for name, state in content.items()
    }
    torch.save(wrapped, tmp_path / "a.pth.tar")
    assert_same(
        read_checkpoint(tmp_path / "a.pth.tar"), {name: dict(state) for name, state in content.items()}
    )


def gaussian(sigma: float, radius: int) -> torch.Tensor:
    """A normalised kernel (3, 1, k, k)."""
    squares = torch.arange(-radius, radius + 1, dtype=torch.float64).square()
    kernel = torch.exp(-(squares[:, None] + squares) / (2 * sigma**2))
    return (kernel / kernel.sum()).float().expand(3, 1, -1, -1)


def test_a_stored_blur_kernel_is_taken(tmp_path: Path, monkeypatch, capsys) -> None:
    """As that of the shared 512 checkpoint: sigma 1.5 where every 8th pixel is kept."""
    monkeypatch.chdir(tmp_path)
    torch.save(states(wide(0.25)), "a.pth.tar")
    config = wide(0.125)
    generator, kp_detector = build_generator(config), build_kp_detector(config)
    load_for_inference("a.pth.tar", generator, kp_detector, "wide.yaml")
    assert "hint: a.pth.tar: blurs by its own kernels" in capsys.readouterr().err
    x = images(1, 64)
    expected = F.conv2d(x, gaussian(1.5, 6), stride=8, padding=6, groups=3)
    for network in (kp_detector, generator.dense_motion_network):
        torch.testing.assert_close(network.down(x), expected)

    # The demo says what else could have been meant, once.
    write_config(Path("wide.yaml"), config)
    write_image("source.png", pixels(0, 64))
    model = ["--config", "wide.yaml", "--checkpoint", "a.pth.tar", "--cpu"]
    inputs = ["--source_image", "source.png", "--driving_video", "source.png"]
    demo.main([*model, *inputs, "--result_video", "result"])
    assert capsys.readouterr().err.count("with its own config and --size 64") == 1
    assert open_clip("result").size == (64, 64)


@pytest.mark.parametrize("shape", [(3, 1, 12, 12), (3, 1, 5, 13), (1, 1, 13, 13), (3, 1, 13), (3, 3, 13, 13)])
def test_other_kernels_do_not_fit(shape: tuple[int, ...], tmp_path: Path, capsys) -> None:
    content = states(wide(0.125))
    content["kp_detector"]["down.weight"] = torch.full(shape, 0.01)
    torch.save(content, tmp_path / "a.pth.tar")
    write_config(tmp_path / "wide.yaml", wide(0.125))
    arguments = ["--config", str(tmp_path / "wide.yaml"), "--checkpoint", str(tmp_path / "a.pth.tar")]
    err = error_of(capsys, lambda: demo.main([*arguments, "--result_video", str(tmp_path / "a.mp4")]))
    assert "1 of another shape (first: down.weight); use the config it was trained with" in err
