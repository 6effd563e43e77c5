"""The head without its features: the skull, the ears, and what lies on the skin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.puppets.canvas import Canvas, between, circle
from data.puppets.colours import edge, mix
from data.puppets.geometry import head_surface
from data.puppets.view import View


def outline(view: View, place: Callable[..., np.ndarray], y: np.ndarray, swell: float = 1.0) -> np.ndarray:
    """The silhouette of `place`, which is `view.surface` or `view.hair`, over the heights `y`, (2N, 2)."""
    right = place(np.pi / 2 - view.turn, y, swell)
    return between(right, place(-np.pi / 2 - view.turn, y, swell))


def heights(start: float, stop: float, count: int = 40) -> np.ndarray:
    """Heights close together near the crown, where the outline runs level."""
    return start + (stop - start) * (1 - np.cos(np.linspace(0, np.pi, count))) / 2


def ear_outline(view: View, side: int, radius: float = 1.0) -> np.ndarray:
    """The left (-1) or right (1) ear: a disc that stands out from the side of the head and backwards."""
    puppet = view.puppet
    t = np.linspace(-2.2, 2.2, 21)
    root = head_surface(puppet, side * np.radians(96), 0.1)
    across, down = 0.6 + radius * 0.75 * np.cos(t), radius * np.sin(t)
    out = np.array((side * 0.86, 0.0, -0.5)) * puppet.ear * 0.85
    return view.solid(root + across[:, None] * out + down[:, None] * np.array((0, puppet.ear, 0)))


def draw_ear(canvas: Canvas, view: View, side: int) -> None:
    """The ear of a side, its inside, and an earring."""
    skin = view.puppet.skin
    canvas.fill(ear_outline(view, side), skin)
    canvas.line(ear_outline(view, side), edge(skin))
    canvas.fill(ear_outline(view, side, 0.55), mix(skin, edge(skin), 0.35))
    if view.puppet.earrings:
        lobe = ear_outline(view, side)[-6]
        canvas.blob([np.add(lobe, (0, 0.05))], [0.065], view.puppet.accent)


def draw_head(canvas: Canvas, view: View) -> None:
    skin, y = view.puppet.skin, heights(-1, 1)
    canvas.shape(outline(view, view.surface, y), skin)
    side = heights(-0.6, 0.98, 25)
    right = np.pi / 2 - view.turn
    inner = right - 0.42 * np.sin(np.linspace(0, np.pi, 25))
    shade = between(view.surface(right, side, 0.985), view.surface(inner, side))
    canvas.fill(shade, mix(skin, edge(skin), 0.16))


def draw_skin(canvas: Canvas, view: View) -> None:
    """Blushed cheeks, and freckles."""
    puppet, y = view.puppet, view.puppet.eye_y + 0.3
    for side in (-1, 1):
        for size, t in ((0.2, 0.5), (0.15, 1.0)):
            cheek = circle(side * 0.5, y, size, 0.75 * size)
            canvas.fill(view.face(*cheek.T), mix(puppet.skin, (240, 90, 100), t * puppet.blush))
        if puppet.freckles:
            for x, dy in ((0.36, 0.0), (0.46, -0.05), (0.55, 0.03), (0.43, 0.07)):
                canvas.disc(view.face([side * x], [y + dy])[0], 0.022, mix(puppet.skin, (140, 60, 30), 0.5))


def draw_wrinkles(canvas: Canvas, view: View) -> None:
    puppet, t = view.puppet, np.linspace(-1, 1, 13)
    colour = mix(puppet.skin, edge(puppet.skin), 0.45)
    for side in (-1, 1):
        under_eye = puppet.eye_x + 0.12 * t, puppet.eye_y + 0.27 - 0.04 * t * t
        beside_mouth = puppet.mouth_width + 0.08 + 0.04 * t, puppet.eye_y + 0.38 + 0.1 * t
        for x, y in (under_eye, beside_mouth):
            canvas.line(view.face(side * x, y), colour, 0.024)
    for height in (-0.46, -0.56):
        forehead = view.face(0.3 * t, height + 0.03 * np.cos(2.7 * t) - 0.04 * view.pose.brows)
        canvas.line(forehead, colour, 0.022)
