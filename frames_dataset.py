"""Clips on disk → samples for training, clips for evaluation, pairs for animation.

Another kind of dataset is a class with the methods of `ClipDataset` and a line in `build_dataset`.

Layout. `root_dir` holds clips: folders of frames, strip images, or videos (`media/clips.py` lists the
formats). They lie in `train/`, `test/` and perhaps `val/`, or directly in `root_dir`, which is then split
80/20 by seed. The identity of a clip is its name up to the first `#`.

Randomness. A training sample is a function of (random_seed, seed, epoch, repeat, index) and of the files,
never of which worker draws it or what was drawn before, so an epoch can go on from its middle.

Shapes: `T` frames, `H, W` size. Everything is RGB float32 in [0, 1].
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
import random
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from augmentation import AllAugmentationTransform
from media.clips import clip_stem, identity, open_clip
from media.listing import Names, list_clips
from media.pictures import Size, to_float
from media.tensors import to_tensor
from utils.errors import DatasetError, MediaError
from utils.files import read_csv

MAX_UNREADABLE = 0.1  # the part of the clips that may be unreadable before training stops
HELD_OUT = 0.05  # the part of the identities in train/ that validation takes where there is no val/


def read_video(name: str | Path, frame_shape: Sequence[int]) -> np.ndarray:
    """Read a whole clip as float32 (T, H, W, 3) in [0, 1]; cut strips into frames of `frame_shape`."""
    return to_float(np.stack(list(open_clip(name, as_shape(frame_shape)))))


LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601


def in_channels(planes: np.ndarray, channels: int) -> np.ndarray:
    """Make planes (..., 3, H, W) grey where a model takes one channel: (..., channels, H, W)."""
    return planes if channels == 3 else np.einsum("c,...chw->...hw", LUMA, planes)[..., None, :, :]


def as_shape(frame_shape: Sequence[int]) -> tuple[int, int, int]:
    """Convert a config's frame_shape, which is a list, to (height, width, channels)."""
    height, width, channels = frame_shape
    return height, width, channels


