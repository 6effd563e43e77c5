"""The table of models that have a name: `config/checkpoints.yaml`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from utils.errors import ConfigError
from utils.values import TEXT, WHOLE, Leaf, check_keys, list_of
from utils.yaml_loader import read_yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "config" / "checkpoints.yaml"
DEFAULT_MODEL = "puppets"


@dataclass(frozen=True)
class Entry:
    """A row of the table. `config/checkpoints.yaml` explains the columns."""

    name: str
    config: Path
    file: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    mirrors: tuple[str, ...] = ()
    shows: str | None = None

    @property
    def label(self) -> str:
        """Describe the model by what it shows and what it costs to have it."""
        size = f", {self.size / 2**20:.0f} MiB" if self.size and self.mirrors else ""
        had = "downloaded once" if self.mirrors else "included"
        return f"{(self.shows or self.name).capitalize()}{size}, {had}"


def _is_digest(value: object, length: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{length}}}", value) is not None


def _is_inside(value: object) -> bool:
    return isinstance(value, str) and not Path(value).is_absolute() and ".." not in Path(value).parts


def _is_address(value: object) -> bool:
    return isinstance(value, str) and re.match(r"https?://[^/]", value) is not None


_INSIDE = Leaf("a path that stays in its folder", _is_inside)
ROW = {
    "config": _INSIDE,
    "file": _INSIDE,
    "licence": TEXT,
    "size?": WHOLE.at_most(2**40),
    "shows?": TEXT,
    "sha256?": Leaf("64 digits in quotes", lambda value: _is_digest(value, 64)),
    "md5?": Leaf("32 digits in quotes", lambda value: _is_digest(value, 32)),
    "mirrors?": Leaf("a list of addresses", lambda value: list_of(_is_address, value)),
}


def read_table(path: Path = TABLE) -> dict[str, Entry]:
    """The rows of a table by name; configs lie beside it. Raises `ConfigError`."""
    rows = read_yaml(path)
    if not isinstance(rows, dict) or not all(isinstance(name, str) for name in rows):
        raise ConfigError(f"{path}: is no table of models by name; get it again from the repository")
    for name, row in rows.items():
        check_keys(row, ROW, path, name)
    return {
        name: Entry(**row | {"name": name, "config": path.parent / row["config"]})
        for name, row in rows.items()
    }
