"""One training step (generator step, then discriminator step): time and peak memory of four ways to do it.

    python -m benchmarks.training_step [--config config/vox-adv-256.yaml] [--batch_size 1] [--rounds 5]

plain          the weights of VGG-19 and of the discriminator and its real branch take part in the graph
frozen VGG     as the published code: the weights of VGG-19 are constants
ours           besides, no graph for real branches, no gradients for the discriminator in the generator
               step, fused Adam
ours, c. last  besides, channels_last

Times are interleaved in one process, and the figures are medians of the rounds. Each peak is that of a
process of its own. VGG-19 is random.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from typing import Any

import torch

from modules.build import build_discriminator, build_generator, build_kp_detector, frame_shape, read_config
from modules.model import DiscriminatorFullModel, GeneratorFullModel
from modules.util import frozen
from modules.vgg import Vgg19
from tools.benchmarks.processes import peak_memory, run_alone

VARIANTS = ("plain", "frozen VGG", "ours", "ours, c. last")


class PlainGeneratorFullModel(GeneratorFullModel):
    """The same losses with every intermediate result kept for a backward pass."""

    def value(self, name: str, known: dict[str, Any]) -> Any:
        if name == "real_features" and name not in known:
            levels = self.features(self.value("real_pyramid", known))
            known[name] = [[maps.detach() for maps in level] for level in levels]
        return super().value(name, known)

    def judge(self, known: dict[str, Any]) -> dict[str, list]:
        kp, scales = known["kp_driving"], self.discriminator.scales
        generated = self.discriminator(self.value("generated_pyramid", known), kp=kp)
        real = self.discriminator(self.value("real_pyramid", known), kp=kp)
        return {
            "generated_judgements": [generated[f"prediction_map_{scale}"] for scale in scales],
            "generated_maps": [generated[f"feature_maps_{scale}"] for scale in scales],
            "real_maps": [real[f"feature_maps_{scale}"] for scale in scales],
        }


class Step:
    """A model of its own and its optimisers; calling it does one training step."""

    def __init__(self, variant: str, config: dict, batch_size: int) -> None:
        torch.manual_seed(0)
        config["train_params"]["vgg_weights"] = "random"
        kp_detector, generator = build_kp_detector(config), build_generator(config)
        self.discriminator = build_discriminator(config)
        networks = kp_detector, generator, self.discriminator
        self.ours = variant.startswith("ours")
        full_model = GeneratorFullModel if self.ours else PlainGeneratorFullModel
        self.generator_full = full_model(*networks, config["train_params"])
        self.discriminator_full = DiscriminatorFullModel(*networks, config["train_params"])
        if variant == "plain":
            self.generator_full.vgg = Vgg19(requires_grad=True, weights="random")
        self.adversarial = config["train_params"]["loss_weights"]["generator_gan"] != 0
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=self.ours)
            for network in networks
        ]
        height, width, channels = frame_shape(config)
        self.x = {name: torch.rand(batch_size, channels, height, width) for name in ("source", "driving")}
        if variant.endswith("c. last"):
            self.generator_full.to(memory_format=torch.channels_last)
            self.x = {name: image.to(memory_format=torch.channels_last) for name, image in self.x.items()}

    def __call__(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with frozen(self.discriminator) if self.ours else contextlib.nullcontext():
            losses, generated = self.generator_full(self.x)
            sum(losses.values()).backward()
        for optimizer in self.optimizers[:2]:
            optimizer.step()
        if self.adversarial:
            self.optimizers[2].zero_grad()
            self.discriminator_full(self.x, generated)["disc_gan"].backward()
            self.optimizers[2].step()


def interleaved_times(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median seconds a step; one uncounted round first."""
    times: dict[str, list[float]] = {variant: [] for variant in steps}
    for _ in range(rounds + 1):
        for variant, step in steps.items():
            start = time.perf_counter()
            step()
            times[variant].append(time.perf_counter() - start)
    return {variant: statistics.median(seconds[1:]) for variant, seconds in times.items()}


def peak_of(variant: str, arguments: argparse.Namespace) -> float:
    """MiB that a process needs at its peak for two steps of the variant."""
    options = ["--config", arguments.config, "--batch_size", str(arguments.batch_size), "--peak_of", variant]
    return float(run_alone("benchmarks.training_step", *options))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config/vox-adv-256.yaml")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak_of", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)

    if arguments.peak_of:
        step = Step(arguments.peak_of, read_config(arguments.config), arguments.batch_size)
        step()
        step()
        print(peak_memory())
        return

    peaks = {variant: peak_of(variant, arguments) for variant in VARIANTS}
    steps = {
        variant: Step(variant, read_config(arguments.config), arguments.batch_size) for variant in VARIANTS
    }
    times = interleaved_times(steps, arguments.rounds)
    machine = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{arguments.config}, batch {arguments.batch_size}, {machine}")
    print(f"{'variant':16}{'s/step':>8}{'speed':>8}{'peak MiB':>10}{'memory':>8}")
    for variant in VARIANTS:
        speed, memory = times["plain"] / times[variant], peaks[variant] / peaks["plain"]
        print(f"{variant:16}{times[variant]:8.2f}{speed:7.2f}x{peaks[variant]:10.0f}{memory:7.2f}x")


if __name__ == "__main__":
    main()
