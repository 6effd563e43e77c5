"""Pictures, clips and sound on disk: the only place that opens, seeks, decodes and encodes media.

Every frame is RGB uint8 of shape (H, W, 3), upright; transparent pixels are laid on white. Whatever the file
or the user got wrong is a `MediaError` that names the file.
"""
