"""Models by name: a config and a checkpoint, which is downloaded once into the user's cache.

    config, checkpoint = find_model("vox")

`config/checkpoints.yaml` is the table of names. A download goes to a hidden file beside its place, is
verified and then renamed. Where a transfer breaks off, the next one goes on, from another mirror too.
Beside each verified file lies `FILE.sha256`, so that it is hashed once and not in every run.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

import pooch
import requests
from filelock import FileLock

from checkpoints.files import load_for_inference
from checkpoints.table import ROOT, TABLE, Entry, is_digest, read_table
from modules.build import build_generator, build_kp_detector, read_config
from utils.errors import CheckpointError, UserError
from utils.files import atomic_write, regular_file
from utils.progress import Progress

CACHE = pooch.os_cache("first-order-model")

MEBIBYTE = 2**20
PIECE = 2**16  # bytes; what is lost of a piece that breaks off
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of an answer

# ---- Names ---------------------------------------------------------------------


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
) -> Model:
    """The config and the checkpoint of a model, downloaded into the folder `cache` if it isn't there.

    Without `download_it` the checkpoint may be missing: the config is all that is wanted. A file that
    somebody put there by hand is verified once. Raises `UserError` for a name that is not in the
    table, with `offline` or where no mirror works for a file that is not there, and for a wrong one.
    """
    entries = read_table(table)
    if name not in entries:
        raise UserError(f"--model {name}: no such model; choose one of {', '.join(entries)}")
    entry = entries[name]
    if not entry.mirrors:
        path = ROOT / entry.file
        if not path.exists():
            raise UserError(f"{entry.file} is not in this checkout: give --config and --checkpoint")
        return Model(entry.config, path)
    path = cache / entry.file
    if download_it and not is_verified(path, entry):
        with one_process_at_a_time(path):
            put_in_place(entry, path, offline)
    return Model(entry.config, path)


def one_process_at_a_time(path: Path) -> FileLock:
    """A lock on the checkpoint `path`, whose folder is made. Raises `UserError` if it can't be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / ".lock").touch()
    except OSError as error:
        raise UserError(
            f"{path.parent}: can't be written ({error.strerror}); XDG_CACHE_HOME names another cache"
        ) from error
    return FileLock(path.parent / ".lock")


def put_in_place(entry: Entry, path: Path, offline: bool) -> None:
    """Download the checkpoint unless it is there, and verify it."""
    if path.is_file():
        problem = problem_of(path, entry)
        if problem is not None:
            raise CheckpointError(f"{path}: {problem}; remove it and run again")
    elif offline:
        raise UserError(f"{path}: is not there, and --offline forbids to download it; {by_hand(entry, path)}")
    else:
        download(entry, path)
    record(path, entry)


def by_hand(entry: Entry, path: Path) -> str:
    """Where a checkpoint can be had without this program, and where to put it."""
    return f"get it from {' or '.join(entry.mirrors)} and put it into {path.parent}"


# ---- Verification --------------------------------------------------------------


def problem_of(path: Path, entry: Entry) -> str | None:
    """What is wrong with a checkpoint; None if it is the one that the table means.

    Without a hash in the table it must hold the networks of the config.
    """
    for kind in ("sha256", "md5"):
        expected = getattr(entry, kind)
        if expected is not None:
            found = pooch.file_hash(str(path), alg=kind)
            return None if found == expected else f"its {kind} is {found}, not {expected} as in the table"
    config = read_config(entry.config)
    try:
        load_for_inference(path, build_generator(config), build_kp_detector(config), entry.config.name)
    except CheckpointError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def is_verified(path: Path, entry: Entry) -> bool:
    """Whether the file is as it was when its hash was recorded, and the table has no other one by now."""
    recorded = record_of(path)
    if not path.is_file() or not recorded.exists() or recorded.stat().st_mtime < path.stat().st_mtime:
        return False
    digest = read_record(recorded)
    return digest is not None and entry.sha256 in (None, digest)


def read_record(recorded: Path) -> str | None:
    """The hash in a file that `record` wrote; None, with a warning, if it holds something else."""
    with regular_file(recorded, UserError).open("rb") as file:
        digest = file.read(64).decode(errors="replace")
    if is_digest(digest, 64):
        return digest
    warnings.warn(f"{recorded}: holds no sha256; the checkpoint is verified anew", stacklevel=2)
    return None


