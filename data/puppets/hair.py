"""Hair: behind the head, before it, and what cuts add to it."""

from __future__ import annotations

import functools

import numpy as np

from data.puppets.canvas import Canvas
from data.puppets.colours import INK, WHITE, Colour, edge, mix
from data.puppets.geometry import hair_surface, hairline, ramp
from data.puppets.head import heights, outline
from data.puppets.identity import Puppet
from data.puppets.view import UNIT, View


def draw_back_hair(canvas: Canvas, view: View) -> None:
    """All hair that is behind the head and the neck."""
    hair, colour = view.puppet.cut, mix(view.puppet.hair_colour, INK, 0.22)
    if hair.extra in BEHIND:
        BEHIND[hair.extra](canvas, view, view.puppet.hair_colour)
    top, bottom = (-0.4, 0.5) if view.puppet.hair == "crown" else (-1, hair.back or 0.5)
    canvas.shape(outline(view, view.hair, heights(top, bottom), 1.02 if hair.back else 0.97), colour)
    draw_curls(canvas, view, behind=True)


def draw_front_hair(canvas: Canvas, view: View) -> None:
    """All hair that is in front of the head."""
    puppet, hair = view.puppet, view.puppet.cut
    if puppet.hair == "crown":
        draw_crown(canvas, view)
        return
    azimuth = view.span()
    line = hairline(puppet, azimuth)
    right, left = (view.hair(azimuth[i], heights(-1, line[i], 30)) for i in (-1, 0))
    canvas.shape(np.concatenate([view.hair(azimuth, line), right[::-1], left]), puppet.hair_colour)
    if hair.curl:
        draw_curls(canvas, view, behind=False)
    else:
        draw_strands(canvas, view)
    if hair.extra in BEFORE:
        BEFORE[hair.extra](canvas, view, puppet.hair_colour)


def draw_crown(canvas: Canvas, view: View) -> None:
    """What is left around a bald head: hair above the ears and at the back."""
    for side in (-1, 1):
        azimuth = side * np.linspace(np.radians(74), max(np.radians(74), np.pi / 2 - side * view.turn), 31)
        top = 0.04 - 0.5 * ramp(np.abs(np.degrees(azimuth)), 72, 112)
        border = [view.hair(azimuth, hairline(view.puppet, azimuth)), view.hair(azimuth, top)[::-1]]
        canvas.shape(np.concatenate(border), view.puppet.hair_colour)


def draw_strands(canvas: Canvas, view: View) -> None:
    puppet, colour = view.puppet, view.puppet.hair_colour
    shine = np.radians(np.linspace(-70, -8, 25) * puppet.part)
    shine = shine[view.visible(shine)]
    if len(shine) > 2:
        thick = 0.07 * np.sin(np.linspace(0, np.pi, len(shine)))
        band = [view.hair(shine, -0.74 + thick), view.hair(shine, -0.74 - thick)[::-1]]
        canvas.fill(np.concatenate(band), mix(colour, WHITE, 0.3))
    for azimuth in np.radians(np.arange(-170, 180, 24)):
        if view.visible(azimuth):
            y = np.linspace(-0.9, float(hairline(puppet, azimuth)) - 0.07, 14)
            if y[-1] > -0.5:
                canvas.line(view.hair(np.full(14, azimuth), y)[4:], mix(colour, edge(colour), 0.45), 0.022)


@functools.lru_cache(maxsize=8)
def curl_places(puppet: Puppet) -> np.ndarray:
    """Where curls sit, (N, 3): an even spiral over all of the hair above the hairline."""
    radius = puppet.cut.curl
    count = round(15 / radius)
    i = np.arange(count) + 0.5
    azimuth, y = np.mod(i * np.pi * (1 + 5**0.5), 2 * np.pi) - np.pi, -1 + 1.5 * i / count
    keep = y < hairline(puppet, azimuth) - 0.1 * radius
    return hair_surface(puppet, azimuth[keep], y[keep])


