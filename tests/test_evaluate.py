"""The metrics against sums done by hand, what is kept and what is computed again, and the whole path on puppets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
from evaluation import metrics, puppets
from evaluation.cache import Cache
from evaluation.clips import find_pairs
from evaluation.comparisons import L1, Lpips, Psnr, Ssim
from evaluation.detectors import IDENTITIES, LANDMARKS, FaceAlignment, InsightFace, KeypointRCNN
from evaluation.report import frechet_inception_distance
from media.pictures import write_image
from media.writer import VideoWriter
from modules.errors import CheckpointError
from puppets.dataset import make_dataset

NAN = float("nan")
NOT_FOUND = (NAN, NAN)
CPU = torch.device("cpu")
SIZE = (32, 40)  # (H, W), not square

# ---- each metric by hand -----------------------------------------------------------------------------------------------


def test_keypoint_distance_is_the_mean_over_the_coordinates_found_in_both():
    real = np.array(
        [[(10, 20), (30, 40)], [(10, 20), (30, 40)], [(10, 20), NOT_FOUND], [NOT_FOUND, NOT_FOUND]]
    )
    made = np.array([[(13, 20), (30, 35)], [(12, 20), NOT_FOUND], [NOT_FOUND, (30, 40)], [(1, 1), (2, 2)]])
    values = metrics.keypoint_distance(made, real)
    np.testing.assert_array_equal(values, [(3 + 0 + 0 + 5) / 4, (2 + 0) / 2, NAN, NAN])
    assert metrics.mean_of_counted(values) == 1.5  # frames first: not (3 + 5 + 2) / 6


def test_missing_rate_is_a_share_of_what_the_real_frame_shows():
    here = (1, 1)
    real = np.array([[here, here, here, NOT_FOUND], [here, here, here, here], [NOT_FOUND] * 4])
    made = np.array([[here, NOT_FOUND, NOT_FOUND, here], [here, here, here, here], [here] * 4])
    np.testing.assert_array_equal(metrics.missing_rate(made, real), [2 / 3, 0, NAN])


def test_embedding_distances_with_and_without_the_root():
    real, made = np.array([[0.0, 0, 1], [1, 0, 0], [NAN] * 3]), np.array([[3.0, 4, 1], [NAN] * 3, [0, 0, 0]])
    np.testing.assert_array_equal(metrics.squared_embedding_distance(made, real), [25, NAN, NAN])
    np.testing.assert_array_equal(metrics.euclidean_embedding_distance(made, real), [5, NAN, NAN])


def test_the_mean_of_nothing_is_no_number():
    assert np.isnan(metrics.mean_of_counted(np.array([NAN, NAN])))


def plain(*levels: int) -> np.ndarray:
    """A grey frame for each level: (T, H, W, 3)."""
    return np.stack([np.full((*SIZE, 3), level, np.uint8) for level in levels])


def test_pixel_comparisons_of_plain_frames():
    made, real = plain(100, 0, 51), plain(101, 255, 51)
    compared = {}
    for comparison in (L1(), Psnr(), Ssim()):
        comparison.load(CPU)
        compared[comparison.name] = comparison(made, real)
    np.testing.assert_allclose(compared["l1"], [1 / 255, 1, 0])
    np.testing.assert_allclose(
        compared["psnr"], [20 * np.log10(255), 0, 10 * np.log10(12 * 255**2)], atol=1e-4
    )
    a, b = 100 / 255, 101 / 255
    luminance = (2 * a * b + 0.01**2) / (
        a * a + b * b + 0.01**2
    )  # contrast and structure of plain frames are 1
    np.testing.assert_allclose(
        compared["ssim"], [luminance, 0.01**2 / (1 + 0.01**2), 1], atol=5e-4
    )  # float32


def test_fid_of_one_feature():
    real, made = np.array([[0.0], [2]]), np.array([[3.0], [7]])  # means 1 and 5, variances 2 and 8
    assert frechet_inception_distance(made, real) == pytest.approx(
        (5 - 1) ** 2 + (np.sqrt(8) - np.sqrt(2)) ** 2
    )


# ---- from the packages' answers to landmarks and embeddings ------------------------------------------------------------


def test_the_largest_of_several_faces_counts_and_no_face_lacks_everything():
    small = np.random.default_rng(0).random((68, 2)) * 10
    large = np.concatenate([small * 5, np.ones((68, 1))], axis=1)
    np.testing.assert_array_equal(FaceAlignment.largest_face([small, large]), small * 5)
    assert (
        FaceAlignment.largest_face(None).shape == (68, 2)
        and not metrics.found(FaceAlignment.largest_face(None)).any()
    )

    faces = [
        SimpleNamespace(bbox=np.array([0, 0, side, side]), normed_embedding=np.full(512, side))
        for side in (3, 9, 5)
    ]
    np.testing.assert_array_equal(InsightFace.largest_face(faces), np.full(512, 9))
    assert InsightFace.largest_face([]).shape == (512,) and np.isnan(InsightFace.largest_face([])).all()


def test_unsure_bodies_and_keypoints_are_missing():
    points = torch.arange(2 * 17 * 3.0).view(2, 17, 3)
    sureness = torch.full((2, 17), 5.0)
    sureness[0, 4] = 1.9
    person = {"scores": torch.tensor([0.9, 0.8]), "keypoints": points, "keypoints_scores": sureness}
    landmarks = KeypointRCNN.surest_person(person)
    assert metrics.found(landmarks).tolist() == [number != 4 for number in range(17)]
    np.testing.assert_array_equal(landmarks[5], points[0, 5, :2])
    nobody = {
        "scores": torch.zeros(0),
        "keypoints": torch.zeros(0, 17, 3),
        "keypoints_scores": torch.zeros(0, 17),
    }
    for unsure in (person | {"scores": torch.tensor([0.7, 0.6])}, nobody):
        assert not metrics.found(KeypointRCNN.surest_person(unsure)).any()


# ---- the command, with detectors that find coloured dots ---------------------------------------------------------------


class DotLandmarks:
    """Landmark 0 is the red dot, landmark 1 the green one. Counts the frames it has seen."""

    name, version = "dots", "1"
    frames = 0
    stop_after = 10**9

    def __init__(self, puppets_folder: Path):
        pass

    def load(self, device: torch.device) -> None:
        pass

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        if DotLandmarks.frames >= DotLandmarks.stop_after:
            raise KeyboardInterrupt
        DotLandmarks.frames += len(frames)
        return np.stack(
            [[self.dot(frame[..., channel]) for channel in (0, 1)] for frame in frames]
        )  # (B, 2, 2)

    @staticmethod
    def dot(channel: np.ndarray) -> tuple[float, float]:
        y, x = np.unravel_index(channel.argmax(), channel.shape)
        return (x, y) if channel[y, x] == 255 else NOT_FOUND


class BlueIdentity(DotLandmarks):
    """The embedding is (1, brightest blue); nobody is there without any."""

    name = "blue"

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        blue = frames[..., 2].max((1, 2)) / 255  # (B,)
        return np.where(blue[:, None] > 0, np.stack([np.ones_like(blue), blue], axis=1), NAN)


@pytest.fixture(autouse=True)
def dots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LANDMARKS, "dots", DotLandmarks)
    monkeypatch.setitem(IDENTITIES, "blue", BlueIdentity)
    monkeypatch.setattr(DotLandmarks, "frames", 0)


def dotted(red: tuple[int, int] | None, green: tuple[int, int] | None, blue: int = 51) -> np.ndarray:
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[0, 0, 2] = blue
    for channel, place in enumerate((red, green)):
        if place is not None:
            frame[place[1], place[0], channel] = 255
    return frame


def write_strip(path: Path, frames: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.concatenate(frames, axis=1))


def write_folder(path: Path, frames: list[np.ndarray]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        write_image(path / f"{number}.png", frame)


def run(folder: Path, *options: str) -> dict:
    evaluate.main(
        [
            "--generated",
            str(folder / "png"),
            "--real",
            str(folder / "test"),
            "--out",
            str(folder / "out"),
            "--device",
            "cpu",
            *options,
        ]
    )
    return json.loads((folder / "out" / "evaluation.json").read_text())


DOTS = ("--metrics", "akd", "mkr", "aed", "--landmarks", "dots", "--identity", "blue")


def test_reconstruction_strips_against_clips_of_any_format(tmp_path: Path, capsys: pytest.CaptureFixture):
    still = [dotted((5, 6), (10, 20))]
    write_folder(tmp_path / "test" / "id1#a.v2.mp4", still)  # names match up to the first dot
    write_strip(tmp_path / "png" / "id1#a.v2.png", still)
    with VideoWriter(tmp_path / "test" / "id2.mp4", 25, lossless=True) as writer:
        for _ in range(3):
            writer.write(dotted((5, 6), (10, 20)))
    # Moved by 3 pixels to the right; red missing and another blue; both missing, nobody there.
    write_strip(
        tmp_path / "png" / "id2.png",
        [dotted((8, 6), (13, 20)), dotted(None, (10, 24), 255), dotted(None, None, 0)],
    )
    means = run(tmp_path, *DOTS)["metrics"]
    assert means["akd"] == {
        "mean_over_frames": pytest.approx((0 + 1.5 + 2) / 3),
        "mean_over_videos": pytest.approx(1.75 / 2),
        "frames": 3,
    }
    assert (
        means["mkr"]["mean_over_frames"] == pytest.approx((0 + 0 + 0.5 + 1) / 4)
        and means["mkr"]["frames"] == 4
    )
    assert means["aed_squared"]["mean_over_frames"] == pytest.approx((0 + 0 + 0.8**2) / 3)
    assert means["aed_euclidean"]["mean_over_frames"] == pytest.approx((0 + 0 + 0.8) / 3)
    rows = pd.read_csv(tmp_path / "out" / "evaluation.csv").set_index("video")
    assert rows.index.tolist() == ["id1#a", "id2"] and rows["frames"].tolist() == [1, 3]
    assert rows.loc["id2", "akd"] == pytest.approx(1.75) and rows.loc["id2", "akd_frames"] == 2
    table = capsys.readouterr().out
    assert "AKD, pixels" in table and "1.1667" in table


def test_l1_weighs_frames_and_not_videos(tmp_path: Path):
    write_folder(tmp_path / "test" / "short", list(plain(0)))
    write_strip(tmp_path / "png" / "short.png", list(plain(255)))
    write_folder(tmp_path / "test" / "long", list(plain(7, 8, 9)))
    write_strip(tmp_path / "png" / "long.png", list(plain(7, 8, 9)))
    summary = run(tmp_path, "--metrics", "l1", "psnr")
    assert summary["metrics"]["l1"] == {"mean_over_frames": 0.25, "mean_over_videos": 0.5, "frames": 4}
    assert summary["metrics"]["psnr"]["mean_over_frames"] == pytest.approx(
        3 / 4 * 10 * np.log10(12 * 255**2), abs=1e-4
    )
    assert (summary["videos"], summary["frames"]) == (2, 4)


def test_two_folders_of_strips_that_are_not_square(tmp_path: Path):
    for folder in ("png", "test"):
        write_strip(tmp_path / folder / "a.png", [dotted((5, 6), (x, 20)) for x in range(3)])
    summary = run(tmp_path, *DOTS, "--frame_size", str(SIZE[0]), str(SIZE[1]))
    assert summary["frames"] == 3 and summary["metrics"]["akd"]["mean_over_frames"] == 0


def test_nothing_found_anywhere_is_said_and_not_counted(tmp_path: Path):
    for folder in ("png", "test"):
        write_folder(tmp_path / folder / "a", [dotted(None, None, 0)] * 2)
    means = run(tmp_path, *DOTS)["metrics"]
    assert all(
        means[name] == {"mean_over_frames": None, "mean_over_videos": None, "frames": 0} for name in means
    )


# ---- what is kept ------------------------------------------------------------------------------------------------------


def write_pairs(folder: Path, clips: int = 3, frames: int = 2) -> None:
    for number in range(clips):
        write_folder(folder / "test" / f"c{number}", [dotted((5, 6), (10, 20))] * frames)
        write_strip(folder / "png" / f"c{number}.png", [dotted((6, 6), (10, 20))] * frames)


def test_what_has_not_changed_is_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pairs(tmp_path)
    first = run(tmp_path, *DOTS)
    assert DotLandmarks.frames == 3 * 2 * 2
    assert run(tmp_path, *DOTS) == first and DotLandmarks.frames == 12

    write_strip(tmp_path / "png" / "c1.png", [dotted((9, 6), (10, 20))] * 2)
    changed = run(tmp_path, *DOTS)
    assert DotLandmarks.frames == 12 + 2
    assert changed["metrics"]["akd"]["mean_over_videos"] == pytest.approx((0.25 + 1 + 0.25) / 3)

    frame = tmp_path / "test" / "c2" / "1.png"
    os.utime(frame, ns=(0, frame.stat().st_mtime_ns + 1))
    run(tmp_path, *DOTS)
    assert DotLandmarks.frames == 14 + 2
    monkeypatch.setattr(DotLandmarks, "version", "2")
    run(tmp_path, *DOTS)
    assert DotLandmarks.frames == 16 + 12


def test_damaged_results_are_computed_again(tmp_path: Path):
    write_pairs(tmp_path)
    first = run(tmp_path, *DOTS)
    for number, kept in enumerate(sorted((tmp_path / "png" / ".evaluation" / "dots").iterdir())):
        kept.write_bytes([b"", b"no zip", kept.read_bytes()[:-20]][number])
    assert run(tmp_path, *DOTS) == first and DotLandmarks.frames == 12 + 6


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pairs(tmp_path)
    monkeypatch.setattr(DotLandmarks, "stop_after", 6)  # in the middle of the second of three pairs
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *DOTS)
    assert stopped.value.code == 130 and not (tmp_path / "out").exists()
    monkeypatch.undo()
    monkeypatch.setitem(LANDMARKS, "dots", DotLandmarks)
    monkeypatch.setitem(IDENTITIES, "blue", BlueIdentity)
    DotLandmarks.frames = 0
    assert run(tmp_path, *DOTS)["metrics"]["akd"]["mean_over_frames"] == 0.25
    assert DotLandmarks.frames == 8  # the first pair was kept


def test_a_second_run_does_not_even_import_torch(tmp_path: Path):
    write_pairs(tmp_path)
    run(tmp_path, "--metrics", "l1", "psnr")
    program = (
        f"import sys, evaluate; evaluate.main(['--generated', {str(tmp_path / 'png')!r}, '--real', "
        f"{str(tmp_path / 'test')!r}, '--metrics', 'l1', 'psnr']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(evaluate.__file__).parent).returncode == 0


def test_results_that_cannot_be_kept_are_warned_of_and_reported(tmp_path: Path):
    write_pairs(tmp_path, clips=1)
    (tmp_path / "test" / ".evaluation").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="results can't be kept there"):
        assert run(tmp_path, *DOTS)["metrics"]["akd"]["mean_over_frames"] == 0.25


# ---- mistakes ----------------------------------------------------------------------------------------------------------


def longer(folder: Path) -> None:
    write_folder(folder / "test" / "c1", [dotted(None, None)] * 5)


def larger(folder: Path) -> None:
    write_folder(folder / "test" / "a", [np.zeros((16, 16, 3), np.uint8)])
    write_folder(folder / "png" / "a", [np.zeros((16, 18, 3), np.uint8)])


def other_strip(folder: Path) -> None:
    write_strip(folder / "png" / "c1.png", [np.zeros((16, 16, 3), np.uint8)])


def above_the_strips(folder: Path) -> None:
    write_folder(folder / "png" / "png", [dotted(None, None)])


MISTAKES = {
    "generated only": (
        lambda d: write_strip(d / "png" / "new.png", [dotted(None, None)]),
        DOTS,
        "png: new without a real",
    ),
    "real only": (
        lambda d: write_folder(d / "test" / "new", [dotted(None, None)]),
        DOTS,
        "png: lacks new of",
    ),
    "a folder too high": (above_the_strips, DOTS, "give --generated"),
    "lengths": (longer, DOTS, "c1.png: has 2 frames and"),
    "sizes": (larger, DOTS, "its frames are 16x18 (height x width), those of"),
    "size of a strip": (
        other_strip,
        DOTS,
        "c1.png: is 16x16 (height x width), which is not a row of frames of 32x40",
    ),
    "names": (
        lambda d: write_folder(d / "test" / "c1.mp4", [dotted(None, None)]),
        DOTS,
        "c1 and c1.mp4 both count as 'c1'",
    ),
    "no detector": (
        lambda d: None,
        ("--metrics", "akd", "mkr"),
        "akd and mkr need --landmarks, one of face-alignment",
    ),
    "no puppets": (
        lambda d: None,
        ("--metrics", "aed", "--identity", "puppets"),
        "train: holds no puppets with landmarks",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_with_names(name: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    prepare, options, expected = MISTAKES[name]
    write_pairs(tmp_path, clips=2)
    prepare(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *options)
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(lines) == 1 and expected in lines[0]
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_one_line_that_says_what_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"half a download")
    with pytest.raises(
        CheckpointError, match=r"^lpips needs weights .*: put alexnet-owt-7be5be79\.pth into .*checkpoints$"
    ):
        Lpips().load(CPU)


def test_an_optional_package_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(
        sys, "path", [path for path in sys.path if "site-packages" not in path]
    )  # nothing is installed
    write_pairs(tmp_path, clips=1)
    with pytest.raises(SystemExit):
        run(tmp_path, "--metrics", "akd", "--landmarks", "face-alignment")
    assert capsys.readouterr().err == (
        "error: the detector face-alignment needs the package face-alignment; install it with: "
        "pip install face-alignment\n"
    )


# ---- puppets -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of ten puppets and their network, fitted for a moment."""
    root = tmp_path_factory.mktemp("puppets") / "data"
    make_dataset(root, videos=40, frames=2, size=64, format="png", seed=0)
    puppets.fit_puppets(root / "train", root / ".evaluation" / "puppets.pth", steps=60)
    return root


