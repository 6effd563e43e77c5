"""A small network that finds the landmarks of puppets and tells them apart, fitted on their train split.

It stands in for the detectors of faces and bodies, whose weights have to be downloaded, so that every metric
can be run and tested offline. Pictures of any size are shrunk to 64×64. The network ends in a grid of cells.
For each landmark, every cell votes for a place and for whether the landmark can be seen, and its votes have a
weight. The weighted means are the answer, so that places behind the head or hair are found too, as the
dataset has them. A landmark whose probability to be seen is below `SEEN` counts as missing. That probability
is fitted on landmarks that were covered up and on shuffled pictures.

Shapes: `B` pictures, `L` landmarks, `D` numbers in an embedding, `S` side of a picture, `G` side of the grid.
`uv` is in [0, 1] from the left and upper edge of the picture to the right and lower one, so that it means the
same at every size.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from media.clips import open_clip
from utils.errors import DatasetError
from utils.files import atomic_write, regular_file
from utils.progress import Progress
from utils.weight_files import read_weights

SIDE = 64
EMBEDDING = 32
SEEN = 0.5  # least probability that a landmark can be seen

FRAMES = 12_000  # of the train split, at most, held in memory
STEPS, BATCH = 1000, 32
LEARNING_RATE = 3e-3
LOGIT_SCALE = 12.0  # of cosines of identities
WEIGHT_OF_IDENTITY, WEIGHT_OF_SEEN = 0.01, 0.05  # beside the mean distance of the landmarks in uv


class PuppetNet(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] of side `SIDE` → votes for the landmarks and an embedding."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.fine = nn.Sequential(_block(3, 16, 5, 2), _block(16, 32, 3, 2), _block(32, 48, 3))
        self.coarse = nn.Sequential(_block(48, 96, 3, 2), _block(96, 96, 3), _block(96, 96, 3))
        self.skip, self.merged = nn.Conv2d(48, 96, 1), _block(96, 64, 3)
        self.votes = nn.Conv2d(64, 4 * len(names), 1)
        self.embedding = nn.Linear(96, EMBEDDING)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The votes for places, their weights, whether landmarks can be seen, and embeddings.

        Returns votes in uv (B, L, 2, G*G), their weights (B, L, G*G), which sum to 1, logits of whether each
        landmark can be seen (B, L), and embeddings (B, D) of length 1.
        """
        fine = self.fine(pictures - 0.5)  # (B, 48, S/4, S/4)
        coarse = self.coarse(fine)  # (B, 96, S/8, S/8)
        embedding = F.normalize(self.embedding(coarse.mean((2, 3))), dim=1)  # (B, D)
        coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear")  # (B, 96, G, G)
        merged = self.merged(self.skip(fine) + coarse)  # (B, 64, G, G)
        votes = self.votes(merged).unflatten(1, (len(self.names), 4))  # (B, L, 4, G, G)
        weight = votes[:, :, 0].flatten(2).softmax(-1)  # (B, L, G*G)
        places = (votes[:, :, 1:3] + _cell_centres(votes)).flatten(3)  # (B, L, 2, G*G)
        seen = (weight * votes[:, :, 3].flatten(2)).sum(-1)  # (B, L)
        return places, weight, seen, embedding

    @torch.inference_mode()
    def find_landmarks(self, frames: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → (B, L, 2), (x, y) in pixels of these frames; NaN for those not seen."""
        places, weight, seen, _ = self.eval()(shrink(frames))
        uv = (weight.unsqueeze(2) * places).sum(-1)  # (B, L, 2)
        size = torch.tensor([frames.shape[3], frames.shape[2]], device=frames.device)
        return (uv * size - 0.5).masked_fill(~self._found(seen).unsqueeze(-1), float("nan"))

    @torch.inference_mode()
    def embed(self, frames: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → (B, D) of length 1; NaN for frames in which few landmarks are seen."""
        *_, seen, embedding = self.eval()(shrink(frames))
        enough = self._found(seen).float().mean(1) > 0.5  # (B,)
        return embedding.masked_fill(~enough.unsqueeze(-1), float("nan"))

    @staticmethod
    def _found(seen: Tensor) -> Tensor:
        return seen.sigmoid() >= SEEN

    def save(self, path: Path) -> None:
        with atomic_write(path) as temporary:
            torch.save({"names": self.names, "weights": self.state_dict()}, temporary)

    @classmethod
    def read(cls, path: Path) -> PuppetNet:
        content = read_weights(path)
        network = cls(content["names"])
        network.load_state_dict(content["weights"])
        return network.eval()


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _cell_centres(votes: Tensor) -> Tensor:
    """The uv of the centres of the cells of a map (..., G, G): (2, G, G)."""
    side = votes.shape[-1]
    centres = (torch.arange(side, device=votes.device, dtype=votes.dtype) + 0.5) / side
    return torch.stack(torch.meshgrid(centres, centres, indexing="xy"))


def shrink(frames: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, 3, SIDE, SIDE), averaging rather than skipping pixels."""
    return F.interpolate(frames, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


# ---- Fitting -----------------------------------------------------------------


class Examples(NamedTuple):
    """N frames with what is true of them."""

    frames: Tensor  # (N, 3, SIDE, SIDE) uint8
    uv: Tensor  # (N, L, 2)
    puppets: Tensor  # (N,) numbers of the identities
    names: list[str]  # L names of landmarks


def fit_puppets(train: Path, weights: Path, steps: int = STEPS) -> None:
    """Fit a `PuppetNet` on the clips of `train` that have landmarks beside them, and save it as `weights`.

    The same data give the same network on the same machine. Raises `DatasetError` where there are no such
    clips, or where `weights` can't be written.
    """
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        probe = weights.with_suffix(".probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DatasetError(
            f"{weights}: can't be written ({error.strerror}); give --puppets a copy of the dataset in a "
            "folder that can be written to"
        ) from error
    examples = read_examples(train)
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PuppetNet(examples.names).train()
        identities = nn.Linear(EMBEDDING, int(examples.puppets.max()) + 1, bias=False)
    parameters = [*network.parameters(), *identities.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    with Progress(steps, "fitting the detector of puppets", "steps") as progress:
        for _ in range(steps):
            loss = fitting_loss(network, identities, examples, rng)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.advance(1, f"loss {loss.item():.4f}")
    network.save(weights)


def fitting_loss(
    network: PuppetNet, identities: nn.Linear, examples: Examples, rng: torch.Generator
) -> Tensor:
    """The loss of a random batch: distances of landmarks, whether they can be seen, and identities."""
    chosen = torch.randint(len(examples.frames), (BATCH,), generator=rng)
    pictures, true_uv, true_seen = disturb(examples, chosen, rng)
    places, weight, seen, embedding = network(pictures)
    whole = true_seen.any(1)  # (B,)
    # The distance of each vote and not that of their mean: then it pays to trust the cells that know.
    distance = (weight * (places - true_uv.unsqueeze(-1)).abs().mean(2)).sum(-1)[true_seen].mean()
    cosines = F.linear(embedding, F.normalize(identities.weight, dim=1))  # (B, puppets)
    identity = F.cross_entropy(LOGIT_SCALE * cosines[whole], examples.puppets[chosen][whole])
    visibility = F.binary_cross_entropy_with_logits(seen, true_seen.float())
    return distance + WEIGHT_OF_IDENTITY * identity + WEIGHT_OF_SEEN * visibility


def read_examples(train: Path) -> Examples:
    """At most `FRAMES` frames, evenly from all clips of `train` that `data/make_puppets.py` wrote."""
    landmarks = sorted(train.glob("*.npz")) if train.is_dir() else []
    clips = [
        (file, clip)
        for file in landmarks
        for clip in (file.with_suffix(""), file.with_suffix(".mp4"))
        if clip.exists()
    ]
    if not clips:
        raise DatasetError(
            f"{train}: holds no puppets with landmarks to fit their detector on; make some with "
            "data/make_puppets.py, and give --puppets that dataset"
        )
    frames_a_clip = max(1, FRAMES // len(clips))
    frames = torch.empty(len(clips) * frames_a_clip, 3, SIDE, SIDE, dtype=torch.uint8)
    uv: list[Tensor] = []
    puppets: list[str] = []
    with Progress(len(clips), "reading puppets", "clips") as progress:
        for file, path in clips:
            with np.load(regular_file(file, DatasetError), allow_pickle=False) as content:
                xy, names = content["xy"], content["names"].tolist()
            numbers = np.unique(np.linspace(0, len(xy) - 1, frames_a_clip).round().astype(int))
            pixels = torch.from_numpy(open_clip(path).read(numbers)).permute(0, 3, 1, 2)  # (N, 3, H, W)
            frames[len(puppets) : len(puppets) + len(numbers)] = shrink(pixels.float()).round()
            uv.append(xy_to_uv(torch.from_numpy(xy[numbers]), *pixels.shape[2:]))
            puppets += [path.name.split("#")[0]] * len(numbers)
            progress.advance(1)
    _, number = np.unique(puppets, return_inverse=True)
    return Examples(frames[: len(puppets)], torch.cat(uv), torch.from_numpy(number), names)


def xy_to_uv(xy: Tensor, height: int, width: int) -> Tensor:
    """The dataset's xy (..., 2), ±1 at the centres of the corner pixels, as uv (..., 2)."""
    size = torch.tensor([width, height])
    return ((xy + 1) / 2 * (size - 1) + 0.5) / size


# ---- Disturbing: the detector must work on pictures that a network painted ---


def disturb(examples: Examples, chosen: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Examples number `chosen` (B,), mirrored, shifted, recoloured, blurred, covered or scrambled.

    Returns pictures (B, 3, S, S) in [0, 1], uv (B, L, 2), and which landmarks can be seen, bool (B, L).
    """
    shifted = []
    for number in chosen.tolist():
        picture, places = examples.frames[number].float() / 255, examples.uv[number]
        if _chance(rng, 0.5):
            picture, places = mirror(picture, places, examples.names)
        picture, places = shift(picture, places, rng)
        shifted.append((recolour(picture, rng), places))
    pictures, uv = (torch.stack(tensors) for tensors in zip(*shifted, strict=True))
    seen = ((uv >= 0) & (uv <= 1)).all(-1)  # (B, L)
    for i in range(len(pictures)):
        if _chance(rng, 0.4):
            pictures[i] = blur(pictures[i])
        if _chance(rng, 0.3):
            seen[i] &= ~cover(pictures[i], uv[i], rng)
        if _chance(rng, 0.12):
            pictures[i], seen[i] = scramble(pictures[i], rng), False
    return pictures, uv, seen


def _chance(rng: torch.Generator, probability: float) -> bool:
    return torch.rand(1, generator=rng).item() < probability


def mirror(picture: Tensor, uv: Tensor, names: list[str]) -> tuple[Tensor, Tensor]:
    """The picture seen in a mirror, where left landmarks are right ones."""
    other = {"left": "right", "right": "left"}
    mirrored = ["_".join(other.get(word, word) for word in name.split("_")) for name in names]
    uv = uv[[names.index(name) for name in mirrored]] * torch.tensor([-1, 1]) + torch.tensor([1, 0])
    return picture.flip(-1), uv


def shift(picture: Tensor, uv: Tensor, rng: torch.Generator, max_pixels: int = 6) -> tuple[Tensor, Tensor]:
    """Move by up to `max_pixels` either way; the border is repeated."""
    x, y = torch.randint(-max_pixels, max_pixels + 1, (2,), generator=rng).tolist()
    padded = F.pad(picture.unsqueeze(0), (max_pixels,) * 4, mode="replicate")[0]
    top, left = max_pixels - y, max_pixels - x
    moved = padded[:, top : top + SIDE, left : left + SIDE]
    return moved, uv + torch.tensor([x, y]) / SIDE


def recolour(picture: Tensor, rng: torch.Generator) -> Tensor:
    """Another contrast, and another brightness of each channel."""
    contrast = 0.8 + 0.4 * torch.rand(1, generator=rng)
    brightness = 0.1 * (torch.rand(3, 1, 1, generator=rng) - 0.5)
    return ((picture - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)


def blur(picture: Tensor) -> Tensor:
    """A quarter of the pixels, enlarged again."""
    small = F.avg_pool2d(picture.unsqueeze(0), 2)
    return F.interpolate(small, scale_factor=2.0, mode="bilinear")[0]


def cover(picture: Tensor, uv: Tensor, rng: torch.Generator) -> Tensor:
    """Paint a rectangle on the picture, in place. Returns which landmarks lie under it, bool (L,)."""
    corner = torch.rand(2, generator=rng) * 0.8
    end = corner + 0.15 + 0.4 * torch.rand(2, generator=rng)
    left, top = (corner * SIDE).round().int().tolist()
    right, bottom = (end * SIDE).round().int().tolist()
    picture[:, top:bottom, left:right] = torch.rand(3, 1, 1, generator=rng)
    return ((uv > corner) & (uv < end)).all(-1)


def scramble(picture: Tensor, rng: torch.Generator) -> Tensor:
    """The same colours without a puppet: tiles or pixels in random order, or the mean colour everywhere."""
    side = (SIDE // 8, 1, SIDE)[int(torch.randint(3, (1,), generator=rng))]
    if side == SIDE:
        return picture.mean((1, 2), keepdim=True).expand_as(picture)
    parts = picture.unfold(1, side, side).unfold(2, side, side)  # (3, rows, columns, side, side)
    rows = parts.shape[1]
    parts = parts.flatten(1, 2)[:, torch.randperm(rows * rows, generator=rng)].unflatten(1, (rows, rows))
    return parts.permute(0, 1, 3, 2, 4).reshape(picture.shape)
