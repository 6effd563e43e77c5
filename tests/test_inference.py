"""The fast inference form gives the pictures of the plain networks: each transformation by itself, then whole networks.

In float64, where only a wrong formula makes a difference that can be seen; at the end once in float32, as it is used.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modules.generator import OcclusionAwareGenerator
from modules.inference import (
    FastResBlock,
    FourPixelConv2d,
    UpsampledConv2d,
    WinogradConv2d,
    fast_down_block,
    fast_generator,
    fast_hourglass,
    fast_kp_detector,
    fast_same_block,
    fast_up_block,
    fold,
    joint,
)
from modules.keypoint_detector import KPDetector
from modules.util import DownBlock2d, Hourglass, ResBlock2d, SameBlock2d, UpBlock2d


def trained(network, seed=0):
    """Weights and batch statistics as different from their initial values as training makes them, in float64, eval mode."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=2 * module.weight[0].numel() ** -0.5)
            nn.init.normal_(module.bias, std=0.3)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.3, 3)
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
    return network.double().eval()


def maps(*shape):
    return torch.randn(shape, dtype=torch.float64)


def assert_same(fast, plain, tolerance=1e-10):
    assert fast.shape == plain.shape and fast.dtype == plain.dtype
    torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)


# ---- one layer ----


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (7, 10), (1, 1), (2, 5)])
def test_winograd_is_the_convolution(size):
    conv, x = trained(nn.Conv2d(5, 3, 3, padding=1)), maps(2, 5, *size)
    assert_same(WinogradConv2d(conv)(x), conv(x))


@pytest.mark.parametrize("size", [(4, 4), (1, 1), (2, 3), (5, 1)])
def test_upsampled_convolution_is_upsampling_then_the_convolution(size):
    conv, x = trained(nn.Conv2d(4, 3, 3, padding=1)), maps(2, 4, *size)
    assert_same(UpsampledConv2d(conv)(x), conv(F.interpolate(x, scale_factor=2, mode="nearest")))


@pytest.mark.parametrize("slab", [1, 3, 20])
def test_slabs_leave_no_seam(slab, monkeypatch):
    conv, x = trained(nn.Conv2d(4, 3, 3, padding=1)), maps(1, 4, 22, 6)
    monkeypatch.setattr(WinogradConv2d, "TILES", slab)
    monkeypatch.setattr(UpsampledConv2d, "PIXELS", slab)
    assert_same(WinogradConv2d(conv)(x), conv(x))
    assert_same(UpsampledConv2d(conv)(x), conv(F.interpolate(x, scale_factor=2, mode="nearest")))


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_four_pixels_at_a_time_are_the_convolution(kernel_size):
    conv, x = trained(nn.Conv2d(4, 3, kernel_size, padding=kernel_size // 2)), maps(2, 4, 6, 8)
    assert_same(FourPixelConv2d(conv)(x), conv(x))


@pytest.mark.parametrize("padding", [0, 3])
def test_joint_convolution_puts_the_heads_one_after_another(padding):
    heads, x = (
        [trained(nn.Conv2d(4, width, 7, padding=padding), seed=width) for width in (3, 1, 4)],
        maps(2, 4, 9, 8),
    )
    assert_same(joint(heads)(x), torch.cat([head(x) for head in heads], dim=1))


def test_folded_batch_norm():
    conv, norm, x = trained(nn.Conv2d(4, 3, 3, padding=1)), trained(nn.BatchNorm2d(3)), maps(2, 4, 5, 6)
    assert_same(fold(conv, norm)(x), norm(conv(x)))


@pytest.mark.parametrize(
    ("plain", "fast"),
    [
        (SameBlock2d(6, 4, kernel_size=7, padding=3), fast_same_block),
        (DownBlock2d(6, 4), fast_down_block),
        (UpBlock2d(6, 4), fast_up_block),
        (ResBlock2d(6, 3, 1), FastResBlock),  # too narrow for Winograd
        (ResBlock2d(64, 3, 1), FastResBlock),
        (Hourglass(8, 6, num_blocks=2, max_features=12), fast_hourglass),
    ],
    ids=["same", "down", "up", "narrow res", "res", "hourglass"],
)
def test_blocks(plain, fast):
    trained(plain)
    x = maps(2, plain.conv1.in_channels if isinstance(plain, ResBlock2d) else 6, 8, 12)
    kept = x.clone()
    assert_same(fast(plain)(x), plain(x))
    assert torch.equal(x, kept)  # what is done in place is done to the block's own maps


# ---- whole networks ----

MOTION = {"block_expansion": 4, "max_features": 16, "num_blocks": 2, "scale_factor": 0.5}
GENERATOR = {
    "num_channels": 3,
    "num_kp": 3,
    "block_expansion": 4,
    "max_features": 8,
    "num_down_blocks": 1,
    "num_bottleneck_blocks": 2,
    "estimate_occlusion_map": True,
    "dense_motion_params": MOTION,
}
DETECTOR = {
    "block_expansion": 4,
    "num_kp": 3,
    "num_channels": 3,
    "max_features": 16,
    "num_blocks": 2,
    "temperature": 0.1,
    "estimate_jacobian": True,
    "scale_factor": 0.5,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"single_jacobian_map": True, "pad": 2},
        {"estimate_jacobian": False},
        {"scale_factor": 1, "num_channels": 1},
    ],
    ids=["first order", "single map", "zero order", "full scale"],
)
def test_kp_detector(changes):
    params = DETECTOR | changes
    plain, image = (
        trained(KPDetector(**params)),
        torch.rand(2, params["num_channels"], 32, 40, dtype=torch.float64),
    )
    expected, kp = plain(image), fast_kp_detector(plain)(image)
    assert kp.keys() == expected.keys()
    for name in expected:
        assert_same(kp[name], expected[name])


