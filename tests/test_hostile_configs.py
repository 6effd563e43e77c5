"""Configs of strangers: what isn't needed isn't known, and every failure names its line and column."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import run
from modules.build import build_networks, read_config
from modules.schema import SCHEMA
from tests.small import SMALL_CONFIG, small_config, write_config
from utils.errors import ConfigError
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
        ("1:30:00", "1:30:00"),
        ("0x10", "0x10"),
        ("010", 10),
        ("1.0e-4", 1e-4),
        ("2e-4", "2e-4"),
        ("[yes, No, true, ~, null]", [True, False, True, None, None]),
        ("{<<: {a: 1}}", {"<<": {"a": 1}}),
        ("=", "="),
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
        ("a: " + "1" * 5000, "line 1, column 4", "numbers of more than 20 digits"),
        ("a: !!int abc", "line 1, column 4", "tags like tag:yaml.org,2002:int"),
        ("\na: !!bool abc", "line 2, column 4", "tags like"),
        ("!!python/object/apply:os.mkdir [sprung]", "line 1, column 1", "tags like"),
        ("a: !mine 1", "line 1, column 4", "tags like !mine"),
        ("[" * 10_000, f"line 1, column {MAX_DEPTH + 1}", "more than 20 deep"),
        ("- " * 10_000 + "1", "line 1", "more than 20 deep"),
        (BOMB, "line 2, column 4", "aliases within what has an anchor"),
        ("a: &a [*a]", "line 1, column 4", "aliases within what has an anchor"),
        ("a: &a 1\nb: [" + "*a," * 21 + "]", "line 2, column 65", "more than 20 aliases"),
        ("a: 1\na: 2", "line 2, column 1", "the key 'a' twice"),
        ("{[1]: 2}", "line 1, column 2", "lists or mappings as keys"),
        ("a: *b", "line 1, column 4", "undefined alias"),
        ("a: [1", "line 1, column 6", "expected ',' or ']'"),
        ("a: b: c", "line 1, column 5", "mapping values are not allowed"),
        ("a\n--- b", "line 2, column 1", "another document"),
        ("a: \x00", "line 1, column 4", "the character 0"),
        ('a: "\\UFFFFFFFF"', "line 1, column 7", "too large"),
        ('a: "\\U00110000"', "line 1, column 7", "chr() arg not in range"),
        ('a: "b\\0"', "line 1, column 4", "letters that no path can have"),
        ('"\\ud800": b', "line 1, column 1", "letters that no path can have"),
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
        (f"{MODEL}.generator_params.max_features", 1, "max_features must be at least its block_expansion"),
        (f"{MODEL}.generator_params.num_down_blocks", 40, "must be at most 12"),
        (f"{MODEL}.discriminator_params.max_features", 1, "max_features must be at least its block_exp"),
        ("dataset_params.frame_shape", [10**9, 32, 3], "must be at most 8,192"),
        ("dataset_params.random_seed", 2**63, "must be at most 9,223,372,036,854,775,807"),
        ("dataset_params.random_seed", -1, "must be a whole number of at least 0"),
        ("dataset_params.augmentation_params.resize_param", {"ratio": [1, 1e30]}, "must be at most 100"),
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


TOO_LARGE = 10**9
OUT_OF_BOUNDS: dict[str, list[Any]] = {
    "model_params.common_params.num_kp": [TOO_LARGE],
    "model_params.generator_params.max_features": [TOO_LARGE],
    "model_params.generator_params.num_down_blocks": [TOO_LARGE],
    "model_params.kp_detector_params.temperature": [float("inf"), float("nan"), 1e30, 1e-320],
    "model_params.kp_detector_params.scale_factor": [1.0e-320],
    "model_params.discriminator_params.scales": [[1, 1], []],
    "dataset_params.frame_shape": [[TOO_LARGE, 32, 3]],
    "dataset_params.random_seed": [-1, 2**64],
    "train_params.lr_generator": [float("inf"), float("nan"), 1e30],
    "train_params.num_workers": [10_000],
    "train_params.batch_size": [TOO_LARGE],
    "train_params.scales": [[1, 1], []],
    "train_params.epoch_milestones": [[-1]],
    "train_params.loss_weights": [
        {
            key: [0] * len(value) if isinstance(value, list) else 0
            for key, value in SMALL_CONFIG["train_params"]["loss_weights"].items()
        }
    ],
    "train_params.loss_weights.equivariance_value": [float("inf"), 1e30],
    "train_params.transform_params.points_tps": [TOO_LARGE],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in OUT_OF_BOUNDS.items() for value in values], ids=repr
)
def test_values_out_of_bounds(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        read_config(write_config(tmp_path / "a.yaml", small_config({key: value})))


@pytest.mark.parametrize(
    "key", ["num_repeats", "num_workers", "vgg_weights", "ema_decay", "eval_freq", "compile"]
)
def test_null_means_left_out(key: str, tmp_path: Path) -> None:
    """A config with an empty value holds what one without the key holds, so nobody reads a None."""
    left_out = small_config()
    left_out["train_params"].pop(key, None)
    empty = small_config()
    empty["train_params"][key] = None
    found = [
        read_config(write_config(tmp_path / f"{name}.yaml", config))
        for name, config in (("left_out", left_out), ("empty", empty))
    ]
    assert found[0] == found[1]


# ---- Any text ----------------------------------------------------------------


@seed(17)
@settings(max_examples=300, deadline=None, database=None)
@given(st.text(alphabet="ab01.:-,[]{}&*!'\"#|>% \n\t~\x00é", max_size=60))
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    try:
        parse_yaml(text, "a.yaml")
    except ConfigError as error:
        assert str(error).startswith("a.yaml: line ") and "\n" not in str(error)


WHOLE = yaml.safe_dump(SMALL_CONFIG)


@seed(18)
@settings(max_examples=200, deadline=None, database=None)
@given(
    place=st.integers(0, len(WHOLE) - 1),
    length=st.integers(0, 8),
    text=st.sampled_from(
        ["", ":", "null", "-1", "[", "1" * 30, "&a ", "*a", "!!set ", "\t", "\n  ", "{}", "é"]
    ),
)
def test_a_config_with_a_slip_is_read_or_one_line(
    place: int, length: int, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "slip.yaml"
    path.write_text(WHOLE[:place] + text + WHOLE[place + length :], encoding="utf-8")
    try:
        read_config(path)
    except ConfigError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
