"""An ASGI server that answers requests for its own hosts, from its own pages alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class OwnHosts:
    """Refuse what another host is asked for, which is a way to get past a browser (DNS rebinding), and what
    the page of another origin sends. Programs send no origin.
    """

    def __init__(self, server: Any, hosts: set[str]):
        self.server, self.hosts = server, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        problem = None if scope["type"] == "lifespan" else self.problem(scope)
        if problem is None:
            await self.server(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": problem.encode()})

    def problem(self, scope: Any) -> str | None:
        """Say why a request is refused."""
        given: dict[bytes, set[str]] = {b"host": set(), b"origin": set()}
        for name, value in scope["headers"]:
            if name in given:
                given[name].add(value.decode("latin-1").lower())
        # Whoever names the address that was reached was sent there by no foreign name.
        allowed = {*self.hosts, (scope.get("server") or ("",))[0]}
        if len(given[b"host"]) != 1 or (name := hostname(*given[b"host"])) not in allowed:
            return f"not served here: {', '.join(given[b'host'])}; --allow_host NAME of app.py allows a name"
        if not all(origin.partition("://")[2] in given[b"host"] for origin in given[b"origin"]):
            return "a page of another origin may not use this one"
        return None


@contextlib.asynccontextmanager
async def guarded(app: Any, hosts: set[str]) -> AsyncIterator[None]:
    """Check hosts before all else that an application of Starlette does; this is its lifespan."""
    app.middleware_stack = OwnHosts(app.middleware_stack, hosts)
    yield


def hostname(host: str) -> str | None:
    """Return the name in a Host header, without its port; None where it is none."""
    try:
        return None if "@" in host else urlsplit(f"//{host}").hostname
    except ValueError:
        return None
