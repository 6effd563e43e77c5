"""Measure how fast this machine is: a Markdown table of frames, training steps, samples and memory.

    python -m tools.benchmarks [--quick] [--peer CHECKOUT] [--parts frame demo ...]
    python -m tools.benchmarks --device cuda [--quick] [--config config/vox-256.yaml]

Each line is a process of its own, and those of a part take turns; what fails is a line, too. "ratio" says how
many times as fast a line is as the first of its part. CHECKOUT is one of the published code, which is the
first line then: https://github.com/AliaksandrSiarohin/first-order-model. The table of docs/performance.md is
made with it. With --device, what that device does: how far its results are off, frames and training steps in
every form, precision and batch, and the tests marked `cuda`; with --quick in less than 8 minutes.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from tools.benchmarks.drawn_clips import write_camera_clip, write_dataset
from tools.benchmarks.jobs import COMPILED, CONFIG, EXACT, FRAME_FORMS, GRAPH, IN_RANKS, REPLICAS, STEP_FORMS
from tools.benchmarks.turns import LIMIT, Command, Timing, take_turns
from utils.device import best_precision, cpu_has, pick_device
from utils.options import PRECISIONS, OptionParser
from utils.program import command_line

ROOT = Path(__file__).resolve().parents[2]
PEER = Path(__file__).with_name("peer.py")
PUBLISHED = "published code"
HEADINGS = ["", "variant", "median", "range", "ratio", "memory"]


QUICK, WHOLE = 370, 3600  # seconds for the lines of a device
GROUP, TESTS = 100, 90  # seconds for those that take turns, and for the tests


class Row(NamedTuple):
    """A line of the table: what a variant took in `unit`, or why it failed."""

    part: str
    variant: str
    measured: Timing | str
    unit: str

    def cells(self, first: Timing | str) -> list[str]:
        """Return the texts of the line; `first` is the measurement of the first line of the part."""
        if isinstance(self.measured, str):
            return [self.part, self.variant, f"failed: {self.measured}", "", "", ""]
        median, least, most, peak = self.measured
        digits = max(0, 2 - math.floor(math.log10(median))) if median > 0 else 0
        ratio = f"{first.median / median:.2f}×" if isinstance(first, Timing) and median > 0 else ""
        spread = f"{least:.{digits}f}–{most:.{digits}f}"
        return [self.part, self.variant, f"{median:.{digits}f} {self.unit}", spread, ratio, f"{peak:.0f} MiB"]


# ---- Commands of the workers ---------------------------------------------------


def job(name: str, *arguments: object) -> Command:
    return Command([sys.executable, "-m", "tools.benchmarks.jobs", name, *map(str, arguments)])


def in_bf16(label: str, command: Command) -> dict[str, Command]:
    """Return the job with its label where the processor computes in bf16; elsewhere a step takes minutes."""
    return {label: command} if best_precision(torch.device("cpu")) == "bf16" else {}


def with_peer(
    peer: Path | None, name: str, commands: dict[str, Command], *arguments: Path
) -> dict[str, Command]:
    """Put the published code's command first, if there is a checkout of it."""
    if peer is None:
        return commands
    arguments_of_peer = [sys.executable, str(PEER), str(peer), name, *map(str, arguments)]
    return {PUBLISHED: Command(arguments_of_peer, {"PYTHONPATH": str(peer)}), **commands}


def rows(
    part: str, unit: str, commands: Mapping[str, Command], rounds: int, limit: float = LIMIT
) -> list[Row]:
    """Measure the commands of a part in turn, for `limit` seconds at most."""
    measured = take_turns(commands, ROOT, rounds, limit)
    return [Row(part, name, found, unit) for name, found in measured.items()]


# ---- Parts ---------------------------------------------------------------------


def measure_frames(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    # Other engines are measured beside the networks that they run, where they are installed.
    engines = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]
    commands = {
        "plain networks": job("vox-plain"),
        "fast form (default)": job("vox-fast"),
        "fast form, --batch_size 2": job("vox-batch2"),
        **in_bf16("fast form, --precision bf16", job("vox-bf16")),
        **{f"plain networks, exported, {engine}": job(f"vox-{engine}") for engine in engines},
    }
    return rows("frame of vox-256", "ms", with_peer(peer, "frames", commands), rounds)


