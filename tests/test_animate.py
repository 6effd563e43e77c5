"""Keypoint transfer, the Animator, and the two modes of run.py that use it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import run
from checkpoints.files import NETWORKS
from inference.animator import Animator, normalize_kp
from inference.networks import InferenceNetworks
from logger import Visualizer
from media.clips import open_clip
from media.pictures import write_image
from modules.build import build_discriminator, build_generator, build_kp_detector
from tests.clips import write_clip, write_dataset
from tests.golden import Case, assert_outputs
from tests.small import error_of, images, randomize, small_config, write_config

SWITCHES = ("adapt_movement_scale", "use_relative_movement", "use_relative_jacobian")


@pytest.fixture
def networks() -> InferenceNetworks:
    torch.manual_seed(0)
    return randomize(build_generator(small_config())), randomize(build_kp_detector(small_config()))


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    """A config with its test clips, and a checkpoint in a folder of its own."""
    root = write_dataset(tmp_path / "data")
    config = small_config({"dataset_params.root_dir": str(root)})
    torch.manual_seed(0)
    builders = {
        "generator": build_generator,
        "discriminator": build_discriminator,
        "kp_detector": build_kp_detector,
    }
    content = {name: randomize(builders[name](config)).state_dict() for name in NETWORKS}
    (tmp_path / "run").mkdir()
    checkpoint = tmp_path / "run" / "00000000-checkpoint.pth.tar"
    torch.save(content, checkpoint)
    return write_config(tmp_path / "tiny.yaml", config), checkpoint


# ---- Keypoint transfer -------------------------------------------------------


def test_normalize_kp_golden() -> None:
    case = Case("normalize_kp")
    inputs, expected = case.under("in"), case.under("out")
    assert len(expected) == 8
    for name, kp in expected.items():
        switches = dict(zip(SWITCHES, (part[-1] == "1" for part in name.split("_")), strict=True))
        assert_outputs(normalize_kp(**inputs, **switches), kp)


def keypoints(batch: int, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.eye(2) + 0.2 * torch.randn(batch, 4, 2, 2, generator=generator)
    return {"value": torch.rand(batch, 4, 2, generator=generator) - 0.5, "jacobian": jacobian}


def test_the_initial_frame_leaves_the_source_as_it_is() -> None:
    source, driving = keypoints(1), keypoints(1, seed=1)
    found = normalize_kp(source, driving, driving, **dict.fromkeys(SWITCHES, True))
    torch.testing.assert_close(found, source)


def test_keypoints_on_a_line_and_without_jacobians_are_no_error() -> None:
    line = {"value": torch.linspace(-0.5, 0.5, 4).view(1, 4, 1).expand(1, 4, 2)}
    moved = {"value": line["value"] + 0.1}
    found = normalize_kp(line, moved, line, **dict.fromkeys(SWITCHES, True))
    torch.testing.assert_close(found, moved)


# ---- Animator ----------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
def test_animator_does_what_the_networks_do_one_by_one(networks: InferenceNetworks, batch_size: int) -> None:
    generator, kp_detector = networks
    source, driving = images(1), images(5, seed=1)
    switches = dict.fromkeys(SWITCHES, True)
    animator = Animator(generator, kp_detector, source, switches, batch_size=batch_size)
    results = list(animator.animate(iter(driving)))
    assert len(results) == 5
    with torch.no_grad():
        kp_source, kp_initial = kp_detector(source), kp_detector(driving[:1])
        for i, result in enumerate(results):
            kp = normalize_kp(kp_source, kp_detector(driving[i : i + 1]), kp_initial, **switches)
            expected = generator(source, kp_driving=kp, kp_source=kp_source)["prediction"]
            torch.testing.assert_close(result["prediction"], expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(result["kp_norm"], kp, atol=1e-5, rtol=1e-4)


def test_animator_measures_movement_from_the_frame_it_is_told(networks: InferenceNetworks) -> None:
    source, driving = images(1), images(3, seed=1)
    animator = Animator(*networks, source, dict.fromkeys(SWITCHES, True))
    results = list(animator.animate(driving, animator.find(driving[2])))
    torch.testing.assert_close(results[2]["kp_norm"], animator.kp_source)
    assert not torch.allclose(results[0]["kp_norm"]["value"], animator.kp_source["value"])


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """`torch.set_num_threads` for the time of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("threads", "held"), [(1, 2), (2, 10)])
def test_animator_holds_few_batches_of_frames(
    networks: InferenceNetworks, set_threads: Callable[[int], None], threads: int, held: int
) -> None:
    set_threads(threads)
    asked = []

    def frames() -> Iterator[torch.Tensor]:
        for i, frame in enumerate(images(30)):
            asked.append(i)
            yield frame

    stream = Animator(*networks, images(1), batch_size=2).animate(frames())
    next(stream)
    assert asked == list(range(held))


