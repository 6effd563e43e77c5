"""Configs made up from the schema itself: read as they are, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import strategies as st

import demo
import run
from logger import Visualizer
from modules.build import build_networks, read_config
from modules.schema import SCHEMA
from tests.clips import write_dataset
from tests.fuzzing import assert_one_line, assert_whole, emptied, fuzz, limited_time, needs_unix, outcome
from tests.small import small_config
from utils.errors import ConfigError, UserError
from utils.values import Leaf

# Some fit some keys, and none fits all.
VALUES: list[Any] = [
    True, False, None, 0, 1, 2, 3, 4, 7, 8, 12, 13, 30, 32, 64, 512, 1000, 10**5, 2**31, 2**63 - 1, 2**63, -1,
    0.5, 0.25, 0.1, 1 / 3, 1.0, 0.999, 2.0e-4, 1e-320, 1e-7, 1e30, -0.0, float("nan"), float("inf"), "", "a",
    "none", "data", "random", "nearest", "bilinear", ".mp4", ".gif", "gist_rainbow", "1", "2e-4", "\n",
    "é\u2028", "~", "x" * 300, [], [0], [1], [1, 1], [1, 0.5], [0.5], [1, 0.5, 0.25, 0.125], [10, 10],
    [0.9, 1.1], [1.1, 0.9], [-10, 10], [32, 32], [32, 32, 3], [30, 30, 3], [32, 32, 1], [64, 32, 3], [32],
    [1, 1, 3], [8192] * 3, [0] * 5, [1] * 5, [1] * 6, [[1]], [None], ["a"], [True], [1e30], [float("nan")],
    {}, {"a": 1}, {1: 2}, {"scale_factor": 0.5}, {"flip_param": {}}, {"crop_param": {"size": 16}},
    {"resize_param": {"ratio": [0.5, 2]}}, {"jitter_param": {"hue": 0.5}},
    {"rotation_param": {"degrees": 10}},
]  # fmt: skip


def keys_of(schema: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Leaf | dict]]:
    """Each section and each key of the schema with what it expects."""
    for entry, expected in schema.items():
        here = (*path, entry.rstrip("?"))
        yield here, expected
        if isinstance(expected, dict):
            yield from keys_of(expected, here)


KEYS = list(keys_of(SCHEMA))
FITTING = {
    path: [value for value in VALUES if value is not None and expected.problem(value) is None]
    for path, expected in KEYS
    if isinstance(expected, Leaf)
}
# Of a config whose networks stay those of the checkpoint.
HARMLESS = [key for key in KEYS if key[0][0] != "model_params" and "root_dir" not in key[0]]


def made_up(data: st.DataObject, keys: list, base: dict) -> dict:
    """The config `base` with up to six other values, most of which fit their keys."""
    for _ in range(data.draw(st.integers(1, 6), "changes")):
        path, _ = data.draw(st.sampled_from(keys), "key")
        fitting = FITTING.get(path, [])
        pool = fitting if fitting and data.draw(st.integers(0, 9), "fits") < 8 else VALUES
        value = data.draw(st.sampled_from(pool), "value")
        place: Any = base
        for name in path[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                break
        if isinstance(place, dict):
            if data.draw(st.integers(0, 9), "kept"):
                place[path[-1]] = value
            else:
                place.pop(path[-1], None)
    return base


def test_each_key_has_values_that_fit_and_others() -> None:
    lacking = [path for path, fitting in FITTING.items() if not 0 < len(fitting) < len(VALUES)]
    assert len(FITTING) > 60 and not lacking


@needs_unix
def test_made_up_configs_make_networks_or_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"

    def check(data: st.DataObject) -> None:
        config = made_up(data, KEYS, small_config())
        path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        try:
            with limited_time():
                found = read_config(path)
                with torch.device("meta"):
                    build_networks(found)
                Visualizer(**(found.get("visualizer_params") or {}))
        except UserError as error:
            assert str(error).startswith(
                f"{path}: " if isinstance(error, ConfigError) else "visualizer_params"
            )
            return
        assert set(found) <= set(SCHEMA) | {entry.rstrip("?") for entry in SCHEMA}

    fuzz(check, 1000)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset") / "data", train=2)


@needs_unix
@pytest.mark.filterwarnings("default")
def test_programs_with_made_up_configs_give_results_or_one_line(
    dataset: Path, inputs: Path, tmp_path: Path
) -> None:
    def check(data: st.DataObject) -> None:
        work = emptied(tmp_path / "work")
        keys = data.draw(st.sampled_from([HARMLESS, HARMLESS, KEYS]), "keys")
        config = made_up(data, keys, small_config({"dataset_params.root_dir": str(dataset)}))
        path = tmp_path / "a.yaml"
        path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        model = ["--checkpoint", str(inputs / "good.pth.tar"), "--device", "cpu"]
        mode = data.draw(st.sampled_from(["reconstruction", "animate", "demo"]), "program")
        if mode == "demo":
            media = ["--source_image", f"{inputs}/source.png", "--driving_video", f"{inputs}/one"]
            done = outcome(
                demo.main, ["--config", str(path), *model, *media, "--result_video", f"{work}/a.gif"]
            )
        else:
            done = outcome(run.main, [str(path), *model, "--mode", mode, "--log_dir", str(work)])
        assert_one_line(done)
        assert_whole(work)
        assert done.status == 2 or [*work.glob("*.gif"), *work.glob("*/*.gif"), *work.glob("*/*.mp4")]

    fuzz(check, 120)
