"""Checkpoints of strangers: each is refused in one line before anything is loaded, or loads as it should."""

from __future__ import annotations

import copy
import gzip
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn

from checkpoints.files import (
    INFERENCE_NETWORKS,
    find_checkpoint,
    flattened,
    load_parts,
    read_checkpoint,
)
from modules.vgg import read_vgg19_file
from tests.clips import write_dataset
from tests.fuzzing import fuzz, limited_time, needs_unix
from tests.small import error_of
from tests.training import config_file, start
from utils.errors import CheckpointError


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_dataset(tmp_path_factory.mktemp("hostile") / "data")
    return start(root, config_file(root, train_params__num_epochs=1))


@pytest.fixture(scope="module")
def trained(run_folder: Path) -> dict:
    return read_checkpoint(find_checkpoint(run_folder))


@pytest.fixture
def content(trained: dict) -> dict:
    return copy.deepcopy(trained)


def saved(content: Any, folder: Path, **options: Any) -> Path:
    torch.save(content, folder / "a.pth.tar", **options)
    return folder / "a.pth.tar"


def refused(path: Path, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as told:
        read_checkpoint(path)
    assert str(told.value).startswith(f"{path}: ") and "\n" not in str(told.value)
    assert "weights_only" not in str(told.value)


# ---- Networks --------------------------------------------------------------------


NOT_FINITE = torch.tensor([1.0, math.nan])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "not a state of a network but int"),
        ({}, "it is empty"),
        ({3: torch.ones(2)}, "a key is no text"),
        ({"weight": {"weight": torch.ones(2)}}, "'weight', is not a tensor but dict"),
        ({"weight": torch.ones(2, 2).to_sparse()}, "not an ordinary tensor"),
        (
            {"weight": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.quint8)},
            "not an ordinary tensor",
        ),
        ({"weight": torch.ones(2, device="meta")}, "not an ordinary tensor"),
        ({"weight": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, "ordinary|damaged"),
        ({"weight": torch.zeros(1).expand(10**12)}, "not stored whole"),
        ({"weight": NOT_FINITE}, "not finite: it holds inf or NaN"),
    ],
)
@pytest.mark.parametrize("name", ["generator", "kp_detector_ema"])
def test_networks_that_are_none(name: str, value: Any, words: str, content: dict, tmp_path: Path) -> None:
    refused(saved(content | {name: value}, tmp_path), f"its '{name}'.*({words})" if "|" in words else words)


def test_large_numbers_are_finite_even_if_their_sum_is_not(content: dict, tmp_path: Path) -> None:
    content["discriminator"]["weight"] = torch.full((10,), 3e38)
    assert read_checkpoint(saved(content, tmp_path))["discriminator"]["weight"].sum() == math.inf


# ---- Position and optimisers -----------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": -1}, "'epoch' is not a whole number"),
        ({"epoch": True}, "'epoch' is not a whole number"),
        ({"resume": "here"}, "'resume' is not a dictionary but str"),
        ({"resume.format": None}, "'format', is not there"),
        ({"resume.config": None}, "'config', is not there"),
        ({"resume.config": {"train_params": {"batch_size": 0}}}, "'config', is not a config"),
        ({"resume.epoch": -1}, "'epoch', is not a whole number of at least 0"),
        ({"resume.step": 10**12}, "'step', is not a whole number of at least 0"),
        ({"resume.seed": "0"}, "'seed', is not a whole number"),
        ({"resume.seed": -1}, "'seed', is not a whole number of at least 0"),
        ({"resume.seed": 2**63}, "'seed', is not a whole number of at least 0"),
        ({"resume.loss_sums": {"perceptual": 10**400}}, "'loss_sums', is not a dictionary of finite numbers"),
        (
            {"resume.loss_sums": {"perceptual": math.nan}},
            "'loss_sums', is not a dictionary of finite numbers",
        ),
        ({"resume.best_l1": math.nan}, "'best_l1', is not a number"),
        ({"resume.scaler": {"scale": math.inf}}, "'scaler', is not a dictionary of finite numbers"),
        ({"optimizer_generator": 3}, "'optimizer_generator' is not a state of an optimiser"),
        ({"optimizer_generator.state": {0: {"step": 1}}}, "not a state of Adam"),
        ({"optimizer_generator.param_groups": [{"params": ["a"]}]}, "not a state of an optimiser"),
    ],
)
def test_fields_of_a_wrong_kind(change: dict, words: str, content: dict, tmp_path: Path) -> None:
    [(key, value)] = change.items()
    section, _, name = key.rpartition(".")
    place = content[section] if section else content
    if value is None:
        del place[name]
    else:
        place[name] = value
    refused(saved(content, tmp_path), words)


