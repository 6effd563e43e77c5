"""Settings that must stand before torch is imported, and fixtures of several files."""

import os
from pathlib import Path

import pytest

# Float32 results differ between instruction sets by more than the golden tolerances (gradients by percents, where a
# ReLU flips), and the golden numbers were computed with AVX2 kernels.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")

# One thread: for networks as small as those of the tests, a second one costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.clips import write_dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset of six training and a few test clips of 32x32 pixels."""
    return write_dataset(tmp_path / "data")
