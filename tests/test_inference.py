"""The fast inference form gives the pictures of the plain networks: each layer by itself, then networks.

In float64, where only a wrong formula makes a difference that can be seen; once in float32, as it is used.
"""

from __future__ import annotations

import copy
import inspect
import textwrap
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import modules.fast
from modules.build import build_generator, build_kp_detector
from modules.dense_motion import DenseMotionNetwork
from modules.fast import (
    Factor,
    FourPixelConv2d,
    Products,
    UpsampledConv2d,
    WinogradConv2d,
    fast_form,
    fold,
    in_fast_form,
    packing_pays,
)
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from modules.util import DownBlock2d, Hourglass, Keypoints, ResBlock2d, SameBlock2d, UpBlock2d, joint_conv
from tests.small import images, randomize, small_config


def trained(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics as far from their initial values as training takes them; float64, eval mode."""
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


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def assert_same(fast: Tensor, plain: Tensor, tolerance: float = 1e-10) -> None:
    assert fast.shape == plain.shape and fast.dtype == plain.dtype
    torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)


# ---- One layer ---------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (7, 10), (1, 1), (2, 5)])
def test_winograd_is_the_convolution(size: tuple[int, int]) -> None:
    conv, x = trained(nn.Conv2d(5, 3, 3, padding=1)), maps(2, 5, *size)
    assert_same(WinogradConv2d(conv)(x), conv(x))


@pytest.mark.parametrize("size", [(4, 4), (1, 1), (2, 3), (5, 1)])
def test_upsampled_convolution_is_upsampling_then_the_convolution(size: tuple[int, int]) -> None:
    conv, x = trained(nn.Conv2d(4, 3, 3, padding=1)), maps(2, 4, *size)
    assert_same(UpsampledConv2d(conv)(x), conv(F.interpolate(x, scale_factor=2, mode="nearest")))


@pytest.mark.parametrize("slab", [1, 3, 20])
def test_slabs_leave_no_seam(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = trained(nn.Conv2d(4, 3, 3, padding=1)), maps(1, 4, 22, 6)
    monkeypatch.setattr(WinogradConv2d, "TILES", slab)
    monkeypatch.setattr(UpsampledConv2d, "PIXELS", slab)
    assert_same(WinogradConv2d(conv)(x), conv(x))
    assert_same(UpsampledConv2d(conv)(x), conv(F.interpolate(x, scale_factor=2, mode="nearest")))


AMD = {"cpu_name": "AMD EPYC", "avx512_f": True}


def test_packed_factors_give_the_same_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's products, where a processor is faster with them, against PyTorch's."""
    conv, x = trained(nn.Conv2d(64, 32, 3, padding=1)).float(), maps(2, 64, 9, 12).float()
    plain = [layer(conv) for layer in (WinogradConv2d, UpsampledConv2d)]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMD, raising=False)
    monkeypatch.setattr(modules.fast, "packing_pays", packing_pays.__wrapped__)
    for layer in plain:
        packed = type(layer)(conv)
        assert all(part.packed for part in packed.children() if isinstance(part, Factor))
        assert_same(packed(x), layer(x), tolerance=1e-4)


