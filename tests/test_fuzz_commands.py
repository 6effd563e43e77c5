"""Command lines made up from the programs' own options, with values that nobody should give."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st

import crop_video
import demo
import evaluate
import export
import run
from data import make_puppets, prepare
from tests.clips import write_dataset
from tests.demo_files import write_inputs
from tests.fuzzing import (
    assert_one_line,
    assert_whole,
    children,
    emptied,
    files_of,
    fuzz,
    needs_unix,
    outcome,
)

ROOT = Path(__file__).parents[1]

# ---- Programs ----------------------------------------------------------------


class Program(NamedTuple):
    """A program, and a command line that works: values by option, of positional arguments by name."""

    main: Callable[[list[str]], Any]
    works: dict[str, list[str]]
    # Options that always stay: others would train, download, or draw for minutes.
    fixed: tuple[str, ...] = ()


MODEL = {"--config": ["good.yaml"], "--checkpoint": ["good.pth.tar"]}
PROGRAMS = {
    "demo": Program(
        demo.main,
        MODEL
        | {"--source_image": ["source.png"], "--driving_video": ["one"], "--result_video": ["OUT/a.mp4"]},
        fixed=("--config", "--checkpoint", "--driving_video"),
    ),
    "reconstruction": Program(
        run.main,
        {"config_file": ["data.yaml"], "--mode": ["reconstruction"], "--checkpoint": ["good.pth.tar"]}
        | {"--log_dir": ["OUT"], "--device": ["cpu"]},
        fixed=("--mode", "--log_dir"),
    ),
    "animate": Program(
        run.main,
        {"config_file": ["data.yaml"], "--mode": ["animate"], "--checkpoint": ["good.pth.tar"]}
        | {"--log_dir": ["OUT"], "--device": ["cpu"]},
        fixed=("--mode", "--log_dir"),
    ),
    "evaluate": Program(
        evaluate.main,
        {
            "--generated": ["data/test"],
            "--real": ["data/test"],
            "--metrics": ["l1", "psnr"],
            "--out": ["OUT"],
        },
        fixed=("--out",),
    ),
    "crop_video": Program(crop_video.main, {"--inp": ["talk.mp4"], "--out": ["OUT"]}),
    "export": Program(
        export.main,
        {"--checkpoint": ["good.pth.tar"], "--out": ["OUT/a.safetensors"]},
        fixed=("--checkpoint", "--out"),
    ),
    "prepare": Program(
        prepare.main, {"--check": ["data"], "--config": ["data.yaml"], "--workers": ["1"]}, fixed=("--check",)
    ),
    "make_puppets": Program(make_puppets.main, {"--out": ["good.yaml"]}, fixed=("--out",)),
}


class Parsed(Exception):
    """The parser of a program, instead of what it would do."""


def actions_of(main: Callable[[list[str]], Any]) -> list[argparse.Action]:
    """The options of a program, from its own parser."""

    def stop(parser: argparse.ArgumentParser, *more: Any) -> None:
        raise Parsed(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed) as found:
            main([])
    return [action for action in found.value.args[0]._actions if action.dest not in ("help", "debug")]


# ---- Values ------------------------------------------------------------------

TEXTS = [
    "", " ", "-", "--", "-1", "0", "1", "2", "3", "64", "3.5", "0.5", "1e309", "nan", "-inf", "inf", "9" * 30,
    "9" * 5000, "٣", "²", "1_0", "0x10", "+1", " 1", "a\nb", "\x1b[2J", "\udcff", "é", "n" * 300, "n" * 5000,
    "CON", "%s", "%(prog)s", "{}", "$(touch sprung)", "; touch sprung", "~", "1,2", "0,0,8,8", "8,8,0,0",
    "0,0,32,32", "0,0,9999999999,3", "-5,-5,40,40", "nan,1,2,3", "32", "32,32", "all", "a.b=1",
    "animate_params.num_pairs=1", "train_params=", "=", "model_params.common_params.num_kp=[1", "l1", "none",
    "null",
]  # fmt: skip
# Of the inputs; what is no file stands among them.
NAMES = [
    "good.yaml", "data.yaml", "typo.yaml", "other.yaml", "odd.yaml", "one_channel.yaml", "good.pth.tar",
    "half.pth.tar", "damaged.pth.tar", "text.png", "text.mp4", "text.txt", "empty", "holds_source", "driving",
    "one", "source.png", "talk.mp4", "link.png", "data", "data/test", "data/train", "data/test/id100#0",
    "run", "run/log.jsonl", "pipe", "pipe.png", "pipe.mp4", "pipe.yaml", "zero.png", "zero.mp4", "socket",
    "dangling", "dangling.mp4", "loop", "loop.png", "loop.npz", "none", "none/a.mp4", "source.png/a.png", ".",
    "..", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "/", "garbage.npz", "garbage.safetensors",
    "empty.mp4", "empty.yaml", "empty.png",
]  # fmt: skip
RESULTS = [
    "OUT", "OUT/a.mp4", "OUT/a.gif", "OUT/a", "OUT/a.png", "OUT/a.npz", "OUT/a.xyz", "OUT/a.pth.tar",
    "OUT/none/a.mp4", "OUT/" + "n" * 300 + ".mp4", "OUT/CON.mp4", "OUT/é\n.mp4", "OUT/\udcff.mp4",
    "OUT/pipe.mp4", "OUT/pipe", "OUT/pipe.png", "OUT/pipe.npz", "OUT/loop.mp4", "OUT/folder.mp4", "OUT/file",
    "OUT/file/a.mp4", "OUT/.", "OUT/a.MP4", "OUT/-a.mp4", "", "OUT/dangling.mp4", "OUT/file.png", "OUT/full",
    "OUT/..", "OUT/a.safetensors",
]  # fmt: skip
WRITTEN = {"result_video", "save_motion", "preview", "out", "output", "log_dir", "json", "contact_sheets"}


def values_for(action: argparse.Action) -> st.SearchStrategy[list[str]]:
    """Values for an option: mostly of its kind, sometimes any, sometimes too many."""
    if action.nargs == 0:
        return st.just([])
    if action.dest in WRITTEN:
        return st.lists(st.sampled_from(RESULTS), min_size=1, max_size=1)
    kinds = [st.sampled_from(TEXTS)]
    if action.choices:
        kinds += [st.sampled_from(sorted(map(str, action.choices)))] * 2
    elif action.type in (None, Path) or action.nargs == "+":
        kinds += [st.sampled_from(NAMES)] * 2
    count = action.nargs if isinstance(action.nargs, int) else 1
    return st.lists(st.one_of(kinds), min_size=count, max_size=max(count, 2 if action.nargs else 1))


def command_line(data: st.DataObject, program: Program, actions: list[argparse.Action]) -> list[str]:
    """The command line that works, with up to four options added, changed or left out."""
    given = dict(program.works)
    free = [action for action in actions if not set(program.fixed) & {*action.option_strings, action.dest}]
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        action = data.draw(st.sampled_from(free), "option")
        name = action.option_strings[0] if action.option_strings else action.dest
        if name in given and not data.draw(st.integers(0, 4), "kept"):
            del given[name]
        else:
            given[name] = data.draw(values_for(action), name)
    positional = [value for name, values in given.items() if not name.startswith("-") for value in values]
    options = [part for name, values in given.items() if name.startswith("-") for part in (name, *values)]
    return [*positional, *options] if data.draw(st.integers(0, 9), "first") else [*options, *positional]


# ---- The place ---------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of every kind, and what is none."""
    folder = tmp_path_factory.mktemp("place")
    write_inputs(folder)
    root = write_dataset(folder / "data", train=2, test=1)
    (folder / "data.yaml").write_text(
        (folder / "good.yaml").read_text().replace("root_dir: data", f"root_dir: {root}")
    )
    for name in ("pipe", "pipe.png", "pipe.mp4", "pipe.yaml"):
        os.mkfifo(folder / name)
    for name in ("zero.png", "zero.mp4"):
        (folder / name).symlink_to("/dev/zero")
    for name in ("loop", "loop.png", "loop.npz"):
        (folder / name).symlink_to(name)
    for name in ("dangling", "dangling.mp4"):
        (folder / name).symlink_to("nowhere")
    for name in ("garbage.npz", "garbage.safetensors"):
        (folder / name).write_bytes(bytes(range(256)))
    for name in ("empty.mp4", "empty.yaml", "empty.png"):
        (folder / name).touch()
    (folder / "run").mkdir()
    (folder / "run" / "log.jsonl").write_text('{"epoch": 0, "losses": {"perceptual": 1.5}}\n')
    return folder


