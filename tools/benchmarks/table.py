"""The table of `python -m benchmarks`, as text and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """What was measured of a variant: median and range in `unit`, MiB of memory, and the ratio to another."""

    part: str
    variant: str
    median: float
    least: float
    most: float
    peak: float
    unit: str
    against: str
    ratio: float

    def cells(self) -> list[str]:
        digits = 0 if self.median >= 100 else 1
        spread = f"{self.least:.{digits}f}–{self.most:.{digits}f}"
        median = f"{self.median:.{digits}f} {self.unit}"
        ratio = "" if self.variant == self.against else f"{self.ratio:.2f}×"
        return [self.part, self.variant, median, spread, ratio, f"{self.peak:.0f} MiB"]


HEADINGS = ["", "variant", "median", "range", "ratio", "memory"]


def as_text(machine: Mapping[str, str], rows: Sequence[Row]) -> str:
    """The table for a terminal, under a line about the machine."""
    table = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in table
    ]
    return "\n".join([", ".join(f"{name} {value}" for name, value in machine.items()), *lines])


def as_markdown(rows: Sequence[Row]) -> str:
    """The same table for a page."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
