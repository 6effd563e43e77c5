"""A folder of any videos becomes a dataset to train on, and a dataset is checked before a GPU is booked.

    python data/prepare.py my-videos data/mine --size 256
    python data/prepare.py --check data/mine --config config/mine-256.yaml

Every video, and every folder of frames, becomes a clip of one size in `train/` or `test/`. A sub-folder's name is the identity
of all that lies in it; elsewhere it is the file's name up to `#`. No identity is in both parts. A run that was stopped in
any way goes on when it is started again: finished clips are kept, nothing half-written stays.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.clips import (
    LEAST_FRAMES,
    SPLITS,
    Cut,
    Ledger,
    Outcome,
    Size,
    check_even,
    make_clips,
    print_summary,
    size_option,
    workers_option,
    write_clip,
)
from media.clips import VIDEO_SUFFIXES, natural_key, open_clip
from media.pictures import IMAGE_SUFFIXES, read_image_size
from modules.errors import DatasetError, MediaError, command_line
from progress import Progress
from workers import in_parallel

MOST_LINES = 20  # of one kind that the check prints
PUBLISHED_MULTIPLE = 128  # what the sides of frames must be multiples of in the 256-pixel configs
# In grey levels of 255.
FLAT, BLACK, STILL = 8, 16, 0.5


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Turn a folder of videos into a dataset, or check a dataset."
    )
    parser.add_argument(
        "inp", metavar="IN", type=Path, nargs="?", help="folder with videos or folders of frames"
    )
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="folder to write, or to go on with")
    parser.add_argument(
        "--size", type=size_option, default=(256, 256), help="side, or height,width, of the frames (256)"
    )
    parser.add_argument(
        "--fit", choices=("crop", "pad"), default="crop", help="cut what is too long, or surround with black"
    )
    parser.add_argument(
        "--format",
        choices=("png", "mp4"),
        default="png",
        help="folders of png are the fastest to train from, mp4 is smaller (default png)",
    )
    parser.add_argument(
        "--workers", type=workers_option, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    parser.add_argument(
        "--test_share",
        type=float,
        default=0.1,
        help="part of the identities that goes to test/ (default 0.1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default 0)")
    parser.add_argument(
        "--check", metavar="DIR", type=Path, help="write nothing, tell what is wrong with a dataset"
    )
    parser.add_argument("--config", type=Path, help="with --check: the config that will train on it")
    options = parser.parse_args(argv)
    if (options.check is None) == (options.out is None) or (options.check and options.inp):
        parser.error("give IN and OUT, or --check DIR")
    if options.config and not options.check:
        parser.error("--config goes with --check")
    if not 0 <= options.test_share < 1:
        parser.error(f"--test_share {options.test_share}: give a number from 0 to below 1")
    return options


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if options.check is None:
        prepare(options)
    elif not check(options.check, options.config, options.workers):
        sys.exit(1)


# ---- preparing ---------------------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> None:
    """Write the dataset. Raises `UserError` before anything is written if the options or the names can't be right."""
    check_even(options.size, f".{options.format}")
    sources = find_sources(options.inp, options.out)
    splits = choose_splits(sources, options)
    settings = {"size": list(options.size)} | {
        key: getattr(options, key) for key in ("fit", "format", "test_share", "seed")
    }
    ledger = Ledger(options.out, settings)

    suffix = ".mp4" if options.format == "mp4" else ""
    cuts = [
        Cut(path, options.out / splits[name] / f"{name}{suffix}", options.size, options.fit)
        for name, (path, _) in sources.items()
    ]
    todo = [cut for cut in cuts if not ledger.holds(ledger.name(cut.target))]
    if len(todo) < len(cuts):
        print(f"{len(cuts) - len(todo)} of {len(cuts)} clips are finished already", file=sys.stderr)
    failures = make_clips(write_one, todo, len(todo), ledger, options.workers)
    print_summary(ledger)
    for failure in failures:
        print(f"failed: {failure.error}")
    if len(failures) == len(cuts):
        raise DatasetError(
            f"{options.inp}: none of its {len(cuts)} clips can be prepared; the reasons are above"
        )