def test_frames_side_by_side_are_what_they_are_alone(
    networks: InferenceNetworks, set_threads: Callable[[int], None]
) -> None:
    source, driving = images(1), images(9, seed=1)
    results = []
    for threads in (1, 2):
        set_threads(threads)
        animator = Animator(*networks, source, dict.fromkeys(SWITCHES, True))
        results.append(torch.cat([out["prediction"] for out in animator.animate(driving)]))
    torch.testing.assert_close(*results)


# ---- Pictures ----------------------------------------------------------------


def test_visualizer_draws_every_column_and_marks_keypoints(networks: InferenceNetworks) -> None:
    generator, kp_detector = networks
    source, driving = images(2), images(2, seed=1)
    kp_source, kp_driving = kp_detector(source), kp_detector(driving)
    out = generator(source, kp_driving=kp_driving, kp_source=kp_source)
    out |= {"kp_source": kp_source, "kp_driving": kp_driving}
    grid = Visualizer(kp_size=2, colormap="gist_rainbow").visualize(driving, source, out)
    columns = (
        ["source", "driving", "deformed", "prediction", "occlusion"] + ["motion", "mask"] * 4 + ["masks"]
    )
    assert grid.shape == (2 * 32, len(columns) * 32, 3) and grid.dtype == np.uint8
    x, y = ((kp_source["value"][0, 0] + 1) / 2 * 31).round().int().tolist()
    assert grid[y, x].tolist() == [255, 0, 41]  # the first colour of gist_rainbow
    prediction = (out["prediction"][1].permute(1, 2, 0).detach().numpy() * 255).round()
    assert np.array_equal(grid[32:, 96:128], prediction)
    # The last column is the sum of the keypoints' masks, whose colours stand in every second column before.
    shares = [grid[:, 32 * i : 32 * (i + 1)].astype(int) for i in (8, 10, 12)]
    assert np.abs(sum(shares) - grid[:, -32:]).max() <= 2  # of rounding
    # Of keypoints that were transferred, the picture with them comes first, as published.
    marked = Visualizer(kp_size=2).visualize(driving, source, out | {"kp_norm": kp_source})
    assert np.array_equal(marked[:, :96], grid[:, :96])
    assert np.array_equal(marked[:, 128:], grid[:, 96:])


# ---- Modes -------------------------------------------------------------------


