"""Training through run.py: files, exact resume, signals, processes, fine-tuning, clear failures."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

import run
from checkpoints.files import (
    NETWORKS,
    find_checkpoint,
    load_for_finetuning,
    load_for_inference,
    read_checkpoint,
    write_checkpoint,
)
from frames_dataset import FramesDataset
from modules.build import build_discriminator, build_generator, build_kp_detector
from modules.model import DiscriminatorFullModel, GeneratorFullModel
from tests.small import error_of, small_config
from tests.training import assert_same, assert_same_run, config_file, losses_logged, newest, start
from train import train
from training.batches import EpochBatches, draw_transform, seeded_generator
from training.state import set_learning_rates
from utils.distributed import process_group
from utils.errors import CheckpointError

ROOT = Path(__file__).parent.parent


# ---- Files -------------------------------------------------------------------


def test_a_run_leaves_what_the_readme_says(root: Path) -> None:
    config = config_file(root, train_params__checkpoint_freq=2, train_params__num_epochs=3)
    folder = start(root, config)
    assert folder.name.startswith("tiny_")
    assert (folder / "tiny.yaml").read_bytes() == config.read_bytes()
    lines = (folder / "log.txt").read_text().splitlines()
    terms = ["gen_gan", "feature_matching", "equivariance_value", "equivariance_jacobian", "disc_gan"]
    assert [line.split(") ")[0] for line in lines] == ["00000000", "00000001", "00000002"]
    assert [part.split(" - ")[0] for part in lines[0].split(") ")[1].split("; ")] == terms
    epoch = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()][-1]
    assert epoch.keys() == {
        "epoch",
        "losses",
        "lr",
        "samples_per_second",
        "data_seconds",
        "compute_seconds",
        "peak_memory_mib",
    }
    assert epoch["lr"] == pytest.approx(dict.fromkeys(("generator", "discriminator", "kp_detector"), 2e-5))
    assert sorted(path.name for path in (folder / "train-vis").iterdir()) == [
        f"0000000{i}-rec.png" for i in range(3)
    ]
    assert sorted(path.name for path in folder.glob("*.pth.tar")) == [
        "00000001-checkpoint.pth.tar",
        "00000002-checkpoint.pth.tar",
    ]


def test_a_checkpoint_is_what_the_published_code_reads(root: Path) -> None:
    content = read_checkpoint(find_checkpoint(start(root, config_file(root))))
    optimizers = {"optimizer_generator", "optimizer_discriminator", "optimizer_kp_detector"}
    assert content.keys() == {"generator", "discriminator", "kp_detector", "epoch", "resume"} | optimizers
    assert content["epoch"] == 1
    config = small_config()
    for name, build in (("generator", build_generator), ("kp_detector", build_kp_detector)):
        network = build(config)
        network.load_state_dict(content[name])
        adam = torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        adam.load_state_dict(content[f"optimizer_{name}"])
        assert len(adam.state) == len(list(network.parameters()))


# ---- Going on ----------------------------------------------------------------


def test_two_and_two_epochs_are_four(root: Path) -> None:
    whole = start(root, config_file(root, train_params__num_epochs=4), log="whole")
    start(root, config_file(root, train_params__num_epochs=2), log="parts")
    parts = newest(root, "parts")
    start(root, config_file(root, train_params__num_epochs=4), "--checkpoint", str(parts), log="parts")
    assert newest(root, "parts") == parts
    assert_same_run(whole, parts)


def test_going_on_from_an_earlier_checkpoint_forgets_what_came_later(root: Path) -> None:
    config = config_file(root, train_params__num_epochs=3)
    whole, again = start(root, config, log="whole"), start(root, config, log="again")
    with (again / "log.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')  # as a kill in the middle of a line leaves it
    start(root, config, "--checkpoint", str(again / "00000000-checkpoint.pth.tar"), log="again")
    assert_same_run(whole, again)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_a_signal_stops_within_a_step_and_the_run_goes_on_exactly(
    root: Path, number: int, workers: int
) -> None:
    config = config_file(
        root, train_params__num_repeats=30, train_params__num_workers=workers, train_params__num_epochs=1
    )
    whole = start(root, config, log="whole")
    command = [
        sys.executable,
        "run.py",
        str(config),
        "--device",
        "cpu",
        "--log_dir",
        str(root.parent / "parts"),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr.readline().startswith("training: 2/180 samples")  # the first step is done
    os.killpg(process.pid, number) if workers else process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err and "stopped in epoch 0 after step" in out
    parts = newest(root, "parts")
    assert 0 < read_checkpoint(find_checkpoint(parts))["resume"]["step"] < 90
    start(root, config, "--checkpoint", str(parts), log="parts")
    assert_same_run(whole, parts)


def test_a_kill_during_a_save_leaves_the_last_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "00000000-checkpoint.pth.tar"
    write_checkpoint({"generator": {}, "kp_detector": {"weight": torch.ones(1)}, "number": -1}, path)
    script = (
        "import sys, torch; from pathlib import Path; from checkpoints.files import write_checkpoint\n"
        "for number in range(10**6):\n"
        "    weights = {'weight': torch.full((300_000,), float(number))}\n"
        "    content = {'generator': weights, 'kp_detector': weights, 'number': number}\n"
        "    write_checkpoint(content, Path(sys.argv[1]))\n"
        "    print(number, flush=True)\n"
    )
    rng = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        content = read_checkpoint(path)
        assert content["number"] >= 0
        assert (content["generator"]["weight"] == content["number"]).all()
        torn = len(list(path.parent.glob(".*.tmp")))
    assert torn > 0  # some kill did hit a save


def test_another_seed_than_the_runs_is_refused(root: Path, capsys: pytest.CaptureFixture) -> None:
    config = config_file(root)
    folder = start(root, config, "--seed", "3")
    with pytest.raises(SystemExit):
        start(root, config, "--seed", "4", "--checkpoint", str(folder))
    assert "--seed 4: the run of" in capsys.readouterr().err
    assert read_checkpoint(find_checkpoint(folder))["resume"]["seed"] == 3


def test_a_published_checkpoint_goes_on_after_its_epoch(root: Path) -> None:
    config = config_file(root, train_params__num_epochs=3)
    folder = start(root, config)
    path = find_checkpoint(folder)
    content = read_checkpoint(path)
    for later in folder.glob("*-checkpoint.pth.tar"):
        later.unlink()
    del content["resume"]
    content["epoch"] = 1
    torch.save(content, path, _use_new_zipfile_serialization=False)  # the format of PyTorch 1.0
    start(root, config, "--checkpoint", str(path))
    assert [line[:8] for line in (folder / "log.txt").read_text().splitlines()] == [
        "00000000",
        "00000001",
        "00000002",
    ]
    assert read_checkpoint(find_checkpoint(folder))["epoch"] == 2


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "trap.pth.tar"
    torch.save({"generator": Trap(), "kp_detector": {"weight": torch.ones(1)}}, path)
    with pytest.raises(CheckpointError, match=r"trap\.pth\.tar: damaged, or not a checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


# ---- Fine-tuning -------------------------------------------------------------


def test_another_config_starts_a_new_run_from_the_weights(root: Path, capsys: pytest.CaptureFixture) -> None:
    first = start(root, config_file(root), log="first")
    adversarial = config_file(
        root, "tiny-adv", model_params__discriminator_params__use_kp=True, train_params__lr_kp_detector=0
    )
    second = start(root, adversarial, "--checkpoint", str(first), log="second")
    out = capsys.readouterr().out
    assert "new run from the weights of" in out and "the discriminator starts anew" in out
    before, after = read_checkpoint(find_checkpoint(first)), read_checkpoint(find_checkpoint(second))
    assert_same(
        before["kp_detector"], after["kp_detector"]
    )  # a learning rate of 0 freezes weights and statistics
    assert not torch.equal(before["generator"]["final.weight"], after["generator"]["final.weight"])
    assert losses_logged(second)[0][:2] == (0, 0)


def test_a_new_run_may_have_another_resolution_and_order_of_motion(root: Path) -> None:
    zero_order = {
        "model_params__common_params__estimate_jacobian": False,
        "model_params__kp_detector_params__scale_factor": 1,
        "train_params__loss_weights__equivariance_jacobian": 0,
    }
    first = start(root, config_file(root, "zero-order", **zero_order), log="first")
    frozen = config_file(root, train_params__lr_kp_detector=0)
    second = start(root, frozen, "--checkpoint", str(first), log="second")
    before, after = (read_checkpoint(find_checkpoint(folder))["kp_detector"] for folder in (first, second))
    assert_same(dict(before), {key: after[key] for key in before})
    jacobian = after["jacobian.bias"].view(-1, 2, 2)
    assert torch.equal(jacobian, torch.eye(2).expand_as(jacobian)) and not after["jacobian.weight"].any()
    assert after["down.weight"].shape[-1] == 5  # the blur of half scale, which the first run had none of


def test_other_layers_keep_what_fits_by_name_and_shape(root: Path, capsys: pytest.CaptureFixture) -> None:
    first = start(root, config_file(root), log="first")
    changes = {
        "model_params__generator_params__num_bottleneck_blocks": 2,
        "model_params__generator_params__dense_motion_params__block_expansion": 8,
        "train_params__lr_generator": 0,
    }
    second = start(root, config_file(root, "other", **changes), "--checkpoint", str(first), log="second")
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "generator starts anew in" in line]
    assert "dense_motion_network.hourglass." in told
    before, after = (read_checkpoint(find_checkpoint(folder))["generator"] for folder in (first, second))
    assert {
        key for key in after if key.startswith("bottleneck.r1.")
    } and "bottleneck.r1.conv1.weight" not in before
    fitting = [key for key in before if before[key].shape == after[key].shape]
    assert 20 < len(fitting) < len(after)
    assert all(torch.equal(before[key], after[key]) for key in fitting)


def test_new_keypoints_come_last_and_change_no_feature(root: Path) -> None:
    path = find_checkpoint(start(root, config_file(root), log="first"))
    config, more = small_config(), small_config({"model_params.common_params.num_kp": 5})
    old, new = (
        {"generator": build_generator(c), "kp_detector": build_kp_detector(c)} for c in (config, more)
    )
    load_for_inference(path, *old.values(), "small.yaml")
    fresh_mask = new["generator"].dense_motion_network.mask.weight.clone()
    notes = load_for_finetuning(new | {"discriminator": nn.Linear(1, 1)}, path, Path("more.yaml"))
    assert notes[0] == "2 keypoints are new" and "dense_motion_network.mask.weight" in notes[1]
    assert torch.equal(new["generator"].dense_motion_network.mask.weight, fresh_mask)
    for network in (*old.values(), *new.values()):
        network.eval()
    frame, seen = torch.rand(1, 3, 32, 32), torch.rand(1, 6 * 4, 32, 32)  # of five motions and the background
    with torch.no_grad():
        before, after = (networks["kp_detector"](frame)["value"] for networks in (old, new))
        torch.testing.assert_close(after[:, :3], before)
        features = old["generator"].dense_motion_network.hourglass(seen[:, : 4 * 4])
        more_features = new["generator"].dense_motion_network.hourglass(seen)
        torch.testing.assert_close(more_features[:, : features.shape[1]], features)


def test_fewer_keypoints_are_refused_in_one_line(root: Path, capsys: pytest.CaptureFixture) -> None:
    first = start(root, config_file(root), log="first")
    other = config_file(root, "two", model_params__common_params__num_kp=2)
    capsys.readouterr()
    message = error_of(capsys, lambda: start(root, other, "--checkpoint", str(first), log="second"))
    assert len(message.splitlines()) == 1
    assert "it has 3 keypoints, the config 2; set model_params.common_params.num_kp to 3, or" in message
    assert not (root.parent / "second").exists()


# ---- Failures ----------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_checkpoints(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    config = config_file(root)
    folder = start(root, config)
    path = find_checkpoint(folder)
    content = read_checkpoint(path)
    content["generator"]["first.conv.weight"].fill_(3e38)  # finite, or the checkpoint would be refused
    content["resume"] |= {"epoch": 1}
    write_checkpoint(content, path)
    before = {file: file.read_bytes() for file in folder.glob("*.pth.tar")}
    with pytest.raises(SystemExit) as stop:
        start(root, config, "--checkpoint", str(path))
    assert stop.value.code == 2
    assert "the loss 'gen_gan' is nan in epoch 1, step 0" in capsys.readouterr().err
    assert before == {file: file.read_bytes() for file in folder.glob("*.pth.tar")}


# ---- Data order --------------------------------------------------------------


def test_an_epoch_visits_every_sample_once_and_goes_on_from_any_step() -> None:
    batches = EpochBatches(num_samples=10, batch_size=3, seed=0)
    orders = []
    for epoch in range(2):
        batches.start_at(epoch, 0)
        orders.append(list(batches))
        assert len(orders[-1]) == len(batches) == 3 and len({i for batch in orders[-1] for i in batch}) == 9
    assert orders[0] != orders[1]
    batches.start_at(0, 2)
    assert list(batches) == orders[0][2:]


def test_streams_of_different_keys_differ() -> None:
    draws = {
        tuple(torch.rand(2, generator=seeded_generator(*key)).tolist())
        for key in ((0, 1), (1, 0), (0, 0, 1), (0, 1, 0))
    }
    assert len(draws) == 4


# ---- Precision, formats, processes -------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["--precision", "bf16"], {}),
        ([], {"train_params__channels_last": True}),
        ([], {"train_params__compile": True}),
    ],
)
def test_switches_keep_the_losses_close(
    root: Path, monkeypatch: pytest.MonkeyPatch, arguments: list, changes: dict
) -> None:
    # Compiled without a C++ compiler, which a fresh machine lacks; what the compiler makes of our graph is
    # PyTorch's to test.
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    plain = losses_logged(start(root, config_file(root, train_params__num_epochs=1), log="plain"))
    switched = losses_logged(
        start(root, config_file(root, train_params__num_epochs=1, **changes), *arguments, log="switched")
    )
    for (_, _, expected), (_, _, found) in zip(plain, switched, strict=True):
        assert found == pytest.approx(expected, rel=0.05)


def test_a_precision_that_the_processor_lacks_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    options = ["--mode", "reconstruction", "--checkpoint", "nowhere", "--device", "cpu"]
    with pytest.raises(SystemExit):
        run.main([str(config_file(root)), "--precision", "bf16", *options])
    assert "hint: --precision bf16: this processor is not known" in capsys.readouterr().err


def train_in_double(rank: int, world: int, port: int, root: Path, log: Path) -> None:
    """Three steps in float64, in which the order of summation is no matter."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
    }
    if world > 1:
        os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(rank)  # the ranks start apart; rank 0's weights count
    changes = {"num_epochs": 1, "batch_size": 4, "num_repeats": 2}
    changes = {f"train_params.{key}": value for key, value in changes.items()}
    config = small_config({"dataset_params.root_dir": str(root), **changes})
    with process_group(torch.device("cpu")):
        dataset = FramesDataset(is_train=True, **config["dataset_params"])
        networks = (build_generator(config), build_discriminator(config), build_kp_detector(config))
        train(config, *networks, checkpoint=None, log_dir=log, dataset=dataset)


