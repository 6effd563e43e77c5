"""demo.py --crop, --face, --paste_back, --preview: real faces with a small model, drawn pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import demo
from faces.choose import find_faces
from faces.cuts import cuts_of_source
from faces.options import CropOptions
from faces.regions import Region, cut_out
from faces.yunet import FaceDetector
from inference.jobs import find_places, make_job
from media.clips import open_clip
from media.pictures import read_image, write_image
from media.writer import VideoWriter
from tests.demo_files import assert_refused, write_model
from tests.media_files import encode_lossless
from tests.small import pixels, small_config, write_config
from utils.progress import no_bar

FRAMES = 4
MODEL = ["--config", "small.yaml", "--checkpoint", "small.pth.tar", "--cpu"]
HEIGHT, WIDTH = 300, 520


def people() -> np.ndarray:
    """Two faces on a canvas: the larger one on the left."""
    canvas = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    astronaut = Image.fromarray(data.astronaut())
    for left, side in ((0, 300), (310, 200)):
        canvas[:side, left : left + side] = np.asarray(astronaut.resize((side, side)))
    return canvas


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("inputs")
    write_config(place / "small.yaml", small_config())
    write_model(place / "small.pth.tar")
    write_image(place / "people.png", people())
    write_image(place / "nobody.png", pixels(0, 96))
    with VideoWriter(place / "moving", 25) as writer:
        for number in range(FRAMES):
            writer.write(np.roll(people()[:, :300], 6 * number, axis=1))
    (place / "still").mkdir()
    for number in range(FRAMES):
        write_image(place / "still" / f"{number}.png", pixels(number))
    return place


@pytest.fixture(autouse=True)
def place(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in inputs.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(
    options: str, source: str = "people.png", driving: str = "moving", result: str = "result"
) -> list[str]:
    files = ["--source_image", source, "--driving_video", driving, "--result_video", result]
    return [*MODEL, *files, *options.split()]


def run(options: str, **files: str) -> np.ndarray:
    """The frames (N, H, W, 3) that the demo writes."""
    demo.main(command(options, **files))
    return np.stack(list(open_clip(files.get("result", "result"))))


def changed(frames: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Which pixels (H, W) differ from the picture in any frame."""
    return (frames != picture).any(axis=(0, 3))


