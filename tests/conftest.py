"""Settings that must stand before torch is imported, and fixtures of several files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Float32 results differ between instruction sets by more than the golden tolerances (gradients by percents,
# where a ReLU flips), and the golden numbers were computed with AVX2 kernels.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")

# One thread: for networks as small as those of the tests, a second one costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tests.clips import write_dataset
from tests.demo_files import write_inputs
from tests.serving import served


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset of six training and a few test clips of 32x32 pixels."""
    return write_dataset(tmp_path / "data")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `write_inputs`."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture
def place(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inputs as the working folder; results go to the test's own folder, which is returned."""
    monkeypatch.chdir(inputs)
    return tmp_path


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a page that is served for the tests of a file."""
    with served() as (address, lines, _):
        yield address
    print("".join(lines))  # where a test fails


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser whose camera shows the sample's driving video."""
    from tests.browser import launched  # needs Playwright

    with launched(tmp_path_factory.mktemp("camera") / "clip.y4m") as browser:
        yield browser
