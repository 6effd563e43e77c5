"""The page's HTTP interface: its example, what it refuses, which files it serves and when it deletes them."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import requests

pytest.importorskip("gradio", reason="pip install -r requirements-app.txt")
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
import demo
from inference.options import DemoOptions
from inference.samples import SAMPLE
from media.clips import open_clip
from page.animate_tab import open_driving
from page.choices import PAGE, initial
from page.limits import in_words, read_picture
from page.making import command_of
from tests.serving import served
from tests.test_docs import blocks
from utils.errors import UserError

ROOT = Path(__file__).parent.parent
KEPT = 12  # seconds
FILE = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of a page that is to be shared without a network, and what it tells."""
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    with served("--keep", str(KEPT), "--share", "--allow_host", "puppets.example", environment=nowhere) as (
        address,
        lines,
        _,
    ):
        yield address, lines
    print("".join(lines))  # where a test fails


@pytest.fixture(scope="module")
def address(server: tuple[str, list[str]]) -> str:
    return server[0]


def animate(address: str, **values: object) -> tuple:
    inputs = {
        "source_image": handle_file(SAMPLE["source_image"]),
        "driving_video": handle_file(SAMPLE["driving_video"]),
    }
    return Client(address, verbose=False).predict(**inputs | values, api_name="/animate")


def values_of(address: str, name: str, **given: object) -> list[object]:
    """The values of a call, in the order of its fields."""
    info = requests.get(f"{address}gradio_api/info").json()["named_endpoints"][f"/{name}"]
    return [given.get(item["parameter_name"], item["parameter_default"]) for item in info["parameters"]]


# ---- /animate ----------------------------------------------------------------


def test_the_example_of_the_documentation(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks(ROOT / "docs" / "app.md", "python")
    assert "http://127.0.0.1:7860/" in example
    monkeypatch.chdir(ROOT)
    module = types.ModuleType("example")
    exec(compile(example.replace("http://127.0.0.1:7860/", address), "docs/app.md", "exec"), vars(module))
    assert len(open_clip(module.result)) == 72 and module.line.startswith("72 frames in ")
    assert "--find_best_frame" in module.command


def test_names_and_defaults_of_the_arguments(address: str) -> None:
    endpoint = Client(address, verbose=False).view_api(return_format="dict")["named_endpoints"]["/animate"]
    parameters = {item["parameter_name"]: item for item in endpoint["parameters"]}
    assert set(parameters) < {entry.name for entry in fields(DemoOptions)}
    defaults = {name: item["parameter_default"] for name, item in parameters.items()}
    assert defaults == {name: initial(name) for name in defaults}


@pytest.mark.parametrize(
    ("name", "suffix"), [("result.gif", ".gif"), ("result.webm", ".webm"), ("result", ".zip")]
)
def test_formats(address: str, name: str, suffix: str) -> None:
    player, picture, result, line, _ = animate(address, result_video=name, size=256)
    assert Path(result).suffix == suffix
    if suffix != ".zip":
        assert open_clip(result).size == (256, 256) and len(open_clip(result)) == 72
    shown = {".gif": picture, ".webm": player}.get(suffix)
    assert bool(shown) == ("not played here" not in line)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"size": 100}, "'Height' (size) 100: must be a larger height"),
        ({"best_frame": 71.0}, ""),
        ({"crop_source": "1,2,3"}, "(crop_source): '1,2,3' is not four whole numbers"),
        ({"crop_driving": "900,900,990,990"}, "lies outside driving.mp4"),
        ({"crop": True}, "source.png: no face was found"),
        ({"source_image": None}, "(source_image): there is no picture"),
        ({"paste_back": True}, "(paste_back): has an effect where something is cut out only"),
        (
            {"crop": True, "paste_back": True, "side_by_side": True},
            "(side_by_side): has an effect",
        ),
        (
            {"config": handle_file(ROOT / "config" / "vox-256.yaml")},
            "(checkpoint): a model of your own is a",
        ),
        ({"size": 99999}, "(size): 99999 is not a number from 0 to 1024"),
        ({"smooth": "very"}, "(smooth): 'very' is not a number from 0 to 5"),
        ({"audio": None}, "(audio): None is not true or false"),
        ({"result_video": "a.exe"}, "(result_video): 'a.exe' is not one of result.mp4, result.mov,"),
    ],
)
def test_mistakes_are_told_in_one_line(address: str, values: dict, told: str) -> None:
    if not told:
        assert "measured from frame 71" in animate(address, **values)[3]
        return
    with pytest.raises(AppError, match=None) as caught:
        animate(address, **values)
    assert told in str(caught.value) and "\n" not in str(caught.value) and "/tmp" not in str(caught.value)


# ---- Who may ask, and what ----------------------------------------------------


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
        ("evil.example:{port}@127.0.0.1", True),  # no browser sends this
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


# ---- Files -------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(ROOT / "README.md"), "README.md", "app.py", "/tmp/../etc/passwd"]
)
def test_only_its_own_files_are_served(address: str, path: str) -> None:
    for route in ("gradio_api/file=", "gradio_api/file/", "file=", "static/../../"):
        request = requests.Request("GET", address).prepare()
        request.url = address + route + path  # as it stands, without tidying
        answer = requests.Session().send(request)
        assert answer.status_code in (400, 403, 404, 405), (route, answer.status_code)
        assert "root:" not in answer.text and "First Order" not in answer.text


