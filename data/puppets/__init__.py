"""Puppets: an endless, licence-free dataset of cartoon heads that move, drawn from a seed.

`data/make_puppets.py` writes it. Imports point down this list:

    dataset        clips on disk, with the landmarks beside them
    render         one picture: every part, from back to front
    landmarks      true places of ten points of a puppet
    body, head, face, hair, accessories, backgrounds    the parts of the drawing
    canvas         polygons, lines and discs on a picture that is averaged down
    view           from a place on the puppet to a place in the frame
    geometry       the shapes of head, hair and body
    motion         poses, and random motion
    identity, hairstyles, colours    who a puppet is

How a puppet is built: the head is a stack of ellipses in three dimensions. Every feature lies at an (azimuth,
height) on it, and `View` turns such places into the frame. So features slide over the head as it turns, ears
go behind it, and a landmark is the place of the thing drawn. Everything is polygons on a large canvas, which
is averaged down. Their corners are whole pixels, so that the last bit of a sine hardly ever
changes a picture.

Shapes: N points, L landmarks. `xy` is in [-1, 1], where -1 and 1 are the centres of the corner pixels, y
down. Head units: the face is 2 high (y from -1 at the crown to 1 at the chin), x points to the right of the
picture, z towards us. Azimuths are angles around the head, 0 at the front and positive to the right. Angles
are radians. Colours are RGB, 0 to 255.
"""
