"""The options that say what to cut out of pictures and videos, read without numpy or PyTorch."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from utils.options import option
from utils.values import WrongNumber, integer

Box = tuple[int, ...]  # left, top, right, bottom in pixels and, where it is turned, degrees clockwise

MIN_SIDE = 8  # pixels of a box by hand
MAX_PLACE = 10**6


def box_option(text: str) -> Box:
    """Parse L,T,R,B or L,T,R,B,DEGREES for argparse."""
    try:
        box = tuple(integer(part.strip(), -MAX_PLACE, MAX_PLACE) for part in text.split(","))
    except WrongNumber:
        box = ()
    if len(box) not in (4, 5):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not four whole numbers: left, top, right, bottom, like 40,0,296,256; a fifth may "
            "turn it by degrees"
        )
    left, top, right, bottom = box[:4]
    if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
        raise argparse.ArgumentTypeError(
            f"'{text}' is left, top, right, bottom, so right and bottom must be at least {MIN_SIDE} higher"
        )
    return box


def face_option(text: str) -> str:
    """Parse "largest", "all" or a number from 1 on, for argparse."""
    try:
        return text if text in ("largest", "all") else str(integer(text, 1, 1000))
    except WrongNumber:
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither largest nor all nor a number from 1 on"
        ) from None


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """What to cut; `crop` looks for faces wherever there is no box by hand."""

    fit: str = option(
        "stretch",
        "how pictures of another shape get the model's (default: stretch)",
        choices=["stretch", "crop", "pad"],
    )
    crop: bool = option(False, "find the face in source and driving video, and cut around it")
    crop_source: Box | None = option(
        None,
        "cut this box out of the source: left, top, right, bottom in pixels; a fifth number turns it",
        type=box_option,
        metavar="L,T,R,B",
    )
    crop_driving: Box | None = option(
        None,
        "cut this box out of each driving frame: left, top, right, bottom in pixels",
        type=box_option,
        metavar="L,T,R,B",
    )
    face: str = option(
        "largest",
        "with --crop: which face of the source, by its number in a preview (default: largest)",
        type=face_option,
        metavar="largest|N|all",
    )
    paste_back: bool = option(False, "put what was cut out of the source back into it, animated")
