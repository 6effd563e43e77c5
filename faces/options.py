"""The options that say what to cut out of pictures and videos, read without numpy or PyTorch."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from utils.options import option

Corners = tuple[int, int, int, int]  # left, top, right, bottom in pixels

MIN_SIDE = 8  # pixels of a box by hand


def box_option(text: str) -> Corners:
    """Parse L,T,R,B for argparse."""
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not four whole numbers: left, top, right, bottom, like 40,0,296,256"
        ) from None
    if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
        raise argparse.ArgumentTypeError(
            f"'{text}' is left, top, right, bottom, so right and bottom must be at least {MIN_SIDE} higher"
        )
    return left, top, right, bottom


def face_option(text: str) -> str:
    """Parse "largest", "all" or a number from 1 on, for argparse."""
    if text not in ("largest", "all") and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is neither largest nor all nor a number from 1 on")
    return text


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """What to cut; `crop` looks for faces wherever there is no box by hand."""

    fit: str = option(
        "stretch",
        "how pictures of another shape get the model's (default: stretch)",
        choices=["stretch", "crop", "pad"],
    )
    crop: bool = option(False, "find the face in source and driving video, and cut around it")
    crop_source: Corners | None = option(
        None,
        "cut this box out of the source: left, top, right, bottom in pixels",
        type=box_option,
        metavar="L,T,R,B",
    )
    crop_driving: Corners | None = option(
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
