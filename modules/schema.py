"""The schema of a config: every key, the range of its value, and values that can't go together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modules.model import TERMS
from modules.vgg import RELU_X_1
from utils.errors import ConfigError
from utils.options import MAX_SEED
from utils.values import (
    ANGLE,
    BLOCKS,
    CHANNELS,
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

PER_SIDE = COUNT._replace(bounds=(2, 100))  # points of a grid that reaches from -1 to 1
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
            "num_channels": CHANNELS,
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
            "warp_align_corners?": FLAG,
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
        "transform_params": {"sigma_affine": NUMBER, "sigma_tps?": NUMBER, "points_tps?": PER_SIDE},
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


def without_empty(config: dict) -> dict:
    """Drop the keys of a config that hold nothing, which count as left out."""
    return {
        name: without_empty(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if value is not None
    }


def check_relations(config: dict, path: str | Path) -> None:
    """Raise `ConfigError` for values that are fine each by itself and can't go together."""
    for problem in (*loss_problems(config), *network_problems(config)):
        raise ConfigError(f"{path}: {problem}")


def loss_problems(config: dict) -> Iterator[str]:
    """Yield what is wrong with the losses: for the networks, or among themselves."""
    model, train = config["model_params"], config["train_params"]
    weights, scales = train["loss_weights"], train["scales"]
    for term in TERMS:
        if term.requires and term.wanted(weights) and not term.requires.met_by(model):
            yield f"train_params.loss_weights.{term.key} must be 0 without {term.requires.words}"
    if not any(term.wanted(weights) for term in TERMS):
        yield "train_params.loss_weights: one of the generator's must not be 0, or nothing is learned"
    if train["lr_generator"] == train["lr_kp_detector"] == 0:
        yield "train_params: lr_generator or lr_kp_detector must not be 0, or nothing is learned"
    if not scales or len(set(scales)) < len(scales):
        yield "train_params.scales must hold a scale, and none twice"
    # VGG-19.
    if len(weights["perceptual"]) > len(RELU_X_1):
        yield (
            f"train_params.loss_weights.perceptual takes at most {len(RELU_X_1)} weights, one for each "
            "VGG-19 feature"
        )
    if any(weights["perceptual"]) and model["common_params"]["num_channels"] != 3:
        yield (
            "train_params.loss_weights.perceptual must be all 0 where num_channels is not 3: VGG-19 takes "
            "colour pictures"
        )
    # The discriminator.
    if weights["generator_gan"] == 0:
        return
    discriminator = model["discriminator_params"]
    judged, num_blocks = discriminator.get("scales", []), discriminator.get("num_blocks", 4)
    if not judged:
        yield "model_params.discriminator_params.scales must hold a scale where generator_gan is not 0"
    if not set(judged) <= set(scales):
        yield "model_params.discriminator_params.scales may only hold scales of train_params.scales"
    if any(weights["feature_matching"]) and len(weights["feature_matching"]) < num_blocks:
        yield (
            f"train_params.loss_weights.feature_matching needs {num_blocks} weights, one for each block of "
            "the discriminator"
        )
    height, width, _ = config["dataset_params"].get("frame_shape", DEFAULT_FRAME_SHAPE)
    for scale in judged:
        if not has_room(int(min(height, width) * scale), num_blocks):
            yield (
                f"model_params.discriminator_params.num_blocks: pictures of {height}x{width} at scale "
                f"{scale} are too small for {num_blocks} blocks; take fewer"
            )


def network_problems(config: dict) -> Iterator[str]:
    """Yield what can't be within `model_params`."""
    model = config["model_params"]
    generator, discriminator = model["generator_params"], model["discriminator_params"]
    motion = generator.get("dense_motion_params")
    scales = discriminator.get("scales", [])
    if len(set(scales)) < len(scales):
        yield "model_params.discriminator_params.scales must hold no scale twice"
    image_skip = generator.get("image_skip", False)
    if image_skip and not generator.get("estimate_occlusion_map", False):
        yield "model_params.generator_params.image_skip needs estimate_occlusion_map: true"
    if image_skip and motion is None:
        yield "model_params.generator_params.image_skip needs dense_motion_params"
    channels = config["dataset_params"].get("frame_shape", DEFAULT_FRAME_SHAPE)[2]
    if channels != model["common_params"]["num_channels"]:
        yield "dataset_params.frame_shape must end in model_params.common_params.num_channels"
    for name, params in {
        "kp_detector_params": model["kp_detector_params"],
        "generator_params": generator,
        "generator_params.dense_motion_params": motion or {},
        "discriminator_params": discriminator,
    }.items():
        if params.get("max_features", 512) < params.get("block_expansion", 64):
            yield f"model_params.{name}.max_features must be at least its block_expansion"


def has_room(side: int, num_blocks: int) -> bool:
    """Whether a square picture is large enough for a discriminator with `num_blocks` blocks."""
    for _ in range(num_blocks - 1):
        side = (side - 3) // 2  # a convolution of 4x4, and every other pixel
    return side - 3 > 1
