"""The body: clothes, their patterns and collars, and the neck. Points are in head units."""

from __future__ import annotations

import numpy as np

from data.puppets.canvas import LINE, Canvas, both_sides
from data.puppets.colours import INK, WHITE, edge, mix
from data.puppets.geometry import NECK, body_edge, shoulder_x, shoulder_y
from data.puppets.view import View


def draw_body(canvas: Canvas, view: View) -> None:
    """The torso with its pattern, sleeves and overalls, but without the collar."""
    puppet = view.puppet
    s = np.linspace(0, np.pi / 2, 16)
    torso = both_sides(
        [*zip(shoulder_x(puppet, s), shoulder_y(s), strict=True), (puppet.shoulders + 0.15, 3.2)]
    )
    canvas.fill(view.body(torso), puppet.fabric)
    draw_pattern(canvas, view)
    canvas.line(view.body(torso), edge(puppet.fabric))
    for side in (-1, 1):
        sleeve = [(side * (puppet.shoulders - 0.2), 1.95), (side * (puppet.shoulders - 0.16), 3.2)]
        canvas.line(view.body(sleeve), edge(puppet.fabric))
    if puppet.top == "overalls":
        draw_overalls(canvas, view)


def draw_overalls(canvas: Canvas, view: View) -> None:
    puppet = view.puppet
    for side in (-1, 1):
        strap = np.array([(0.48, 1.1), (0.72, 1.16), (0.66, 3.2), (0.4, 3.2)]) * (side, 1)
        canvas.shape(view.body(strap), puppet.fabric2)
    canvas.shape(view.body([(-0.62, 1.86), (0.62, 1.86), (0.62, 3.2), (-0.62, 3.2)]), puppet.fabric2)
    for side in (-1, 1):
        canvas.disc(view.body([(side * 0.54, 1.84)])[0], 0.07, (250, 214, 120))


def draw_pattern(canvas: Canvas, view: View) -> None:
    puppet = view.puppet
    if puppet.pattern == "stripes":
        for y in np.arange(1.36, 2.8, 0.3):
            right = [(body_edge(puppet, y + dy), y + dy) for dy in np.linspace(0, 0.13, 6)]
            canvas.fill(view.body(both_sides(right)), puppet.fabric2)
    elif puppet.pattern == "dots":
        for row, y in enumerate(np.arange(1.32, 2.8, 0.2)):
            for x in np.arange(-1.5 + 0.13 * (row % 2), 1.5, 0.26):
                if abs(x) < body_edge(puppet, y - 0.06) - 0.08:
                    canvas.disc(view.body([(x, y)])[0], 0.055, puppet.fabric2)


def draw_neck(canvas: Canvas, view: View) -> None:
    """The neck, the shadow of the head on it, and the collar."""
    puppet, skin = view.puppet, mix(view.puppet.skin, edge(view.puppet.skin), 0.18)
    t = np.linspace(0, np.pi, 17)
    bottom = np.stack([(NECK + 0.02) * np.cos(t), 1.15 + 0.24 * np.sin(t)], 1)
    if puppet.top == "vneck":
        bottom = np.array([(NECK, 1.15), (0, 1.72), (-NECK, 1.15)])
    jaw = view.solid([(-0.9 * NECK, 0.5, -0.1), (0.9 * NECK, 0.5, -0.1)])
    neck = np.concatenate([jaw, view.body(bottom)])
    canvas.shape(neck, skin)
    under = view.body(np.stack([NECK * 0.97 * np.cos(t), 1.04 + 0.1 * np.sin(t)], 1))
    canvas.fill(np.concatenate([jaw, under]), mix(skin, edge(skin), 0.45))
    TOPS[puppet.top](canvas, view, bottom)


# ---- Collars -----------------------------------------------------------------


def crew(canvas: Canvas, view: View, bottom: np.ndarray) -> None:
    """A round collar, along the bottom of the neck (N, 2); on a v-neck it is pointed."""
    canvas.line(view.body(bottom), edge(view.puppet.fabric), 0.11)
    canvas.line(view.body(bottom), mix(view.puppet.fabric, WHITE, 0.25), 0.06)


def collar(canvas: Canvas, view: View, bottom: np.ndarray) -> None:
    for side in (-1, 1):
        flap = np.array([(NECK - 0.04, 1.0), (NECK + 0.14, 1.12), (0.4, 1.6), (0.02, 1.4)]) * (side, 1)
        canvas.shape(view.body(flap), mix(view.puppet.fabric2, WHITE, 0.4))


def hood(canvas: Canvas, view: View, bottom: np.ndarray) -> None:
    t = np.linspace(-0.25, np.pi + 0.25, 21)
    rim = view.body(np.stack([0.47 * np.cos(t), 1.16 + 0.28 * np.sin(t)], 1))
    canvas.line(rim, edge(view.puppet.fabric), 0.29)
    canvas.line(rim, mix(view.puppet.fabric, INK, 0.1), 0.23)
    for side in (-1, 1):
        canvas.line(view.body([(side * 0.2, 1.5), (side * 0.22, 1.88)]), WHITE, 0.05)


def turtle(canvas: Canvas, view: View, bottom: np.ndarray) -> None:
    right = [(NECK + 0.04, 0.98), (NECK + 0.1, 1.1), (NECK + 0.1, 1.3), (0.22, 1.44)]
    canvas.shape(view.body(both_sides(right)), mix(view.puppet.fabric, WHITE, 0.15))
    canvas.line(
        view.body([(-NECK - 0.06, 1.12), (0, 1.2), (NECK + 0.06, 1.12)]), edge(view.puppet.fabric), LINE / 2
    )


TOPS = {"crew": crew, "vneck": crew, "collar": collar, "hood": hood, "turtle": turtle, "overalls": crew}
