"""Training samples per second of `FramesDataset` beside plain ways, with the augmentation of vox-256.

    python -m benchmarks.data

Draws 150-frame 256×256 clips of moving, textured shapes and stores them as H.264 .mp4, with the keyframes
that x264 sets by itself (at most 250 frames apart, so one in a clip) and with one every 30 frames. The png
folders hold the decoded frames of the first, as folders of frames usually do.

For mp4 the plain ways decode the whole clip, pick two frames, and augment with the same transform: as the
published pipeline does (imageio, the clip as one float array), with a loop of PyAV, and with this project's
own `read_video`. For png the plain way reads two frames with `skimage.io.imread` as float arrays and jitters
them as PIL images through torchvision, as the published pipeline does. On the "first visit", as in the first
epoch, nothing is remembered of a clip: each round reaches the clips by a path of its own.

Every method runs in one process with one thread of its own, in turn, clip by clip. The figures are medians
over all clips and rounds; "ratio" is how many samples this project makes in the time of one.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import av
import imageio
import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from skimage import io
from skimage.util import img_as_float32, img_as_ubyte
from torchvision.transforms import functional

from augmentation import AllAugmentationTransform
from frames_dataset import FramesDataset, read_video
from media.clips import open_clip

SIZE, FRAMES = 256, 150
JITTER = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1}
VOX_256 = {"flip_param": {"horizontal_flip": True, "time_flip": True}, "jitter_param": JITTER}
KINDS = {"x264": "mp4, x264", "every30": "mp4, 30", "png": "png"}
FIRST_VISIT, OURS = "this project, first visit", "this project"

ReadClip = Callable[[Path], Sequence[np.ndarray] | np.ndarray]
Seconds = dict[tuple[str, str], list[float]]  # of every sample, by (kind of clip, method)


# ---- Clips -------------------------------------------------------------------


def draw_clip(seed: int) -> np.ndarray:
    """Textured discs on a textured background, with a little noise: uint8 (FRAMES, SIZE, SIZE, 3)."""
    rng = np.random.default_rng(seed)
    textures = [ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE, 3)), (3, 3, 0)) * 300 for _ in range(4)]
    rows, columns = np.mgrid[:SIZE, :SIZE]
    phases, colours = rng.uniform(0, 6.28, (4, 2)), rng.uniform(60, 200, (4, 3))
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
    for number in range(FRAMES):
        frame = colours[0] + textures[0]
        for texture, phase, colour in zip(textures[1:], phases[1:], colours[1:], strict=True):
            top, left = (128 + 70 * np.sin(phase + number / 20)).round().astype(int)
            inside = (rows - top) ** 2 + (columns - left) ** 2 < 40**2
            frame[inside] = (colour + np.roll(texture, (top, left), axis=(0, 1)))[inside]
        frames[number] = (frame + rng.normal(scale=2, size=frame.shape)).clip(0, 255)
    return frames


def write_mp4(path: Path, frames: np.ndarray, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_pngs(folder: Path, clip: Iterable[np.ndarray]) -> None:
    folder.mkdir()
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"{number:07d}.png")


def write_dataset(root: Path, clips: int) -> None:
    for kind in KINDS:
        for part in ("train", "test"):
            (root / kind / part).mkdir(parents=True)
    for number in range(clips):
        frames = draw_clip(number)
        write_mp4(root / "x264" / "train" / f"{number}.mp4", frames, {})
        write_mp4(root / "every30" / "train" / f"{number}.mp4", frames, {"g": "30"})
        write_pngs(root / "png" / "train" / f"{number}", open_clip(root / "x264" / "train" / f"{number}.mp4"))


# ---- Plain ways to make a sample ---------------------------------------------


def imageio_array(path: Path) -> np.ndarray:
    return img_as_float32(np.array(imageio.mimread(path, memtest=False)))


def pyav_loop(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def own_read_video(path: Path) -> np.ndarray:
    return read_video(path, (SIZE, SIZE, 3))


WHOLE_CLIP: dict[str, ReadClip] = {
    "imageio, float array": imageio_array,
    "PyAV loop": pyav_loop,
    "own read_video": own_read_video,
}


def pick_two(
    read_clip: ReadClip, path: Path, transform: AllAugmentationTransform, rng: np.random.Generator
) -> np.ndarray:
    frames = read_clip(path)
    pair = np.stack([frames[number] for number in sorted(rng.integers(len(frames), size=2))])
    return np.ascontiguousarray(transform(pair, rng))


def skimage_and_pil(folder: Path, rng: np.random.Generator) -> np.ndarray:
    names = sorted(entry.name for entry in os.scandir(folder))
    frames = [
        img_as_float32(io.imread(folder / names[number]))
        for number in sorted(rng.integers(len(names), size=2))
    ]
    if rng.random() < 0.5:
        frames = frames[::-1]
    if rng.random() < 0.5:
        frames = [np.fliplr(frame) for frame in frames]
    amounts = {name: rng.uniform(-amount, amount) for name, amount in JITTER.items()}
    parts = [
        lambda image: functional.adjust_brightness(image, 1 + amounts["brightness"]),
        lambda image: functional.adjust_contrast(image, 1 + amounts["contrast"]),
        lambda image: functional.adjust_saturation(image, 1 + amounts["saturation"]),
        lambda image: functional.adjust_hue(image, amounts["hue"]),
    ]
    random.Random(int(rng.integers(2**32))).shuffle(parts)
    images = [Image.fromarray(img_as_ubyte(frame)) for frame in frames]
    for part in parts:
        images = [part(image) for image in images]
    return np.stack([img_as_float32(np.asarray(image)).transpose(2, 0, 1) for image in images])


# ---- Measuring ---------------------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=4, help="clips of each kind")
    parser.add_argument("--rounds", type=int, default=12, help="samples of each clip and method")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset(root, options.clips)
        report(measure(root, options.clips, options.rounds))


def measure(root: Path, clips: int, rounds: int) -> Seconds:
    """Seconds of every sample, by (kind of clip, method)."""
    transform = AllAugmentationTransform.from_config(VOX_256)
    seconds: Seconds = defaultdict(list)
    for number in range(rounds):
        rng = np.random.default_rng(number)
        for kind in KINDS:
            new_path = root / f"{kind}-{number}"
            new_path.symlink_to(root / kind)
            dataset = FramesDataset(new_path, augmentation_params=VOX_256)
            for clip in range(clips):
                path = dataset.folder / dataset.clips[clip]
                if kind == "png":
                    seconds[kind, "skimage, PIL, torchvision"].append(timed(skimage_and_pil, path, rng))
                else:
                    for name, read_clip in WHOLE_CLIP.items():
                        seconds[kind, name].append(timed(pick_two, read_clip, path, transform, rng))
                for epoch, name in enumerate((FIRST_VISIT, OURS)):
                    dataset.set_epoch(epoch, seed=number)
                    seconds[kind, name].append(timed(dataset.__getitem__, clip))
    return seconds


def timed(function: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def report(seconds: Seconds) -> None:
    print(f"{'clips':12}{'method':30}{'ms/sample':>10}{'samples/s':>11}{'ratio':>8}")
    for (kind, method), times in seconds.items():
        median, ours = np.median(times), np.median(seconds[kind, OURS])
        print(f"{KINDS[kind]:12}{method:30}{1000 * median:10.2f}{1 / median:11.1f}{median / ours:8.2f}")


if __name__ == "__main__":
    main()
