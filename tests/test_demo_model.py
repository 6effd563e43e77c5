"""demo.py --model: a model by name, from a server on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

import demo
from media.clips import open_clip
from media.pictures import write_image
from tests.demo_files import assert_refused
from tests.small import pixels


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for a source and a driving clip in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_image("source.png", pixels(0))
    Path("driving").mkdir()
    for number in range(3):
        write_image(f"driving/{number}.png", pixels(1 + number))
    return ["--source_image", "source.png", "--driving_video", "driving", "--result_video", "result", "--cpu"]


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
