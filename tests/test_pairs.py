"""Pairs of test clips: from a list, drawn at random, and lists that can't be used."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from frames_dataset import PairedDataset, listed_pairs
from tests.clips import dataset
from tests.clips import write_numbered_clip as write_clip
from utils.errors import DatasetError


@pytest.fixture
def root(tmp_path):
    """Two test clips."""
    write_clip(tmp_path / "train" / "id1#a")
    for number, name in enumerate(["id3#a.mp4", "id4#a"]):
        write_clip(tmp_path / "test" / name, value=number)
    return tmp_path


def write_pairs(path, *rows):
    path.write_text(
        "distance,source,driving,frame\n" + "".join(f"0,{source},{driving},0\n" for source, driving in rows)
    )
    return path


def test_a_pair_is_two_whole_clips_or_two_lazy_ones(root):
    pairs_list = write_pairs(root / "pairs.csv", ("id4#a", "id3#a.mp4"), ("id4#a", "id4#a"))
    pairs = PairedDataset(dataset(root, is_train=False, pairs_list=pairs_list), 50)
    assert len(pairs) == 2
    sample = pairs[0]
    assert sorted(sample) == ["driving_name", "driving_video", "source_name", "source_video"]
    assert (sample["driving_name"], sample["source_name"]) == ("id3#a.mp4", "id4#a")
    driving, source = pairs.pair(0)
    assert (driving.name, source.name) == ("id3#a.mp4", "id4#a")
    np.testing.assert_array_equal(torch.stack(list(driving), dim=1), sample["driving_video"])
    np.testing.assert_array_equal(source.first_frame(), sample["source_video"][:, 0])
    assert len(PairedDataset(pairs.initial_dataset, 1)) == 1


def test_names_match_clips_of_another_format_and_unknown_ones_are_named(root):
    pairs_list = write_pairs(
        root / "pairs.csv", ("id4#a.mp4", "id3#a"), ("id4#a", "lost.mp4"), ("gone", "lost.mp4")
    )
    test = dataset(root, is_train=False, pairs_list=pairs_list)
    with pytest.warns(UserWarning, match=r"2 of 3 pairs.*2 of their names.*gone, lost\.mp4"):
        pairs = PairedDataset(test, 50)
    assert pairs.pairs == [(0, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"pairs\.csv.*can't be read.*source,driving"),
        ("", "no column driving or source"),
        ("source,frame\na,0\n", "no column driving"),
        ("source,driving\n", "holds no pairs"),
        ("source,driving\nid4#a\n", "1 of 1 pairs"),
        ("source,driving\nx,y\n", "2 of their names.*x, y"),
    ],
)
def test_a_pairs_list_that_can_not_be_used_is_an_error(root, text, message):
    if text is not None:
        (root / "pairs.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        PairedDataset(dataset(root, is_train=False, pairs_list=root / "pairs.csv"), 50)


def test_the_published_pair_lists_work(tmp_path):
    lists = sorted((Path(__file__).parent.parent / "data").glob("*256.csv"))
    assert lists
    for pairs_list in lists:
        rows = [line.split(",")[1:3] for line in pairs_list.read_text().splitlines()[1:]]
        folder = tmp_path / pairs_list.stem
        write_clip(folder / "train" / "a", frames=1)
        for name in {name for row in rows for name in row}:
            (folder / "test").mkdir(exist_ok=True)
            (folder / "test" / name).write_bytes(b"")
        test = dataset(folder, is_train=False, pairs_list=pairs_list)
        pairs = PairedDataset(test, 1000).pairs
        assert [[test.clips[source], test.clips[driving]] for driving, source in pairs] == rows


def test_random_pairs_are_distinct_seeded_and_reach_all_clips(tmp_path):
    for number in range(30):
        write_clip(tmp_path / "test" / f"clip{number}", frames=1)
    write_clip(tmp_path / "train" / "a", frames=1)
    test = dataset(tmp_path, is_train=False)
    pairs = PairedDataset(test, 100, seed=1).pairs
    assert len(set(pairs)) == 100 and pairs == PairedDataset(test, 100, seed=1).pairs
    assert pairs != PairedDataset(test, 100, seed=2).pairs
    assert {clip for pair in pairs for clip in pair} == set(range(30))
    assert len(PairedDataset(test, 10_000)) == 900
    few = Counter(
        clip for seed in range(1000) for pair in PairedDataset(test, 5, seed=seed).pairs for clip in pair
    )
    assert all(abs(few[clip] - 1000 / 3) < 95 for clip in range(30))  # standard deviation 18


@pytest.mark.parametrize(("sign", "called"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_named(tmp_path: Path, sign: str, called: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"source{sign}driving\na{sign}b\n")
    with pytest.raises(DatasetError, match=f"pairs.csv: is separated by {called}; save it with commas"):
        listed_pairs(path, ["a.mp4", "b.mp4"])
