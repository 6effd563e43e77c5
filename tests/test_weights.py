"""Models by name: checkpoints/hub.py against a server on this machine. No test needs another one."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock

from checkpoints.hub import PIECE, find_model
from checkpoints.table import TABLE, read_table
from modules.build import build_generator, build_kp_detector, frame_shape, read_config
from tests.mirror import PLACES, Mirror, served
from tests.small import small_config, write_config
from utils.errors import ConfigError, UserError
from utils.progress import Cancelled, Progress
from utils.tickets import Stoppable

FILE = "small-cpk.pth.tar"


@pytest.fixture(scope="module")
def content() -> bytes:
    """A checkpoint of the small config, with enough beside it to be sent in several pieces."""
    config, file = small_config(), io.BytesIO()
    networks = {"generator": build_generator(config), "kp_detector": build_kp_detector(config)}
    state = {name: network.state_dict() for name, network in networks.items()}
    torch.save(state | {"padding": torch.rand(700_000)}, file)
    return file.getvalue()


@pytest.fixture
def mirror(content: bytes) -> Iterator[Mirror]:
    with served(content) as server:
        yield server


class Models:
    """A table with the one model `small`, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.table = folder / "cache", folder / "checkpoints.yaml"
        write_config(folder / "small.yaml", small_config())
        self.path, self.part = self.cache / FILE, self.cache / f".part-{FILE}"

    def find(self, *mirrors: str, offline: bool = False, **known: object) -> Path:
        """The checkpoint of `small`. `known`: what the table says of it."""
        row = {"config": "small.yaml", "file": FILE, "licence": "none", "mirrors": list(mirrors)} | known
        self.table.write_text(yaml.safe_dump({"small": row}))
        config, checkpoint = find_model("small", offline, self.table, self.cache)
        assert config == self.table.parent / "small.yaml" and checkpoint == self.path
        return checkpoint

    def names(self) -> list[str]:
        """The files in the cache but for the lock."""
        return sorted(path.name for path in self.cache.iterdir() if path.name != ".lock")

    def fails(self, *mirrors: str, **options: object) -> str:
        with pytest.raises(UserError) as raised:
            self.find(*mirrors, **options)
        assert "\n" not in str(raised.value)
        return str(raised.value)


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


def dead_url() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/{FILE}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- The table -----------------------------------------------------------------


def test_every_name_has_a_config_of_colour_pictures_and_a_place_to_get_it() -> None:
    table = read_table(TABLE)
    assert list(table) == [
        "puppets",
        "vox",
        "vox-adv",
        "taichi",
        "taichi-adv",
        "nemo",
        "mgif",
        "fashion",
        "bair",
    ]
    for entry in table.values():
        assert frame_shape(read_config(entry.config))[2] == 3 and entry.licence
        assert all(url.startswith("https://") and url.endswith(entry.file) for url in entry.mirrors)
    assert [name for name, entry in table.items() if not entry.mirrors] == ["puppets"]


def test_the_bundled_model_is_the_one_of_the_table() -> None:
    config, checkpoint = find_model("puppets", offline=True)
    entry = read_table(TABLE)["puppets"]
    assert config.name == "puppets-128.yaml" and checkpoint.stat().st_size == entry.size
    assert sha256(checkpoint.read_bytes()) == entry.sha256


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"--model voxx: no such model; choose one of puppets, vox, vox-adv"):
        find_model("voxx")


# ---- Downloads -----------------------------------------------------------------


def test_a_dead_mirror_is_passed_over_and_a_cut_transfer_goes_on(models, mirror, content) -> None:
    path = models.find(dead_url(), f"{mirror.url}/cut/{FILE}", sha256=sha256(content), size=len(content))
    assert path.read_bytes() == content and models.names() == [FILE]
    half = len(content) // 2 // PIECE * PIECE
    assert [wanted for _, wanted in mirror.requests] == [None, f"bytes={half}-"]
    models.find(dead_url(), sha256=sha256(content))  # once is enough
    assert len(mirror.requests) == 2


def test_what_an_earlier_run_left_is_gone_on_with_from_any_mirror(models, mirror, content) -> None:
    models.cache.mkdir()
    models.part.write_bytes(content[:1000])
    assert models.find(f"{mirror.url}/whole/{FILE}", md5=hashlib.md5(content).hexdigest())
    assert models.path.read_bytes() == content
    assert mirror.requests == [(f"/whole/{FILE}", "bytes=1000-")]


def test_a_server_without_ranges_sends_all_of_it_again(models, mirror, content) -> None:
    assert models.find(f"{mirror.url}/stubborn/{FILE}", sha256=sha256(content)).read_bytes() == content
    assert len(mirror.requests) == 2


@pytest.mark.parametrize("left", [b"another file", b"x" * 9_000_000], ids=["shorter", "longer"])
def test_leftovers_of_another_file_start_anew(models, mirror, content, left) -> None:
    models.cache.mkdir()
    models.part.write_bytes(left)
    assert models.find(f"{mirror.url}/whole/{FILE}", sha256=sha256(content)).read_bytes() == content


def test_without_a_hash_the_layout_counts_and_the_hash_is_told_once(models, mirror, content, capsys) -> None:
    url = f"{mirror.url}/whole/{FILE}"
    models.find(url)
    assert f"{FILE}: sha256 {sha256(content)}" in capsys.readouterr().out
    models.find(url)
    assert len(mirror.requests) == 1 and capsys.readouterr().out == ""


@pytest.mark.parametrize("known", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"size": 17}, {}])
def test_a_wrong_file_does_not_stay(models, mirror, known) -> None:
    """With no hash in the table, a web page instead of the file is known by its layout."""
    message = models.fails(f"{mirror.url}/{'whole' if known else 'page'}/{FILE}", **known)
    assert message.startswith(f"{FILE} can't be downloaded (127.0.0.1:")
    assert f"get it from {mirror.url}" in message and f"put it into {models.cache}" in message
    assert models.names() == []


