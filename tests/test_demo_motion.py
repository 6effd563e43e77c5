"""demo.py: smooth motion, motion files and larger results, end to end with a small model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import demo
from inference.animator import Animator
from inference.motion import smooth
from media.clips import open_clip
from media.pictures import fit, write_image
from media.tensors import to_pixels, to_tensor
from media.writer import VideoWriter
from tests.demo_files import assert_refused, trained, write_model
from tests.small import pixels, small_config, write_config

FRAMES = 9
MODEL = ["--config", "small.yaml", "--checkpoint", "small.pth.tar", "--cpu", "--plain"]
SOURCE, DRIVING = ["--source_image", "source.png"], ["--driving_video", "driving"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a model, a source and a driving clip."""
    monkeypatch.chdir(tmp_path)
    write_config(Path("small.yaml"), small_config())
    write_model(Path("small.pth.tar"))
    write_image("source.png", pixels(0, 64))
    Path("driving").mkdir()
    for number in range(FRAMES):
        write_image(f"driving/{number}.png", pixels(10 + number))
    return tmp_path


def run(*options: str, inputs: list[str] = SOURCE + DRIVING, result: str = "result") -> np.ndarray:
    """The frames (N, H, W, 3) that the demo writes."""
    demo.main([*MODEL, *inputs, "--result_video", result, *options])
    return np.stack(list(open_clip(result)))


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


# ---- Smoothing -----------------------------------------------------------------


@pytest.mark.parametrize("initial", [None, 4])
def test_smooth_keypoints_drive(initial: int | None) -> None:
    source = fit(pixels(0, 64), (32, 32), "stretch")
    switches = dict.fromkeys(("use_relative_movement", "use_relative_jacobian"), True)
    animator = Animator(*trained(small_config()).values(), to_tensor(source).unsqueeze(0), switches)
    found = [item["kp_driving"] for item in animator.detect(map(to_tensor, open_clip("driving")))]
    kps = list(smooth(found, 25, 0.5))
    outs = animator.generate(({"kp_driving": kp} for kp in kps), kps[initial or 0])
    expected = np.stack([to_pixels(out["prediction"][0]) for out in outs])
    options = ["--relative", *([] if initial is None else ["--best_frame", str(initial)])]
    for batch_size in ("1", "4"):
        frames = run(*options, "--smooth", "0.5", "--batch_size", batch_size)
        assert difference(frames, expected) <= 1
    assert difference(run(*options), expected) > 3


def test_smooth_frames_stand_beside_their_driving_frames() -> None:
    row = run("--smooth", "--side_by_side")
    assert (row[:, :, 32:64] == np.stack(list(open_clip("driving")))).all()


# ---- Motion files --------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--smooth"],
        ["--relative", "--adapt_scale", "--find_best_frame"],
        ["--relative", "--best_frame", "3", "--smooth", "--batch_size", "4", "--size", "64"],
    ],
)
def test_a_motion_file_drives_as_its_video(options: list[str]) -> None:
    from_video = run(*options, "--save_motion", "motion.npz")
    motion = [*SOURCE, "--driving_motion", "motion.npz"]
    assert (run(*options, inputs=motion, result="again") == from_video).all()
    shutil.copy("small.pth.tar", "renamed.pth.tar")
    renamed = ["--checkpoint", "renamed.pth.tar"]
    assert (run(*options, *renamed, inputs=motion, result="renamed") == from_video).all()


