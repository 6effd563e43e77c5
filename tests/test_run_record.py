"""What a run says of itself: its name, its record, its curves, and checkpoints that go on elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR

import run
from checkpoints.files import NETWORKS, find_checkpoint, read_checkpoint
from modules.build import build_networks, read_config
from tests.small import error_of
from tests.training import config_file, losses_logged, newest, start
from tools import table
from training.record import ROOT, differences, git


def record(folder: Path) -> list[dict]:
    return json.loads((folder / "run.json").read_text())["entries"]


# ---- Names, --resume and --finetune --------------------------------------------


def test_runs_of_one_second_get_names_of_their_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.folder.time.strftime", lambda pattern: "NOW")
    config = config_file(root, train_params__num_epochs=1)
    for seed in ("1", "2", "3"):
        start(root, config, "--seed", seed)
    folders = sorted((root.parent / "log").iterdir())
    assert [folder.name for folder in folders] == ["tiny_NOW", "tiny_NOW_2", "tiny_NOW_3"]
    assert [entry["seed"] for folder in folders for entry in record(folder)] == [1, 2, 3]


def test_a_name_resume_and_finetune(root: Path, capsys: pytest.CaptureFixture) -> None:
    config = config_file(root, train_params__num_epochs=1)
    first = start(root, config, "--name", "baseline")
    assert first.name == "baseline"
    longer = config_file(root, train_params__num_epochs=2)
    assert start(root, longer, "--resume", str(first)) == first
    assert [epoch for epoch, step, _ in losses_logged(first) if step is None] == [0, 1]
    # The same config and a checkpoint of its run begin a new one, which --checkpoint does not.
    tuned = start(root, longer, "--finetune", str(first), "--name", "tuned")
    assert tuned != first and [epoch for epoch, step, _ in losses_logged(tuned) if step is None] == [0, 1]

    other = config_file(root, "other")
    before = sorted(root.parent.rglob("*"))
    for arguments, words in [
        ([str(longer), "--name", "baseline"], "baseline: is there already; choose another --name"),
        ([str(other), "--resume", str(first)], f"--resume: {first} is no run of other.yaml"),
        ([str(longer), "--checkpoint", str(first), "--name", "x"], f"--name: the run goes on in {first}"),
        ([str(longer), "--resume", "a", "--finetune", "b"], "--resume and --finetune exclude each other"),
        ([str(longer), "--resume", "a", "--next_stage"], "--next_stage goes with the --finetune"),
        ([str(longer), "--name", "a/b"], "--name is that of a new run's folder"),
        ([str(longer), "--mode", "animate", "--checkpoint", "a", "--name", "x"], "--name goes with --mode"),
    ]:
        command = [*arguments, "--device", "cpu", "--log_dir", str(root.parent / "log")]
        assert words in error_of(capsys, lambda command=command: run.main(command))
    assert sorted(root.parent.rglob("*")) == before


# ---- The record ------------------------------------------------------------------


def test_run_json_has_an_entry_for_the_start_and_for_each_resume(
    root: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_file(root, train_params__num_epochs=1)
    log = str(root.parent / "log")
    command = ["run.py", str(config), "--device", "cpu", "--log_dir", log, "--seed", "7"]
    monkeypatch.setattr(sys, "argv", command)
    run.main()
    folder = newest(root)
    (entry,) = record(folder)
    expected = {"command": command, "seed": 7, "precision": "fp32", "device": "cpu", "world_size": 1}
    assert expected.items() <= entry.items() and entry["checkpoint"] is None
    assert entry["config"] == read_config(config) and entry["versions"]["torch"] == torch.__version__
    saved = read_checkpoint(find_checkpoint(folder))["resume"]
    assert saved["run"] | {"config": saved["config"]} == entry

    # What is another one now is told.
    parent = find_checkpoint(folder)
    changed = config_file(root, train_params__num_epochs=2, train_params__batch_size=3)
    start(root, changed, "--resume", str(folder), "--precision", "bf16")
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("changed since: "))
    for words in "train_params.batch_size 2 -> 3", "train_params.num_epochs 1 -> 2", "precision fp32 -> bf16":
        assert words in told
    first, second = record(folder)
    assert first == entry and second["precision"] == "bf16" and second["seed"] == 7
    assert second["checkpoint"]["path"] == str(parent) and len(second["checkpoint"]["sha256"]) == 64

    (folder / "run.json").write_text('{"entries": 1}')
    more = config_file(root, train_params__num_epochs=3)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    message = error_of(capsys, lambda: start(root, more, "--resume", str(folder)))
    assert f"{folder / 'run.json'}: is not what training writes there" in message
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_commit_is_that_of_this_project() -> None:
    """A checkout has one; git asked in its folder says the same. A copy without `.git` has none."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    own = (ROOT / ".git").exists() and asked.returncode == 0
    assert git("rev-parse", "HEAD") == (asked.stdout.strip() if own else None)


