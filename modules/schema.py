"""What a config may hold: every key, what its value may be, and which values can't go together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from modules.errors import ConfigError
from modules.model import TERMS
from modules.options import MAX_SEED
from modules.vgg import RELU_X_1

DEFAULT_FRAME_SHAPE = (256, 256, 3)  # that of the published configs
MIN_SCALE = 1 / 1024
TINY, HUGE = 1e-6, 10**6  # of what is multiplied and divided by

# ---- Values ------------------------------------------------------------------


class Leaf(NamedTuple):
    """What a value may be; a key that ends in "?" may be left out.

    `bounds` hold for every number in the value. They are far from what anyone needs, and keep the sums of a
    run finite and what it asks of the machine sane.
    """

    words: str
    check: Callable[[Any], bool]
    bounds: tuple[float, float] = (-(10**9), 10**9)

    def at_most(self, number: int) -> Leaf:
        return self._replace(bounds=(self.bounds[0], number))

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        if not self.check(value):
            return self.words
        numbers = value if isinstance(value, list | tuple) else [value]
        low, high = self.bounds
        for number in numbers:
            if isinstance(number, int | float) and not low <= number <= high:
                return f"at most {high:,}" if number > high else f"at least {low:,}"
        return None


def is_integer(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any, least: float = 0) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= least


def is_scale(value: Any) -> bool:
    return is_number(value) and MIN_SCALE <= value <= 1 and abs(round(1 / value) * value - 1) < 1e-6


def list_of(check: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list | tuple) and all(check(item) for item in value)


FLAG = Leaf("true or false", lambda value: isinstance(value, bool))
TEXT = Leaf("a text", lambda value: isinstance(value, str))
COUNT = Leaf("a whole number of at least 1", lambda value: is_integer(value, least=1))
WHOLE = Leaf("a whole number of at least 0", is_integer)
NUMBER = Leaf("a number of at least 0 (with a dot: 2.0e-4, not 2e-4)", is_number, (0, HUGE))
POSITIVE = Leaf("a number above 0", lambda value: is_number(value) and value > 0, (TINY, HUGE))
DECAY = Leaf("a number above 0 and below 1", lambda value: is_number(value) and 0 < value < 1)
NUMBERS = Leaf("a list of numbers of at least 0", lambda value: list_of(is_number, value), (0, HUGE))
WHOLES = Leaf("a list of whole numbers", lambda value: list_of(is_integer, value))
SCALE = Leaf("1 divided by a whole number (1, 0.5, 0.25, …)", is_scale)
SCALES = Leaf(
    "a list of 1 divided by whole numbers ([1, 0.5, 0.25])",
    lambda value: list_of(is_scale, value),
)
FRAME_SHAPE = Leaf(
    "[height, width, channels]",
    lambda value: list_of(lambda item: is_integer(item, least=1), value) and len(value) == 3,
    (1, 2**13),
)
RANGE = Leaf(
    "[lowest, highest], both above 0",
    lambda value: list_of(is_number, value) and len(value) == 2 and 0 < value[0] <= value[1],
    (1 / 100, 100),
)
ANGLE = Leaf(
    "degrees, or [lowest, highest]",
    lambda value: (
        is_number(value)
        or (
            list_of(lambda item: is_number(item, least=-360), value)
            and len(value) == 2
            and value[0] <= value[1]
        )
    ),
    (-360, 360),
)
HUE = Leaf("a number from 0 to 0.5", lambda value: is_number(value) and value <= 0.5)
SIZE = Leaf(
    "a whole number, or [height, width]",
    lambda value: COUNT.check(value) or (list_of(COUNT.check, value) and len(value) == 2),
    (1, 2**13),
)
INTERPOLATION = Leaf("nearest or bilinear", lambda value: value in ("nearest", "bilinear"))
COLORMAP = Leaf("the name of a matplotlib colormap", lambda value: isinstance(value, str))
FORMAT = Leaf(".mp4 or .gif", lambda value: value in (".mp4", ".gif"))
FEATURES, BLOCKS = COUNT.at_most(2**13), COUNT.at_most(12)
HALVINGS, REPEATS = WHOLE.at_most(12), COUNT.at_most(10**5)

# ---- Sections ----------------------------------------------------------------

HOURGLASS = {"block_expansion": FEATURES, "max_features": FEATURES, "num_blocks": BLOCKS}

AUGMENTATION = {
    "flip_param?": {"horizontal_flip?": FLAG, "time_flip?": FLAG},
    "rotation_param?": {"degrees": ANGLE},
    "resize_param?": {"ratio?": RANGE, "interpolation?": INTERPOLATION},
    "crop_param?": {"size": SIZE},
    "jitter_param?": {"brightness?": NUMBER, "contrast?": NUMBER, "saturation?": NUMBER, "hue?": HUE},
}

# A key for each term of the generator's loss, and the one term of the discriminator's.
LOSS_WEIGHTS = {
    term.key if term.published else f"{term.key}?": NUMBERS if term.weighs_features else NUMBER
    for term in TERMS
} | {"discriminator_gan": NUMBER}

SCHEMA = {
    "dataset_params": {
        "root_dir": TEXT,
        "frame_shape?": FRAME_SHAPE,
        "id_sampling?": FLAG,
        "pairs_list?": TEXT,
        "random_seed?": WHOLE.at_most(MAX_SEED),
        "augmentation_params?": AUGMENTATION,
    },
    "model_params": {
        "common_params": {
            "num_kp": COUNT.at_most(1000),
            "num_channels": COUNT.at_most(16),
            "estimate_jacobian?": FLAG,
        },
        "kp_detector_params": HOURGLASS
        | {
            "temperature": POSITIVE,
            "scale_factor?": SCALE,
            "single_jacobian_map?": FLAG,
            "pad?": WHOLE.at_most(100),
        },
        "generator_params": {
            "block_expansion": FEATURES,
            "max_features": FEATURES,
            "num_down_blocks": HALVINGS,
            "num_bottleneck_blocks": WHOLE.at_most(1000),
            "estimate_occlusion_map?": FLAG,
            "align_corners?": FLAG,
            "image_skip?": FLAG,
            "dense_motion_params?": HOURGLASS | {"scale_factor?": SCALE, "kp_variance?": POSITIVE},
        },
        "discriminator_params": {
            "scales?": SCALES,
            "block_expansion?": FEATURES,
            "max_features?": FEATURES,
            "num_blocks?": BLOCKS,
            "sn?": FLAG,
            "use_kp?": FLAG,
            "kp_variance?": POSITIVE,
        },
    },
    "train_params": {
        "num_epochs": COUNT,
        "num_repeats?": REPEATS,
        "epoch_milestones": WHOLES,
        "lr_generator": NUMBER,
        "lr_discriminator": NUMBER,
        "lr_kp_detector": NUMBER,
        "batch_size": REPEATS,
        "scales": SCALES,
        "checkpoint_freq": COUNT,
        "num_workers?": WHOLE.at_most(512),
        "vgg_weights?": TEXT,
        "accumulate?": REPEATS,
        "ema_decay?": DECAY,
        "eval_freq?": COUNT,
        "channels_last?": FLAG,
        "compile?": FLAG,
        "transform_params": {"sigma_affine": NUMBER, "sigma_tps?": NUMBER, "points_tps?": COUNT.at_most(100)},
        "loss_weights": LOSS_WEIGHTS,
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
    "visualizer_params?": {"kp_size?": COUNT.at_most(1000), "draw_border?": FLAG, "colormap?": COLORMAP},
}


# ---- Checks ------------------------------------------------------------------


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
                words = "" if isinstance(expected, dict) else f": {expected.words}"
                raise ConfigError(f"{path}: missing key '{full}'{words}")
        elif isinstance(expected, dict):
            check_keys(values[name], expected, path, full)
        elif (wanted := expected.problem(values[name])) is not None:
            raise ConfigError(f"{path}: '{full}' must be {wanted}; it is {values[name]!r}")


def without_empty(values: dict) -> dict:
    """A config without its keys that hold nothing, which count as left out."""
    return {
        name: without_empty(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


def plain_names(schema: dict) -> list[str]:
    return [entry.rstrip("?") for entry in schema]


def dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)


def check_relations(config: dict, path: str | Path) -> None:
    """Raise `ConfigError` for values that are fine each by itself and can't go together."""
    weights = config["train_params"]["loss_weights"]
    for term in TERMS:
        needed = term.requires
        if needed and term.wanted(weights) and not needed.met_by(config["model_params"]):
            raise ConfigError(
                f"{path}: train_params.loss_weights.{term.key} must be 0 without {needed.words}"
            )
    for broken, message in relations(config) + network_relations(config):
        if broken:
            raise ConfigError(f"{path}: {message}")