def test_a_motion_file_keeps_the_rate() -> None:
    with VideoWriter("driving.mp4", 40) as writer:
        for frame in open_clip("driving"):
            writer.write(frame)
    run("--save_motion", "motion.npz", inputs=[*SOURCE, "--driving_video", "driving.mp4"])
    run(inputs=[*SOURCE, "--driving_motion", "motion.npz"], result="result.mp4")
    assert open_clip("result.mp4").fps == pytest.approx(40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--driving_motion absent.npz", "absent.npz: does not exist"),
        ("--driving_motion source.png", "source.png: is no motion file"),
        ("--driving_motion motion.npz --checkpoint other.pth.tar", "motion.npz: is motion of another model"),
        ("--driving_motion motion.npz --best_frame 9", "--best_frame 9: motion.npz has the frames 0 to 8"),
        ("--driving_motion motion.npz --audio", "--audio needs a driving video, not --driving_motion"),
        ("--driving_motion motion.npz --side_by_side", "--side_by_side needs a driving video"),
        ("--driving_motion motion.npz --save_motion b.npz", "--save_motion needs a driving video"),
        ("--driving_motion motion.npz --driving_video driving", "exclude each other"),
        ("--save_motion motion.txt", "'motion.txt' does not end with .npz"),
        ("--save_motion nowhere/motion.npz", "there is no folder nowhere"),
    ],
)
def test_a_mistake_with_a_motion_file_is_one_line(
    place: Path, capsys: pytest.CaptureFixture, options: str, message: str
) -> None:
    run("--save_motion", "motion.npz", result="first")
    write_model(Path("other.pth.tar"), seed=1)
    assert_refused(place, capsys, [*MODEL, *SOURCE, "--result_video", "result", *options.split()], message)


@pytest.mark.parametrize("relative", [[], ["--relative"], ["--relative", "--find_best_frame", "--smooth"]])
@pytest.mark.parametrize(
    "changes",
    [
        {"value": (9, 1, 2), "jacobian": (9, 1, 2, 2)},  # one keypoint would stand for all
        {"value": (9, 4, 2), "jacobian": (9, 4, 2, 2)},
        {"jacobian": None},
    ],
)
def test_motion_of_other_keypoints_is_refused(place: Path, capsys, changes: dict, relative: list) -> None:
    run("--save_motion", "motion.npz", result="first")
    with np.load("motion.npz") as file:
        arrays = dict(file)
    for name, shape in changes.items():
        del arrays[name]
        if shape is not None:
            arrays[name] = np.full(shape, 0.5, np.float32)
    np.savez("odd.npz", **arrays)
    arguments = [*MODEL, *SOURCE, "--driving_motion", "odd.npz", *relative]
    assert_refused(place, capsys, arguments, "odd.npz: is motion of another model")


@pytest.mark.parametrize("rate", [0.005, 1e300])
def test_motion_at_a_rate_that_is_none(place: Path, capsys, rate: float) -> None:
    run("--save_motion", "motion.npz", result="first")
    with np.load("motion.npz") as file:
        np.savez("odd.npz", **dict(file) | {"rate": np.float64(rate)})
    assert_refused(place, capsys, [*MODEL, *SOURCE, "--driving_motion", "odd.npz"], "odd.npz: is no motion")


# ---- Size ----------------------------------------------------------------------


def test_a_larger_result_has_the_motion_of_the_small_one() -> None:
    pictures = [to_tensor(fit(pixels(0, 64), (side, side), "stretch")).unsqueeze(0) for side in (32, 64)]
    animator = Animator(*trained(small_config()).values(), pictures[0], large=pictures[1])
    outs = animator.animate(map(to_tensor, open_clip("driving")))
    expected = np.stack([to_pixels(out["prediction"][0]) for out in outs])
    frames = run("--size", "64")
    assert frames.shape == (FRAMES, 64, 64, 3) and difference(frames, expected) <= 1
    row = run("--size", "64", "--side_by_side")
    assert row.shape == (FRAMES, 64, 192, 3) and (row[:, :, :64] == pixels(0, 64)).all()


# ---- Mistakes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--smooth 0", "'0' is not a number from 0.001 to 10"),
        ("--smooth nan", "'nan' is not a number from 0.001 to 10"),
        ("--smooth 11", "'11' is not a number from 0.001 to 10"),
        ("--size 16", "--size 16: must be a larger height than the model's 32"),
        ("--size 66", "both must be multiples of"),
    ],
)
def test_a_mistake_is_one_line(
    place: Path, capsys: pytest.CaptureFixture, options: str, message: str
) -> None:
    assert_refused(place, capsys, [*MODEL, *SOURCE, *DRIVING, *options.split()], message)
