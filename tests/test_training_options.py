"""Training beyond the published loop: averages, accumulation, validation, trackers, early pictures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import export
import run
from checkpoints.files import find_checkpoint, load_for_inference, read_checkpoint
from data import prepare
from frames_dataset import FramesDataset
from media.pictures import read_image
from modules.build import build_generator, build_kp_detector, build_networks, read_config
from tests.clips import write_clip
from tests.small import error_of, images, small_config
from tests.training import assert_same, assert_same_run, config_file, losses_logged, newest, start
from train import full_models, picture_is_due, train_step
from training.batches import draw_transform
from training.state import TrainingState
from utils.weight_files import read_weights

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")

# ---- Averages ------------------------------------------------------------------


@pytest.mark.parametrize(("decay", "decays"), [(0.9, [3 / 12, 4 / 13]), (0.28, [3 / 12, 0.28])])
def test_the_average_is_the_recursion_over_weights_and_statistics(decay: float, decays: list[float]) -> None:
    """Its first decays are (1 + step) / (10 + step)."""
    config = small_config({"train_params.ema_decay": decay})
    state, models = new_state(config)
    expected = None
    for step in range(3):
        train_step(models, state, batch(2), draw_transform(config["train_params"], (0, 0, step), CPU), "fp32")
        now = {
            key: tensor.clone().double() for key, tensor in state.networks["generator"].state_dict().items()
        }
        if expected is None:
            expected = now
            continue
        kept = decays[step - 1]
        expected = {key: kept * expected[key] + (1 - kept) * now[key] for key in now}
    average = state.averages["generator"].module.state_dict()
    moved = [key for key in average if key.endswith(("weight", "running_mean"))]
    assert any("running_mean" in key for key in moved)
    for key in moved:
        torch.testing.assert_close(average[key].double(), expected[key], atol=1e-6, rtol=0, msg=key)


def test_inference_fine_tuning_and_stripped_files_take_the_average(root: Path) -> None:
    folder = start(root, config_file(root, train_params__ema_decay=0.5))
    content = read_checkpoint(find_checkpoint(folder))
    averaged = content["generator_ema"]["final.weight"]
    assert not torch.equal(content["generator"]["final.weight"], averaged)
    networks = build_generator(small_config()), build_kp_detector(small_config())
    load_for_inference(find_checkpoint(folder), *networks)
    assert torch.equal(networks[0].final.weight, averaged)
    export.main(["--checkpoint", str(folder), "--out", str(root.parent / "small.pth.tar")])
    stripped = read_checkpoint(root.parent / "small.pth.tar")
    assert stripped.keys() == {"generator", "kp_detector"}
    assert torch.equal(stripped["generator"]["final.weight"], averaged)
    frozen = config_file(root, "other", train_params__lr_generator=0)
    tuned = read_checkpoint(find_checkpoint(start(root, frozen, "--checkpoint", str(folder))))
    assert torch.equal(tuned["generator"]["final.weight"], averaged)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_with_averages_and_accumulation_goes_on_exactly(
    root: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_file(
        root,
        train_params__num_repeats=30,
        train_params__num_epochs=1,
        train_params__ema_decay=0.99,
        train_params__accumulate=2,
        train_params__eval_freq=1,
    )
    whole = start(root, config, log="whole")
    script = (
        f"import train; train.SECONDS_PER_CHECKPOINT = 0.2; import run; run.main({arguments(root, config)})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (list((root.parent / "parts").glob("*/last-checkpoint.pth.tar"))):
        assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=60)
    parts = newest(root, "parts")
    assert 0 < read_checkpoint(find_checkpoint(parts))["resume"]["step"] < 90
    start(root, config, "--checkpoint", str(parts), log="parts")
    assert_same_run(whole, parts)


def arguments(root: Path, config: Path) -> list[str]:
    return [str(config), "--device", "cpu", "--log_dir", str(root.parent / "parts")]


# ---- Accumulation --------------------------------------------------------------


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    """In float64 and with running statistics, so that the parts see what the whole batch sees."""
    torch.set_default_dtype(torch.float64)
    try:
        found = [weights_after_steps(accumulate) for accumulate in (1, 2, 4)]
    finally:
        torch.set_default_dtype(torch.float32)
    for name, tensor in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=0, msg=name)


def weights_after_steps(accumulate: int) -> dict[str, torch.Tensor]:
    changes = {"train_params.batch_size": 4, "model_params.discriminator_params.sn": False}
    config = small_config(changes | {"train_params.accumulate": accumulate})
    state, models = new_state(config)
    for network in state.networks.values():
        network.eval()
    for step in range(3):
        x = {name: tensor.double() for name, tensor in batch(4).items()}
        train_step(models, state, x, draw_transform(config["train_params"], (0, 0, step), CPU), "fp32")
    parts = {name: network.state_dict() for name, network in state.networks.items()}
    return {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.items()}


def new_state(config: dict) -> tuple[TrainingState, tuple[nn.Module, nn.Module]]:
    torch.manual_seed(0)
    networks = build_networks(config)
    state = TrainingState(config, networks, CPU, seed=0, precision="fp32")
    return state, full_models(config, networks, CPU, device_ids=None)


def batch(size: int) -> dict[str, torch.Tensor]:
    return {"source": images(size, seed=1), "driving": images(size, seed=2)}


# ---- Changes on the command line -----------------------------------------------


def test_changes_are_trained_with_and_recorded(root: Path) -> None:
    config = config_file(root, train_params__num_epochs=3)
    folder = start(root, config, "--set", "train_params.num_epochs=1", "visualizer_params.kp_size=3")
    assert len((folder / "log.txt").read_text().splitlines()) == 1
    recorded = yaml.safe_load((folder / "tiny.yaml").read_text())
    assert recorded == read_config(config, ["train_params.num_epochs=1", "visualizer_params.kp_size=3"])
    assert recorded["train_params"]["num_epochs"] == 1
    start(root, folder / "tiny.yaml", "--checkpoint", str(folder), "--set", "train_params.num_epochs=2")
    assert len((folder / "log.txt").read_text().splitlines()) == 2


def test_a_change_that_does_not_fit_the_checkpoint_is_not_recorded(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    config = config_file(root)
    folder = start(root, config)
    before = (folder / "tiny.yaml").read_bytes()
    with pytest.raises(SystemExit) as stop:
        start(root, config, "--checkpoint", str(folder), "--set", "model_params.common_params.num_kp=4")
    assert stop.value.code == 2 and "does not fit" in capsys.readouterr().err
    assert (folder / "tiny.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train_params.batchsize=8", "unknown key 'train_params.batchsize'; train_params may hold"),
        ("train_params.batch_size", "must be KEY=VALUE"),
        ("train_params.batch_size=[", "the value is not valid YAML"),
        ("train_params.batch_size.x=1", "there is no section 'train_params.batch_size'"),
        ("train_params.ema_decay=1", "'train_params.ema_decay' must be a number above 0 and below 1"),
    ],
)
def test_a_wrong_change_is_one_line(
    root: Path, capsys: pytest.CaptureFixture, change: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        start(root, config_file(root), "--set", change)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and len(err.splitlines()) == 1
    assert not (root.parent / "log").exists()


# ---- A limit for gradients -----------------------------------------------------


def test_gradients_are_shortened_to_the_limit_and_short_ones_are_left_alone() -> None:
    """Each network's own: the norm of all its gradients together."""

    def gradients(**limit: float) -> dict[str, torch.Tensor]:
        config = small_config({f"train_params.{key}": value for key, value in limit.items()})
        state, models = new_state(config)
        train_step(models, state, batch(2), draw_transform(config["train_params"], (0, 0, 0), CPU), "fp32")
        return {
            name: torch.cat([p.grad.flatten() for p in state.networks[name].parameters()])
            for name in ("generator", "kp_detector")
        }

    free, limited, unlimited = gradients(), gradients(max_grad_norm=0.01), gradients(max_grad_norm=1e6)
    for name, gradient in free.items():
        assert gradient.norm() > 0.02
        torch.testing.assert_close(limited[name], 0.01 * gradient / gradient.norm(), rtol=1e-3, atol=1e-7)
        assert torch.equal(unlimited[name], gradient)