@pytest.mark.parametrize("meta", [{}, FILE], ids=["bare", "as a file"])
def test_files_of_the_server_are_no_inputs(
    address: str, meta: dict, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By HTTP: a client in Python would upload the files of its own machine."""
    private = tmp_path_factory.mktemp("home") / "private.png"
    shutil.copy(SAMPLE["source_image"], private)
    answer = requests.post(
        f"{address}gradio_api/upload", files={"files": ("a.mp4", SAMPLE["driving_video"].read_bytes())}
    )
    upload = answer.json()[0]
    video = {"driving_video": {"path": upload} | FILE}
    climbing = f"{Path(upload).parent}/../../../..{private}"
    for name, path, route in (
        ("source_image", str(private), "animate"),
        ("source_image", climbing, "animate"),
        ("source_image", str(private), "inside"),
        ("driving_video", str(private), "animate"),
        ("config", str(private), "animate"),
        ("checkpoint", str(private), "animate"),
    ):
        data = values_of(address, route, **video | {name: {"path": path} | meta})
        event = requests.post(f"{address}gradio_api/call/{route}", json={"data": data}).json()
        url = f"{address}gradio_api/call/{route}/{event['event_id']}"
        told = requests.get(url, timeout=60).text
        assert "event: error" in told and "event: complete" not in told
        assert "private" not in told  # nor does it tell whether the file is there
        assert f"({name}): is no file that was uploaded here; upload it first" in told


def test_old_files_of_people_are_deleted(address: str) -> None:
    result = Path(animate(address)[2])
    answer = requests.post(f"{address}gradio_api/upload", files={"files": ("a.txt", b"a")})
    files = Path(answer.json()[0]).parents[1]
    assert result.exists() and any(files.rglob("result.mp4"))
    end = time.monotonic() + 3 * KEPT + 30
    while any(files.rglob("result.mp4")) and time.monotonic() < end:
        time.sleep(1)
    assert not any(files.rglob("result.mp4")) and not any((files.parent / "results").iterdir())


# ---- Live --------------------------------------------------------------------


def test_frames_need_a_session(address: str) -> None:
    for headers in ({}, {"x-live-token": "guessed"}):
        answer = requests.post(f"{address}live/frame", data=b"x", headers=headers)
        assert answer.status_code == 410 and "start the camera again" in answer.text


# ---- Without a server --------------------------------------------------------


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tmp_path / "large.png"
    Image.new("L", (8000, 6000)).save(large)
    with pytest.raises(UserError, match=r"large\.png: has 48 million pixels, more than 40"):
        read_picture(large)
    heavy = tmp_path / "heavy.png"
    with heavy.open("wb") as file:
        file.truncate(40 * 2**20)
    with pytest.raises(UserError, match=r"heavy\.png: has 40 MiB, more than 32"):
        read_picture(heavy)
    monkeypatch.setattr("page.limits.MAX_FRAMES", 50)
    with pytest.raises(UserError, match=r"driving\.mp4: has 72 frames, more than 50; cut it shorter"):
        open_driving(SAMPLE["driving_video"])


def test_no_folder_of_the_server_in_a_message() -> None:
    message = (
        "/tmp/first-order-model-x/files/0a1b/a.png: is bad; see https://example.org/a/b or C:\\tmp\\x\\b.png"
    )
    assert in_words(message) == "a.png: is bad; see https://example.org/a/b or b.png"


def test_the_command_is_read_by_the_demo(inputs: Path, tmp_path: Path) -> None:
    picture = tmp_path / "me at home.png"
    shutil.copy(SAMPLE["source_image"], picture)
    options = replace(
        PAGE,
        model=None,
        source_image=(picture,),
        driving_video=(inputs / "talk.mp4",),
        best_frame=0,
        smooth=0.5,
        crop_source=(-1, 0, 9, 10),
    )
    line = command_of(options)
    assert "'me at home.png'" in line
    wanted = (
        "--source_image x --driving_video talk.mp4 --relative --adapt_scale --best_frame 0 --smooth 0.5 "
        "--fit crop --crop_source=-1,0,9,10 --audio --result_video result.mp4"
    ).replace("x", "'me at home.png'", 1)
    assert demo.parse(shlex.split(line)[2:]) == demo.parse(shlex.split(wanted))
    silent = replace(
        options,
        model="vox",
        size=512,
        audio=False,
        result_video=Path("result.gif"),
    )
    options = demo.parse(shlex.split(command_of(silent))[2:])
    assert (options.model, options.size, options.audio) == ("vox", 512, False)


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--host", "0.0.0.0"], "everybody who reaches this machine"), (["--share"], "over the internet")],
)
def test_opening_the_page_is_told(
    options: list[str], told: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("page.server.serve", lambda *arguments: (_ for _ in ()).throw(OSError("taken")))
    with pytest.raises(SystemExit):
        app.main(options)
    assert told in capsys.readouterr().err


def test_without_a_network_the_page_goes_on_unshared(server: tuple[str, list[str]]) -> None:
    address, lines = server
    assert requests.get(address).ok
    opens, fails, says_where = lines[:3]
    assert "over the internet" in opens and "Gradio's server can't be reached" in fails
    assert address in says_where
