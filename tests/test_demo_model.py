"""demo.py --model: a model by name, from a server on this machine."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
import yaml

import demo
from checkpoints import hub as weights
from checkpoints.hub import find_model
from media.clips import open_clip
from media.pictures import write_image
from modules.build import build_generator, build_kp_detector
from tests.demo_files import assert_refused
from tests.mirror import served
from tests.small import pixels, small_config, write_config


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for a source and a driving clip in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_image("source.png", pixels(0))
    Path("driving").mkdir()
    for number in range(3):
        write_image(f"driving/{number}.png", pixels(1 + number))
    return ["--source_image", "source.png", "--driving_video", "driving", "--result_video", "result", "--cpu"]


def test_a_model_is_downloaded_once(inputs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    networks = {"generator": build_generator(config), "kp_detector": build_kp_detector(config)}
    state = {name: network.state_dict() for name, network in networks.items()}
    torch.save(state | {"padding": torch.rand(700_000)}, "model.pth.tar")  # it is sent in several pieces
    write_config(Path("small.yaml"), config)
    with served(Path("model.pth.tar").read_bytes()) as mirror:
        row = {"config": "small.yaml", "file": "small-cpk.pth.tar", "licence": "none"}
        row["mirrors"] = [f"{mirror.url}/none/x", f"{mirror.url}/cut/x"]
        Path("table.yaml").write_text(yaml.safe_dump({"small": row}))
        find_here = functools.partial(find_model, table=Path("table.yaml").resolve(), cache=Path("cache"))
        monkeypatch.setattr(weights, "find_model", find_here)
        demo.main(["--model", "small", *inputs])
    demo.main(["--model", "small", "--offline", *inputs])  # the server is gone
    assert len(open_clip("result")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model nobody", "--model nobody: no such model; choose one of puppets, vox"),
        (
            "--model vox --config a.yaml --checkpoint b.pth.tar",
            "--model stands for a config and a checkpoint",
        ),
        ("--model vox --offline --source_image absent.png", "absent.png: does not exist"),
    ],
)
def test_a_mistake_is_one_line(
    inputs: list[str], capsys: pytest.CaptureFixture, options: str, message: str
) -> None:
    assert_refused(Path(), capsys, [*inputs, *options.split()], message)


def test_the_bundled_model_has_a_name(inputs: list[str]) -> None:
    demo.main(["--model", "puppets", *inputs])
    assert open_clip("result").size == (128, 128)
