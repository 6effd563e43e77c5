"""One picture of a puppet: every part, from back to front."""

from __future__ import annotations

import numpy as np

from data.puppets.accessories import HATS, draw_glasses
from data.puppets.backgrounds import backdrop
from data.puppets.body import draw_body, draw_neck
from data.puppets.canvas import Canvas
from data.puppets.face import draw_beard, draw_brow, draw_eye, draw_moustache, draw_mouth, draw_nose
from data.puppets.hair import draw_back_hair, draw_front_hair
from data.puppets.hairstyles import HAIRS
from data.puppets.head import draw_ear, draw_head, draw_skin, draw_wrinkles
from data.puppets.identity import Puppet
from data.puppets.motion import Pose
from data.puppets.view import View


def render(puppet: Puppet, pose: Pose, size: int) -> np.ndarray:
    """The puppet in a pose, uint8 (size, size, 3), RGB."""
    canvas, view, hair = Canvas(size), View(puppet, pose), HAIRS[puppet.hair]
    near = -1 if view.turn > 0 else 1  # the side of the ear in front of the head
    ears = hair is None or hair.ears  # whether they show through the hair
    canvas.scale = pose.scale * puppet.zoom
    canvas.image.paste(backdrop(puppet.background, size))
    if hair:
        draw_back_hair(canvas, view)
    draw_body(canvas, view)
    draw_neck(canvas, view)
    draw_ear(canvas, view, -near)
    draw_head(canvas, view)
    draw_skin(canvas, view)
    if puppet.age == "elder":
        draw_wrinkles(canvas, view)
    if puppet.beard in ("full", "stubble", "goatee"):
        draw_beard(canvas, view)
    draw_mouth(canvas, view)
    if puppet.beard in ("full", "moustache", "goatee"):
        draw_moustache(canvas, view)
    for side in (-1, 1):
        draw_eye(canvas, view, side)
        draw_brow(canvas, view, side)
    draw_nose(canvas, view)
    if not ears:
        draw_ear(canvas, view, near)
    if puppet.glasses != "none":
        draw_glasses(canvas, view)
    if hair:
        draw_front_hair(canvas, view)
    if ears:
        draw_ear(canvas, view, near)
    if puppet.hat != "none":
        HATS[puppet.hat](canvas, view)
    return canvas.finish()
