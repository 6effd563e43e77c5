"""Who may use the page: its own hosts and pages alone, and wrong calls are told in a line."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

pytest.importorskip("gradio", reason="pip install -r requirements-app.txt")

from inference.samples import ROOT
from tests.serving import served


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served("--allow_host", "puppets.example") as (address, lines, _):
        yield address
    print("".join(lines))  # where a test fails


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:{port}", True),
        ("localhost:{port}", True),
        ("LOCALHOST:{port}", True),
        ("[::1]:{port}", True),
        ("puppets.example:{port}", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:{port}", False),
        ("evil.example@127.0.0.1", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_hosts_are_a_list(address: str, host: str, allowed: bool) -> None:
    port = address.split(":")[-1].strip("/")
    headers = {"Host": host.format(port=port)}
    for route in ("", "config", "gradio_api/info", "live/frame"):
        assert (requests.get(address + route, headers=headers).status_code != 403) == allowed


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET"])
@pytest.mark.parametrize("route", ["live/frame", "gradio_api/upload", "gradio_api/queue/join", "config"])
@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:3000", "null", ""])
def test_pages_of_other_origins_are_refused(address: str, origin: str, route: str, method: str) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = requests.request(method, address + route, headers=headers)
    assert answer.status_code == 403 and "another origin" in answer.text
    assert not any(name.lower().startswith("access-control") for name in answer.headers)
    own = requests.request(method, address + route, headers={"Origin": address.strip("/")})
    assert own.status_code != 403


def test_no_folder_of_the_server_in_what_the_page_is_made_of(address: str) -> None:
    for route in ("config", "gradio_api/info", ""):
        text = requests.get(address + route).text
        for folder in (tempfile.gettempdir() + "/", str(ROOT), str(Path.home()) + "/"):
            assert folder not in text, route


def test_wrong_calls_are_one_line_and_no_traceback() -> None:
    """Of every function, private ones too."""
    with served() as (address, lines, _):
        make_wrong_calls(address)
    assert not any("Traceback" in line for line in lines), "".join(lines)


def make_wrong_calls(address: str) -> None:
    functions = [
        item for item in requests.get(address + "config").json()["dependencies"] if item["backend_fn"]
    ]
    assert len(functions) > 8
    for function in functions:
        count = len(function["inputs"])
        for data in ([], *([value] * count for value in (None, "x", {"a": 1}, [1], 3.5, 10**400))):
            told = call_function(address, function["id"], data)
            assert "\n" not in (told or "") and "something went wrong" not in (told or ""), (function, data)
            assert told != "", (function, data)  # an error has words
    for body in (
        {"data": [], "fn_index": 9999, "session_hash": "a"},
        {"data": [], "fn_index": -1, "session_hash": "a"},
        {"data": [], "session_hash": "a"},
        {"data": "x"},
    ):
        assert requests.post(address + "gradio_api/queue/join", json=body).status_code in (400, 404, 422)
    assert requests.post(address + "gradio_api/call/nothing", json={"data": []}).status_code == 404


def call_function(address: str, number: int, data: list) -> str | None:
    """Call a function of the page by its number; return its error, None without one."""
    session = f"{number}-{time.monotonic()}"
    body = {"data": data, "fn_index": number, "session_hash": session}
    answer = requests.post(address + "gradio_api/queue/join", json=body)
    assert answer.ok or answer.status_code in (400, 422), answer.text
    if not answer.ok:
        return answer.text
    url = f"{address}gradio_api/queue/data?session_hash={session}"
    with requests.get(url, stream=True, timeout=60) as events:
        for line in events.iter_lines():
            message = json.loads(line.removeprefix(b"data: ")) if line else {}
            if message.get("msg") == "process_completed":
                return (message["output"].get("error") or "") if not message["success"] else None
    return None
