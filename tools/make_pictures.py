"""Make the pictures of the README and the sample of the demo, with the model that ships.

    python sup-mat/make_pictures.py
    python sup-mat/make_pictures.py --contact_sheets /tmp/sheets

The first writes, beside this script (or to --out), `source.png` and `driving.mp4`, the sample; `teaser.gif`; `inside.png`, what
the networks find; `absolute-vs-relative.png`; and `method.png`. All puppets are drawn here from a seed that no dataset has, so
no training saw them and no dataset is needed. The second writes contact sheets of pairs of clips from the config's test data,
for judging sharpness and ghosts by eye. On one machine the same model gives the same bytes.

Pictures are uint8 (H, W, 3).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps, colors, get_data_path
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from animate import Animator
from data.make_puppets import FPS, REACH, Pose, Puppet, random_motion, render
from demo import SAMPLE, load_networks, make_animation, model_size, to_tensor, transfer
from frames_dataset import FramesDataset, LazyClip, PairedDataset, clip_stem, identity
from logger import Visualizer, find_checkpoint, to_uint8
from modules.build import read_config
from modules.dense_motion import sparse_motions
from modules.errors import UserError, command_line
from modules.util import make_coordinate_grid
from video import VideoWriter, fit, write_image

SEED = 2019  # of all puppets here; no dataset of this project is made with it

# Numbers of puppets, chosen for their looks.
SAMPLE_SOURCE, SAMPLE_DRIVING = 17, 22
TEASER_SOURCES, TEASER_DRIVING = (33, 21), (22, 4, 27, 43)
INSIDE_PAIRS = ((17, 22), (27, 4), (21, 6))  # source, driving
TRANSFER_PAIR = (13, 22)
METHOD_PAIR = (17, 22)

Networks = tuple[nn.Module, nn.Module]

# ---------------------------------------------------------------------------------------------------------------------
# Puppets


def puppet(number: int) -> Puppet:
    return Puppet.random(np.random.default_rng([SEED, number]))


def performance(number: int, frames: int) -> list[Pose]:
    """A random motion that begins near rest: the calmest start of a stretch twenty times as long."""
    poses = random_motion(np.random.default_rng([SEED, number, 0]), 20 * frames)
    start = min(range(19 * frames), key=lambda t: unrest(poses[t]))
    return poses[start : start + frames]


def unrest(pose: Pose) -> float:
    """How far a head is from rest: the parts of its pose, each as a share of its reach, squared and added."""
    rest, parts = Pose(), ("x", "y", "scale", "roll", "yaw", "pitch", "mouth", "blink")
    return sum(((getattr(pose, part) - getattr(rest, part)) / getattr(REACH, part)) ** 2 for part in parts)


def portrait(number: int, size: int, pose: Pose | None = None) -> np.ndarray:
    """A puppet, at rest unless it is told otherwise."""
    return render(puppet(number), pose or Pose(), size)


def film(number: int, size: int, poses: list[Pose]) -> list[np.ndarray]:
    return [portrait(number, size, pose) for pose in poses]


def write_sample(out: Path, frames: int = 72, size: int = 256) -> None:
    write_image(out / SAMPLE["source_image"].name, portrait(SAMPLE_SOURCE, size))
    with VideoWriter(out / SAMPLE["driving_video"].name, FPS) as writer:
        for frame in film(SAMPLE_DRIVING, size, performance(SAMPLE_DRIVING, frames)):
            writer.write(frame)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures side by side

GAP = 6
INK = (60, 64, 72)


def grid(rows: list[list[np.ndarray | None]]) -> np.ndarray:
    """Cells on white, centred in rows and columns as large as their largest cell; None stays empty."""
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
    """Text on white, as wide as it is; lines of text have one height, whichever letters they hold."""
    font = ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
    style = {"font": font, "spacing": 6, "align": "center"}
    left, _, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox(
        (0, 0), text, **style
    )
    image = Image.new("RGB", (round(right - left), max(round(bottom), sum(font.getmetrics()))), "white")
    ImageDraw.Draw(image).multiline_text((-left, 0), text, INK, **style)
    return np.array(image)


def outlined(image: np.ndarray) -> np.ndarray:
    """With a thin grey edge, for pictures that may be white themselves."""
    return np.pad(image[1:-1, 1:-1], ((1, 1), (1, 1), (0, 0)), constant_values=205)


def scaled(image: np.ndarray, size: int) -> np.ndarray:
    return fit(image, (size, size), "stretch")


def animated(
    networks: Networks, source: np.ndarray, driving: list[np.ndarray], relative: bool = True
) -> list[np.ndarray]:
    predictions = make_animation(source, driving, *networks, relative=relative, adapt_movement_scale=relative)
    return [to_uint8(prediction) for prediction in predictions]


def evenly(frames: list, count: int) -> list:
    """`count` of the frames, the first and the last among them."""
    return [frames[t] for t in np.linspace(0, len(frames) - 1, count).round().astype(int)]


# ---------------------------------------------------------------------------------------------------------------------
# Teaser; absolute against relative


def write_teaser(path: Path, networks: Networks, size: int, poses: int = 24, cell: int = 128) -> None:
    """Driving videos on top, sources on the left, and every source moved by every video; forth and back, without a jump."""
    driving = [film(number, size, performance(number, 2 * poses)[::2]) for number in TEASER_DRIVING]
    sources = [portrait(number, size) for number in TEASER_SOURCES]
    results = [[animated(networks, source, clip) for clip in driving] for source in sources]
    corner, frames = label("driving →\n\nsource ↓"), []
    for t in range(poses):
        rows = [[corner, *(scaled(clip[t], cell) for clip in driving)]]
        for source, clips in zip(sources, results, strict=True):
            rows.append([scaled(image, cell) for image in (source, *(clip[t] for clip in clips))])
        frames.append(grid(rows))
    write_gif(path, frames + frames[-2:0:-1], milliseconds=2 * 1000 // FPS)


def write_gif(path: Path, frames: list[np.ndarray], milliseconds: int) -> None:
    """A gif whose frames share one palette and have no dither: half the size of what `VideoWriter`, which streams, can do."""
    chosen = Image.fromarray(np.concatenate(frames[::8])).quantize(192, Image.Quantize.MEDIANCUT, kmeans=1)
    palette = np.reshape(chosen.getpalette(), (-1, 3))
    palette[palette.min(axis=1) >= min(240, palette.min(axis=1).max())] = 255  # the gaps stay pure white
    chosen.putpalette(palette.ravel().tolist())
    images = [Image.fromarray(frame).quantize(palette=chosen, dither=Image.Dither.NONE) for frame in frames]
    temporary = path.with_name(path.name + ".tmp")
    try:
        images[0].save(
            temporary, format="GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_transfer(path: Path, networks: Networks, size: int, columns: int = 6, cell: int = 150) -> None:
    """A source near the camera on the left, a driving head far from it on the right: what each kind of transfer makes of it."""
    source = portrait(TRANSFER_PAIR[0], size, Pose(x=-0.14, scale=1.1))
    poses = evenly(performance(TRANSFER_PAIR[1], 48), columns)
    driving = film(
        TRANSFER_PAIR[1], size, [replace(pose, x=pose.x + 0.14, scale=0.9 * pose.scale) for pose in poses]
    )
    rows = [("driving", None, driving)]
    rows += [
        (name, source, animated(networks, source, driving, relative))
        for name, relative in (("absolute\n(default)", False), ("--relative\n--adapt_scale", True))
    ]
    cells = [
        [image if image is None else scaled(image, cell) for image in [first, *images]]
        for _, first, images in rows
    ]
    write_image(path, grid([[label(name), *images] for (name, *_), images in zip(rows, cells, strict=True)]))


# ---------------------------------------------------------------------------------------------------------------------
# What the networks find

DETAIL = 512  # side of pictures that are drawn upon before they are made smaller


def look(networks: Networks, source: np.ndarray, driving: list[np.ndarray]) -> dict:
    """What the networks make of a source and the last driving frame, moved relative to the first; see `Animator.animate`."""
    animator = Animator(*networks, to_tensor(source).unsqueeze(0), transfer(True, True))
    *_, out = animator.animate(map(to_tensor, driving))
    return out


def drawn(source: np.ndarray, driving: np.ndarray, out: dict) -> dict[str, np.ndarray]:
    """Large pictures of a result: source and driving frame with keypoints, and what lies between them and the result."""
    seen = {name: zoom(out[name]) for name in ("deformed", "prediction", "occlusion_map")}
    seen |= {name: out[name] for name in ("kp_source", "kp_driving")}
    pair = [zoom(to_tensor(image).unsqueeze(0)) for image in (driving, source)]
    strip = Visualizer(kp_size=DETAIL // 40).visualize(*pair, seen)
    pictures = dict(
        zip(("source", "driving", "deformed", "result", "occlusion"), np.split(strip, 5, axis=1), strict=True)
    )
    return pictures | {
        "flow": scaled(flow_colours(flow(out)), DETAIL),
        "masks": scaled(mask_colours(out["mask"]), DETAIL),
    }


def zoom(images: Tensor) -> Tensor:
    """Images or maps (1, C, h, w) in [0, 1] at the size of `DETAIL`."""
    return nn.functional.interpolate(images, size=(DETAIL, DETAIL), mode="bicubic").clamp(0, 1)


def flow(out: dict) -> Tensor:
    """The dense flow behind a result, from each pixel to where it takes its colour: (h, w, 2), xy."""
    size = out["mask"].shape[2:]
    motions = sparse_motions(out["kp_norm"], out["kp_source"], size)  # (1, K+1, h, w, 2)
    return (motions * out["mask"].unsqueeze(-1)).sum(dim=1)[0] - make_coordinate_grid(size, like=motions)


def flow_colours(flow: Tensor, longest: float = 0.3) -> np.ndarray:
    """A flow (h, w, 2) with its direction as hue and its length as saturation, full from `longest` on; white stands still."""
    x, y = flow.numpy()[..., 0], flow.numpy()[..., 1]
    hue, length = np.arctan2(y, x) / (2 * np.pi) % 1, np.hypot(x, y) / longest
    return to_uint8(colors.hsv_to_rgb(np.stack([hue, length.clip(0, 1), np.full_like(hue, 0.95)], axis=-1)))


def mask_colours(mask: Tensor) -> np.ndarray:
    """Masks (1, K+1, h, w) as the mixture of their keypoints' colours; the background's is light grey."""
    count = mask.shape[1] - 1
    palette = [(0.9, 0.9, 0.9), *(colormaps["gist_rainbow"](i / count)[:3] for i in range(count))]
    return to_uint8(np.einsum("khw,kc->hwc", mask[0].numpy(), palette))


def write_inside(path: Path, networks: Networks, size: int, cell: int = 180) -> None:
    columns = {
        "source": "source",
        "driving": "driving",
        "flow": "dense flow",
        "deformed": "source, warped",
        "occlusion": "occlusion map",
        "result": "result",
    }
    rows = []
    for source_number, driving_number in INSIDE_PAIRS:
        source, driving = portrait(source_number, size), most_moved(driving_number, size)
        found = drawn(source, driving[-1], look(networks, source, driving))
        rows.append([outlined(scaled(found[name], cell)) for name in columns])
    write_image(path, grid([[label(text) for text in columns.values()], *rows]))


def most_moved(number: int, size: int, frames: int = 48) -> list[np.ndarray]:
    """The first frame of a performance, and the one that is furthest from rest, both with open eyes."""
    poses = [replace(pose, blink=0) for pose in performance(number, frames)]
    return film(number, size, [poses[0], max(poses, key=unrest)])


# ---------------------------------------------------------------------------------------------------------------------
# The method

TEXT, LINES, NETWORK, PANEL, LAYER = "#2b303a", "#6b7280", "#dbe7fb", "#f4f5f7", "#fdebd3"


class Chart:
    """A drawing with pictures, boxes and arrows; positions are pixels from the top left corner."""

    def __init__(self, width: int, height: int):
        self.figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self.axes.axis("off")

    def text(
        self, x: float, y: float, text: str, size: float = 12, weight: str = "normal", va: str = "center"
    ) -> None:
        self.axes.text(
            x, y, text, size=size, weight=weight, color=TEXT, ha="center", va=va, linespacing=1.3, zorder=4
        )

    def picture(self, x: float, y: float, image: np.ndarray, side: int, title: str = "") -> None:
        """A picture with its left top corner at x, y, and its title below."""
        self.axes.imshow(
            outlined(scaled(image, side)), extent=(x, x + side, y + side, y), interpolation="none", zorder=3
        )
        self.text(x + side / 2, y + side + 6, title, va="top")

    def box(self, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
        shape = FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=8", fc=colour, ec=LINES, zorder=1
        )
        self.axes.add_patch(shape)
        self.text(x + width / 2, y + height / 2, text)

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through the points with a head at the last."""
        self.axes.plot(*zip(*points, strict=True), color=LINES, lw=1.6, zorder=2, solid_capstyle="butt")
        self.axes.annotate(
            "",
            points[-1],
            points[-2],
            zorder=2,
            arrowprops={"arrowstyle": "-|>", "color": LINES, "lw": 1.6, "shrinkA": 0, "shrinkB": 0},
        )

    def pixels(self) -> np.ndarray:
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_method(path: Path, networks: Networks, size: int) -> None:
    """From left to right: the pair, its keypoints, a motion each, the dense motion; then the generator from top to bottom."""
    source, driving = portrait(METHOD_PAIR[0], size), most_moved(METHOD_PAIR[1], size)
    out = look(networks, source, driving)
    found = drawn(source, driving[-1], out)
    chart = Chart(1200, 572)

    chart.picture(20, 110, source, 130, "source")
    chart.picture(20, 380, driving[-1], 130, "driving")
    chart.box(178, 110, 104, 400, "keypoint\ndetector", NETWORK)
    chart.picture(310, 110, found["source"], 130, "$K$ keypoints with\nJacobians")
    chart.picture(310, 380, found["driving"], 130, "$K$ keypoints with\nJacobians")
    for y in (175, 445):
        chart.arrow((150, y), (178, y))
        chart.arrow((282, y), (310, y))
        chart.arrow((440, y), (462, y), (462, 310), (486, 310))

    chart.text(561, 206, "$K$ local affine\nmotions")
    for i, image in enumerate(strongest_motions(out, 4)):
        chart.picture(486 + 76 * (i % 2), 235 + 76 * (i // 2), image, 74)
    chart.arrow((636, 310), (656, 310))
    chart.box(656, 235, 126, 150, "dense\nmotion\nnetwork", NETWORK)

    chart.box(924, 70, 256, 470, "", PANEL)
    chart.text(1108, 120, "generator", weight="bold")
    steps = (
        ("masks", "masks", 168, ""),
        ("flow", "dense flow", 310, "warp"),
        ("occlusion", "occlusion map", 452, "occlude"),
    )
    for name, title, y, step in steps:
        chart.picture(814, y - 46, found[name], 92, title)
        chart.arrow((782, 310), (798, 310), (798, y), (814, y))
        if step:
            chart.arrow((906, y), (938, y))
            chart.box(938, y - 24, 92, 48, step, LAYER)

    chart.arrow((85, 110), (85, 34), (984, 34), (984, 96))
    chart.box(938, 96, 92, 48, "encode", LAYER)
    chart.arrow((984, 144), (984, 286))
    chart.arrow((984, 334), (984, 428))
    chart.arrow((1030, 452), (1062, 452))
    chart.box(1062, 428, 92, 48, "decode", LAYER)
    chart.arrow((1108, 428), (1108, 370))
    chart.picture(1048, 250, found["result"], 120)
    chart.text(1108, 234, "result")
    write_image(path, chart.pixels())


def strongest_motions(out: dict, count: int) -> list[np.ndarray]:
    """The source moved by each of the keypoints that most of the picture follows."""
    weight = out["mask"][0, 1:].sum(dim=(1, 2))  # (K,)
    chosen = weight.argsort(descending=True)[:count].sort().values
    return [to_uint8(image.permute(1, 2, 0)) for image in out["sparse_deformed"][0, 1:][chosen]]


# ---------------------------------------------------------------------------------------------------------------------
# Contact sheets


def write_sheets(
    folder: Path, networks: Networks, dataset: FramesDataset, pairs: int = 12, frames: int = 8
) -> list[Path]:
    """Sheets of four pairs of different identities: driving frames above, the source and what becomes of it below.

    One pixel of the model is one pixel of the sheet; movement is relative to the driving clip's first frame. Raises
    `DatasetError` from the dataset, and `UserError` where it holds one identity.
    """
    drawn_pairs = PairedDataset(dataset, number_of_pairs=len(dataset) ** 2, seed=SEED)
    unlike = [
        i
        for i, (driving, source) in enumerate(drawn_pairs.pairs)
        if identity(dataset.clips[driving]) != identity(dataset.clips[source])
    ][:pairs]
    if not unlike:
        raise UserError(f"{dataset.folder}: holds one identity; pairs need two")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--contact_sheets {folder}: can't be made ({error.strerror}); name another folder"
        ) from error
    paths = []
    for start in range(0, len(unlike), 4):
        rows = [
            row
            for i in unlike[start : start + 4]
            for row in pair_rows(networks, *drawn_pairs.pair(i), frames)
        ]
        paths.append(folder / f"pairs-{start + 1:02d}.png")
        write_image(paths[-1], grid(rows))
    return paths


def pair_rows(
    networks: Networks, driving: LazyClip, source: LazyClip, frames: int
) -> list[list[np.ndarray | None]]:
    clip = [to_uint8(frame.permute(1, 2, 0)) for frame in driving]
    first = to_uint8(source.first_frame().permute(1, 2, 0))
    names = label(f"{clip_stem(driving.name)}\nmoves\n{clip_stem(source.name)}", size=11)
    return [[names, *evenly(clip, frames)], [first, *evenly(animated(networks, first, clip), frames)]]


# ---------------------------------------------------------------------------------------------------------------------


def picture_size(config: dict, path: Path) -> int:
    """The side of the model's pictures. Raises `UserError` for a model whose insides aren't those that are drawn here."""
    height, width = model_size(config, path)
    params = config["model_params"]["generator_params"]
    if height != width or not params.get("dense_motion_params") or not params.get("estimate_occlusion_map"):
        raise UserError(
            f"{path}: the pictures need a model of square frames, with dense motion and an occlusion map"
        )
    return height


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=SAMPLE["config"], help="default: that of the model that ships"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=SAMPLE["checkpoint"],
        help="a .pth.tar file, or the folder of a run",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="an existing folder (default: sup-mat)"
    )
    parser.add_argument(
        "--contact_sheets", type=Path, metavar="DIR", help="write contact sheets there, and nothing else"
    )
    parser.add_argument(
        "--data", type=Path, help="dataset of the contact sheets (default: the config's root_dir)"
    )
    options = parser.parse_args(argv)

    config = read_config(options.config)
    size = picture_size(config, options.config)
    networks = load_networks(
        config, options.config, find_checkpoint(options.checkpoint), torch.device("cpu"), plain=True
    )
    if options.contact_sheets:
        params = config["dataset_params"] | ({"root_dir": options.data} if options.data else {})
        paths = write_sheets(options.contact_sheets, networks, FramesDataset(**params, is_train=False))
    else:
        paths = write_pictures(options.out, networks, size)
    for path in paths:
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def write_pictures(out: Path, networks: Networks, size: int) -> list[Path]:
    """Everything but the contact sheets, for a model of pictures of `size` x `size`."""
    write_sample(out)
    writers = {
        "teaser.gif": write_teaser,
        "inside.png": write_inside,
        "absolute-vs-relative.png": write_transfer,
        "method.png": write_method,
    }
    for name, write in writers.items():
        write(out / name, networks, size)
    return [out / name for name in (SAMPLE["source_image"].name, SAMPLE["driving_video"].name, *writers)]


if __name__ == "__main__":
    main()