def test_puppets_against_themselves_and_moved(fitted: Path, tmp_path: Path):
    options = ("--metrics", "l1", "akd", "mkr", "aed", "--landmarks", "puppets", "--identity", "puppets")
    evaluate.main(
        [
            "--generated",
            str(fitted / "test"),
            "--real",
            str(fitted / "test"),
            "--out",
            str(tmp_path),
            *options,
        ]
    )
    means = json.loads((tmp_path / "evaluation.json").read_text())["metrics"]
    assert all(means[name]["mean_over_frames"] == 0 and means[name]["frames"] == 8 for name in means)


def test_the_fitted_network_beats_the_mean_pose(fitted: Path):
    examples = puppets.read_examples(fitted / "train")
    network = puppets.PuppetNet.read(fitted / ".evaluation" / "puppets.pth")
    frames = examples.frames.float() / 255
    places = (network.find_landmarks(frames) + 0.5) / puppets.SIDE  # uv
    error = (places - examples.uv).abs().nanmean()
    guess = (examples.uv.mean(0) - examples.uv).abs().mean()
    assert error < 0.95 * guess
    embeddings = network.embed(frames)
    distance = torch.cdist(embeddings, embeddings)
    same = examples.puppets[:, None] == examples.puppets
    assert distance[same].nanmean() < 0.8 * distance[~same].nanmean()