def inside(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    left, top, right, bottom = box
    mask[max(0, top) : bottom, max(0, left) : right] = True
    return mask


def true_boxes(picture: np.ndarray | None = None) -> list[tuple[int, int, int, int]]:
    picture, options = people() if picture is None else picture, CropOptions(crop=True, face="all")
    cuts = cuts_of_source(picture, Path("people.png"), (1, 1), options, FaceDetector())
    return [region.bounds for region in cuts.regions]


# ---- What is cut ---------------------------------------------------------------


def test_boxes_by_hand_are_what_the_model_gets() -> None:
    boxes = (20, 30, 220, 230), (40, 10, 290, 260)
    options = [
        f"--crop_{name} {','.join(map(str, box))}"
        for name, box in zip(("source", "driving"), boxes, strict=True)
    ]
    row = run(f"{' '.join(options)} --side_by_side")
    assert (row[0, :, :32] == cut_out(people(), Region.of_box(boxes[0]), (32, 32))).all()
    for shown, frame in zip(row[:, :, 32:64], open_clip("moving"), strict=True):
        assert (shown == cut_out(frame, Region.of_box(boxes[1]), (32, 32))).all()


def test_a_wide_box_reaches_over_the_edge_for_the_shape_of_the_model() -> None:
    row = run("--crop_source 0,0,520,100 --side_by_side")
    assert (row[0, :, :32] == cut_out(people(), Region.of_box((0, -210, 520, 310)), (32, 32))).all()


def test_a_photo_is_searched_once_and_the_model_for_faces_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    searched, search = [], FaceDetector.__call__
    monkeypatch.setattr(
        FaceDetector, "__call__", lambda self, x: (searched.append(x.shape), search(self, x))[1]
    )
    for options in ("--crop", "--crop_source 20,30,220,230 --fit crop"):
        find_places([Path("people.png")], make_job(demo.parse(options.split()), (32, 32)), no_bar)
        assert "people.png shows a real face" in capsys.readouterr().err
    assert searched.count(people().shape) == 2


# ---- Paste back ----------------------------------------------------------------


@pytest.mark.parametrize("face", ["2", "all"])
def test_the_rest_of_the_photo_is_left_alone(face: str) -> None:
    boxes = true_boxes()
    assert len(boxes) == 2
    frames = run(f"--crop --face {face} --paste_back --smooth")
    assert frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    pasted = boxes if face == "all" else [boxes[int(face) - 1]]
    touched = changed(frames, people())
    assert not (touched & ~np.any([inside(box) for box in pasted], axis=0)).any()
    for box in pasted:
        assert touched[inside(box)].mean() > 0.5


def test_several_faces_are_animated_as_each_alone() -> None:
    box_1, box_2 = (inside(box) for box in true_boxes())
    together = run("--crop --face all --paste_back --relative --batch_size 3")
    for face, own, other in ((1, box_1, box_2), (2, box_2, box_1)):
        alone = run(f"--crop --face {face} --paste_back --relative")
        assert np.abs(alone.astype(int) - together)[:, own & ~other].max() <= 1


def test_a_larger_piece_is_pasted() -> None:
    frames = run("--crop_source 20,30,220,230 --paste_back --size 64", driving="still")
    touched = changed(frames, people())
    assert touched.any() and not touched[~inside((20, 30, 220, 230))].any()


# ---- Backgrounds ---------------------------------------------------------------


def room() -> np.ndarray:
    """The two people on a bright wall, and lower."""
    wall = people()
    wall[wall == 120] = 220
    return np.roll(wall, 4, axis=0)


@pytest.mark.parametrize("kind", ["picture", "folder", "video"])
def test_faces_are_put_into_a_background(place: Path, kind: str) -> None:
    name = {"picture": "room.png", "folder": "room", "video": "room.mp4"}[kind]
    walls = [room(), np.roll(room(), 2, axis=1)]
    if kind == "picture":
        write_image(name, walls[0])
    elif kind == "video":
        encode_lossless(Path(name), walls)
    else:
        with VideoWriter(name, 25) as writer:
            for wall in walls:
                writer.write(wall)
    frames = run(f"--crop --paste_back --background {name}")
    outside = ~inside(true_boxes(walls[0])[0])
    for number, frame in enumerate(frames):
        wall = walls[0 if kind == "picture" else number % 2]
        assert (frame[outside] == wall[outside]).all() and (frame != wall).any()


def test_a_box_by_hand_holds_for_the_background(place: Path) -> None:
    write_image("room.png", room())
    frames = run("--crop_source 20,30,220,230 --paste_back --background room.png", driving="still")
    assert changed(frames, room()).any()
    assert not changed(frames, room())[~inside((20, 30, 220, 230))].any()


# ---- Fit -----------------------------------------------------------------------


def test_fit_crop_keeps_the_face_and_says_so(place: Path, capsys: pytest.CaptureFixture) -> None:
    """A portrait whose face is at the top, where the middle would cut it off."""
    portrait = np.full((520, 300, 3), 120, np.uint8)
    portrait[:300] = np.asarray(Image.fromarray(data.astronaut()).resize((300, 300)))
    write_image("portrait.png", portrait)
    row = run("--fit crop --side_by_side", source="portrait.png", driving="still")
    err = capsys.readouterr().err
    face = find_faces(FaceDetector()(portrait).boxes, portrait.shape[:2], Path("portrait.png"))[0]
    middle = (face[1] + face[3]) / 2
    top = max(0, round(middle - 150))
    assert (
        row[0, :, :32] == cut_out(portrait, Region.of_box((0, top, 300, top + 300)), (32, 32))
    ).all() and top < 80
    assert "portrait.png: --fit crop cuts around the face" in err and "still" not in err
    run("--fit crop", source="nobody.png", driving="still")
    assert "--fit crop" not in capsys.readouterr().err


# ---- Preview -------------------------------------------------------------------


def test_a_preview_is_drawn_and_nothing_else(place: Path) -> None:
    before = set(place.rglob("*"))
    demo.main(command("--crop --face all --preview look.png"))
    assert set(place.rglob("*")) - before == {place / "look.png"}
    height, width = read_image("look.png").shape[:2]
    assert height >= 2 * 256 + 256 and width >= WIDTH + 256


# ---- Mistakes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--crop --face 7", "--face 7: 2 faces were found in people.png"),
        ("--crop --face best", "'best' is neither largest nor all nor a number"),
        (
            "--crop --source_image nobody.png",
            "nobody.png: no face was found; say where it is with --crop_source",
        ),
        ("--crop --driving_video still", "still: no face was found; say where it is with --crop_driving"),
        ("--crop_source 600,0,700,100", "--crop_source 600,0,700,100: lies outside people.png"),
        ("--crop_driving 0,300,100,400", "--crop_driving 0,300,100,400: lies outside moving"),
        ("--crop_source=-90,0,10,8,90", "--crop_source -90,0,10,8,90: lies outside people.png"),
        ("--crop_source 1,2,3", "'1,2,3' is not four whole numbers"),
        ("--face 2", "--face needs --crop"),
        ("--crop --face all", "--face all needs --paste_back"),
        ("--crop --background people.png", "--background needs --paste_back"),
        (
            "--crop --paste_back --background nobody.png",
            "nobody.png: no face was found; say where it is with --crop_source",
        ),
        (
            "--crop --face all --paste_back --background moving",
            "--background moving: has a place for 1 of the 2 faces of people.png; choose one with --face",
        ),
        ("--crop --paste_back --background absent.mp4", "absent.mp4: does not exist"),
        ("--paste_back", "--paste_back needs --crop or --crop_source"),
        ("--crop --paste_back --side_by_side", "--paste_back and --side_by_side exclude each other"),
        ("--preview look.png", "--preview shows what is cut"),
        ("--crop --preview look.jpg", "'look.jpg' does not end with .png"),
        ("--crop --preview people.png", "--preview people.png would replace --source_image people.png"),
        ("--crop --preview nowhere/look.png", "--preview nowhere/look.png: there is no folder nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    place: Path, capsys: pytest.CaptureFixture, options: str, message: str
) -> None:
    assert_refused(place, capsys, command(options), message)
