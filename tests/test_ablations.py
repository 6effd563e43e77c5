"""tools/benchmarks/ablations.py: its table, and its command on a handful of puppets."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.puppets.dataset import make_dataset
from tools.benchmarks import ablations


def figures(l1: float) -> dict:
    return {
        "reconstruction": {"l1": l1, "l1_over_copy": 10 * l1, "ssim": 0.5, "torn": 0.02},
        "landmark_error": {"mean": 0.1},
        "motion_correlation": {"mean": 0.9},
    }


def test_a_row_has_the_mean_of_the_seeds_and_their_spread() -> None:
    assert ablations.row("full", [figures(0.03)]).startswith(
        "| full | 1 | 0.0300 | 0.300 | 0.500 | 2.00% | 10.0% |"
    )
    assert ablations.row("full", [figures(0.03), figures(0.05)]).startswith(
        "| full | 2 | 0.0400 ± 0.0141 | 0.400 ± 0.141 | 0.500 ± 0.000 |"
    )


def test_variants_are_trained_once_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_dataset(tmp_path / "puppets", videos=4, frames=3, size=32, format="png", seed=0)
    small = [
        f"dataset_params.root_dir={tmp_path / 'puppets'}",
        "dataset_params.frame_shape=[32,32,3]",
        "train_params.num_epochs=1",
        "train_params.num_repeats=1",
        "train_params.batch_size=1",
        "train_params.num_workers=0",
    ]
    command = ["--variants", "full", "baseline", "--out", str(tmp_path / "runs"), "--set", *small]
    tables = []
    for _ in range(2):
        ablations.main(command)
        tables.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("|")])
    assert tables[0] == tables[1]
    assert [line.split(" | ")[0] for line in tables[0][2:]] == ["| full", "| baseline"]
    assert len({line.count("|") for line in tables[0]}) == 1
    runs = sorted((tmp_path / "runs").glob("*/puppets-64_*"))
    assert len(runs) == 2  # none was trained again
    assert "estimate_jacobian: false" in (runs[0] / "puppets-64.yaml").read_text()  # the baseline
    assert "estimate_jacobian: true" in (runs[1] / "puppets-64.yaml").read_text()
