"""What the demo reads and writes, by name: all is checked before anything is computed.

Shapes: `H, W` size that a model takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints import hub
from checkpoints.files import find_checkpoint
from checkpoints.table import DEFAULT_MODEL
from inference.options import DemoOptions
from inference.samples import ROOT, SAMPLE
from media.clips import VIDEO_SUFFIXES, Clip, clip_stem, has_suffix, natural_key, open_clip, rate_refused
from media.pictures import IMAGE_SUFFIXES, Size, is_picture
from media.rates import part_of, steady
from media.writer import WRITTEN_SUFFIXES
from utils.errors import UserError
from utils.files import same_name
from utils.hints import hint
from utils.program import say

MAX_HINTS = 5
MAX_STRETCH = 1.1  # how far aspect ratios may differ without a hint

INPUTS = (
    "config",
    "checkpoint",
    "source_image",
    "source_video",
    "driving_video",
    "driving_motion",
    "background",
)

# ---- What is given -----------------------------------------------------------


def with_sample(options: DemoOptions) -> DemoOptions:
    """Fill in the sample where an input is not given. Raises `UserError` where that is not there."""
    # A model by name brings its own config, a motion file needs no video.
    instead = {
        "config": options.model,
        "checkpoint": options.model,
        "driving_video": options.driving_motion,
        "source_image": options.source_video,
    }
    wanted = [name for name in SAMPLE if getattr(options, name) is None and instead[name] is None]
    for name in wanted:
        if not SAMPLE[name].exists():
            needed = ", ".join(f"--{name}" for name in SAMPLE)
            raise UserError(f"{SAMPLE[name].relative_to(ROOT)} is not in this checkout: give {needed}")
    sample: dict[str, Any] = {
        name: SAMPLE[name] if name in ("config", "checkpoint") else (SAMPLE[name],) for name in wanted
    }
    return replace(options, **sample)


def inputs_of(options: DemoOptions) -> dict[str, tuple[Path, ...]]:
    """Return the files that are read, by the names of their options."""
    given = {name: getattr(options, name) for name in INPUTS if getattr(options, name) is not None}
    return {name: (value,) if isinstance(value, Path) else value for name, value in given.items()}


def driving_paths(options: DemoOptions) -> tuple[Path, ...]:
    return options.driving_motion or options.driving_video or ()


def model_files(options: DemoOptions, show: hub.ShowDownload = hub.mebibytes_bar) -> hub.Model:
    """Return the config and the checkpoint, which may be downloaded for this. Raises `UserError`.

    A preview needs the config alone. Without a model, it is the one that ships.
    """
    if options.config is None and options.checkpoint is None:
        name, needed = options.model or DEFAULT_MODEL, options.preview is None
        return hub.find_model(name, options.offline, download_it=needed, show=show)
    if options.config is None or options.checkpoint is None:
        raise UserError(
            "--config, --checkpoint: a model of your own is a checkpoint and its config; give both or none"
        )
    return hub.Model(options.config, find_checkpoint(options.checkpoint))


# ---- Pairs -------------------------------------------------------------------


class DemoPair(NamedTuple):
    """A picture, the video or motion file that drives it, and the file of the result."""

    source: Path
    driving: Path
    result: Path


def make_pairs(options: DemoOptions) -> list[DemoPair]:
    """Pair all sources with all driving videos. Raises `UserError`.

    A single pair has the result that is named. Several go into a folder of that name, DRIVING-SOURCE.mp4.
    """
    given, drivings = options.source_image or (), driving_paths(options)
    for path in given:
        if path.suffix.lower() in VIDEO_SUFFIXES - {".gif"} and path.is_file() and not is_picture(path):
            raise UserError(f"--source_image {path}: is a video; --source_video animates the face inside it")
    if not in_folder(options):
        source = options.source_video or given[0]
        return [DemoPair(source, drivings[0], options.result_video or Path("result.mp4"))]
    sources = [path for place in given for path in pictures_of(place)]
    folder = options.result_video or Path("results")
    if folder.suffix.lower() in WRITTEN_SUFFIXES or (folder.exists() and not folder.is_dir()):
        raise UserError(
            f"--result_video {folder}: several results go into a folder; give a name without suffix"
        )
    pairs = [
        DemoPair(source, driving, folder / f"{name_of(driving)}-{source.stem}.mp4")
        for source in sources
        for driving in drivings
    ]
    check_names(pairs)
    return pairs


def in_folder(options: DemoOptions) -> bool:
    """Whether results go into a folder; it may be that it gets one alone."""
    given = options.source_image or ()
    return len(given) > 1 or len(driving_paths(options)) > 1 or any(path.is_dir() for path in given)


def name_of(driving: Path) -> str:
    return driving.stem if driving.suffix == ".npz" else clip_stem(driving.absolute().name)


def pictures_of(place: Path) -> list[Path]:
    """Return the pictures of a folder in natural order, or the one picture. Raises `UserError` for none."""
    if not place.is_dir():
        return [place]
    names = [entry.name for entry in place.iterdir() if has_suffix(entry.name, IMAGE_SUFFIXES)]
    if not names:
        raise UserError(
            f"--source_image {place}: holds no pictures; looked for {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return [place / name for name in sorted(names, key=natural_key)]


def check_names(pairs: Sequence[DemoPair]) -> None:
    """Raise `UserError` where two results would have the same name, on some system at least."""
    seen: dict[str, DemoPair] = {}
    for pair in pairs:
        other = seen.setdefault(same_name(pair.result.name), pair)
        if other is not pair:
            first, second = (" with ".join(map(str, p[:2])) for p in (other, pair))
            raise UserError(f"{pair.result}: would be the result of {first} and of {second}; rename one")


def missing_pairs(pairs: Sequence[DemoPair], skip_existing: bool) -> list[DemoPair]:
    """Return the pairs without a result, if those that have one are skipped."""
    if not skip_existing:
        return list(pairs)
    missing = [pair for pair in pairs if not pair.result.exists()]
    if len(missing) < len(pairs):
        say(f"{len(pairs) - len(missing)} of {len(pairs)} results exist and are skipped")
    return missing


# ---- Results -----------------------------------------------------------------


def check_outputs(options: DemoOptions, pairs: Sequence[DemoPair]) -> None:
    """Raise `UserError` if a result would replace an input, or a folder that holds one, or has no folder."""
    # Nothing that is read is replaced.
    named = ((name, getattr(options, name)) for name in ("preview", "save_motion"))
    outputs = [(name, path) for name, path in named if path is not None]
    for name, path in [*(("result_video", pair.result) for pair in pairs), *outputs]:
        check_result(path, options, name)
    # Folders exist; the writer tells of a single result's.
    if in_folder(options):
        outputs.append(("result_video", pairs[0].result.parent))
    for name, path in outputs:
        if not path.absolute().parent.is_dir():
            raise UserError(f"--{name} {path}: there is no folder {path.parent}; make it first")
    check_motion_name(options.save_motion, len(driving_paths(options)))


def check_motion_name(path: Path | None, drivings: int) -> None:
    """Raise `UserError` unless it is a file for one driving video, and a folder for several."""
    if path is None:
        return
    if drivings == 1 and path.suffix.lower() != ".npz":
        raise UserError(f"--save_motion: '{path}' does not end with .npz")
    if drivings > 1 and (path.suffix or (path.exists() and not path.is_dir())):
        raise UserError(
            f"--save_motion {path}: the motion of several videos goes into a folder; give a name without "
            "suffix"
        )


def motion_path(options: DemoOptions, driving: Path) -> Path | None:
    """Return where the motion of a driving video goes, if it is saved; a folder for it is made."""
    if options.save_motion is None or len(driving_paths(options)) == 1:
        return options.save_motion
    options.save_motion.mkdir(exist_ok=True)
    return options.save_motion / f"{name_of(driving)}.npz"


def check_result(result: Path, options: DemoOptions, option: str) -> None:
    """Raise `UserError` if the result would replace one of the inputs, or a folder that holds one."""
    if not result.exists():
        return
    for name, paths in inputs_of(options).items():
        for path in paths:
            # A folder of frames replaces all that lies in it.
            inside = [path, *path.absolute().parents] if result.is_dir() else [path]
            if any(place.exists() and place.samefile(result) for place in inside):
                raise UserError(f"--{option} {result} would replace --{name} {path}; choose another name")


# ---- Clips -------------------------------------------------------------------


class Clips(NamedTuple):
    """The videos that are read."""

    drivings: dict[Path, Clip]
    background: Clip | None
    source: Clip | None


NO_CLIPS = Clips({}, None, None)


def open_clips(options: DemoOptions, pairs: Sequence[DemoPair]) -> Clips:
    """Open the driving clips, the background and a source video, at constant rates. Raises `UserError`.

    `--fps` is the rate of folders of frames, and there must be one then.
    """
    drivings = [] if options.driving_motion is not None else [pair.driving for pair in pairs]
    others = [path for path in (options.background, options.source_video) if path is not None]
    paths = dict.fromkeys([*drivings, *others])
    if options.fps is not None and not any(path.is_dir() for path in paths):
        raise rate_refused(options.fps)
    opened = {path: steady(open_clip(path, fps=options.fps if path.is_dir() else None)) for path in paths}
    background, source = (
        None if path is None else opened[path] for path in (options.background, options.source_video)
    )
    for line in (line for clip in opened.values() for line in clip.hints()):
        hint(line)
    parts = {path: part_of(opened[path], options.start, options.end) for path in drivings}
    return Clips(parts, background, source)


# ---- Hints -------------------------------------------------------------------


def hints(
    options: DemoOptions, sources: Mapping[Path, Size], clips: Mapping[Path, Clip], model: Size
) -> list[str]:
    """Say which options have no effect, and which pictures will be distorted. Sizes are (height, width)."""
    lines = []
    measured = options.find_best_frame or options.best_frame is not None
    if not options.relative and (options.adapt_scale or measured):
        lines.append("--adapt_scale, --find_best_frame and --best_frame do nothing without --relative")
    # Pictures of which nothing is cut are distorted.
    whole = {} if options.crop or options.crop_source else dict(sources)
    if not (options.crop or options.crop_driving):
        whole |= {path: clip.size for path, clip in clips.items()}
    for path, (height, width) in whole.items():
        stretch = (height / width) / (model[0] / model[1])
        if options.fit == "stretch" and max(stretch, 1 / stretch) > MAX_STRETCH:
            sizes = f"{width}x{height} and is stretched to {model[1]}x{model[0]}"
            lines.append(f"{path} is {sizes}; --fit crop and --fit pad keep its shape")
    if len(lines) > MAX_HINTS:
        lines[MAX_HINTS - 1 :] = [f"and {len(lines) - MAX_HINTS + 1} more like it"]
    return lines
