"""Find the faces of a video and cut each out, with one fixed box for as long as the face stays in its place.

    python crop_video.py --inp talk.mp4              # prints an ffmpeg command for each face
    python crop_video.py --inp talk.mp4 --out crops  # writes crops/talk#000.mp4, crops/talk#001.mp4, ...

    python crop_video.py --inp talk.mp4 --out crops --whole   # the main face alone, in all frames
    python crop_video.py --inp me.jpg --out crops             # a photo: crops/me#000.png, ...

Crops keep the sound. The commands are for a POSIX shell, and name the ffmpeg of the package imageio-ffmpeg
where none is on the PATH. A video of variable frame rate gets a constant one.

Faces are found by the package face-alignment where it is installed (as in the published script), else by the
trained cascade that comes with scikit-image, which sees frontal faces from an eighth of the frame's shorter
side on.
"""

from __future__ import annotations

import argparse
import math
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg

from faces.boxes import CropBox, crop_box
from faces.choose import find_main_face
from faces.crops import write_crops
from faces.detectors import Detector, load_detector
from faces.tracks import Track, find_tracks
from media.clips import Clip, StripClip, VideoClip, open_clip
from media.rates import fps_option, steady
from utils.errors import UserError
from utils.files import portable_name, same_name
from utils.options import OptionParser
from utils.program import command_line


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument(
        "--inp",
        type=Path,
        required=True,
        help="the video; with --out also a folder of frames, or a photo, whose crops are pngs",
    )
    parser.add_argument(
        "--fps", type=fps_option, metavar="N", help="frames a second of a folder of frames (default: 25)"
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="one box for the whole video, around the main face wherever it goes",
    )
    parser.add_argument(
        "--out", type=Path, help="a folder to write the crops to; without it, ffmpeg commands are printed"
    )
    parser.add_argument(
        "--image_shape",
        type=shape_option,
        default=(256, 256),
        metavar="W,H",
        help="size of the crops (default: 256,256)",
    )
    parser.add_argument(
        "--increase",
        type=float,
        default=0.1,
        help="how far the box grows on each side, as a share of it (default: 0.1)",
    )
    parser.add_argument(
        "--iou_with_initial",
        type=float,
        default=0.25,
        help="a face that overlaps less with the place where it was first seen begins a new crop "
        "(default: 0.25)",
    )
    parser.add_argument(
        "--min_frames", type=int, default=150, help="shorter crops are dropped (default: 150)"
    )
    parser.add_argument(
        "--detector",
        choices=["face-alignment", "cascade"],
        help="default: face-alignment if that package is installed, else scikit-image's cascade",
    )
    parser.add_argument(
        "--cpu", action="store_true", help="run face-alignment on the CPU even if there is a GPU"
    )
    options = parser.parse_args(argv)
    if options.increase < 0 or options.min_frames < 1 or not 0 <= options.iou_with_initial <= 1:
        parser.error("--increase must be at least 0, --min_frames at least 1, --iou_with_initial from 0 to 1")
    return options


