"""The order of the code: which place may import which, and how long files and functions may be.

Everything is parsed, nothing is imported. The floors are those of the table in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MAX_FLOORS, MAX_ROOT_FILES, ROOT_PROGRAMS = 9, 26, 12
MAX_FILE, MAX_FUNCTION, MAX_INNER_IMPORTS = 450, 60, 30  # lines, lines, imports inside functions

Graph = dict[str, set[str]]


# ---- The tree ----------------------------------------------------------------


@functools.cache
def tracked() -> list[Path]:
    """The files of the project; where git can't tell them, all that aren't hidden or installed."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout
        if listed:
            return [Path(name) for name in listed.split("\0") if name and (ROOT / name).exists()]
    files = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    folders = [(path, path.parts[:-1]) for path in files]
    return [path for path, above in folders if not re.search(r"(^|/)(\.|site-packages)", "/".join(above))]


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


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, Any]]:
    """Where there are nodes of these kinds, as `path:line`, and the nodes."""
    for path, module in sources().items():
        for node in ast.walk(module):
            if isinstance(node, kinds):
                yield f"{path}:{getattr(node, 'lineno', 0)}", node


# ---- Imports -----------------------------------------------------------------


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
    """The files that each file imports, at its top or later."""
    graph: Graph = {path: set() for path in sources()}
    for place, node in nodes(ast.Import, ast.ImportFrom):
        path, module = place.partition(":")[0], getattr(node, "module", None)
        names = (f"{module}.{alias.name}" if module else alias.name for alias in node.names)
        graph[path] |= set(filter(None, map(file_of, names))) - {path}
    return graph


def rooms() -> Graph:
    """The imports between packages and the root's files."""
    graph: Graph = {}
    for path, targets in imports().items():
        room = path.partition("/")[0]
        graph.setdefault(room, set()).update({target.partition("/")[0] for target in targets} - {room})
    return graph


def test_every_file_has_a_floor() -> None:
    assert [path for path in sources() if not path.startswith(tuple(floors()))] == []
    assert [place for place in floors() if not (ROOT / place).exists()] == []


def test_imports_point_down() -> None:
    wrong = [
        f"{path} (floor {here}) imports {target} (floor {there})"
        for path, targets in imports().items()
        for target in sorted(targets)
        if (here := floors()[place_of(path)]) < (there := floors()[place_of(target)])
    ]
    assert wrong == []


def test_nobody_imports_tests() -> None:
    imported = (node.module or "" for _, node in nodes(ast.ImportFrom))
    assert [module for module in imported if module.partition(".")[0] == "tests"] == []


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
        f"{place.partition(':')[0]}:{node.lineno}"
        for place, function in nodes(ast.FunctionDef, ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert len(inner) <= MAX_INNER_IMPORTS, sorted(inner)


def test_no_path_of_modules_is_changed() -> None:
    assert [place for place, node in nodes(ast.Attribute) if ast.unparse(node) == "sys.path"] == []


# ---- Sizes -------------------------------------------------------------------


def test_the_root_shows_the_method() -> None:
    root = [path.name for path in tracked() if len(path.parts) == 1]
    programs = sorted(name for name in root if name.endswith(".py"))
    assert programs == sorted(place for place in floors() if place.endswith(".py"))
    assert len(programs) == ROOT_PROGRAMS
    if (ROOT / ".git").exists():  # elsewhere there are files of one's own
        assert len(root) <= MAX_ROOT_FILES, root


def test_no_long_file() -> None:
    paths = [path for path in tracked() if path.suffix == ".py"]
    lengths = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE} == {}


def test_no_long_function() -> None:
    functions = nodes(ast.FunctionDef, ast.AsyncFunctionDef)
    lengths = {f"{place} {node.name}": node.end_lineno - node.lineno + 1 for place, node in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION} == {}
