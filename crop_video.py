"""Find the faces of a video and cut each out, with one fixed box for as long as the face stays in its place.

    python crop_video.py --inp talk.mp4              # prints an ffmpeg command for each face
    python crop_video.py --inp talk.mp4 --out crops  # writes crops/talk#000.mp4, crops/talk#001.mp4, ...

    python crop_video.py --inp talk.mp4 --out crops --whole   # the main face alone, in all frames
    python crop_video.py --inp me.jpg --out crops             # a photo: crops/me#000.png, ...

Crops keep the sound. The commands are for a POSIX shell, and name the ffmpeg of the package imageio-ffmpeg
where none is on the PATH. A video of variable frame rate gets a constant one.

Faces are found by YuNet, a small network whose weights lie in faces/.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from media.clips import Clip, StripClip, VideoClip, open_clip
from media.decoding import MAX_FPS, MIN_FPS
from media.rates import steady
from utils.errors import UserError
from utils.files import portable_name, same_name
from utils.hints import hint, warn
from utils.options import option, read_options
from utils.program import command_line, say
from utils.values import integer


def shape_option(text: str) -> tuple[int, int]:
    sides = [integer(side, 2, 2**13) for side in text.split(",")]
    if len(sides) != 2 or any(side % 2 for side in sides):
        raise argparse.ArgumentTypeError(f"'{text}' is not two even numbers, width and height, like 256,256")
    return sides[0], sides[1]


@dataclass(frozen=True, kw_only=True)
class CropVideoOptions:
    inp: Path = option(
        None, "the video; with --out also a folder of frames, or a photo, whose crops are pngs", required=True
    )
    fps: float | None = option(
        None, "frames a second of a folder of frames (default: 25)", bounds=(MIN_FPS, MAX_FPS), metavar="N"
    )
    whole: bool = option(False, "one box for the whole video, around the main face wherever it goes")
    out: Path | None = option(None, "a folder to write the crops to; without it, ffmpeg commands are printed")
    image_shape: tuple[int, int] = option(
        (256, 256), "size of the crops (default: 256,256)", type=shape_option, metavar="W,H"
    )
    increase: float = option(
        0.1, "how far the box grows on each side, as a share of it (default: 0.1)", bounds=(0, 10)
    )
    iou_with_initial: float = option(
        0.25,
        "a face that overlaps less with the place where it was first seen begins a new crop (default: 0.25)",
        bounds=(0, 1),
    )
    min_frames: int = option(150, "shorter crops are dropped (default: 150)", bounds=(1, 10**9))
    cpu: bool = option(False, "as in the published script; faces are always found on the CPU")


def parse(argv: list[str] | None) -> CropVideoOptions:
    return read_options(CropVideoOptions, argv, __doc__)


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    # Here, so that --help and a mistyped option answer at once, without PyTorch.
    from faces.boxes import crop_box
    from faces.choose import long_tracks, lost_frames, whole_track
    from faces.crops import ffmpeg_command, ffmpeg_program, write_crops
    from faces.tracks import find_tracks
    from faces.yunet import FaceDetector

    original = open_clip(options.inp, fps=options.fps)
    check_output(options.out, original)
    clip = steady(original)
    ffmpeg = ffmpeg_program() if options.out is None else ""

    # Follow the faces.
    detect = FaceDetector()
    if options.whole:
        tracks = [whole_track(clip, detect)]
    else:
        found = find_tracks(clip, detect, options.iou_with_initial)
        tracks = long_tracks(found, clip, options.min_frames)
    for line in clip.hints() + lost_frames(tracks, clip):
        hint(line)
    shape = options.image_shape
    boxes = [crop_box(track.surrounding_box, clip.size, shape, options.increase) for track in tracks]
    names = [crop_name(clip, number) for number in range(len(tracks))]

    # Print commands.
    if options.out is None:
        for track, box, name in zip(tracks, boxes, names, strict=True):
            print(ffmpeg_command(ffmpeg, clip, track, box, shape, name))
        return

    # Or write the crops.
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [options.out / name for name in names]
    for note in write_crops(clip, tracks, boxes, (shape[1], shape[0]), paths):
        warn(note)
    for track, box, path in zip(tracks, boxes, paths, strict=True):
        place = f"{box.width}x{box.height} at {box.left},{box.top}"
        say(f"{path}: frames {track.start} to {track.end - 1}, {place}")


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
    # Crops of an earlier run could be taken for those of this one.
    earlier = sorted(out.glob("*")) if out.exists() else []
    for path in earlier:
        ours = same_name(path.name).startswith(same_name(crop_prefix(clip)))
        if ours and path.suffix.lower() in (".mp4", ".png"):
            raise UserError(f"{path}: exists, maybe from an earlier run; remove it or give another --out")


def crop_prefix(clip: Clip) -> str:
    """Return what names of a video's crops begin with; to the datasets it names the person."""
    return f"{portable_name(clip.path.stem)}#"


def crop_name(clip: Clip, number: int) -> str:
    suffix = ".png" if isinstance(clip, StripClip) else ".mp4"
    return f"{crop_prefix(clip)}{number:03d}{suffix}"


if __name__ == "__main__":
    main()
