"""Workers take turns, and the table in the documentation is the one that was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.benchmarks.paste import KEPT, PAGES, pasted
from tools.benchmarks.table import Row, as_markdown, as_text
from tools.benchmarks.turns import beside_a_busy_core, take_turns, workers

COUNTER = """
import sys
sys.path.insert(0, "benchmarks")
from turns import serve
count = 0
def turn():
    global count
    count += 1
    return {factor} * count
serve(turn)
"""


def counter(factor: int) -> list[str]:
    return [sys.executable, "-c", COUNTER.format(factor=factor)]


def test_workers_take_turns_and_the_first_is_not_counted() -> None:
    measured = take_turns({"one": counter(1), "ten": counter(10)}, Path(), rounds=3)
    assert [value[:3] for value in measured.values()] == [(3, 2, 4), (30, 20, 40)]
    assert measured["one"].peak > 1


def test_quiet_and_busy_alternate_and_the_busy_process_ends() -> None:
    measured = beside_a_busy_core({"one": counter(1)}, Path(), rounds=2)
    quiet, busy = measured["one"]
    assert (quiet[:3], busy[:3]) == ((3, 2, 4), (4, 3, 5))


def test_a_worker_that_fails_is_told() -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(RuntimeError, match="ended before"), workers({"broken": command}, Path()):
        pass


ROWS = [
    Row("frame", "plain", 200.4, 190.0, 250.0, 700.2, "ms", "plain", 1.0),
    Row("frame", "fast", 50.26, 49.0, 60.0, 750.0, "ms", "plain", 3.98),
]


def test_a_table_as_text_and_in_markdown() -> None:
    assert as_markdown(ROWS).splitlines()[2:] == [
        "| frame | plain | 200 ms | 190–250 |  | 700 MiB |",
        "| frame | fast | 50.3 ms | 49.0–60.0 | 3.98× | 750 MiB |",
    ]
    assert as_text({"cores": "2"}, ROWS).startswith("cores 2\n")


def test_the_documentation_holds_what_was_measured() -> None:
    content = json.loads(KEPT.read_text(encoding="utf-8"))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert pasted(text, content) == text, f"python -m benchmarks.paste {KEPT}"
