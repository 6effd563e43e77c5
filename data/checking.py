"""Reads a dataset as training would, before a GPU is booked: `python data/prepare.py --check`.

Workers import this file, so what imports PyTorch, which takes seconds, is imported where it is used.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.clips import MIN_FRAMES, SPLITS
from media.clips import VIDEO_SUFFIXES, clip_stem, has_suffix, identity, open_clip
from media.pictures import IMAGE_SUFFIXES, Size, read_image_size
from utils.errors import DatasetError, MediaError
from utils.progress import Progress
from utils.workers import in_parallel

MAX_LINES = 20  # of one kind that the check prints
PUBLISHED_MULTIPLE = 128  # what the sides of frames must be multiples of in the 256-pixel configs
# In grey levels of 255.
FLAT, BLACK, STILL = 8, 16, 0.5

Config = dict[str, Any]  # what `modules.build.read_config` returns


class Finding(NamedTuple):
    """A line for the user: which file, what about it, what to do.

    What is `wrong` makes the check fail, the rest is a note.
    """

    kind: str
    text: str
    wrong: bool = True


class Inspected(NamedTuple):
    """What reading a whole clip showed; `fault` is empty, or a line with what is wrong and the remedy."""

    path: Path
    size: Size | None = None
    frames: int = 0
    fault: str = ""


def check(root: Path, config_path: Path | None, workers: int) -> bool:
    """Read a dataset as training would and print what is wrong or noteworthy.

    Returns whether nothing is wrong. Raises `DatasetError` without a folder, `ConfigError` for the config.
    """
    from modules.build import read_config  # imports PyTorch

    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; --check takes the folder that holds train/ and test/")
    config = read_config(config_path) if config_path else None
    findings, clips = list_clips(root, config)
    findings += check_names(root, clips, config)
    shape = config["dataset_params"].get("frame_shape") if config else None
    jobs = [(path, shape) for paths in clips.values() for path in paths]
    inspected: list[Inspected] = []
    with (
        Progress(len(jobs), "clips", "clip") as progress,
        closing(in_parallel(inspect_clip, jobs, workers)) as results,
    ):
        for clip in results:
            inspected.append(clip)
            progress.advance(1)
    inspected.sort(key=lambda clip: clip.path)
    findings += [Finding("clips", clip.fault) for clip in inspected if clip.fault]
    findings += check_sizes(inspected, config, config_path)
    if config and config_path:
        findings += check_config(config, config_path)
        findings += check_pairs(config, config_path, clips.get("test", []))
    return report(root, inspected, findings)


def list_clips(root: Path, config: Config | None) -> tuple[list[Finding], dict[str, list[Path]]]:
    """The clips of each split, as training finds them, and what is wrong with the folders."""
    from frames_dataset import find_clips  # imports PyTorch

    params = config["dataset_params"] if config else {}
    draw = params.get("id_sampling", False), params.get("random_seed", 0)
    findings: list[Finding] = []
    clips: dict[str, list[Path]] = {}
    for split in SPLITS:
        try:
            folder, names = find_clips(root, split == "train", *draw)
            clips[split] = [folder / name for name in names]
        except DatasetError as error:
            findings.append(Finding("folders", str(error)))
    if not findings and not (root / "train").is_dir():
        text = f"{root}: has no train/ and test/, so clips are drawn for testing; "
        findings.append(Finding("folders", text + "prepare it for a split by identity", wrong=False))
    return list(dict.fromkeys(findings)), clips


def check_names(root: Path, clips: dict[str, list[Path]], config: Config | None) -> list[Finding]:
    """Whether names tell clips and identities apart, and whether all that lies in the folders is a clip."""
    known = {path for paths in clips.values() for path in paths}
    findings = [
        finding
        for folder in sorted({path.parent for path in known})
        for finding in check_other_files(folder, known)
    ]
    findings += [finding for paths in clips.values() for finding in check_same_names(paths)]
    if (root / "train").is_dir():
        findings += check_identities(clips)
    if config and config["dataset_params"].get("id_sampling"):
        findings += check_identity_marks(clips.get("train", []))
    return findings


def check_other_files(folder: Path, known: set[Path]) -> Iterator[Finding]:
    """What lies beside the clips and isn't one."""
    ignored: Counter[str] = Counter()
    for entry in sorted(folder.iterdir()):
        if entry in known:
            continue
        if entry.name.startswith("."):
            ignored["hidden"] += 1
        elif not entry.is_dir():
            ignored[entry.suffix or "without suffix"] += 1
        else:
            has_videos = any(has_suffix(path.name, VIDEO_SUFFIXES) for path in entry.iterdir())
            what = "videos" if has_videos else "no frames"
            text = f"{entry}: holds {what}, and sub-folders are not searched; "
            yield Finding("names", text + f"move its clips up as {entry.name}#number, or remove it")
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.items())
        text = f"{folder}: holds files that are no clips and are ignored ({kinds}); "
        yield Finding("names", text + "convert them if they should be clips", wrong=False)


