"""Pictures, clips and sound on disk: the only place that opens, seeks, decodes and encodes media.

`clips.open_clip` reads a folder of frames, a strip image or a video; `pictures.read_image` a picture.
`writer.VideoWriter` and `pictures.write_image` write. Every frame, read or written, is RGB uint8 of shape (H,
W, 3), upright; transparent pixels are laid on white. Whatever the file or the user got wrong is a
`MediaError` that names the file.
"""
