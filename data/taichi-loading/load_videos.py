"""Turn listed pieces of YouTube videos into a dataset: download, cut, crop and resize them.

    python data/taichi-loading/load_videos.py --metadata data/taichi-loading/taichi-metadata.csv --out_folder
        data/taichi-png --format .png --workers 8 --image_shape 256,256

A list is a CSV file with the columns of `COLUMNS` and a line for each clip. `start` and `end` (exclusive) are
frame numbers at `fps`, `bbox` is left-top-right-bottom in pixels of a video of `width` x `height`; a download
of another rate or size is cut at the same seconds and the same part of the picture. An optional column
`person_id`, or a `video_id` written as video#person, puts the person in front of the clip's name, where
identity sampling looks for it.

Videos that are in `--video_folder` already, as <video>.mp4 or with another suffix, are not downloaded. A run
that was stopped goes on when it is started again. What can't be had is listed in `report.csv` in the output
folder.
"""

from __future__ import annotations

import csv
import functools
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

ROOT, PATHS = str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")
if __name__ == "__main__" and not __package__ and ROOT not in PATHS.split(os.pathsep):
    # Python looks for imports beside the script that it is given; ours lie in the repository root.
    paths = os.pathsep.join(filter(None, [ROOT, PATHS]))
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONPATH": paths})

from data import cutting
from media.clips import VIDEO_SUFFIXES, open_clip
from media.decoding import MAX_FPS, MIN_FPS
from media.pictures import Box, Size
from utils.errors import DatasetError, MediaError, UserError
from utils.files import atomic_write, read_csv
from utils.hints import warn
from utils.options import option, read_options
from utils.program import command_line, say
from utils.values import integer, number

COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition")
VIDEO_NAME = re.compile(r"[\w-]+")  # no dots or slashes: it becomes a file name and part of an address
MISSING_SECONDS = 1.0  # that a video may be shorter than listed


@dataclass(frozen=True)
class LoadOptions:
    """The command line."""

    metadata: Path = option(None, "the list, a CSV file", required=True)
    out_folder: Path = option(None, "folder to write, or to go on with", required=True)
    video_folder: Path = option(None, "where whole videos are and go (OUT_FOLDER/videos)")
    format: str = option(".png", "a video or a folder of png a clip (.png)", choices=(".mp4", ".png"))
    image_shape: Size = option((256, 256), "height,width of the frames (256,256)", type=cutting.size_option)
    workers: int = option(os.cpu_count() or 1, "processes (default: one a core)", bounds=cutting.WORKERS)
    youtube: str = option("yt-dlp", "the program that downloads (default yt-dlp)")


def parse(argv: list[str] | None) -> LoadOptions:
    options = read_options(LoadOptions, argv, "Download, cut, crop and resize the clips of a list.")
    return replace(options, video_folder=options.video_folder or options.out_folder / "videos")


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    cutting.check_even(options.image_shape, options.format)
    clips = read_list(options.metadata)
    videos: dict[str, list[Listed]] = defaultdict(list)  # a video is downloaded once
    for clip in clips:
        videos[clip.video].append(clip)
    check_downloads(videos, options)
    folder, report = options.video_folder, options.out_folder / "report.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--video_folder {folder}: can't be made: {error.strerror or error}") from error
    targets = {clip.target(options): clip for clip in clips}
    failures = cutting.make_clips(
        options.out_folder,
        options.image_shape,
        functools.partial(load, options),
        list(videos.values()),
        list(targets),
        options.workers,
    )
    write_failures(report, {targets[failure.target]: failure for failure in failures})
    if len(failures) == len(clips):
        raise DatasetError(f"{options.metadata}: none of its {len(clips)} clips can be had; see {report}")


# ---- The list ---------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """A line of the list: frames [start, end) at `fps` of the part `box` of a video of `size`."""

    video: str
    person: str
    start: int
    end: int
    box: Box
    fps: float
    size: Size
    partition: str

    @property
    def name(self) -> str:
        """Return the published name: person, if known, video, and first and last frame in six digits."""
        return "#".join([*filter(None, [self.person]), self.video, f"{self.start:06d}", f"{self.end:06d}"])

    def target(self, options: LoadOptions) -> Path:
        return options.out_folder / self.partition / (self.name + options.format.removesuffix(".png"))


def read_list(path: Path) -> list[Listed]:
    """Read a list. Raises `DatasetError` naming the first line that is wrong."""
    clips: dict[tuple[str, str], Listed] = {}
    for line, row in read_csv(path, COLUMNS, DatasetError):
        clip = read_line(row, f"{path}, line {line}")
        if clips.setdefault((clip.partition, clip.name), clip) != clip:
            which = f"{clip.video} from frame {clip.start} to {clip.end}"
            raise DatasetError(
                f"{path}: lists two clips of {which}; give each another person_id, or remove one"
            )
    if not clips:
        raise DatasetError(f"{path}: lists no clips")
    return list(clips.values())


