"""What a run finds in its folder, what it leaves there, and what it is told before it has one."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import run
from checkpoints.files import find_checkpoint, read_checkpoint, write_checkpoint
from evaluation.cache import FOLDER, Cache
from modules.build import read_config
from reconstruction import read_scores
from tests.clips import write_clip
from tests.small import error_of
from tests.training import assert_same_run, config_file, losses_logged, start
from training.batches import TimedBatches, WorkerDied, start_worker

ROOT = Path(__file__).parent.parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")

HOLDER = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire(timeout=1)
print("held", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def held(lock: Path) -> Iterator[None]:
    """Within the block another process holds the lock; it is killed then."""
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            yield
        finally:
            holder.kill()


def one_line(capsys: pytest.CaptureFixture, root: Path, config: Path, *arguments: str) -> str:
    """The last line on stderr of a training that a user's mistake ends."""
    capsys.readouterr()
    lines = error_of(capsys, lambda: start(root, config, *arguments)).splitlines()
    (told,) = [line for line in lines if not line.startswith(("training: ", "hint: "))]
    assert told == lines[-1] and told.startswith("error: ")
    return told


# ---- Lock --------------------------------------------------------------------


def test_one_process_at_a_time_trains_in_a_folder(root: Path, capsys: pytest.CaptureFixture) -> None:
    config = config_file(root, train_params__num_epochs=1)
    folder = start(root, config)
    longer = config_file(root, train_params__num_epochs=2)
    with held(folder / ".lock"):
        before = (folder / "log.txt").read_text()
        message = one_line(capsys, root, longer, "--checkpoint", str(folder))
        assert f"{folder}: another process is training in this folder" in message
        assert (folder / "log.txt").read_text() == before
    start(root, longer, "--checkpoint", str(folder))
    assert len((folder / "log.txt").read_text().splitlines()) == 2


@linux
def test_the_workers_of_a_killed_run_do_not_keep_its_folder(root: Path) -> None:
    config = config_file(root, train_params__num_repeats=300, train_params__num_workers=2)
    command = [
        sys.executable,
        "run.py",
        str(config),
        "--device",
        "cpu",
        "--log_dir",
        str(root.parent / "log"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None and process.stderr.readline().startswith("training: ")
    while not (locks := list((root.parent / "log").glob("*/.lock"))):
        assert process.poll() is None
    process.kill()
    process.wait()
    with held(locks[0]):
        pass


# ---- No run without a step ---------------------------------------------------


def test_an_error_in_the_first_batch_leaves_no_folder(root: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(1, 6):
        shutil.rmtree(root / "train" / f"id{number}#{number}")
        write_clip(root / "train" / f"id{number}#{number}", seed=number, size=64)
    message = one_line(capsys, root, config_file(root, train_params__num_workers=1))
    assert "its frames are 64x64" in message and not (root.parent / "log").exists()
    assert not torch.multiprocessing.active_children()  # Python would wait for them at its exit


def test_a_first_loss_that_is_not_finite_leaves_no_folder(root: Path, capsys: pytest.CaptureFixture) -> None:
    content = read_checkpoint(find_checkpoint(start(root, config_file(root), log="first")))
    content["generator"]["first.conv.weight"] = torch.full_like(
        content["generator"]["first.conv.weight"], 3e38
    )
    write_checkpoint(content, root.parent / "strange.pth.tar")
    arguments = "--checkpoint", str(root.parent / "strange.pth.tar")
    message = one_line(capsys, root, config_file(root, "other"), *arguments)
    assert "in epoch 0, step 0" in message and not (root.parent / "log").exists()


@pytest.mark.parametrize(
    ("features", "change", "words"),
    [
        (4096, "model_params.generator_params.num_bottleneck_blocks=1000", "needs at least"),
        (4, "train_params.loss_weights.perceptual=[0,0,0,0,1]", "pictures of 32x32: Given input size"),
        (
            4,
            "dataset_params.frame_shape=[34, 34, 3]",
            "images of 34x34 (height x width) don't fit this model",
        ),
    ],
)
def test_what_no_step_can_compute_is_one_line_and_leaves_no_folder(
    root: Path, capsys: pytest.CaptureFixture, features: int, change: str, words: str
) -> None:
    config = config_file(
        root,
        model_params__generator_params__block_expansion=features,
        model_params__generator_params__max_features=8192,
        train_params__scales=[1, 0.25],
    )
    message = one_line(capsys, root, config, "--set", change)
    assert words in message and not (root.parent / "log").exists()


@linux
def test_workers_that_get_too_few_files_are_told(root: Path) -> None:
    """In a process of its own, as its limit can't be raised again."""
    config = config_file(root, train_params__num_workers=4)
    process = subprocess.run(
        [sys.executable, "run.py", str(config), "--device", "cpu", "--log_dir", str(root.parent / "log")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)),
    )
    assert process.returncode == 2 and len(process.stderr.splitlines()) == 1
    assert "4 workers that load data need" in process.stderr and "the limit is 32" in process.stderr
    assert not (root.parent / "log").exists()


# ---- Workers -----------------------------------------------------------------


class Unsendable:
    def __reduce__(self) -> tuple:
        raise OSError(24, "Too many open files")


def loader_of(samples: list) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(
        samples, num_workers=1, persistent_workers=True, worker_init_fn=start_worker, collate_fn=list
    )


def test_a_batch_that_can_not_be_sent_ends_its_worker() -> None:
    with pytest.raises(WorkerDied):
        list(TimedBatches(loader_of([Unsendable()])))


def test_a_worker_that_died_between_two_epochs_is_told() -> None:
    loader = loader_of([1, 2])
    assert list(TimedBatches(loader)) == [[1], [2]]
    worker = loader._iterator._workers[0]
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with pytest.raises(WorkerDied):
        list(TimedBatches(loader))


# ---- What a run finds --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.txt", b"garbage\n"),
        ("log.jsonl", b'{"epoch": "one"}\n'),
        ("log.jsonl", b"[" * 100_000 + b"\n"),
    ],
)
def test_a_log_that_can_not_be_read_is_one_line(
    root: Path, capsys: pytest.CaptureFixture, name: str, text: bytes
) -> None:
    config = config_file(root)
    folder = start(root, config)
    (folder / name).write_bytes((folder / name).read_bytes() + text)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    earlier = str(folder / "00000000-checkpoint.pth.tar")
    changed = "--set", "visualizer_params.kp_size=3"
    assert str(folder / name) in one_line(capsys, root, config, "--checkpoint", earlier, *changed)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_epoch_that_is_finished_anew_is_logged_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the log's line of an epoch and its checkpoint."""
    monkeypatch.setattr("train.SECONDS_PER_CHECKPOINT", 0)
    config = config_file(root)
    whole, again = start(root, config, log="whole"), start(root, config, log="again")
    (again / "00000001-checkpoint.pth.tar").unlink()
    start(root, config, "--checkpoint", str(again / "last-checkpoint.pth.tar"), log="again")
    assert_same_run(whole, again)