def test_reconstruction_writes_videos_strips_and_the_loss(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    config, checkpoint = trained
    arguments = [str(config), "--mode", "reconstruction", "--checkpoint", str(checkpoint), "--device", "cpu"]
    run.main(arguments)
    folder = checkpoint.parent / "reconstruction"
    names = ["id100#0", "id101#1"]
    assert sorted(path.name for path in folder.glob("*.mp4")) == [f"{name}.mp4" for name in names]
    table = pd.read_csv(folder / "l1.csv")
    assert table["video"].tolist() == names and table["frames"].tolist() == [4, 4]
    assert (
        f"Reconstruction loss: {np.average(table['l1'], weights=table['frames'])}" in capsys.readouterr().out
    )

    for name, l1 in zip(names, table["l1"], strict=True):
        strip = open_clip(folder / "png" / f"{name}.png", (32, 32, 3)).read(range(4))
        real = open_clip(checkpoint.parent.parent / "data" / "test" / name).read(range(4))
        assert np.abs(strip / 255 - real / 255).mean() == pytest.approx(
            l1, abs=0.002
        )  # but for rounding to 8 bits
        assert len(open_clip(folder / f"{name}.mp4")) == 4
        assert open_clip(folder / f"{name}.mp4").fps == pytest.approx(25)
    summary = json.loads((folder / "l1.json").read_text())
    assert summary["videos"] == 2 and summary["frames"] == 8

    (folder / "id100#0.mp4").unlink()
    kept = (folder / "id101#1.mp4").stat().st_mtime_ns
    run.main([*arguments, "--skip_existing"])
    assert (folder / "id100#0.mp4").exists() and (folder / "id101#1.mp4").stat().st_mtime_ns == kept
    pd.testing.assert_frame_equal(pd.read_csv(folder / "l1.csv"), table)


@pytest.mark.parametrize("mode", ["reconstruction", "animate"])
def test_results_go_to_the_log_dir_that_is_asked_for(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture, mode: str
) -> None:
    config, checkpoint = trained
    arguments = [str(config), "--mode", mode, "--checkpoint", str(checkpoint), "--device", "cpu"]
    run.main([*arguments, "--log_dir", str(tmp_path / "elsewhere")])
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    assert len(list((tmp_path / "elsewhere").glob("*/*.mp4"))) == 2
    message = error_of(capsys, lambda: run.main([*arguments, "--log_dir", str(config)]))
    assert "choose another --log_dir" in message


def test_num_videos_is_a_maximum(trained: tuple[Path, Path]) -> None:
    config, checkpoint = trained
    config.write_text(config.read_text().replace("num_videos: 10", "num_videos: 1"))
    run.main([str(config), "--mode", "reconstruction", "--checkpoint", str(checkpoint), "--device", "cpu"])
    assert len(list((checkpoint.parent / "reconstruction").glob("*.mp4"))) == 1


def test_animation_of_a_list_of_pairs(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, checkpoint = trained
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("source,driving\nid100#0.mp4,id101#1.mp4\nid101#1,id101#1\n")
    config.write_text(
        config.read_text().replace("dataset_params:\n", f"dataset_params:\n  pairs_list: {pairs}\n")
    )
    run.main([str(config), "--mode", "animate", "--checkpoint", str(checkpoint.parent), "--device", "cpu"])
    folder = checkpoint.parent / "animation"
    assert sorted(path.name for path in folder.glob("*.mp4")) == [
        "id101#1-id100#0.mp4",
        "id101#1-id101#1.mp4",
    ]
    assert len(open_clip(folder / "png" / "id101#1-id100#0.png", (32, 32, 3))) == 4


def test_pairs_that_would_share_a_name_get_a_result_each(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, checkpoint = trained
    for number, name in enumerate(["a", "a-b", "b-c", "c"]):
        write_clip(tmp_path / "data" / "test" / name, seed=number)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("driving,source\na,c\na-b,c\na,b-c\na,b-c\n")
    arguments = [str(config), "--mode", "animate", "--checkpoint", str(checkpoint), "--device", "cpu"]
    arguments += ["--set", f"dataset_params.pairs_list={pairs}", "animate_params.num_pairs=9"]
    run.main(arguments)
    folder = checkpoint.parent / "animation"
    names = sorted(path.stem for path in folder.glob("*.mp4"))
    assert len(names) == 3 and names[2] == "a-c" and all(name.startswith("a-b-c_") for name in names[:2])
    assert names == sorted(path.stem for path in (folder / "png").iterdir())
    made = [path.stat().st_mtime_ns for path in folder.glob("*.mp4")]
    run.main([*arguments, "--skip_existing"])
    assert [path.stat().st_mtime_ns for path in folder.glob("*.mp4")] == made


def test_a_folder_and_a_strip_of_one_name_are_both_reconstructed(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    config, checkpoint = trained
    strip = open_clip(tmp_path / "data" / "test" / "id100#0")
    write_image(tmp_path / "data" / "test" / "id100#0.png", np.concatenate(list(strip), axis=1))
    run.main([str(config), "--mode", "reconstruction", "--checkpoint", str(checkpoint), "--device", "cpu"])
    table = pd.read_csv(checkpoint.parent / "reconstruction" / "l1.csv")
    videos = sorted(path.stem for path in (checkpoint.parent / "reconstruction").glob("*.mp4"))
    assert len(videos) == 3 and "id101#1" in videos and sorted(table["video"]) == videos


def test_random_pairs_repeat_with_their_seed(trained: tuple[Path, Path]) -> None:
    config, checkpoint = trained
    made = []
    for _ in range(2):
        run.main(
            [
                str(config),
                "--mode",
                "animate",
                "--checkpoint",
                str(checkpoint),
                "--device",
                "cpu",
                "--seed",
                "1",
            ]
        )
        made.append({path.name for path in (checkpoint.parent / "animation").glob("*.mp4")})
    assert made[0] == made[1] and len(made[0]) == 2


def test_only_the_first_frame_of_a_source_is_decoded(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config, checkpoint = trained
    for late_frame in sorted((tmp_path / "data/test/id100#0").iterdir())[1:]:
        late_frame.write_bytes(b"damaged")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("source,driving\nid100#0,id101#1\n")
    config.write_text(
        config.read_text().replace("dataset_params:\n", f"dataset_params:\n  pairs_list: {pairs}\n")
    )
    run.main([str(config), "--mode", "animate", "--checkpoint", str(checkpoint), "--device", "cpu"])
    assert (checkpoint.parent / "animation" / "id101#1-id100#0.mp4").exists()


def test_a_damaged_driving_clip_leaves_nothing_half_written(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config, checkpoint = trained
    (tmp_path / "data/test/id101#1/0000002.png").write_bytes(b"damaged")
    with pytest.raises(SystemExit):
        run.main(
            [str(config), "--mode", "reconstruction", "--checkpoint", str(checkpoint), "--device", "cpu"]
        )
    assert "0000002.png" in capsys.readouterr().err
    folder = checkpoint.parent / "reconstruction"
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "id100#0.mp4",
        "id100#0.png",
        "l1.csv",
    ]


def test_scores_are_gathered_by_time(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two clips before a damaged one the first is in the table at once, the second some seconds later."""
    config, checkpoint = trained
    write_clip(tmp_path / "data/test/id102#2", seed=2)
    (tmp_path / "data/test/id102#2/0000001.png").write_bytes(b"damaged")
    command = [str(config), "--mode", "reconstruction", "--checkpoint", str(checkpoint), "--device", "cpu"]
    for seconds, scores in ((60, 1), (0, 2)):
        monkeypatch.setattr("reconstruction.SECONDS_PER_TABLE", seconds)
        with pytest.raises(SystemExit):
            run.main([*command, "--log_dir", str(tmp_path / str(seconds))])
        assert len(pd.read_csv(tmp_path / str(seconds) / "reconstruction" / "l1.csv")) == scores
