"""The README's first example from end to end: a photo and a phone's video, a model that is downloaded."""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage import data

import demo
from checkpoints import hub as weights
from checkpoints.hub import find_model
from data.puppets.identity import Puppet
from data.puppets.motion import Pose
from data.puppets.render import render
from faces.cuts import cuts_of_source
from faces.options import CropOptions
from faces.yunet import FaceDetector
from media.clips import open_clip
from media.pictures import read_image
from tests.demo_files import trained, write_sound
from tests.mirror import Mirror, served
from tests.small import small_config, write_config

FRAMES = 8
COMMAND = (
    "--model vox --source_image photo.jpg --driving_video phone.mp4 --crop --paste_back --smooth --audio"
)


def photo() -> np.ndarray:
    """A person on a large canvas, and a drawn face beside."""
    canvas = np.tile(np.linspace(40, 200, 960, dtype=np.uint8)[None, :, None], (640, 1, 3))
    canvas[100:500, 120:520] = np.asarray(Image.fromarray(data.astronaut()).resize((400, 400)))
    canvas[200:360, 700:860] = render(Puppet.random(np.random.default_rng([2019, 17])), Pose(), 160)
    return canvas


def write_phone_video(path: Path) -> None:
    """The astronaut, who moves, with a sound track."""
    head = data.astronaut()[:400, 20:420]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 400, 400, "yuv420p"
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(head, 3 * number, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        write_sound(container, sound, FRAMES / 25)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a photo and a video."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo()).save("photo.jpg", quality=95)
    write_phone_video(Path("phone.mp4"))
    return tmp_path


@pytest.fixture
def mirror(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A small model under the name "vox": its first mirror is dead, its second breaks off at half."""
    state = {name: network.state_dict() for name, network in trained(small_config()).items()}
    torch.save(state | {"padding": torch.rand(700_000)}, "model.pth.tar")  # it is sent in several pieces
    write_config(Path("small.yaml"), small_config())
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with served(Path("model.pth.tar").read_bytes()) as server:
        mirrors = [f"{dead}/x", f"{server.url}/cut/x"]
        row = {"config": "small.yaml", "file": "vox.pth.tar", "licence": "none", "mirrors": mirrors}
        Path("table.yaml").write_text(yaml.safe_dump({"vox": row}))
        find_here = functools.partial(find_model, table=Path("table.yaml").resolve(), cache=Path("cache"))
        monkeypatch.setattr(weights, "find_model", find_here)
        yield server


def test_the_photo_moves_whole_at_its_own_size(mirror: Mirror, capsys: pytest.CaptureFixture) -> None:
    demo.main([*COMMAND.split(), "--cpu"])
    assert [wanted is not None for _, wanted in mirror.requests] == [False, True]  # it went on at half
    assert Path("cache/vox.pth.tar").read_bytes() == mirror.content
    result = open_clip("result.mp4")
    assert (len(result), result.size, result.fps) == (FRAMES, (640, 960), 25) and result.has_audio
    demo.main([*COMMAND.split(), "--cpu", "--result_video", "frames"])
    assert len(mirror.requests) == 2  # it was downloaded once
    shot = read_image("photo.jpg")
    cuts = cuts_of_source(shot, Path("photo.jpg"), (1, 1), CropOptions(crop=True), FaceDetector())
    left, top, right, bottom = cuts.regions[0].bounds
    assert 120 <= left < right <= 520 and 60 <= top < bottom <= 500  # the astronaut, not the drawing
    frames = np.stack(list(open_clip("frames")))
    inside = np.zeros(shot.shape[:2], bool)
    inside[top:bottom, left:right] = True
    assert (frames[:, ~inside] == shot[~inside]).all()
    assert (frames[:, inside] != shot[inside]).any(axis=-1).mean() > 0.5


def test_a_preview_needs_no_download(mirror: Mirror) -> None:
    demo.main([*COMMAND.split(), "--cpu", "--preview", "look.png"])
    assert read_image("look.png").shape[1] > 960
    assert mirror.requests == [] and not Path("cache").exists() and not Path("result.mp4").exists()
