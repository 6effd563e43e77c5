"""The features of the face: eyes, brows, nose, mouth and beard."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from data.puppets.canvas import Canvas, between, circle
from data.puppets.colours import INK, WHITE, edge, mix
from data.puppets.identity import Puppet
from data.puppets.motion import Pose
from data.puppets.view import View

# ---- Eyes --------------------------------------------------------------------


def eye_contours(puppet: Puppet, blink: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lids of an eye beside its centre: u (N,) and heights of the upper and lower lid (N,)."""
    rx, ry = puppet.eye_size * np.array((1.12, 0.8) if puppet.eyes == "almond" else (0.88, 1.05))
    u = np.linspace(-1, 1, 25)
    arc = np.sqrt(np.clip(1 - np.abs(u) ** (1.7 if puppet.eyes == "almond" else 2), 0, 1))
    shut = 0.35 * ry * arc
    return u * rx, (1 - blink) * -ry * arc + blink * shut, (1 - blink) * ry * 0.9 * arc + blink * shut


def draw_eye(canvas: Canvas, view: View, side: int) -> None:
    """An eye: the ball, the iris and its glint, then the lids over them and the lashes."""
    puppet, pose = view.puppet, view.pose
    cx, cy = side * puppet.eye_x, puppet.eye_y

    def at(u: ArrayLike, v: ArrayLike) -> np.ndarray:
        return view.face(cx + np.asarray(u), cy + np.asarray(v), 0.01)

    u, top, bottom = eye_contours(puppet, 0.0)
    gaze = 0.25 * puppet.eye_size * np.array((pose.gaze_x, 0.5 * pose.gaze_y))
    if puppet.eyes == "bead":
        u, top, bottom = 0.66 * u, 0.86 * top, 0.86 * bottom
        canvas.fill(between(at(u, top), at(u, bottom)), INK)
    else:
        canvas.fill(between(at(u, top), at(u, bottom)), (255, 253, 248))
        for radius, colour in ((0.66, edge(puppet.iris)), (0.57, puppet.iris), (0.36, INK)):
            canvas.fill(at(*circle(gaze[0], gaze[1], radius * puppet.eye_size).T), colour)
    canvas.fill(at(*circle(gaze[0] - 0.06, gaze[1] - 0.075, 0.05 * puppet.eye_size / 0.18).T), WHITE)
    shut_u, shut_top, shut_bottom = eye_contours(puppet, pose.blink)
    shut_u = shut_u * u[-1] / shut_u[-1]
    lid = mix(puppet.skin, edge(puppet.skin), 0.12)
    canvas.fill(between(at(1.08 * u, 1.08 * top - 0.01), at(shut_u, shut_top)), lid)
    canvas.fill(between(at(1.08 * u, 1.08 * bottom + 0.01), at(shut_u, shut_bottom)), puppet.skin)
    canvas.line(at(shut_u, shut_top), INK, 0.055 if puppet.lashes else 0.042)
    if puppet.lashes:
        for tip in (2, 5):
            corner = np.array((side * shut_u[-tip], shut_top[-tip]))
            away = np.array((side * 0.085, -0.07 + 0.1 * pose.blink))
            canvas.line(at(*np.stack([corner, corner + away]).T), INK, 0.036)


def draw_brow(canvas: Canvas, view: View, side: int) -> None:
    puppet = view.puppet
    t = np.linspace(-1, 1, 13)
    x = side * (puppet.eye_x + 0.19 * t)
    y = puppet.eye_y - puppet.eye_size - 0.15 - 0.07 * view.pose.brows + 0.05 * t * t + puppet.brow_tilt * t
    width = puppet.brow * (1 - 0.35 * t)
    colour = mix(mix(puppet.hair_colour, INK, 0.25), puppet.skin, 0.1)
    canvas.fill(between(view.face(x, y - width / 2, 0.02), view.face(x, y + width / 2, 0.02)), colour)


# ---- Nose and mouth ----------------------------------------------------------


def nose_tip(view: View) -> np.ndarray:
    """The landmark of the nose in the frame, (1, 2)."""
    return view.face([0.0], [view.puppet.eye_y + 0.27], 0.12)