# ---- Validation, pictures, checkpoints by time ---------------------------------


def test_validation_is_logged_drawn_and_keeps_the_best(root: Path) -> None:
    folder = start(root, config_file(root, train_params__num_epochs=4, train_params__eval_freq=2))
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    scores = {entry["epoch"]: entry["validation"] for entry in entries if "validation" in entry}
    assert list(scores) == [1, 3] and all(0 < s["l1"] < 1 and -1 < s["ssim"] < 1 for s in scores.values())
    assert [path.name for path in sorted((folder / "train-vis").glob("*-validation.png"))] == [
        "00000001-validation.png",
        "00000003-validation.png",
    ]
    best = min(scores, key=lambda epoch: scores[epoch]["l1"])
    content = read_checkpoint(folder / "best-checkpoint.pth.tar")
    assert content["epoch"] == best and content["resume"]["best_l1"] == scores[best]["l1"]


def test_validation_by_val_leaves_training_as_it_is(root: Path) -> None:
    write_clip(root / "val" / "id200", seed=200)
    plain = start(root, config_file(root), log="plain")
    validated = start(root, config_file(root, train_params__eval_freq=1), log="validated")
    assert losses_logged(plain) == losses_logged(validated)
    a, b = (read_checkpoint(find_checkpoint(folder)) for folder in (plain, validated))
    assert_same(dict(a["generator"]), dict(b["generator"]))


