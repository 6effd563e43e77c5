"""Models by name: a config and a checkpoint, which is downloaded once into the user's cache.

    config, checkpoint = find_model("vox")

`config/checkpoints.yaml` is the table of names. A download goes to a hidden file beside its place, is
verified and then renamed; a transfer that breaks off is resumed, from another mirror too. `FILE.sha256`
beside a verified file spares hashing it in every run.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pooch
import requests
from filelock import FileLock

from checkpoints.files import load_for_inference
from checkpoints.table import ROOT, TABLE, Entry, is_digest, read_table
from modules.build import build_generator, build_kp_detector, read_config
from utils.errors import CheckpointError, UserError
from utils.files import atomic_write
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
    """Return the config and the checkpoint of a model, which is downloaded into `cache` if it isn't there.

    Without `download_it` the checkpoint may be missing. A file that was put there by hand is verified once.
    Raises `UserError` for an unknown name, a wrong file, and one that can't be had.
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
    if download_it and not is_verified(path, entry):
        with one_process_at_a_time(path):
            put_in_place(entry, path, offline)
    return Model(entry.config, path)


def one_process_at_a_time(path: Path) -> FileLock:
    """Make the folder of a checkpoint and return its lock. Raises `UserError` if it can't be made."""
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
    """Say where a checkpoint can be had without this program, and where to put it."""
    return f"get it from {' or '.join(entry.mirrors)} and put it into {path.parent}"


# ---- Verification --------------------------------------------------------------


def problem_of(path: Path, entry: Entry) -> str | None:
    """Say what is wrong with a checkpoint; None if it is the one that the table means.

    Without a hash in the table it must hold the networks of the config.
    """
    for kind in ("sha256", "md5"):
        expected = getattr(entry, kind)
        if expected is not None:
            found = pooch.file_hash(str(path), alg=kind)
            return None if found == expected else f"its {kind} is {found}, not {expected} as in the table"
    if entry.size not in (None, path.stat().st_size):
        return f"it has {path.stat().st_size} bytes, not {entry.size} as in the table"
    config = read_config(entry.config)
    try:
        load_for_inference(path, build_generator(config), build_kp_detector(config), entry.config.name)
    except CheckpointError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def is_verified(path: Path, entry: Entry) -> bool:
    """Whether the file is unchanged since its hash was recorded, and the table has no other hash by now."""
    recorded = record_of(path)
    if not path.is_file() or not recorded.is_file() or recorded.stat().st_mtime < path.stat().st_mtime:
        return False
    digest = recorded.read_bytes()[:64].decode(errors="replace")
    if not is_digest(digest, 64):
        warnings.warn(f"{recorded}: holds no sha256; the checkpoint is verified anew", stacklevel=2)
        return False
    return entry.sha256 in (None, digest)


def record(path: Path, entry: Entry) -> None:
    """Write the sha256 of a verified file beside it, and print it where the table has no hash."""
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
            # What another mirror or an earlier run began may be another file: then once more from the start.
            begun = length(part) > 0
            receive(url, part)
            problem = problem_of(part, entry)
            if problem is not None and begun:
                part.unlink()
                receive(url, part)
                problem = problem_of(part, entry)
            if problem is None:
                part.replace(path)
                return
            part.unlink()
            raise MirrorError(problem)
        except MirrorError as error:
            problems.append(f"{urlsplit(url).netloc}: {error}")
    raise UserError(f"{entry.file} can't be downloaded ({'; '.join(problems)}); {by_hand(entry, path)}")


def receive(url: str, part: Path) -> None:
    """Complete `part` from `url`; resume for as long as each attempt brings more of it."""
    while True:
        before = length(part)
        try:
            return request_rest(url, part)
        except requests.RequestException as error:
            if length(part) <= before:
                raise MirrorError(reason(error)) from error


def request_rest(url: str, part: Path) -> None:
    """Request what `part` lacks, and write it. Raises `requests.RequestException` where that breaks off."""
    start = length(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is there, or it is another file: verification tells
        response.raise_for_status()
        # A server without ranges sends all of it again.
        if response.status_code != requests.codes.partial_content:
            start = 0
        size = response.headers.get("Content-Length", "")
        rest = int(size) if size.isdigit() else None
        free = shutil.disk_usage(part.parent).free
        if rest is not None and rest > free:
            raise full_disk(part, f"{mebibytes(rest)} MiB are needed and {mebibytes(free)} are free")
        total = None if rest is None else mebibytes(start + rest)
        try:
            with (
                part.open("r+b" if start else "wb") as file,
                Progress(total, part.name.removeprefix(".part-"), "MiB") as progress,
            ):
                file.seek(start)
                for piece in response.iter_content(PIECE):
                    file.write(piece)
                    progress.advance(file.tell() // MEBIBYTE - progress.done)
        except requests.RequestException:  # an OSError too
            raise
        except OSError as error:
            part.unlink(missing_ok=True)
            raise full_disk(part, error.strerror or str(error)) from error


def full_disk(part: Path, problem: str) -> UserError:
    return UserError(
        f"{part.parent}: can't hold the download ({problem}); free some space, or let XDG_CACHE_HOME name "
        "another place"
    )


def reason(error: requests.RequestException) -> str:
    """Say in a few words why a request failed."""
    if error.response is not None:
        return f"answers {error.response.status_code} {error.response.reason}"
    words = {requests.Timeout: "does not answer", requests.exceptions.ChunkedEncodingError: "breaks off"}
    return next((text for kind, text in words.items() if isinstance(error, kind)), "can't be reached")


def length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def mebibytes(size: int) -> int:
    return -(-size // MEBIBYTE)
