"""Make the pictures of the README and the sample of the demo, with the model that ships.

    python -m tools.make_pictures
    python -m tools.make_pictures --contact_sheets /tmp/sheets

The first writes into sup-mat/, or into --out: `source.png` and `driving.mp4`, the sample; `teaser.gif`;
`inside.png`, what the networks find; `absolute-vs-relative.png`; `method.png`; and the pictures of
`tools/option_pictures.py`. All puppets are drawn here from a seed that no dataset has, so no training saw
them and no dataset is needed. The second writes contact sheets of pairs of clips from the config's test data,
for judging sharpness and ghosts by eye. On one machine the same model gives the same bytes.

Pictures are uint8 (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.files import find_checkpoint
from data.puppets.dataset import FPS
from data.puppets.identity import Puppet
from data.puppets.motion import REACH, Pose, random_motion
from data.puppets.render import render
from frames_dataset import FramesDataset, LazyClip, PairedDataset, clip_stem, identity
from inference.animation import transfer
from inference.animator import Animator
from inference.inside import flow, flow_colours, mask_colours
from inference.interface import make_animation
from inference.networks import load_networks, model_size
from inference.samples import SAMPLE
from logger import Visualizer
from media.pictures import to_uint8, write_image
from media.tensors import to_pixels, to_tensor
from media.writer import VideoWriter
from modules.build import read_config
from modules.generator import OcclusionAwareGenerator
from modules.keypoint_detector import KPDetector
from tools.drawing import LAYER, NETWORK, PANEL, Chart, grid, label, outlined, scaled, write_gif
from tools.option_pictures import DRIVING, write_options
from utils.errors import UserError
from utils.options import OptionParser
from utils.program import command_line

ROOT = Path(__file__).resolve().parent.parent
SEED = 2019  # of all puppets here; no dataset of this project is made with it

# Numbers of puppets, chosen for their looks.
SAMPLE_SOURCE, SAMPLE_DRIVING = 17, 22
TEASER_SOURCES, TEASER_DRIVING = (33, 21), (22, 4, 27, 43)
INSIDE_PAIRS = ((17, 22), (27, 4), (21, 6))  # source, driving
TRANSFER_PAIR = (13, 22)
METHOD_PAIR = (17, 22)

Networks = tuple[OcclusionAwareGenerator, KPDetector]
T = TypeVar("T")

# ---- Puppets -----------------------------------------------------------------


def puppet(number: int) -> Puppet:
    return Puppet.random(np.random.default_rng([SEED, number]))


def performance(number: int, frames: int) -> list[Pose]:
    """A random motion that begins near rest: the calmest start of a stretch twenty times as long."""
    poses = random_motion(np.random.default_rng([SEED, number, 0]), 20 * frames)
    start = min(range(19 * frames), key=lambda t: unrest(poses[t]))
    return poses[start : start + frames]


def unrest(pose: Pose) -> float:
    """How far a head is from rest: the sum of the squared parts of its pose, as shares of their reach."""
    rest, parts = Pose(), ("x", "y", "scale", "roll", "yaw", "pitch", "mouth", "blink")
    return sum(((getattr(pose, part) - getattr(rest, part)) / getattr(REACH, part)) ** 2 for part in parts)


def portrait(number: int, size: int, pose: Pose | None = None) -> np.ndarray:
    """A picture of a puppet, at rest without `pose`."""
    return render(puppet(number), pose or Pose(), size)


def film(number: int, size: int, poses: list[Pose]) -> list[np.ndarray]:
    return [portrait(number, size, pose) for pose in poses]


def write_sample(out: Path, frames: int = 72, size: int = 256) -> None:
    write_image(out / SAMPLE["source_image"].name, portrait(SAMPLE_SOURCE, size))
    with VideoWriter(out / SAMPLE["driving_video"].name, FPS) as writer:
        for frame in film(SAMPLE_DRIVING, size, performance(SAMPLE_DRIVING, frames)):
            writer.write(frame)


# ---- Animations --------------------------------------------------------------


def animated(
    networks: Networks, source: np.ndarray, driving: list[np.ndarray], relative: bool = True
) -> list[np.ndarray]:
    predictions = make_animation(source, driving, *networks, relative=relative, adapt_movement_scale=relative)
    return [to_uint8(prediction) for prediction in predictions]


def evenly(frames: list[T], count: int) -> list[T]:
    """`count` of the frames, the first and the last among them."""
    return [frames[t] for t in np.linspace(0, len(frames) - 1, count).round().astype(int)]


# ---- Teaser; absolute against relative ---------------------------------------


def write_teaser(path: Path, networks: Networks, size: int, poses: int = 24, cell: int = 128) -> None:
    """Driving videos on top, sources on the left, and every source moved by every video.

    It runs forth and back, so that it repeats without a jump.
    """
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


def write_transfer(path: Path, networks: Networks, size: int, columns: int = 6, cell: int = 150) -> None:
    """What each kind of transfer makes of a source near the camera and a driving head far from it."""
    source = portrait(TRANSFER_PAIR[0], size, Pose(x=-0.14, scale=1.1))
    poses = evenly(performance(TRANSFER_PAIR[1], 48), columns)
    driving = film(
        TRANSFER_PAIR[1], size, [replace(pose, x=pose.x + 0.14, scale=0.9 * pose.scale) for pose in poses]
    )
    rows = [[label("driving"), None, *(scaled(image, cell) for image in driving)]]
    for name, relative in (("absolute\n(default)", False), ("--relative\n--adapt_scale", True)):
        results = animated(networks, source, driving, relative)
        rows.append([label(name), *(scaled(image, cell) for image in [source, *results])])
    write_image(path, grid(rows))


# ---- What the networks find --------------------------------------------------

DETAIL = 512  # side of pictures that are drawn upon before they are made smaller


def look(networks: Networks, source: np.ndarray, driving: list[np.ndarray]) -> dict:
    """The result of `Animator.animate` for the last driving frame, moved relative to the first."""
    animator = Animator(*networks, to_tensor(source).unsqueeze(0), transfer(True, True))
    *_, out = animator.animate(map(to_tensor, driving), deformed=True)
    return out


def drawn(source: np.ndarray, driving: np.ndarray, out: dict) -> dict[str, np.ndarray]:
    """Large pictures of source and driving frame with keypoints, of the result, and of the steps to it."""
    seen = {name: zoom(out[name]) for name in ("deformed", "prediction", "occlusion_map")}
    seen |= {name: out[name] for name in ("kp_source", "kp_driving")}
    large_driving, large_source = (zoom(to_tensor(image).unsqueeze(0)) for image in (driving, source))
    strip = Visualizer(kp_size=DETAIL // 40).visualize(large_driving, large_source, seen)
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


# ---- The method --------------------------------------------------------------


def write_method(path: Path, networks: Networks, size: int) -> None:
    """The steps of the method from left to right; those of the generator from top to bottom."""
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
    return [to_pixels(image) for image in out["sparse_deformed"][0, 1:][chosen]]


# ---- Contact sheets ----------------------------------------------------------


def write_sheets(
    folder: Path, networks: Networks, dataset: FramesDataset, pairs: int = 12, frames: int = 8
) -> list[Path]:
    """Sheets of four pairs of different identities: driving frames above, the source and its animation below.

    One pixel of the model is one pixel of the sheet. Movement is relative to the driving clip's first frame.
    Raises `DatasetError` from the dataset, and `UserError` if it holds one identity.
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
    clip = [to_pixels(frame) for frame in driving]
    first = to_pixels(source.first_frame())
    names = label(f"{clip_stem(driving.name)}\nmoves\n{clip_stem(source.name)}", size=11)
    return [[names, *evenly(clip, frames)], [first, *evenly(animated(networks, first, clip), frames)]]


