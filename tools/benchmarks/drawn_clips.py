"""Clips to measure with: a camera's video, and a dataset of textured discs that move."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
from scipy import ndimage

from media.clips import open_clip
from media.pictures import write_image

SIZE, FRAMES = 256, 150  # of a clip of the dataset


def write_dataset(root: Path, clips: int) -> None:
    """Write the same clips as .mp4 and as folders of .png, each kind a dataset of its own."""
    for kind in ("mp4", "png"):
        for split in ("train", "test"):
            (root / kind / split).mkdir(parents=True)
    for number in range(clips):
        video, folder = root / f"mp4/train/{number}.mp4", root / f"png/train/{number}"
        write_x264(video, draw_discs(number))
        folder.mkdir()
        for i, frame in enumerate(open_clip(video)):  # decoded, as frames in folders usually are
            write_image(folder / f"{i:07d}.png", frame)


def draw_discs(seed: int) -> Iterator[np.ndarray]:
    """Yield frames of textured discs on a textured background, with a little noise."""
    rng = np.random.default_rng(seed)
    textures = [ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE, 3)), (3, 3, 0)) * 300 for _ in range(4)]
    rows, columns = np.mgrid[:SIZE, :SIZE]
    phases, colours = rng.uniform(0, 6.28, (4, 2)), rng.uniform(60, 200, (4, 3))
    for number in range(FRAMES):
        frame = colours[0] + textures[0]
        for texture, phase, colour in zip(textures[1:], phases[1:], colours[1:], strict=True):
            top, left = (128 + 70 * np.sin(phase + number / 20)).round().astype(int)
            inside = (rows - top) ** 2 + (columns - left) ** 2 < 40**2
            frame[inside] = (colour + np.roll(texture, (top, left), axis=(0, 1)))[inside]
        yield (frame + rng.normal(scale=2, size=frame.shape)).clip(0, 255).astype(np.uint8)


def write_camera_clip(path: Path, frames: int = 60, height: int = 1080, width: int = 1920) -> None:
    """Write a texture that moves, in the size of a camera's video."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    picture = np.kron(coarse, np.ones((20, 20, 1), np.uint8))
    write_x264(path, (np.roll(picture, (3 * t, 7 * t), axis=(0, 1)) for t in range(frames)))


def write_x264(path: Path, frames: Iterable[np.ndarray]) -> None:
    """Encode frames as others do: with x264's own settings, not with those of `media.writer`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