def relations(config: dict) -> list[tuple[bool, str]]:
    """What must not be, each with the message for the case that it is."""
    model, train = config["model_params"], config["train_params"]
    weights, common = train["loss_weights"], model["common_params"]
    generator, discriminator = model["generator_params"], model["discriminator_params"]
    adversarial, matching = weights["generator_gan"] != 0, weights["feature_matching"]
    scales, num_blocks = discriminator.get("scales") or [], discriminator.get("num_blocks") or 4
    channels = (config["dataset_params"].get("frame_shape") or DEFAULT_FRAME_SHAPE)[2]
    image_skip = generator.get("image_skip", False)
    return [
        (
            not any(term.wanted(weights) for term in TERMS),
            "train_params.loss_weights: one of the generator's must not be 0, or nothing is learned",
        ),
        (
            not train["scales"] or len(set(train["scales"])) < len(train["scales"]),
            "train_params.scales must hold a scale, and none twice",
        ),
        (
            len(set(scales)) < len(scales),
            "model_params.discriminator_params.scales must hold no scale twice",
        ),
        (
            len(weights["perceptual"]) > len(RELU_X_1),
            f"train_params.loss_weights.perceptual takes at most {len(RELU_X_1)} weights, one for each "
            "VGG-19 feature",
        ),
        (
            any(weights["perceptual"]) and common["num_channels"] != 3,
            "train_params.loss_weights.perceptual must be all 0 where num_channels is not 3: VGG-19 takes "
            "colour pictures",
        ),
        (
            adversarial and not scales,
            "model_params.discriminator_params.scales must hold a scale where generator_gan is not 0",
        ),
        (
            adversarial and not set(scales) <= set(train["scales"]),
            "model_params.discriminator_params.scales may only hold scales of train_params.scales",
        ),
        (
            adversarial and any(matching) and len(matching) < num_blocks,
            f"train_params.loss_weights.feature_matching needs {num_blocks} weights, one for each block of "
            "the discriminator",
        ),
        (
            image_skip and not generator.get("estimate_occlusion_map", False),
            "model_params.generator_params.image_skip needs estimate_occlusion_map: true, which says what to "
            "paint anew",
        ),
        (
            image_skip and generator.get("dense_motion_params") is None,
            "model_params.generator_params.image_skip needs dense_motion_params: nothing is warped without "
            "them",
        ),
        (
            channels != common["num_channels"],
            "dataset_params.frame_shape must end in model_params.common_params.num_channels",
        ),
    ]