def keypoints(batch, jacobian=True, dtype=torch.float64):
    kp = {"value": torch.rand(batch, 3, 2, dtype=dtype) - 0.5}
    if jacobian:
        kp["jacobian"] = torch.eye(2, dtype=dtype) + 0.2 * torch.randn(batch, 3, 2, 2, dtype=dtype)
    return kp


@pytest.mark.parametrize(
    ("changes", "jacobian"),
    [
        ({}, True),
        ({"estimate_occlusion_map": False}, True),
        ({}, False),
        ({"dense_motion_params": None, "estimate_occlusion_map": False}, True),
        ({"dense_motion_params": MOTION | {"scale_factor": 1}}, True),
        ({"num_down_blocks": 0, "dense_motion_params": None, "estimate_occlusion_map": False}, True),
        ({"num_down_blocks": 3, "num_channels": 1}, True),
        ({"num_down_blocks": 0, "align_corners": True}, True),
        ({"image_skip": True}, True),
        ({"block_expansion": 64, "max_features": 64, "num_down_blocks": 2}, True),
    ],
    ids=[
        "occlusion",
        "no occlusion",
        "zero order",
        "no motion",
        "full scale",
        "no halving",
        "three halvings",
        "corners aligned",
        "image skip",
        "winograd",
    ],
)
def test_generator(changes, jacobian):
    params = GENERATOR | changes
    plain, source = (
        trained(OcclusionAwareGenerator(**params)),
        torch.rand(2, params["num_channels"], 24, 32).double(),
    )
    driving, initial = keypoints(2, jacobian), keypoints(2, jacobian)
    expected, fast = plain(source, kp_driving=driving, kp_source=initial), fast_generator(plain)
    result = fast.generate(fast.encode(source), kp_driving=driving, kp_source=initial)
    assert expected["prediction"].std() > 0.05
    for name in result:
        assert_same(result[name], expected[name])
    assert_same(fast(source, kp_driving=driving, kp_source=initial)["prediction"], expected["prediction"])


def test_one_source_serves_a_batch_of_driving_frames():
    plain = trained(OcclusionAwareGenerator(**GENERATOR, image_skip=True))
    source = torch.rand(1, 3, 24, 32, dtype=torch.float64)
    driving, initial = keypoints(3), keypoints(1)
    fast = fast_generator(plain)
    result = fast.generate(fast.encode(source), kp_driving=driving, kp_source=initial)
    repeated = {name: value.expand(3, *value.shape[1:]) for name, value in initial.items()}
    expected = plain(source.expand(3, -1, -1, -1), kp_driving=driving, kp_source=repeated)
    assert_same(result["prediction"], expected["prediction"])


def test_float32_is_as_exact_as_the_plain_network_to_a_hundredth_of_a_grey_level():
    params = GENERATOR | {"block_expansion": 64, "max_features": 128, "num_bottleneck_blocks": 6}
    plain, source = trained(OcclusionAwareGenerator(**params)).float(), torch.rand(1, 3, 32, 32)
    driving, initial = keypoints(1, dtype=torch.float32), keypoints(1, dtype=torch.float32)
    expected = plain(source, kp_driving=driving, kp_source=initial)["prediction"]
    prediction = fast_generator(plain)(source, kp_driving=driving, kp_source=initial)["prediction"]
    assert prediction.dtype == torch.float32 and expected.std() > 0.05
    assert (prediction - expected).abs().max() < 0.01 / 255


def test_the_original_stays_as_it_is_and_shares_nothing():
    plain = trained(OcclusionAwareGenerator(**GENERATOR)).train()
    before = copy.deepcopy(plain.state_dict())
    fast = fast_generator(plain)
    assert plain.training and not any(module.training for module in fast.modules())
    tensors = [*fast.parameters(), *fast.buffers()]
    for tensor in tensors:
        assert not tensor.requires_grad
        tensor.zero_()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, before[name]), name
