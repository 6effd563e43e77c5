"""Properties of every augmentation, and colour arithmetic against torchvision."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from augmentation import ADJUST, AllAugmentationTransform
from utils.errors import ConfigError


def random_clip(frames=2, height=12, width=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def applied(transform, clip, rng):
    """The planes (T, 3, H, W) that come out, as frames (T, H, W, 3)."""
    return transform(clip, rng).transpose(0, 2, 3, 1)


def augmented(clip, seed=0, **params):
    return applied(AllAugmentationTransform(**params), clip, np.random.default_rng(seed))


def test_without_parameters_a_clip_is_only_converted():
    clip = random_clip()
    expected = (clip / 255).astype(np.float32)
    assert augmented(clip).dtype == np.float32
    np.testing.assert_array_equal(augmented(clip), expected)
    np.testing.assert_array_equal(augmented(expected.astype(np.float64)), expected)


def test_equal_generators_give_equal_clips_and_global_state_is_untouched():
    params = {
        "flip_param": {"time_flip": True, "horizontal_flip": True},
        "rotation_param": {"degrees": 20},
        "resize_param": {"ratio": [0.8, 1.2]},
        "crop_param": {"size": 10},
        "jitter_param": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.2},
    }
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (augmented(random_clip(), seed, **params) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_every_transform_treats_all_frames_alike():
    still = np.repeat(random_clip(frames=1), 3, axis=0)
    params = {
        "flip_param": {"horizontal_flip": True},
        "rotation_param": {"degrees": 20},
        "resize_param": {"ratio": [0.8, 1.2], "interpolation": "bilinear"},
        "crop_param": {"size": [9, 10]},
        "jitter_param": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.2},
    }
    for seed in range(20):
        out = augmented(still, seed, **params)
        assert out.shape == (3, 9, 10, 3)
        assert out.min() >= 0 and out.max() <= 1
        assert np.array_equal(out[0], out[1]) and np.array_equal(out[0], out[2])


def test_flips_are_independent_and_happen_half_of_the_time():
    clip = np.zeros((2, 1, 2, 3), np.uint8)
    clip[0, 0, 0] = 255  # one bright pixel tells where the clip went
    transform = AllAugmentationTransform(flip_param={"time_flip": True, "horizontal_flip": True})
    rng = np.random.default_rng(0)
    seen = Counter(tuple(np.argwhere(applied(transform, clip, rng)[..., 0])[0]) for _ in range(10_000))
    assert len(seen) == 4
    for count in seen.values():  # 2500 expected, standard deviation 43
        assert 2280 < count < 2720


@pytest.mark.parametrize(
    ("size", "window", "rows", "columns"),
    [
        (3, (3, 3), 4, 6),
        ([6, 5], (6, 5), 1, 4),
        ([2, 8], (2, 8), 5, 1),
    ],
)
def test_crop_reaches_every_offset_equally_often(size, window, rows, columns):
    clip = np.zeros((1, 6, 8, 3), np.uint8)
    clip[..., 0], clip[..., 1] = np.arange(6)[:, None], np.arange(8)  # a pixel holds its own position
    transform = AllAugmentationTransform(crop_param={"size": size})
    rng = np.random.default_rng(0)
    seen = Counter()
    for _ in range(2400):
        out = applied(transform, clip, rng)[0]
        assert out.shape[:2] == window
        seen[tuple((out[0, 0, :2] * 255).round().astype(int).tolist())] += 1
    assert set(seen) == {(row, column) for row in range(rows) for column in range(columns)}
    expected = 2400 / (rows * columns)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in seen.values())


def test_crop_pads_a_small_clip_with_its_edges():
    clip = random_clip(height=4, width=9)
    out = augmented(clip, crop_param={"size": [7, 9]})
    np.testing.assert_array_equal(
        out, np.pad((clip / 255).astype(np.float32), [(0, 0), (1, 2), (0, 0), (0, 0)], mode="edge")
    )


def test_nearest_resize_repeats_pixels_and_bilinear_keeps_a_ramp():
    clip = random_clip()
    doubled = augmented(clip, resize_param={"ratio": [2, 2]})
    np.testing.assert_array_equal(
        doubled, (clip / 255).astype(np.float32).repeat(2, axis=1).repeat(2, axis=2)
    )

    ramp = np.broadcast_to(np.linspace(0, 1, 32)[:, None], (1, 32, 32, 3))
    out = augmented(ramp, resize_param={"ratio": [0.75, 0.75], "interpolation": "bilinear"})
    assert out.shape == (1, 24, 24, 3)
    steps = np.diff(out[0, 0, 2:-2, 0])
    np.testing.assert_allclose(steps, 1 / 31 * 32 / 24, atol=2e-3)


def test_resize_draws_over_the_whole_range():
    heights = [
        augmented(random_clip(), seed, resize_param={"ratio": [0.5, 1.5]}).shape[1] for seed in range(300)
    ]
    assert min(heights) == 6 and max(heights) == 18 and set(heights) == set(range(6, 19))


def test_rotation_turns_about_the_centre():
    clip = random_clip(height=9, width=9)
    quarter = augmented(clip, rotation_param={"degrees": [90, 90]})
    np.testing.assert_allclose(quarter, np.rot90((clip / 255).astype(np.float32), axes=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(augmented(clip, rotation_param={"degrees": 0}), clip / 255, atol=1e-6)

    white = np.full((1, 41, 41, 3), 255, np.uint8)
    turned = augmented(white, rotation_param={"degrees": [45, 45]})[0, ..., 0]
    assert turned[20, 20] == 1 and turned[0, 20] == 1  # the middle of a side stays inside
    assert turned[0, 0] == 0


# ---- Colour -----------------------------------------------------------------

# Noise, and ties between channels: greys, primaries, secondaries, halves. Higher than one block of rows.
LEVELS = np.array([0, 0.5, 1])
TIES = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS), axis=-1).reshape(1, 1, 27, 3)
COLOURS = np.concatenate(
    [random_clip(3, 150, 32) / 255, np.broadcast_to(TIES, (3, 150, 27, 3))], axis=2
).astype(np.float32)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.6, 0.9, 1.0, 1.1, 1.7])
def test_blends_equal_torchvision(name, factor):
    check_against_torchvision(name, factor)


@pytest.mark.parametrize("shift", [-0.5, -0.34, -0.1, -1 / 6, 0.0, 0.003, 0.1, 1 / 3, 0.5])
def test_hue_equals_torchvision(shift):
    check_against_torchvision("hue", shift)


def check_against_torchvision(name, amount):
    planes = np.ascontiguousarray(COLOURS.transpose(0, 3, 1, 2))
    theirs = getattr(functional, f"adjust_{name}")(torch.from_numpy(planes), amount).numpy()
    for frame in planes:
        ADJUST[name](frame, amount)  # in place
    np.testing.assert_allclose(planes, theirs, atol=5e-6)


def test_jitter_applies_all_parts_in_every_order():
    jitter = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.5}
    transform = AllAugmentationTransform(jitter_param=jitter)
    orders, amounts = Counter(), []
    step = transform.transforms[0]
    planes = np.zeros((1, 3, 4, 4), np.float32)  # each frame is adjusted by itself

    def spy(name, adjust):
        def spied(planes, amount):
            calls.append((name, amount))
            adjust(planes, amount)

        return spied

    step.parts = [
        (spy(name, adjust), low, high) for name, (adjust, low, high) in zip(jitter, step.parts, strict=True)
    ]
    rng = np.random.default_rng(0)
    for _ in range(2400):
        calls = []
        step(planes, rng)
        orders[tuple(name for name, _ in calls)] += 1
        amounts.append(dict(calls))
    assert len(orders) == 24 and all(set(order) == set(jitter) for order in orders)
    assert all(abs(count - 100) < 50 for count in orders.values())
    for name in jitter:
        drawn = [amount[name] for amount in amounts]
        centre = 0 if name == "hue" else 1
        assert centre - 0.5 <= min(drawn) < centre - 0.49 and centre + 0.49 < max(drawn) <= centre + 0.5


def test_a_jitter_factor_is_never_negative():
    white = np.full((1, 4, 4, 3), 255, np.uint8)
    values = [augmented(white, seed, jitter_param={"brightness": 3})[0, 0, 0, 0] for seed in range(200)]
    assert min(values) > 0 and max(values) == 1


def test_the_clip_that_is_passed_in_stays_as_it_is():
    for clip in (random_clip(), (random_clip() / 255).astype(np.float32)):
        before = clip.copy()
        augmented(clip, jitter_param={"brightness": 0.5, "hue": 0.5})
        np.testing.assert_array_equal(clip, before)


# ---- Mistakes in a config ---------------------------------------------------


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"flop_param": {}}, "flop_param"),
        ({"flip_param": {"vertical_flip": True}}, "vertical_flip"),
        ({"flip_param": {"time_flip": "yes"}}, "flip_param.time_flip"),
        ({"rotation_param": {}}, "degrees"),
        ({"resize_param": {"ratio": 0.9}}, "resize_param.ratio"),
        ({"resize_param": {"interpolation": "cubic"}}, "resize_param.interpolation"),
        ({"crop_param": {"size": [256]}}, "crop_param.size"),
        ({"jitter_param": {"hue": 0.7}}, "jitter_param.hue"),
        ([], "augmentation_params"),
        ("flip", "augmentation_params"),
    ],
)
def test_a_mistake_in_the_config_is_named(params, named):
    with pytest.raises(ConfigError, match=named):
        AllAugmentationTransform.from_config(params)
