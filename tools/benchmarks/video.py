"""Measure the two ways to read a video: two random frames against the whole clip, and memory against length.

    python -m benchmarks.video

Prints, for H.264 clips of 150 frames of 256x256 with several keyframe spacings, the time of reading two
random frames and of decoding the whole clip with PyAV (through our `media/`) and with imageio-ffmpeg; then
the peak memory of iterating 3000 frames and 30. Each pair of numbers comes from one run on one machine, so
read the ratios.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np

from media.clips import VideoClip, open_clip
from media.decoding import video_index
from tools.benchmarks.processes import peak_memory, run_alone

FRAMES, SIZE, FPS, REPEATS = 150, 256, 25, 20


def write_clip(path: Path, frames: int, keyframe_spacing: int) -> None:
    """A textured square circling over a drifting textured background, with film grain."""
    rng = np.random.default_rng(0)
    background = np.kron(rng.integers(0, 256, (40, 40, 3)), np.ones((16, 16, 1))).astype(np.int16)
    face = np.kron(rng.integers(0, 256, (16, 16, 3)), np.ones((8, 8, 1))).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": str(keyframe_spacing)})
        stream.width = stream.height = SIZE
        for number in range(frames):
            drift = number % 300
            frame = background[drift : drift + SIZE, :SIZE].copy()
            top, left = (int(64 + 40 * wave(number / 8)) for wave in (np.sin, np.cos))
            frame[top : top + len(face), left : left + len(face)] = face
            frame += rng.integers(-6, 7, frame.shape, dtype=np.int16)
            picture = av.VideoFrame.from_ndarray(frame.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def seconds(action: Callable[[], object]) -> float:
    """Mean time of `action` after one call that warms caches up."""
    action()
    start = time.perf_counter()
    for _ in range(REPEATS):
        action()
    return (time.perf_counter() - start) / REPEATS


def imageio_frames(path: Path, first: int, count: int | None) -> list[np.ndarray]:
    """`count` frames from frame `first` on (all for None), decoded by a process of its own."""
    seek = ["-ss", str((first - 0.5) / FPS)] if first else []
    stop = [] if count is None else ["-frames:v", str(count)]
    reader = imageio_ffmpeg.read_frames(str(path), input_params=seek, output_params=stop)
    next(reader)  # the header
    return [np.frombuffer(frame, np.uint8).reshape(SIZE, SIZE, 3) for frame in reader]


def compare_reading(folder: Path) -> None:
    print(f"{FRAMES} frames of {SIZE}x{SIZE}, ms      two frames   whole clip   ratio")
    for spacing in (12, 50, 250):
        path = folder / f"every{spacing}.mp4"
        write_clip(path, FRAMES, spacing)
        print(f"keyframes {spacing} apart")
        compare_libraries(path)


def compare_libraries(path: Path) -> None:
    rng = np.random.default_rng(0)

    def pair() -> np.ndarray:
        return rng.choice(FRAMES, 2, replace=False)

    def first_visit() -> np.ndarray:
        video_index.cache_clear()
        return VideoClip(path).read(pair())

    whole = seconds(lambda: list(VideoClip(path)))
    report("  PyAV", seconds(lambda: VideoClip(path).read(pair())), whole)
    report("  PyAV, first visit", seconds(first_visit), whole)
    report(
        "  imageio-ffmpeg",
        seconds(lambda: [imageio_frames(path, int(number), 1) for number in pair()]),
        seconds(lambda: imageio_frames(path, 0, None)),
    )


def report(name: str, two: float, whole: float) -> None:
    print(f"{name:30s}  {two * 1e3:10.1f}   {whole * 1e3:10.1f}   {whole / two:5.1f}", flush=True)


def compare_memory(folder: Path) -> None:
    peaks = {}
    for frames in (30, 3000):
        path = folder / f"long{frames}.mp4"
        write_clip(path, frames, 250)
        peaks[frames] = float(run_alone("benchmarks.video", str(path)))
        print(f"peak memory of iterating {frames:4d} frames: {peaks[frames]:.1f} MiB")
    print(f"difference: {peaks[3000] - peaks[30]:.1f} MiB")


def print_peak_of_iterating(path: str) -> None:
    """Print the peak memory of this process in MiB after iterating `path`."""
    for _ in open_clip(path):
        pass
    print(peak_memory())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_peak_of_iterating(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as name:
            compare_reading(Path(name))
            compare_memory(Path(name))
