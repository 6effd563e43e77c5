"""Serve the web page: animate a picture with a video, or live with a camera.

python app.py
python app.py --host 0.0.0.0 --port 8000
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import delete_old_files
from utils.hosts import LOOPBACK
from utils.options import OptionParser, add_options, option, typed
from utils.program import command_line, say
from utils.signals import caught_signals

M_ARENA_MAX = -8  # in malloc.h


@dataclass(frozen=True)
class PageOptions:
    """Each field is the option of `app.py` that has its name."""

    host: str = option(LOOPBACK[0], "address to listen on; 0.0.0.0 opens the page to the network")
    allow_host: tuple[str, ...] = option(
        (), "names besides --host by which browsers may reach the page", nargs="+", metavar="NAME"
    )
    port: int | None = option(None, "default: the first free one from 7860 on", bounds=(0, 65535))
    ssl_certfile: Path | None = option(
        None, "serve https with this certificate (.pem), so that browsers elsewhere give their camera"
    )
    ssl_keyfile: Path | None = option(None, "its key, where the file of the certificate does not hold it")
    share: bool = option(False, "open the page to everybody who has its address, through a server of Gradio")
    offline: bool = option(False, "never download a model")
    keep: int = option(3600, "how long files are kept (default: 3600)", metavar="SECONDS")


def parse(argv: list[str] | None) -> PageOptions:
    parser = OptionParser(__doc__)
    add_options(parser, PageOptions)
    return typed(PageOptions, parser.parse_args(argv))


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    with tempfile.TemporaryDirectory(prefix="first-order-model-") as name:
        serve_from(Path(name), options)


def https_of(options: PageOptions) -> dict[str, Any]:
    """Return what Gradio is told of a certificate, nothing without one. Raises `UserError`."""
    cert, key = options.ssl_certfile, options.ssl_keyfile
    if cert is None:
        if key is not None:
            raise UserError("--ssl_keyfile needs --ssl_certfile, the certificate that the key belongs to")
        return {}
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="-")
    except ssl.SSLError as error:
        raise UserError(
            f"--ssl_certfile {cert}: is no certificate with its key; give both as .pem, without a password"
        ) from error
    except OSError as error:
        raise UserError(f"--ssl_certfile {cert}, --ssl_keyfile {key}: {error.strerror}") from error
    # Gradio asks its own server whether it is there, under a name that the certificate need not have.
    return {"ssl_certfile": str(cert), "ssl_keyfile": key and str(key), "ssl_verify": False}


def serve_from(folder: Path, options: PageOptions) -> None:
    """Serve the page until a signal comes; files of visitors lie in `folder`. Raises `UserError`."""
    # Gradio reads these when it is imported: where files go, and no word to anybody.
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder / "files"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    https = https_of(options)
    for name in ("files", "results"):
        (folder / name).mkdir()
    try:
        from page.server import build_page, serve
    except ModuleNotFoundError as error:
        raise UserError(
            f"the page needs {error.name}: pip install -r requirements-app.txt, or make app"
        ) from error

    # Each thread's own heap takes 64 MiB of addresses, which count where those are limited (ulimit -v).
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # not every C library has it
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)

    # Who can use the page?
    if options.host not in LOOPBACK:
        tell(
            f"--host {options.host}: everybody who reaches this machine can use the page, by its address or "
            "a name that --allow_host gives"
        )
    if options.share:
        tell("--share: everybody who has the address can use the page, over the internet")
    page = build_page(options.offline, folder / "results")
    try:
        hosts = {name.lower() for name in (*LOOPBACK, options.host, *options.allow_host)}
        address, shared = serve(page, options.host, options.port, options.share, hosts, **https)
    except OSError as error:
        raise UserError(f"--port {options.port}: {error}; choose another one") from error
    if options.share and shared is None:
        tell(
            "--share: no address was given out, because Gradio's server can't be reached; "
            "the page goes on without"
        )

    # Serve, and delete old files, until somebody ends it.
    due = 0.0
    with caught_signals() as caught:
        print(f"The page is at {shared or address} (Ctrl-C ends it)", flush=True)
        while not caught:
            if time.monotonic() >= due:
                delete_old_files(folder / "files", options.keep)
                due = time.monotonic() + min(300, options.keep / 2)
            time.sleep(0.5)
    page.close(verbose=False)


def tell(line: str) -> None:
    say(line, sys.stderr)


if __name__ == "__main__":
    main()
