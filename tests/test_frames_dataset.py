"""Layouts, splits, draws, workers and mistakes of the datasets, on clips of a few pixels."""

import os
import pickle
import random
import shutil
import time
import tracemalloc
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data import prepare
from frames_dataset import DatasetRepeater, FramesDataset, PairedDataset, identity, read_video
from tests.clips import SHAPE, dataset, numbered_frame
from tests.clips import write_numbered_clip as write_clip
from tests.small import error_of
from utils.errors import DatasetError, MediaError

FLIPS = {"flip_param": {"time_flip": True, "horizontal_flip": True}}


def times(sample):
    """The frame numbers (source, driving) of a sample of `write_clip`."""
    return tuple(round(float(sample[key][1, 0, 0]) * 25.5) for key in ("source", "driving"))


@pytest.fixture
def root(tmp_path):
    """Ten training clips of three identities, and two test clips."""
    names = ["id1#a", "id1#b.mp4", "id10#a", "id10#b", "id10#c", "id10#d", "id2#a", "id2#b", "id2#c", "id2#d"]
    for number, name in enumerate(names):
        write_clip(tmp_path / "train" / name, value=number)
    for number, name in enumerate(["id3#a.mp4", "id4#a"]):
        write_clip(tmp_path / "test" / name, value=number)
    return tmp_path


# ---- Samples ----------------------------------------------------------------


def test_a_training_sample_is_two_frames_of_one_clip_in_order_of_time(root):
    train = dataset(root)
    seen = set()
    for repeat in range(60):
        sample = train.draw(3, repeat)
        assert sample["name"] == "id10#b"
        for key in ("source", "driving"):
            assert sample[key].shape == (3, 8, 8) and sample[key].dtype == np.float32
            np.testing.assert_array_equal(sample[key][0], np.float32(3 / 255))
            np.testing.assert_array_equal(sample[key][2, 0] * 255, np.arange(8))
        seen.add(times(sample))
    assert all(source <= driving for source, driving in seen)
    assert {0, 1, 2, 3, 4} == {time for pair in seen for time in pair}


def test_a_test_sample_is_the_whole_clip_unaugmented(root):
    test = dataset(root, is_train=False, augmentation_params=FLIPS | {"jitter_param": {"brightness": 0.5}})
    assert len(test) == 2 and list(test.videos) == ["id3#a.mp4", "id4#a"]
    sample = test[1]
    expected = np.stack([numbered_frame(number, value=1) for number in range(5)]).transpose(
        3, 0, 1, 2
    ) / np.float32(255)
    assert sample["name"] == "id4#a" and sample["video"].dtype == np.float32
    np.testing.assert_array_equal(sample["video"], expected)


def test_read_video_gives_the_whole_clip_and_cuts_strips(tmp_path):
    frames = [numbered_frame(number) for number in range(4)]
    Image.fromarray(np.concatenate(frames, axis=1)).save(tmp_path / "strip.png")
    write_clip(tmp_path / "folder", frames=4)
    for name in ("strip.png", "folder"):
        video = read_video(tmp_path / name, SHAPE)
        assert video.shape == (4, 8, 8, 3) and video.dtype == np.float32
        np.testing.assert_array_equal(video, np.stack(frames) / np.float32(255))


def test_a_lazy_clip_gives_the_frames_of_the_sample_one_by_one(root):
    test = dataset(root, is_train=False)
    clip = test.clip(0)
    assert (clip.name, len(clip), clip.size, clip.fps) == ("id3#a.mp4", 5, (8, 8), 25)
    for _ in range(2):  # a second loop starts anew
        frames = list(clip)
        assert frames[0].dtype == torch.float32 and frames[0].shape == (3, 8, 8)
        np.testing.assert_array_equal(torch.stack(frames, dim=1), test[0]["video"])
    np.testing.assert_array_equal(clip.first_frame(), test[0]["video"][:, 0])


def test_a_lazy_clip_holds_one_frame_however_long_it_is(tmp_path):
    write_clip(tmp_path / "train" / "a")
    write_clip(tmp_path / "test" / "short", frames=10, size=(64, 64))
    write_clip(tmp_path / "test" / "very long", frames=200, size=(64, 64))
    test = FramesDataset(tmp_path, frame_shape=(64, 64, 3), is_train=False)
    peaks = []
    for index in range(2):
        clip = test.clip(index)
        tracemalloc.start()
        count = sum(1 for _ in clip)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == len(clip)
    assert peaks[1] < peaks[0] + 2 * 64 * 64 * 3 * 4  # two frames' worth, where the whole clip is 200


