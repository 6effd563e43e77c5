"""`encode_larger`: pictures larger than the model was trained for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.build import build_generator, build_kp_detector
from modules.generator import OcclusionAwareGenerator, encode_larger
from modules.util import resize
from tests.small import images, randomize, small_config
from utils.errors import UserError

EXTENDED = {
    "model_params.generator_params.image_skip": True,
    "model_params.generator_params.align_corners": True,
}


def networks(image_skip: bool) -> tuple[OcclusionAwareGenerator, dict[str, Tensor], dict[str, Tensor]]:
    """A generator, and keypoints of a driving frame and of `images(1)`."""
    config = small_config(EXTENDED if image_skip else {})
    generator, kp_detector = (
        randomize(build_generator(config)).eval(),
        randomize(build_kp_detector(config)).eval(),
    )
    return generator, kp_detector(images(1, seed=1)), kp_detector(images(1))


@pytest.mark.parametrize("image_skip", [False, True])
@torch.inference_mode()
def test_at_the_models_own_size_nothing_changes(image_skip: bool) -> None:
    generator, kp_driving, kp_source = networks(image_skip)
    source = images(1)
    found = generator.generate(encode_larger(generator, source, source), kp_driving, kp_source)
    expected = generator(source, kp_driving, kp_source)
    assert torch.equal(found["prediction"], expected["prediction"])


@pytest.mark.parametrize("image_skip", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
@torch.inference_mode()
def test_motion_is_that_of_the_models_size(image_skip: bool, size: tuple[int, int]) -> None:
    generator, kp_driving, kp_source = networks(image_skip)
    small = images(1)
    found = generator.generate(encode_larger(generator, resize(small, size), small), kp_driving, kp_source)
    expected = generator(small, kp_driving, kp_source)
    assert found["prediction"].shape == found["deformed"].shape == (1, 3, *size)
    assert torch.equal(found["mask"], expected["mask"])
    assert torch.equal(found["occlusion_map"], expected["occlusion_map"])


@torch.inference_mode()
def test_what_is_seen_keeps_the_details_of_the_large_source() -> None:
    generator, _, kp_source = networks(image_skip=True)
    generator.dense_motion_network.occlusion.bias.fill_(1000)  # everything is seen
    large = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    encoding = encode_larger(generator, large, resize(large, (32, 32)))
    # The driving frame is the source: the flow is the identity.
    assert (generator.generate(encoding, kp_source, kp_source)["prediction"] - large).abs().max() < 1e-4


@torch.inference_mode()
def test_a_size_that_does_not_fit_is_told() -> None:
    generator, *_ = networks(image_skip=False)
    with pytest.raises(UserError, match="both must be multiples of 8"):
        encode_larger(generator, images(1, size=68), images(1))
