"""What is best when a picture is painted larger than the model was trained: the figures behind `larger.py`.

    python -m benchmarks.larger_size --factor 2 --clips 12 --frames 6

Puppets of a seed that no dataset has are drawn at `--factor` times the model's size and shrunk to it. The
first frame of each clip is driven by frames spread over the clip, once in each of the ways below; the truth
is the large drawing. Motion is always estimated at the model's size. L1 is the mean absolute difference in
[0, 1], SSIM that of scikit-image with Gaussian weights. "ms" is the time for a frame.

The bundled model blends the warped picture in (`image_skip`). What its decoder alone gives, "painted", stands
for models that have no such blend, as the published ones.

Shapes: `H, W` the model's size, `N, M` the large one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from checkpoints.files import load_for_inference
from data.puppets.dataset import Clip
from data.puppets.render import render
from media.pictures import fit
from media.tensors import to_tensor
from modules.build import build_generator, build_kp_detector, frame_shape, read_config
from modules.generator import OcclusionAwareGenerator, SourceEncoding
from modules.keypoint_detector import KPDetector
from modules.util import resize
from utils.options import OptionParser
from utils.program import command_line
from utils.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
SEED = 7117  # no dataset of this project is made with it
CLIP_FRAMES = 24

Way = Callable[[], Tensor]  # -> a picture (1, 3, N, M) in [0, 1]


def ways(generator: OcclusionAwareGenerator, large: Tensor, small: Tensor, motion: tuple) -> dict[str, Way]:
    """Each way to a large picture of a source, given as `large` (1, 3, N, M) and `small` (1, 3, H, W).

    `motion`: driving and source keypoints.
    """
    size = large.shape[2:]
    small_source = generator.encode(small)
    large_source = generator.encode(large)._replace(small=small_source.small)
    mixed_source = small_source._replace(image=large)

    def result(source: SourceEncoding) -> dict[str, Tensor]:
        return generator.generate(source, *motion)

    def enlarged(picture: Tensor) -> Tensor:
        return nn.functional.interpolate(picture, size, mode="bicubic", align_corners=False).clamp(0, 1)

    def with_detail(name: str) -> Tensor:
        """An enlarged picture with the warped source's finer detail on it, where that is seen."""
        out = result(mixed_source)
        picture = result(small_source)[name]
        detail = out["deformed"] - enlarged(shrunk(out["deformed"], small.shape[2:]))
        return (enlarged(picture) + resize(out["occlusion_map"], size) * detail).clamp(0, 1)

    return {
        "the model's result, enlarged": lambda: enlarged(result(small_source)["prediction"]),
        "features and painting at N": lambda: result(large_source)["prediction"],
        "warped at N, painted at the model's size": lambda: result(mixed_source)["prediction"],
        "result enlarged + detail of the warped source": lambda: with_detail("prediction"),
        "no blend: painted, enlarged": lambda: enlarged(result(small_source)["painted"]),
        "no blend: features and painting at N": lambda: result(large_source)["painted"],
        "no blend: painted, enlarged + detail": lambda: with_detail("painted"),
    }


def shrunk(picture: Tensor, size: Sequence[int]) -> Tensor:
    return nn.functional.interpolate(picture, size, mode="bicubic", align_corners=False, antialias=True)


def scores(picture: Tensor, real: np.ndarray) -> tuple[float, float]:
    """L1 and SSIM of a picture (1, 3, N, M) and the true one (N, M, 3), both in [0, 1]."""
    found = picture[0].permute(1, 2, 0).numpy()
    ssim = structural_similarity(found, real, channel_axis=2, data_range=1, gaussian_weights=True)
    return float(np.abs(found - real).mean()), float(ssim)


@torch.inference_mode()
def measure(
    networks: tuple[OcclusionAwareGenerator, KPDetector], model: int, factor: int, clips: int, frames: int
) -> dict:
    """The rows (L1, SSIM, seconds) of every way."""
    generator, kp_detector = networks
    rows: dict[str, list] = {}
    with Progress(clips * frames, f"{factor}x", "frames") as progress:
        for number in range(clips):
            puppet, poses = Clip(Path(), SEED, number, 0, CLIP_FRAMES, model).performance()
            pictures = [render(puppet, poses[t], model * factor) for t in moments(frames)]
            large = to_tensor(pictures[0])[None]
            small, *driving = (to_tensor(fit(p, (model, model), "stretch"))[None] for p in pictures)
            kp_source = kp_detector(small)
            for picture, frame in zip(pictures[1:], driving, strict=True):
                every = ways(generator, large, small, (kp_detector(frame), kp_source))
                for name, way in every.items():
                    started = time.perf_counter()
                    found = way()
                    seconds = time.perf_counter() - started
                    rows.setdefault(name, []).append((*scores(found, picture / np.float32(255)), seconds))
                progress.advance(1)
    return rows


def moments(frames: int) -> list[int]:
    """The number of the source frame and of `frames` driving frames of a clip."""
    return np.linspace(0, CLIP_FRAMES - 1, frames + 1).round().astype(int).tolist()


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser("Compare ways to paint larger than the model was trained.")
    parser.add_argument("--config", default=ROOT / "config" / "puppets-128.yaml", type=Path)
    parser.add_argument("--checkpoint", default=ROOT / "sup-mat" / "puppets-128.pth.tar", type=Path)
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--frames", type=int, default=6, help="driving frames of each clip")
    options = parser.parse_args(argv)
    config = read_config(options.config)
    generator, kp_detector = build_generator(config).eval(), build_kp_detector(config).eval()
    load_for_inference(options.checkpoint, generator, kp_detector, options.config)
    model = frame_shape(config)[0]
    rows = measure((generator, kp_detector), model, options.factor, options.clips, options.frames)
    print(f"{model} -> {model * options.factor}: {options.clips} clips of {options.frames} frames")
    for name, values in rows.items():
        l1, ssim, seconds = np.mean(values, axis=0)
        print(f"{name:<48} L1 {l1:.4f}  SSIM {ssim:.3f}  {1000 * seconds:.0f} ms")


if __name__ == "__main__":
    main()
