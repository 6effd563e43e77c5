"""Workers take turns, and what they measure becomes a table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.benchmarks import turns
from tools.benchmarks.__main__ import Row, as_markdown
from tools.benchmarks.turns import Command, take_turns, worker

COUNTER = """
from turns import serve_turns
count = 0
def turn():
    global count
    count += 1
    return {factor} * count
serve_turns(turn)
"""


def counter(factor: int) -> Command:
    paths = {"PYTHONPATH": str(Path(turns.__file__).parent)}
    return Command([sys.executable, "-c", COUNTER.format(factor=factor)], paths)


def test_workers_take_turns_and_the_first_is_not_counted() -> None:
    measured = take_turns({"one": counter(1), "ten": counter(10)}, Path(), rounds=3)
    assert [value[:3] for value in measured.values()] == [(3, 2, 4), (30, 20, 40)]
    assert measured["one"].peak > 1


def test_a_worker_that_fails_is_told() -> None:
    command = Command([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="ended before"), worker(command, Path()):
        pass


def test_the_table_compares_with_the_first_of_each_part() -> None:
    rows = [
        Row("frame", "plain", 200.4, 190.0, 250.0, 700.2, "ms", 1.0),
        Row("frame", "fast", 50.26, 49.0, 60.0, 750.0, "ms", 3.98),
    ]
    assert as_markdown(rows).splitlines()[2:] == [
        "| frame | plain | 200 ms | 190–250 | 1.00× | 700 MiB |",
        "| frame | fast | 50.3 ms | 49.0–60.0 | 3.98× | 750 MiB |",
    ]