# ---- Layout and split -------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder.*root_dir"),
        (lambda root: root.mkdir(), "holds no clips.*png.*mp4"),
        (lambda root: write_clip(root / "test" / "a"), "train.*no such folder"),
        (lambda root: (write_clip(root / "test" / "a"), (root / "train").mkdir()), "train.*holds no clips"),
        (lambda root: write_clip(root / "a"), "random split needs two"),
    ],
)
def test_a_wrong_layout_is_told(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(DatasetError, match=message):
        dataset(tmp_path / "data")


def test_the_random_split_is_80_to_20_disjoint_and_seeded(tmp_path):
    for number in range(20):
        write_clip(tmp_path / f"clip{number}", frames=1)
    splits = {
        seed: [list(dataset(tmp_path, is_train=part, random_seed=seed).videos) for part in (True, False)]
        for seed in range(3)
    }
    for train, test in splits.values():
        assert (len(train), len(test)) == (16, 4) and train == sorted(train)
        assert set(train) | set(test) == {f"clip{number}" for number in range(20)}
    assert len({tuple(test) for _, test in splits.values()}) == 3
    assert list(dataset(tmp_path, is_train=False, random_seed=1).videos) == splits[1][1]


def test_the_random_split_keeps_each_identity_on_one_side(tmp_path):
    for number in range(10):
        for part in range(number % 3 + 1):
            write_clip(tmp_path / f"id{number}#{part}", frames=1)
    for seed in range(5):
        train, test = (
            dataset(tmp_path, id_sampling=True, is_train=is_train, random_seed=seed)
            for is_train in (True, False)
        )
        people = [{identity(name) for name in side.clips} for side in (train, test)]
        assert (len(people[0]), len(people[1])) == (8, 2) and not people[0] & people[1]
        assert len(train) == 8 and len(test) == len(test.clips)
        assert len(train.clips) + len(test.clips) == 19


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("id1#x#0.mp4", "id1"),
        ("id10#x", "id10"),
        ("a.b.mp4", "a.b"),
        ("a.b", "a.b"),
        ("id1.png", "id1"),
        ("id1", "id1"),
    ],
)
def test_identity(name, expected):
    assert identity(name) == expected


# ---- Statistics of the draws ------------------------------------------------


def test_10000_draws_show_every_identity_clip_and_flip_as_promised(root):
    train = dataset(root, id_sampling=True, augmentation_params=FLIPS)
    assert list(train.videos) == ["id1", "id10", "id2"]
    draws = DatasetRepeater(train, num_repeats=3334)
    clips, mirrored, backwards = Counter(), Counter(), Counter()
    for index in range(10_000):
        sample = draws[index]
        assert identity(sample["name"]) == train.videos[index % 3]
        clips[sample["name"]] += 1
        mirrored[bool(sample["source"][2, 0, 0] > 0)] += 1
        source, driving = times(sample)
        backwards[int(np.sign(source - driving))] += 1
    for name, count in clips.items():
        expected = 10_000 / 3 / (2 if identity(name) == "id1" else 4)
        assert abs(count - expected) < 5 * expected**0.5, name
    assert len(clips) == 10
    assert abs(mirrored[True] - 5000) < 250  # standard deviation 50
    assert abs(backwards[0] - 2000) < 200  # the same frame twice: one in five; standard deviation 40
    assert abs(backwards[1] - 4000) < 250 and abs(backwards[-1] - 4000) < 250


# ---- Random streams ---------------------------------------------------------


def epoch_of(loader, epoch):
    loader.dataset.set_epoch(epoch)
    return [
        (name, source)
        for batch in loader
        for name, source in zip(batch["name"], batch["source"], strict=True)
    ]


def same(samples, others):
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(samples, others, strict=True))


AUGMENTED = FLIPS | {"jitter_param": {"brightness": 0.3, "hue": 0.1}}


def test_samples_do_not_depend_on_the_workers(root):
    draws = DatasetRepeater(dataset(root, id_sampling=True, augmentation_params=AUGMENTED), num_repeats=4)
    plain = DataLoader(draws, batch_size=3)
    expected = [epoch_of(plain, epoch) for epoch in range(3)]
    assert not same(expected[0], expected[1])
    for workers in (1, 2):
        loader = DataLoader(
            draws, batch_size=3, num_workers=workers, persistent_workers=True, multiprocessing_context="fork"
        )
        for epoch in (0, 1, 2, 1):  # workers that live on see each new epoch
            assert same(epoch_of(loader, epoch), expected[epoch])


def test_spawned_workers_get_the_same_dataset(root):
    train = dataset(root, augmentation_params=AUGMENTED)
    loader = DataLoader(
        train, batch_size=5, num_workers=1, persistent_workers=True, multiprocessing_context="spawn"
    )
    for epoch in (0, 3):
        assert same(epoch_of(loader, epoch), epoch_of(DataLoader(train, batch_size=5), epoch))


