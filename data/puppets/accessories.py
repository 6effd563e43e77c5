"""Hats and glasses."""

from __future__ import annotations

import numpy as np

from data.puppets.canvas import Canvas, between, circle
from data.puppets.colours import INK, WHITE, edge, mix
from data.puppets.geometry import head_surface
from data.puppets.hairstyles import HAIRS
from data.puppets.head import heights
from data.puppets.view import View


def cap_outline(view: View, rim: float, swell: float) -> np.ndarray:
    """The dome above height `rim` of a head `swell` times as large."""
    azimuth, y = view.span(), heights(-1, rim, 30)
    right, left = (view.surface(azimuth[i], y, swell) for i in (-1, 0))
    return np.concatenate([view.surface(azimuth, rim, swell), right[::-1], left])


def strip(view: View, top: float, bottom: float, swell: float) -> np.ndarray:
    """A band around the head between two heights."""
    azimuth = view.span()
    return between(view.surface(azimuth, top, swell), view.surface(azimuth, bottom, swell))


def beanie(canvas: Canvas, view: View) -> None:
    colour, swell = view.puppet.accent, 1.17
    canvas.blob(view.solid([(0, -1.26, -0.05)]), [0.2], mix(colour, WHITE, 0.6))
    canvas.shape(cap_outline(view, -0.4, swell), colour)
    canvas.shape(strip(view, -0.56, -0.32, swell + 0.03), mix(colour, WHITE, 0.35))
    for azimuth in np.radians(np.arange(-170, 180, 20)):
        if view.visible(azimuth):
            rib = view.surface(azimuth, [-0.54, -0.34], swell + 0.03)
            canvas.line(rib, mix(colour, edge(colour), 0.3), 0.022)


def cap(canvas: Canvas, view: View) -> None:
    colour, t = view.puppet.accent, np.radians(np.linspace(-62, 62, 25))
    canvas.shape(cap_outline(view, -0.42, 1.15), colour)
    for azimuth in np.radians((-130, -45, 45, 130)):
        if view.visible(azimuth):
            canvas.line(view.surface(azimuth, np.linspace(-0.99, -0.45, 9), 1.15), edge(colour), 0.022)
    inner = head_surface(view.puppet, t, -0.5) * 1.15
    outer = inner + np.cos(t / np.radians(62) * np.pi / 2)[:, None] * np.array((0, 0.26, 0.5))
    canvas.shape(view.solid(between(inner, outer)), mix(colour, INK, 0.2))
    canvas.blob(view.solid([(0, -1.14, 0)]), [0.06], colour)


def headband(canvas: Canvas, view: View) -> None:
    hair = HAIRS[view.puppet.hair]
    canvas.shape(strip(view, -0.68, -0.52, hair.volume + 0.02 if hair else 1.02), view.puppet.accent)


def bow(canvas: Canvas, view: View) -> None:
    knot = np.array((0.5 * view.puppet.part, -1.02, 0.2))
    for side in (-1, 1):
        wing = np.array([(0, 0, 0), (0.34, -0.24, 0.05), (0.4, 0, 0), (0.34, 0.24, 0.05)]) * (side, 1, 1)
        canvas.shape(view.solid(knot + wing), view.puppet.accent)
    canvas.blob(view.solid(knot[None]), [0.1], mix(view.puppet.accent, INK, 0.12))


def flower(canvas: Canvas, view: View) -> None:
    centre = np.array((0.68 * view.puppet.part, -0.66, 0.5))
    petals = centre + np.pad(circle(0, 0, 0.15, count=6)[:-1], ((0, 0), (0, 1)))
    for petal in view.solid(petals):
        canvas.blob(petal[None], [0.11], mix(view.puppet.accent, WHITE, 0.25))
    canvas.blob(view.solid(centre[None]), [0.08], (250, 206, 92))


HATS = {"beanie": beanie, "cap": cap, "headband": headband, "bow": bow, "flower": flower}


def draw_glasses(canvas: Canvas, view: View) -> None:
    puppet = view.puppet
    colour = puppet.accent if sum(puppet.skin) < 400 else edge(puppet.accent)
    power = 1.0 if puppet.glasses == "round" else 0.55
    t = np.linspace(0, 2 * np.pi, 41)
    x, y = (0.29 * (np.sign(value) * np.abs(value) ** power) for value in (np.cos(t), np.sin(t)))
    for side in (-1, 1):
        canvas.line(view.face(side * (puppet.eye_x + x), puppet.eye_y + 0.02 + y, 0.1), colour, 0.055)
        azimuth = side * np.linspace(1.0, 1.6, 9)
        azimuth = azimuth[view.visible(azimuth)]
        if len(azimuth) > 1:
            canvas.line(view.surface(azimuth, puppet.eye_y - 0.02, 1.04), colour, 0.05)
    inner = puppet.eye_x - 0.29
    x = np.linspace(-inner, inner, 7)
    canvas.line(view.face(x, puppet.eye_y - 0.04 + 2 * x * x, 0.12), colour, 0.055)