def record(path: Path, entry: Entry) -> None:
    """Write the sha256 of a verified file beside it, and tell it where the table has no hash."""
    digest = entry.sha256 or pooch.file_hash(str(path), alg="sha256")
    with atomic_write(record_of(path)) as temporary:
        temporary.write_text(f"{digest}  {path.name}\n", encoding="utf-8")  # as `sha256sum --check` reads it
    if entry.sha256 is None and entry.md5 is None:
        print(f"{path.name}: sha256 {digest} (the table has no hash of it; its layout is right)")


# ---- Download ------------------------------------------------------------------


class MirrorError(Exception):
    """Why a mirror can't give the file."""


def download(entry: Entry, path: Path) -> None:
    """Get a verified file from the first mirror that has it. Raises `UserError` with what each answered."""
    part = path.with_name(f".part-{path.name}")  # the suffix tells the format
    problems = []
    for url in entry.mirrors:
        try:
            receive_verified(url, entry, part)
            part.replace(path)
            return
        except MirrorError as error:
            problems.append(f"{urlsplit(url).netloc}: {error}")
    raise UserError(f"{entry.file} can't be downloaded ({'; '.join(problems)}); {by_hand(entry, path)}")


def receive_verified(url: str, entry: Entry, part: Path) -> None:
    """Complete `part` from `url` and verify it. A part from elsewhere that does not fit starts anew."""
    for begun in (length(part) > 0, False):
        receive(url, entry, part)
        problem = problem_of(part, entry)
        if problem is None:
            return
        part.unlink()
        if not begun:
            raise MirrorError(problem)


def receive(url: str, entry: Entry, part: Path) -> None:
    """Go on with `part` from `url` for as long as each attempt brings more of it."""
    furthest = length(part)
    while True:
        try:
            return receive_once(url, entry, part)
        except requests.RequestException as error:
            if length(part) <= furthest:
                raise MirrorError(reason(error)) from error
            furthest = length(part)


def receive_once(url: str, entry: Entry, part: Path) -> None:
    """One request for what `part` lacks. Raises `requests.RequestException` where the transfer breaks off."""
    start = length(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            if total_of(response) != start:  # else all of it is there already
                part.unlink()
                receive_once(url, entry, part)
            return
        response.raise_for_status()
        start = start if response.status_code == requests.codes.partial_content else 0
        total = total_of(response)
        if None not in (entry.size, total) and total != entry.size:
            raise MirrorError(f"its file has {total} bytes, not {entry.size}")
        save(response, part, start, total)


def save(response: requests.Response, part: Path, start: int, total: int | None) -> None:
    """Write an answer into `part` from byte `start` on. Raises `UserError` where the disk is full."""
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise full_disk(part, f"{mebibytes(total - start)} MiB are needed and {mebibytes(free)} are free")
    try:
        with (
            part.open("r+b" if start else "wb") as file,
            Progress(total and mebibytes(total), part.name.removeprefix(".part-"), "MiB") as progress,
        ):
            file.seek(start)
            progress.advance(start // MEBIBYTE)
            for done in written(response, file, start):
                progress.advance(done // MEBIBYTE - progress.done)
    except requests.RequestException:  # an OSError too
        raise
    except OSError as error:
        part.unlink(missing_ok=True)
        raise full_disk(part, error.strerror or str(error)) from error


def written(response: requests.Response, file: BinaryIO, done: int) -> Iterator[int]:
    """Write an answer piece by piece; yields how many bytes there are in all."""
    for piece in response.iter_content(PIECE):
        file.write(piece)
        done += len(piece)
        yield done


def full_disk(part: Path, problem: str) -> UserError:
    return UserError(
        f"{part.parent}: can't hold the download ({problem}); free some space, or let XDG_CACHE_HOME name "
        "another place"
    )


def total_of(response: requests.Response) -> int | None:
    """How long the whole file is, as far as an answer tells."""
    whole = re.fullmatch(r"bytes .*/(\d+)", response.headers.get("Content-Range", ""))
    if whole:
        return int(whole[1])
    size = response.headers.get("Content-Length", "")
    return int(size) if size.isdigit() and response.status_code == requests.codes.ok else None


def reason(error: requests.RequestException) -> str:
    """Why a request failed, in a few words."""
    if error.response is not None:
        return f"answers {error.response.status_code} {error.response.reason}"
    words = {requests.Timeout: "does not answer", requests.exceptions.ChunkedEncodingError: "breaks off"}
    return next((text for kind, text in words.items() if isinstance(error, kind)), "can't be reached")


def length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def mebibytes(size: int) -> int:
    return -(-size // MEBIBYTE)
