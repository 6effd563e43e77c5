"""Models by name: a config and a checkpoint, which is downloaded once into the user's cache.

    config, checkpoint = find_model("vox")

A download goes to a hidden file beside its place, is verified and then renamed; a transfer that breaks off is
resumed, from another mirror too. `config/checkpoints.yaml` is the table of names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pooch
import requests
from filelock import FileLock, Timeout

from checkpoints.files import load_for_inference
from checkpoints.table import ROOT, TABLE, Entry, read_table
from modules.build import build_generator, build_kp_detector, read_config
from utils.errors import CheckpointError, UserError
from utils.files import check_replaceable
from utils.program import say
from utils.progress import Progress
from utils.values import WrongNumber, integer

CACHE = pooch.os_cache("first-order-model")

MEBIBYTE, MAX_BYTES = 2**20, 2**33  # of a checkpoint whose size the table doesn't know
PIECE = 2**16  # bytes; what is lost of a piece that breaks off
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of an answer
PATIENCE = 0.5  # seconds between two looks at the download of another process

ShowDownload = Callable[[str, int | None], Progress]  # what comes, and of how many MiB -> its bar


def mebibytes_bar(what: str, total: int | None) -> Progress:
    return Progress(total, what, "MiB")


class Model(NamedTuple):
    """The two files that make networks."""

    config: Path
    checkpoint: Path


def find_model(
    name: str,
    offline: bool = False,
    table: Path = TABLE,
    cache: Path = CACHE,
    download_it: bool = True,
    show: ShowDownload = mebibytes_bar,
) -> Model:
    """Return the config and the checkpoint of a model, which is downloaded into `cache` if it isn't there.

    A bar of `show` may end the download by an exception; the next one goes on from there. Without
    `download_it` the checkpoint may be missing. Raises `UserError` for an unknown name, a wrong file, and one
    that can't be had.
    """
    entries = read_table(table)
    if name not in entries:
        raise UserError(f"--model {name}: no such model; choose one of {', '.join(entries)}")
    entry = entries[name]
    # A model of this repository needs no download.
    if not entry.mirrors:
        path = ROOT / entry.file
        if not path.exists():
            raise UserError(f"{entry.file} is not in this checkout: give --config and --checkpoint")
        return Model(entry.config, path)
    path = cache / entry.file
    if path.is_file():
        problem = wrong_bytes(path, entry)
        if problem is not None:
            raise CheckpointError(f"{path}: {problem}; remove it and run again")
    elif download_it:
        put_in_place(entry, path, offline, show)
    return Model(entry.config, path)


def put_in_place(entry: Entry, path: Path, offline: bool, show: ShowDownload) -> None:
    """Download the checkpoint, unless another process just did."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if offline:
            raise UserError(
                f"{path}: is not there, and --offline forbids to download it; {by_hand(entry, path)}"
            )
        with locked(path.parent, show):
            if not path.is_file():
                download(entry, path, show)
    except OSError as error:
        raise UserError(
            f"{path.parent}: can't be written ({error.strerror or error}); free some space, or let "
            "XDG_CACHE_HOME name another place"
        ) from error


@contextlib.contextmanager
def locked(folder: Path, show: ShowDownload) -> Iterator[None]:
    """Hold the lock of the cache, after another download."""
    lock = FileLock(folder / ".lock")
    with show("waiting for another download", None) as waiting:
        while not lock.is_locked:
            try:
                lock.acquire(timeout=PATIENCE)
            except Timeout:
                waiting.advance(0)
    try:
        yield
    finally:
        lock.release()


def by_hand(entry: Entry, path: Path) -> str:
    """Say where a checkpoint can be had without this program, and where to put it."""
    return f"get it from {' or '.join(entry.mirrors)} and put it into {path.parent}"


