"""What a config may hold: every key, what its value may be, and which values can't go together."""

from __future__ import annotations

from pathlib import Path

from modules.model import TERMS
from modules.vgg import RELU_X_1
from utils.errors import ConfigError
from utils.options import MAX_SEED
from utils.values import (
    ANGLE,
    BLOCKS,
    COLORMAP,
    COUNT,
    DECAY,
    FEATURES,
    FLAG,
    FORMAT,
    FRAME_SHAPE,
    HALVINGS,
    HUE,
    INTERPOLATION,
    NUMBER,
    NUMBERS,
    POSITIVE,
    RANGE,
    REPEATS,
    SCALE,
    SCALES,
    SIZE,
    TEXT,
    WHOLE,
    WHOLES,
)

DEFAULT_FRAME_SHAPE = (256, 256, 3)  # that of the published configs

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
        "max_grad_norm?": POSITIVE,
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


def without_empty(values: dict) -> dict:
    """A config without its keys that hold nothing, which count as left out."""
    return {
        name: without_empty(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


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
