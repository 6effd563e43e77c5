"""Read a config file, and build networks from its values. Every program and test builds through here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from modules.discriminator import MultiScaleDiscriminator
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from modules.schema import DEFAULT_FRAME_SHAPE, SCHEMA, check_relations, without_empty
from modules.util import check_size
from utils.errors import ConfigError
from utils.values import check_keys
from utils.yaml_loader import parse_yaml, read_yaml


def read_config(path: str | Path, changes: Sequence[str] = ()) -> dict:
    """Read and check the values of a YAML config. `changes`: `section.key=value` each, as `--set` takes them.

    Raises `ConfigError` naming the file, the key and what is allowed.
    """
    config = read_yaml(path)
    for change in changes:
        apply_change(config, change)
    check_keys(config, SCHEMA, path, key="")
    config = without_empty(config)
    check_relations(config, path)
    return config


def apply_change(config: Any, change: str) -> None:
    """Set a value of a config, `train_params.batch_size=8`; values are YAML, missing sections are made."""
    key, equals, text = change.partition("=")
    *sections, name = key.split(".")
    if not equals or not name:
        raise ConfigError(f"--set {change}: must be KEY=VALUE, for example train_params.batch_size=8")
    value = parse_yaml(text, f"--set {change}", "the value")
    for section in sections:
        if not isinstance(config, dict):
            break
        if config.get(section) is None:
            config[section] = {}
        config = config[section]
    if not isinstance(config, dict):
        raise ConfigError(f"--set {change}: there is no section '{'.'.join(sections)}'")
    config[name] = value


def frame_shape(config: dict) -> tuple[int, int, int]:
    """Return (height, width, channels) of the frames that the config's networks take."""
    height, width, channels = config["dataset_params"].get("frame_shape", DEFAULT_FRAME_SHAPE)
    return height, width, channels


class Networks(NamedTuple):
    """The networks of a config, by their names in a checkpoint."""

    generator: OcclusionAwareGenerator
    discriminator: MultiScaleDiscriminator
    kp_detector: KPDetector


def build_networks(config: dict) -> Networks:
    """Build all networks of a config. Raises `UserError` if its `frame_shape` doesn't fit them."""
    networks = Networks(build_generator(config), build_discriminator(config), build_kp_detector(config))
    for network in (networks.generator, networks.kp_detector):
        check_size(frame_shape(config)[:2], network.size_multiple)
    return networks


def build_generator(config: dict) -> OcclusionAwareGenerator:
    params = config["model_params"]
    generator = OcclusionAwareGenerator(**params["generator_params"], **params["common_params"])
    generator.frame_size = frame_shape(config)[:2]
    return generator


def build_kp_detector(config: dict) -> KPDetector:
    params = config["model_params"]
    return KPDetector(**params["kp_detector_params"], **params["common_params"])


def build_discriminator(config: dict) -> MultiScaleDiscriminator:
    params = config["model_params"]
    return MultiScaleDiscriminator(**params["discriminator_params"], **params["common_params"])