def test_a_dataset_that_shrank_in_mid_epoch_is_told(
    root: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.SECONDS_PER_CHECKPOINT", 0)
    config = config_file(root)
    folder = start(root, config)
    for path in folder.glob("0*-checkpoint.pth.tar"):
        path.unlink()
    for number in (1, 2):
        shutil.rmtree(root / "train" / f"id{number}#{number}")
    message = one_line(capsys, root, config, "--checkpoint", str(folder))
    assert "stopped in the middle of an epoch, after 3 steps, and the dataset was changed since" in message


def test_a_run_goes_on_in_another_precision(root: Path) -> None:
    """The scaler of fp32 has an empty state."""
    folder = start(root, config_file(root, train_params__num_epochs=1))
    assert read_checkpoint(find_checkpoint(folder))["resume"]["scaler"] == {}
    longer = config_file(root, train_params__num_epochs=2)
    start(root, longer, "--checkpoint", str(folder), "--precision", "fp16")
    assert read_checkpoint(find_checkpoint(folder))["resume"]["scaler"]["scale"] > 1
    assert [entry[0] for entry in losses_logged(folder)] == [0, 0, 1, 1]


@pytest.mark.parametrize("scaler", [{"scale": 0.0, "_growth_tracker": 0}, {"scale": 2.0}, {"scale": 1e300}])
def test_a_scale_that_stops_training_is_refused(
    root: Path, capsys: pytest.CaptureFixture, scaler: dict
) -> None:
    config = config_file(root)
    path = find_checkpoint(start(root, config))
    content = read_checkpoint(path)
    content["resume"]["scaler"] = scaler
    write_checkpoint(content, path)
    assert "'scaler', is not" in one_line(
        capsys, root, config, "--checkpoint", str(path), "--precision", "fp16"
    )


@pytest.mark.parametrize("text", [b"\xff\xfe\0", b"video,frames,l1\nid100#0,many,0.1\nid101#1,4,nan\n"])
def test_scores_that_can_not_be_read_are_made_anew(root: Path, text: bytes) -> None:
    config = config_file(root, train_params__num_epochs=1, reconstruction_params__format=".gif")
    folder = start(root, config)
    arguments = [str(config), "--mode", "reconstruction", "--checkpoint", str(folder), "--device", "cpu"]
    run.main(arguments)
    path = folder / "reconstruction" / "l1.csv"
    expected = read_scores(path)
    assert len(expected) == 2
    path.write_bytes(text)
    run.main([*arguments, "--skip_existing"])
    assert read_scores(path) == expected


def test_a_cache_that_can_not_be_read_counts_as_absent(tmp_path: Path) -> None:
    cache, clip = Cache(), tmp_path / "a.mp4"
    cache.store("shape", clip, "key", np.array([3, 8, 8]))
    assert cache.load("shape", clip, "key").tolist() == [3, 8, 8]
    path = tmp_path / FOLDER / "shape" / "a.mp4.npz"
    np.savez(path, key=np.array("key"), values=np.array(["three", "8", "8"]))
    assert cache.load("shape", clip, "key") is None
    np.savez_compressed(path, key=np.array("key"), values=np.zeros(10**7))  # could unpack to anything
    assert cache.load("shape", clip, "key") is None
    np.savez(path, key=np.array("key"), values=np.zeros(1))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    claims = members["values.npy"].replace(b"(1,), }         ", b"(8589934592,), }")  # 64 GiB
    assert claims != members["values.npy"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in (members | {"values.npy": claims}).items():
            archive.writestr(name, member)
    assert cache.load("shape", clip, "key") is None


# ---- The next stage ----------------------------------------------------------


def steps_of(content: dict, name: str) -> set[float]:
    return {float(entry["step"]) for entry in content[f"optimizer_{name}"]["state"].values()}


def test_the_published_second_stage(root: Path, capsys: pytest.CaptureFixture) -> None:
    """It counts epochs from those of the first stage, and takes its optimisers but the discriminator's."""
    first = start(root, config_file(root, train_params__num_epochs=2))
    changes = {
        "model_params__discriminator_params__use_kp": True,
        "model_params__discriminator_params__sn": False,
    }
    config = config_file(root, "adversarial", train_params__num_epochs=3, **changes)
    second = start(root, config, "--checkpoint", str(first), "--next_stage", log="second")
    assert second.name.startswith("adversarial")
    assert [epoch for epoch, step, _ in losses_logged(second) if step is None] == [2]
    content = read_checkpoint(find_checkpoint(second))
    assert content["epoch"] == 2 and steps_of(content, "generator") == {9.0}  # three steps an epoch
    assert steps_of(content, "kp_detector") == {9.0} and steps_of(content, "discriminator") == {3.0}
    assert "the optimizer_discriminator starts anew" in capsys.readouterr().out

    # Without it the stage is a run of its own, as before.
    third = start(root, config, "--checkpoint", str(first), log="third")
    assert [epoch for epoch, step, _ in losses_logged(third) if step is None] == [0, 1, 2]
    # A published checkpoint knows its epoch alone; weights alone know nothing.
    del content["resume"]
    content["epoch"] = 99
    write_checkpoint(content, root / "published.pth.tar")
    longer = config_file(root, "longer", train_params__num_epochs=101, **changes)
    fourth = start(
        root, longer, "--checkpoint", str(root / "published.pth.tar"), "--next_stage", log="fourth"
    )
    assert [epoch for epoch, step, _ in losses_logged(fourth) if step is None] == [100]
    write_checkpoint({name: content[name] for name in ("generator", "kp_detector")}, root / "bare.pth.tar")
    bare = ["--checkpoint", str(root / "bare.pth.tar"), "--next_stage"]
    assert "has no optimisers to go on with" in one_line(capsys, root, config, *bare)
    assert "leave it out" in one_line(capsys, root, config, "--checkpoint", str(second), "--next_stage")


def test_a_run_is_one_without_its_pictures(root: Path) -> None:
    folder = start(root, config_file(root, train_params__num_epochs=1))
    shutil.rmtree(folder / "train-vis")
    again = start(root, config_file(root, train_params__num_epochs=2), "--checkpoint", str(folder))
    assert again == folder and [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [epoch for epoch, step, _ in losses_logged(folder) if step is None] == [0, 1]


def test_a_run_that_has_all_its_epochs_says_so(root: Path, capsys: pytest.CaptureFixture) -> None:
    folder = start(root, config_file(root, train_params__num_epochs=3))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    start(root, config_file(root, train_params__num_epochs=2), "--checkpoint", str(folder))
    out = capsys.readouterr().out
    assert "has 3 epochs already, num_epochs is 2" in out and "trained" not in out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


ODD_TEXTS = ["a\nb: 1", "a\x85b: 1", "a\u2028b", "1e-4", "# x", "2026-01-31", "true", "0x10", "'x'", "ä: b"]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_a_changed_config_is_written_as_it_was_read(root: Path, text: str) -> None:
    changes = ["train_params.num_epochs=1", f'dataset_params.pairs_list="{text}"']
    path = config_file(root)
    folder = start(root, path, "--set", *changes)
    assert read_config(folder / path.name) == read_config(path, changes)
