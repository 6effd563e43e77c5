"""The page's HTTP interface: its example, what it refuses, which files it serves and when it deletes them."""

from __future__ import annotations

import asyncio
import io
import re
import shlex
import shutil
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import requests

pytest.importorskip("gradio", reason="pip install -r requirements-app.txt")
import gradio as gr
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
import demo
from checkpoints.hub import CACHE, Model, ShowDownload
from faces.cuts import Cuts
from inference import jobs
from inference.command import command_of
from inference.inputs import model_files
from inference.jobs import known_cuts, make_job
from inference.options import DemoOptions
from inference.samples import SAMPLE
from media.clips import open_clip
from media.pictures import decode_picture, write_image
from media.writer import VideoWriter
from modules.build import read_config
from page.animate_tab import open_driving
from page.choices import PAGE, Form, initial
from page.limits import check_job, in_words, read_picture
from page.live_tab import MAX_FRAME_PIXELS, open_live
from page.making import choose_model, make_plan
from tests.serving import served
from tests.small import write_config
from tests.test_docs import blocks
from utils.errors import MediaError, UserError
from utils.progress import no_bar
from utils.tickets import Ticket

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


def events_of(address: str, name: str, **given: object) -> str:
    """What a call by HTTP answers: a client in Python would upload the files of its own machine."""
    url = f"{address}gradio_api/call/{name}"
    event = requests.post(url, json={"data": values_of(address, name, **given)}).json()
    return requests.get(f"{url}/{event['event_id']}", timeout=60).text


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


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"start": 1.0, "end": 2.0}, "25 frames in "),
        ({"driving_motion": "short.gif"}, "5 frames in "),
        ({"driving_motion": "first.png"}, "1 frames in "),
        ({"driving_motion": "motion.npz", "strength": 1.5}, "5 frames in "),
        ({"source_video": "short.gif", "crop_source": "0,0,128,128"}, "5 frames in "),
        ({"crop_source": "0,0,128,128", "paste_back": True, "background": "first.png"}, "72 frames in "),
    ],
)
def test_all_that_the_command_line_reads(address: str, given: dict, told: str, others: Path) -> None:
    values = {
        name: handle_file(others / value) if (others / str(value)).is_file() else value
        for name, value in given.items()
    }
    _, _, result, line, command = animate(address, **values)
    assert line.startswith(told) and len(open_clip(result)) == int(told.split()[0])
    parsed = demo.parse(shlex.split(command)[2:])
    if "driving_motion" in given:
        inputs = (parsed.driving_video or ()) + (parsed.driving_motion or ())
        assert [path.name for path in inputs] == [given["driving_motion"]]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a gif of five frames, the first of them, and their motion."""
    folder = tmp_path_factory.mktemp("others")
    frames = list(open_clip(SAMPLE["driving_video"]))[:5]
    with VideoWriter(folder / "short.gif", 5) as writer:
        for frame in frames:
            writer.write(frame)
    write_image(folder / "first.png", frames[0])
    written = ["--save_motion", str(folder / "motion.npz"), "--result_video", str(folder / "x.mp4")]
    demo.main(["--driving_video", str(folder / "short.gif"), *written])
    return folder


def test_inside_has_names_and_defaults_and_all_is_described(address: str) -> None:
    info = requests.get(f"{address}gradio_api/info").json()["named_endpoints"]
    names = {route: [item["parameter_name"] for item in info[route]["parameters"]] for route in info}
    assert names["/inside"] == ["frame", *names["/animate"]]
    for route in ("/animate", "/inside"):
        for item in info[route]["parameters"]:
            assert item["parameter_has_default"], (route, item)
            assert f"{item['parameter_name']}: " in info[route]["description"] or item["label"] == "Frame"
    files = {"source_image": handle_file(SAMPLE["source_image"])}
    files["driving_video"] = handle_file(SAMPLE["driving_video"])
    gallery = Client(address, verbose=False).predict(frame=40, **files, api_name="/inside")
    assert "masks" in [item["caption"] for item in gallery]


def test_a_model_that_cannot_be_had_says_where_to_put_it(address: str) -> None:
    with pytest.raises(AppError) as caught:
        animate(address, model="vox")
    assert str(CACHE) in str(caught.value) and "--" not in str(caught.value)


def test_too_large_a_request_is_a_line_and_the_next_job_works() -> None:
    with served(limits="ulimit -v 4194304") as (address, _, process):
        for values in ({"size": 99999}, {"size": 10**18}, {"size": -1}):
            with pytest.raises(AppError, match="is not a number from 0 to 1024"):
                animate(address, **values)
        assert animate(address)[3].startswith("72 frames in ")
        assert process.poll() is None


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
        told = events_of(address, route, **video | {name: {"path": path} | meta})
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
    told = events_of(address, "animate", source_image={"path": answer.json()[0]} | FILE)
    assert "(source_image): a.txt was deleted here after some time; choose it again" in told


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


def test_what_a_job_may_cost(tmp_path: Path) -> None:
    config = read_config(SAMPLE["config"])
    job = make_job(PAGE, (128, 128))
    check_job(job, config, (4000, 6000), 5400)
    with pytest.raises(UserError, match="--face: would take 9 faces, more than 8"):
        check_job(job, config, (100, 100), 1, faces=9)
    with pytest.raises(UserError, match=r"--size: would take .* million numbers a layer"):
        check_job(replace(job, sizes=((128, 128), (4096, 4096))), config, (100, 100), 1)
    pasted = replace(job, options=replace(PAGE, crop=True, paste_back=True))
    with pytest.raises(UserError, match=r"--driving_video: would take .* million pixels of a result"):
        check_job(pasted, config, (1920, 1920), 5400)
    config["model_params"]["generator_params"]["max_features"] = 8192
    config["model_params"]["generator_params"]["block_expansion"] = 2048
    with pytest.raises(UserError, match=r"--config: would take .* million weights"):
        check_job(job, config, (100, 100), 1)
    # Live asks as much before it loads a model.
    large = write_config(tmp_path / "large.yaml", config)
    with pytest.raises(UserError, match=r"--config: would take .* million weights"):
        choose_model(replace(PAGE, config=large, checkpoint=SAMPLE["checkpoint"]))


def test_live_frames_of_few_bytes_and_many_pixels_are_not_decoded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(file, format="JPEG")
    with pytest.raises(MediaError, match=r"the frame: has 4000x3000 pixels, more than"):
        decode_picture(file.getvalue(), "the frame", MAX_FRAME_PIXELS)


def test_what_was_found_for_boxes_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    files: Any = {"source_image": (SAMPLE["source_image"],), "driving_video": (SAMPLE["driving_video"],)}
    searched = []
    monkeypatch.setattr(jobs, "driving_cuts", lambda clip, *_: searched.append(clip.path) or Cuts([], None))
    for options in (replace(PAGE, **files), replace(PAGE, smooth=1, **files), replace(PAGE, end=1, **files)):
        plan = make_plan(options)
        assert plan.clip is not None
        known_cuts(plan.clip, plan.job, no_bar)
    assert len(searched) == 2  # another part of the video is another search


def test_live_shows_how_far_a_download_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def model_of_two_mebibytes(options: DemoOptions, show: ShowDownload) -> Model:
        with show("model", 2) as bar:
            bar.advance(1)
            time.sleep(0.5)
        return model_files(options)

    async def answers() -> list[tuple[Any, str]]:
        return [answer async for answer in open_live(form, "me", None, values, begins=True)]

    monkeypatch.setattr("page.making.model_files", model_of_two_mebibytes)
    with gr.Blocks():
        form = Form(offline=True)
        form.add_model()
    values = tuple(initial(name) for name in form)
    *downloads, (value, line) = asyncio.run(answers())
    assert downloads and all(re.match(r"model: 1/2 MiB, .* …$", line) for _, line in downloads)
    assert (value["begins"], len(value["pictures"]), line) == (True, 1, "")


def test_the_place_in_the_queue_is_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ThreadPoolExecutor(1)
    first, second = Ticket("a", worker, 100), Ticket("b", worker, 10)
    monkeypatch.setattr(Ticket, "held", [first, second])
    monkeypatch.setattr(Ticket, "pace", 0.5)
    assert second.line() == "waiting about 50 s, with 1 before this one"
    first.begun = time.monotonic()
    bar = first.show("animation", 100)
    bar.started, bar.done = time.monotonic() - 30, 75
    assert second.line() == "waiting about 10 s, with 1 before this one"
    first.stop()
    assert second.line() == "waiting about 1 s, with 0 before this one"


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
