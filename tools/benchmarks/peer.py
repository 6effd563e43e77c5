"""The published code's way to do what jobs.py measures: `python peer.py CHECKOUT NAME [FOLDER]`.

CHECKOUT is one of https://github.com/AliaksandrSiarohin/first-order-model. PYTHONPATH names it, so
"modules" and "frames_dataset" are the checkout's. Of this project only `turns.py`, beside it, is imported.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch
import torchvision  # it looks for scikit-learn, and must not find what stands in for it below
import yaml

CHECKOUT, NAME, *FOLDERS = sys.argv[1:]

# VGG-19 with random weights: there is nothing to download, and a step takes as long. A function for random
# splits is imported, and not called where train/ and test/ are.
vgg19 = torchvision.models.vgg19
torchvision.models.vgg19 = lambda pretrained: vgg19()
split: Any = types.ModuleType("sklearn.model_selection")
split.train_test_split = None
sys.modules |= {"sklearn": types.ModuleType("sklearn"), "sklearn.model_selection": split}

from turns import AUGMENTATION, Turn, exhaust, serve_turns, timed  # type: ignore[import-not-found]

from frames_dataset import FramesDataset
from modules.discriminator import MultiScaleDiscriminator
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from modules.model import GeneratorFullModel


def networks() -> tuple[dict, Any, Any]:
    """Build generator and keypoint detector of vox-256; the config comes with them."""
    config = yaml.safe_load((Path(CHECKOUT) / "config" / "vox-256.yaml").read_text())
    model, common = config["model_params"], config["model_params"]["common_params"]
    generator = OcclusionAwareGenerator(**model["generator_params"], **common)
    return config, generator, KPDetector(**model["kp_detector_params"], **common)


def frames() -> Turn:
    """Animate as its `make_animation` does, without the transfer of keypoints."""
    _, generator, kp_detector = networks()
    generator.eval()
    kp_detector.eval()
    source, driving = torch.rand(1, 3, 256, 256), torch.rand(4, 1, 3, 256, 256)

    @torch.no_grad()
    def animate() -> None:
        kp_source = kp_detector(source)
        for frame in driving:
            out = generator(source, kp_source=kp_source, kp_driving=kp_detector(frame))
            out["prediction"].data.cpu().numpy()

    return timed(animate, len(driving))


def training_step() -> Turn:
    """Train as its train.py does."""
    config, generator, kp_detector = networks()
    model = config["model_params"]
    discriminator: Any = MultiScaleDiscriminator(**model["discriminator_params"], **model["common_params"])
    full = GeneratorFullModel(kp_detector, generator, discriminator, config["train_params"])
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for network in (generator, kp_detector)
    ]
    x = {name: torch.rand(1, 3, 256, 256) for name in ("source", "driving")}

    def step() -> None:
        losses, _ = full(x)
        sum(value.mean() for value in losses.values()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return timed(step, 1)


def samples() -> Turn:
    """Draw samples of a dataset with the augmentation of vox-256."""
    torch.set_num_threads(1)
    dataset: Any = FramesDataset(FOLDERS[0], augmentation_params=AUGMENTATION)
    return timed(lambda: exhaust(map(dataset.__getitem__, range(len(dataset)))), len(dataset))


if __name__ == "__main__":
    serve_turns({"frames": frames, "step": training_step, "samples": samples}[NAME])
