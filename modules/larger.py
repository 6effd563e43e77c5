"""Pictures larger than a model was trained for: the motion is estimated at the model's size.

Where things move is learned at one size; at another, keypoints wander and masks fall apart. A flow can be
enlarged. What is done with it depends on the model (`python -m benchmarks.larger_size` has the figures):

- A model that blends the warped source in (`image_skip`) warps the large source, and paints at its own size.
  Little of a picture is painted, so this costs hardly more than its own size.
- Any other model paints everything from features. They are those of the large source; encoder and painter are
  convolutions that see a neighbourhood, and serve larger pictures too.

Shapes: `H, W` the model's size, `N, M` the larger one.
"""

from __future__ import annotations

from torch import Tensor

from modules.generator import OcclusionAwareGenerator, SourceEncoding
from utils.errors import UserError


def encode_larger(generator: OcclusionAwareGenerator, large: Tensor, small: Tensor) -> SourceEncoding:
    """Encode a source for `generator.generate`, whose "prediction" is then (B, C, N, M).

    `large`: the source (B, C, N, M) in [0, 1]; `small`: the same at the model's size, (B, C, H, W). Keypoints
    are those of pictures of the model's size. Raises `UserError` for a generator without dense motion, and
    where it paints at the larger size, and N and M are not multiples of what it needs.
    """
    if generator.dense_motion_network is None:
        raise UserError("this model has no dense motion, so it can't make larger pictures; leave out --size")
    if generator.image_skip:
        return generator.encode(small)._replace(image=large)
    assert generator.dense_motion_network is not None
    motion_source = generator.dense_motion_network.downsample(small)  # (B, C, ., .)
    return generator.encode(large)._replace(small=motion_source)