def draw_nose(canvas: Canvas, view: View) -> None:
    puppet, size, y = view.puppet, 0.1 * view.puppet.nose_size, view.puppet.eye_y + 0.27
    shade, glow = mix(puppet.skin, edge(puppet.skin), 0.6), mix(puppet.skin, WHITE, 0.45)
    tip = nose_tip(view)[0]
    if puppet.nose == "line":
        bridge = view.face([0.02, 0.02], [y - 0.26, y - 0.2], 0.04)
        wing = view.beside(tip, size * np.array([(0.5, 0), (0.3, 0.5), (-0.5, 0.5)]))
        canvas.line(np.concatenate([bridge, wing]), shade, 0.036)
        return
    wide = 1.35 if puppet.nose == "round" else 1.0
    ball = mix(puppet.skin, (225, 80, 80), 0.22)
    canvas.fill(view.beside(tip, circle(0, 0.012, size * wide + 0.016, size + 0.016)), shade)
    canvas.fill(view.beside(tip, circle(0, 0, size * wide, size)), ball)
    canvas.fill(view.beside(tip, circle(-0.3 * size, -0.35 * size, 0.3 * size)), glow)


def corner_height(pose: Pose) -> float:
    """Height of the corners of the mouth on the face."""
    return 0.56 - 0.055 * pose.smile - 0.02 * pose.mouth


def draw_mouth(canvas: Canvas, view: View) -> None:
    """The lips and, between them, the dark of an open mouth with teeth and tongue."""
    puppet, pose = view.puppet, view.pose
    u = np.linspace(-1, 1, 21)
    arch, x = 1 - u * u, u * puppet.mouth_width
    middle = corner_height(pose) + 0.1 * pose.smile * arch
    top, bottom = middle - 0.07 * pose.mouth * arch, middle + 0.22 * pose.mouth * np.sqrt(arch)
    if pose.mouth > 0.05:
        canvas.fill(between(view.face(x, top), view.face(x, bottom)), (112, 30, 44))
        teeth = np.minimum(top + 0.09, bottom)
        canvas.fill(between(view.face(x, top), view.face(x, teeth)), WHITE)
        tongue = np.maximum(bottom - 0.1 * pose.mouth * arch, top)
        canvas.fill(between(view.face(x, tongue), view.face(x, bottom)), (232, 110, 110))
    colour = puppet.lips if puppet.lip > 0.05 else mix(puppet.lips, INK, 0.7)
    for lip in (bottom, top):
        canvas.line(view.face(x, lip), colour, puppet.lip)


# ---- Beards ------------------------------------------------------------------


def draw_beard(canvas: Canvas, view: View) -> None:
    """What grows on chin and jaw: a goatee, stubble or a full beard."""
    puppet, colour = view.puppet, mix(view.puppet.hair_colour, INK, 0.08)
    if puppet.beard == "goatee":
        x, y = circle(0, 0.86, 0.2, 0.2).T
        canvas.shape(view.face(x, y, 0.03), colour)
        return
    azimuth = view.span()
    top = np.interp(
        np.abs(np.degrees(azimuth)), (0, 24, 36, 48, 60, 72, 88), (0.46, 0.47, 0.56, 0.57, 0.48, 0.32, 0.0)
    )
    swell = 1.06 if puppet.beard == "full" else 1.0
    right, left = (view.surface(azimuth[i], np.linspace(top[i], 1, 30), swell) for i in (-1, 0))
    border = np.concatenate([view.surface(azimuth, top), right, left[::-1]])
    if puppet.beard == "full":
        canvas.shape(border, colour)
    else:
        canvas.fill(border, mix(puppet.skin, puppet.hair_colour, 0.28))


def draw_moustache(canvas: Canvas, view: View) -> None:
    """A half moustache on each side, which follows the corners of the mouth."""
    puppet, t = view.puppet, np.linspace(0, 1, 11)
    y = corner_height(view.pose) - 0.13
    for side in (-1, 1):
        top, bottom = y - 0.02 + 0.1 * t * t, y + 0.1 * np.sqrt(1 - t * t) + 0.08 * t
        x = side * t * (puppet.mouth_width + 0.1)
        border = between(view.face(x, top, 0.04), view.face(x, bottom, 0.04))
        canvas.shape(border, mix(puppet.hair_colour, INK, 0.12))
