"""Faces in a video: find them, follow them over time, cut them out.

A frame is (H, W, 3) uint8 RGB, upright. A box of a face is left, top, right, bottom in pixels of it.
"""
