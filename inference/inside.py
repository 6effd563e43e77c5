"""What the networks see and do for one driving frame, as pictures.

Shapes: `H, W` size that the model takes, `h, w` of the motion network's maps, `K` keypoints.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from matplotlib import colormaps, colors
from torch import Tensor

from inference.animator import Animator
from logger import Visualizer, enlarge
from media.pictures import to_uint8
from media.tensors import to_pixels
from modules.dense_motion import blend_motions, sparse_motions
from modules.util import Keypoints, make_coordinate_grid
from utils.errors import UserError

SIDE = 384  # pixels of the longer side of each picture
KEYPOINT = 0.02  # radius, as a share of that


def inside_pictures(animator: Animator, driving: Tensor, initial: Keypoints) -> dict[str, np.ndarray]:
    """Draw pictures (., ., 3) uint8, by their titles, for a driving frame (3, H, W) in [0, 1].

    `initial`: the keypoints (1, K, ...) that relative movement is measured from. Raises `UserError` for a
    model without a dense motion network.
    """
    out = next(animator.animate([driving], initial, deformed=True))
    if "mask" not in out:
        raise UserError("this model has no dense motion network, so there is no flow and no mask to show")
    # What goes in and comes out, then what is between.
    draw = Visualizer(kp_size=max(2, round(KEYPOINT * SIDE))).with_keypoints
    pictures = {
        "source": draw(zoom(animator.source), out["kp_source"]),
        "driving frame": draw(zoom(out["driving"]), out["kp_driving"]),
        "result": draw(zoom(out["prediction"]), out.get("kp_norm", out["kp_driving"])),
        "flow": large(flow(out), flow_colours),
        "masks": large(out["mask"], mask_colours),
        "warped source": to_pixels(zoom(out["deformed"]))[0],
    }
    if "occlusion_map" in out:
        pictures["occlusion map"] = to_pixels(zoom(out["occlusion_map"].expand(-1, 3, -1, -1)))[0]
    return pictures | each_motion(out)


def each_motion(out: dict) -> dict[str, np.ndarray]:
    """Draw the source under each of the K+1 motions, bright where its mask is."""
    used = out["sparse_deformed"][0] * (0.15 + 0.85 * out["mask"][0].unsqueeze(1))  # (K+1, 3, h, w)
    names = ["the background", *(f"keypoint {number}" for number in range(1, len(used)))]
    return {
        f"motion of {name}": to_pixels(zoom(image.unsqueeze(0)))[0]
        for name, image in zip(names, used, strict=True)
    }


def flow(out: dict) -> Tensor:
    """Return the dense flow behind a result, from each pixel to where it takes its colour: (h, w, 2), xy."""
    kp = out.get("kp_norm", out["kp_driving"])
    motions = sparse_motions(kp, out["kp_source"], out["mask"].shape[2:])  # (1, K+1, h, w, 2)
    return blend_motions(motions, out["mask"])[0] - make_coordinate_grid(motions.shape[2:4], like=motions)


def zoom(images: Tensor) -> Tensor:
    """Repeat pixels of images (1, 3, h, w) until their longer side is `SIDE` or a little less."""
    times = max(1, SIDE // max(images.shape[2:]))
    return enlarge(images.float().cpu(), (images.shape[2] * times, images.shape[3] * times))


def large(maps: Tensor, colour: Callable[[Tensor], np.ndarray]) -> np.ndarray:
    """Draw maps in their colours, in the size of `zoom`."""
    drawn = torch.from_numpy(colour(maps.float().cpu())).permute(2, 0, 1).unsqueeze(0) / 255
    return to_pixels(zoom(drawn))[0]


def flow_colours(flow: Tensor, longest: float = 0.3) -> np.ndarray:
    """Draw a flow (h, w, 2), xy: direction as hue, length as saturation, which is full from `longest` on."""
    x, y = flow.numpy()[..., 0], flow.numpy()[..., 1]
    hue, length = np.arctan2(y, x) / (2 * np.pi) % 1, np.hypot(x, y) / longest
    return to_uint8(colors.hsv_to_rgb(np.stack([hue, length.clip(0, 1), np.full_like(hue, 0.95)], axis=-1)))


def mask_colours(mask: Tensor) -> np.ndarray:
    """Draw masks (1, K+1, h, w) as mixtures of their keypoints' colours; the background's is light grey."""
    count = mask.shape[1] - 1
    palette = [(0.9, 0.9, 0.9), *(colormaps["gist_rainbow"](i / count)[:3] for i in range(count))]
    return to_uint8(np.einsum("khw,kc->hwc", mask[0].numpy(), palette))