def test_two_processes_train_as_one_does_on_the_whole_batch(root: Path) -> None:
    logs = {world: root.parent / f"world{world}" for world in (1, 2)}
    for world, log in logs.items():
        mp.spawn(train_in_double, (world, 29500 + os.getpid() % 1000, root, log), nprocs=world)
    one, two = (read_checkpoint(find_checkpoint(log)) for log in logs.values())
    for network in ("generator", "discriminator", "kp_detector"):
        for name, tensor in one[network].items():
            torch.testing.assert_close(two[network][name], tensor, atol=1e-5, rtol=0)
    for (_, _, expected), (_, _, found) in zip(*map(losses_logged, logs.values()), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_an_epoch_is_the_plain_loop(root: Path) -> None:
    """Generator and keypoint detector step first, then the discriminator on its own loss alone."""
    trained = read_checkpoint(find_checkpoint(start(root, config_file(root, train_params__num_epochs=1))))
    config = small_config({"dataset_params.root_dir": str(root)})
    torch.manual_seed(0)
    builders = (build_generator, build_discriminator, build_kp_detector)
    networks = {name: build(config) for name, build in zip(NETWORKS, builders, strict=True)}
    adam = {
        name: torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
        for name, network in networks.items()
    }
    dataset = FramesDataset(is_train=True, **config["dataset_params"])
    dataset.set_epoch(0, 0)
    arguments = (
        *(networks[name] for name in ("kp_detector", "generator", "discriminator")),
        config["train_params"],
    )
    generator_full, discriminator_full = GeneratorFullModel(*arguments), DiscriminatorFullModel(*arguments)
    for step, indices in enumerate(EpochBatches(len(dataset), 2, seed=0)):
        x = torch.utils.data.default_collate([dataset[i] for i in indices])
        losses, generated = generator_full(
            x, draw_transform(config["train_params"], (0, 0, step), torch.device("cpu"))
        )
        generator_full.zero_grad()
        sum(losses.values()).backward()
        adam["generator"].step()
        adam["kp_detector"].step()
        networks["discriminator"].zero_grad()
        discriminator_full(x, generated)["disc_gan"].backward()
        adam["discriminator"].step()
    for name, network in networks.items():
        for key, tensor in network.state_dict().items():
            torch.testing.assert_close(trained[name][key], tensor, atol=1e-6, rtol=0, msg=f"{name} {key}")


def test_rates_fall_at_their_milestones() -> None:
    params = {"epoch_milestones": [1, 3]} | {f"lr_{name}": 2e-4 for name in NETWORKS}
    optimizers = {f"optimizer_{name}": torch.optim.Adam([torch.zeros(1)]) for name in NETWORKS}
    for epoch, rate in enumerate((2e-4, 2e-5, 2e-5, 2e-6)):
        set_learning_rates(optimizers, params, epoch)
        assert [adam.param_groups[0]["lr"] for adam in optimizers.values()] == pytest.approx([rate] * 3)