def write_one(cut: Cut) -> list[Outcome]:
    return [write_clip(cut)]


class Source(NamedTuple):
    """Where a clip comes from; `split` is train or test if it was in one already, else None."""

    path: Path
    split: str | None


def find_sources(root: Path, out: Path) -> dict[str, Source]:
    """The clips under `root` by the names they will have. Where it has train/ and test/, clips stay in them."""
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; IN is the folder that holds the videos")
    if out.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{out}: lies in {root}, whose videos it would join; name a folder elsewhere")
    is_dataset = all((root / split).is_dir() for split in SPLITS)
    sources: dict[str, Source] = {}
    for path in walk(root):
        parts = path.relative_to(root).parts
        split = parts[0] if is_dataset and parts[0] in SPLITS else None
        name = clip_name(parts[1:] if split else parts)
        if name in sources:
            raise DatasetError(
                f"{path}: would be called {name} like {sources[name].path}; rename one of them"
            )
        sources[name] = Source(path, split)
    if not sources:
        raise DatasetError(
            f"{root}: holds no videos ({' '.join(sorted(VIDEO_SUFFIXES))}) and no sub-folders of pictures"
        )
    return sources


def walk(root: Path) -> Iterator[Path]:
    """The videos under `root`, and the folders that hold pictures, a frame each, but no videos or folders."""
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        visible = sorted((name for name in files if not name.startswith(".")), key=natural_key)
        videos = [name for name in visible if is_video(name)]
        if not folders and not videos and Path(folder) != root and any(is_picture(name) for name in visible):
            yield Path(folder)
        yield from (Path(folder, name) for name in videos)


def is_video(name: str) -> bool:
    return name.lower().endswith(tuple(VIDEO_SUFFIXES))


def is_picture(name: str) -> bool:
    return name.lower().endswith(tuple(IMAGE_SUFFIXES))


def clip_name(parts: tuple[str, ...]) -> str:
    """The name of the clip at `parts` below the folder: identity#folders#file, without dots, which would pass for suffixes."""
    *folders, last = parts
    stem = Path(last).stem if is_video(last) else last
    if [stem.split("#")[0]] == folders:
        folders = []
    return "#".join([*folders, stem]).replace(".", "_")


def choose_splits(sources: dict[str, Source], options: argparse.Namespace) -> dict[str, str]:
    """Each clip's split. An identity that OUT holds already stays where it is; of the others the seed draws those of test/."""
    from frames_dataset import identity

    fixed = {identity(path.name): split for split in SPLITS for path in (options.out / split).glob("[!.]*")}
    for name, source in sources.items():
        if source.split:
            fixed[identity(name)] = source.split
    identities = sorted({identity(name) for name in sources})
    wanted = max(1, round(options.test_share * len(identities))) if options.test_share else 0
    if not fixed and wanted and len(identities) < 2:
        raise DatasetError(
            f"{options.inp}: shows one identity only, {identities[0]}; sort its videos into a sub-folder for "
            "each identity, or give --test_share 0"
        )
    drawn = sorted(identities, key=lambda name: random.Random(f"{options.seed} {name}").random())[:wanted]
    return {
        name: source.split or fixed.get(identity(name), "test" if identity(name) in drawn else "train")
        for name, source in sources.items()
    }


# ---- checking ----------------------------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """A line for the user: which file, what about it, what to do. What is `wrong` makes the check fail, the rest is a note."""

    kind: str
    text: str
    wrong: bool = True


class Look(NamedTuple):
    """What reading a whole clip showed; `fault` is empty, or a line with what is wrong and the remedy."""

    path: Path
    size: Size | None = None
    frames: int = 0
    fault: str = ""


