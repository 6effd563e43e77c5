"""Configs of strangers: read as meant, or refused in one line that names the place."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import run
from logger import Visualizer
from modules.build import build_networks, read_config
from modules.schema import SCHEMA
from tests.fuzzing import fuzz, limited_time, needs_unix
from tests.small import SMALL_CONFIG, small_config, write_config
from utils.errors import ConfigError, UserError, told
from utils.values import Leaf
from utils.yaml_loader import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml

CONFIGS = sorted((Path(__file__).parents[1] / "config").glob("*-*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_published_configs_mean_what_they_mean_to_pyyaml(path: Path) -> None:
    assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-01-31", "2026-01-31"),  # a text, as it could be the name of a folder
        ("2026-13-45", "2026-13-45"),
        ("[1.0e-4, 2e-4, 1E5, .5e+1, 1e-4m]", [1e-4, 2e-4, 1e5, 5.0, "1e-4m"]),
        ("[yes, No, true, ~, null]", [True, False, True, None, None]),
        ("", None),
        ("\ufeff1", 1),
        ("{a: &a [1, 0.5], b: *a}", {"a": [1, 0.5], "b": [1, 0.5]}),
    ],
)
def test_values(text: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == value


BOMB = "a: &a [" + ",".join(["lol"] * 9) + "]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: " + "1" * 5000, "line 1", "Exceeds the limit"),
        ("a: !!int abc", "line 1, column 4", "tags like tag:yaml.org,2002:int"),
        ("\na: !!bool abc", "line 2, column 4", "tags like"),
        ("!!python/object/apply:os.mkdir [sprung]", "line 1, column 1", "tags like"),
        ("a: !mine 1", "line 1, column 4", "tags like !mine"),
        ("[" * 10_000, f"line 1, column {MAX_DEPTH + 1}", "more than 20 deep"),
        ("- " * 10_000 + "1", "line 1", "more than 20 deep"),
        (BOMB, "line 2, column 8", "aliases within what has an anchor"),
        ("a: &a [*a]", "line 1, column 8", "aliases within what has an anchor"),
        ("a: &a 1\nb: [" + "*a," * 21 + "]", "line 2, column 65", "more than 20 aliases"),
        ("a: 1\na: 2", "line 2, column 1", "the key 'a' twice"),
        ("{[1]: 2}", "line 1, column 2", "unhashable key"),
        ("a: *b", "line 1, column 4", "undefined alias"),
        ("a: [1", "line 1, column 6", "expected ',' or ']'"),
        ("a: b: c", "line 1, column 5", "mapping values are not allowed"),
        ("a\n--- b", "line 2, column 1", "another document"),
        ("a: \x00", "line 1, column 4", "the character 0"),
        ('a: "\\UFFFFFFFF"', "line 1, column 7", "too large"),
        ('a: "\\U00110000"', "line 1, column 7", "chr() arg not in range"),
        ("=", "line 1, column 1", "could not determine"),
    ],
)
def test_what_a_config_can_not_hold(text: str, place: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(text.encode())
    started = time.monotonic()
    with pytest.raises(ConfigError) as told:
        read_config(tmp_path / "a.yaml")
    assert str(told.value).startswith(f"{tmp_path}/a.yaml: {place}") and words in str(told.value)
    assert len(str(told.value)) < 400 and time.monotonic() - started < 10


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\nb: \xff\xfe")
    with pytest.raises(ConfigError, match=r"a\.yaml: line 2, column 4: not UTF-8"):
        read_config(path)
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="more than the 262,144 that are read"):
        read_config(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(ConfigError, match=r"a\.yaml: can't be read as a config"):
        read_config(path)


# ---- Meaning -----------------------------------------------------------------

MODEL, TRAIN = "model_params", "train_params"
NO_LOSS = {"generator_gan": 0, "perceptual": [0], "equivariance_value": 0, "equivariance_jacobian": 0}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (f"{MODEL}.common_params.num_kp", 10**9, "must be at most 1,000; it is 1000000000"),
        (f"{TRAIN}.num_workers", 10_000, "must be at most 512"),
        (f"{TRAIN}.num_epochs", 2**64, "must be at most 1,000,000,000"),
        (f"{TRAIN}.lr_generator", float("inf"), "must be at most 1,000,000; it is inf"),
        (f"{TRAIN}.lr_generator", float("nan"), "must be a number of at least 0"),
        (f"{TRAIN}.transform_params.points_tps", 1, "must be at least 2"),
        (f"{TRAIN}.loss_weights.equivariance_value", 1e30, "must be at most 1,000,000"),
        (f"{TRAIN}.loss_weights.perceptual", [float("inf")], "must be at most 1,000,000"),
        (f"{TRAIN}.transform_params.points_tps", 10**6, "must be at most 100"),
        (f"{TRAIN}.scales", [1, 1.0e-320], "must be a list of 1 divided by whole numbers"),
        (f"{TRAIN}.scales", [1, 0.5, 1.0], "must hold a scale, and none twice"),
        (f"{TRAIN}.scales", [], "must hold a scale, and none twice"),
        (f"{TRAIN}.loss_weights", SMALL_CONFIG["train_params"]["loss_weights"] | NO_LOSS, "must not be 0"),
        (f"{MODEL}.discriminator_params.scales", [1, 1], "must hold no scale twice"),
        (f"{MODEL}.discriminator_params.num_blocks", 4, "pictures of 32x32 at scale 1 are too small for 4"),
        (f"{MODEL}.kp_detector_params.temperature", 1.0e-320, "must be at least 1e-06"),
        (f"{MODEL}.kp_detector_params.scale_factor", 1.0e-320, "must be 1 divided by a whole number"),
        ("model_params.common_params.num_channels", 2, "must be 3, or 1 for grey pictures"),
        ("model_params.common_params.num_channels", True, "must be 3, or 1 for grey pictures"),
        (f"{MODEL}.generator_params.max_features", 1, "max_features must be at least its block_expansion"),
        (f"{MODEL}.generator_params.num_down_blocks", 40, "must be at most 12"),
        (f"{MODEL}.discriminator_params.max_features", 1, "max_features must be at least its block_exp"),
        ("dataset_params.frame_shape", [10**9, 32, 3], "must be at most 8,192"),
        ("dataset_params.random_seed", 2**63, "must be at most 9,223,372,036,854,775,807"),
        ("dataset_params.random_seed", -1, "must be a whole number of at least 0"),
        ("dataset_params.augmentation_params.resize_param", {"ratio": [1, 1e30]}, "must be at most 100"),
        ("dataset_params.root_dir", "a\0", "must be a text of letters that a path can have"),
        ("visualizer_params.kp_size", 10**9, "must be at most 1,000"),
    ],
)
def test_numbers_that_mean_nothing_or_too_much(key: str, value: Any, words: str, tmp_path: Path) -> None:
    changes = {key: value}
    if key.endswith("num_blocks"):
        changes[f"{TRAIN}.loss_weights.feature_matching"] = [1] * 4
    path = write_config(tmp_path / "a.yaml", small_config(changes))
    with pytest.raises(ConfigError, match=re.escape(words)) as told:
        read_config(path)
    assert str(told.value).startswith(f"{path}: ") and key.rpartition(".")[2] in str(told.value)


def test_a_null_at_any_optional_key_counts_as_left_out(tmp_path: Path) -> None:
    full = small_config()
    empty = set_optional_keys(full, SCHEMA)
    config = read_config(write_config(tmp_path / "a.yaml", full))
    assert empty > 20 and None not in values_of(config)
    with torch.device("meta"):
        build_networks(config)


NEEDED = ("scales", "estimate_jacobian", "num_blocks")  # by the losses of the small config


def set_optional_keys(values: dict, schema: dict) -> int:
    """Put None at each key that may be left out; how many there are. Sections that are there stay."""
    count = 0
    for entry, expected in schema.items():
        name = entry.rstrip("?")
        if isinstance(expected, dict) and name in values:
            count += set_optional_keys(values[name], expected)
        elif entry.endswith("?") and name not in NEEDED:
            values[name] = None
            count += 1
    return count


def values_of(values: dict) -> list:
    nested = [values_of(value) if isinstance(value, dict) else [value] for value in values.values()]
    return [value for inner in nested for value in inner]


@pytest.mark.parametrize("text", ["-1", "9223372036854775808", "1" * 5000, "1.5", "x"])
def test_seeds_out_of_range(text: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run.parse(["--config", "config/vox-256.yaml", f"--seed={text}"])
    assert stop.value.code == 2 and "is not a whole number from 0 to" in capsys.readouterr().err


# ---- Any config --------------------------------------------------------------


@seed(17)
@settings(max_examples=300, deadline=None, database=None)
@given(st.text(alphabet="ab01.:-,[]{}&*!'\"#|>% \n\t~\x00é", max_size=60))
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    try:
        parse_yaml(text, "a.yaml")
    except ConfigError as error:
        assert str(error).startswith("a.yaml: line ") and "\n" not in str(error)


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
            line = told(error)  # as programs print it
            assert line and len(line.splitlines()) == 1
            return
        assert set(found) <= set(SCHEMA) | {entry.rstrip("?") for entry in SCHEMA}

    fuzz(check, 1000)
