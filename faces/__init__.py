"""Faces in pictures and videos: find them, follow them over time, choose, cut out, put back.

A frame is (H, W, 3) uint8 RGB, upright. A box of a face is left, top, right, bottom in pixels of it.
"""
