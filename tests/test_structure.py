"""The order of the code: which place may import which, and how long files and functions may be.

Everything is parsed, nothing is imported. The floors are those of the table in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_FLOORS, MAX_ROOT_FILES, ROOT_PROGRAMS = 9, 26, 12
MAX_FILE, MAX_FUNCTION, MAX_INNER_IMPORTS = 450, 60, 30  # lines, lines, imports inside functions
NO_IMPORTERS = ("config", "docs", "sup-mat", "tests")  # places without code that others import

Graph = dict[str, set[str]]

not_yet = pytest.mark.xfail(reason="a test file has 460 lines")


# ---- The tree ----------------------------------------------------------------


@functools.cache
def tracked() -> list[Path]:
    """The files of the project; without git, those that aren't hidden."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if git.returncode == 0:
        return [Path(name) for name in git.stdout.split("\0") if name and (ROOT / name).exists()]
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [path for path in files if not any(part.startswith(".") for part in path.parts[:-1])]


@functools.cache
def sources() -> dict[str, ast.Module]:
    """The parsed Python files outside of tests/, by their paths."""
    paths = [path.as_posix() for path in tracked() if path.suffix == ".py" and path.parts[0] != "tests"]
    return {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in paths}


@functools.cache
def floors() -> dict[str, int]:
    """The floor of each place, from the table: `demo.py` or `inference/`."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", text, re.MULTILINE)
    return {place: int(floor) for floor, places in rows for place in re.findall(r"`([\w/.-]+)`", places)}


def place_of(path: str) -> str:
    """The row of the table that a file belongs to: the longest that begins its path."""
    return max((place for place in floors() if path.startswith(place)), key=len)


# ---- Imports -----------------------------------------------------------------


def imported(module: ast.AST, from_path: str) -> Iterator[str]:
    """The files of this project that a tree imports."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{from_path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from filter(None, map(file_of, names))


def file_of(name: str) -> str | None:
    """The file of a dotted name, which may be that of something in the file."""
    while name:
        path = name.replace(".", "/")
        for candidate in (f"{path}.py", f"{path}/__init__.py"):
            if candidate in sources():
                return candidate
        name = name.rpartition(".")[0]
    return None


@functools.cache
def imports() -> Graph:
    return {path: set(imported(module, path)) - {path} for path, module in sources().items()}


def rooms() -> Graph:
    """The imports between packages and the root's files."""
    graph: Graph = {}
    for path, targets in imports().items():
        room = graph.setdefault(path.partition("/")[0], set())
        room |= {target.partition("/")[0] for target in targets} - {path.partition("/")[0]}
    return graph


def test_every_file_has_a_floor() -> None:
    homeless = [path for path in sources() if not path.startswith(tuple(floors()))]
    assert homeless == []
    missing = [place for place in floors() if not (ROOT / place).exists()]
    assert missing == []


def test_imports_point_down() -> None:
    wrong = [
        f"{path} (floor {here}) imports {target} (floor {there})"
        for path, targets in imports().items()
        for target in sorted(targets)
        if (here := floors()[place_of(path)]) < (there := floors()[place_of(target)])
    ]
    assert wrong == []


def test_nobody_imports_tests() -> None:
    """Nor a folder that holds no code."""
    wrong = [
        f"{path} imports {node.module}"
        for path, module in sources().items()
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in NO_IMPORTERS
    ]
    assert wrong == []


def test_no_circles() -> None:
    """Neither among files, however they import one another, nor among packages: `CycleError` names one."""
    list(TopologicalSorter(imports()).static_order())
    list(TopologicalSorter(rooms()).static_order())


def test_number_of_floors() -> None:
    height: dict[str, int] = {}
    graph = rooms()
    for room in TopologicalSorter(graph).static_order():
        height[room] = 1 + max((height[target] for target in graph[room]), default=0)
    assert max(height.values()) <= MAX_FLOORS, sorted(height.items(), key=lambda item: -item[1])


def test_imports_stand_at_the_top() -> None:
    inner = {
        f"{path}:{node.lineno}"
        for path, module in sources().items()
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert len(inner) <= MAX_INNER_IMPORTS, sorted(inner)


def test_no_path_of_modules_is_changed() -> None:
    changed = [
        f"{path}:{node.lineno}"
        for path, module in sources().items()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"
    ]
    assert changed == []


# ---- Sizes -------------------------------------------------------------------


def test_the_root_shows_the_method() -> None:
    root = [path.name for path in tracked() if len(path.parts) == 1]
    programs = sorted(name for name in root if name.endswith(".py"))
    assert programs == sorted(place for place in floors() if place.endswith(".py"))
    assert len(programs) == ROOT_PROGRAMS
    if (ROOT / ".git").exists():  # elsewhere there are files of one's own
        assert len(root) <= MAX_ROOT_FILES, root


@not_yet
def test_no_long_file() -> None:
    lengths = {
        path.as_posix(): len((ROOT / path).read_text(encoding="utf-8").splitlines())
        for path in tracked()
        if path.suffix == ".py"
    }
    assert {path: length for path, length in lengths.items() if length > MAX_FILE} == {}


def test_no_long_function() -> None:
    lengths = {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path, module in sources().items()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION} == {}
