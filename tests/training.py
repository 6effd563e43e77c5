"""Runs of a tiny training through the command line, and what is asked of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import run
from checkpoints.files import find_checkpoint, read_checkpoint
from tests.small import small_config, write_config


def config_file(root: Path, name: str = "tiny", **changes: object) -> Path:
    """A config of six clips in batches of two: three steps an epoch. Keyword `a__b` stands for key `a.b`."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config = small_config({"dataset_params.root_dir": str(root)} | changes)
    return write_config(root.parent / f"{name}.yaml", config)


def start(root: Path, config: Path, *arguments: str, log: str = "log") -> Path:
    """Train through the command line; return the folder of the newest run."""
    run.main([str(config), "--device", "cpu", "--log_dir", str(root.parent / log), *arguments])
    return newest(root, log)


def newest(root: Path, log: str = "log") -> Path:
    return max((root.parent / log).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def assert_same(a: object, b: object, path: str = "") -> None:
    """Bit for bit, through dictionaries and lists."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (item_a, item_b) in enumerate(zip(a, b, strict=True)):
            assert_same(item_a, item_b, f"{path}/{i}")
    else:
        assert a == b, path


def losses_logged(folder: Path) -> list[tuple]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(entry["epoch"], entry.get("step"), entry["losses"]) for entry in entries]


def assert_same_run(a: Path, b: Path) -> None:
    """But for how they were begun and resumed."""
    assert losses_logged(a) == losses_logged(b)
    assert (a / "log.txt").read_text() == (b / "log.txt").read_text()
    contents = [read_checkpoint(find_checkpoint(folder)) for folder in (a, b)]
    for content in contents:
        assert content["resume"].pop("run")["seed"] == content["resume"]["seed"]
    assert_same(*contents)