def test_a_position_is_never_none(content: dict, tmp_path: Path) -> None:
    refused(saved(content | {"resume": None}, tmp_path), "'resume' is not a dictionary but NoneType")


def test_a_state_without_its_epoch(content: dict, tmp_path: Path) -> None:
    del content["resume"], content["epoch"]
    refused(saved(content, tmp_path), "has optimisers but no 'epoch'")


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("shape", ["short", "empty", "transposed"])
def test_moments_of_another_shape_write_nowhere(
    moment: str, shape: str, content: dict, tmp_path: Path, run_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fused Adam would write as many numbers as the weight has, wherever that is."""
    entry = content["optimizer_generator"]["state"][0]
    whole = entry[moment]
    cuts = {"short": whole.flatten()[:2], "empty": whole[:0]}
    entry[moment] = cuts.get(shape, whole.transpose(0, 1)).clone()
    path = saved(content, tmp_path)
    network = run_folder.parent.parent / "tiny.yaml"
    # A copy of the run folder is not needed: the checkpoint is what is refused, before the log is touched.
    target = run_folder / "00000077-checkpoint.pth.tar"
    target.write_bytes(path.read_bytes())
    try:
        told = error_of(
            capsys, lambda: start(run_folder.parent.parent / "data", network, "--checkpoint", str(target))
        )
    finally:
        target.unlink()
    assert f"{moment} of weight 0 is of shape" in told


def adam_of(network: nn.Module, steps: int = 2) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
    for step in range(steps):
        network(torch.ones(1, 3, 4, 4) * (step + 1)).square().sum().backward()
        optimizer.step()
    return optimizer


def test_moments_in_another_order_of_memory_mean_the_same(tmp_path: Path) -> None:
    """The place in the tensor counts, not that in the memory; learning rates stay the config's."""
    network = nn.Conv2d(3, 2, 3)
    before = adam_of(network).state_dict()
    other = copy.deepcopy(before)
    for entry in other["state"].values():
        for moment in ("exp_avg", "exp_avg_sq"):
            entry[moment] = entry[moment].transpose(0, -1).contiguous().transpose(0, -1)
        entry["step"] = int(entry["step"])  # as PyTorch 1.0 wrote it
    other["param_groups"][0] |= {"lr": math.nan, "amsgrad": True, "betas": (2, 2), "params": [70, 71]}
    other["state"] = {70: other["state"][0], 71: other["state"][1]}
    fresh = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
    load_parts({"optimizer_generator": other}, {"optimizer_generator": fresh}, tmp_path)
    after = fresh.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, entry in before["state"].items():
        for name, tensor in entry.items():
            assert torch.equal(after["state"][number][name], tensor)
            assert after["state"][number][name].stride() == tensor.stride()


# ---- Files -----------------------------------------------------------------------


def zip_bomb(content: dict, folder: Path) -> Path:
    path = saved(content | {"more": torch.zeros(10_000_000)}, folder)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(folder / "b", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert (folder / "b").stat().st_size < path.stat().st_size / 10
    return (folder / "b").replace(path)


def written(data: bytes) -> Callable[[dict, Path], Path]:
    def write(content: dict, folder: Path) -> Path:
        (folder / "a.pth.tar").write_bytes(data)
        return folder / "a.pth.tar"

    return write


def archive_of_text(content: dict, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.pth.tar", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    return folder / "a.pth.tar"


def half(content: dict, folder: Path) -> Path:
    path = saved(content, folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


SAFETENSORS = (8).to_bytes(8, "little") + b'{"a":{}}'


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (zip_bomb, "unpacks to more than it holds"),
        (half, "its end is missing"),
        (archive_of_text, "an archive of other things"),
        (written(b""), "it is empty"),
        (written(b"\n<!DOCTYPE html><html>"), "a web page; download"),
        (written(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (written(pickle.dumps({"generator": 1})), "a pickle that PyTorch did not write"),
        (written(SAFETENSORS), "a file of safetensors"),
        (written(gzip.compress(b"weights")), "a packed archive"),
        (written(b"\x00" * 5000), "of no kind that is known"),
        (lambda content, folder: saved(torch.nn.Linear(1, 1), folder), "which could run a program"),
        (
            lambda content, folder: saved([content], folder),
            "has no 'generator' and 'kp_detector'; it holds list",
        ),
    ],
)
def test_files_that_are_no_checkpoints(build: Callable, words: str, content: dict, tmp_path: Path) -> None:
    refused(build(content, tmp_path), words)


def test_vgg_weights_are_checked_as_checkpoints_are(content: dict, tmp_path: Path) -> None:
    for build, words in ((zip_bomb, "unpacks"), (written(b"<html>"), "a web page")):
        with pytest.raises(CheckpointError, match=words):
            read_vgg19_file(str(build(content, tmp_path)))
    with pytest.raises(CheckpointError, match="not finite"):
        read_vgg19_file(str(saved({"weight": NOT_FINITE}, tmp_path)))


# ---- Safetensors -----------------------------------------------------------------


def flat(content: dict) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": content[part][name] for part in INFERENCE_NETWORKS for name in content[part]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generator.first.conv.bias": NOT_FINITE}, "first.conv.bias', is not finite"),
        ({"generator.a": torch.ones(2, dtype=torch.uint8)}, "'a', is not an ordinary tensor"),
        ({"epoch.a": torch.ones(2)}, "its 'epoch' is not a whole number"),
    ],
)
def test_safetensors_are_checked_too(change: dict, words: str, content: dict, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(flat(content), path)
    assert read_checkpoint(path).keys() == set(INFERENCE_NETWORKS)
    save_file(flat(content) | change, path)
    refused(path, words)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04 and more", "a file of PyTorch; rename it so that it ends in .pth.tar"),
        (b"\xff" * 8 + b'{"a":', "its table of names is too large"),
        (b"\x05" + bytes(7) + b'{"a":', "damaged, or not a checkpoint"),
    ],
)
def test_files_that_are_no_safetensors(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    refused(tmp_path / "a.safetensors", words)


# ---- Any bytes ---------------------------------------------------------------


@needs_unix
def test_any_bytes_changed_loads_or_is_one_line(tmp_path: Path) -> None:
    small = {"generator": {"weight": torch.ones(4)}, "kp_detector": {"weight": torch.ones(1)}, "epoch": 1}
    files = {}
    for name, zipped in (("zip.pth.tar", True), ("legacy.pth.tar", False)):
        buffer = io.BytesIO()
        torch.save(small, buffer, _use_new_zipfile_serialization=zipped)
        files[name] = buffer.getvalue()
    weights = {name: {"weight": torch.ones(4)} for name in ("generator", "kp_detector")}
    files["a.safetensors"] = save(flattened(weights), metadata={"format": "pt"})

    def check(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(files)), "name")
        content = bytearray(files[name])
        for _ in range(data.draw(st.integers(1, 4), "changes")):
            place = data.draw(st.integers(0, len(content) - 1), "place")
            content[place : place + data.draw(st.integers(0, 2), "over")] = data.draw(
                st.binary(min_size=1, max_size=3), "bytes"
            )
        length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))), "length")
        (tmp_path / name).write_bytes(content[:length])
        try:
            with limited_time():
                read_checkpoint(tmp_path / name)
        except CheckpointError as error:
            assert "\n" not in str(error) and "weights_only" not in str(error)

    fuzz(check, 1000)
