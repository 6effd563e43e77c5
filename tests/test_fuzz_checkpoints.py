"""Checkpoints from real ones with a field or some bytes changed: loaded as they should be, or one line."""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

import demo
import export
import run
from checkpoints.files import find_checkpoint, flattened, inference_weights, load_parts, read_checkpoint
from tests.clips import write_dataset
from tests.fuzzing import assert_one_line, assert_whole, emptied, fuzz, limited_time, needs_unix, outcome
from tests.training import config_file, start
from utils.errors import CheckpointError

ODD_VALUES: list[Any] = [
    None, True, -1, 0, 10**30, 1.5, math.nan, math.inf, "", "text", "\n\x1b", b"bytes", [], {}, (), {"a": {}},
    [[]], torch.ones(()), torch.ones(0), torch.ones(3), torch.full((2,), math.nan),
    torch.ones(2, device="meta"), torch.ones(2, dtype=torch.bool), torch.zeros(1).expand(10**9),
    torch.eye(3).to_sparse(), torch.Size([1]), torch.ones(2, 2).t()[:1], torch.full((3,), 3e38),
    torch.tensor([2**62]), torch.ones(1, dtype=torch.complex64), nn.Parameter(torch.ones(2)), torch.float16,
    {3: 4}, {"a": torch.ones(1)}, [torch.ones(1)], 2**63, -(10**400),
]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_dataset(tmp_path_factory.mktemp("hostile") / "data")
    return start(root, config_file(root, train_params__num_epochs=1))


@pytest.fixture(scope="module")
def trained(run_folder: Path) -> dict:
    return read_checkpoint(find_checkpoint(run_folder))


def paths_of(value: Any, path: tuple = ()) -> list[tuple]:
    """Where a checkpoint can be changed: every key, but of long dictionaries the first few only."""
    if not isinstance(value, dict) or len(path) > 4:
        return [path]
    return [path] * bool(path) + [
        more for key in list(value)[:4] for more in paths_of(value[key], (*path, key))
    ]


def changed(content: Any, path: tuple, value: Any) -> Any:
    """A copy of a checkpoint with another value at `path`."""
    if not path:
        return value
    content = copy.copy(content)
    content[path[0]] = changed(content[path[0]], path[1:], value)
    return content


def odd_value(data: st.DataObject, before: Any) -> Any:
    """One of `ODD_VALUES`, or for a tensor one that differs from it in shape, type, place or a number."""
    if not isinstance(before, torch.Tensor) or data.draw(st.booleans(), "odd"):
        return data.draw(st.sampled_from(ODD_VALUES), "value")
    tensor = before.clone()
    flat = tensor.reshape(-1)
    how = data.draw(st.sampled_from(["type", "shape", "short", "number", "view", "large"]), "how")
    if how == "number" and len(flat) and tensor.is_floating_point():
        flat[data.draw(st.integers(0, len(flat) - 1), "at")] = data.draw(
            st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45, 0.0]), "number"
        )
        return flat.reshape(tensor.shape)
    changes = {
        "type": lambda: tensor.to(data.draw(st.sampled_from([torch.float64, torch.float16, torch.int32]))),
        "shape": lambda: flat,
        "short": lambda: flat[:-1].clone(),
        "view": lambda: torch.stack([tensor, tensor])[0],
        "large": lambda: tensor * 1e30,
        "number": lambda: tensor,
    }
    return changes[how]()


def at(content: Any, path: tuple) -> Any:
    for key in path:
        content = content[key]
    return content


@needs_unix
def test_any_field_changed_loads_or_is_one_line(trained: dict, tmp_path: Path) -> None:
    """What loads also trains: no number is written outside of its tensor, and none becomes inf or NaN."""
    file = tmp_path / "a.pth.tar"

    def check(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(paths_of(trained)), "path")
        torch.save(changed(trained, path, odd_value(data, at(trained, path))), file)
        parts = {
            name: optimizer_like(trained[name]) for name in ("optimizer_generator", "optimizer_kp_detector")
        }
        try:
            with limited_time():
                load_parts(read_checkpoint(file), parts, file)
        except CheckpointError as error:
            assert "\n" not in str(error) and "weights_only" not in str(error)
            return
        for optimizer in parts.values():
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    weight.grad = torch.ones_like(weight)
            optimizer.step()

    fuzz(check, 200)


def optimizer_like(state: dict) -> torch.optim.Optimizer:
    """An Adam of weights with the shapes of a checkpoint's."""
    weights = [nn.Parameter(torch.ones_like(entry["exp_avg"])) for entry in state["state"].values()]
    return torch.optim.Adam(weights, fused=True)


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


@needs_unix
def test_programs_with_a_field_changed_give_a_result_or_one_line(
    trained: dict, run_folder: Path, inputs: Path, tmp_path: Path
) -> None:
    config = run_folder.parent.parent / "tiny.yaml"
    of_inference = inference_weights(trained)

    def check(data: st.DataObject) -> None:
        work, file = emptied(tmp_path / "work"), tmp_path / "a.pth.tar"
        whole = data.draw(st.sampled_from([of_inference, of_inference, trained]), "whole")
        path = data.draw(st.sampled_from(paths_of(whole)), "path")
        torch.save(changed(whole, path, odd_value(data, at(whole, path))), file)
        program = data.draw(st.sampled_from(["demo", "run", "strip"]), "program")
        if program == "strip":
            result = data.draw(st.sampled_from([work / "b.pth.tar", work / "b.safetensors"]), "result")
            done = outcome(export.main, ["--checkpoint", str(file), "--out", str(result)])
        elif program == "run":
            result = work / "reconstruction" / "l1.json"
            model = [str(config), "--checkpoint", str(file), "--device", "cpu"]
            done = outcome(run.main, [*model, "--mode", "reconstruction", "--log_dir", str(work)])
        else:
            result = work / "a.mp4"
            model = [
                "--config",
                str(config),
                "--checkpoint",
                str(file),
                "--cpu",
                "--relative",
                "--adapt_scale",
            ]
            media = ["--source_image", f"{inputs}/source.png", "--driving_video", f"{inputs}/one"]
            done = outcome(demo.main, [*model, *media, "--result_video", str(result)])
        assert_one_line(done)
        assert_whole(work)
        assert result.exists() == (done.status == 0), done
        if program == "strip" and done.status == 0:
            read_checkpoint(result)

    fuzz(check, 120)
