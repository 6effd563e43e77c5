"""What is cut out of a picture and a driving video: found around faces, or given by hand.

Shapes: `F` faces, `H, W` size that a model takes. Boxes are left, top, right, bottom in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from faces.align import lies_sideways, look_closely
from faces.choose import (
    NoFaceError,
    centred_window,
    check_box,
    choose_faces,
    find_faces,
    find_main_face,
    prominence,
    region_of,
    shaped,
    steady_region,
)
from faces.options import Box, CropOptions
from faces.preview import preview
from faces.regions import Region, cut_out
from faces.tracks import frames_with
from faces.yunet import FaceDetector
from media.clips import Clip
from media.pictures import Size, data_url, fit
from utils.hints import hint
from utils.progress import ShowProgress, no_bar

VIEW_SIDE = 640  # pixels of a picture that is sent to a browser
FITTING_LOOKS = 5  # frames of a driving video in which --fit crop looks for a face


class Cuts(NamedTuple):
    """What to cut: regions of a model's shape around the `faces` (F, 4) that were found, or none.

    `present` (T,): which frames of a video show the face, if that is known. `surest`: the highest score of a
    face in a picture, 0 where none was looked for.
    """

    regions: list[Region]
    faces: np.ndarray = np.zeros((0, 4))
    present: np.ndarray | None = None
    surest: float = 0.0


def cuts_of_source(
    picture: np.ndarray, path: Path, size: Size, options: CropOptions, detect: FaceDetector | None
) -> Cuts:
    """Find a box for each face of `picture` (h, w, 3) that is meant. Raises `UserError`.

    `size`: (H, W). `detect` is there where `options.crop`, or "crop" of `options.fit`, looks for faces.
    """
    whole, aspect = picture.shape[:2], size[1] / size[0]
    found = None if detect is None else detect(picture)
    surest = 0.0 if found is None else float(found.scores.max(initial=0))
    # A box by hand
    if options.crop_source is not None:
        check_box(options.crop_source, whole, "--crop_source", path)
        return Cuts([shaped(options.crop_source, aspect)], surest=surest)
    # Whole pictures
    if found is None or detect is None:
        return Cuts([])
    if not options.crop:
        return window_around_face([found.boxes], path, whole, size)._replace(surest=surest)
    # Faces
    faces = find_faces(found.boxes, whole, path)
    chosen = choose_faces(faces, options.face, path)
    looks = [look_closely(picture, box, detect) for box in chosen]
    if looks[0] is not None and lies_sideways(picture, chosen[0], looks[0], detect):
        hint(f"{path}: the face lies on its side; turn the picture first")
    regions = [region_of(face, box, aspect) for face, box in zip(looks, chosen, strict=True)]
    return Cuts([region.within(whole) for region in regions], faces, surest=surest)


def cuts_of_video(
    clip: Clip,
    size: Size,
    options: CropOptions,
    by_hand: str,
    detect: FaceDetector | None,
    show: ShowProgress,
) -> Cuts:
    """Find at most one region for all frames of a video, which is read once for it. Raises `UserError`.

    `by_hand`: the option that has the box, "crop_driving" or "crop_source".
    """
    box, aspect = getattr(options, by_hand), size[1] / size[0]
    if box is not None:
        check_box(box, clip.size, f"--{by_hand}", clip.path)
        return Cuts([shaped(box, aspect)])
    if detect is None:
        return Cuts([])
    if not options.crop:
        looks = np.linspace(0, len(clip) - 1, min(len(clip), FITTING_LOOKS)).astype(int)
        found = (detect(frame).boxes for _, frame in clip.chosen(looks.tolist()))
        return window_around_face(found, clip.path, clip.size, size)
    track = find_main_face(clip, detect, show)
    if track is None:
        raise NoFaceError(f"{clip.path}: no face was found; say where it is with --{by_hand} L,T,R,B")
    present = frames_with(track, clip, detect)
    if not present.all():
        hint(
            f"{clip.path}: {(~present).sum()} of {len(present)} frames don't show the face; "
            "--lost says what becomes of them"
        )
        # The same looks as in a clip that begins and ends with the face.
        first, last = np.flatnonzero(present)[[0, -1]]
        track = find_main_face(clip, detect, no_bar, range(first, last + 1)) or track
    return Cuts([steady_region(clip, track, detect, aspect)], track.surrounding_box[None], present)


def window_around_face(found: Iterable[np.ndarray], path: Path, whole: Size, size: Size) -> Cuts:
    """Move what "crop" of `fit` keeps to the face: the middle of a portrait may be its nose or its neck.

    Cuts nothing where the shape is that of the model already, or where no face is found. `found`: boxes
    (F, 4) in the picture of size `whole` that lies at `path`, or in some frames of the video.
    """
    aspect = size[1] / size[0]
    if abs(whole[1] - whole[0] * aspect) < 1:
        return Cuts([])
    faces = [boxes[prominence(boxes, whole).argmax()] for boxes in found if len(boxes)]
    if not faces:
        return Cuts([])
    hint(f"{path}: --fit crop cuts around the face that was found")
    face = np.median(faces, axis=0)  # (4,), the same window for all frames
    return Cuts([centred_window(face, whole, aspect)], face[None])


def preview_of(pictures: Sequence[np.ndarray], cuts: Sequence[Cuts], size: Size) -> np.ndarray:
    """Draw the `pictures` with what is cut out of each, one below the other: (., ., 3) uint8."""
    drawn = [
        preview(picture, cut.faces, cut.regions, [cut_out(picture, region, size) for region in cut.regions])
        for picture, cut in zip(pictures, cuts, strict=True)
    ]
    width = max(picture.shape[1] for picture in drawn)
    return np.concatenate(
        [np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0))) for picture in drawn]
    )


def view_of(picture: np.ndarray, cuts: Cuts, size: Size, how: str, by_hand: Box | None) -> dict[str, Any]:
    """Describe a picture (h, w, 3) uint8 and its cuts to a browser, which draws and moves them.

    `how`: as of `media.pictures.fit`. "found" is what is cut as long as there is no box `by_hand`.
    """
    # A small copy for the browser; boxes are in pixels of the whole picture.
    height, width = picture.shape[:2]
    scale = min(1, VIEW_SIDE / max(height, width))
    small = fit(picture, (max(1, round(height * scale)), max(1, round(width * scale))), "stretch")

    # Where nothing was found, all is taken, or what "crop" leaves of it.
    whole, aspect = (0, 0, width, height), size[1] / size[0]
    found: list[Box] = [region.box for region in cuts.regions] or [whole]
    if not cuts.regions and how == "crop":
        found = [centred_window(np.array(whole), (height, width), aspect).box]
    return {
        "url": data_url(small),
        "size": [width, height],
        "text": ",".join(map(str, by_hand or ())),
        "found": [] if by_hand else found,
        "faces": cuts.faces.round().astype(int).tolist(),
        "aspect": aspect,
    }