def wrong_bytes(path: Path, entry: Entry) -> str | None:
    """Say how size or hash of a checkpoint differ from those in the table; None if they don't."""
    size = path.stat().st_size
    if entry.size not in (None, size):
        return f"it has {size} bytes, not {entry.size} as in the table"
    for kind in ("sha256", "md5"):
        expected = getattr(entry, kind)
        if expected is not None and (found := pooch.file_hash(str(path), alg=kind)) != expected:
            return f"its {kind} is {found}, not {expected} as in the table"
    return None


def wrong_layout(path: Path, entry: Entry) -> str | None:
    """Say why a checkpoint does not fit the config of its model; None if it does. Print its hash then."""
    config = read_config(entry.config)
    try:
        load_for_inference(path, build_generator(config), build_kp_detector(config), entry.config.name)
    except CheckpointError as error:
        return str(error).removeprefix(f"{path}: ")
    digest = pooch.file_hash(str(path), alg="sha256")
    say(f"{entry.file}: sha256 {digest} (the table has no hash of it; its layout is right)")
    return None


def download(entry: Entry, path: Path, show: ShowDownload) -> None:
    """Get a verified file from the first mirror that has it. Raises `UserError` with what each answered."""
    check_replaceable(path)
    part = path.with_name(f".part-{path.name}")  # the suffix tells the format
    problems = []
    for url in entry.mirrors:
        try:
            problem = complete(url, part, entry, show)
        except requests.RequestException as error:
            problem = reason(error)
        if problem is None:
            part.replace(path)
            return
        problems.append(f"{url.split('/')[2]}: {problem}")
    raise UserError(f"{entry.file} can't be downloaded ({'; '.join(problems)}); {by_hand(entry, path)}")


def complete(url: str, part: Path, entry: Entry, show: ShowDownload) -> str | None:
    """Complete `part` from a mirror and verify it; say what is wrong with it, if anything."""
    begun = length(part) > 0
    # Again for as long as each attempt brings more of it.
    while True:
        before = length(part)
        try:
            request_rest(url, part, before, entry.size or MAX_BYTES, show)
            break
        except requests.RequestException:
            if length(part) <= before:
                raise
    problem = wrong_bytes(part, entry)
    if problem is None and entry.sha256 is None and entry.md5 is None:
        problem = wrong_layout(part, entry)
    if problem is None:
        return None
    part.unlink()
    # What another mirror or an earlier run began may be another file: then once more from the start.
    return complete(url, part, entry, show) if begun else problem


def request_rest(url: str, part: Path, start: int, most: int, show: ShowDownload) -> None:
    """Write what `part` lacks from `start` on, up to a piece more than `most` bytes in all.

    Raises `requests.RequestException` where that breaks off.
    """
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except ValueError as error:  # urllib3's and Python's own, of what a mirror redirects to
        raise requests.exceptions.InvalidURL from error
    with answer as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is there, or it is another file: verification tells
        response.raise_for_status()
        # A server without ranges sends all of it again.
        if response.status_code != requests.codes.partial_content:
            start = 0
        total = None
        with contextlib.suppress(WrongNumber):
            total = -(-(start + integer(response.headers.get("Content-Length", ""), 0, most)) // MEBIBYTE)
        with (
            part.open("r+b" if start else "wb") as file,
            show(part.name.removeprefix(".part-"), total) as progress,
        ):
            file.seek(start)
            for piece in response.iter_content(PIECE):
                file.write(piece)
                progress.advance(file.tell() // MEBIBYTE - progress.done)
                if file.tell() > most:  # a server can send without end
                    return


def reason(error: requests.RequestException) -> str:
    """Say in a few words why a request failed."""
    if error.response is not None:
        return f"answers {error.response.status_code} {error.response.reason}"
    words = {
        requests.Timeout: "does not answer",
        requests.exceptions.ChunkedEncodingError: "breaks off",
        requests.exceptions.InvalidURL: "leads to an address that can't be one",
    }
    return next((text for kind, text in words.items() if isinstance(error, kind)), "can't be reached")


def length(path: Path) -> int:
    if path.is_fifo():  # whoever opens it waits for ever
        raise UserError(f"{path}: is a named pipe; remove it and run again")
    return path.stat().st_size if path.exists() else 0