class LazyClip:
    """A clip whose frames, float32 tensors (3, H, W) in [0, 1], are decoded one by one in each loop over it.

    They are (1, H, W) for a `frame_shape` of one channel. `name` is the file name, `fps` the frames per
    second, `size` is (H, W).
    """

    def __init__(self, path: Path, frame_shape: Sequence[int]):
        self._clip, self._channels = open_clip(path, as_shape(frame_shape)), frame_shape[2]
        self.name, self.fps, self.size = path.name, self._clip.fps, self._clip.size

    def __len__(self) -> int:
        return len(self._clip)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return map(self._tensor, self._clip)

    def _tensor(self, frame: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(in_channels(to_tensor(frame).numpy(), self._channels))

    def first_frame(self) -> torch.Tensor:
        """Decode the first frame (3, H, W), and no other."""
        return self._tensor(self._clip.read([0])[0])


class ClipDataset(Protocol):
    """What training, validation, reconstruction and animation ask of any dataset."""

    @property
    def clips(self) -> Sequence[str]:
        """The names of the clips that `clip` reads, by number."""

    @property
    def split(self) -> str:
        """Which clips these are, for the record of a run: train, test, val or held out."""

    @property
    def pairs_list(self) -> str | Path | None:
        """A CSV file of pairs to animate, or None for random ones."""

    def __len__(self) -> int:
        """Return the number of training samples in a pass."""

    def draw(self, index: int, repeat: int = 0) -> dict[str, Any]:
        """Return sample `index` in pass number `repeat` of this epoch, a function of these numbers.

        It holds "source" and "driving", float32 (3, H, W) in [0, 1].
        """

    def set_epoch(self, epoch: int, seed: int = 0) -> None:
        """Choose the random numbers of the samples that follow, also in workers that run already."""

    def clip(self, index: int) -> LazyClip:
        """Return the clip `clips[index]`, to be decoded frame by frame."""


def build_dataset(config: dict, is_train: bool, validates: bool = False) -> FramesDataset:
    """Build the training or the test dataset of a config; for a run that `validates`, see `FramesDataset`."""
    return FramesDataset(is_train=is_train, **config["dataset_params"], validates=validates)


class FramesDataset(Dataset):
    """The training or the test clips of `root_dir`.

    For a run that `validates` the test clips are those of `val/`. Without that folder some of the training
    clips are held out for them, by identity. `split` says which: train, test, val or held out.

    Training samples are two frames of one clip, in order of time before augmentation: `{"source": float32 (3,
    H, W), "driving": float32 (3, H, W), "name": str}`. Test samples are whole clips, `{"video": float32 (3,
    T, H, W), "name": str}`. With `id_sampling`, training draws an identity, then one of its clips; the length
    is the number of identities, and a random split keeps each identity on one side.

    An unreadable clip is warned of once, and training draws another instead. `DatasetError` is raised when
    more than a tenth of the clips are unreadable, when the folders are not as described, and for frames that
    are not of `frame_shape`, unless the augmentation crops or resizes.
    """

    def __init__(
        self,
        root_dir: str | Path,
        frame_shape: Sequence[int] = (256, 256, 3),
        id_sampling: bool = False,
        is_train: bool = True,
        random_seed: int = 0,
        pairs_list: str | Path | None = None,
        augmentation_params: Mapping[str, Any] | None = None,
        validates: bool = False,
    ):
        self.root_dir, self.frame_shape = Path(root_dir), as_shape(frame_shape)
        self.id_sampling, self.is_train = id_sampling, is_train
        self.random_seed, self.pairs_list = random_seed, pairs_list
        self.transform = AllAugmentationTransform.from_config(augmentation_params)

        self.split = "train" if is_train else "test"
        holds_out = validates and not (self.root_dir / "val").is_dir()
        if validates and not is_train:
            self.split = "train" if holds_out else "val"
        self.folder, self.clips = find_clips(self.root_dir, self.split, id_sampling, random_seed)
        if holds_out:
            self.split = "train" if is_train else "held out"
            self.clips = hold_out(self.folder, self.clips, is_train, random_seed)

        # Clip `_clip_numbers[i]` can be drawn for entry n of `videos` if _starts[n] <= i < _starts[n + 1].
        # Workers hold these arrays, not objects: one that is only looked at would be copied into each.
        self.videos, self._clip_numbers = self.clips, np.arange(len(self.clips))
        self._starts = np.arange(len(self.clips) + 1)
        if is_train and id_sampling:
            groups = _group_by_identity(self.clips)
            self.videos = Names(groups)
            self._clip_numbers = np.fromiter(itertools.chain(*groups.values()), int, len(self.clips))
            self._starts = np.cumsum([0, *map(len, groups.values())])

        # (seed, epoch), where workers that outlive an epoch see them.
        self._stream = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._unreadable = torch.zeros(len(self.clips), dtype=torch.bool).share_memory_()

    def set_epoch(self, epoch: int, seed: int = 0) -> None:
        self._stream.copy_(torch.tensor([seed, epoch]))

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.is_train:
            return self.draw(index)
        clip = self.clip(index)
        return {"video": torch.stack(list(clip), dim=1).numpy(), "name": clip.name}  # (3, T, H, W)

    def clip(self, index: int) -> LazyClip:
        path = self.folder / self.clips[index]
        clip = LazyClip(path, self.frame_shape)
        self._check_clip_size(path, clip.size)
        return clip

    def draw(self, index: int, repeat: int = 0) -> dict[str, Any]:
        index = range(len(self))[index]
        # Another clip is drawn for as long as one can't be read.
        attempt = 0
        while True:
            rng = np.random.default_rng([self.random_seed, *self._stream.tolist(), index, repeat, attempt])
            # An identity where the config asks for them, one of its clips, two of its frames.
            entry = index if attempt == 0 else rng.integers(len(self))
            number = self._clip_numbers[rng.integers(self._starts[entry], self._starts[entry + 1])]
            path = self.folder / self.clips[number]
            try:
                clip = open_clip(path, self.frame_shape)
                self._check_clip_size(path, clip.size)
                # Two of its frames in order of time, perhaps one twice: uint8 (2, H, W, 3).
                frames = clip.read(sorted(rng.integers(len(clip), size=2).tolist()))
            except MediaError as error:
                self._note_unreadable(number, error)
                attempt += 1
                continue
            source, driving = self._augment(path, frames, rng)  # (3, H, W) each
            return {"source": source, "driving": driving, "name": path.name}

    def _augment(self, path: Path, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment frames: uint8 (2, H, W, 3) -> float32 (2, C, H, W) of the size in `frame_shape`."""
        planes = self.transform(frames, rng)
        height, width = self.frame_shape[:2]
        if planes.shape[2:] != (height, width):
            raise DatasetError(
                f"{path}: augmentation_params give frames of {planes.shape[2]}x{planes.shape[3]} (height x "
                f"width), frame_shape is {height}x{width}; set augmentation_params.crop_param.size to "
                f"[{height}, {width}]"
            )
        return np.ascontiguousarray(in_channels(planes, self.frame_shape[2]))

    def _check_clip_size(self, path: Path, size: Size) -> None:
        height, width = self.frame_shape[:2]
        if size != (height, width) and not self.transform.changes_size:
            raise DatasetError(
                f"{path}: its frames are {size[0]}x{size[1]} (height x width), frame_shape is "
                f"{height}x{width}; resize the clip, set frame_shape to [{size[0]}, {size[1]}, 3] if all "
                f"clips have this size, or set augmentation_params.crop_param.size to [{height}, {width}]"
            )

    def _note_unreadable(self, number: int, error: MediaError) -> None:
        """Warn of a clip once in all workers; raise `DatasetError` when there are too many."""
        if self._unreadable[number]:
            return
        self._unreadable[number] = True
        warnings.warn(
            f"{self.clips[number]} is unreadable, training draws another clip instead: {error}", stacklevel=2
        )
        count = int(self._unreadable.sum())
        if count > MAX_UNREADABLE * len(self.clips):
            raise DatasetError(
                f"{self.folder}: {count} of {len(self.clips)} clips can't be read, the last because: {error}"
            )


class DatasetRepeater(Dataset):
    """`num_repeats` passes over a dataset as one epoch, with other random numbers in each pass and epoch.

    As published it also repeats a plain sequence, which can't be trained on.
    """

    def __init__(self, dataset: ClipDataset | Sequence, num_repeats: int = 100):
        missing = [name for name in ("draw", "set_epoch") if not hasattr(dataset, name)]
        if missing and not isinstance(dataset, Sequence):
            raise TypeError(f"{type(dataset).__name__} has no {' and no '.join(missing)}: see ClipDataset")
        self.dataset, self.num_repeats = dataset, num_repeats

    def __len__(self) -> int:
        return self.num_repeats * len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.draw(range(len(self))[index])

    def draw(self, index: int, repeat: int = 0) -> Any:
        own, index = divmod(index, len(self.dataset))
        if isinstance(self.dataset, Sequence):
            return self.dataset[index]
        return self.dataset.draw(index, repeat * self.num_repeats + own)

    def set_epoch(self, epoch: int, seed: int = 0) -> None:
        if isinstance(self.dataset, Sequence):
            raise TypeError("a plain sequence has no epochs: see ClipDataset")
        self.dataset.set_epoch(epoch, seed)


# ---- Pairs for animation ----------------------------------------------------


class ClipPair(NamedTuple):
    """A driving clip and the clip whose first frame it animates."""

    driving: LazyClip
    source: LazyClip


class PairedDataset(Dataset):
    """At most `number_of_pairs` pairs of clips of a test dataset, from its `pairs_list` or drawn by `seed`.

    `pairs` holds the indices (driving, source). Samples are whole clips: `driving_video`, `driving_name`,
    `source_video`, `source_name`. Raises `DatasetError` for a list of which no pair is left.
    """

    def __init__(self, initial_dataset: ClipDataset, number_of_pairs: int, seed: int = 0):
        self.initial_dataset = initial_dataset
        if initial_dataset.pairs_list is None:
            self.pairs = _random_pairs(len(initial_dataset.clips), number_of_pairs, seed)
        else:
            self.pairs = listed_pairs(initial_dataset.pairs_list, initial_dataset.clips)[:number_of_pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample: dict[str, Any] = {}
        for role, clip in self.pair(index)._asdict().items():
            sample[f"{role}_video"] = torch.stack(list(clip), dim=1).numpy()  # (3, T, H, W)
            sample[f"{role}_name"] = clip.name
        return sample

    def names(self) -> list[tuple[str, str]]:
        """Return the file names (driving, source) of all pairs."""
        clips = self.initial_dataset.clips
        return [(clips[driving], clips[source]) for driving, source in self.pairs]

    def pair(self, index: int) -> ClipPair:
        return ClipPair(*(self.initial_dataset.clip(clip) for clip in self.pairs[index]))


def _random_pairs(clips: int, wanted: int, seed: int) -> list[tuple[int, int]]:
    """Draw `wanted` different pairs of the numbers below `clips`, or all if there are fewer."""
    numbers = random.Random(seed).sample(range(clips * clips), min(wanted, clips * clips))
    return [divmod(number, clips) for number in numbers]


def listed_pairs(pairs_list: str | Path, clips: Sequence[str]) -> list[tuple[int, int]]:
    """Read the pairs (driving, source) of a CSV file as indices into `clips`; suffixes may differ."""
    by_name = {name: index for index, name in enumerate(clips)}
    by_stem = {clip_stem(name): index for name, index in by_name.items()}
    rows = _read_pairs_list(pairs_list)
    index_of = {name: by_name.get(name, by_stem.get(clip_stem(name))) for row in rows for name in row}
    pairs = [(index_of[driving], index_of[source]) for driving, source in rows]
    known_pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
    unknown = sorted(name for name, index in index_of.items() if index is None)
    if unknown:
        text = f"{pairs_list}: {len(pairs) - len(known_pairs)} of {len(pairs)} pairs are left out, as "
        text += f"{len(unknown)} of their names are no test clips: {', '.join(unknown)}"
        if not known_pairs:
            raise DatasetError(text)
        warnings.warn(text, stacklevel=3)
    return known_pairs


def _read_pairs_list(path: str | Path) -> list[tuple[str, str]]:
    """Read the rows of a pairs list as (driving name, source name)."""
    table = read_csv(path, ("source", "driving"), DatasetError)
    rows = [(row["driving"], row["source"]) for _, row in table]
    if not rows:
        raise DatasetError(f"{path}: holds no pairs")
    return rows


# ---- Finding clips ----------------------------------------------------------


def find_clips(root: Path, split: str, by_identity: bool, seed: int) -> tuple[Path, Names]:
    """Return the folder and the sorted names of the clips under `root` of a split: train, test or val."""
    if not root.is_dir():
        raise DatasetError(
            f"{root}: no such folder; dataset_params.root_dir names the folder that holds the clips"
        )
    folder = root / split
    if folder.is_dir():
        return folder, list_clips(folder)
    for other in ("train", "test"):
        if (root / other).is_dir():
            raise DatasetError(
                f"{folder}: no such folder beside {other}/; add it, or put all clips directly in {root}"
            )
    return root, _random_split(root, split == "train", by_identity, seed)


def _random_split(root: Path, is_train: bool, by_identity: bool, seed: int) -> Names:
    """Take 80% of the clips of `root` for training, or the others; `by_identity` keeps identities whole."""
    names = list_clips(root)
    group = identity if by_identity else str
    groups = sorted({group(name) for name in names})
    if len(groups) < 2:
        kind = "identity" if by_identity else "clip"
        raise DatasetError(
            f"{root}: holds one {kind}, a random split needs two; add clips, or make train/ and test/"
        )
    test = set(random.Random(seed).sample(groups, max(1, round(0.2 * len(groups)))))
    return Names(name for name in names if (group(name) in test) != is_train)


def hold_out(folder: Path, names: Names, is_train: bool, seed: int) -> Names:
    """Take the training clips of `folder` without those of some identities, or these alone."""
    # Of a single identity another clip is the best there is.
    group = identity if len({identity(name) for name in names}) > 1 else str
    groups = {group(name) for name in names}
    if len(groups) < 2:
        raise DatasetError(
            f"{folder}: holds one clip, which can't be both trained on and validated on; make a folder val/ "
            "beside it, or leave train_params.eval_freq out"
        )
    # Each identity has its own draw, so that others can be added without moving it.
    count = max(1, round(HELD_OUT * len(groups)))
    held_out = set(
        heapq.nsmallest(count, groups, lambda name: hashlib.sha256(os.fsencode(f"{seed} {name}")).digest())
    )
    return Names(name for name in names if (group(name) in held_out) != is_train)


def _group_by_identity(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of the clips of each identity."""
    groups = defaultdict(list)
    for number, name in enumerate(names):
        groups[identity(name)].append(number)
    return groups
