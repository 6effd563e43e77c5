"""Turn a folder of any videos into a dataset, and check a dataset before a GPU is booked.

    python data/prepare.py my-videos data/mine --size 256
    python data/prepare.py --check data/mine --config config/mine-256.yaml
    python data/prepare.py --index data/mine

Every video, and every folder of frames, becomes a clip of one size in `train/`, `val/` or `test/`. A
sub-folder's name is the identity of all that lies in it; elsewhere it is the file's name up to `#`. No
identity is in two parts. A run that was stopped in any way goes on when it is started again: finished clips
are kept, nothing half-written stays.
"""

from __future__ import annotations

import os
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT, PATHS = str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")
if __name__ == "__main__" and not __package__ and ROOT not in PATHS.split(os.pathsep):
    # Python looks for imports beside the script that it is given; ours lie in the repository root.
    paths = os.pathsep.join(filter(None, [ROOT, PATHS]))
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONPATH": paths})

from data import cutting
from media.clips import VIDEO_SUFFIXES, has_suffix, identity, natural_key
from media.listing import write_index
from media.pictures import IMAGE_SUFFIXES, Size
from utils.errors import DatasetError
from utils.files import portable_name, same_name
from utils.options import MAX_SEED, OptionParser, add_options, option, typed
from utils.program import command_line, say


@dataclass(frozen=True)
class PrepareOptions:
    """The command line: a dataset to make of `inp`, or one to `check` or `index`."""

    inp: Path = option(
        None, "folder with videos or folders of frames", positional=True, nargs="?", metavar="IN"
    )
    out: Path = option(None, "folder to write, or to go on with", positional=True, nargs="?", metavar="OUT")
    size: Size = option((256, 256), "side, or height,width (default 256)", type=cutting.size_option)
    fit: str = option("crop", "cut what is too long, or surround with black", choices=("crop", "pad"))
    format: str = option("png", "png trains fastest, mp4 is smaller (png)", choices=("png", "mp4"))
    workers: int = option(os.cpu_count() or 1, "processes (default: one a core)", bounds=cutting.WORKERS)
    test_share: float = option(0.1, "of the identities, that goes to test/ (default 0.1)", bounds=(0, 0.99))
    val_share: float = option(0, "of the identities, that goes to val/ (default 0)", bounds=(0, 0.99))
    seed: int = option(0, "of the split (default 0)", bounds=(0, MAX_SEED))
    check: Path | None = option(None, "write nothing, tell what is wrong with a dataset", metavar="DIR")
    index: Path | None = option(None, "list the clips of a dataset in index files", metavar="DIR")
    config: Path | None = option(None, "with --check: the config that will train on it")


def parse(argv: list[str] | None) -> PrepareOptions:
    parser = OptionParser("Turn a folder of videos into a dataset, or check a dataset.")
    add_options(parser, PrepareOptions)
    options = typed(PrepareOptions, parser.parse_args(argv))
    if sum(path is not None for path in (options.inp, options.check, options.index)) != 1 or (
        options.inp and not options.out
    ):
        parser.error("give IN and OUT, or --check DIR, or --index DIR")
    if options.config and not options.check:
        parser.error("--config goes with --check")
    return options


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if options.index is not None:
        for folder in cutting.split_folders(options.index):
            say(f"{folder}: {write_index(folder)} clips are listed")
        return
    if options.check is None:
        prepare_dataset(options)
        return

    from data.checking import check  # imports PyTorch, which takes seconds, and workers import this file

    if not check(options.check, options.config, options.workers):
        sys.exit(1)


# ---- Preparing --------------------------------------------------------------


def prepare_dataset(options: PrepareOptions) -> None:
    """Write the dataset.

    Raises `UserError` before anything is written if the options or the names can't be right.
    """
    # Who goes where?
    cutting.check_even(options.size, f".{options.format}")
    sources, left = find_sources(options.inp, options.out)
    splits = choose_splits(sources, options)

    # Cut, in parallel.
    suffix = ".mp4" if options.format == "mp4" else ""
    cuts = [
        cutting.Cut(source.path, options.out / splits[name] / f"{name}{suffix}", options.size, options.fit)
        for name, source in sources.items()
    ]
    targets = [cut.target for cut in cuts]
    failures = cutting.make_clips(options.out, options.size, write_one, cuts, targets, options.workers)

    # Some may fail, not all.
    for failure in failures:
        say(f"failed: {failure.error}")
    for (kind, reason), paths in left.items():
        say(f"left out: {kind} ({len(paths)}, the first is {paths[0]}): {reason}")
    if len(failures) == len(cuts):
        raise DatasetError(
            f"{options.inp}: none of its {len(cuts)} clips can be prepared; the reasons are above"
        )
    if failures:
        sys.exit(1)