def shape_option(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 and int(part) % 2 == 0 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not two even numbers, width and height, like 256,256")
    return int(parts[0]), int(parts[1])


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    original = open_clip(options.inp, fps=options.fps)
    check_output(options.out, original)
    clip = steady(original)
    ffmpeg = ffmpeg_program() if options.out is None else None
    detect = load_detector(options.detector, options.cpu)
    if options.whole:
        tracks = [whole_track(clip, detect)]
    else:
        found = find_tracks(clip, detect, options.iou_with_initial)
        tracks = long_tracks(found, clip, options.min_frames)
    for line in lost_frames(tracks, clip):
        print(f"hint: {line}", file=sys.stderr)
    shape = options.image_shape
    boxes = [crop_box(track.surrounding_box, clip.size, shape, options.increase) for track in tracks]
    names = [crop_name(clip, number) for number in range(len(tracks))]
    if ffmpeg is not None:
        for track, box, name in zip(tracks, boxes, names, strict=True):
            print(ffmpeg_command(ffmpeg, clip, track, box, shape, name))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [options.out / name for name in names]
    for note in write_crops(clip, tracks, boxes, (shape[1], shape[0]), paths):
        print(f"warning: {note}", file=sys.stderr)
    for track, box, path in zip(tracks, boxes, paths, strict=True):
        place = f"{box.width}x{box.height} at {box.left},{box.top}"
        print(f"{path}: frames {track.start} to {track.end - 1}, {place}")


def check_output(out: Path | None, clip: Clip) -> None:
    """Raise `UserError` if the crops can't be written, or would replace files."""
    if out is None:
        if not isinstance(clip, VideoClip):
            raise UserError(
                f"{clip.path}: is not a video, so ffmpeg can't cut it; give --out to write the crops"
            )
        return
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    earlier = sorted(out.glob("*")) if out.exists() else []
    for path in earlier:
        ours = same_name(path.name).startswith(same_name(crop_prefix(clip)))
        if ours and path.suffix.lower() in (".mp4", ".png"):
            raise UserError(f"{path}: exists, maybe from an earlier run; remove it or give another --out")


def crop_prefix(clip: Clip) -> str:
    """What the names of a video's crops begin with. To the datasets it names the person."""
    return f"{portable_name(clip.path.stem)}#"


def crop_name(clip: Clip, number: int) -> str:
    suffix = ".png" if isinstance(clip, StripClip) else ".mp4"
    return f"{crop_prefix(clip)}{number:03d}{suffix}"


def whole_track(clip: Clip, detect: Detector) -> Track:
    """The main face in all frames. Raises `UserError` if there is none."""
    track = find_main_face(clip, detect)
    if track is None:
        raise no_face(clip)
    track.start, track.end = 0, len(clip)
    return track


def no_face(clip: Clip) -> UserError:
    where = "it" if isinstance(clip, StripClip) else f"its {len(clip)} frames"
    return UserError(
        f"{clip.path}: no face was found in {where}; faces must look at the camera and be at least an eighth "
        "of the frame's shorter side"
    )


def lost_frames(tracks: Sequence[Track], clip: Clip) -> list[str]:
    """Which frames at the ends of the video are in no crop."""
    start, end = min(track.start for track in tracks), max(track.end for track in tracks)
    lost = [(0, start - 1), (end, len(clip) - 1)]
    return [
        f"{clip.path}: no crop has the frames {first} to {last}, where no face was found in its place; "
        "--whole keeps all frames"
        for first, last in lost
        if first <= last
    ]


def long_tracks(tracks: list[Track], clip: Clip, min_frames: int) -> list[Track]:
    """The tracks of `min_frames` frames; in a shorter video, of half its length.

    Raises `UserError` if there are none.
    """
    if not tracks:
        raise no_face(clip)
    if isinstance(clip, StripClip):
        return tracks
    if len(clip) < min_frames:
        print(
            f"hint: {clip.path} has {len(clip)} frames, fewer than --min_frames {min_frames}; crops are kept "
            "from half of its length on",
            file=sys.stderr,
        )
        min_frames = math.ceil(len(clip) / 2)
    kept = [track for track in tracks if track.end - track.start >= min_frames]
    if not kept:
        longest = max(track.end - track.start for track in tracks)
        raise UserError(
            f"{clip.path}: no face stays in its place for {min_frames} frames; the longest stays for "
            f"{longest}: --whole cuts one box around everywhere it goes; lower --min_frames or "
            "--iou_with_initial keep shorter crops"
        )
    return kept


def ffmpeg_command(
    program: str, clip: Clip, track: Track, box: CropBox, image_shape: tuple[int, int], name: str
) -> str:
    """The shell command that cuts `track` out of `clip`, with sound, into the file `name`.

    `image_shape`: (width, height) of the crop.
    """
    # A little early, as a rounded time must not fall behind the frame that is meant.
    start, end = (max(0, number - 0.2) / clip.fps for number in (track.start, track.end))
    crop = f"crop={box.width}:{box.height}:{box.left}:{box.top}, scale={image_shape[0]}:{image_shape[1]}"
    output = f"./{name}" if name.startswith("-") else name
    times = ["-ss", f"{start:.4f}", "-t", f"{end - start:.4f}"]
    return shlex.join([program, "-i", str(clip.path), *times, "-filter:v", crop, output])


def ffmpeg_program() -> str:
    """`ffmpeg` if it is on the PATH, else the path of the one that imageio-ffmpeg brings.

    Raises `UserError` where there is none.
    """
    if shutil.which("ffmpeg"):
        return "ffmpeg"
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:  # its wheel for this platform holds none
        raise UserError(
            "there is no ffmpeg to cut with; install it, or give --out to write the crops"
        ) from error


if __name__ == "__main__":
    main()
