"""The notebook runs from its first cell to its last, and shows the video."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="pip install -r requirements-dev.txt")
import nbformat
from nbclient import NotebookClient

from media.clips import open_clip

ROOT = Path(__file__).parent.parent
SKIPPED = (".git", ".venv", "log", "tests", "__pycache__")


def test_the_notebook_shows_a_video(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*SKIPPED), symlinks=True)
    notebook = nbformat.read(checkout / "demo.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # as it is committed
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(checkout)}}).execute()
    shown = [
        out["data"]["text/html"]
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        if "data" in out
    ]
    assert any("<video" in html and "data:video/mp4" in html for html in shown)
    clip = open_clip(checkout / "result.mp4")
    assert len(clip) == 72 and clip.size == (128, 128)
