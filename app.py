"""Serve the web page: animate a picture with a video, or live with a camera.

    python app.py
    python app.py --host 0.0.0.0 --port 8000

It is for this machine alone unless `--host` or `--share` open it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from utils.errors import UserError
from utils.options import OptionParser
from utils.program import command_line
from utils.signals import caught_signals

LOCAL = ("127.0.0.1", "localhost", "::1")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OptionParser(__doc__)
    parser.add_argument(
        "--host", default=LOCAL[0], help="address to listen on; 0.0.0.0 opens the page to the network"
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument(
        "--share",
        action="store_true",
        help="open the page to everybody who has its address, through a server of Gradio",
    )
    parser.add_argument("--offline", action="store_true", help="never download a model")
    parser.add_argument(
        "--keep", type=int, default=3600, metavar="SECONDS", help="how long files are kept (default: 3600)"
    )
    return parser.parse_args(argv)


def prepare_environment(folder: Path) -> None:
    """Must stand before Gradio is imported: where files go, and no word to anybody."""
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder / "files"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name in ("files", "results"):
        (folder / name).mkdir()


@command_line
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    with tempfile.TemporaryDirectory(prefix="first-order-model-") as name:
        folder = Path(name)
        prepare_environment(folder)
        try:
            from page.server import build_page, serve  # slow, and needs requirements-app.txt
            from page.sweep import Sweeper
        except ModuleNotFoundError as error:
            raise UserError(
                f"the page needs {error.name}: pip install -r requirements-app.txt, or make app"
            ) from error
        if options.host not in LOCAL:
            print(
                f"--host {options.host}: everybody who reaches this machine can use the page", file=sys.stderr
            )
        if options.share:
            print(
                "--share: everybody who has the address can use the page, over the internet", file=sys.stderr
            )
        page = build_page(options.offline, folder / "results")
        try:
            address, shared = serve(page, options.host, options.port, options.share)
        except OSError as error:
            raise UserError(f"--port {options.port}: {error}; choose another one") from error
        if options.share and shared is None:
            print(
                "--share: no address was given out, because Gradio's server can't be reached; "
                "the page goes on without",
                file=sys.stderr,
            )
        sweeper = Sweeper(folder, options.keep)
        with caught_signals() as caught:
            print(f"The page is at {shared or address} (Ctrl-C ends it)", flush=True)
            while not caught:
                sweeper.sweep_when_due()
                time.sleep(0.5)
        page.close(verbose=False)


if __name__ == "__main__":
    main()
