"""Drawings: pictures side by side, colours of flows and masks, charts with boxes and arrows, gifs.

Pictures are uint8 (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageDraw, ImageFont

from media.pictures import fit
from utils.files import atomic_write

# ---- Pictures side by side ---------------------------------------------------

GAP = 6
INK = (60, 64, 72)


def grid(rows: Sequence[Sequence[np.ndarray | None]]) -> np.ndarray:
    """Cells on white, centred in rows and columns as large as their largest cell; None stays empty."""
    heights = [max(cell.shape[0] for cell in row if cell is not None) for row in rows]
    widths = [max(cell.shape[1] for cell in column if cell is not None) for column in zip(*rows, strict=True)]
    sheet = np.full(
        (sum(heights) + GAP * (len(rows) + 1), sum(widths) + GAP * (len(widths) + 1), 3), 255, np.uint8
    )
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            if cell is not None:
                top = GAP * (i + 1) + sum(heights[:i]) + (heights[i] - cell.shape[0]) // 2
                left = GAP * (j + 1) + sum(widths[:j]) + (widths[j] - cell.shape[1]) // 2
                sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet


def label(text: str, size: int = 15) -> np.ndarray:
    """Text on white, as wide as the text. The height depends on the number of lines, not on the letters."""
    font = ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
    left, _, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox(
        (0, 0), text, font, spacing=6, align="center"
    )
    image = Image.new("RGB", (round(right - left), max(round(bottom), sum(font.getmetrics()))), "white")
    ImageDraw.Draw(image).multiline_text((-left, 0), text, INK, font, spacing=6, align="center")
    return np.array(image)


def outlined(image: np.ndarray) -> np.ndarray:
    """With a thin grey edge, for pictures that may be white themselves."""
    return np.pad(image[1:-1, 1:-1], ((1, 1), (1, 1), (0, 0)), constant_values=205)


def scaled(image: np.ndarray, size: int) -> np.ndarray:
    return fit(image, (size, size), "stretch")


# ---- Charts ------------------------------------------------------------------

TEXT, LINES, NETWORK, PANEL, LAYER = "#2b303a", "#6b7280", "#dbe7fb", "#f4f5f7", "#fdebd3"


class Chart:
    """A drawing with pictures, boxes and arrows; positions are pixels from the top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self.axes.axis("off")

    def text(
        self, x: float, y: float, text: str, size: float = 12, weight: str = "normal", va: str = "center"
    ) -> None:
        self.axes.text(
            x, y, text, size=size, weight=weight, color=TEXT, ha="center", va=va, linespacing=1.3, zorder=4
        )

    def picture(self, x: float, y: float, image: np.ndarray, side: int, title: str = "") -> None:
        """A picture with its left top corner at x, y, and its title below."""
        self.axes.imshow(
            outlined(scaled(image, side)), extent=(x, x + side, y + side, y), interpolation="none", zorder=3
        )
        self.text(x + side / 2, y + side + 6, title, va="top")

    def box(self, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
        shape = FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=8", fc=colour, ec=LINES, zorder=1
        )
        self.axes.add_patch(shape)
        self.text(x + width / 2, y + height / 2, text)

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through the points with a head at the last."""
        self.axes.plot(*zip(*points, strict=True), color=LINES, lw=1.6, zorder=2, solid_capstyle="butt")
        self.axes.annotate(
            "",
            points[-1],
            points[-2],
            zorder=2,
            arrowprops={"arrowstyle": "-|>", "color": LINES, "lw": 1.6, "shrinkA": 0, "shrinkB": 0},
        )

    def pixels(self) -> np.ndarray:
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


# ---- Gifs --------------------------------------------------------------------


def write_gif(path: Path, frames: list[np.ndarray], milliseconds: int) -> None:
    """A gif whose frames share one palette and have no dither: half the size of a streamed one."""
    chosen = Image.fromarray(np.concatenate(frames[::8])).quantize(192, Image.Quantize.MEDIANCUT, kmeans=1)
    palette = np.array(chosen.getpalette() or []).reshape(-1, 3)
    palette[palette.min(axis=1) >= min(240, palette.min(axis=1).max())] = 255  # the gaps stay pure white
    chosen.putpalette(palette.ravel().tolist())
    images = [Image.fromarray(frame).quantize(palette=chosen, dither=Image.Dither.NONE) for frame in frames]
    animation = {"save_all": True, "append_images": images[1:], "duration": milliseconds, "loop": 0}
    with atomic_write(path) as temporary:
        images[0].save(temporary, format="GIF", **animation)
