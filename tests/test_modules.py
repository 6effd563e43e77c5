"""Properties of the networks that hold whatever the weights are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inference.animator import normalize_kp
from modules.build import build_discriminator, build_generator, build_kp_detector
from modules.dense_motion import sparse_motions
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector, soft_argmax
from modules.util import (
    AntiAliasInterpolation2d,
    downsampling_stride,
    frozen,
    inverse_2x2,
    kp2gaussian,
    make_coordinate_grid,
    resize,
    warp,
)
from tests.small import images, randomize, small_config
from utils.errors import UserError


def detector_and_generator(changes: dict | None = None) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    config = small_config(changes)
    return randomize(build_kp_detector(config)).eval(), randomize(build_generator(config)).eval()


def animate(detector: nn.Module, generator: nn.Module, source: torch.Tensor, driving: torch.Tensor) -> dict:
    return generator(source, kp_driving=detector(driving), kp_source=detector(source))


# ---- Grids and warps ---------------------------------------------------------


def test_a_shift_of_the_grid_moves_the_image_by_whole_pixels() -> None:
    image = images(1)
    shift = torch.tensor([2 * 3 / 31, 0.0])  # three pixels to the right
    moved = warp(image, (make_coordinate_grid((32, 32), like=image) + shift)[None])
    torch.testing.assert_close(moved[..., :-3], image[..., 3:], atol=1e-5, rtol=0)


def test_half_precision_images_are_sampled_at_full_precision_coordinates() -> None:
    image = images(1, 64).bfloat16()
    grid = make_coordinate_grid((64, 64), like=torch.zeros(1))[None] + 0.01
    assert torch.equal(warp(image, grid), warp(image.float(), grid).bfloat16())


def test_models_of_newer_pytorch_warp_with_its_default() -> None:
    detector, generator = detector_and_generator({"model_params.generator_params.warp_align_corners": False})
    source, driving = images(1), images(1, seed=1)
    out = animate(detector, generator, source, driving)
    flow = F.interpolate(out["deformation"].permute(0, 3, 1, 2), size=(32, 32), mode="bilinear")
    expected = F.grid_sample(source, flow.permute(0, 2, 3, 1), align_corners=False)
    torch.testing.assert_close(out["deformed"], expected)
    size = out["deformation"].shape[1:3]
    identity = make_coordinate_grid(size, like=source)[None]  # the background's motion
    small = generator.dense_motion_network.downsample(source)
    background = F.grid_sample(small, identity, align_corners=False)
    torch.testing.assert_close(out["sparse_deformed"][:, 0], background)


def test_gaussian_and_soft_argmax_agree_on_where_a_point_is() -> None:
    value = torch.tensor([[[0.3, -0.2], [0.0, 0.5]]])
    bumps = kp2gaussian({"value": value}, (64, 64), kp_variance=0.005)
    torch.testing.assert_close(
        soft_argmax(bumps / bumps.sum(dim=(2, 3), keepdim=True)), value, atol=1e-3, rtol=0
    )


def test_antialiasing_keeps_flat_pictures_and_removes_stripes() -> None:
    down = AntiAliasInterpolation2d(3, 0.25)
    flat = torch.full((1, 3, 64, 64), 0.5)
    torch.testing.assert_close(down(flat)[..., 4:-4, 4:-4], torch.full((1, 3, 8, 8), 0.5))
    stripes = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    assert (down(stripes)[..., 4:-4, 4:-4] - 0.5).abs().max() < 1e-3


def test_only_whole_factors_make_pictures_smaller() -> None:
    assert [downsampling_stride(scale) for scale in (1, 0.5, 0.33333334, 0.1)] == [1, 2, 3, 10]
    for scale in (0.3, 2):
        with pytest.raises(
            UserError, match=f"scale {scale}: images can only be made smaller by a whole factor"
        ):
            downsampling_stride(scale)


def test_resize_uses_pixel_areas_not_corner_centres() -> None:
    ramp = torch.tensor([[[[0.0, 1.0]]]])
    assert resize(ramp, (1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]


# ---- The 2×2 inverse ---------------------------------------------------------


@pytest.mark.parametrize(
    "matrix", [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 4.0]], [[1e-4, 0.0], [0.0, -1e-4]]]
)
def test_singular_matrices_give_finite_values_and_gradients(matrix: list) -> None:
    matrix = torch.tensor(matrix, requires_grad=True)
    inverse = inverse_2x2(matrix)
    inverse.sum().backward()
    assert inverse.isfinite().all() and matrix.grad.isfinite().all()


def test_only_the_smallest_determinants_are_replaced_and_keep_their_sign() -> None:
    torch.testing.assert_close(
        inverse_2x2(torch.tensor([1e-2, 1e-3]).diag()), torch.tensor([1e2, 1e3]).diag()
    )
    torch.testing.assert_close(
        inverse_2x2(torch.tensor([1e-4, -1e-4]).diag()), torch.tensor([100.0, -100.0]).diag()
    )


def test_inverse_is_float32_under_autocast() -> None:
    matrix = torch.tensor([[1.001, 0.002], [0.003, 0.999]])
    with torch.autocast("cpu", torch.bfloat16):
        inverse = inverse_2x2(matrix)
    assert inverse.dtype == torch.float32
    torch.testing.assert_close(inverse @ matrix, torch.eye(2), atol=1e-6, rtol=0)


# ---- Networks ----------------------------------------------------------------


def test_jacobian_head_starts_at_the_identity() -> None:
    detector = build_kp_detector(small_config())
    kp = detector(images(2))
    torch.testing.assert_close(kp["jacobian"], torch.eye(2).expand(2, 3, 2, 2))
    assert kp["value"].abs().max() <= 1


class Shallow(nn.Conv2d):
    """A trunk of one convolution."""

    def __init__(self, block_expansion: int, in_features: int, num_blocks: int, max_features: int):
        super().__init__(in_features, block_expansion, 3, padding=1)
        self.out_filters, self.size_multiple = block_expansion, 4


def test_detector_and_motion_take_another_trunk() -> None:
    model = small_config()["model_params"]
    detector = KPDetector(**model["kp_detector_params"], **model["common_params"], trunk=Shallow)
    motion = model["generator_params"]["dense_motion_params"] | {"trunk": Shallow}
    params = model["generator_params"] | {"dense_motion_params": motion}
    generator = OcclusionAwareGenerator(**params, **model["common_params"])
    assert detector.size_multiple == generator.size_multiple == 8
    assert animate(detector, generator, images(1), images(1, seed=1))["prediction"].shape == (1, 3, 32, 32)


def test_padded_heads_cover_the_whole_map() -> None:
    detector, _ = detector_and_generator({"model_params.kp_detector_params.pad": 3})
    detector.kp.weight.data.zero_()
    detector.kp.bias.data.zero_()
    features = []
    detector.predictor.register_forward_hook(lambda module, inputs, out: features.append(out))
    kp = detector(images(2))
    maps = detector.jacobian(features[0])
    assert maps.shape == (2, 12, 16, 16)
    torch.testing.assert_close(kp["jacobian"].flatten(1), maps.mean(dim=(2, 3)))  # an even heatmap


def test_a_discriminator_with_keypoints_sees_gaussians_of_its_variance() -> None:
    discriminator = build_discriminator(
        small_config(
            {
                "model_params.discriminator_params.use_kp": True,
                "model_params.discriminator_params.kp_variance": 0.05,
            }
        )
    )
    seen = []
    discriminator.discs["1"].down_blocks[0].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    kp = {"value": torch.rand(2, 3, 2) - 0.5}
    discriminator({"prediction_1": images(2)}, kp)
    assert torch.equal(seen[0], torch.cat([images(2), kp2gaussian(kp, (32, 32), 0.05)], dim=1))


def test_the_occlusion_map_blends_the_warped_source_and_what_is_painted() -> None:
    detector, generator = detector_and_generator({"model_params.generator_params.image_skip": True})
    out = animate(detector, generator, images(1), images(1, seed=1))
    visible = torch.nn.functional.interpolate(
        out["occlusion_map"], size=(32, 32), mode="bilinear", align_corners=False
    )
    assert visible.std() > 0.01 and (out["deformed"] - out["painted"]).abs().mean() > 0.05
    torch.testing.assert_close(out["prediction"], visible * out["deformed"] + (1 - visible) * out["painted"])


def test_beyond_the_source_its_border_goes_on_where_it_is_seen_in_the_prediction() -> None:
    generator = detector_and_generator({"model_params.generator_params.image_skip": True})[1]
    outside = torch.full((1, 16, 16, 2), 3.0)
    source = torch.full((1, 3, 32, 32), 0.7)
    torch.testing.assert_close(generator.deform_image(source, outside), source)


@pytest.mark.parametrize(("scale_factor", "align_corners"), [(1, False), (0.5, True)])
def test_no_motion_warps_nothing(scale_factor: float, align_corners: bool) -> None:
    # The published way to resize a smaller flow, with align_corners false, bends it a little.
    params = {"dense_motion_params.scale_factor": scale_factor, "align_corners": align_corners}
    detector, generator = detector_and_generator(
        {f"model_params.generator_params.{key}": v for key, v in params.items()}
    )
    source = images(1)
    torch.testing.assert_close(
        animate(detector, generator, source, source)["deformed"], source, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("size", [(32, 36), (30, 32), (4, 32)])
def test_sizes_that_do_not_fit_are_refused_with_sizes_that_do(size: tuple[int, int]) -> None:
    detector, generator = detector_and_generator({"model_params.kp_detector_params.scale_factor": 0.25})
    image = torch.rand(1, 3, *size)
    for network in (detector, generator.encode):
        with pytest.raises(UserError, match=rf"{size[0]}x{size[1]}.*multiples of 8, for example \d+x\d+"):
            network(image)


def test_channels_last_keeps_the_numbers() -> None:
    detector, generator = detector_and_generator()
    source, driving = images(2), images(2, seed=1)
    expected = animate(detector, generator, source, driving)["prediction"]
    detector, generator = (network.to(memory_format=torch.channels_last) for network in (detector, generator))
    source, driving = (image.to(memory_format=torch.channels_last) for image in (source, driving))
    torch.testing.assert_close(
        animate(detector, generator, source, driving)["prediction"], expected, atol=1e-5, rtol=0
    )


def test_bf16_autocast_stays_close_and_keeps_coordinates_precise() -> None:
    detector, generator = detector_and_generator()
    source, driving = images(2), images(2, seed=1)
    expected = animate(detector, generator, source, driving)
    with torch.autocast("cpu", torch.bfloat16):
        found, kp = animate(detector, generator, source, driving), detector(source)
    assert (found["prediction"] - expected["prediction"]).abs().max() < 0.05
    assert kp["value"].dtype == kp["jacobian"].dtype == found["mask"].dtype == torch.float32
    assert not torch.equal(found["prediction"].float(), expected["prediction"])  # autocast did take part


def test_motions_are_not_rounded_under_autocast() -> None:
    source, driving, initial = (
        {"value": torch.rand(2, 3, 2) - 0.5, "jacobian": torch.eye(2) + 0.2 * torch.randn(2, 3, 2, 2)}
        for _ in range(3)
    )
    switches = {"use_relative_movement": True, "use_relative_jacobian": True}
    expected = sparse_motions(driving, source, (16, 16)), normalize_kp(source, driving, initial, **switches)
    with torch.autocast("cpu", torch.bfloat16):
        found = sparse_motions(driving, source, (16, 16)), normalize_kp(source, driving, initial, **switches)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_follow_the_dtype_of_their_inputs(dtype: torch.dtype) -> None:
    params = {"model_params.generator_params.image_skip": True}
    detector, generator = (network.to(dtype) for network in detector_and_generator(params))
    source, driving = images(1).to(dtype), images(1, seed=1).to(dtype)
    out = animate(detector, generator, source, driving)
    assert out["prediction"].dtype == dtype and out["prediction"].isfinite().all()
    assert out["painted"].dtype == dtype
    assert out["mask"].dtype == out["occlusion_map"].dtype == torch.promote_types(dtype, torch.float32)
    assert detector(source)["value"].dtype == dtype


def test_keypoints_of_a_half_precision_detector_are_rounded_only_at_the_end() -> None:
    detector = detector_and_generator()[0].bfloat16()
    features = []
    detector.predictor.register_forward_hook(lambda module, inputs, out: features.append(out))
    kp = detector(images(2).bfloat16())
    logits = detector.kp(features[0]).float()
    heatmap = (logits / detector.temperature).flatten(2).softmax(dim=-1).view_as(logits)
    assert torch.equal(kp["value"], soft_argmax(heatmap).bfloat16())


def test_export_and_compile_keep_the_numbers() -> None:
    detector, generator = detector_and_generator()
    source, driving = images(1), images(1, seed=1)
    kp = {"kp_driving": detector(driving), "kp_source": detector(source)}
    expected = generator(source, **kp)["prediction"]
    exported = torch.export.export(generator, (source,), kp).module()
    torch.testing.assert_close(exported(source, **kp)["prediction"], expected)
    compiled = torch.compile(generator, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(source, **kp)["prediction"], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.compile(detector, fullgraph=True, backend="aot_eager")(driving), kp["kp_driving"]
    )


@pytest.mark.parametrize("dynamo", [True, False])
def test_every_operation_has_a_translation_to_onnx(dynamo: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript" if dynamo else "onnx", reason="only benchmarks need ONNX")
    detector, generator = detector_and_generator()
    source, kp_driving, kp_source = images(1), detector(images(1)), detector(images(1, seed=1))
    for name, network, arguments in (
        ("detector", detector, (source,)),
        ("generator", generator, (source, kp_driving, kp_source, {})),  # a last dict would be keywords
    ):
        path = tmp_path / f"{name}.onnx"
        torch.onnx.export(network, arguments, path, opset_version=20, dynamo=dynamo, verbose=False)
        assert path.stat().st_size > 0


def test_frozen_blocks_gradients_of_weights_not_of_inputs_and_ends() -> None:
    discriminator = build_discriminator(small_config())
    picture = images(1).requires_grad_()
    with frozen(discriminator):
        maps = discriminator({"prediction_1": picture})
    maps["prediction_map_1"].sum().backward()
    assert picture.grad.abs().sum() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in discriminator.parameters())
