"""Puppets: a seed always draws the same, landmarks lie on what is drawn, and a dataset is whole or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data import make_puppets
from data.puppets.accessories import HATS
from data.puppets.backgrounds import BACKGROUNDS, backdrop
from data.puppets.body import TOPS
from data.puppets.canvas import Canvas
from data.puppets.colours import INK, edge, mix
from data.puppets.dataset import Clip, plan
from data.puppets.hairstyles import HAIRS
from data.puppets.identity import Puppet
from data.puppets.landmarks import LANDMARKS, landmarks
from data.puppets.motion import CLOSE_REACH, REACH, Pose, portrait_motion, random_motion
from data.puppets.render import render
from data.puppets.view import View
from media.clips import open_clip

SCRIPT = Path(make_puppets.__file__)
POSES = [
    Pose(),
    Pose(yaw=0.4, pitch=0.2, roll=-0.2, x=0.1),
    Pose(yaw=-0.4, pitch=-0.2, scale=0.92, mouth=0.8, y=-0.05),
    Pose(roll=0.3, scale=1.1, x=-0.2, smile=1.0, shrug=1.0, body_x=0.05),
]


def puppet(seed: int) -> Puppet:
    return Puppet.random(np.random.default_rng(seed))


def bare(seed: int) -> Puppet:
    """A puppet on which nothing hides a landmark."""
    return replace(
        puppet(seed),
        age="adult",
        hair="bald",
        hat="none",
        glasses="none",
        beard="none",
        nose="button",
        lip=0.07,
        freckles=False,
        earrings=False,
        top="crew",
        pattern="plain",
    )


def nearest(image: np.ndarray, xy: np.ndarray, colour: tuple[int, int, int]) -> int:
    """The largest difference of a channel between `colour` and the closest of the 3×3 pixels around xy."""
    x, y = np.rint((xy + 1) / 2 * (len(image) - 1)).astype(int)
    patch = image[y - 1 : y + 2, x - 1 : x + 2].astype(int)  # (3, 3, 3)
    return int(np.abs(patch - colour).max(-1).min())


# ---- Identity and motion -----------------------------------------------------


def test_the_same_seed_draws_the_same_pixels() -> None:
    for seed in range(4):
        first, second = puppet(seed), puppet(seed)
        motion = random_motion(np.random.default_rng(seed), 5)
        assert first == second
        assert motion == random_motion(np.random.default_rng(seed), 5)
        image = render(first, motion[3], 48)
        backdrop.cache_clear()
        assert image.dtype == np.uint8 and image.shape == (48, 48, 3)
        assert np.array_equal(image, render(second, motion[3], 48))


def test_seeds_differ() -> None:
    assert len({puppet(seed) for seed in range(50)}) == 50


def test_every_choice_comes_up_and_draws_in_extreme_poses() -> None:
    crowd = [puppet(seed) for seed in range(200)]
    assert {p.hair for p in crowd} == set(HAIRS)
    assert {p.hat for p in crowd} == {"none", *HATS}
    assert {p.top for p in crowd} == set(TOPS)
    assert {p.background.kind for p in crowd} == set(BACKGROUNDS)
    reach = {field.name: getattr(REACH, field.name) for field in fields(Pose)}
    up = Pose(**reach | {"scale": 1.1})
    down = Pose(
        **{name: -value for name, value in reach.items()} | {"scale": 0.9, "mouth": 0.0, "blink": 0.0}
    )
    for i, p in enumerate(crowd):
        assert render(p, (up, down)[i % 2], 32).std() > 10


def test_motion_is_smooth_bounded_and_lively() -> None:
    for seed in range(20):
        motion = random_motion(np.random.default_rng(seed), 64)
        for field in fields(Pose):
            values = np.array([getattr(pose, field.name) for pose in motion])
            reach = getattr(REACH, field.name)
            centre = {"scale": 1.0, "smile": 0.3}.get(field.name, 0.0)
            assert np.abs(values - centre).max() <= reach, field.name
            fastest = 0.75 if field.name in ("mouth", "blink") else 0.3
            assert np.abs(np.diff(values)).max() <= fastest * reach, field.name
            assert np.ptp(values) >= 0.2 * reach, field.name


def test_a_portrait_blinks_and_talks_within_a_clip() -> None:
    for seed in range(100):
        motion = portrait_motion(np.random.default_rng(seed), 24)
        for part in ("blink", "mouth"):
            values = np.array([getattr(pose, part) for pose in motion])
            assert values.min() < 0.1 and 0.6 < values.max() <= 1, (seed, part)
        assert max(abs(pose.x) for pose in motion) <= CLOSE_REACH.x


def test_a_still_head_blinks_and_talks_as_much_but_hardly_moves() -> None:
    for seed in range(10):
        moving, still = (
            portrait_motion(np.random.default_rng(seed), 24, still=still) for still in (False, True)
        )
        for part in ("x", "yaw", "roll", "scale"):
            ranges = [np.ptp([getattr(pose, part) for pose in motion]) for motion in (moving, still)]
            assert ranges[1] == pytest.approx(0.1 * ranges[0])
        for part in ("blink", "mouth", "smile"):
            assert [getattr(pose, part) for pose in moving] == [getattr(pose, part) for pose in still]


def test_a_close_up_fills_two_thirds_of_the_picture_and_keeps_the_shoulders() -> None:
    for seed in range(20):
        actor = puppet(seed).close_up()
        view = View(actor, Pose())
        crown, chin = view.face(0, [-1.0, 1.0])[:, 1]
        assert 0.65 <= (chin - crown) / 2 <= 0.75
        assert 0.8 < landmarks(actor, Pose())[-1, 1] < 1


@pytest.mark.parametrize("hair", HAIRS)
def test_nothing_jumps_while_the_head_turns(hair: str) -> None:
    actor = replace(puppet(3), hair=hair, hat="none")
    frames = [render(actor, Pose(yaw=yaw), 64).astype(int) for yaw in np.linspace(-0.1, 0.1, 11)]
    steps = [np.abs(b - a).sum() for a, b in pairwise(frames)]
    assert max(steps) < 2.5 * np.median(steps)


# ---- Landmarks ---------------------------------------------------------------


def test_xy_is_the_centre_of_a_pixel() -> None:
    canvas = Canvas(64)
    canvas.disc(np.array((10, 37)) / 63 * 2 - 1, 0.2, (255, 255, 255))
    rows, columns = np.nonzero(canvas.finish()[..., 0] > 127)
    assert columns.mean() == pytest.approx(10, abs=0.05)
    assert rows.mean() == pytest.approx(37, abs=0.05)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("close", [False, True])
def test_landmarks_lie_on_what_is_drawn(seed: int, pose: Pose, close: bool) -> None:
    actor = bare(seed).close_up() if close else bare(seed)
    image = render(actor, pose, 256)
    near = "ear_left" if pose.yaw >= 0 else "ear_right"  # the other one may be behind the head
    drawn = {
        "eye_left": INK,
        "eye_right": INK,
        "nose": mix(actor.skin, (225, 80, 80), 0.22),
        "mouth_left": actor.lips,
        "mouth_right": actor.lips,
        "chin": edge(actor.skin),
        near: mix(actor.skin, edge(actor.skin), 0.35),
        "shoulder_left": edge(actor.fabric),
        "shoulder_right": edge(actor.fabric),
    }
    xy = dict(zip(LANDMARKS, landmarks(actor, pose), strict=True))
    off = {name: nearest(image, xy[name], colour) for name, colour in drawn.items()}
    assert max(off.values()) < 24, off


def test_the_same_landmarks_serve_every_size() -> None:
    actor = bare(1)
    for size in (96, 200):
        image = render(actor, Pose(yaw=0.2), size)
        assert nearest(image, landmarks(actor, Pose(yaw=0.2))[0], INK) < 24


def test_turning_the_head_slides_the_nose_most_and_shoulders_not() -> None:
    for seed in range(5):
        actor = puppet(seed)
        moved = dict(zip(LANDMARKS, landmarks(actor, Pose(yaw=0.4)) - landmarks(actor, Pose()), strict=True))
        assert moved["nose"][0] > moved["eye_left"][0] > moved["eye_right"][0] > 0.05
        assert moved["eye_right"][0] > moved["chin"][0] > 0
        assert moved["ear_right"][0] < 0
        assert np.all(moved["shoulder_left"] == 0)


def test_shoulders_follow_the_head_less() -> None:
    actor = puppet(0)
    moved = landmarks(actor, Pose(x=0.1, y=-0.06)) - landmarks(actor, Pose())
    assert moved[:8] == pytest.approx(np.tile((0.1, -0.06), (8, 1)))
    assert moved[8:] == pytest.approx(np.tile((0.035, -0.021), (2, 1)))


# ---- The command line --------------------------------------------------------


def pixels_of(clip: Path) -> np.ndarray:
    opened = open_clip(clip)
    return opened.read(range(len(opened)))


@pytest.mark.parametrize(
    "format, suffix, tolerance, framing", [("png", "", 0, "close"), ("mp4", ".mp4", 12, "wide")]
)
def test_a_dataset_end_to_end(tmp_path: Path, format: str, suffix: str, tolerance: int, framing: str) -> None:
    out = tmp_path / "made" / "puppets"
    make_puppets.main(
        [
            "--videos",
            "9",
            "--frames",
            "3",
            "--size",
            "32",
            "--format",
            format,
            "--framing",
            framing,
            "--out",
            str(out),
            "--seed",
            "5",
        ]
    )
    clips = {
        split: sorted(p.name for p in (out / split).iterdir() if p.suffix == suffix)
        for split in ("train", "test")
    }
    assert clips == {
        "train": [f"id0000{i}#0000{j}{suffix}" for i in range(2) for j in range(3)],
        "test": [f"id00002#0000{j}{suffix}" for j in range(3)],
    }
    assert list(out.parent.iterdir()) == [out]
    for split, names in clips.items():
        for name in names:
            identity, number = (int(part) for part in name.removesuffix(suffix).removeprefix("id").split("#"))
            actor, poses = Clip(out, 5, identity, number, 3, 32, framing).performance()
            expected = np.stack([render(actor, pose, 32) for pose in poses])
            assert np.abs(pixels_of(out / split / name).astype(int) - expected).mean() <= tolerance
            with np.load(out / split / f"{name.removesuffix(suffix)}.npz") as truth:
                assert tuple(truth["names"]) == LANDMARKS
                assert truth["xy"].dtype == np.float32
                openness = [(1 - pose.blink, pose.mouth) for pose in poses]
                assert truth["openness"] == pytest.approx(np.array(openness), abs=1e-6)
                assert truth["xy"] == pytest.approx(
                    np.stack([landmarks(actor, pose) for pose in poses]), abs=1e-6
                )


def test_identities_are_split_one_in_ten(tmp_path: Path) -> None:
    for videos in (2, 5, 39, 40, 77, 400):
        clips = plan(tmp_path, videos, 1, 16, "mp4", 0)
        train, test = (
            {c.identity for c in clips if c.path.parent.name == split} for split in ("train", "test")
        )
        assert len({c.path for c in clips}) == videos
        assert train and test and not train & test
        assert len(test) == max(1, len(train | test) // 10)


def test_clips_of_an_identity_share_the_puppet_but_not_the_scene(tmp_path: Path) -> None:
    (first, motion), (second, other) = (
        Clip(tmp_path, 0, 4, number, 8, 32).performance() for number in (0, 1)
    )
    assert replace(first, background=second.background) == second
    assert first.background != second.background and motion != other


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--videos", "1"),
        ("--videos", "1000000000"),
        ("--frames", "0"),
        ("--size", "8"),
        ("--seed", "-1"),
        ("--seed", str(2**63)),
    ],
)
def test_a_number_that_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        make_puppets.main(["--out", str(tmp_path / "out"), flag, value])
    assert stop.value.code == 2
    assert f"{flag}: '{value}' is not a whole number from" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        make_puppets.main(["--out", str(tmp_path), "--videos", "2", "--frames", "1", "--size", "16"])
    assert stop.value.code == 2
    assert "exists" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without telling it")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, name: str) -> None:
    arguments = ["--videos", "4000", "--frames", "4", "--size", "32", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".*.tmp/*/*.npz")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        number = getattr(signal, name)
        os.kill(process.pid, number)
        # The workers share this pipe, so reading it ends only when all of them are gone.
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir())