def test_a_sample_is_named_by_seed_epoch_index_and_repeat(root):
    def draw(epoch=0, seed=0, repeat=0, random_seed=0):
        train = dataset(root, augmentation_params=AUGMENTED, random_seed=random_seed)
        train.set_epoch(epoch, seed)
        return train.draw(4, repeat)["source"]

    np.testing.assert_array_equal(draw(), draw())
    for change in ({"epoch": 1}, {"seed": 1}, {"repeat": 1}, {"random_seed": 1}):
        assert not np.array_equal(draw(), draw(**change)), change


def test_no_global_random_state_is_touched(root):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    train = dataset(root, id_sampling=True, augmentation_params=AUGMENTED)
    _ = train[0], PairedDataset(dataset(root, is_train=False), 3)[0]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_the_repeater_repeats_and_ends(root):
    draws = DatasetRepeater(dataset(root), num_repeats=3)
    assert len(draws) == 30 and len(list(draws)) == 30
    assert draws[2]["name"] == draws[12]["name"] == draws[-8]["name"]
    assert len({times(draws[index]) for index in (2, 12, 22)}) > 1
    assert [DatasetRepeater("abc", 2)[index] for index in range(6)] == list("abcabc")


def test_the_repeater_takes_any_dataset_with_the_methods_and_no_other():
    class Numbers:
        """Samples that say what they were asked for."""

        epoch = 0

        def __len__(self):
            return 2

        def draw(self, index, repeat=0):
            return self.epoch, index, repeat

        def set_epoch(self, epoch, seed=0):
            self.epoch = epoch

    draws = DatasetRepeater(Numbers(), num_repeats=2)
    draws.set_epoch(5)
    assert [draws[index] for index in range(4)] == [(5, 0, 0), (5, 1, 0), (5, 0, 1), (5, 1, 1)]
    assert DatasetRepeater(draws, num_repeats=3)[9] == (5, 1, 4)
    with pytest.raises(TypeError, match="object has no draw and no set_epoch: see ClipDataset"):
        DatasetRepeater(object())
    with pytest.raises(TypeError, match="no epochs"):
        DatasetRepeater("abc").set_epoch(1)


# ---- Validation ---------------------------------------------------------------


def both(root, **options):
    return [dataset(root, is_train=is_train, validates=True, **options) for is_train in (True, False)]


@pytest.mark.parametrize("id_sampling", [False, True])
def test_validation_holds_out_identities_of_train(tmp_path, id_sampling):
    for number in range(40):
        for part in range(2):
            write_clip(tmp_path / "train" / f"id{number}#{part}", frames=1)
    train, held_out = both(tmp_path, id_sampling=id_sampling)  # test/ is needed for neither
    assert (train.split, held_out.split) == ("train", "held out") and train.folder == held_out.folder
    kept, missing = ({identity(name) for name in side.clips} for side in (train, held_out))
    assert len(missing) == 2 and len(kept) == 38 and not kept & missing
    assert sorted([*train.clips, *held_out.clips]) == list(dataset(tmp_path).clips)
    assert len(train) == (38 if id_sampling else 76) and len(held_out) == len(held_out.clips)
    drawn = {train.draw(index, repeat)["name"] for index in range(len(train)) for repeat in range(8)}
    assert drawn == set(train.clips)
    others = both(tmp_path, random_seed=1)
    assert list(others[1].clips) != list(held_out.clips) == list(both(tmp_path)[1].clips)
    # Without validation, all is trained on.
    assert len(dataset(tmp_path).clips) == 80
    with pytest.raises(DatasetError, match="test: no such folder beside train"):
        dataset(tmp_path, is_train=False)


def test_validation_takes_val_where_it_is(root):
    write_clip(root / "val" / "id9#a")
    train, val = both(root)
    assert list(train.clips) == list(dataset(root).clips) and len(train) == 10
    assert (val.split, list(val.clips)) == ("val", ["id9#a"]) and val.clip(0).name == "id9#a"


def test_validation_without_splits_and_of_one_identity(tmp_path):
    for number in range(10):
        write_clip(tmp_path / "flat" / f"{number}", frames=1)
        write_clip(tmp_path / "one" / "train" / f"me#{number}", frames=1)
    train, held_out = both(tmp_path / "flat")
    assert sorted([*train.clips, *held_out.clips]) == list(dataset(tmp_path / "flat").clips)
    assert [len(side.clips) for side in both(tmp_path / "one")] == [9, 1]
    write_clip(tmp_path / "single" / "train" / "me")
    with pytest.raises(DatasetError, match=r"holds one clip.*val/.*eval_freq"):
        both(tmp_path / "single")