def test_every_mirror_is_named_with_what_it_answered(models, mirror) -> None:
    message = models.fails(dead_url(), f"{mirror.url}/gone/{FILE}")
    assert "can't be reached; 127.0.0.1" in message and "answers 404 Not Found)" in message


@pytest.mark.parametrize("place", range(len(PLACES)))
def test_a_redirect_to_nowhere_is_one_line(models, mirror, content, place) -> None:
    assert f"{FILE} can't be downloaded (127.0.0.1:" in models.fails(f"{mirror.url}/to/{place}")
    assert models.find(f"{mirror.url}/to/{place}", f"{mirror.url}/whole/{FILE}").read_bytes() == content


def test_a_length_without_end_is_none(models, mirror, content) -> None:
    # Python's own client believes no such length, and waits until the server hangs up.
    assert models.find(f"{mirror.url}/long/{FILE}", sha256=sha256(content)).read_bytes() == content


@pytest.mark.parametrize("known", [{"size": 10**6}, {}])
def test_a_body_without_end_stops(models, mirror, monkeypatch, known) -> None:
    monkeypatch.setattr("checkpoints.hub.MAX_BYTES", 10**6)
    sizes = []
    monkeypatch.setattr(
        "checkpoints.hub.wrong_layout", lambda path, entry: sizes.append(path.stat().st_size) or "no"
    )
    message = models.fails(f"{mirror.url}/endless/{FILE}", **known)
    assert "bytes, not 1000000 as in the table" in message if known else sizes[0] < 10**6 + 2 * PIECE
    assert models.names() == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
@pytest.mark.parametrize("name", ["part", "path"])
def test_a_pipe_in_the_cache_does_not_hang(models, mirror, name) -> None:
    models.cache.mkdir()
    os.mkfifo(getattr(models, name))
    assert "is a named pipe" in models.fails(f"{mirror.url}/whole/{FILE}")


def test_offline_says_where_to_get_it_and_where_to_put_it(models, mirror, content) -> None:
    url = f"{mirror.url}/whole/{FILE}"
    message = models.fails(url, offline=True)
    assert f"get it from {url} and put it into {models.cache}" in message and mirror.requests == []
    models.path.write_bytes(content)
    assert models.find(url, offline=True, sha256=sha256(content)) == models.path


# ---- Files that are there ------------------------------------------------------


def test_a_wrong_file_put_there_by_hand_is_refused_and_kept(models) -> None:
    models.cache.mkdir()
    models.path.write_bytes(b"something else")
    message = models.fails(dead_url(), sha256="0" * 64)
    assert message.startswith(f"{models.path}: its sha256 is ") and message.endswith(
        "remove it and run again"
    )
    assert models.path.read_bytes() == b"something else"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("1: {}", "is no table of models by name"),
        ("a: 3", "a must hold the keys config, file, licence"),
        ("a: {config: a.yaml, file: ../b, licence: none}", "'a.file' must be a path that stays"),
        (
            "a: {config: a.yaml, file: b, licence: none, mirrors: [file:///b]}",
            "'a.mirrors' must be a list of",
        ),
        ("a: {config: a.yaml, file: b, licence: none, sha256: abc}", "'a.sha256' must be 64 digits"),
    ],
)
def test_a_table_of_something_else_is_one_line(table, words, tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(table)
    with pytest.raises(ConfigError) as told:
        find_model("a", table=tmp_path / "a.yaml")
    assert str(told.value).startswith(f"{tmp_path}/a.yaml: ") and words in str(told.value)
    assert "\n" not in str(told.value)


# ---- Cancelling ------------------------------------------------------------------


def test_a_download_is_followed_cancelled_and_goes_on(models: Models, mirror: Mirror) -> None:
    stopped, bars = threading.Event(), []

    def show(what: str, total: int | None) -> Progress:
        bars.append(Stoppable(total, what, stopped, "MiB"))
        if total is not None:
            stopped.set()  # as the first piece has come
        return bars[-1]

    row = {"config": "small.yaml", "file": FILE, "licence": "none", "mirrors": [f"{mirror.url}/whole/{FILE}"]}
    models.table.write_text(yaml.safe_dump({"small": row}))
    with pytest.raises(Cancelled):
        find_model("small", False, models.table, models.cache, show=show)
    assert bars[-1].total >= 2 and models.names() == [models.part.name]
    assert models.find(f"{mirror.url}/whole/{FILE}").is_file()


def test_waiting_for_the_download_of_another_is_cancelled(models: Models, mirror: Mirror) -> None:
    stopped = threading.Event()
    models.cache.mkdir()
    row = {"config": "small.yaml", "file": FILE, "licence": "none", "mirrors": [f"{mirror.url}/whole/{FILE}"]}
    models.table.write_text(yaml.safe_dump({"small": row}))
    stopped.set()
    with FileLock(models.cache / ".lock"), pytest.raises(Cancelled):
        find_model(
            "small",
            False,
            models.table,
            models.cache,
            show=lambda what, total: Stoppable(total, what, stopped, "MiB"),
        )


# ---- Disks ---------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_gets_full_is_told(models, mirror) -> None:
    models.cache.mkdir()
    models.part.symlink_to("/dev/full")
    message = models.fails(f"{mirror.url}/whole/{FILE}")
    assert message.startswith(f"{models.cache}: can't be written (No space left on device); free some")
    assert not models.path.exists()


def test_a_cache_that_is_a_file_is_told(models, mirror) -> None:
    models.cache.write_text("")
    assert f"{models.cache}: can't be written" in models.fails(f"{mirror.url}/whole/{FILE}")
