"""Commands under torchrun: their processes share the work, and give what one process gives."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import demo
import evaluate
import run
from media.clips import open_clip
from modules.build import build_networks, read_config
from tests.clips import write_dataset
from tests.small import randomize, small_config, write_config
from tests.torchrun import ROOT, torchrun, workers
from utils.errors import UserError
from utils.work import SharedWork

CLIPS = 6
COMMANDS = """
import sys
sys.path.insert(0, {root!r})
import demo, evaluate, run
for command, arguments in {commands!r}:
    sys.modules[command].main(arguments)
"""


@pytest.fixture
def trained(tmp_path: Path) -> list[str]:
    """The arguments of run.py for a model and its test clips, but for the mode."""
    root = write_dataset(tmp_path / "data", train=1, test=CLIPS, frames=40)
    changes = {"dataset_params.root_dir": str(root), "animate_params.num_pairs": CLIPS}
    changes |= {"reconstruction_params.format": ".gif", "animate_params.format": ".gif"}
    config = write_config(tmp_path / "tiny.yaml", small_config(changes))
    torch.manual_seed(0)
    networks = build_networks(read_config(config))._asdict()
    checkpoint = tmp_path / "tiny.pth.tar"
    torch.save({name: randomize(network).state_dict() for name, network in networks.items()}, checkpoint)
    return [str(config), "--checkpoint", str(checkpoint), "--device", "cpu", "--log_dir", "."]


def files(folder: Path) -> dict[str, bytes]:
    """The content of all files but the evaluation's own, which name the clips' times.

    Of an mp4 it is the number of frames: of 250 times that x264 got the same ones, it wrote other bytes once.
    """
    paths = [path for path in folder.rglob("*") if path.is_file() and ".evaluation" not in path.parts]
    return {
        str(path.relative_to(folder)): bytes([len(open_clip(path))])
        if path.suffix == ".mp4"
        else path.read_bytes()
        for path in paths
    }


@pytest.mark.skipif(sys.platform == "win32", reason="PyTorch's store needs libuv there")
def test_two_processes_give_what_one_gives(
    trained: list[str],
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    model = ["--config", str(inputs / "good.yaml"), "--checkpoint", str(inputs / "good.pth.tar"), "--cpu"]
    pairs = ["--source_image", str(inputs / "source.png"), "--driving_video"]
    pairs += [str(inputs / "driving"), str(inputs / "talk.mp4"), "--result_video", "results"]
    compared = ["--generated", "reconstruction/png", "--real", str(tmp_path / "data" / "test")]
    commands = [
        ("run", [*trained, "--mode", "reconstruction"]),
        ("run", [*trained, "--mode", "animate"]),
        ("evaluate", [*compared, "--metrics", "l1", "psnr", "--device", "cpu"]),
        ("demo", [*model, *pairs]),
    ]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    mains = {"run": run.main, "evaluate": evaluate.main, "demo": demo.main}
    for command, arguments in commands:
        mains[command](arguments)
    one = capfd.readouterr().out
    monkeypatch.chdir(tmp_path / "two")
    script = tmp_path / "commands.py"
    script.write_text(COMMANDS.format(root=str(ROOT), commands=commands))
    job = torchrun(["--nproc_per_node=2"], str(script))
    two, _ = job.communicate(timeout=200)
    assert job.returncode == 0, two
    assert files(tmp_path / "one") == files(tmp_path / "two")
    # Each figure is printed once.
    figures = [line for line in one.splitlines() if "frames/s" not in line]
    assert [two.count(line) for line in figures] == [1] * len(figures), two


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_killed_process_leaves_whole_files_and_the_rest_is_told(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    command = [*trained, "--mode", "reconstruction"]
    monkeypatch.chdir(tmp_path / "whole")
    run.main(command)
    monkeypatch.chdir(tmp_path / "killed")
    job = torchrun(["--nproc_per_node=2"], "run.py", *command)
    while not list(Path("reconstruction/png").glob("*.png")) and job.poll() is None:
        time.sleep(0.01)
    os.kill(workers(job)[random.randrange(2)], signal.SIGKILL)
    output, _ = job.communicate(timeout=200)
    assert job.returncode != 0
    whole, killed = files(tmp_path / "whole"), files(tmp_path / "killed")
    made = [name for name in killed if name.endswith(".gif")]
    told = re.search(rf"(\d) of {CLIPS} are missing, as a process ended early: id10", output)
    # The process may have been killed when its last file was there, and before it said so.
    assert told is not None and int(told[1]) - (CLIPS - len(made)) in (0, 1), output
    assert output.count("--skip_existing makes them alone") == 1
    assert 0 < len(made) < CLIPS and all(killed[name] == whole[name] for name in made)
    assert not Path("reconstruction/l1.json").exists()
    run.main([*command, "--skip_existing"])
    for leftover in Path("reconstruction").rglob("*.tmp"):  # of the killed process
        leftover.unlink() if leftover.is_file() else shutil.rmtree(leftover)
    assert files(tmp_path / "killed") == whole


def works_of(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> list[SharedWork]:
    """The work of three processes, which are one here."""
    store = dist.HashStore()
    works = []
    for rank in range(3):
        monkeypatch.setattr("utils.work.meet", lambda rank=rank: (store, rank, 3))
        works.append(SharedWork(names, "try again"))
    return works


def test_a_process_of_another_machine_that_vanished_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("utils.work.SECONDS_UNTIL_DEAD", 0.3)
    first, vanished, last = works_of(monkeypatch, ["a", "b", "c", "d"])
    assert next(iter(vanished)) == 0  # and no more is heard of it
    with pytest.raises(RuntimeError, match="unreadable"), first:
        assert next(iter(first)) == 1
        raise RuntimeError("unreadable")
    # The last one that is alive reports.
    with (
        pytest.raises(UserError, match=r"^2 of 4 are missing, as a process ended early: a, b; try again$"),
        last,
    ):
        assert list(last.share("abcd")) == ["c", "d"]
    assert list(last.results()) == [2, 3]


def test_processes_that_see_other_files_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    works_of(monkeypatch, ["a"])[0].store.set("list", "another")
    with pytest.raises(UserError, match="is the folder shared"):
        SharedWork(["a"], "try again")