# ---- Command line ------------------------------------------------------------


def picture_size(config: dict, path: Path) -> int:
    """The side of the model's pictures. Raises `UserError` for a model without the parts drawn here."""
    height, width = model_size(config, path)
    params = config["model_params"]["generator_params"]
    if height != width or not params.get("dense_motion_params") or not params.get("estimate_occlusion_map"):
        raise UserError(
            f"{path}: the pictures need a model of square frames, with dense motion and an occlusion map"
        )
    return height


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
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
        "--out", type=Path, default=ROOT / "sup-mat", help="an existing folder (default: sup-mat)"
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
    writers: dict[str, Callable[[Path, Networks, int], None]] = {
        "teaser.gif": write_teaser,
        "inside.png": write_inside,
        "absolute-vs-relative.png": write_transfer,
        "method.png": write_method,
    }
    for name, write in writers.items():
        write(out / name, networks, size)
    by_unrest = sorted(performance(DRIVING, 48), key=unrest)
    poses = [replace(pose, blink=0) for pose in (by_unrest[0], by_unrest[36])]
    options = write_options(out, networks, size, portrait, poses)
    names = (SAMPLE["source_image"].name, SAMPLE["driving_video"].name, *writers)
    return [*(out / name for name in names), *options]


if __name__ == "__main__":
    main()
