"""YAML for configs: texts, numbers, true, false, null, lists and mappings, and nothing else that YAML knows.

No dates, no tags, no merging, no numbers to the base of 8, 16 or 60; aliases, nesting, digits and size within
bounds. Whatever can't be read is a `ConfigError` with its line and column.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from utils.errors import ConfigError, one_line
from utils.files import regular_file

MAX_BYTES = 2**18  # of a config, the longest published one has 2**13
MAX_DEPTH = 20  # lists and mappings in each other, the published configs have 4
MAX_ALIASES = 20
MAX_DIGITS = 20  # of a whole number, 2**63 has 19

# A plain value is of the first kind that it looks like, and else a text.
_KINDS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file. Raises `ConfigError`."""
    try:
        data = regular_file(path, ConfigError, MAX_BYTES).read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; the published ones are in config/") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be read as a config ({error.strerror}); check its permissions"
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ConfigError(
            f"{path}: line {line}, column {column}: not UTF-8; is it a config? Save it as UTF-8"
        ) from None
    return parse_yaml(text, path)


def parse_yaml(text: str, source: str | Path, what: str = "the file") -> Any:
    """The value that `text` holds; `source` and `what` say in errors where it is. Raises `ConfigError`."""
    loader = None
    try:
        loader = _ConfigLoader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        problem = " ".join(part for part in (error.context, error.problem) if part)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        where = f"line {line}, column {error.position - text.rfind(chr(10), 0, error.position)}: "
        problem = f"the character {error.character!r} is not allowed"
    except (ValueError, OverflowError) as error:  # PyYAML's own, of a letter like "\\UFFFFFFFF"
        where = f"line {loader.line + 1}, column {loader.column + 1}: " if loader else ""
        problem = one_line(error)
    raise ConfigError(f"{source}: {where}{what} is not valid YAML: {problem}")


class _ConfigLoader(yaml.SafeLoader):
    """PyYAML's safe loader without what configs don't need."""

    yaml_implicit_resolvers: dict = {  # noqa: RUF012  # nothing of what PyYAML resolves by itself is left
        None: [(f"tag:yaml.org,2002:{kind}", re.compile(f"({form})\\Z")) for kind, form in _KINDS.items()]
    }

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next value with all that it holds, within the bounds."""
        event = self.peek_event()
        aliases_before = self._aliases
        if isinstance(event, yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                raise _problem(f"more than {MAX_ALIASES} aliases (*name)", event)
        elif event.tag is not None:
            raise _problem(f"tags like {event.tag}", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _problem(f"lists and mappings more than {MAX_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent) and event.anchor and self._aliases > aliases_before:
            raise _problem("aliases within what has an anchor (&name)", event)  # copies of copies of copies
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """No merging (`<<`).

        Here, because PyYAML calls it for each mapping, is also checked that keys are plain.
        """
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("lists or mappings as keys", key)
            if key.value in seen:
                raise _problem(f"the key '{key.value}' twice in one place", key)
            seen.add(key.value)

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in node.value):
            raise _problem("texts with letters that no path can have", node)  # written as "\0" or "\ud800"
        return node.value

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise _problem(f"numbers of more than {MAX_DIGITS} digits", node)
        return int(node.value)  # also 010, which is 8 to PyYAML


_ConfigLoader.add_constructor("tag:yaml.org,2002:int", _ConfigLoader.construct_yaml_int)
_ConfigLoader.add_constructor("tag:yaml.org,2002:str", _ConfigLoader.construct_yaml_str)


def _problem(what: str, place: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = place.start_mark  # the stubs of PyYAML also name the marks of its C library
    return yaml.MarkedYAMLError(problem=f"a config can't hold {what}", problem_mark=mark)