def test_other_products_where_operators_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMD, raising=False)
    monkeypatch.setattr(modules.fast, "times_packed", lambda x, matrix: torch.ops.mkldnn.no_such_name(x))
    assert not packing_pays.__wrapped__(torch.float32)


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (6, 7), (1, 1)])
@pytest.mark.parametrize("kernel_size", [3, 7])
def test_four_pixels_at_a_time_are_the_convolution(kernel_size: int, size: tuple[int, int]) -> None:
    conv, x = trained(nn.Conv2d(4, 3, kernel_size, padding=kernel_size // 2)), maps(2, 4, *size)
    assert_same(FourPixelConv2d(conv)(x), conv(x))


@pytest.mark.parametrize("padding", [0, 3])
def test_joint_convolution_gives_each_head_its_own_maps(padding: int) -> None:
    first, second = (trained(nn.Conv2d(4, width, 7, padding=padding), seed=width) for width in (3, 4))
    x = maps(2, 4, 9, 8)
    for found, conv in zip(joint_conv(first, second, x), (first, second), strict=True):
        assert_same(found, conv(x))
    alone, nothing = joint_conv(first, None, x)
    assert_same(alone, first(x))
    assert nothing is None


def test_folded_batch_norm() -> None:
    conv, norm, x = trained(nn.Conv2d(4, 3, 3, padding=1)), trained(nn.BatchNorm2d(3)), maps(2, 4, 5, 6)
    assert_same(fold(conv, norm)(x), norm(conv(x)))


BLOCKS = {
    "same": SameBlock2d(6, 4, kernel_size=7, padding=3),
    "down": DownBlock2d(6, 4),
    "down in groups": DownBlock2d(128, 64, groups=2),
    "up": UpBlock2d(6, 4),
    "up of one pixel": UpBlock2d(6, 4, kernel_size=1, padding=0),
    "narrow res": ResBlock2d(6, 3, 1),  # too narrow for Winograd
    "res": ResBlock2d(64, 3, 1),
    "large res": ResBlock2d(64, 5, 2),
    "hourglass": Hourglass(8, 6, num_blocks=2, max_features=12),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    plain = trained(copy.deepcopy(BLOCKS[name]))
    width = next(plain.parameters()).shape[1] * (2 if "groups" in name else 1)
    x = maps(2, width, 8, 12)
    kept = x.clone()
    assert_same(fast_form(plain)(x), plain(x))
    assert torch.equal(x, kept)  # what is done in place is done to the block's own maps


def test_a_block_with_another_norm_keeps_it() -> None:
    plain = DownBlock2d(6, 4)
    plain.norm = nn.InstanceNorm2d(4)
    trained(plain)
    x = maps(2, 6, 8, 12)
    assert_same(fast_form(plain)(x), plain(x))


# ---- Whole networks ----------------------------------------------------------

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
def test_kp_detector(changes: dict) -> None:
    params = DETECTOR | changes
    plain = trained(KPDetector(**params))
    image = torch.rand(2, params["num_channels"], 32, 40, dtype=torch.float64)
    expected, kp = plain(image), fast_form(plain)(image)
    assert kp.keys() == expected.keys()
    for name in expected:
        assert_same(kp[name], expected[name])


def keypoints(batch: int, jacobian: bool = True, dtype: torch.dtype = torch.float64) -> Keypoints:
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
def test_generator(changes: dict, jacobian: bool) -> None:
    params = GENERATOR | changes
    plain = trained(OcclusionAwareGenerator(**params))
    source = torch.rand(2, params["num_channels"], 24, 32).double()
    driving, initial = keypoints(2, jacobian), keypoints(2, jacobian)
    expected, fast = plain(source, kp_driving=driving, kp_source=initial), fast_form(plain)
    result = fast.generate(fast.encode(source), kp_driving=driving, kp_source=initial)
    assert expected["prediction"].std() > 0.05
    assert result.keys() == expected.keys()
    for name in result:
        assert_same(result[name], expected[name])
    assert_same(fast(source, kp_driving=driving, kp_source=initial)["prediction"], expected["prediction"])


def test_one_source_serves_a_batch_of_driving_frames() -> None:
    plain = trained(OcclusionAwareGenerator(**GENERATOR, image_skip=True))
    source = torch.rand(1, 3, 24, 32, dtype=torch.float64)
    driving, initial = keypoints(3), keypoints(1)
    fast = fast_form(plain)
    result = fast.generate(fast.encode(source), kp_driving=driving, kp_source=initial)
    repeated = {name: value.expand(3, *value.shape[1:]) for name, value in initial.items()}
    expected = plain(source.expand(3, -1, -1, -1), kp_driving=driving, kp_source=repeated)
    assert_same(result["prediction"], expected["prediction"])


def test_float32_is_as_exact_as_the_plain_network_to_a_hundredth_of_a_grey_level() -> None:
    params = GENERATOR | {"block_expansion": 64, "max_features": 128, "num_bottleneck_blocks": 6}
    plain, source = trained(OcclusionAwareGenerator(**params)).float(), torch.rand(1, 3, 32, 32)
    driving, initial = keypoints(1, dtype=torch.float32), keypoints(1, dtype=torch.float32)
    expected = plain(source, kp_driving=driving, kp_source=initial)["prediction"]
    prediction = fast_form(plain)(source, kp_driving=driving, kp_source=initial)["prediction"]
    assert prediction.dtype == torch.float32 and expected.std() > 0.05
    assert (prediction - expected).abs().max() < 0.01 / 255


def test_the_original_stays_as_it_is_and_shares_nothing() -> None:
    plain = trained(OcclusionAwareGenerator(**GENERATOR)).train()
    before = copy.deepcopy(plain.state_dict())
    fast = fast_form(plain)
    assert plain.training and not any(module.training for module in fast.modules())
    tensors = [*fast.parameters(), *fast.buffers()]
    for tensor in tensors:
        assert not tensor.requires_grad
        tensor.zero_()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_fast_form_of_the_fast_form_is_the_same() -> None:
    fast = fast_form(trained(OcclusionAwareGenerator(**GENERATOR | {"block_expansion": 64})))
    again = fast_form(fast)
    source, driving, initial = torch.rand(1, 3, 24, 32).double(), keypoints(1), keypoints(1)
    expected = fast(source, kp_driving=driving, kp_source=initial)["prediction"]
    assert_same(again(source, kp_driving=driving, kp_source=initial)["prediction"], expected)


# ---- Each forward is written once --------------------------------------------


def test_only_layers_live_here() -> None:
    """No second copy of a network: every class here is a layer of its own, and a network keeps its class."""
    defined = [c for c in vars(modules.fast).values() if getattr(c, "__module__", "") == "modules.fast"]
    layers = (nn.Module, nn.Sequential)
    assert all(c.__base__ in layers for c in defined if isinstance(c, type) and issubclass(c, nn.Module))
    for plain in (KPDetector(**DETECTOR), OcclusionAwareGenerator(**GENERATOR)):
        assert type(fast_form(plain)) is type(plain)


def with_line_changed(function: Callable, old: str, new: str) -> Callable:
    """The function as it would be with `new` in its source for `old`."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1
    names = {}
    exec(compile(source.replace(old, new), "changed", "exec"), function.__globals__, names)
    return names[function.__name__]


def result(generator: nn.Module, kp_detector: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(1)
    source, driving = torch.rand(2, 1, 3, 32, 40, dtype=torch.float64)
    kp_source, kp_driving = kp_detector(source), kp_detector(driving)
    out = generator(source, kp_driving=kp_driving, kp_source=kp_source)
    return {"value": kp_driving["value"], "jacobian": kp_driving["jacobian"]} | out


@pytest.mark.parametrize(
    ("owner", "method", "old", "new"),
    [
        (KPDetector, "forward", "self.predictor(small)", "self.predictor(1 - small)"),
        (DenseMotionNetwork, "motion", "softmax(dim=1)", "sigmoid()"),
        (
            OcclusionAwareGenerator,
            "decode",
            "torch.sigmoid(self.final(features))",
            "self.final(features).tanh()",
        ),
        (Hourglass, "forward", "self.decoder(self.encoder(x))", "self.decoder(self.encoder(x)).tanh()"),
        (DownBlock2d, "forward", "F.relu(", "F.leaky_relu("),
        (ResBlock2d, "forward", "out.add_(x)", "out.sub_(x)"),
    ],
    ids=["keypoint detector", "dense motion", "generator", "hourglass", "down block", "residual block"],
)
def test_a_changed_line_of_a_plain_forward_changes_the_fast_form(
    owner: type, method: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained(OcclusionAwareGenerator(**GENERATOR)), trained(KPDetector(**DETECTOR))
    before = result(*plain)["prediction"]
    monkeypatch.setattr(owner, method, with_line_changed(getattr(owner, method), old, new))
    expected, found = result(*plain), result(*map(fast_form, plain))
    assert (expected["prediction"] - before).abs().max() > 1e-3
    for name in expected:
        assert_same(found[name], expected[name])


class Backbone(nn.Module):
    """A network that no table knows, with a block that is and a block that is not what it seems."""

    class Doubled(DownBlock2d):
        def forward(self, x: Tensor) -> Tensor:
            return self.norm(2 * self.conv(x))

    def __init__(self, out_filters: int):
        super().__init__()
        self.blocks = nn.Sequential(
            self.Doubled(3, 8), nn.Conv2d(8, 8, 3, stride=2), SameBlock2d(8, out_filters)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def test_another_backbone_works_and_stays_as_it_is() -> None:
    plain = KPDetector(**DETECTOR)
    plain.predictor = Backbone(plain.predictor.out_filters)
    trained(plain)
    image = torch.rand(2, 3, 64, 80, dtype=torch.float64)
    fast = fast_form(plain)
    found, expected = fast(image), plain(image)
    for name in expected:
        assert_same(found[name], expected[name])
    assert isinstance(fast.predictor.blocks[0].norm, nn.BatchNorm2d)
    assert isinstance(fast.predictor.blocks[2].norm, nn.Identity)


# ---- Half precision ----------------------------------------------------------


@pytest.mark.parametrize("by_matrix_unit", [False, True])
def test_painting_in_bfloat16_is_close_and_leaves_the_motion_alone(by_matrix_unit: bool) -> None:
    torch.manual_seed(0)
    config = small_config()
    generator = randomize(build_generator(config)).eval()
    kp_detector = randomize(build_kp_detector(config)).eval()
    source, driving = images(2).split(1)
    kp_source, kp_driving = kp_detector(source), kp_detector(driving)
    fast, half = fast_form(generator), fast_form(generator, Products(torch.bfloat16, by_matrix_unit))
    with torch.inference_mode():
        plain, other = (
            network(source, kp_driving=kp_driving, kp_source=kp_source) for network in (fast, half)
        )
    assert other["prediction"].dtype == torch.float32
    difference = (other["prediction"] - plain["prediction"]).abs()
    assert 0 < difference.max() < 3 / 255
    for name in ("mask", "occlusion_map", "deformed"):
        assert torch.equal(other[name], plain[name]), name


def test_networks_in_fast_form_are_told_from_plain_ones() -> None:
    generator = build_generator(small_config())
    assert not in_fast_form(generator)
    for painting in (None, Products(torch.bfloat16, False), Products(torch.bfloat16, True)):
        assert in_fast_form(fast_form(generator, painting))