def check(root: Path, config_path: Path | None, workers: int) -> bool:
    """Read a dataset as training would, print what is wrong and what is noteworthy; returns whether nothing is wrong."""
    from modules.build import read_config

    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; --check takes the folder that holds train/ and test/")
    config = read_config(config_path) if config_path else None
    findings, clips = list_clips(root, config)
    findings += check_names(root, clips, config)
    shape = config["dataset_params"].get("frame_shape") if config else None
    jobs = [(path, shape) for paths in clips.values() for path in paths]
    looks = []
    with (
        Progress(len(jobs), "clips", "clip") as progress,
        closing(in_parallel(look_at, jobs, workers)) as results,
    ):
        for look in results:
            looks.append(look)
            progress.advance(1)
    looks.sort(key=lambda look: look.path)
    findings += [Finding("clips", look.fault) for look in looks if look.fault]
    findings += check_sizes(looks, config, config_path)
    findings += check_config(config, config_path) if config else []
    return report(root, looks, findings)


def list_clips(root: Path, config: dict | None) -> tuple[list[Finding], dict[str, list[Path]]]:
    """The clips of each split, as training finds them, and what is wrong with the folders."""
    from frames_dataset import find_clips

    params = config["dataset_params"] if config else {}
    draw = params.get("id_sampling", False), params.get("random_seed", 0)
    findings, clips = [], {}
    for split in SPLITS:
        try:
            folder, names = find_clips(root, split == "train", *draw)
            clips[split] = [folder / name for name in names]
        except DatasetError as error:
            findings.append(Finding("folders", str(error)))
    if not findings and not (root / "train").is_dir():
        text = f"{root}: has no train/ and test/, so clips are drawn for testing; prepare it for a split by identity"
        findings.append(Finding("folders", text, wrong=False))
    return list(dict.fromkeys(findings)), clips


def check_names(root: Path, clips: dict[str, list[Path]], config: dict | None) -> list[Finding]:
    """Whether names tell clips and identities apart, and whether all that lies in the folders is a clip."""
    known = {path for paths in clips.values() for path in paths}
    findings = [
        finding
        for folder in sorted({path.parent for path in known})
        for finding in check_strangers(folder, known)
    ]
    findings += [finding for paths in clips.values() for finding in check_twins(paths)]
    if (root / "train").is_dir():
        findings += check_identities(clips)
    if config and config["dataset_params"].get("id_sampling"):
        findings += check_marks(clips.get("train", []))
    return findings


def check_strangers(folder: Path, known: set[Path]) -> Iterator[Finding]:
    """What lies beside the clips and isn't one."""
    ignored = Counter()
    for entry in sorted(folder.iterdir()):
        if entry in known:
            continue
        if entry.name.startswith("."):
            ignored["hidden"] += 1
        elif not entry.is_dir():
            ignored[entry.suffix or "without suffix"] += 1
        else:
            what = "videos" if any(is_video(path.name) for path in entry.iterdir()) else "no frames"
            text = f"{entry}: holds {what}, and sub-folders are not searched; "
            yield Finding("names", text + f"move its clips up as {entry.name}#number, or remove it")
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.items())
        text = f"{folder}: holds files that are no clips and are ignored ({kinds}); convert them if they should be clips"
        yield Finding("names", text, wrong=False)


def check_twins(paths: list[Path]) -> Iterator[Finding]:
    """Clips of one split whose results would have one name: `evaluate.py` matches names up to the first dot."""
    earlier: dict[str, Path] = {}
    for path in paths:
        twin = earlier.setdefault(path.name.split(".")[0], path)
        if twin is not path:
            text = f"{path}: has the same name up to the first dot as {twin.name}, so evaluation can't tell them apart; "
            yield Finding("names", text + "rename one")


def check_identities(clips: dict[str, list[Path]]) -> Iterator[Finding]:
    from frames_dataset import identity

    train, test = ({identity(path.name) for path in clips.get(split, [])} for split in SPLITS)
    for name in sorted(train & test):
        yield Finding(
            "identities",
            f"{name}: this identity (a name up to #) is in train/ and in test/, which makes tests look "
            "too good; move its clips into one of them",
        )


def check_marks(paths: list[Path]) -> Iterator[Finding]:
    from frames_dataset import clip_stem

    unmarked = [path for path in paths if "#" not in clip_stem(path.name)]
    if unmarked:
        text = f"{unmarked[0]}: has no # in its name ({len(unmarked)} of {len(paths)} clips have none), so that id_sampling "
        yield Finding(
            "identities", text + "takes it for an identity of its own; name it identity#number", wrong=False
        )


