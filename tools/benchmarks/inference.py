"""Milliseconds per frame of vox-256 on the CPU: plain PyTorch, the fast form, ONNX Runtime and OpenVINO.

    python -m benchmarks.inference [--rounds 15] [--threads N]

A frame is: keypoints of the driving frame, then the generator. The straightforward loop encodes the source
again for each frame; "source cached" encodes it once. The two engines run the graphs of export.py, which are
those of the same plain networks, in float32. All variants take turns, one frame each a round, so that other
load on the machine meets all of them; the figures are over all rounds. After each turn comes a pause in which
the thread pool of the variant stops spinning.

Ratios are to the plain loop. GFLOP counts the multiplications and additions of convolutions and matrix
products, as they run. The matrix peak is the best rate of a 1024×1024 matrix product and of a 3×3
convolution, measured between the rounds. Weights are random, with batch statistics far from their initial
values, and scaled so that pictures have contrast.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modules.build import build_generator, build_kp_detector, read_config
from modules.fast import fast_form
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector

CONFIG = Path(__file__).resolve().parents[2] / "config" / "vox-256.yaml"
SIZE = 256
PAUSE = 0.05  # seconds


class Variant(NamedTuple):
    name: str
    animate: Callable[[Tensor], Tensor]  # driving frame (1, 3, H, W) -> prediction (1, 3, H, W)
    gflop: float  # per frame


# ---- Networks and frames -----------------------------------------------------


def trained_networks() -> tuple[OcclusionAwareGenerator, KPDetector]:
    """vox-256 with weights and batch statistics such as training could leave, without training."""
    torch.manual_seed(0)
    config = read_config(CONFIG)
    generator, kp_detector = build_generator(config), build_kp_detector(config)
    with torch.no_grad():
        for module in [*generator.modules(), *kp_detector.modules()]:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.2, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        assert isinstance(generator.final, nn.Conv2d)
        generator.final.weight *= 8
        kp_detector.kp.weight *= 8
        assert kp_detector.jacobian is not None
        kp_detector.jacobian.weight.normal_(0, 0.005)
    return generator.eval(), kp_detector.eval()


def frames(count: int) -> list[Tensor]:
    """Textures that differ from frame to frame: (1, 3, SIZE, SIZE) in [0, 1] each."""
    coarse = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return list(F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1).split(1))


# ---- Variants ----------------------------------------------------------------


def torch_variants(
    generator: OcclusionAwareGenerator, kp_detector: KPDetector, source: Tensor
) -> list[Variant]:
    kp_source, encoding = kp_detector(source), generator.encode(source)
    fast, fast_detector = fast_form(generator), fast_form(kp_detector)
    fast_kp_source, fast_encoding = fast_detector(source), fast.encode(source)

    def plain_frame(driving: Tensor) -> Tensor:
        return generator(source, kp_driving=kp_detector(driving), kp_source=kp_source)["prediction"]

    def plain_cached(driving: Tensor) -> Tensor:
        kp_driving = kp_detector(driving)
        return generator.generate(encoding, kp_driving, kp_source, deformed=False)["prediction"]

    def fast_frame(driving: Tensor) -> Tensor:
        kp_driving = fast_detector(driving)
        return fast.generate(fast_encoding, kp_driving, fast_kp_source, deformed=False)["prediction"]

    loops = {
        "PyTorch, plain loop": plain_frame,
        "PyTorch, source cached": plain_cached,
        "fast form": fast_frame,
    }
    return [Variant(name, frame, gflop(frame, source)) for name, frame in loops.items()]


# ---- Counting and timing -----------------------------------------------------


def gflop(run: Callable[[Tensor], object], driving: Tensor) -> float:
    """Multiplications and additions of the convolutions and matrix products of a frame, as they run."""
    with FlopCounterMode(display=False) as counter:
        run(driving)
    return counter.get_total_flops() / 1e9


def milliseconds(function: Callable, *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return 1000 * (time.perf_counter() - start)


class MatrixPeak:
    """The best GFLOP/s that a plain matrix product or convolution has reached so far."""

    def __init__(self) -> None:
        self.best = 0.0
        self.matrix = torch.rand(1024, 1024)
        self.maps, self.kernel = torch.rand(1, 256, 64, 64), torch.rand(256, 256, 3, 3)

    def measure(self) -> None:
        for _ in range(5):
            product = 2 * 1024**3 / milliseconds(torch.mm, self.matrix, self.matrix)
            convolution = 2 * 64 * 64 * 256 * 256 * 9 / milliseconds(F.conv2d, self.maps, self.kernel)
            self.best = max(self.best, product / 1e6, convolution / 1e6)


def take_turns(variants: list[Variant], driving: list[Tensor], peak: MatrixPeak) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for variant in variants:
        variant.animate(driving[0])
    for frame in driving:
        peak.measure()
        for variant in variants:
            time.sleep(PAUSE)
            times[variant.name].append(milliseconds(variant.animate, frame))
    return times


def print_table(
    variants: list[Variant], times: dict[str, list[float]], differences: dict[str, float], peak: float
) -> None:
    rounds = len(times[variants[0].name])
    print(f"matrix peak {peak:.0f} GFLOP/s, {torch.get_num_threads()} threads, {rounds} rounds")
    columns = ("median", "min", "max", "ratio", "GFLOP", "of peak", "difference")
    print(f"{'ms/frame':28}" + "".join(f"{column:>11}" for column in columns))
    plain = statistics.median(times[variants[0].name])
    for name, _, count in variants:
        median = statistics.median(times[name])
        spread = f"{median:11.0f}{min(times[name]):11.0f}{max(times[name]):11.0f}"
        rates = f"{plain / median:10.2f}×{count:11.1f}{count / median * 1000 / peak:11.0%}"
        print(f"{name:28}{spread}{rates}{255 * differences[name]:11.4f}")
    print("difference: largest of any pixel to the plain loop, in grey levels of 255")


# ---- The run -----------------------------------------------------------------


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each engine")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)

    generator, kp_detector = trained_networks()
    source, *driving = frames(1 + options.rounds)
    variants = torch_variants(generator, kp_detector, source)
    expected = [variants[0].animate(frame) for frame in driving[:3]]
    print(f"contrast of the pictures: standard deviation {255 * torch.cat(expected).std():.0f} grey levels")
    differences = {
        name: max(float((animate(driving[i]) - plain).abs().max()) for i, plain in enumerate(expected))
        for name, animate, _ in variants
    }
    peak = MatrixPeak()
    print_table(variants, take_turns(variants, driving, peak), differences, peak.best)


if __name__ == "__main__":
    main()