def test_landmarks_are_in_pixels_of_a_frame_of_any_size(fitted: Path):
    network = puppets.PuppetNet.read(fitted / ".evaluation" / "puppets.pth")
    frames = puppets.read_examples(fitted / "train").frames[:4].float() / 255
    twice = frames.repeat_interleave(2, 2).repeat_interleave(2, 3)
    small, large = network.find_landmarks(frames), network.find_landmarks(twice)
    torch.testing.assert_close((large + 0.5) / 2, small + 0.5, equal_nan=True, atol=1.0, rtol=0)


def test_true_landmarks_moved_by_three_pixels(fitted: Path):
    """What the shift means in pixels does not depend on a detector."""
    for file in sorted((fitted / "test").glob("*.npz")):
        xy = torch.from_numpy(np.load(file)["xy"])
        pixels = (puppets.xy_to_uv(xy, 64, 64) * 64 - 0.5).numpy()
        np.testing.assert_allclose(pixels, (xy.numpy() + 1) / 2 * 63, atol=1e-4)
        for shift, expected in (((3, 0), 1.5), ((3, -3), 3)):
            np.testing.assert_allclose(
                metrics.keypoint_distance(pixels + np.array(shift), pixels), expected, atol=1e-5
            )


def test_disturbed_examples_keep_landmarks_on_what_they_mark():
    side, names = puppets.SIDE, ["eye_left", "eye_right", "nose"]
    picture = torch.zeros(3, side, side)
    places = torch.tensor([[20, 30], [40, 31], [25, 50]])  # x, y
    for channel, (x, y) in enumerate(places.tolist()):
        picture[channel, y, x] = 1
    draw = torch.Generator().manual_seed(3)
    moved, uv = puppets.shift(*puppets.mirror(picture, (places + 0.5) / side, names), draw)
    for channel, (x, y) in enumerate((uv * side - 0.5).round().int().tolist()):
        mirrored = {0: 1, 1: 0, 2: 2}[channel]  # the left eye is the one that was the right eye
        assert moved[mirrored, y, x] == 1
    covered = puppets.cover(moved, uv, torch.Generator().manual_seed(0))
    for channel, (x, y) in enumerate((uv * side - 0.5).round().int().tolist()):
        assert (moved[{0: 1, 1: 0, 2: 2}[channel], y, x] == 1) == (not covered[channel])
    assert covered.any() and not covered.all()


def test_a_network_is_fitted_once(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(puppets, "fit_puppets", lambda *_: pytest.fail("fitted again"))
    assert IDENTITIES["puppets"](fitted).version == LANDMARKS["puppets"](fitted).version
    assert len(find_pairs(fitted / "test", fitted / "test", Cache())) == 4