def look_at(job: tuple[Path, tuple[int, int, int] | None]) -> Look:
    """Read every frame of a clip; strips are cut into frames of the shape given, or into squares."""
    path, shape = job
    frames, brightest, contrast, movement, first = 0, 0, 0, 0.0, None
    try:
        clip = open_clip(path, shape or square(path))
        for frame in clip:
            small = frame[::4, ::4].astype(np.int16)  # (H/4, W/4, 3)
            first = small if first is None else first
            frames += 1
            brightest, contrast = max(brightest, small.max()), max(contrast, np.ptp(small, axis=(0, 1)).max())
            movement = max(movement, np.abs(small - first).mean())
    except MediaError as error:
        return Look(path, fault=str(error))
    what = ""
    if frames < LEAST_FRAMES:
        what = f"has {frames} frame, training needs {LEAST_FRAMES}"
    elif contrast <= FLAT:
        what = "is black" if brightest <= BLACK else "is of one flat colour in each frame"
    elif movement < STILL:
        what = "is a still picture: nothing moves"
    return Look(path, clip.size, frames, f"{path}: {what}; remove it" if what else "")


def square(path: Path) -> tuple[int, int, int] | None:
    """The shape of the frames of a strip that is a row of squares; None for clips of other kinds."""
    if path.is_dir() or not is_picture(path.name):
        return None
    height, _ = read_image_size(path)
    return height, height, 3


def check_sizes(looks: list[Look], config: dict | None, config_path: Path | None) -> Iterator[Finding]:
    """Hold the frames' sizes against the config, or without one against each other."""
    sizes = Counter(look.size for look in looks if look.size)
    wanted = wanted_size(config) if config else max(sizes, key=sizes.get, default=None)
    if wanted is None:
        return
    whose = f"the frame_shape of {config_path} is" if config else "most clips have"
    for look in looks:
        if look.size not in (None, wanted):
            text = f"{look.path}: its frames are {by(look.size)} (height x width), {whose} {by(wanted)}; "
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


def wanted_size(config: dict) -> Size | None:
    """The size that training with a config needs, or None where its augmentation crops or resizes."""
    from augmentation import AllAugmentationTransform
    from modules.build import frame_shape

    changes = AllAugmentationTransform.from_config(
        config["dataset_params"].get("augmentation_params")
    ).changes_size
    return None if changes else frame_shape(config)[:2]


def check_config(config: dict, config_path: Path) -> Iterator[Finding]:
    """Whether the networks of a config take its frame_shape."""
    import torch

    from modules.build import build_generator, build_kp_detector, frame_shape

    with torch.device("meta"):  # without memory for weights
        multiple = math.lcm(*(build(config).size_multiple for build in (build_generator, build_kp_detector)))
    size = frame_shape(config)[:2]
    if any(side % multiple for side in size):
        text = f"{config_path}: frame_shape is {by(size)}, its networks need multiples of {multiple}; "
        yield Finding("config", text + "change it, and prepare the clips with that --size")


def report(root: Path, looks: list[Look], findings: list[Finding]) -> bool:
    """Print at most `MOST_LINES` findings of a kind and a last line; returns whether nothing is wrong."""
    for wrong in (True, False):
        kinds = defaultdict(list)
        for finding in findings:
            if finding.wrong == wrong:
                kinds[finding.kind].append(finding.text)
        label = "wrong" if wrong else "note"
        for kind, texts in kinds.items():
            print("".join(f"{label}: {text}\n" for text in texts[:MOST_LINES]), end="")
            if len(texts) > MOST_LINES:
                print(f"{label}: and {len(texts) - MOST_LINES} more like these ({kind})")
    faults = sum(finding.wrong for finding in findings)
    frames = sum(look.frames for look in looks)
    print(f"{root}: {len(looks)} clips, {frames} frames, {faults or 'nothing'} wrong")
    return not faults


if __name__ == "__main__":
    main()
