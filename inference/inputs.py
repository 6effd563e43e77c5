"""What demo.py reads and writes, by name: all is checked before anything is computed.

Shapes: `H, W` size that a model takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from faces.cuts import CropSettings
from inference.animation import Settings
from inference.jobs import Pair
from media.clips import Clip, clip_stem, has_suffix, natural_key, open_clip
from media.pictures import PHOTO_SUFFIXES, Size
from media.rates import steady
from media.writer import WRITTEN_SUFFIXES
from utils.errors import UserError
from utils.files import same_name

MAX_HINTS = 5
MAX_STRETCH = 1.1  # how far aspect ratios may differ without a hint

Inputs = Mapping[str, Sequence[Path]]  # by the names of their options


# ---- Pairs -------------------------------------------------------------------


def make_pairs(inputs: Inputs, options: argparse.Namespace) -> list[Pair]:
    """All sources with all drivings. Raises `UserError`.

    A single pair has the result that is named. Several go into a folder of that name, DRIVING-SOURCE.mp4.
    """
    given = inputs["source_image"]
    sources = [path for place in given for path in pictures_of(place)]
    drivings = driving_paths(inputs)
    if len(given) == len(drivings) == 1 and not given[0].is_dir():
        return [Pair(given[0], drivings[0], options.result_video or Path("result.mp4"))]
    folder = options.result_video or Path("results")
    if folder.suffix.lower() in WRITTEN_SUFFIXES or (folder.exists() and not folder.is_dir()):
        raise UserError(
            f"--result_video {folder}: several results go into a folder; give a name without suffix"
        )
    pairs = [
        Pair(source, driving, folder / f"{name_of(driving)}-{source.stem}.mp4")
        for source in sources
        for driving in drivings
    ]
    check_names(pairs)
    return pairs


def are_several(pairs: Sequence[Pair], inputs: Inputs) -> bool:
    """Whether results go into a folder; it may be that it gets one alone."""
    return len(pairs) > 1 or inputs["source_image"][0].is_dir()


def driving_paths(inputs: Inputs) -> Sequence[Path]:
    return inputs["driving_motion" if "driving_motion" in inputs else "driving_video"]


def name_of(driving: Path) -> str:
    return driving.stem if driving.suffix == ".npz" else clip_stem(driving.absolute().name)


def pictures_of(place: Path) -> list[Path]:
    """The pictures of a folder in natural order, or the one picture. Raises `UserError` for no pictures."""
    if not place.is_dir():
        return [place]
    names = [entry.name for entry in place.iterdir() if has_suffix(entry.name, PHOTO_SUFFIXES)]
    if not names:
        raise UserError(
            f"--source_image {place}: holds no pictures; looked for {' '.join(sorted(PHOTO_SUFFIXES))}"
        )
    return [place / name for name in sorted(names, key=natural_key)]


def check_names(pairs: Sequence[Pair]) -> None:
    """Raise `UserError` where two results would have the same name, on some system at least."""
    seen: dict[str, Pair] = {}
    for pair in pairs:
        other = seen.setdefault(same_name(pair.result.name), pair)
        if other is not pair:
            first, second = (" with ".join(map(str, p[:2])) for p in (other, pair))
            raise UserError(f"{pair.result}: would be the result of {first} and of {second}; rename one")


# ---- Results -----------------------------------------------------------------


def check_outputs(options: argparse.Namespace, inputs: Inputs, pairs: Sequence[Pair]) -> None:
    """Raise `UserError` if a result would replace an input, or a folder that holds one, or has no folder."""
    several = are_several(pairs, inputs)
    for pair in pairs:
        check_result(pair.result, inputs, "result_video")
    outputs = {name: getattr(options, name) for name in ("preview", "save_motion")}
    for name, output in outputs.items():
        if output is not None:
            check_result(output, inputs, name)
    if several:  # the writer tells of a single one's folder
        outputs["result_video"] = pairs[0].result.parent
    for name, output in outputs.items():
        if output is not None and not output.absolute().parent.is_dir():
            raise UserError(f"--{name} {output}: there is no folder {output.parent}; make it first")
    check_motion_name(options.save_motion, len(driving_paths(inputs)))


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


def motion_path(named: Path, driving: Path, drivings: int) -> Path:
    """Where the motion of a driving video goes, see `check_motion_name`."""
    return named / f"{name_of(driving)}.npz" if drivings > 1 else named


def check_result(result: Path, inputs: Inputs, option: str) -> None:
    """Raise `UserError` if the result would replace one of the `inputs`, or a folder that holds one.

    All are named by their options.
    """
    for name, paths in inputs.items():
        for path in paths:
            inside = [path, *path.absolute().parents] if result.is_dir() else [path]
            if result.exists() and any(place.exists() and place.samefile(result) for place in inside):
                raise UserError(f"--{option} {result} would replace --{name} {path}; choose another name")


# ---- Clips -------------------------------------------------------------------


def open_clips(
    drivings: Sequence[Path], background: Path | None, fps: float | None
) -> tuple[dict[Path, Clip], Clip | None]:
    """The driving clips and the background, at constant rates. Raises `UserError`.

    `fps` is the rate of folders of frames, and there must be one then.
    """
    paths = [*drivings, *([] if background is None else [background])]
    if fps is not None and not any(path.is_dir() for path in paths):
        raise UserError(f"--fps {fps:g}: is for folders of frames; a video has a rate of its own")
    clips = {
        path: steady(open_clip(path, fps=fps if fps and path.is_dir() else None))
        for path in dict.fromkeys(paths)
    }
    return {path: clips[path] for path in drivings}, None if background is None else clips[background]


# ---- Checks and hints --------------------------------------------------------


def missing_pairs(pairs: Sequence[Pair], skip_existing: bool) -> list[Pair]:
    """The pairs without a result, if those that have one are skipped."""
    if not skip_existing:
        return list(pairs)
    missing = [pair for pair in pairs if not pair.result.exists()]
    if len(missing) < len(pairs):
        print(f"{len(pairs) - len(missing)} of {len(pairs)} results exist and are skipped")
    return missing


def stretched(
    sources: Mapping[Path, Size], drivings: Mapping[Path, Clip], crops: CropSettings
) -> dict[Path, Size]:
    """The sizes of the inputs of which nothing is cut."""
    sizes = {} if crops.crop or crops.crop_source else dict(sources)
    if not (crops.crop or crops.crop_driving):
        sizes |= {path: clip.size for path, clip in drivings.items()}
    return sizes


def hints(settings: Settings, pictures: Mapping[Path, Size], model: Size) -> list[str]:
    """Which settings have no effect, and which `pictures`, of the sizes (h, w), will be distorted."""
    lines = []
    measured = settings.find_best_frame or settings.best_frame is not None
    if not settings.relative and (settings.adapt_scale or measured):
        lines.append("--adapt_scale, --find_best_frame and --best_frame do nothing without --relative")
    for path, (height, width) in pictures.items():
        stretch = (height / width) / (model[0] / model[1])
        if settings.fit == "stretch" and max(stretch, 1 / stretch) > MAX_STRETCH:
            sizes = f"{width}x{height} and is stretched to {model[1]}x{model[0]}"
            lines.append(f"{path} is {sizes}; --fit crop and --fit pad keep its shape")
    if len(lines) > MAX_HINTS:
        lines[MAX_HINTS - 1 :] = [f"and {len(lines) - MAX_HINTS + 1} more like it"]
    return lines
