"""Pictures of docs/animate.md: what each option of the demo does, drawn with the model that ships.

`tools/make_pictures.py` calls `write_options`. Pictures are uint8 (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from data.puppets.dataset import FPS
from data.puppets.motion import Pose
from faces.options import Corners
from faces.paste import Paster
from faces.preview import preview
from inference.animation import SourcePictures, cut_source, make_animators, result_frame, transfer
from inference.animator import Animator
from inference.motion import smooth
from inference.networks import InferenceNetworks
from inference.options import DemoOptions
from media.pictures import fit
from media.tensors import to_tensor
from tools.drawing import grid, label, scaled
from utils.files import atomic_write

Portrait = Callable[[int, int, Pose | None], np.ndarray]  # number of a puppet, size, pose -> its picture

SCENE = (480, 640)
FIRST, SECOND = (300, 60, 620, 380), (40, 170, 240, 370)  # where the portraits hang
SCENE_PUPPETS, DRIVING, LARGE = (17, 21), 22, 33  # numbers of puppets
NOISE = 4 / 255  # standard deviation of a pixel's noise, for the jitter


def write_options(
    out: Path, networks: InferenceNetworks, size: int, portrait: Portrait, poses: list[Pose]
) -> list[Path]:
    """All pictures, for a model of `size` x `size`. `poses` are those of the driving puppet."""
    driving = [portrait(DRIVING, size, pose) for pose in poses]
    wall = scene(portrait)
    pictures = {
        "preview.jpg": preview(wall, np.zeros((0, 4)), [FIRST], [fit(wall, (size, size), "stretch", FIRST)]),
        "paste-back.jpg": pasted(networks, size, wall, [FIRST], driving),
        "face-all.jpg": pasted(networks, size, wall, [FIRST, SECOND], driving),
        "smooth.png": jitter(networks, portrait(SCENE_PUPPETS[0], size, None)),
        "size.jpg": larger(networks, size, portrait, poses),
    }
    for name, picture in pictures.items():
        write_small(out / name, picture)
    return [out / name for name in pictures]


def write_small(path: Path, picture: np.ndarray) -> None:
    """A .jpg, or a .png with few colours."""
    image = Image.fromarray(picture)
    with atomic_write(path) as temporary:
        if path.suffix == ".png":
            image.quantize(64).save(temporary, format="PNG", optimize=True)
        else:
            image.save(temporary, format="JPEG", quality=82, optimize=True)


def scene(portrait: Portrait) -> np.ndarray:
    """Two portraits on a wall."""
    wall = np.linspace(90, 170, SCENE[0], dtype=np.uint8)[:, None, None] + np.zeros(
        (1, SCENE[1], 3), np.uint8
    )
    for number, (left, top, right, bottom) in zip(SCENE_PUPPETS, (FIRST, SECOND), strict=True):
        wall[top:bottom, left:right] = portrait(number, right - left, None)
    return wall


def pasted(
    networks: InferenceNetworks, size: int, wall: np.ndarray, boxes: list[Corners], driving: list[np.ndarray]
) -> np.ndarray:
    """The wall as it is and with its `boxes` moved, beside the driving frame that moves them."""
    paste = Paster(wall.shape[:2], boxes).paste
    source = replace(
        cut_source(wall, boxes, ((size, size), (2 * size, 2 * size)), "stretch"),
        paste=lambda pieces: paste(wall, pieces),
    )
    settings = DemoOptions(relative=True)
    animators = make_animators(networks, source, settings)
    moved = [animator.animate(map(to_tensor, [driving[0], driving[-1]])) for animator in animators]
    _, outs = zip(*moved, strict=True)
    return beside(wall, driving[-1], result_frame(outs, source, False))


def beside(wall: np.ndarray, frame: np.ndarray, result: np.ndarray) -> np.ndarray:
    half = (SCENE[0] // 2, SCENE[1] // 2)
    cells = [fit(wall, half, "stretch"), scaled(frame, half[0] // 2), fit(result, half, "stretch")]
    return grid([[label(text) for text in ("source", "driving", "result")], cells])


def jitter(networks: InferenceNetworks, still: np.ndarray, frames: int = 50) -> np.ndarray:
    """A keypoint of a still picture with new noise in each frame, as it is found and as it is smoothed."""
    random = np.random.default_rng(0)
    noisy = [
        (still / 255 + NOISE * random.standard_normal(still.shape)).clip(0, 1).astype(np.float32)
        for _ in range(frames)
    ]
    animator = Animator(*networks, to_tensor(still).unsqueeze(0), transfer(True, False))
    found = [item["kp_driving"] for item in animator.detect(map(to_tensor, noisy))]
    smoothed = list(smooth(found, FPS))
    figure = Figure(figsize=(6.4, 2.6), dpi=100)
    axes = figure.add_subplot()
    for name, keypoints in (("as found", found), ("--smooth", smoothed)):
        x = np.array([kp["value"][0, :, 0].numpy() for kp in keypoints]) * still.shape[1] / 2  # (frames, K)
        moves = int(np.std([kp["value"][0, :, 0].numpy() for kp in found], axis=0).argmax())
        axes.plot(x[:, moves] - x[:, moves].mean(), label=name)
    axes.set(xlabel="frame", ylabel="pixels", title="a keypoint of a still picture with noise")
    axes.legend(loc="upper right")
    figure.tight_layout()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def larger(networks: InferenceNetworks, size: int, portrait: Portrait, poses: list[Pose]) -> np.ndarray:
    """The model's result enlarged, the result of twice the size, and the true drawing."""
    large = 2 * size
    frames = [portrait(LARGE, size, pose) for pose in (poses[0], poses[-1])]
    picture = portrait(LARGE, large, poses[0])
    shown = [fit(last_result(networks, frames[0], frames, None), (large, large), "stretch")]
    shown += [last_result(networks, frames[0], frames, picture), portrait(LARGE, large, poses[-1])]
    return grid([[label(text) for text in ("enlarged", f"--size {large}", "drawn")], shown])


def last_result(
    networks: InferenceNetworks, source: np.ndarray, frames: list[np.ndarray], large: np.ndarray | None
) -> np.ndarray:
    sources = SourcePictures([source], None if large is None else [large])
    (animator,) = make_animators(networks, sources, DemoOptions())
    *_, out = animator.animate(map(to_tensor, frames))
    return result_frame([out], sources, False)
