"""One training step (generator step, then discriminator step): time and peak memory of four ways to do it.

    python benchmarks/training_step.py [--config config/vox-adv-256.yaml] [--batch_size 1] [--rounds 5]

plain          VGG-19's weights take part in the graph, the discriminator's real branch and its own weights
too frozen VGG     as the published code: VGG-19's weights are constants ours           besides, no graph for
real branches, no gradients for the discriminator in the generator step, fused Adam ours, c. last  besides,
channels_last

Times are interleaved in one process (medians of the rounds); each peak is that of a process of its own.
VGG-19 is random.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modules.build import build_discriminator, build_generator, build_kp_detector, frame_shape, read_config
from modules.model import DiscriminatorFullModel, GeneratorFullModel, Vgg19, generator_gan_loss, weighted_l1
from modules.util import frozen

VARIANTS = ("plain", "frozen VGG", "ours", "ours, c. last")


class PlainGeneratorFullModel(GeneratorFullModel):
    """The same losses without a thought for what is kept."""

    def perceptual(self, real, generated):
        loss = 0
        for scale in self.scales:
            features, target = (
                self.vgg(generated[f"prediction_{scale}"]),
                self.vgg(real[f"prediction_{scale}"]),
            )
            loss = loss + weighted_l1(features, [t.detach() for t in target], self.loss_weights["perceptual"])
        return loss

    def adversarial(self, real, generated, kp):
        judged, target = self.discriminator(generated, kp=kp), self.discriminator(real, kp=kp)
        losses = {"gen_gan": 0, "feature_matching": 0}
        for scale in self.disc_scales:
            features, target_features = judged[f"feature_maps_{scale}"], target[f"feature_maps_{scale}"]
            losses["gen_gan"] += self.loss_weights["generator_gan"] * generator_gan_loss(
                judged[f"prediction_map_{scale}"]
            )
            losses["feature_matching"] += weighted_l1(
                features, target_features, self.loss_weights["feature_matching"]
            )
        return losses


class Step:
    """A model of its own and its optimisers; calling it does one training step."""

    def __init__(self, variant: str, config: dict, batch_size: int):
        torch.manual_seed(0)
        config["train_params"]["vgg_weights"] = "random"
        networks = [build_kp_detector(config), build_generator(config), build_discriminator(config)]
        self.ours = variant.startswith("ours")
        full_model = GeneratorFullModel if self.ours else PlainGeneratorFullModel
        self.generator_full = full_model(*networks, config["train_params"])
        self.discriminator_full = DiscriminatorFullModel(*networks, config["train_params"])
        if variant == "plain":
            self.generator_full.vgg = Vgg19(requires_grad=True, weights="random")
        self.discriminator = networks[2]
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
    times = {variant: [] for variant in steps}
    for _ in range(rounds + 1):
        for variant, step in steps.items():
            start = time.perf_counter()
            step()
            times[variant].append(time.perf_counter() - start)
    return {variant: statistics.median(seconds[1:]) for variant, seconds in times.items()}


def peak_memory(variant: str, arguments: argparse.Namespace) -> float:
    """MiB that a process needs at its peak for two steps of the variant."""
    command = [
        sys.executable,
        __file__,
        "--config",
        arguments.config,
        "--batch_size",
        str(arguments.batch_size),
    ]
    out = subprocess.run([*command, "--peak_of", variant], check=True, capture_output=True, text=True).stdout
    return float(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config/vox-adv-256.yaml")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak_of", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.peak_of:
        step = Step(arguments.peak_of, read_config(arguments.config), arguments.batch_size)
        step()
        step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return

    peaks = {variant: peak_memory(variant, arguments) for variant in VARIANTS}
    steps = {
        variant: Step(variant, read_config(arguments.config), arguments.batch_size) for variant in VARIANTS
    }
    times = interleaved_times(steps, arguments.rounds)
    print(
        f"{arguments.config}, batch {arguments.batch_size}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{'variant':16}{'s/step':>8}{'speed':>8}{'peak MiB':>10}{'memory':>8}")
    for variant in VARIANTS:
        speed, memory = times["plain"] / times[variant], peaks[variant] / peaks["plain"]
        print(f"{variant:16}{times[variant]:8.2f}{speed:7.2f}x{peaks[variant]:10.0f}{memory:7.2f}x")


if __name__ == "__main__":
    main()