def check_same_names(paths: list[Path]) -> Iterator[Finding]:
    """Clips of one split whose results would share a name: evaluation matches names up to the first dot."""
    earlier: dict[str, Path] = {}
    for path in paths:
        twin = earlier.setdefault(path.name.split(".")[0], path)
        if twin is not path:
            text = f"{path}: has the same name up to the first dot as {twin.name}, so evaluation can't tell "
            yield Finding("names", text + "them apart; rename one")


def check_identities(clips: dict[str, list[Path]]) -> Iterator[Finding]:
    """Identities that are in both splits."""
    train, test = ({identity(path.name) for path in clips.get(split, [])} for split in SPLITS)
    for name in sorted(train & test):
        yield Finding(
            "identities",
            f"{name}: this identity (a name up to #) is in train/ and in test/, which makes tests look "
            "too good; move its clips into one of them",
        )


def check_identity_marks(paths: list[Path]) -> Iterator[Finding]:
    """Clips whose names have no # and so tell no identity."""
    unmarked = [path for path in paths if "#" not in clip_stem(path.name)]
    if unmarked:
        text = (
            f"{unmarked[0]}: has no # in its name ({len(unmarked)} of {len(paths)} clips have none), so that "
        )
        text += "id_sampling takes it for an identity of its own; name it identity#number"
        yield Finding("identities", text, wrong=False)


def inspect_clip(job: tuple[Path, tuple[int, int, int] | None]) -> Inspected:
    """Read every frame of a clip; strips are cut into frames of the shape given, or into squares."""
    path, shape = job
    frames, brightest, contrast, movement = 0, 0, 0, 0.0
    first: np.ndarray | None = None
    try:
        clip = open_clip(path, shape or square(path))
        for frame in clip:
            small = frame[::4, ::4].astype(np.int16)  # (H/4, W/4, 3)
            first = small if first is None else first
            frames += 1
            brightest, contrast = (
                max(brightest, int(small.max())),
                max(contrast, int(np.ptp(small, axis=(0, 1)).max())),
            )
            movement = max(movement, float(np.abs(small - first).mean()))
    except MediaError as error:
        return Inspected(path, fault=str(error))
    what = ""
    if frames < MIN_FRAMES:
        what = f"has {frames} frame, training needs {MIN_FRAMES}"
    elif contrast <= FLAT:
        what = "is black" if brightest <= BLACK else "is of one flat colour in each frame"
    elif movement < STILL:
        what = "is a still picture: nothing moves"
    return Inspected(path, clip.size, frames, f"{path}: {what}; remove it" if what else "")


def square(path: Path) -> tuple[int, int, int] | None:
    """The shape of the frames of a strip that is a row of squares; None for clips of other kinds."""
    if path.is_dir() or not has_suffix(path.name, IMAGE_SUFFIXES):
        return None
    height, _ = read_image_size(path)
    return height, height, 3