# ---- Many clips ---------------------------------------------------------------


def test_the_index_is_used_until_something_changes(root, capsys):
    unreadable = root / "train" / os.fsdecode(b"nl\n\xff")
    write_clip(unreadable)
    expected = list(dataset(root).clips)
    assert unreadable.name in expected
    prepare.main(["--index", str(root)])
    assert f"{root / 'train'}: 11 clips are listed" in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("media.listing.is_clip", lambda entry: pytest.fail("looked for clips"))
        assert list(dataset(root).clips) == expected and len(dataset(root, is_train=False)) == 2

    def changed(clips):
        assert list(dataset(root).clips) == clips
        assert "python data/prepare.py --index" in capsys.readouterr().err

    write_clip(root / "train" / "zzz")
    changed([*expected, "zzz"])
    prepare.main(["--index", str(root / "train")])
    time.sleep(0.02)  # the clock of a file system ticks
    shutil.rmtree(root / "train" / "zzz")
    changed(expected)
    # Damaged, or leading elsewhere.
    for content in (b"", b"id1#a", b"../test/id3#a.mp4\0"):
        (root / "train.clips").write_bytes(content)
        changed(expected)


def test_an_index_of_nothing_is_refused(tmp_path, capsys):
    for arguments, told in (["--index", str(tmp_path)], "holds no clips"), (["--index", "no"], "no: No such"):
        assert told in error_of(capsys, lambda arguments=arguments: prepare.main(arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("id_sampling", [False, True])
def test_a_worker_gets_few_bytes_for_each_clip(tmp_path, id_sampling):
    """What spawn sends, and so what a worker holds."""
    (tmp_path / "train").mkdir()
    count = 2000
    for number in range(count):
        (tmp_path / "train" / f"identity{number // 2:07}#{number}.mp4").touch()
    train = dataset(tmp_path, id_sampling=id_sampling)
    assert train.clips[-1] == "identity0000999#1999.mp4" and train.clips[3:5] == list(train.clips)[3:5]
    assert len(pickle.dumps(train)) < 80 * count + 5000


# ---- Damaged clips and wrong sizes ------------------------------------------


def test_an_unreadable_clip_is_warned_of_once_and_another_is_drawn(root):
    (root / "train" / "id2#a" / "2.png").write_bytes(b"no picture")
    train = dataset(root)
    with pytest.warns(UserWarning, match="id2#a") as caught:
        samples = [train.draw(6, repeat) for repeat in range(40)]
    assert len(caught) == 1
    assert len({sample["name"] for sample in samples}) > 3
    fresh = dataset(root)  # what was found damaged before must not change a sample
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(fresh.draw(6, 39)["source"], samples[39]["source"])


def test_more_than_a_tenth_unreadable_is_an_error(root):
    for name in ("id2#a", "id10#c"):
        for frame in (root / "train" / name).iterdir():
            frame.write_bytes(b"")
    train = dataset(root)
    with pytest.warns(UserWarning), pytest.raises(DatasetError, match="2 of 10 clips can't be read"):
        [train[index] for index in range(10)]


def test_an_unreadable_test_clip_is_an_error(root):
    for frame in (root / "test" / "id4#a").iterdir():
        frame.write_bytes(b"")
    with pytest.raises(MediaError, match="id4#a"):
        dataset(root, is_train=False)[1]


def test_frames_of_another_size_are_an_error_with_a_remedy(root):
    remedy = r"id1#a.*8x8.*16x12.*resize.*frame_shape to \[8, 8, 3\].*crop_param"
    with pytest.raises(DatasetError, match=remedy):
        FramesDataset(root, frame_shape=[16, 12, 3])[0]
    for read in (FramesDataset.__getitem__, FramesDataset.clip):
        with pytest.raises(DatasetError, match=r"id3#a.*8x8.*16x12"):
            read(FramesDataset(root, frame_shape=[16, 12, 3], is_train=False), 0)


def test_crop_brings_clips_of_any_size_to_frame_shape(root):
    params = {"resize_param": {"ratio": [0.8, 1.2]}, "crop_param": {"size": [10, 6]}}
    train = FramesDataset(root, frame_shape=[10, 6, 3], augmentation_params=params)
    assert {train[index]["source"].shape for index in range(10)} == {(3, 10, 6)}
    with pytest.raises(DatasetError, match=r"10x6.*frame_shape is 8x8.*crop_param.size to \[8, 8\]"):
        FramesDataset(root, frame_shape=SHAPE, augmentation_params=params)[0]
