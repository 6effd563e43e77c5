"""Reading ahead, computing side by side, writing behind: order, bounds, errors, and no thread left over."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from utils.pipeline import ahead, behind, in_order

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads_stay():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"read ahead", "write behind"}


def wait_for(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")


# ---- Side by side --------------------------------------------------------------


def test_results_keep_their_order_when_a_later_one_is_ready_first(two_threads):
    second_done = threading.Event()

    def work(number):
        if number == 0:
            assert second_done.wait(5)  # only another worker can set it
        if number == 1:
            second_done.set()
        return number

    assert list(in_order(work, range(20), CPU)) == list(range(20))


def test_only_a_few_items_are_taken_before_they_are_asked_for(two_threads):
    taken = []
    results = in_order(abs, (taken.append(n) or n for n in range(100)), CPU)
    assert next(results) == 0
    assert len(taken) <= 3
    results.close()
    assert len(taken) <= 3


def test_an_error_comes_in_the_place_of_its_result(two_threads):
    results = in_order(lambda n: 1 // (n - 2), range(5), CPU)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_workers_have_one_thread_each_and_others_keep_theirs(two_threads):
    assert set(in_order(lambda _: torch.get_num_threads(), range(8), CPU)) == {1}
    assert torch.get_num_threads() == 2
    counted = []
    other = threading.Thread(target=lambda: counted.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert counted == [2]


# ---- Ahead ---------------------------------------------------------------------


def test_items_read_ahead_are_bounded():
    taken = []
    with ahead((taken.append(n) or n for n in range(100)), 3) as items:
        wait_for(lambda: len(taken) == 4)  # one more waits for its place
        time.sleep(0.05)
        assert len(taken) == 4
        assert list(items) == list(range(100))


def test_leaving_early_ends_the_reader_and_closes_what_it_read():
    closed = []

    def numbers():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    with ahead(numbers(), 2) as items:
        assert next(items) == 0
    assert closed == [True]


def test_an_error_of_the_reader_comes_after_what_it_read():
    def broken():
        yield 1
        raise OSError("torn")

    with ahead(broken(), 4) as items:
        assert next(items) == 1
        with pytest.raises(OSError, match="torn"):
            next(items)


# ---- Behind --------------------------------------------------------------------


def test_all_is_written_in_order_when_the_block_ends():
    written = []

    def slow(item):
        time.sleep(0.002)
        written.append(item)

    with behind(slow, 3) as write:
        for number in range(30):
            write(number)
    assert written == list(range(30))


def test_an_error_of_the_writer_ends_the_block():
    def full(item):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), behind(full, 2) as write:
        for number in range(1000):
            write(number)


def test_an_error_of_the_last_item_is_not_lost():
    def full(item):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), behind(full, 2) as write:
        write(0)


def test_after_an_error_in_the_block_nothing_more_is_written():
    release, written = threading.Event(), []

    def slow(item):
        release.wait(5)
        written.append(item)

    with pytest.raises(KeyError), behind(slow, 3) as write:
        for number in range(3):
            write(number)
        threading.Timer(0.05, release.set).start()
        raise KeyError
    assert len(written) <= 1