def write_one(cut: cutting.Cut) -> list[cutting.Outcome]:
    return [cutting.write_cut(cut)]


class Found(NamedTuple):
    """A video or a folder of frames; `split` is that in which it was already, else None."""

    path: Path
    split: str | None


Left = defaultdict[tuple[str, str], list[Path]]  # what is in no clip, by kind and reason


def find_sources(root: Path, out: Path) -> tuple[dict[str, Found], Left]:
    """Return the clips under `root` by the names they will have, and what is left out.

    Those in train/, val/ and test/ stay there.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; IN is the folder that holds the videos")
    if out.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{out}: lies in {root}, whose videos it would join; name a folder elsewhere")
    is_dataset = len(cutting.split_folders(root)) > 1
    sources: dict[str, Found] = {}
    taken: dict[str, Path] = {}
    left: Left = defaultdict(list)
    for path in walk(root, left):
        parts = path.relative_to(root).parts
        split = parts[0] if is_dataset and parts[0] in cutting.SPLITS else None
        name = clip_name(parts[1:] if split else parts)
        earlier = taken.setdefault(same_name(name), path)
        if earlier != path:
            raise DatasetError(f"{path}: would be called {name} like {earlier}; rename one of them")
        sources[name] = Found(path, split)
    if not sources:
        raise DatasetError(
            f"{root}: holds no videos ({' '.join(sorted(VIDEO_SUFFIXES))}) and no sub-folders of pictures"
        )
    return sources, left


def walk(root: Path, left: Left) -> Iterator[Path]:
    """Yield the videos under `root`, and the folders of pictures without videos or folders; note the rest."""
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        visible = sorted((name for name in files if not name.startswith(".")), key=natural_key)
        videos = [name for name in visible if has_suffix(name, VIDEO_SUFFIXES)]
        # A folder of pictures is a clip only at the end of a path: above it they are something else.
        pictures = [name for name in visible if has_suffix(name, IMAGE_SUFFIXES)]
        if pictures and not folders and not videos and Path(folder) != root:
            yield Path(folder)
        elif pictures:
            kind = "pictures beside videos or sub-folders", "move them into a folder of their own"
            left[kind] += [Path(folder, name) for name in pictures]
        for name in sorted(set(visible).difference(videos, pictures)):
            kind = f"files {Path(name).suffix or 'without suffix'}", "neither videos nor pictures"
            left[kind].append(Path(folder, name))
        yield from (Path(folder, name) for name in videos)


def clip_name(parts: tuple[str, ...]) -> str:
    """Name the clip at `parts` below the folder: identity#folders#file.

    Dots, which would pass for suffixes, become _, and so does what some system forbids in names.
    """
    *folders, last = parts
    stem = Path(last).stem if has_suffix(last, VIDEO_SUFFIXES) else last
    if [stem.split("#")[0]] == folders:
        folders = []
    return portable_name("#".join([*folders, stem]).replace(".", "_"))


def choose_splits(sources: dict[str, Found], options: PrepareOptions) -> dict[str, str]:
    """Return each clip's split.

    An identity that OUT holds already stays where it is; of the others the seed draws for test/ and val/.
    """
    # An identity that was seen before, here or in a split of IN, is not drawn.
    fixed = {
        identity(path.name): split for split in cutting.SPLITS for path in (options.out / split).glob("[!.]*")
    }
    for name, source in sources.items():
        if source.split:
            fixed[identity(name)] = source.split
    identities = sorted({identity(name) for name in sources})
    shares = {"test": options.test_share, "val": options.val_share}
    wanted = {
        split: max(1, round(share * len(identities))) if share else 0 for split, share in shares.items()
    }
    if not fixed and sum(wanted.values()) >= len(identities):
        raise DatasetError(
            f"{options.inp}: of its {len(identities)} identities, as {identities[0]}, none is left to "
            "train on; sort its videos into a sub-folder for each identity, or give --test_share 0"
        )
    # Each identity has its own draw, so that others can be added without moving it.
    identities.sort(key=lambda name: random.Random(os.fsencode(f"{options.seed} {name}")).random())
    drawn = dict.fromkeys(identities[: wanted["test"]], "test")
    drawn |= dict.fromkeys(identities[wanted["test"] :][: wanted["val"]], "val")
    return {
        name: source.split or fixed.get(identity(name)) or drawn.get(identity(name), "train")
        for name, source in sources.items()
    }


if __name__ == "__main__":
    main()
