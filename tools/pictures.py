"""Make the sample of the demo and the pictures of the documentation, with the model that ships.

    python -m tools.pictures
    python -m tools.pictures --sheet pairs.png --checkpoint old.pth.tar new.pth.tar

The first writes into sup-mat/, or into --out, from puppets of a seed that no dataset has. The second writes
pairs from the config's test data, animated by each checkpoint, to judge sharpness and ghosts by eye.

Pictures are uint8 (H, W, 3). `size` is the side of the model's pictures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

import demo
from data.puppets.dataset import FPS
from data.puppets.identity import Puppet
from data.puppets.motion import CLOSE_REACH, Pose, portrait_motion
from data.puppets.render import render
from frames_dataset import FramesDataset, PairedDataset, identity
from inference.animation import transfer
from inference.animator import Animator
from inference.inside import inside_pictures
from inference.interface import load_checkpoints, make_animation
from inference.networks import InferenceNetworks, model_size
from inference.samples import MORE, ROOT, SAMPLE
from media.clips import open_clip
from media.pictures import fit, to_uint8, write_image
from media.tensors import to_pixels, to_tensor
from media.writer import VideoWriter
from modules.build import read_config
from utils.errors import UserError
from utils.files import atomic_write, check_writable
from utils.options import option, read_options
from utils.program import command_line

SEED = 2019  # of all puppets here; no dataset of this project is made with it

# Numbers of puppets, chosen for their looks.
SAMPLE_SOURCE, SAMPLE_DRIVING = 17, 22
EXAMPLE_SOURCES, EXAMPLE_DRIVINGS = (
    {"curls": 33, "turtleneck": 21, "long-hair": 40},
    {"beard": 27, "laugh": 4},
)
TEASER_SOURCES, TEASER_DRIVING = (33, 21), (22, 4, 27, 43)
INSIDE_PAIRS = ((17, 22), (27, 4), (21, 6))  # source, driving
TRANSFER_PAIR = (13, 22)
SCENE_PUPPETS, OPTIONS_DRIVING, LARGE = (17, 21), 22, 33

SCENE = (480, 640)  # height and width of a wall with two portraits
FIRST, SECOND = (300, 60, 620, 380), (40, 170, 240, 370)  # where they hang: left, top, right, bottom

T = TypeVar("T")


@dataclass(frozen=True)
class PictureModel:
    """A config and a checkpoint, their networks, and the side of their pictures."""

    config: Path
    checkpoint: Path
    networks: InferenceNetworks
    size: int


def load_picture_model(config_path: Path, checkpoint: Path) -> PictureModel:
    """Load a model. Raises `UserError` for one without the parts that are drawn here."""
    config = read_config(config_path)
    height, width = model_size(config, config_path)
    params = config["model_params"]["generator_params"]
    if height != width or not params.get("dense_motion_params") or not params.get("estimate_occlusion_map"):
        raise UserError(
            f"{config_path}: pictures need a model of square frames with dense motion and an occlusion map"
        )
    networks = load_checkpoints(config_path, checkpoint, cpu=True, plain=True)
    return PictureModel(config_path, checkpoint, networks, height)


# ---- Puppets -----------------------------------------------------------------


def portrait(number: int, size: int, pose: Pose | None = None) -> np.ndarray:
    """Draw a puppet, at rest without `pose`."""
    return render(Puppet.random(np.random.default_rng([SEED, number])).close_up(), pose or Pose(), size)


def film(number: int, size: int, poses: list[Pose]) -> list[np.ndarray]:
    return [portrait(number, size, pose) for pose in poses]


def performance(number: int, frames: int) -> list[Pose]:
    """Draw a random motion that begins near rest: the calmest start of a stretch twenty times as long."""
    poses = portrait_motion(np.random.default_rng([SEED, number, 0]), 20 * frames)
    start = min(range(19 * frames), key=lambda t: unrest(poses[t]))
    return poses[start : start + frames]


def unrest(pose: Pose) -> float:
    """Measure how far a head is from rest: the squared parts of its pose, as shares of their reach."""
    rest, parts = Pose(), ("x", "y", "scale", "roll", "yaw", "pitch", "mouth", "blink")
    return sum(
        ((getattr(pose, part) - getattr(rest, part)) / getattr(CLOSE_REACH, part)) ** 2 for part in parts
    )


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Choose `count` of the items, the first and the last among them."""
    return [items[t] for t in np.linspace(0, len(items) - 1, count).round().astype(int)]