def measure_demo(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    clip = folder / "driving.mp4"
    write_camera_clip(clip)
    commands = {"networks alone": job("bundled"), "demo, from a 1080p video": job("demo", clip)}
    return rows("frame, model in sup-mat/", "ms", commands, rounds)


def measure_steps(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    fp32, bf16 = (job("step", "cpu", CONFIG, "plain", precision, 1) for precision in ("fp32", "bf16"))
    commands = {"fp32": fp32, **in_bf16("--precision bf16", bf16)}
    return rows("training step of vox-256", "ms", with_peer(peer, "step", commands), rounds)


def measure_samples(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    write_dataset(folder, clips=4)
    result = []
    for kind in ("mp4", "png"):
        commands = {"this project": job("samples", folder / kind)}
        for count in (1, 2):
            commands[f"loaded by workers: {count}"] = job("loaded", folder / kind, count)
        commands = with_peer(peer, "samples", commands, folder / kind)
        result += rows(f"training sample, {kind}", "ms", commands, rounds)
    return result


PARTS: dict[str, Callable[[Path | None, int, Path], list[Row]]] = {
    "frame": measure_frames,
    "demo": measure_demo,
    "step": measure_steps,
    "sample": measure_samples,
}


# ---- Parts of one device ---------------------------------------------------------


Group = tuple[str, str, dict[str, Command]]  # a part, its unit, and what takes turns


def device_groups(device: str, config: Path, quick: bool) -> Iterator[Group]:
    """Yield what is measured on a device, the most telling first."""
    for kind in ("mean", "largest"):
        commands = {name: job("difference", device, name, kind) for name in (EXACT, *PRECISIONS)}
        yield f"{kind} difference to fp32 on the CPU, model in sup-mat/", "levels of 255", commands
    for batch_size, precision, turns in itertools.product((1, 8), PRECISIONS, FRAME_FORMS):
        commands = {
            f"{form}, {precision}": job("device-frame", device, config, form, precision, batch_size)
            for form in turns
            if is_wanted(form, precision, device, quick)
        }
        yield f"frame of {config.stem}, {batch_size} at a time", "ms", commands
    for batch_size, precision, form in itertools.product((4,) if quick else (4, 16), PRECISIONS, STEP_FORMS):
        if is_wanted(form, precision, device, quick):  # one at a time, as each takes gigabytes
            command = job("step", device, config, form, precision, batch_size)
            if form == IN_RANKS:
                command = command._replace(environment=one_rank())
            part = f"training sample of {config.stem}, {batch_size} a step"
            yield part, "ms", {f"{form}, {precision}": command}


def is_wanted(form: str, precision: str, device: str, quick: bool) -> bool:
    if form == COMPILED:
        return precision == "bf16" or not quick  # compiling takes longer than all the rest
    if form in (*REPLICAS, IN_RANKS):
        return precision == "fp32"
    return form != GRAPH or device == "cuda"


def one_rank() -> dict[str, str]:
    """Return the variables with which torchrun would start one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def measure_device(device: str, config: Path, quick: bool) -> list[Row]:
    """Measure all groups of a device; those that the time doesn't suffice for say so."""
    end = time.monotonic() + (QUICK if quick else WHOLE)
    table: list[Row] = []
    for part, unit, commands in device_groups(device, config, quick):
        limit = min(GROUP if quick else WHOLE, end - time.monotonic())
        if limit > 0:
            table += rows(part, unit, commands, 3 if quick else 7, limit)
        else:
            table += [Row(part, name, "no time was left", unit) for name in commands]
    return table


def marked_tests() -> str:
    """Run the tests marked `cuda`; return pytest's last line."""
    # Collecting all others would take longer than running these.
    files = [path for path in (ROOT / "tests").glob("test_*.py") if "mark.cuda" in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "cuda", *map(str, files)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS)
    except subprocess.TimeoutExpired:
        return f"not done within {TESTS} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "\n".join([*failed, *done.stdout.splitlines()[-1:]])


# ---- The table -----------------------------------------------------------------


def as_markdown(table: list[Row]) -> str:
    firsts = {row.part: row.measured for row in reversed(table)}
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(row.cells(firsts[row.part]) for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> dict[str, str]:
    """Describe the machine and the versions that were measured."""
    capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()  # not there before torch 2.9
    sets = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if cpu_has(name)]
    return {
        "processor": str(capabilities.get("cpu_name") or platform.processor() or platform.machine()),
        "cores": str(os.cpu_count()),
        "instructions": " ".join(sets) or torch.backends.cpu.get_cpu_capability(),
        "GPU": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
    }


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="3 rounds instead of 7, and less to compile on a device")
    add("--peer", type=Path, help="a checkout of the published code")
    add("--parts", nargs="+", choices=PARTS, help="default: all")
    add("--device", choices=["cuda", "cpu"], help="measure what this device does, instead of the parts")
    add("--config", type=Path, default=CONFIG, help="for --device: whose networks (default: vox-256)")
    options = parser.parse_args(argv)
    if options.device and (options.peer or options.parts):
        parser.error("--device measures other things than --peer and --parts; leave them out")
    found, table, notes = machine(), [], []
    if options.device:
        device = pick_device(options.device).type
        table = measure_device(device, options.config.resolve(), options.quick)
        notes = [f"Tests marked `cuda`: {marked_tests()}"]
    for name in () if options.device else options.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            peer = None if options.peer is None else options.peer.resolve()
            table += PARTS[name](peer, 3 if options.quick else 7, Path(folder))
    described = ", ".join(f"{name} {value}" for name, value in found.items())
    print(described, as_markdown(table), *notes, sep="\n\n")


if __name__ == "__main__":
    main()
