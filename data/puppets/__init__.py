"""Puppets: an endless, licence-free dataset of cartoon heads that move, drawn from a seed.

`data/make_puppets.py` writes it. `dataset` has clips on disk, `render` draws a picture from back to front,
`view` turns places on the puppet into places in the frame, `motion` moves it, `identity` says who it is.

The head is a stack of ellipses in three dimensions. Every feature lies at an (azimuth, height) on it. So
features slide over the head as it turns, ears go behind it, and a landmark is the place of the thing drawn.
Polygons with corners at whole pixels of a large canvas, so that the last bit of a sine hardly ever changes a
picture, are averaged down.

Shapes: N points, L landmarks. `xy` is in [-1, 1], where -1 and 1 are the centres of the corner pixels, y
down. Head units: the face is 2 high (y from -1 at the crown to 1 at the chin), x points to the right of the
picture, z towards us. Azimuths are angles around the head, 0 at the front and positive to the right. Angles
are radians. Colours are RGB, 0 to 255.
"""