def test_differences_name_dotted_keys() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert differences(old, {"a": {"b": 2, "c": [1, 2], "e": 3}}) == {"a.b": (1, 2), "a.e": (None, 3)}


# ---- Curves ----------------------------------------------------------------------


def test_curves_are_over_steps_and_lose_what_a_run_left_behind(root: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = config_file(root, train_params__num_epochs=3, train_params__eval_freq=1)
    folder = start(root, config, "--tracker", "tensorboard")

    def steps() -> dict[str, list[int]]:
        events = event_accumulator.EventAccumulator(str(folder)).Reload()
        return {tag: [point.step for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    drawn = steps()
    assert drawn["loss/gen_gan"] == [0, 2, 4] and drawn["epoch/gen_gan"] == [1, 3, 5]  # two steps an epoch
    assert drawn["validation/l1"] == [1, 3, 5]
    assert {"lr/generator", "gradient_norm/discriminator", "speed/samples_per_second"} <= drawn.keys()
    start(root, config, "--resume", str(folder / "00000000-checkpoint.pth.tar"), "--tracker", "tensorboard")
    assert steps() == drawn


# ---- The published code ------------------------------------------------------------


def test_the_published_training_goes_on_with_a_checkpoint(root: Path) -> None:
    """Its loading sequence: networks, optimisers, and then schedules that begin in the middle."""
    config_path = config_file(root, train_params__num_epochs=3, train_params__epoch_milestones=[1, 4])
    config = read_config(config_path)
    params = config["train_params"]
    content = torch.load(find_checkpoint(start(root, config_path)), "cpu")
    networks = build_networks(config)._asdict()
    for name in NETWORKS:
        networks[name].load_state_dict(content[name])
        rate = params[f"lr_{name}"]
        optimizer = torch.optim.Adam(networks[name].parameters(), lr=rate, betas=(0.5, 0.999))
        optimizer.load_state_dict(content[f"optimizer_{name}"])
        schedule = MultiStepLR(
            optimizer, params["epoch_milestones"], gamma=0.1, last_epoch=content["epoch"] - 1
        )
        rates = []
        for _ in range(content["epoch"], 5):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert rates == pytest.approx([rate * 0.1, rate * 0.1, rate * 0.01])


# ---- Several runs ------------------------------------------------------------------


def test_the_table_of_runs_has_a_row_for_each_config(root: Path, capsys: pytest.CaptureFixture) -> None:
    config = config_file(root, train_params__num_epochs=2, train_params__eval_freq=1)
    for seed in (1, 2):
        start(root, config, "--seed", str(seed))
    start(root, config, "--seed", "1", "--set", "train_params.lr_generator=0.1")
    folders = sorted((root.parent / "log").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    logs = [(folder / "log.jsonl").read_text().splitlines() for folder in folders]
    scores = [[json.loads(line)["validation"]["l1"] for line in log if "validation" in line] for log in logs]
    capsys.readouterr()
    table.main([*map(str, folders), str(config)])
    first, second = capsys.readouterr().out.splitlines()[2:]
    last, best = (np.array([pick(each) for each in scores[:2]]) for pick in (lambda each: each[-1], min))
    assert first.startswith(f"| first | 1, 2 | 2, 2 | {last.mean():.4f} ± {last.std(ddof=1):.4f} |")
    assert f" {best.mean():.4f} ± {best.std(ddof=1):.4f} |" in first
    assert second.startswith(f"| train_params.lr_generator=0.1 | 1 | 2 | {scores[2][-1]:.4f} |")

    for damaged in (
        '{"validation": {"l1": "a", "ssim": 1}}',
        f'{{"validation": {{"l1": 1{400 * "0"}}}}}',
        9**6 * "[",
    ):
        (folders[0] / "log.jsonl").write_text(f"{damaged}\n")
        assert "log.jsonl: can't be read" in error_of(capsys, lambda: table.main([str(folders[0])]))

    unvalidated = start(root, config_file(root, train_params__num_epochs=1))
    assert "has no validation" in error_of(capsys, lambda: table.main([str(unvalidated)]))
    (unvalidated / "run.json").unlink()
    assert "has no run.json" in error_of(capsys, lambda: table.main([str(unvalidated)]))
    assert "none of these is the folder" in error_of(capsys, lambda: table.main([str(config)]))
