"""A web server on this machine that serves one file.

The first part of the path says how:

    /whole/NAME     all of it, or the range that is asked for
    /cut/NAME       as /whole, but the first answer breaks off after half of it
    /stubborn/NAME  as /cut, but without ranges
    /endless/NAME   zeros without a length, until nobody listens
    /long/NAME      as /whole, with a length of 5,000 digits
    /to/N           a redirect to number N of `PLACES`
    anything else   404
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PLACES = (
    "http://a..b/x",
    f"http://{'a' * 300}.example/x",
    "http://üü😀.invalid/x",
    "http://[::1/x",
    "http://host:99999999/x",
    "http:///x",
    "http://%zz/x",
    "file:///etc/passwd",
    f"http://{'a' * 64}.example/x",
)


class Mirror(ThreadingHTTPServer):
    """Serves `content`; `requests` are the paths and Range headers that came."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.requests = content, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        way, wanted = self.path.split("/")[1], self.headers.get("Range")
        first = not any(path == self.path for path, _ in self.server.requests)
        self.server.requests.append((self.path, wanted))
        content, start = self.server.content, 0
        if way == "to":
            place = PLACES[int(self.path.split("/")[2])].encode().decode("latin-1")
            return self.answer(302, {"Location": place, "Content-Length": 0})
        if way == "endless":
            self.answer(200, {})
            with contextlib.suppress(OSError):
                for _ in range(400):
                    self.wfile.write(bytes(2**16))
            self.close_connection = True
            return None
        if way not in ("whole", "cut", "stubborn", "long"):
            return self.send_error(404)
        if wanted and way in ("whole", "cut"):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start >= len(content):
            self.answer(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": 0})
            return None
        place = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        length = 5000 * "9" if way == "long" else len(content) - start
        self.answer(206 if start else 200, {"Content-Length": length} | place)
        end = len(content) // 2 if way in ("cut", "stubborn") and first else len(content)
        self.wfile.write(content[start:end])
        self.close_connection = True
        return None

    def answer(self, status: int, headers: dict[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *parts: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(content: bytes) -> Iterator[Mirror]:
    """A server of `content` for the time of the block."""
    with Mirror(content) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
