"""Read a dataset as training would, before a GPU is booked: `python data/prepare.py --check`."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch

from augmentation import AllAugmentationTransform
from data.cutting import SPLITS, Inspected, inspect_clip
from frames_dataset import find_clips, listed_pairs
from media.clips import VIDEO_SUFFIXES, clip_stem, has_suffix, identity
from media.pictures import Size
from modules.build import build_generator, build_kp_detector, frame_shape, read_config
from utils.errors import DatasetError
from utils.program import say
from utils.progress import Progress
from utils.workers import in_parallel

MAX_LINES = 20  # of one kind that the check prints
PUBLISHED_MULTIPLE = 128  # what the sides of frames must be multiples of in the 256-pixel configs

Config = dict[str, Any]  # what `modules.build.read_config` returns


class Finding(NamedTuple):
    """A line for the user: the file, the fault, the remedy. What is not `wrong` is a note."""

    kind: str
    text: str
    wrong: bool = True


def check(root: Path, config_path: Path | None, workers: int) -> bool:
    """Read a dataset as training would, print what is wrong or noteworthy, and return whether it is fine.

    Raises `DatasetError` without a folder, `ConfigError` for the config.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; --check takes the folder that holds train/ and test/")
    config = read_config(config_path) if config_path else None
    # Names first: they need no decoding.
    findings, clips = list_clips(root, config)
    findings += check_clip_names(root, clips, config)
    # Then every frame of every clip, which takes long.
    inspected = inspect_clips(clips, config, workers)
    findings += [Finding("clips", clip.fault) for clip in inspected if clip.fault]
    # Then what they are together, and for the config.
    findings += check_sizes(inspected, config, config_path)
    if config and config_path:
        findings += check_config(config, config_path)
        findings += check_pairs(config, config_path, clips.get("test", []))
    return print_findings(root, inspected, findings)


def list_clips(root: Path, config: Config | None) -> tuple[list[Finding], dict[str, list[Path]]]:
    """Find the clips of each split as training does; faults of the folders come first."""
    params = config["dataset_params"] if config else {}
    draw = params.get("id_sampling", False), params.get("random_seed", 0)
    findings: list[Finding] = []
    clips: dict[str, list[Path]] = {}
    for split in SPLITS:
        if split == "val" and not (root / split).is_dir():
            continue
        try:
            folder, names = find_clips(root, split, *draw)
            clips[split] = [folder / name for name in names]
        except DatasetError as error:
            findings.append(Finding("folders", str(error)))
    if not findings and not (root / "train").is_dir():
        text = f"{root}: has no train/ and test/, so clips are drawn for testing; "
        findings.append(Finding("folders", text + "prepare it for a split by identity", wrong=False))
    return list(dict.fromkeys(findings)), clips


def inspect_clips(clips: dict[str, list[Path]], config: Config | None, workers: int) -> list[Inspected]:
    """Read all frames of all clips; the results are sorted by path."""
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
    return sorted(inspected, key=lambda clip: clip.path)


# ---- Names ------------------------------------------------------------------


def check_clip_names(root: Path, clips: dict[str, list[Path]], config: Config | None) -> list[Finding]:
    """Check that names tell clips and identities apart, and that all in the folders are clips."""
    findings: list[Finding] = []
    known = {path for paths in clips.values() for path in paths}
    for folder in sorted({path.parent for path in known}):
        findings += check_other_files(folder, known)
    for paths in clips.values():
        findings += check_same_names(paths)
    if (root / "train").is_dir():
        findings += check_identities(clips)
    if config and config["dataset_params"].get("id_sampling"):
        findings += check_identity_marks(clips.get("train", []))
    return findings


def check_other_files(folder: Path, known: set[Path]) -> Iterator[Finding]:
    """Name what lies beside the clips and isn't one."""
    ignored: Counter[str] = Counter()
    for entry in sorted(folder.iterdir()):
        if entry in known:
            continue
        if entry.name.startswith("."):
            ignored["hidden"] += 1
        elif not entry.is_dir():
            ignored[entry.suffix or "without suffix"] += 1
        else:  # clips one level too deep, or an empty folder
            has_videos = any(has_suffix(path.name, VIDEO_SUFFIXES) for path in entry.iterdir())
            holds = "videos" if has_videos else "no frames"
            text = f"{entry}: holds {holds}, and sub-folders are not searched; "
            yield Finding("names", text + f"move its clips up as {entry.name}#number, or remove it")
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.items())
        text = f"{folder}: holds files that are no clips and are ignored ({kinds}); "
        yield Finding("names", text + "convert them if they should be clips", wrong=False)