def draw_curls(canvas: Canvas, view: View, behind: bool) -> None:
    """Curls as discs with a glint, from back to front: those behind the head, or those in front of it."""
    puppet, radius = view.puppet, view.puppet.cut.curl
    if not radius:
        return
    places = curl_places(puppet)
    toward = places[:, 2] * np.cos(view.pose.yaw) - places[:, 0] * np.sin(view.pose.yaw)
    order = np.argsort(toward)
    order = order[(toward[order] < 0) == behind]
    dark = 0.22 * (1 - ramp(toward, -0.5, 0))
    for centre, t in zip(view.solid(places[order]), dark[order], strict=True):
        colour = mix(puppet.hair_colour, INK, t)
        canvas.disc(centre, radius, mix(colour, edge(colour), 0.5))
        canvas.disc(centre - (0.012, 0.016), radius - 0.035, colour)
        canvas.disc(centre - 0.35 * radius * UNIT * view.pose.scale, 0.25 * radius, mix(colour, WHITE, 0.14))


# ---- What cuts add -----------------------------------------------------------


def draw_knot(
    canvas: Canvas, view: View, place: tuple[float, float, float], radius: float, colour: Colour
) -> None:
    """Hair wound into a ball."""
    centre = view.solid([place])[0]
    canvas.blob([centre], [radius], colour)
    wind = 0.56 * radius * np.array([(-1, 0.2), (-0.4, -0.5), (0.4, -0.5), (1, 0.2)])
    canvas.line(view.beside(centre, wind), mix(colour, edge(colour), 0.5), 0.024)


def bun(canvas: Canvas, view: View, colour: Colour) -> None:
    draw_knot(canvas, view, (0, -1.26, -0.35), 0.34, colour)


def buns(canvas: Canvas, view: View, colour: Colour) -> None:
    for side in (-1, 1):
        draw_knot(canvas, view, (side * 0.72, -0.98, -0.15), 0.32, colour)


def ponytail(canvas: Canvas, view: View, colour: Colour) -> None:
    """Hair that is tied at the back and falls on one side."""
    t, side = np.linspace(0, 1, 24), view.puppet.part
    y = -0.85 - 0.4 * np.sin(np.pi * np.minimum(2 * t, 1)) + 1.9 * t * t
    path = np.stack([side * (0.55 + 0.75 * np.sin(2.2 * t)), y, -0.5 - 0.1 * t], 1)
    canvas.blob(view.hang(path), 0.14 + 0.14 * np.sin(np.pi * t**0.8), mix(colour, INK, 0.1))
    canvas.blob(view.hang(path[1:2]), [0.16], view.puppet.accent)


def braids(canvas: Canvas, view: View, colour: Colour) -> None:
    w = view.puppet.width
    for side in (-1, 1):
        for i in range(6):
            place = np.array([(side * (w + 0.16 + 0.02 * i), 0.36 + 0.2 * i, -0.1)])
            canvas.blob(view.hang(place), [0.17 - 0.012 * i], colour)
        canvas.blob(view.hang(np.array([(side * (w + 0.28), 1.46, -0.1)])), [0.09], view.puppet.accent)
        canvas.blob(view.hang(np.array([(side * (w + 0.29), 1.6, -0.1)])), [0.12], colour)


def spikes(canvas: Canvas, view: View, colour: Colour) -> None:
    for y, reach, step in ((-0.86, 1.42, 45), (-0.68, 1.36, 36)):
        for azimuth in np.radians(np.arange(-108, 109, step)):
            foot = hair_surface(view.puppet, azimuth + np.array((-0.42, 0.42)), y)
            tip = hair_surface(view.puppet, azimuth + 0.25 * view.puppet.part, y - 0.06)[None] * reach
            canvas.shape(view.solid(np.concatenate([foot[:1], tip, foot[1:]])), colour)


def quiff(canvas: Canvas, view: View, colour: Colour) -> None:
    t, side = np.linspace(0, 1, 9), view.puppet.part
    for row in (0.0, 0.14):
        y = -0.82 - 0.3 * np.sin(np.pi * (0.15 + 0.75 * t)) - row
        path = np.stack([side * (0.62 - 1.3 * t), y, 0.5 - 2 * row + 0.1 * t], 1)
        canvas.blob(view.solid(path), 0.15 + 0.12 * t, colour)


# By `Hair.extra`: drawn behind the head, or in front of it.
BEHIND = {"bun": bun, "buns": buns, "ponytail": ponytail}
BEFORE = {"braids": braids, "spikes": spikes, "quiff": quiff}
