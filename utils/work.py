"""A list of work that the processes of torchrun share. Without torchrun, one process takes all of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

from utils.distributed import meet
from utils.errors import UserError
from utils.signals import caught_signals

SECONDS_PER_BEAT = 1.0
SECONDS_UNTIL_DEAD = 10.0  # without a beat; torchrun kills 30 s after the SIGTERM by which it ends processes
Item = TypeVar("Item")

ENDED = 2**40  # added to the beats of a process that has done its part; taken off where it failed


class SharedWork:
    """Items of which each process takes the next, so that a slow one holds nobody up.

        with SharedWork(names, "run it again") as work:
            for item in work.share(items):
                ...  # done when the next is asked for

    Afterwards one process, rank 0 or the first that is alive, raises `UserError` if items are missing; it
    ends with `remedy`. A signal, as torchrun sends to all when a process died, ends the loop after the item
    in hand. `signals`: those that came, where there are several processes.
    """

    def __init__(self, names: Sequence[str], remedy: str):
        self.names, self.remedy = names, remedy
        self.store, self.rank, self.size = meet()
        self.signals: list[int] = []
        self._beats: dict[int, tuple[int, float]] = {}  # of each process, and when they last changed
        self._left, self._exit = threading.Event(), contextlib.ExitStack()
        self._is_reporter: bool | None = None
        # An index must mean the same to all of them.
        digest = hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()
        if self.rank == 0:
            self._append("")
            self.store.set("list", digest)
        elif self.store.get("list").decode() != digest:
            raise UserError("the processes see different files: is the folder shared? Then start once more")

    def __enter__(self) -> SharedWork:
        if self.size > 1:
            self.signals = self._exit.enter_context(caught_signals())
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __iter__(self) -> Iterator[int]:
        """Take the index of the next item, until none is left."""
        while not self.signals:
            try:
                index = self.store.add("taken", 1) - 1
            except dist.DistError as error:
                raise UserError(
                    f"torchrun's first machine can't be reached any more; {self.remedy}"
                ) from error
            if index >= len(self.names):
                return
            yield index

    def share(self, items: Sequence[Item]) -> Iterator[Item]:
        """Take the next item, until none is left; each is done when the next is asked for."""
        for index in self:
            yield items[index]
            self.record(index)

    def record(self, index: int, result: Any = None) -> None:
        """Say that an item is done, and what came of it, as JSON has it."""
        self._append(json.dumps([index, result]) + "\n")

    def _append(self, text: str) -> None:
        self.store.append("results", text)  # type: ignore[attr-defined]  # not in PyTorch's stubs

    def results(self) -> dict[int, Any]:
        """Return what all processes have recorded so far, by index."""
        return dict(json.loads(line) for line in self.store.get("results").decode().splitlines())

    def reports(self) -> bool:
        """Wait until the other processes have done their part; return whether this one reports for all."""
        if self._is_reporter is None:
            self.store.add(f"beats/{self.rank}", ENDED)
            self._is_reporter = self._find_reporter()
        return self._is_reporter

    def _find_reporter(self) -> bool:
        for other in (other for other in range(self.size) if other != self.rank):
            while (state := self._state_of(other)) == "works":
                time.sleep(SECONDS_PER_BEAT / 10)
            if other < self.rank and state == "ended":
                return False
        return True

    def _state_of(self, other: int) -> str:
        try:
            beats, now = self.store.add(f"beats/{other}", 0), time.monotonic()
        except dist.DistError:  # it was kept by rank 0, which has reported
            return "ended"
        before, since = self._beats.get(other, (None, now))
        if beats != before:
            self._beats[other] = beats, (since := now)
        if beats >= ENDED:
            return "ended"
        return "gone" if beats < 0 or now - since > SECONDS_UNTIL_DEAD else "works"

    def _beat(self) -> None:
        """Say again and again that this process is alive, and look which others are."""
        with contextlib.suppress(dist.DistError):
            while not self._left.wait(SECONDS_PER_BEAT):
                self.store.add(f"beats/{self.rank}", 1)
                for other in range(self.size):
                    self._state_of(other)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._exit:
            try:
                if kind is not None:
                    with contextlib.suppress(dist.DistError):
                        self.store.add(f"beats/{self.rank}", -2 * ENDED)
                elif self.reports():
                    self._check()
            finally:
                self._left.set()

    def _check(self) -> None:
        done = self.results()
        missing = [name for index, name in enumerate(self.names) if index not in done]
        if missing:
            first = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            raise UserError(
                f"{len(missing)} of {len(self.names)} are missing, as a process ended early: {first}; "
                f"{self.remedy}"
            )
