"""Workers take turns, what they measure becomes a table, and what fails a line of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from tests.small import small_config, write_config
from tools.benchmarks import __main__ as benchmarks
from tools.benchmarks import jobs, turns
from tools.benchmarks.__main__ import Row, as_markdown
from tools.benchmarks.jobs import EXACT, JOBS
from tools.benchmarks.turns import Command, Timing, take_turns
from utils.distributed import process_group

COUNTER = """
from turns import serve_turns
count = 0
def turn():
    global count
    count += 1
    return {factor} * count
serve_turns(lambda: turn)
"""


def counter(factor: int) -> Command:
    paths = {"PYTHONPATH": str(Path(turns.__file__).parent)}
    return Command([sys.executable, "-c", COUNTER.format(factor=factor)], paths)


def test_workers_take_turns_and_the_first_is_not_counted() -> None:
    measured = take_turns({"one": counter(1), "ten": counter(10)}, Path(), rounds=3)
    assert [value[:3] for value in measured.values()] == [(3, 2, 4), (30, 20, 40)]
    assert measured["one"].peak > 1


def test_a_worker_that_fails_is_a_line_and_the_others_go_on() -> None:
    paths = {"PYTHONPATH": str(Path(turns.__file__).parent)}
    fails = "from turns import serve_turns\nserve_turns(lambda: 1 / 0)"
    commands = {
        "raises": Command([sys.executable, "-c", fails], paths),
        "ends": Command([sys.executable, "-c", "raise SystemExit(3)"]),
        "hangs": Command([sys.executable, "-c", "import time; time.sleep(60)"]),
    }
    measured = take_turns(commands | {"works": counter(1)}, Path(), rounds=1, limit=4)
    assert [measured[name] for name in commands] == [
        "ZeroDivisionError: division by zero",
        "ended with status 3",
        "not done within 4 s",
    ]
    assert isinstance(take_turns({"works": counter(1)}, Path(), rounds=1)["works"], Timing)


def test_the_table_compares_with_the_first_of_each_part() -> None:
    rows = [
        Row("frame", "plain", Timing(200.4, 190.0, 250.0, 700.2), "ms"),
        Row("frame", "fast", Timing(50.26, 49.0, 60.0, 750.0), "ms"),
        Row("frame", "graph", "out of memory", "ms"),
        Row("step", "compiled", "no compiler", "ms"),
        Row("step", "plain", Timing(1.0, 1.0, 1.0, 1.0), "ms"),
    ]
    assert as_markdown(rows).splitlines()[2:] == [
        "| frame | plain | 200 ms | 190–250 | 1.00× | 700 MiB |",
        "| frame | fast | 50.3 ms | 49.0–60.0 | 3.99× | 750 MiB |",
        "| frame | graph | failed: out of memory |  |  |  |",
        "| step | compiled | failed: no compiler |  |  |  |",
        "| step | plain | 1.00 ms | 1.00–1.00 |  | 1 MiB |",
    ]


# ---- A device ----------------------------------------------------------------


class FakeGraph:
    """Stands for a CUDA graph: it does anew what would be replayed."""

    replays = 0

    def __init__(self, step: Callable, example: tuple):
        self.step = step

    def __call__(self, *frames: torch.Tensor) -> torch.Tensor:
        FakeGraph.replays += 1
        return self.step(*frames)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU for the command's planning; its jobs compute in this process on the CPU."""
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", FakeGraph)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(benchmarks, "pick_device", torch.device)
    monkeypatch.setattr(benchmarks, "marked_tests", lambda: "9 passed")
    monkeypatch.setattr(jobs, "COMPARED", 1)

    def in_process(commands: Mapping[str, Command], folder: Path, rounds: int, limit: float) -> dict:
        assert rounds == 3
        measured: dict[str, Timing | str] = {}
        for label, command in commands.items():
            name, *arguments = ("cpu" if word == "cuda" else word for word in command.arguments[3:])
            if name == "differences" and arguments[1] != EXACT:
                measured[label] = "slow without a GPU"
                continue
            with monkeypatch.context() as patch:
                for variable, value in command.environment.items():
                    patch.setenv(variable, value)
                with process_group(torch.device("cpu")):
                    value = JOBS[name](*arguments)()
            measured[label] = Timing(value, value, value, 1.0)
        return measured

    monkeypatch.setattr(benchmarks, "take_turns", in_process)


@pytest.mark.usefixtures("fake_gpu")
def test_every_line_of_a_device(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = write_config(tmp_path / "tiny.yaml", small_config())
    before = FakeGraph.replays
    benchmarks.main(["--device", "cuda", "--quick", "--config", str(config)])
    printed = capsys.readouterr().out
    lines = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    failed = [line for line in lines if line[2].startswith("failed")]
    assert {line[2] for line in failed} == {"failed: slow without a GPU"} and len(failed) == 6
    variants = {line[1] for line in lines}
    assert {
        "published loop, fp16",
        "compiled, bf16",
        "DDP of one process, fp32",
        "DataParallel, fp32",
    } <= variants
    assert "CUDA graph, bf16" in variants and FakeGraph.replays > before
    assert printed.endswith("Tests marked `cuda`: 9 passed\n")


def test_turns_before_a_failure_count() -> None:
    failing = counter(1).arguments[2].replace("count += 1", "count += 1; assert count < 3")
    command = counter(1)._replace(arguments=[sys.executable, "-c", failing])
    assert take_turns({"two": command}, Path(), rounds=3)["two"][:3] == (2, 2, 2)


def test_the_tests_of_a_gpu_are_found() -> None:
    assert re.fullmatch(r"\d+ (passed|skipped).*", benchmarks.marked_tests())


def test_a_cpu_has_no_graphs() -> None:
    groups = list(benchmarks.device_groups("cpu", Path("a.yaml"), quick=False))
    variants = {variant for _, _, commands in groups for variant in commands}
    assert "compiled, fp16" in variants and not any("graph" in variant for variant in variants)


def test_what_the_time_does_not_suffice_for_is_told() -> None:
    rows = benchmarks.measure(benchmarks.device_groups("cuda", Path("a.yaml"), True), rounds=3, seconds=0)
    assert {row.measured for row in rows} == {"no time was left"}