def check_same_names(paths: list[Path]) -> Iterator[Finding]:
    """Name clips of one split whose results would share a name: evaluation reads up to the first dot."""
    earlier: dict[str, Path] = {}
    for path in paths:
        twin = earlier.setdefault(path.name.split(".")[0], path)
        if twin is not path:
            text = f"{path}: has the same name up to the first dot as {twin.name}, so evaluation can't tell "
            yield Finding("names", text + "them apart; rename one")


def check_identities(clips: dict[str, list[Path]]) -> Iterator[Finding]:
    """Name identities that are in two splits."""
    members = {split: {identity(path.name) for path in paths} for split, paths in clips.items()}
    for a, b in itertools.combinations(members, 2):
        for name in sorted(members[a] & members[b]):
            text = f"{name}: this identity (a name up to #) is in {a}/ and in {b}/, which makes results look "
            yield Finding("identities", text + "too good; move its clips into one of them")


def check_identity_marks(paths: list[Path]) -> Iterator[Finding]:
    """Count the clips whose names have no # and so tell no identity."""
    unmarked = [path for path in paths if "#" not in clip_stem(path.name)]
    if unmarked:
        text = (
            f"{unmarked[0]}: has no # in its name ({len(unmarked)} of {len(paths)} clips have none), so that "
            "id_sampling takes it for an identity of its own; name it identity#number"
        )
        yield Finding("identities", text, wrong=False)


# ---- Sizes and the config ----------------------------------------------------


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
        yield Finding("sizes", text + "give your config with --config to see if they fit it", wrong=False)
    if wanted[0] != wanted[1]:
        text = f"frames of {by(wanted)} (height x width) are not square, those of the published configs are; "
        yield Finding(
            "sizes", text + "prepare them again with one number as --size if that was not meant", wrong=False
        )


def by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def wanted_size(config: Config) -> Size | None:
    """Return the size that a config needs, or None where its augmentation crops or resizes."""
    augmentation = AllAugmentationTransform.from_config(config["dataset_params"].get("augmentation_params"))
    return None if augmentation.changes_size else frame_shape(config)[:2]


def check_config(config: Config, config_path: Path) -> Iterator[Finding]:
    """Check that the networks of a config take its frame_shape."""
    with torch.device("meta"):  # without memory for weights
        multiple = math.lcm(*(build(config).size_multiple for build in (build_generator, build_kp_detector)))
    size = frame_shape(config)[:2]
    if any(side % multiple for side in size):
        text = f"{config_path}: frame_shape is {by(size)}, its networks need multiples of {multiple}; "
        yield Finding("config", text + "change it, and prepare the clips with that --size")


def check_pairs(config: Config, config_path: Path, clips: list[Path]) -> Iterator[Finding]:
    """Check that a config's pairs list names these test clips; it is easily copied along with a config."""
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


# ---- The report --------------------------------------------------------------


def print_findings(root: Path, inspected: list[Inspected], findings: list[Finding]) -> bool:
    """Print at most `MAX_LINES` findings of a kind and a last line; return whether nothing is wrong."""
    for wrong, label in ((True, "wrong"), (False, "note")):
        kinds: defaultdict[str, list[str]] = defaultdict(list)
        for finding in findings:
            if finding.wrong == wrong:
                kinds[finding.kind].append(finding.text)
        for kind, texts in kinds.items():
            for text in texts[:MAX_LINES]:
                say(f"{label}: {text}")
            if len(texts) > MAX_LINES:
                print(f"{label}: and {len(texts) - MAX_LINES} more like these ({kind})")
    faults = sum(finding.wrong for finding in findings)
    frames = sum(clip.frames for clip in inspected)
    say(f"{root}: {len(inspected)} clips, {frames} frames, {faults or 'nothing'} wrong")
    return not faults
