"""The frame of a program: one line for each failure, streams that fail, other platforms, torchrun."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small import error_of
from tests.training import assert_same_run, config_file, newest, start
from utils.distributed import in_torchrun, job_id
from utils.errors import UserError
from utils.program import command_line

# ---- Failures --------------------------------------------------------------------


ROOT = Path(__file__).parents[1]


def failing(error: Exception) -> Callable:
    @command_line
    def main(argv: list[str] | None = None) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "error: /a/b: No space left on device; free ",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "(ulimit -n)"),
        (
            PermissionError(errno.EACCES, "Permission denied", b"/a/b"),
            "error: /a/b: Permission denied; check ",
        ),
        (OSError("no number"), "error: no number; check "),
        (MemoryError(), "too little memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "too little memory"),
        (RuntimeError("could not create a primitive"), "too little memory"),
        (ImportError("a.so: failed to map segment from shared object"), "too little memory"),
        (RuntimeError("unable to resize file </torch_1_2_3> to the right size"), "too little memory"),
        (UserError("two\nlines \x1b[2J of a name"), r"error: two\nlines \x1b[2J of a name"),
    ],
)
def test_each_is_one_line(error: Exception, words: str, capsys: pytest.CaptureFixture) -> None:
    told = error_of(capsys, lambda: failing(error)([]))
    assert words in told and told.count("\n") == 1


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())([])


def test_debug_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture) -> None:
    told = error_of(capsys, lambda: failing(UserError("mistake"))(["--debug"]))
    assert told.startswith("Traceback") and told.endswith("error: mistake\n")


# ---- Streams ---------------------------------------------------------------------


TALKER = (
    "import sys\n"
    "from utils.program import command_line\n"
    "from utils.program import outlive_output\n"
    "def main(argv):\n"
    "    if '--outlive' in argv: outlive_output()\n"
    "    print('caf\\u00e9 \\u2588 \\udcff', flush=True)\n"
    "    for _ in range(20000): print('a line')\n"
    "    print('note', file=sys.stderr)\n"
    "    open(argv[0], 'w').write('result')\n"
    "command_line(main)()\n"
)


def talk(tmp_path: Path, shell: str, *more: str, **environment: str) -> tuple[int, str, bool]:
    """Run the talker with its streams as `shell` says: status, what came out, is the result there?"""
    result = tmp_path / "result"
    command = f'{{ "$@"; echo "status $?" >&3; }} {shell}'
    done = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-c", TALKER, str(result), *more],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = done.stdout.decode(errors="replace")
    status = next(line for line in said.splitlines() if line.startswith("status "))
    assert "Traceback" not in said and "Exception ignored" not in said, said
    return int(status.split()[1]), said, result.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize(
    ("shell", "more", "status", "finished"),
    [
        ("3>&1 | head -2", [], 141, False),  # ended as `yes | head` ends
        ("3>&1 >/dev/null 2>&1", [], 0, True),
        ("3>&1 | head -2", ["--outlive"], 0, True),
        ("3>&1 >&-", [], 0, True),
        ("3>&1 >&- 2>&-", [], 0, True),
        ("3>&1 2>/dev/full", [], 0, True),
        ("3>&1 >/dev/full", [], 2, True),
    ],
)
def test_streams_that_fail(shell: str, more: list[str], status: int, finished: bool, tmp_path: Path) -> None:
    if "head" in shell:  # the status goes where `head` does not read
        shell = shell.replace("3>&1", f"3>'{tmp_path}/status'") + f"; cat '{tmp_path}/status'"
    found, _, has_result = talk(tmp_path, shell, *more)
    assert (found, has_result) == (status, finished)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_letters_that_a_terminal_lacks_are_written_out(encoding: str, tmp_path: Path) -> None:
    status, said, has_result = talk(tmp_path, "3>&1", PYTHONIOENCODING=encoding)
    assert status == 0 and has_result and r"\udcff" in said


# ---- Platforms and processes -----------------------------------------------------


IMPORT_EVERYTHING = """
import importlib, os, signal, sys
from pathlib import Path

names = []
for path in sorted(Path().rglob("*.py")):
    parts = path.with_suffix("").parts
    hidden = any(part.startswith(".") for part in parts)
    if parts[0] not in ("tests", "sup-mat") and "benchmarks" not in parts and not hidden:
        names.append(".".join(parts).removesuffix(".__init__"))
for name in names:  # all that they import from elsewhere is loaded now, and may use what its platform has
    importlib.import_module(name)
for name in names:
    del sys.modules[name]
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGKILL", "SIGCHLD", "SIGUSR1", "SIGALRM", "SIGSTOP", "SIGCONT", "SIGQUIT"):
    delattr(signal, name)
for name in ("fork", "setpgrp", "killpg", "getpgid", "getuid", "setsid"):
    delattr(os, name)
for name in names:
    importlib.import_module(name)

import torch
from utils.device import peak_memory_mib
from utils.signals import caught_signals
assert peak_memory_mib(torch.device("cpu")) is None
with caught_signals() as caught:
    signal.raise_signal(signal.SIGTERM)
assert caught == [signal.SIGTERM]
print(len(names))
"""


TRAIN_WITH_SPAWNED_WORKERS = """
import sys
import torch.multiprocessing
import run

if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    run.main(sys.argv[1:])
"""


def test_every_module_imports_without_what_only_unix_has() -> None:
    command = [sys.executable, "-c", IMPORT_EVERYTHING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 50


def test_training_with_spawned_workers_is_the_same(root: Path) -> None:
    config = config_file(root, train_params__num_workers=1)
    expected = start(root, config, log="expected")
    script = root.parent / "spawned.py"
    script.write_text(TRAIN_WITH_SPAWNED_WORKERS)
    arguments = [str(config), "--device", "cpu", "--log_dir", str(root.parent / "spawned")]
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert_same_run(expected, newest(root, "spawned"))


@pytest.mark.parametrize(
    "changes",
    [{"RANK": None}, {"WORLD_SIZE": "0"}, {"MASTER_ADDR": None}, {"MASTER_PORT": "http"}, {"RANK": "2"}],
)
def test_half_of_torchruns_variables(changes: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}
    whole |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in whole.items():
        monkeypatch.setenv(name, value)
    assert in_torchrun()
    for name, value in changes.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(UserError, match="torchrun, which sets"):
        in_torchrun()


def test_processes_that_restart_need_the_name_of_their_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_id() is None
    started = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}
    started |= {"MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_MAX_RESTARTS": "3"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="needs an --rdzv_id"):
        job_id()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert job_id() == "mine"


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