def test_validation_is_on_clips_that_are_not_trained_on_and_never_on_the_test_set(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.rmtree(root / "test")
    config = config_file(root, train_params__eval_freq=1)
    folder = start(root, config)
    assert f"validation on {root / 'train'} (held out), clips: 1" in capsys.readouterr().out
    resume = read_checkpoint(find_checkpoint(folder))["resume"]
    assert resume["samples"] == 5 and resume["run"]["validation"] == "held out"
    longer = config_file(root, train_params__eval_freq=1, train_params__num_epochs=3)
    start(root, longer, "--resume", str(folder))
    best = read_checkpoint(folder / "best-checkpoint.pth.tar")["resume"]["best_l1"]

    # Another set has another best.
    write_clip(root / "val" / "id200", seed=200)
    longest = config_file(root, train_params__eval_freq=1, train_params__num_epochs=4)
    capsys.readouterr()
    start(root, longest, "--resume", str(folder))
    assert "validation held out -> val" in capsys.readouterr().out
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    of_val = entries[-1]["validation"]["l1"]
    assert read_checkpoint(find_checkpoint(folder))["resume"]["best_l1"] == of_val != best


@pytest.mark.parametrize("older", [True, False])
def test_a_run_that_trained_on_all_clips_goes_on_so(root: Path, older: bool, capsys, monkeypatch) -> None:
    """One of before validation was apart from the test set, and one that had none so far."""
    folder = start(root, config_file(root))
    if older:
        path = find_checkpoint(folder)
        content = read_checkpoint(path)
        del content["resume"]["run"]
        torch.save(content | {"resume": content["resume"] | {"best_l1": 0.001}}, path)
    capsys.readouterr()
    longer = config_file(root, train_params__num_epochs=3, train_params__eval_freq=1)
    path, read = find_checkpoint(folder), []
    monkeypatch.setattr(
        "checkpoints.files.read_weights", lambda path: read.append(path) or read_weights(path)
    )
    start(root, longer, "--resume", str(folder))
    assert read.count(path) == 1
    assert f"validation on {root / 'test'} (test), clips: 2" in capsys.readouterr().out
    resume = read_checkpoint(find_checkpoint(folder))["resume"]
    assert resume["samples"] == 6 and resume["run"]["validation"] == "test"
    assert (resume["best_l1"] == 0.001) == older


def test_pictures_come_early_and_then_ever_less_often() -> None:
    assert [step for step in range(2000) if picture_is_due(step)] == [100, 200, 400, 800, 1600]


def test_a_checkpoint_is_written_by_time_and_is_the_newest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.SECONDS_PER_CHECKPOINT", 0)
    folder = start(root, config_file(root, train_params__num_epochs=1, train_params__checkpoint_freq=5))
    content = read_checkpoint(folder / "last-checkpoint.pth.tar")
    assert (content["resume"]["epoch"], content["resume"]["step"]) == (
        0,
        3,
    )  # after each step, so after the last
    assert find_checkpoint(folder).name == "00000000-checkpoint.pth.tar"  # written after the epoch
    (folder / "00000000-checkpoint.pth.tar").unlink()
    assert find_checkpoint(folder).name == "last-checkpoint.pth.tar"


def test_an_abandoned_branch_is_set_aside(root: Path, capsys: pytest.CaptureFixture) -> None:
    config = config_file(root, train_params__num_epochs=4)
    folder = start(root, config)
    shorter = config_file(root, train_params__num_epochs=2)
    start(root, shorter, "--checkpoint", str(folder / "00000000-checkpoint.pth.tar"))
    assert "3 later checkpoints were moved to" in capsys.readouterr().out
    assert find_checkpoint(folder).name == "00000001-checkpoint.pth.tar"
    assert len(list((folder / "abandoned").iterdir())) == 3


# ---- Trackers and curves -------------------------------------------------------


def test_tensorboard_gets_losses_validation_and_pictures(root: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    changes = {"train_params__eval_freq": 1, "train_params__num_epochs": 1}
    folder = start(root, config_file(root, **changes), "--tracker", "tensorboard")
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    tags = events.Tags()
    assert {"epoch/gen_gan", "validation/l1", "validation/ssim"} <= set(tags["scalars"])
    assert {"reconstruction", "validation"} <= set(tags["images"])
    logged = losses_logged(folder)[-1][2]["gen_gan"]
    assert events.Scalars("epoch/gen_gan")[0].value == pytest.approx(logged, rel=1e-6)


def test_wandb_offline_records_a_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = start(root, config_file(root, train_params__num_epochs=1), "--tracker", "wandb")
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))


