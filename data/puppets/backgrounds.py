"""What is behind the puppet. Each kind draws in xy on a canvas that holds a gradient from colour a to b."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from data.puppets.canvas import Canvas, circle
from data.puppets.colours import WHITE, Colour, mix
from data.puppets.identity import Background, pick


def plain(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    """Nothing but the gradient."""


def halo(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    for radius, t in ((0.95, 0.3), (0.75, 0.6)):
        canvas.fill(circle(0, -0.1, radius, count=99), mix(a, WHITE, t))


def rays(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    count, start = int(rng.integers(7, 13)), rng.random()
    for angle in (np.arange(count) + start) * 2 * np.pi / count:
        spread = angle + np.array((-0.5, 0.5)) * np.pi / count
        ray = [(0, 0.1), *zip(3 * np.cos(spread), 0.1 + 3 * np.sin(spread), strict=True)]
        canvas.fill(ray, mix(b, WHITE, 0.35))


def spots(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    step, shift = rng.uniform(0.24, 0.4), rng.uniform(0, 0.3)
    for row, y in enumerate(np.arange(-1.1 + shift * step, 1.2, step * 0.8)):
        for x in np.arange(-1.3 + step / 2 * (row % 2) + shift, 1.2, step):
            canvas.disc((x, y), 0.3 * step, mix(b, WHITE, 0.4))


def diagonals(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    step, lean = rng.uniform(0.25, 0.5), pick(rng, (-1, 0, 1))
    for x in np.arange(-3, 3, step):
        top, bottom = (x, x + step / 2), (x + step / 2 + 2 * lean, x + 2 * lean)
        canvas.fill([*((x, -1.1) for x in top), *((x, 1.1) for x in bottom)], mix(b, WHITE, 0.3))


def hills(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    sun_x, sun_y = rng.uniform((-0.8, -0.8), (0.8, -0.4))
    canvas.fill(circle(sun_x, sun_y, 0.2), mix((255, 236, 170), WHITE, 0.3))
    x = np.linspace(-1.1, 1.1, 45)
    ranges = ((0.1, (150, 200, 180)), (0.35, (118, 182, 140)), (0.6, (92, 160, 112)))
    for layer, (base, green) in enumerate(ranges):
        y = base + 0.14 * np.sin(rng.uniform(2, 4) * x + rng.uniform(0, 6)) + 0.02 * layer
        canvas.fill([(-1.1, 1.1), *zip(x, y, strict=True), (1.1, 1.1)], mix(green, a, 0.25))


def lights(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    for _ in range(22):
        centre, radius = rng.uniform(-1, 1, 2), rng.uniform(0.06, 0.4)
        canvas.disc(centre, radius, mix(pick(rng, (a, b)), WHITE, rng.uniform(0.15, 0.55)))


def room(canvas: Canvas, rng: np.random.Generator, a: Colour, b: Colour) -> None:
    x, y = rng.choice((-0.62, 0.62)), rng.uniform(-0.6, -0.4)
    glass = (168, 214, 240)
    for w, h, colour in ((0.33, 0.4, WHITE), (0.27, 0.33, glass), (0.02, 0.33, WHITE), (0.27, 0.02, WHITE)):
        canvas.fill([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)], colour)
    canvas.fill([(-1.1, 0.5), (1.1, 0.5), (1.1, 1.1), (-1.1, 1.1)], mix(b, (150, 110, 80), 0.3))
    canvas.fill([(-1.1, 0.45), (1.1, 0.45), (1.1, 0.52), (-1.1, 0.52)], mix(a, WHITE, 0.7))


BACKGROUNDS = {draw.__name__: draw for draw in (plain, halo, rays, spots, diagonals, hills, lights, room)}


@functools.lru_cache(maxsize=2)
def backdrop(background: Background, size: int) -> Image.Image:
    """The background as large as the picture of a `Canvas` before it is averaged down."""
    (a, b), canvas = background.colours, Canvas(size)
    t = np.linspace(0, 1, canvas.image.height)[:, None, None]
    column = np.rint((1 - t) * a + t * np.array(mix(a, b, 0.6))).astype(np.uint8)  # (height, 1, 3)
    canvas.image.paste(Image.fromarray(np.repeat(column, canvas.image.width, axis=1)))
    BACKGROUNDS[background.kind](canvas, np.random.default_rng(background.seed), a, b)
    return canvas.image
