"""motion.py: smoothing, with figures of the bundled model, and motion files."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints.files import load_for_inference, read_checkpoint
from inference.motion import OneEuroFilter, load_motion, model_fingerprint, save_motion, smooth
from media.clips import open_clip
from media.pictures import read_image
from media.tensors import to_tensor
from modules.build import build_generator, build_kp_detector, read_config
from modules.util import Keypoints
from utils.errors import MediaError

ROOT = Path(__file__).resolve().parent.parent
CONFIG, CHECKPOINT = ROOT / "config" / "puppets-128.yaml", ROOT / "sup-mat" / "puppets-128.pth.tar"
RATE = 25.0
PARTS = ("value", "jacobian")

Smoother = Callable[[list[Keypoints]], list[Keypoints]]


def whole(keypoints: list[Keypoints]) -> list[Keypoints]:
    return list(smooth(keypoints, RATE))


def live(keypoints: list[Keypoints]) -> list[Keypoints]:
    filter = OneEuroFilter(RATE)
    return [filter(kp) for kp in keypoints]


def series(keypoints: list[Keypoints], part: str) -> np.ndarray:
    """One part over time, (T, coordinates)."""
    return torch.cat([kp[part] for kp in keypoints]).flatten(1).double().numpy()


def random_keypoints(frames: int, seed: int = 0) -> list[Keypoints]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"value": (1, 3, 2), "jacobian": (1, 3, 2, 2)}
    return [
        {name: torch.randn(shape, generator=random) for name, shape in shapes.items()} for _ in range(frames)
    ]


# ---- Smoothing -----------------------------------------------------------------


@pytest.fixture(scope="module")
def detected() -> dict[str, list[Keypoints]]:
    """What the bundled model finds in 60 noisy pictures of a still puppet, and in the sample of the demo."""
    config = read_config(CONFIG)
    kp_detector = build_kp_detector(config).eval()
    load_for_inference(CHECKPOINT, build_generator(config), kp_detector)
    picture, rng = read_image(ROOT / "sup-mat" / "source.png"), np.random.default_rng(0)
    noisy = (np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8) for _ in range(60))
    with torch.inference_mode():
        return {
            "still": [kp_detector(to_tensor(frame)[None]) for frame in noisy],
            "driving": [
                kp_detector(to_tensor(frame)[None]) for frame in open_clip(ROOT / "sup-mat" / "driving.mp4")
            ],
        }


def jitter(keypoints: list[Keypoints], part: str) -> float:
    """The root mean square of what changes from frame to frame."""
    return float(np.sqrt(np.square(np.diff(series(keypoints, part), axis=0)).mean()))


def lag(late: np.ndarray, early: np.ndarray) -> float:
    """By how many frames `late` (T, coordinates) is behind: the bottom of a parabola of squares."""
    length, shifts = len(early), np.arange(-3, 4)
    errors = [np.square(late[4 + k : length - 4 + k] - early[4 : length - 4]).mean() for k in shifts]
    lowest = int(np.clip(np.argmin(errors), 1, 5))
    before, at, after = errors[lowest - 1 : lowest + 2]
    return shifts[lowest] + 0.5 * (before - after) / (before - 2 * at + after)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("smoother", "least", "max_lag"), [(whole, 5, 0.05), (live, 3.5, 0.5)])
def test_jitter_falls_to_a_part_and_nothing_is_late(
    detected: dict[str, list[Keypoints]], smoother: Smoother, least: float, max_lag: float, part: str
) -> None:
    still, driving = detected["still"], detected["driving"]
    assert jitter(still, part) / jitter(smoother(still), part) >= least
    assert abs(lag(series(smoother(driving), part), series(driving, part))) < max_lag


def test_the_live_filter_does_not_depend_on_the_scale_of_a_models_jacobians(
    detected: dict[str, list[Keypoints]],
) -> None:
    larger = [kp | {"jacobian": 10 * kp["jacobian"]} for kp in detected["driving"]]
    for plain, scaled in zip(live(detected["driving"]), live(larger), strict=True):
        torch.testing.assert_close(scaled["jacobian"], 10 * plain["jacobian"], rtol=1e-4, atol=1e-4)


def test_a_steady_movement_stays_as_it_is_even_at_the_ends() -> None:
    first, step = random_keypoints(2)
    moving = [{name: first[name] + t * step[name] for name in PARTS} for t in range(20)]
    for before, after in zip(moving, whole(moving), strict=True):
        for name in PARTS:
            torch.testing.assert_close(after[name], before[name], atol=1e-4, rtol=1e-5)


def test_smoothing_is_the_same_backwards() -> None:
    keypoints = random_keypoints(30)
    for there, back in zip(whole(keypoints), reversed(whole(keypoints[::-1])), strict=True):
        torch.testing.assert_close(there["value"], back["value"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strength", [0.5, 1, 3])
@pytest.mark.parametrize("lengths", [(12, 12), (1, 20), (2, 20), (20, 1), (20, 2), (9, 3, 9)])
def test_smoothing_starts_anew_at_a_hard_cut(lengths: tuple[int, ...], strength: float) -> None:
    places = random_keypoints(len(lengths))
    shakes = [random_keypoints(length) for length in lengths]
    scenes = [
        [{name: place[name] + 0.004 * kp[name] for name in PARTS} for kp in shake]
        for place, shake in zip(places, shakes, strict=True)
    ]
    together = smooth(itertools.chain.from_iterable(scenes), RATE, strength)
    apart = [kp for scene in scenes for kp in smooth(scene, RATE, strength)]
    for found, expected in zip(together, apart, strict=True):
        for name in PARTS:
            torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-6)


def test_a_quick_turn_is_no_cut() -> None:
    turn = np.concatenate([np.zeros(10), np.linspace(0, 0.5, 8), np.full(10, 0.5)])  # in a third of a second
    keypoints = [{"value": torch.full((1, 3, 2), float(x))} for x in turn]
    smoothed = [float(kp["value"].mean()) for kp in smooth(keypoints, RATE)]
    assert np.abs(np.diff(smoothed, 2)).max() < 0.6 * np.abs(np.diff(turn, 2)).max()


def test_no_more_than_a_window_is_held() -> None:
    taken = 0

    def coming() -> Iterator[Keypoints]:
        nonlocal taken
        for kp in random_keypoints(200):
            taken += 1
            yield kp

    for number, _ in enumerate(smooth(coming(), RATE)):
        assert taken <= number + 8  # 4 sigmas of 1.5 frames, the frame itself, and one for cuts
    assert number == 199


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_short_videos(frames: int) -> None:
    keypoints = random_keypoints(frames)
    for smoother in (whole, live):
        found = smoother(keypoints)
        assert len(found) == frames and all(torch.isfinite(kp["value"]).all() for kp in found)


def test_more_strength_is_smoother() -> None:
    keypoints = random_keypoints(60)
    rough, fine = (jitter(list(smooth(keypoints, RATE, strength)), "value") for strength in (0.5, 2))
    assert fine < rough / 2


def test_zero_order_keypoints_have_no_jacobian() -> None:
    keypoints = [{"value": kp["value"]} for kp in random_keypoints(5)]
    assert [kp.keys() for kp in whole(keypoints) + live(keypoints)] == [{"value"}] * 10


# ---- Files ---------------------------------------------------------------------


@pytest.mark.parametrize("parts", [PARTS, ("value",)])
def test_motion_comes_back_bit_for_bit(tmp_path: Path, parts: tuple[str, ...]) -> None:
    keypoints = [{name: kp[name] for name in parts} for kp in random_keypoints(7)]
    save_motion(tmp_path / "walk.npz", keypoints, 23.976, "abc")
    motion = load_motion(tmp_path / "walk.npz", "abc")
    assert motion.rate == 23.976 and motion.keypoints.keys() == set(parts)
    for name in parts:
        assert torch.equal(motion.keypoints[name], torch.cat([kp[name] for kp in keypoints]))
    assert [path.name for path in tmp_path.iterdir()] == ["walk.npz"]


def test_motion_of_another_model_is_refused(tmp_path: Path) -> None:
    save_motion(tmp_path / "walk.npz", random_keypoints(2), RATE, "abc")
    with pytest.raises(MediaError, match=r"walk\.npz: is motion of another model"):
        load_motion(tmp_path / "walk.npz", "abd")


def test_a_fingerprint_is_of_weights_and_config() -> None:
    state = read_checkpoint(CHECKPOINT)["kp_detector"]
    params = read_config(CONFIG)["model_params"]["kp_detector_params"]
    fingerprint = model_fingerprint(state, params)
    assert fingerprint == model_fingerprint(dict(reversed(state.items())), dict(reversed(params.items())))
    assert fingerprint != model_fingerprint(state, params | {"temperature": 0.2})
    assert fingerprint != model_fingerprint(state | {"kp.bias": state["kp.bias"] + 1}, params)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def motion_arrays(**changes: object) -> dict[str, object]:
    arrays = {name: np.zeros((4, 3, 2, 2)[: 3 + (name == "jacobian")], np.float32) for name in PARTS}
    return arrays | {"rate": np.float64(25), "fingerprint": np.array("abc")} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"value": np.zeros((4, 3, 3), np.float32)},
        {"value": np.zeros((0, 3, 2), np.float32)},
        {"value": np.full((4, 3, 2), np.nan, np.float32)},
        {"value": np.zeros((4, 3, 2))},
        {"jacobian": np.zeros((4, 2, 2, 2), np.float32)},
        {"rate": np.float64(0)},
        {"rate": np.array("fast")},
        {"fingerprint": np.array(7)},
        {"extra": np.zeros(2)},
    ],
)
def test_odd_arrays_are_no_motion(tmp_path: Path, changes: dict[str, object]) -> None:
    np.savez(tmp_path / "odd.npz", **motion_arrays(**changes))
    with pytest.raises(MediaError, match=r"odd\.npz: is no motion file"):
        load_motion(tmp_path / "odd.npz", "abc")


def test_other_files_are_no_motion_and_no_pickle_is_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", **motion_arrays(value=np.array([Bomb(tmp_path / "ran")], object)))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "objects.npz").read_bytes()[:100])
    (tmp_path / "empty.npz").touch()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(MediaError, match="is no motion file"):
            load_motion(path, "abc")
    with pytest.raises(MediaError, match="does not exist"):
        load_motion(tmp_path / "nowhere.npz", "abc")
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="check that its folder exists"):
        save_motion(tmp_path / "nowhere" / "walk.npz", random_keypoints(2), RATE, "abc")
