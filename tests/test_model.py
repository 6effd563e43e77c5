"""Losses: what they are zero for, what carries gradients, and where VGG's weights come from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VGG19_Weights, vgg19
from torchvision.transforms.functional import normalize

from modules import model, schema
from modules.build import build_discriminator, build_generator, build_kp_detector, read_config
from modules.model import (
    DiscriminatorFullModel,
    GeneratorFullModel,
    Transform,
    Vgg19,
    equivariance_jacobian_loss,
    equivariance_value_loss,
    keypoint_prior_loss,
    local_motion_loss,
    mask_prior_loss,
    occlusion_prior_loss,
)
from modules.util import frozen, inverse_2x2
from tests.small import images, small_config, write_config
from utils.errors import CheckpointError, ConfigError

ALL_TERMS = {"train_params.loss_weights.perceptual": [10] * 5}


def full_models(changes: dict | None = None) -> tuple[GeneratorFullModel, DiscriminatorFullModel]:
    torch.manual_seed(0)
    config = small_config(changes)
    kp_detector, generator = build_kp_detector(config), build_generator(config)
    arguments = (kp_detector, generator, build_discriminator(config), config["train_params"])
    return GeneratorFullModel(*arguments), DiscriminatorFullModel(*arguments)


def batch(size: int = 32) -> dict:
    return {"source": images(2, size), "driving": images(2, size, seed=1)}


# ---- The transform -----------------------------------------------------------


@pytest.mark.parametrize("spline", [{}, {"sigma_tps": 0.05, "points_tps": 5}])
def test_jacobian_is_the_derivative_of_the_warp(spline: dict) -> None:
    transform = Transform(2, sigma_affine=0.1, **spline).to(torch.zeros(1, dtype=torch.float64))
    points = torch.rand(2, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
    step = 1e-6
    numeric = [
        (transform.warp_coordinates(points + shift) - transform.warp_coordinates(points - shift)) / (2 * step)
        for shift in step * torch.eye(2, dtype=torch.float64)
    ]
    torch.testing.assert_close(transform.jacobian(points), torch.stack(numeric, dim=-1), atol=1e-6, rtol=1e-5)


def test_equivariance_of_an_exactly_transformed_motion_is_zero() -> None:
    transform = Transform(2, 0.05, 0.005, 5).to(torch.zeros(1, dtype=torch.float64))
    transformed = {
        "value": torch.rand(2, 4, 2, dtype=torch.float64) - 0.5,
        "jacobian": torch.eye(2, dtype=torch.float64) + 0.2 * torch.randn(2, 4, 2, 2, dtype=torch.float64),
    }
    original = {
        "value": transform.warp_coordinates(transformed["value"]),
        "jacobian": transform.jacobian(transformed["value"]) @ transformed["jacobian"],
    }
    assert equivariance_value_loss(original, transformed, transform) < 1e-12
    assert equivariance_jacobian_loss(original, transformed, transform) < 1e-12
    moved = {"value": original["value"] + 0.1, "jacobian": inverse_2x2(original["jacobian"])}
    assert equivariance_value_loss(moved, transformed, transform) > 0.09
    assert equivariance_jacobian_loss(moved, transformed, transform) > 0.1


def test_equivariance_is_not_rounded_under_autocast() -> None:
    transform = Transform(2, 0.05, 0.005, 5)
    kp, transformed = (
        {"value": torch.rand(2, 4, 2) - 0.5, "jacobian": torch.eye(2) + 0.2 * torch.randn(2, 4, 2, 2)}
        for _ in range(2)
    )
    for term in (equivariance_value_loss, equivariance_jacobian_loss):
        expected = term(kp, transformed, transform)
        with torch.autocast("cpu", torch.bfloat16):
            found = term(kp, transformed, transform)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


# ---- VGG ---------------------------------------------------------------------


def test_vgg_features_are_the_five_named_ones() -> None:
    network = Vgg19(weights="random")
    image = images(1, 64)
    preset = VGG19_Weights.IMAGENET1K_V1.transforms()
    expected, x = [], normalize(image, preset.mean, preset.std)
    for name, layer in vgg19_layers(network):
        x = layer(x)
        if name in ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"):
            expected.append(x.clone())
    found = network(image)
    assert [tuple(feature.shape[1:]) for feature in found] == [
        (64, 64, 64),
        (128, 32, 32),
        (256, 16, 16),
        (512, 8, 8),
        (512, 4, 4),
    ]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def vgg19_layers(network: Vgg19) -> Iterator[tuple[str, nn.Module]]:
    """Layers with their names in the VGG paper, counted from the architecture: blocks end with a pooling."""
    block, position = 1, 0
    for layer in network.features:
        if isinstance(layer, torch.nn.MaxPool2d):
            block, position = block + 1, 0
        elif isinstance(layer, torch.nn.Conv2d):
            position += 1
        kind = "relu" if isinstance(layer, torch.nn.ReLU) else type(layer).__name__
        yield f"{kind}{block}_{position}", layer


def test_random_vgg_is_always_the_same_and_draws_nothing() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = Vgg19(weights="random"), Vgg19(weights="random")
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.features[0].weight, second.features[0].weight)
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_vgg_from_a_file_and_from_a_wrong_one(tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = vgg19()
    good, other, damaged = tmp_path / "vgg.pth", tmp_path / "other.pth", tmp_path / "damaged.pth"
    torch.save(weights.state_dict(), good)
    torch.save({"weight": torch.zeros(1)}, other)
    damaged.write_bytes(b"no weights")
    assert torch.equal(Vgg19(weights=str(good)).features[0].weight, weights.features[0].weight)
    for path, message in (
        (other, "not the state_dict of a torchvision VGG-19"),
        (damaged, "can't be read as PyTorch weights"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(f"{path}: {message}")):
            Vgg19(weights=str(path))
    with pytest.raises(CheckpointError, match="no such file"):
        Vgg19(weights=str(tmp_path / "absent.pth"))


def test_imagenet_weights_that_can_not_be_had_name_the_file_and_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refuses at once, wherever the test runs
    with pytest.raises(
        CheckpointError, match=rf"put vgg19-\w+\.pth into {re.escape(str(tmp_path))}"
    ) as raised:
        Vgg19()
    assert "\n" not in str(raised.value)


# ---- Full models -------------------------------------------------------------


def test_every_term_is_there_finite_and_reaches_both_networks() -> None:
    generator_full, discriminator_full = full_models(ALL_TERMS)
    with frozen(generator_full.discriminator):
        losses, generated = generator_full(batch())
        sum(losses.values()).backward()
    assert list(losses) == [
        "perceptual",
        "gen_gan",
        "feature_matching",
        "equivariance_value",
        "equivariance_jacobian",
    ]
    for network in (generator_full.kp_extractor, generator_full.generator):
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
        assert any(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    for network in (generator_full.discriminator, generator_full.vgg):
        assert all(parameter.grad is None for parameter in network.parameters())
    gradients = [parameter.grad.clone() for parameter in generator_full.generator.parameters()]
    discriminator_full(batch(), generated)["disc_gan"].backward()
    assert all(parameter.grad is not None for parameter in discriminator_full.discriminator.parameters())
    unchanged = zip(gradients, generator_full.generator.parameters(), strict=True)
    assert all(torch.equal(before, parameter.grad) for before, parameter in unchanged)


def test_the_real_branch_is_not_kept_for_the_backward_pass() -> None:
    generator_full, _ = full_models(ALL_TERMS)
    calls = []
    for network in (generator_full.vgg, generator_full.discriminator):
        network.register_forward_hook(
            lambda module, inputs, out: calls.append((type(module).__name__, requires_grad(out)))
        )
    generator_full(batch())  # not within `frozen`, so that the discriminator's weights want gradients
    assert sorted(calls) == [
        ("MultiScaleDiscriminator", False),
        ("MultiScaleDiscriminator", True),
        ("Vgg19", False),
        ("Vgg19", False),
        ("Vgg19", True),
        ("Vgg19", True),
    ]


def requires_grad(out: list | dict) -> bool:
    tensors = out if isinstance(out, list) else [out["prediction_map_1"]]
    return any(tensor.requires_grad for tensor in tensors)


def test_perceptual_sums_weighted_differences_over_features_and_scales() -> None:
    generator_full, _ = full_models({"train_params.loss_weights.perceptual": [1, 2, 3, 4, 5]})
    losses, generated = generator_full(batch())
    real, fake = generator_full.pyramid(batch()["driving"]), generator_full.pyramid(generated["prediction"])
    expected = 0
    for scale in (1, 0.5):
        taps, target = (generator_full.vgg(pyramid[f"prediction_{scale}"]) for pyramid in (fake, real))
        expected += sum(
            weight * (taps[i] - target[i]).abs().mean() for i, weight in enumerate((1, 2, 3, 4, 5))
        )
    torch.testing.assert_close(losses["perceptual"], expected)


@pytest.mark.parametrize("part", ["deformed", "painted"])
def test_the_warped_source_and_what_is_painted_have_losses_of_their_own(part: str) -> None:
    skip = {"model_params.generator_params.image_skip": True}
    generator_full, _ = full_models(skip | {f"train_params.loss_weights.{part}": 3})
    losses, generated = generator_full(batch())
    real, other = generator_full.pyramid(batch()["driving"]), generator_full.pyramid(generated[part])
    expected = sum(3 * (other[name] - real[name]).abs().mean() for name in ("prediction_1", "prediction_0.5"))
    torch.testing.assert_close(losses[part], expected)


def test_keypoint_prior_is_what_lacks_to_the_distance_of_each_pair() -> None:
    points = torch.tensor([[[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]], [[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]]])
    expected = (2 * (0.1 - 0.01) + (0.1 - 0.02)) / 2  # the second picture's keypoints are far enough apart
    torch.testing.assert_close(keypoint_prior_loss({"value": points}), torch.tensor(expected))

    generator_full, _ = full_models({"train_params.loss_weights.keypoint_prior": 3})
    losses, generated = generator_full(batch())
    assert losses["keypoint_prior"] > 0
    torch.testing.assert_close(losses["keypoint_prior"], 3 * keypoint_prior_loss(generated["kp_driving"]))


def test_occlusion_prior_is_least_at_one_half_and_pulls_back_a_saturated_map() -> None:
    def slope(logit: float) -> tuple[float, float]:
        logits = torch.full((2, 1, 4, 4), logit, requires_grad=True)
        loss = occlusion_prior_loss(logits)
        loss.backward()
        return loss.item(), logits.grad.sum().item()

    assert slope(0.0) == pytest.approx((0, 0), abs=1e-7)
    # Cross entropy: its slope is that of 1/2, however flat the sigmoid.
    for logit in (2.0, 12.0, -12.0, 40.0):
        half = torch.nn.functional.binary_cross_entropy_with_logits(
            torch.tensor(logit), torch.tensor(0.5)
        ) - math.log(2)
        assert slope(logit) == pytest.approx(
            (half.item(), torch.sigmoid(torch.tensor(logit)).item() - 0.5), rel=1e-5
        )

    skip = {"model_params.generator_params.image_skip": True}
    generator_full, _ = full_models(skip | {"train_params.loss_weights.occlusion_prior": 3})
    losses, generated = generator_full(batch())
    torch.testing.assert_close(
        losses["occlusion_prior"], 3 * occlusion_prior_loss(generated["occlusion_logit"])
    )


def test_mask_prior_brings_back_a_motion_without_pixels() -> None:
    def loss(lost: float) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.zeros(2, 4, 8, 8)
        logits[:, 2] = lost
        logits.requires_grad_(True)
        return mask_prior_loss(logits.softmax(dim=1)), logits

    assert loss(0.0)[0] == 0  # a quarter of the pixels each
    for lost in (-8.0, -16.0):
        value, logits = loss(lost)
        value.backward()
        assert value > 1
        assert logits.grad[:, 2].sum().item() == pytest.approx(-1, abs=0.01)  # the same, however far
    assert torch.isfinite(loss(-1e4)[0])

    generator_full, _ = full_models({"train_params.loss_weights.mask_prior": 3})
    losses, generated = generator_full(batch())
    torch.testing.assert_close(losses["mask_prior"], 3 * mask_prior_loss(generated["mask"]))


def test_local_motion_judges_each_motion_around_its_keypoint_alone() -> None:
    places = torch.tensor([[[-0.5, -0.5], [0.5, 0.5]]], requires_grad=True)
    driving = torch.rand(1, 3, 32, 32)
    moved = driving.expand(3, -1, -1, -1).unsqueeze(0).clone()  # the background and two motions
    moved[:, 0] = 0  # of the background nothing is asked
    moved[:, 1, :, 16:, 16:] = 0  # the first motion is wrong where the second keypoint is
    moved.requires_grad_(True)
    assert local_motion_loss(moved, driving, {"value": places}).item() == pytest.approx(0, abs=1e-4)
    swapped = local_motion_loss(moved, driving, {"value": places.flip(1)})
    assert swapped.item() == pytest.approx(driving[:, :, 16:, 16:].mean().item() / 2, rel=0.2)
    swapped.backward()
    assert moved.grad[:, 1].abs().sum() > 0
    assert places.grad is None  # no keypoint moves to where any motion is right

    generator_full, _ = full_models({"train_params.loss_weights.local_motion": 3})
    losses, generated = generator_full(batch())
    expected = local_motion_loss(generated["sparse_deformed"], batch()["driving"], generated["kp_driving"])
    torch.testing.assert_close(losses["local_motion"], 3 * expected)


def test_vgg_ends_with_the_last_feature_that_has_a_weight() -> None:
    generator_full, _ = full_models({"train_params.loss_weights.perceptual": [0, 1, 0, 0, 0]})
    whole = Vgg19(weights="random")
    taps = generator_full.vgg(images(1))
    assert len(taps) == 2
    for tap, expected in zip(taps, whole(images(1)), strict=False):
        assert torch.equal(tap, expected)


def test_adversarial_terms_sum_over_scales_and_blocks_with_their_weights() -> None:
    generator_full, discriminator_full = full_models(
        {
            "model_params.discriminator_params": {"scales": [1, 0.5], "block_expansion": 4, "num_blocks": 2},
            "train_params.loss_weights.generator_gan": 2,
            "train_params.loss_weights.discriminator_gan": 3,
            "train_params.loss_weights.feature_matching": [5, 7],
        }
    )
    losses, generated = generator_full(batch())
    losses |= discriminator_full(batch(), generated)
    real, fake = (
        generator_full.discriminator(generator_full.pyramid(image))
        for image in (batch()["driving"], generated["prediction"])
    )
    gan, matching, disc = 0, 0, 0
    for scale in (1, 0.5):
        fake_map, real_map = fake[f"prediction_map_{scale}"], real[f"prediction_map_{scale}"]
        gan += 2 * ((1 - fake_map) ** 2).mean()
        disc += 3 * ((1 - real_map) ** 2 + fake_map**2).mean()
        for weight, a, b in zip(
            (5, 7), fake[f"feature_maps_{scale}"], real[f"feature_maps_{scale}"], strict=True
        ):
            matching += weight * (a - b).abs().mean()
    for name, expected in {"gen_gan": gan, "feature_matching": matching, "disc_gan": disc}.items():
        torch.testing.assert_close(losses[name], expected)


def test_terms_with_zero_weights_are_not_computed() -> None:
    weights = {
        f"train_params.loss_weights.{name}": 0
        for name in ("generator_gan", "equivariance_value", "equivariance_jacobian")
    }
    generator_full, _ = full_models(weights | {"train_params.loss_weights.perceptual": [0, 0, 1, 0, 0]})
    losses, generated = generator_full(batch())
    assert list(losses) == ["perceptual"] and "transformed_frame" not in generated
    generator_full, _ = full_models({"train_params.loss_weights.perceptual": [0] * 5})
    assert not hasattr(generator_full, "vgg")


def test_a_new_term_is_a_function_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the table knows the terms: config, training and logs take one more as it is."""

    def brightness_loss(prediction: Tensor) -> Tensor:
        return prediction.mean()

    weight = {"train_params.loss_weights.brightness": 3}
    path = write_config(tmp_path / "mine.yaml", small_config(weight))
    with pytest.raises(ConfigError, match=r"unknown key 'train_params\.loss_weights\.brightness'"):
        read_config(path)
    monkeypatch.setattr(
        model, "TERMS", (*model.TERMS, model.Term("brightness", brightness_loss, ("predction",)))
    )
    with pytest.raises(ValueError, match=r"'brightness' needs \['predction'\]; there are .*'prediction'"):
        full_models(weight)
    term = model.Term("brightness", brightness_loss, ("prediction",))
    monkeypatch.setattr(model, "TERMS", (*model.TERMS[:-1], term))
    monkeypatch.setitem(schema.LOSS_WEIGHTS, "brightness?", schema.NUMBER)
    read_config(path)
    losses, generated = full_models(weight)[0](batch())
    torch.testing.assert_close(losses["brightness"], 3 * generated["prediction"].mean())


def test_a_step_learns() -> None:
    generator_full, _ = full_models()
    x, transform = batch(), Transform(2, 0.05, 0.005, 5).state()
    parameters = [*generator_full.kp_extractor.parameters(), *generator_full.generator.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    totals = []
    for _ in range(15):
        with frozen(generator_full.discriminator):
            losses, _ = generator_full(x, transform)
            total = sum(losses.values())
            optimizer.zero_grad()
            total.backward()
        optimizer.step()
        totals.append(total.item())
    assert min(totals[-3:]) < 0.8 * totals[0]