def animated(
    networks: InferenceNetworks, source: np.ndarray, driving: list[np.ndarray], relative: bool = True
) -> list[np.ndarray]:
    predictions = make_animation(source, driving, *networks, relative=relative, adapt_movement_scale=relative)
    return [to_uint8(prediction) for prediction in predictions]


# ---- The sample, the teaser, what the networks find ----------------------------


def write_sample(out: Path, size: int = 256) -> None:
    """Write the sample, and the other puppets that the page offers; its drawing stays as it is."""
    write_image(out / SAMPLE["source_image"].name, portrait(SAMPLE_SOURCE, size))
    write_film(out / SAMPLE["driving_video"].name, SAMPLE_DRIVING, size)
    folder = out / MORE.name
    folder.mkdir(exist_ok=True)
    for name, number in EXAMPLE_SOURCES.items():
        write_image(folder / f"{name}.png", portrait(number, size))
    for name, number in EXAMPLE_DRIVINGS.items():
        write_film(folder / f"{name}.mp4", number, size)


def write_film(path: Path, number: int, size: int, frames: int = 72) -> None:
    with VideoWriter(path, FPS) as writer:
        for frame in film(number, size, performance(number, frames)):
            writer.write(frame)


def write_teaser(path: Path, model: PictureModel, poses: int = 24, cell: int = 128) -> None:
    """Animate every source, on the left, with every driving video, on top.

    It runs forth and back, so that it repeats without a jump.
    """
    driving = [film(number, model.size, performance(number, 2 * poses)[::2]) for number in TEASER_DRIVING]
    sources = [portrait(number, model.size) for number in TEASER_SOURCES]
    results = [[animated(model.networks, source, clip) for clip in driving] for source in sources]
    corner, frames = label("driving →\n\nsource ↓"), []
    for t in range(poses):
        rows = [[corner, *(scaled(clip[t], cell) for clip in driving)]]
        for source, clips in zip(sources, results, strict=True):
            rows.append([scaled(image, cell) for image in (source, *(clip[t] for clip in clips))])
        frames.append(grid(rows))
    write_gif(path, frames + frames[-2:0:-1], milliseconds=2 * 1000 // FPS)


def write_transfer(path: Path, model: PictureModel, columns: int = 6, cell: int = 150) -> None:
    """Animate a source near the camera with a driving head far from it, in both kinds of transfer."""
    source = portrait(TRANSFER_PAIR[0], model.size, Pose(x=-0.14, scale=1.1))
    poses = evenly(performance(TRANSFER_PAIR[1], 48), columns)
    far = [replace(pose, x=pose.x + 0.14, scale=0.9 * pose.scale) for pose in poses]
    driving = film(TRANSFER_PAIR[1], model.size, far)
    rows = [[label("driving"), None, *(scaled(image, cell) for image in driving)]]
    for name, relative in (("absolute\n(default)", False), ("--relative\n--adapt_scale", True)):
        results = animated(model.networks, source, driving, relative)
        rows.append([label(name), *(scaled(image, cell) for image in [source, *results])])
    write_image(path, grid(rows))


def write_inside(path: Path, model: PictureModel, cell: int = 180) -> None:
    titles = ("source", "driving frame", "flow", "warped source", "occlusion map", "result")
    rows = []
    for source_number, driving_number in INSIDE_PAIRS:
        source = to_tensor(portrait(source_number, model.size)).unsqueeze(0)
        first, moved = map(to_tensor, film(driving_number, model.size, most_moved(driving_number)))
        animator = Animator(*model.networks, source, transfer(True, True))
        found = inside_pictures(animator, moved, animator.find(first))
        rows.append([outlined(scaled(found[title], cell)) for title in titles])
    write_image(path, grid([[label(title) for title in titles], *rows]))


def most_moved(number: int, frames: int = 48) -> list[Pose]:
    """Return the first pose of a performance, and the one furthest from rest, both with open eyes."""
    poses = [replace(pose, blink=0) for pose in performance(number, frames)]
    return [poses[0], max(poses, key=unrest)]


# ---- The demo's options --------------------------------------------------------


def demo_frame(
    model: PictureModel, source: np.ndarray, driving: list[np.ndarray], *options: str, preview: bool = False
) -> np.ndarray:
    """Return the last frame that the demo makes of a picture and a video, or its preview."""
    with tempfile.TemporaryDirectory() as folder:
        write_image(Path(folder) / "source.png", source)
        (Path(folder) / "driving").mkdir()
        for number, frame in enumerate(driving):
            write_image(Path(folder) / "driving" / f"{number:03d}.png", frame)
        result = Path(folder) / ("preview.png" if preview else "result")
        files = ["--source_image", f"{folder}/source.png", "--driving_video", f"{folder}/driving"]
        files += ["--config", str(model.config), "--checkpoint", str(model.checkpoint)]
        files += ["--preview" if preview else "--result_video", str(result)]
        demo.main([*files, "--cpu", "--plain", *options])
        return list(open_clip(result))[-1]


def write_options(out: Path, model: PictureModel) -> list[Path]:
    """Write all pictures of options; the driving puppet moves from near rest to somewhere else."""
    # One driving puppet, and a wall with two portraits.
    by_unrest = sorted(performance(OPTIONS_DRIVING, 48), key=unrest)
    poses = [replace(pose, blink=0) for pose in (by_unrest[0], by_unrest[36])]
    driving = film(OPTIONS_DRIVING, model.size, poses)
    wall = np.zeros((*SCENE, 3), np.uint8) + np.linspace(90, 170, SCENE[0], dtype=np.uint8)[:, None, None]
    for number, (left, top, right, bottom) in zip(SCENE_PUPPETS, (FIRST, SECOND), strict=True):
        wall[top:bottom, left:right] = portrait(number, right - left)

    # The demo itself makes them; the second face moves in the result of the first.
    names = ("preview.jpg", "paste-back.jpg", "face-all.jpg", "size.jpg")
    paths = [out / name for name in names]
    preview = demo_frame(model, wall, driving, *paste_back(FIRST), preview=True)
    first = demo_frame(model, wall, driving, *paste_back(FIRST))
    both = demo_frame(model, first, driving, *paste_back(SECOND))
    write_jpeg(paths[0], preview)
    write_jpeg(paths[1], side_by_side(wall, driving[-1], first))
    write_jpeg(paths[2], side_by_side(wall, driving[-1], both))
    write_jpeg(paths[3], larger(model, poses))
    return paths


def paste_back(box: tuple[int, int, int, int]) -> list[str]:
    return ["--relative", "--paste_back", "--crop_source", ",".join(map(str, box))]


def side_by_side(wall: np.ndarray, frame: np.ndarray, result: np.ndarray) -> np.ndarray:
    half = (SCENE[0] // 2, SCENE[1] // 2)
    cells = [fit(wall, half, "stretch"), scaled(frame, half[0] // 2), fit(result, half, "stretch")]
    return grid([[label(text) for text in ("source", "driving", "result")], cells])


def larger(model: PictureModel, poses: list[Pose]) -> np.ndarray:
    """Show the model's result enlarged, the result of twice the size, and the true drawing."""
    size, large = model.size, 2 * model.size
    frames, source = film(LARGE, size, poses), portrait(LARGE, large, poses[0])
    small = demo_frame(model, frames[0], frames)
    shown = [fit(small, (large, large), "stretch"), demo_frame(model, source, frames, "--size", str(large))]
    shown.append(portrait(LARGE, large, poses[-1]))
    return grid([[label(text) for text in ("enlarged", f"--size {large}", "drawn")], shown])


# ---- A sheet of pairs ----------------------------------------------------------


def write_sheet(
    path: Path, models: list[PictureModel], dataset: FramesDataset, pairs: int = 6, frames: int = 8
) -> None:
    """Draw driving frames, and below them a source of another identity and its animation by each model.

    One pixel of the model is one pixel of the sheet. Movement is relative to the driving clip's first frame.
    """
    drawn_pairs = PairedDataset(dataset, number_of_pairs=len(dataset) ** 2, seed=SEED)
    unlike = [
        i
        for i, (driving, source) in enumerate(drawn_pairs.pairs)
        if identity(dataset.clips[driving]) != identity(dataset.clips[source])
    ][:pairs]
    if not unlike:
        raise UserError(f"{dataset.folder}: holds one identity; pairs need two")
    rows: list[list[np.ndarray | None]] = []
    for i in unlike:
        driving, source = drawn_pairs.pair(i)
        clip, first = [to_pixels(frame) for frame in driving], to_pixels(source.first_frame())
        rows.append([None, *evenly(clip, frames)])
        rows += [[first, *evenly(animated(model.networks, first, clip), frames)] for model in models]
    write_image(path, grid(rows))


# ---- Drawing -------------------------------------------------------------------

GAP = 6
INK = (60, 64, 72)


def grid(rows: Sequence[Sequence[np.ndarray | None]]) -> np.ndarray:
    """Lay cells on white, centred in rows and columns as large as their largest cell; None stays empty."""
    heights = [max(cell.shape[0] for cell in row if cell is not None) for row in rows]
    widths = [max(cell.shape[1] for cell in column if cell is not None) for column in zip(*rows, strict=True)]
    sheet = np.full(
        (sum(heights) + GAP * (len(rows) + 1), sum(widths) + GAP * (len(widths) + 1), 3), 255, np.uint8
    )
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            if cell is not None:
                top = GAP * (i + 1) + sum(heights[:i]) + (heights[i] - cell.shape[0]) // 2
                left = GAP * (j + 1) + sum(widths[:j]) + (widths[j] - cell.shape[1]) // 2
                sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet


def label(text: str, size: int = 15) -> np.ndarray:
    """Write text on white, as wide as the text; the height depends on the number of lines alone."""
    font = ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
    left, _, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox(
        (0, 0), text, font, spacing=6, align="center"
    )
    image = Image.new("RGB", (round(right - left), max(round(bottom), sum(font.getmetrics()))), "white")
    ImageDraw.Draw(image).multiline_text((-left, 0), text, INK, font, spacing=6, align="center")
    return np.array(image)


def outlined(image: np.ndarray) -> np.ndarray:
    """Give a thin grey edge to a picture that may be white itself."""
    return np.pad(image[1:-1, 1:-1], ((1, 1), (1, 1), (0, 0)), constant_values=205)


def scaled(image: np.ndarray, size: int) -> np.ndarray:
    return fit(image, (size, size), "stretch")


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG", quality=82, optimize=True)


def write_gif(path: Path, frames: list[np.ndarray], milliseconds: int) -> None:
    """Write a gif whose frames share one palette and have no dither: half the size of a streamed one."""
    chosen = Image.fromarray(np.concatenate(frames[::8])).quantize(192, Image.Quantize.MEDIANCUT, kmeans=1)
    palette = np.array(chosen.getpalette() or []).reshape(-1, 3)
    palette[palette.min(axis=1) >= min(240, palette.min(axis=1).max())] = 255  # the gaps stay pure white
    chosen.putpalette(palette.ravel().tolist())
    images = [Image.fromarray(frame).quantize(palette=chosen, dither=Image.Dither.NONE) for frame in frames]
    animation = {"save_all": True, "append_images": images[1:], "duration": milliseconds, "loop": 0}
    with atomic_write(path) as temporary:
        images[0].save(temporary, format="GIF", **animation)


# ---- The program ---------------------------------------------------------------


@dataclass(frozen=True)
class PictureOptions:
    """The command line."""

    config: Path = option(SAMPLE["config"], "default: that of the model that ships")
    checkpoint: tuple[Path, ...] = option(
        (SAMPLE["checkpoint"],), "files or folders of runs; several for --sheet"
    )
    out: Path = option(ROOT / "sup-mat", "an existing folder (default: sup-mat)")
    sheet: Path | None = option(None, "write a sheet of pairs, and nothing else", metavar="FILE")
    data: Path | None = option(None, "dataset of the sheet (default: the config's root_dir)")


@command_line
def main(argv: list[str] | None = None) -> None:
    options = read_options(PictureOptions, argv, __doc__)
    if options.sheet:
        check_writable(options.sheet)
    models = [load_picture_model(options.config, checkpoint) for checkpoint in options.checkpoint]
    if options.sheet:
        params = read_config(options.config)["dataset_params"]
        params |= {"root_dir": options.data} if options.data else {}
        write_sheet(options.sheet, models, FramesDataset(**params, is_train=False))
        paths = [options.sheet]
    else:
        paths = write_pictures(options.out, models[0])
    for path in paths:
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def write_pictures(out: Path, model: PictureModel) -> list[Path]:
    write_sample(out)
    sample = [out / SAMPLE[name].name for name in ("source_image", "driving_video")]
    teaser, inside, both = (out / name for name in ("teaser.gif", "inside.png", "absolute-vs-relative.png"))
    write_teaser(teaser, model)
    write_inside(inside, model)
    write_transfer(both, model)
    return [*sample, teaser, inside, both, *write_options(out, model)]


if __name__ == "__main__":
    main()
