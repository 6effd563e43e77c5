"""Checkpoints as .safetensors: there and back, and what is not one."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import export
from checkpoints.files import find_checkpoint, load_for_inference, read_checkpoint, write_checkpoint
from modules.build import build_generator, build_kp_detector
from tests.small import error_of, images, randomize, small_config
from utils.errors import CheckpointError


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint of training, with average weights and an optimizer's state."""
    config = small_config()
    generator, kp_detector = randomize(build_generator(config)), randomize(build_kp_detector(config))
    average = {name: tensor + 1 for name, tensor in generator.state_dict().items()}
    optimizer = torch.optim.Adam(generator.parameters()).state_dict()
    content = {"generator": generator.state_dict(), "kp_detector": kp_detector.state_dict()}
    content |= {"generator_ema": average, "optimizer_generator": optimizer, "epoch": 3}
    write_checkpoint(content, tmp_path / "trained.pth.tar")
    return tmp_path / "trained.pth.tar"


def convert(checkpoint: Path, result: Path) -> None:
    export.main(["--checkpoint", str(checkpoint), "--out", str(result)])


def test_export_converts_there_and_back_without_a_bit_lost(trained: Path) -> None:
    folder, paths = trained.parent, [trained]
    for name in ("a.pth.tar", "b.safetensors", "c.pth.tar"):
        convert(paths[-1], folder / name)
        paths.append(folder / name)
    convert(trained, folder / "d.SAFETENSORS")
    assert (folder / "b.safetensors").read_bytes() == (folder / "d.SAFETENSORS").read_bytes()
    first, *others = (read_checkpoint(path) for path in paths[1:])
    for content in others:
        assert content.keys() == first.keys() == {"generator", "kp_detector"}
        for network, state in first.items():
            assert content[network].keys() == state.keys()
            assert all(torch.equal(content[network][name], tensor) for name, tensor in state.items())


def test_the_networks_load_from_it(trained: Path) -> None:
    path = trained.with_name("small.safetensors")
    convert(trained, path)
    assert all(key.startswith(("generator.", "kp_detector.")) for key in load_file(path))
    config, results = small_config(), []
    for source in (trained, find_checkpoint(path)):
        kp_detector = build_kp_detector(config).eval()
        load_for_inference(source, build_generator(config), kp_detector)
        results.append(kp_detector(images(1))["value"])
    assert torch.equal(*results)


def test_what_is_not_a_checkpoint_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(pickle.dumps({"generator": {}, "kp_detector": {}}))
    with pytest.raises(CheckpointError, match="damaged, or not a checkpoint"):
        read_checkpoint(path)
    save_file({"unet.weight": torch.zeros(3)}, path)
    message = error_of(capsys, lambda: convert(path, tmp_path / "new.pth.tar"))
    assert message == f"error: {path}: has no 'generator' and 'kp_detector'; it holds ['unet']\n"
    assert not (tmp_path / "new.pth.tar").exists()
