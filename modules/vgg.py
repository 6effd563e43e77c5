"""VGG-19, whose features the perceptual loss compares, and its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import CheckpointError
from utils.weight_files import DAMAGED, check_tensor, read_weights, require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Positions of relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 in torchvision's vgg19().features.
RELU_X_1 = (1, 6, 11, 20, 29)


class Vgg19(nn.Module):
    """RGB image (B, 3, H, W) in [0, 1] -> features at the first `depth` of relu1_1, relu2_1, …, relu5_1.

    `weights`: "imagenet" (torchvision's, downloaded once), a path of its `state_dict`, or "random" (the same
    random network every time). Raises `CheckpointError` if they can't be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, requires_grad: bool = False, weights: str = "imagenet", depth: int = len(RELU_X_1)):
        super().__init__()
        self.features: nn.Sequential = load_vgg19(weights)[: RELU_X_1[depth - 1] + 1]
        self.requires_grad_(requires_grad)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x - self.mean) / self.std
        taps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in RELU_X_1:
                taps.append(x)
        return taps


def load_vgg19(weights: str) -> nn.Sequential:
    """Load the convolutional layers of a torchvision VGG-19; `weights` as of `Vgg19`."""
    from torchvision.models import VGG19_Weights, vgg19  # takes seconds, and only training needs it

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = vgg19()
    if weights == "random":
        return network.features
    if weights == "imagenet":
        try:
            state = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        # No network, or no space on the disk; a broken download fails its hash.
        except (OSError, RuntimeError) as error:
            name = Path(VGG19_Weights.IMAGENET1K_V1.url).name
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise CheckpointError(
                "the perceptual loss needs VGG-19's ImageNet weights, and they could not be downloaded "
                f"({error}): put {name} into {folder}, or its path into the config as "
                "train_params.vgg_weights"
            ) from error
    else:
        state = read_vgg19_file(weights)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{weights}: not the state_dict of a torchvision VGG-19") from error
    return network.features


def read_vgg19_file(path: str) -> dict[str, Tensor]:
    try:
        state = read_weights(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file (train_params.vgg_weights takes 'imagenet', 'random' or a file with "
            "VGG-19 weights)"
        ) from None
    except CheckpointError as error:  # in the words of checkpoints
        problem = str(error).replace(DAMAGED, "can't be read as PyTorch weights")
        raise CheckpointError(problem) from error
    require(isinstance(state, dict), f"{path}: it", "a state_dict of a torchvision VGG-19")
    for name, tensor in state.items():
        check_tensor(tensor, f"{path}: its '{name}'")
    return state
