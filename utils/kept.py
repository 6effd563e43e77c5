"""Results that are kept in memory for the next time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The newest `most` results, by all that they depend on; for one thread."""

    def __init__(self, most: int):
        self.most = most
        self.values: dict[Hashable, Value] = {}

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the result of `key`, which is made where there is none."""
        if key not in self.values:
            self.values[key] = make()
        if len(self.values) > self.most:
            del self.values[next(iter(self.values))]
        return self.values[key]
