"""YAML for configs: PyYAML's safe loader without tags, keys twice, many aliases or large files."""

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


def read_yaml(path: str | Path) -> Any:
    """Return the value of a YAML file. Raises `ConfigError`."""
    try:
        data = regular_file(path, ConfigError, MAX_BYTES).read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; the published ones are in config/") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: can't be read as a config ({error.strerror}); check its permissions"
        ) from error
    try:
        return parse_yaml(data.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        place = _end_of(data[: error.start].decode())
        raise ConfigError(f"{path}: {place}: not UTF-8; is it a config? Save it as UTF-8") from None


def parse_yaml(text: str, source: str | Path, what: str = "the file") -> Any:
    """Return the value that `text` holds; `source` and `what` name it in errors. Raises `ConfigError`."""
    loader: Any = None
    try:
        loader = _ConfigLoader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}"
        problem = " ".join(part for part in (error.context, error.problem) if part)
    except yaml.reader.ReaderError as error:
        place = _end_of(text[: error.position])
        problem = f"the character {error.character!r} is not allowed"
    except (ValueError, OverflowError) as error:  # PyYAML's own, of a letter like "\\UFFFFFFFF"
        place = f"line {loader.line + 1}, column {loader.column + 1}"
        problem = one_line(error)
    raise ConfigError(f"{source}: {place}: {what} is not valid YAML: {problem}")


def _end_of(text: str) -> str:
    """Return the line and column that follow `text`."""
    return f"line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}"


class _ConfigLoader(yaml.SafeLoader):
    # A date can be the name of a folder.
    yaml_implicit_resolvers: dict = {  # noqa: RUF012
        letter: [(tag, form) for tag, form in kinds if tag != "tag:yaml.org,2002:timestamp"]
        for letter, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._anchors = self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse tags, which can make any object, and aliases of aliases, which can fill the memory."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._aliases += 1
            if self._anchors:
                raise _problem("aliases within what has an anchor (&name)", event)
            if self._aliases > MAX_ALIASES:
                raise _problem(f"more than {MAX_ALIASES} aliases (*name)", event)
            return super().compose_node(parent, index)
        if event.tag is not None:
            raise _problem(f"tags like {event.tag}", event)
        if self._depth == MAX_DEPTH:
            raise _problem(f"lists and mappings more than {MAX_DEPTH} deep", event)
        self._depth += 1
        self._anchors += event.anchor is not None
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._anchors -= event.anchor is not None
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Refuse what is longer than Python can write."""
        value = super().construct_yaml_int(node)
        if value.bit_length() > 2**12:
            raise _problem("whole numbers that long", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Refuse a key that stands twice in one mapping, of which PyYAML takes the last."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise _problem(f"the key '{key.value}' twice in one place", key)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


_ConfigLoader.add_constructor("tag:yaml.org,2002:int", _ConfigLoader.construct_yaml_int)


class _ConfigDumper(yaml.SafeDumper):
    pass


# PyYAML takes 1e-4 for a text, as YAML 1.1 wants a dot and a sign in a number.
for _kind in (_ConfigLoader, _ConfigDumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z"),
        list("-+.0123456789"),
    )


def dump_yaml(value: Any) -> str:
    """Write a value so that `parse_yaml` reads it back."""
    return yaml.dump(value, Dumper=_ConfigDumper, sort_keys=False)


def _problem(what: str, place: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = place.start_mark  # the stubs of PyYAML also name the marks of its C library
    return yaml.MarkedYAMLError(problem=f"a config can't hold {what}", problem_mark=mark)