def test_a_tracker_that_is_not_installed_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SystemExit):
        start(root, config_file(root), "--tracker", "wandb")
    assert "--tracker wandb: is not installed here; pip install wandb" in capsys.readouterr().err
    assert not (root.parent / "log").exists()


def test_a_tracker_without_a_login_is_one_line(root: Path) -> None:
    pytest.importorskip("wandb")
    arguments = ["--device", "cpu", "--log_dir", root.parent / "log", "--tracker", "wandb"]
    command = [sys.executable, ROOT / "run.py", config_file(root), *arguments]  # the library keeps its state
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        list(map(str, command)),
        env=env | {"HOME": str(root)},
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--tracker wandb: No API key configured" in done.stderr and "WANDB_MODE=offline" in done.stderr
    assert not (root.parent / "log").exists()


def test_a_tracker_that_refuses_leaves_no_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(**arguments: object) -> None:
        raise wandb.errors.CommError("user is not logged in")

    monkeypatch.setattr(wandb, "login", lambda verify: True)
    monkeypatch.setattr(wandb, "init", refuse)
    err = error_of(capsys, lambda: start(root, config_file(root), "--tracker", "wandb"))
    assert "error: --tracker wandb: user is not logged in; log in" in err
    assert not list((root.parent / "log").iterdir())


# ---- Grey --------------------------------------------------------------------


def test_grey_from_end_to_end(root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    changes = {
        "dataset_params__frame_shape": [32, 32, 1],
        "model_params__common_params__num_channels": 1,
        "model_params__discriminator_params__use_kp": True,
        "train_params__loss_weights__pyramid": 10,
        "train_params__eval_freq": 1,
        "train_params__num_epochs": 1,
    }
    jitter = {"jitter_param": {"saturation": 0.5, "hue": 0.2}}
    config = config_file(root, "grey", dataset_params__augmentation_params=jitter, **changes)
    prepare.main(["--check", str(root), "--config", str(config)])
    assert "nothing wrong" in capsys.readouterr().out
    folder = start(root, config)
    for mode in ("reconstruction", "animate"):
        run.main([str(config), "--mode", mode, "--checkpoint", str(folder), "--device", "cpu"])
    made = sorted((folder / "reconstruction" / "png").iterdir()) + sorted(folder.glob("animation/png/*"))
    assert len(made) > 2
    for path in made:
        pixels = read_image(path).astype(int)
        assert np.ptp(pixels, axis=2).max() == 0 and pixels.std() > 0

    # What the networks saw is the luma of the clips.
    dataset = FramesDataset(root, [32, 32, 1], is_train=False)
    colour = FramesDataset(root, [32, 32, 3], is_train=False)
    frame, expected = dataset.clip(0).first_frame(), colour.clip(0).first_frame()
    luma = 0.299 * expected[0] + 0.587 * expected[1] + 0.114 * expected[2]
    torch.testing.assert_close(frame, luma[None])
    assert FramesDataset(root, [32, 32, 1])[0]["source"].shape == (1, 32, 32)


# ---- Learning rates of 0 -------------------------------------------------------


def test_a_discriminator_can_be_frozen(root: Path) -> None:
    folder = start(root, config_file(root, train_params__num_epochs=1, train_params__lr_discriminator=0))
    assert read_checkpoint(find_checkpoint(folder))["optimizer_discriminator"]["state"] == {}


def test_a_run_that_learns_nothing_is_refused(root: Path, capsys: pytest.CaptureFixture) -> None:
    rates = {f"train_params__lr_{name}": 0 for name in ("generator", "discriminator", "kp_detector")}
    err = error_of(capsys, lambda: start(root, config_file(root, **rates)))
    assert "lr_generator or lr_kp_detector must not be 0" in err and not (root.parent / "log").exists()