def network_relations(config: dict) -> list[tuple[bool, str]]:
    """What must not be within `model_params`, each with the message for the case that it is."""
    model = config["model_params"]
    generator, discriminator = model["generator_params"], model["discriminator_params"]
    height, width, _ = config["dataset_params"].get("frame_shape") or DEFAULT_FRAME_SHAPE
    parts = {
        "kp_detector_params": model["kp_detector_params"],
        "generator_params": generator,
        "generator_params.dense_motion_params": generator.get("dense_motion_params") or {},
        "discriminator_params": discriminator,
    }
    too_few = [
        (
            (params.get("max_features") or 512) < (params.get("block_expansion") or 64),
            f"model_params.{name}.max_features must be at least its block_expansion",
        )
        for name, params in parts.items()
    ]
    num_blocks = discriminator.get("num_blocks") or 4
    too_deep = [
        (
            not has_room(int(min(height, width) * scale), num_blocks),
            f"model_params.discriminator_params.num_blocks: pictures of {height}x{width} at scale {scale} "
            f"are too small for {num_blocks} blocks; take fewer",
        )
        for scale in discriminator.get("scales") or []
        if config["train_params"]["loss_weights"]["generator_gan"] != 0
    ]
    return too_few + too_deep


def has_room(side: int, num_blocks: int) -> bool:
    """Whether a discriminator of so many blocks sees more than a pixel of a square picture to its end."""
    for _ in range(num_blocks - 1):
        side = (side - 3) // 2  # a convolution of 4x4, and every other pixel
    return side - 3 > 1
