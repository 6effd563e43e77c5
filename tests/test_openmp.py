"""Entry points tell OpenMP how to wait before it is loaded, unless the user has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def spins(program, **environment):
    """GOMP_SPINCOUNT in a process that has just imported `program`, at the time when it imports torch."""
    code = f"""
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
import {program}, torch
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True).stdout


@pytest.mark.parametrize("program", ["demo", "run", "evaluate"])
def test_it_is_set_before_torch_is_imported(program):
    assert spins(program) == "1000\n"


def test_what_the_user_has_set_stays():
    assert spins("run", GOMP_SPINCOUNT="7") == "7\n"
    assert spins("run", OMP_WAIT_POLICY="ACTIVE") == "None\n"