def fill(out: Path) -> Path:
    """What results meet where they are to be written."""
    emptied(out)
    for name in ("pipe", "pipe.mp4", "pipe.png", "pipe.npz"):
        os.mkfifo(out / name)
    (out / "loop.mp4").symlink_to("loop.mp4")
    (out / "dangling.mp4").symlink_to("nowhere")
    (out / "folder.mp4").mkdir()
    (out / "file").write_text("here before")
    (out / "full").symlink_to("/dev/full")
    return out


# ---- The fuzzer --------------------------------------------------------------


@needs_unix
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", PROGRAMS)
def test_any_command_line_ends_with_a_result_or_one_line(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    program, actions = PROGRAMS[name], actions_of(PROGRAMS[name].main)
    before, running = files_of(place), children()

    def check(data: st.DataObject) -> None:
        out = fill(tmp_path / "out")
        arguments = [value.replace("OUT", str(out)) for value in command_line(data, program, actions)]
        standing = files_of(out)
        done = outcome(program.main, arguments)
        (place / "result.mp4").unlink(missing_ok=True)  # the default of the demo
        if name == "prepare" and done.status == 1:  # the check has found something
            return
        assert_one_line(done)
        assert_whole(out)
        assert files_of(place) == before and children() == running
        after = files_of(out)
        assert all(path in after for path in standing), done  # nothing that was there is gone

    fuzz(check, 60 if name in ("demo", "reconstruction", "animate") else 40)


@needs_unix
@pytest.mark.parametrize(
    "line",
    [
        "demo.py --config good.yaml --checkpoint good.pth.tar --cpu --source_image source.png "
        "--driving_video text.mp4 --result_video OUT/a.mp4",
        "run.py data.yaml --mode animate --checkpoint damaged.pth.tar --device cpu --log_dir OUT",
        "crop_video.py --inp zero.mp4 --out OUT",
    ],
)
def test_a_process_says_no_more_than_that_line(line: str, place: Path, tmp_path: Path) -> None:
    """Libraries in C write past Python's own streams, and more can go wrong at the end of a process."""
    program, *arguments = line.replace("OUT", str(fill(tmp_path / "out"))).split()
    before = files_of(tmp_path)
    command = [sys.executable, str(ROOT / program), *arguments]
    done = subprocess.run(command, cwd=place, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1
    assert files_of(tmp_path) == before
