"""A config file becomes checked values, the values become networks, and a checkpoint's weights go into them.

This is the one factory: `run.py`, `demo.py`, `evaluate.py` and the tests all build through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modules.discriminator import MultiScaleDiscriminator
from modules.errors import ConfigError
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from modules.model import RELU_X_1
from modules.yaml_loader import parse_yaml, read_yaml

# ---------------------------------------------------------------------------------------------------------------------
# What a config may hold. A leaf is (what is allowed, in words; the check); a key that ends in "?" may be left out.

Leaf = tuple[str, Callable[[Any], bool]]


def is_integer(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any, least: float = 0) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= least


def is_scale(value: Any) -> bool:
    return is_number(value) and 0 < value <= 1 and abs(round(1 / value) * value - 1) < 1e-6


def list_of(check: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list | tuple) and all(check(item) for item in value)


FLAG: Leaf = ("true or false", lambda value: isinstance(value, bool))
TEXT: Leaf = ("a text", lambda value: isinstance(value, str))
COUNT: Leaf = ("a whole number of at least 1", lambda value: is_integer(value, least=1))
WHOLE: Leaf = ("a whole number of at least 0", is_integer)
NUMBER: Leaf = ("a number of at least 0 (with a dot: 2.0e-4, not 2e-4)", is_number)
POSITIVE: Leaf = ("a number above 0", lambda value: is_number(value) and value > 0)
DECAY: Leaf = ("a number above 0 and below 1", lambda value: is_number(value) and 0 < value < 1)
NUMBERS: Leaf = ("a list of numbers of at least 0", lambda value: list_of(is_number, value))
WHOLES: Leaf = ("a list of whole numbers", lambda value: list_of(is_integer, value))
SCALE: Leaf = ("1 divided by a whole number (1, 0.5, 0.25, …)", is_scale)
SCALES: Leaf = (
    "a list of 1 divided by whole numbers ([1, 0.5, 0.25])",
    lambda value: list_of(is_scale, value),
)
FRAME_SHAPE: Leaf = (
    "[height, width, channels]",
    lambda value: list_of(lambda item: is_integer(item, least=1), value) and len(value) == 3,
)
RANGE: Leaf = (
    "[lowest, highest], both above 0",
    lambda value: list_of(is_number, value) and len(value) == 2 and 0 < value[0] <= value[1],
)
ANGLE: Leaf = (
    "degrees, or [lowest, highest]",
    lambda value: (
        is_number(value)
        or (
            list_of(lambda item: is_number(item, least=-360), value)
            and len(value) == 2
            and value[0] <= value[1]
        )
    ),
)
HUE: Leaf = ("a number from 0 to 0.5", lambda value: is_number(value) and value <= 0.5)
SIZE: Leaf = (
    "a whole number, or [height, width]",
    lambda value: COUNT[1](value) or (list_of(COUNT[1], value) and len(value) == 2),
)
INTERPOLATION: Leaf = ("nearest or bilinear", lambda value: value in ("nearest", "bilinear"))
COLORMAP: Leaf = ("the name of a matplotlib colormap", lambda value: isinstance(value, str))
FORMAT: Leaf = (".mp4 or .gif", lambda value: value in (".mp4", ".gif"))

HOURGLASS = {"block_expansion": COUNT, "max_features": COUNT, "num_blocks": COUNT}

AUGMENTATION = {
    "flip_param?": {"horizontal_flip?": FLAG, "time_flip?": FLAG},
    "rotation_param?": {"degrees": ANGLE},
    "resize_param?": {"ratio?": RANGE, "interpolation?": INTERPOLATION},
    "crop_param?": {"size": SIZE},
    "jitter_param?": {"brightness?": NUMBER, "contrast?": NUMBER, "saturation?": NUMBER, "hue?": HUE},
}

SCHEMA = {
    "dataset_params": {
        "root_dir": TEXT,
        "frame_shape?": FRAME_SHAPE,
        "id_sampling?": FLAG,
        "pairs_list?": TEXT,
        "random_seed?": WHOLE,
        "augmentation_params?": AUGMENTATION,
    },
    "model_params": {
        "common_params": {"num_kp": COUNT, "num_channels": COUNT, "estimate_jacobian?": FLAG},
        "kp_detector_params": HOURGLASS
        | {"temperature": POSITIVE, "scale_factor?": SCALE, "single_jacobian_map?": FLAG, "pad?": WHOLE},
        "generator_params": {
            "block_expansion": COUNT,
            "max_features": COUNT,
            "num_down_blocks": WHOLE,
            "num_bottleneck_blocks": WHOLE,
            "estimate_occlusion_map?": FLAG,
            "align_corners?": FLAG,
            "image_skip?": FLAG,
            "dense_motion_params?": HOURGLASS | {"scale_factor?": SCALE, "kp_variance?": POSITIVE},
        },
        "discriminator_params": {
            "scales?": SCALES,
            "block_expansion?": COUNT,
            "max_features?": COUNT,
            "num_blocks?": COUNT,
            "sn?": FLAG,
            "use_kp?": FLAG,
            "kp_variance?": POSITIVE,
        },
    },
    "train_params": {
        "num_epochs": COUNT,
        "num_repeats?": COUNT,
        "epoch_milestones": WHOLES,
        "lr_generator": NUMBER,
        "lr_discriminator": NUMBER,
        "lr_kp_detector": NUMBER,
        "batch_size": COUNT,
        "scales": SCALES,
        "checkpoint_freq": COUNT,
        "num_workers?": WHOLE,
        "vgg_weights?": TEXT,
        "accumulate?": COUNT,
        "ema_decay?": DECAY,
        "eval_freq?": COUNT,
        "channels_last?": FLAG,
        "compile?": FLAG,
        "transform_params": {"sigma_affine": NUMBER, "sigma_tps?": NUMBER, "points_tps?": COUNT},
        "loss_weights": {
            "generator_gan": NUMBER,
            "discriminator_gan": NUMBER,
            "feature_matching": NUMBERS,
            "perceptual": NUMBERS,
            "pyramid?": NUMBER,
            "deformed?": NUMBER,
            "painted?": NUMBER,
            "keypoint_prior?": NUMBER,
            "occlusion_prior?": NUMBER,
            "equivariance_value": NUMBER,
            "equivariance_jacobian": NUMBER,
        },
    },
    "reconstruction_params?": {"num_videos?": COUNT, "format?": FORMAT},
    "animate_params?": {
        "num_pairs?": COUNT,
        "format?": FORMAT,
        "normalization_params?": {
            "adapt_movement_scale?": FLAG,
            "use_relative_movement?": FLAG,
            "use_relative_jacobian?": FLAG,
        },
    },
    "visualizer_params?": {"kp_size?": COUNT, "draw_border?": FLAG, "colormap?": COLORMAP},
}


# ---------------------------------------------------------------------------------------------------------------------
# Reading a config


def read_config(path: str | Path, changes: Sequence[str] = ()) -> dict:
    """The values of a YAML config, checked. `changes`: `section.key=value` each, as `--set` takes them.

    Raises `ConfigError` naming the file, the key and what is allowed.
    """
    config = read_yaml(path)
    for change in changes:
        apply_change(config, change)
    check_keys(config, SCHEMA, path, key="")
    check_relations(config, path)
    return config


def apply_change(config: Any, change: str) -> None:
    """Set one value of a config, `train_params.batch_size=8`; the value is YAML. Sections on the way are made."""
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


def check_keys(values: Any, schema: dict, path: str | Path, key: str) -> None:
    """Hold one mapping of a config, found under the dotted `key`, and all below it against the schema."""
    here = key or "the file"
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: {here} must hold the keys {', '.join(plain_names(schema))}; it is {values!r}"
        )
    for name in values:
        if name not in plain_names(schema):
            raise ConfigError(
                f"{path}: unknown key '{dotted(key, name)}'; {here} may hold {', '.join(plain_names(schema))}"
            )
    for entry, expected in schema.items():
        name, full = entry.rstrip("?"), dotted(key, entry.rstrip("?"))
        if values.get(name) is None:  # an empty value counts as left out
            if not entry.endswith("?"):
                raise ConfigError(
                    f"{path}: missing key '{full}'{'' if isinstance(expected, dict) else ': ' + expected[0]}"
                )
        elif isinstance(expected, dict):
            check_keys(values[name], expected, path, full)
        elif not expected[1](values[name]):
            raise ConfigError(f"{path}: '{full}' must be {expected[0]}; it is {values[name]!r}")


def plain_names(schema: dict) -> list[str]:
    return [entry.rstrip("?") for entry in schema]


def dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)


def check_relations(config: dict, path: str | Path) -> None:
    """Values that are fine each by itself and can't go together."""
    model, train = config["model_params"], config["train_params"]
    weights, generator, discriminator = (
        train["loss_weights"],
        model["generator_params"],
        model["discriminator_params"],
    )
    adversarial = weights["generator_gan"] != 0
    num_blocks = discriminator.get("num_blocks", 4)
    has_occlusion_map = (
        generator.get("estimate_occlusion_map", False) and generator.get("dense_motion_params") is not None
    )
    rules = [
        (
            weights["equivariance_jacobian"] != 0
            and not model["common_params"].get("estimate_jacobian", False),
            "train_params.loss_weights.equivariance_jacobian must be 0 where common_params.estimate_jacobian is false",
        ),
        (
            len(weights["perceptual"]) > len(RELU_X_1),
            f"train_params.loss_weights.perceptual takes at most {len(RELU_X_1)} weights, one for each VGG-19 feature",
        ),
        (
            adversarial and not set(discriminator.get("scales", [])) <= set(train["scales"]),
            "model_params.discriminator_params.scales may only hold scales of train_params.scales",
        ),
        (
            adversarial
            and any(weights["feature_matching"])
            and len(weights["feature_matching"]) < num_blocks,
            f"train_params.loss_weights.feature_matching needs {num_blocks} weights, one for each block of the discriminator",
        ),
        (
            weights.get("deformed", 0) != 0 and generator.get("dense_motion_params") is None,
            "train_params.loss_weights.deformed must be 0 without generator_params.dense_motion_params: nothing is warped then",
        ),
        (
            weights.get("painted", 0) != 0 and not generator.get("image_skip", False),
            "train_params.loss_weights.painted must be 0 without generator_params.image_skip: pyramid is the same then",
        ),
        (
            weights.get("occlusion_prior", 0) != 0 and not has_occlusion_map,
            "train_params.loss_weights.occlusion_prior must be 0 without an occlusion map "
            "(generator_params.estimate_occlusion_map and dense_motion_params)",
        ),
        (
            generator.get("image_skip", False) and not generator.get("estimate_occlusion_map", False),
            "model_params.generator_params.image_skip needs estimate_occlusion_map: true, which says what to paint anew",
        ),
        (
            generator.get("image_skip", False) and generator.get("dense_motion_params") is None,
            "model_params.generator_params.image_skip needs dense_motion_params: nothing is warped without them",
        ),
        (
            any(weights["perceptual"]) and model["common_params"]["num_channels"] != 3,
            "train_params.loss_weights.perceptual must be all 0 where num_channels is not 3: VGG-19 takes colour pictures",
        ),
        (
            frame_shape(config)[2] != model["common_params"]["num_channels"],
            "dataset_params.frame_shape must end in model_params.common_params.num_channels",
        ),
    ]
    for broken, message in rules:
        if broken:
            raise ConfigError(f"{path}: {message}")


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def frame_shape(config: dict) -> tuple[int, int, int]:
    """(height, width, channels) of the frames that the config's networks take; the published default is 256×256 colour."""
    return tuple(config["dataset_params"].get("frame_shape", (256, 256, 3)))


def build_generator(config: dict) -> OcclusionAwareGenerator:
    params = config["model_params"]
    return OcclusionAwareGenerator(**params["generator_params"], **params["common_params"])


def build_kp_detector(config: dict) -> KPDetector:
    params = config["model_params"]
    return KPDetector(**params["kp_detector_params"], **params["common_params"])


def build_discriminator(config: dict) -> MultiScaleDiscriminator:
    params = config["model_params"]
    return MultiScaleDiscriminator(**params["discriminator_params"], **params["common_params"])
