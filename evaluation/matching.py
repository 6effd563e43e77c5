"""Match generated clips with the real ones, and check that they can be compared.

Shapes: `T` frames, `B` frames of a batch, `H, W` size. Frames are RGB uint8.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from media.clips import has_suffix, is_clip, open_clip
from media.pictures import IMAGE_SUFFIXES, read_image_size
from utils.errors import DatasetError
from utils.files import portable_name

MAX_NAMES = 5  # in a message


@dataclass(frozen=True)
class EvaluatedClip:
    """A clip on disk with the length and the frame size that were found there.

    `fingerprint` is a short text that changes with the clip: with the size or the modification time of any of
    its files, and with the frame size into which a strip is cut.
    """

    path: Path
    length: int
    size: tuple[int, int]  # (H, W)
    fingerprint: str

    def batches(self, max_frames: int) -> Iterator[np.ndarray]:
        """Yield all frames in order, at most `max_frames` at a time: uint8 (B, H, W, 3)."""
        frames = iter(open_clip(self.path, (*self.size, 3)))
        while batch := list(itertools.islice(frames, max_frames)):
            yield np.stack(batch)  # (B, H, W, 3)


@dataclass(frozen=True)
class Match:
    """A generated clip and the real one of the same name, length and frame size."""

    name: str
    generated: EvaluatedClip
    real: EvaluatedClip


def find_matches(generated: Path, real: Path, frame_size: tuple[int, int] | None = None) -> list[Match]:
    """Match the clips of two folders by their names up to the first dot, in the order of these names.

    `frame_size` (H, W) is needed if the real clips are strips of frames that are not square. Raises
    `DatasetError` for a clip without its counterpart, for two clips of one name, and for clips that differ in
    length or frame size.
    """
    names = {folder: clips_by_name(folder) for folder in {generated, real}}
    _check_counterparts(generated, real, names)
    pairs = []
    for name, path in names[generated].items():
        real_clip = _inspect(names[real][name], frame_size)
        pair = Match(name, _inspect(path, real_clip.size), real_clip)
        _check_shapes(pair)
        pairs.append(pair)
    return pairs


def clips_by_name(folder: Path) -> dict[str, Path]:
    """Return the clips of a folder by their names up to the first dot, sorted. Raises `DatasetError`."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; --generated and --real name folders of clips")
    clips: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not is_clip(path):
            continue
        name = portable_name(path.name.split(".")[0])  # as the results of a model are named
        if name in clips:
            raise DatasetError(
                f"{folder}: {clips[name].name} and {path.name} both count as '{name}', because names match "
                "up to the first dot; rename or remove one"
            )
        clips[name] = path
    if not clips:
        raise DatasetError(f"{folder}: holds no clips; looked for folders of pictures, strips and videos")
    return clips


def _check_counterparts(generated: Path, real: Path, names: dict[Path, dict[str, Path]]) -> None:
    # Generated clips without a real one: perhaps the folder above was given.
    without_real = [name for name in names[generated] if name not in names[real]]
    if without_real:
        remedy = "remove them, or add the clips they were made from"
        if (generated / "png").is_dir():  # this is the folder above the one with the predictions
            remedy = f"give --generated {generated / 'png'}"
        raise DatasetError(f"{generated}: {_shorten(without_real)} without a real clip in {real}; {remedy}")
    # Real clips that were not generated would make the figures those of a part.
    missing = [name for name in names[real] if name not in names[generated]]
    if missing:
        raise DatasetError(
            f"{generated}: lacks {_shorten(missing)} of {real}; generate them too "
            "(reconstruction_params.num_videos says how many), or give --real a folder without them"
        )


def _shorten(names: list[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _check_shapes(pair: Match) -> None:
    generated, real = pair.generated, pair.real
    if generated.size != real.size:
        raise DatasetError(
            f"{generated.path}: its frames are {generated.size[0]}x{generated.size[1]} (height x width), "
            f"those of {real.path} {real.size[0]}x{real.size[1]}; resize one of them"
        )
    if generated.length != real.length:
        raise DatasetError(
            f"{generated.path}: has {generated.length} frames and {real.path} has {real.length}; generate "
            "the clip again from this one"
        )


# ---- Looking at a clip -------------------------------------------------------


def _inspect(path: Path, frame_size: tuple[int, int] | None) -> EvaluatedClip:
    fingerprint = _fingerprint(path)
    if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
        length, *size = _strip_shape(path, frame_size)
        fingerprint += f" {frame_size}"
    else:
        clip = open_clip(path)
        length, *size = len(clip), *clip.size
    return EvaluatedClip(path, length, (size[0], size[1]), fingerprint)


def _strip_shape(path: Path, frame_size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Read (T, H, W) from a strip's header. Frames are square unless `frame_size` (H, W) says otherwise."""
    strip_height, strip_width = read_image_size(path)
    height, width = frame_size or (strip_height, strip_height)
    if strip_height != height or strip_width % width:
        raise DatasetError(
            f"{path}: is {strip_height}x{strip_width} (height x width), which is not a row of frames of "
            f"{height}x{width}, the size of the real clip's frames or else --frame_size; generate it again "
            "in that size"
        )
    return strip_width // width, height, width


def _fingerprint(path: Path) -> str:
    """Return size and modification time of a file, or a digest of those of every frame in a folder."""
    if not path.is_dir():
        status = path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    frames = [entry for entry in os.scandir(path) if has_suffix(entry.name, IMAGE_SUFFIXES)]
    files = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in frames)
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:32]