def check_sizes(
    inspected: list[Inspected], config: Config | None, config_path: Path | None
) -> Iterator[Finding]:
    """Hold the frames' sizes against the config, or without one against each other."""
    sizes = Counter(clip.size for clip in inspected if clip.size)
    most_common = next((size for size, _ in sizes.most_common(1)), None)
    wanted = wanted_size(config) if config else most_common
    if wanted is None:
        return
    whose = f"the frame_shape of {config_path} is" if config else "most clips have"
    for clip in inspected:
        if clip.size is not None and clip.size != wanted:
            text = f"{clip.path}: its frames are {by(clip.size)} (height x width), {whose} {by(wanted)}; "
            yield Finding("sizes", text + f"prepare it again with --size {wanted[0]},{wanted[1]}")
    if not config and any(side % PUBLISHED_MULTIPLE for side in wanted):
        text = f"frames of {by(wanted)}: the published configs need multiples of {PUBLISHED_MULTIPLE}; "
        yield Finding(
            "sizes", text + "give your config with --config to see whether they fit it", wrong=False
        )
    if wanted[0] != wanted[1]:
        text = f"frames of {by(wanted)} (height x width) are not square, those of the published configs are; "
        yield Finding(
            "sizes", text + "prepare them again with one number as --size if that was not meant", wrong=False
        )


def by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def wanted_size(config: Config) -> Size | None:
    """The size that training with a config needs, or None where its augmentation crops or resizes."""
    from augmentation import AllAugmentationTransform  # imports PyTorch
    from modules.build import frame_shape

    changes = AllAugmentationTransform.from_config(
        config["dataset_params"].get("augmentation_params")
    ).changes_size
    return None if changes else frame_shape(config)[:2]


def check_config(config: Config, config_path: Path) -> Iterator[Finding]:
    """Whether the networks of a config take its frame_shape."""
    import torch  # takes seconds

    from modules.build import build_generator, build_kp_detector, frame_shape

    with torch.device("meta"):  # without memory for weights
        multiple = math.lcm(*(build(config).size_multiple for build in (build_generator, build_kp_detector)))
    size = frame_shape(config)[:2]
    if any(side % multiple for side in size):
        text = f"{config_path}: frame_shape is {by(size)}, its networks need multiples of {multiple}; "
        yield Finding("config", text + "change it, and prepare the clips with that --size")


def check_pairs(config: Config, config_path: Path, clips: list[Path]) -> Iterator[Finding]:
    """Whether the pairs list of a config names these test clips; it is easily copied along with a config."""
    from frames_dataset import listed_pairs  # imports PyTorch

    pairs_list = config["dataset_params"].get("pairs_list")
    if pairs_list is None:
        return
    remedy = f"; remove pairs_list from {config_path} for random pairs, or name a list of your own"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            listed_pairs(pairs_list, [path.name for path in clips])
        except DatasetError as error:
            yield Finding("pairs", f"{error}{remedy}")
    for warning in caught:
        yield Finding("pairs", f"{warning.message}{remedy}")


def report(root: Path, inspected: list[Inspected], findings: list[Finding]) -> bool:
    """Print at most `MAX_LINES` findings of a kind and a last line; returns whether nothing is wrong."""
    for wrong in (True, False):
        kinds: defaultdict[str, list[str]] = defaultdict(list)
        for finding in findings:
            if finding.wrong == wrong:
                kinds[finding.kind].append(finding.text)
        label = "wrong" if wrong else "note"
        for kind, texts in kinds.items():
            print("".join(f"{label}: {text}\n" for text in texts[:MAX_LINES]), end="")
            if len(texts) > MAX_LINES:
                print(f"{label}: and {len(texts) - MAX_LINES} more like these ({kind})")
    faults = sum(finding.wrong for finding in findings)
    frames = sum(clip.frames for clip in inspected)
    print(f"{root}: {len(inspected)} clips, {frames} frames, {faults or 'nothing'} wrong")
    return not faults