def read_line(line: dict[str, str], place: str) -> Listed:
    """Check a line of the list. Raises `DatasetError` that names `place`."""
    video, _, person = line["video_id"].partition("#")
    try:
        box = tuple(number(side, most=2**16) for side in line["bbox"].split("-"))
        start, end, width, height = (integer(line[column]) for column in ("start", "end", "width", "height"))
        fps = number(line["fps"], 0, MAX_FPS)
    except ValueError as error:
        text = f"{place}: {error}; numbers are needed, and left-top-right-bottom as bbox"
        raise DatasetError(text) from None
    person = line.get("person_id") or person
    named = VIDEO_NAME.fullmatch(video) and VIDEO_NAME.fullmatch(person or "-")
    inside = len(box) == 4 and 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
    rules = (
        (named, "video_id: use letters, digits, _ and - only"),
        (0 <= start < end, "start and end: end must lie behind start"),
        (inside, "bbox: left-top-right-bottom must lie inside width and height"),
        (fps >= MIN_FPS, f"fps: must be at least {MIN_FPS}"),
        (line["partition"] in cutting.SPLITS, "partition: must be train, val or test"),
    )
    for fine, message in rules:
        if not fine:
            raise DatasetError(f"{place}: {message}")
    sides = (box[0], box[1], box[2], box[3])
    return Listed(video, person, start, end, sides, fps, (height, width), line["partition"])


# ---- One video --------------------------------------------------------------


def load(options: LoadOptions, clips: list[Listed]) -> list[cutting.Outcome]:
    """Cut the clips of one video that are not there, and before download it unless it is there."""
    targets = {clip: clip.target(options) for clip in clips}
    missing = [clip for clip in clips if not targets[clip].exists()]
    outcomes = [cutting.finished_clip(targets[clip], clip.fps) for clip in clips if clip not in missing]
    if missing:
        try:
            path = find_video(options.video_folder, missing[0].video) or download_video(missing[0], options)
            outcomes += [cut_clip(path, clip, options) for clip in missing]
        except MediaError as error:
            outcomes += [cutting.Outcome(targets[clip], error=str(error)) for clip in missing]
    return outcomes


def find_video(folder: Path, name: str) -> Path | None:
    """Return the whole video `name` in `folder`, with any suffix of a video."""
    paths = (folder / f"{name}{suffix}" for suffix in sorted(VIDEO_SUFFIXES))
    return next((path for path in paths if path.exists()), None)


def cut_clip(path: Path, clip: Listed, options: LoadOptions) -> cutting.Outcome:
    """Write one clip of the video at `path`, at the listed seconds and the listed part of the picture."""
    whole, target = open_clip(path), clip.target(options)
    # The same seconds, at the rate of what was downloaded.
    ratio = whole.fps / clip.fps
    start, end = round(clip.start * ratio), round(clip.end * ratio)
    if end > len(whole) + MISSING_SECONDS * whole.fps:
        return cutting.Outcome(target, error=f"{path}: ends after {len(whole)} frames, the clip after {end}")
    # The same part of the picture, in its size.
    scale_y, scale_x = whole.size[0] / clip.size[0], whole.size[1] / clip.size[1]
    left, top, right, bottom = clip.box
    box = left * scale_x, top * scale_y, right * scale_x, bottom * scale_y
    frames = range(start, min(end, len(whole)))
    return cutting.write_cut(cutting.Cut(path, target, options.image_shape, "stretch", box, frames))


# ---- Downloading ------------------------------------------------------------


def check_downloads(videos: dict[str, list[Listed]], options: LoadOptions) -> None:
    """Say once what can't be downloaded because the program is missing.

    Raises `UserError` if that is every video.
    """
    folder, youtube = options.video_folder, options.youtube
    absent = [
        name
        for name, clips in videos.items()
        if find_video(folder, name) is None and not all(clip.target(options).exists() for clip in clips)
    ]
    if not absent or shutil.which(youtube):
        return
    text = (
        f"{youtube}: no such program, and {len(absent)} of {len(videos)} videos are not in {folder}; install "
        "it (pip install yt-dlp), name another with --youtube, or put the videos there as <video>.mp4"
    )
    if len(absent) == len(videos):
        raise UserError(text)
    warn(text)


def download_video(clip: Listed, options: LoadOptions) -> Path:
    """Download a video in the listed resolution, or the next best; it appears when it is whole.

    Raises `MediaError`.
    """
    name, folder, program = clip.video, options.video_folder, shutil.which(options.youtube)
    if program is None:
        raise MediaError(f"{name}: is not in {folder}, and {options.youtube} is not installed")
    partial = folder / ".partial"  # a download that was stopped goes on from here
    partial.mkdir(exist_ok=True)
    template = str(partial.absolute()).replace("%", "%%") + f"/{name}.%(ext)s"
    command = [program, "--no-playlist", "--newline", "--format", "bestvideo*/best"]
    command += ["--format-sort", f"res:{min(clip.size)}", "--output", template]
    command += ["--", f"https://www.youtube.com/watch?v={name}"]
    run = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    path = find_video(partial, name)
    if run.returncode or path is None:
        said = [line.strip() for line in run.stderr.splitlines() if line.strip()]
        said = said or [f"exit status {run.returncode}"]
        raise MediaError(next((line for line in reversed(said) if line.startswith("ERROR")), said[-1]))
    return path.replace(folder / path.name)


def write_failures(path: Path, failures: dict[Listed, cutting.Outcome]) -> None:
    """List the clips that this run could not make, and why."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("video_id", "clip", "reason"))
        table.writerows((clip.video, made.target.name, made.error) for clip, made in failures.items())
    if failures:
        videos = {clip.video for clip in failures}
        say(f"{len(failures)} clips of {len(videos)} videos could not be made; {path} says why")


if __name__ == "__main__":
    main()
