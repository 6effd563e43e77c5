"""Names of results: the published ones where they can be, others where a system would take two for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.matching import clips_by_name
from tests.clips import write_clip
from utils.files import MAX_NAME, distinct_names, portable_name


@pytest.mark.parametrize(
    "name", ["a", "id10001#7w0-_#001", "a.b", "é木", "COM10", "CON#000", "nul-b", "a\udcff"]
)
def test_most_names_stay(name: str) -> None:
    assert portable_name(name) == name


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("CON", "_CON"),
        ("nul.old", "_nul.old"),
        ("lpt¹", "_lpt¹"),
        ("conin$", "_conin$"),
        ("a. ", "a__"),
        ('a<b>c:d"e/f\\g|h?i*j\nk', "a_b_c_d_e_f_g_h_i_j_k"),
        ("x" * 300, "x" * MAX_NAME),
        ("é" * 200, "é" * (MAX_NAME // 2)),
    ],
)
def test_what_some_system_forbids_is_replaced(name: str, portable: str) -> None:
    assert portable_name(name) == portable == portable_name(portable)


PAIRS = {("a-b", "c"): "a-b-c", ("a", "b-c"): "a-b-c", ("a", "c"): "a-c"}


def test_names_that_pairs_share_become_distinct_and_depend_on_no_order() -> None:
    names = distinct_names(PAIRS)
    assert names["a", "c"] == "a-c" and len(set(names.values())) == 3
    assert all(name.startswith(PAIRS[pair]) for pair, name in names.items())
    assert names == distinct_names(dict(reversed(PAIRS.items())))
    alone = {pair: name for pair, name in PAIRS.items() if pair != ("a", "b-c")}
    assert distinct_names(alone) == alone


@pytest.mark.parametrize("other", ["SS-É", "ss-e\u0301", "ß-é"])
def test_case_and_ways_to_write_a_letter_do_not_count(other: str) -> None:
    names = distinct_names({"1": "ss-é", "2": other})
    assert len({name.upper() for name in names.values()}) == 2


def test_a_name_that_looks_as_if_made_distinct_is_no_way_around() -> None:
    made = distinct_names({"a": "x", "b": "x"})
    names = distinct_names({"a": "x", "b": "x", "c": made["a"]})
    assert len(set(names.values())) == 3


def test_results_are_found_again_by_the_names_of_their_clips(tmp_path: Path) -> None:
    for name in ("CON", "aux.b"):
        write_clip(tmp_path / name, seed=0, frames=1)
    assert list(clips_by_name(tmp_path)) == ["_CON", "_aux"]
