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
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
PARTS = ("frame", "demo", "step", "sample")
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


def published(peer: Path | None, name: str, *arguments: Path) -> dict[str, Command]:
    """Return the command of a checkout of the published code, if there is one."""
    if peer is None:
        return {}
    words = [sys.executable, PEER, peer, name, *arguments]
    return {"published code": Command([*map(str, words)], {"PYTHONPATH": str(peer)})}


# ---- What takes turns ------------------------------------------------------------

Group = tuple[str, str, dict[str, Command]]  # a part of the table, its unit, and what takes turns


def part_groups(parts: Sequence[str], peer: Path | None, folder: Path) -> Iterator[Group]:
    """Yield the groups of the parts; `folder`: for the clips that they read."""
    if "frame" in parts:
        # Other engines are measured beside the networks that they run, where they are installed.
        engines = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]
        yield (
            "frame of vox-256",
            "ms",
            {
                **published(peer, "frames"),
                "plain networks": job("vox_frames", "plain"),
                "fast form (default)": job("vox_frames", "fast"),
                "fast form, --batch_size 2": job("vox_frames", "fast", 2),
                **in_bf16("fast form, --precision bf16", job("vox_frames", "bf16")),
                **{
                    f"plain networks, exported, {engine}": job("exported_frames", engine)
                    for engine in engines
                },
            },
        )
    if "demo" in parts:
        write_camera_clip(clip := folder / "driving.mp4")
        yield (
            "frame, model in sup-mat/",
            "ms",
            {
                "networks alone": job("bundled_frames"),
                "demo, from a 1080p video": job("demo_frames", clip),
            },
        )
    if "step" in parts:
        yield (
            "training step of vox-256",
            "ms",
            {
                **published(peer, "step"),
                "fp32": job("training_step", "cpu", CONFIG, "plain", "fp32", 1),
                **in_bf16("--precision bf16", job("training_step", "cpu", CONFIG, "plain", "bf16", 1)),
            },
        )
    if "sample" in parts:
        write_dataset(folder, clips=4)
        for kind in ("mp4", "png"):
            by_workers = {f"loaded by workers: {n}": job("loaded_samples", folder / kind, n) for n in (1, 2)}
            yield (
                f"training sample, {kind}",
                "ms",
                {
                    **published(peer, "samples", folder / kind),
                    "this project": job("samples", folder / kind),
                    **by_workers,
                },
            )


def device_groups(device: str, config: Path, quick: bool) -> Iterator[Group]:
    """Yield what is measured on a device, the most telling first."""
    for kind in ("mean", "largest"):
        commands = {name: job("differences", device, name, kind) for name in (EXACT, *PRECISIONS)}
        yield f"{kind} difference to fp32 on the CPU, model in sup-mat/", "levels of 255", commands
    for batch_size, precision, turns in itertools.product((1, 8), PRECISIONS, FRAME_FORMS):
        commands = {
            f"{form}, {precision}": job("device_frames", device, config, form, precision, batch_size)
            for form in turns
            if is_wanted(form, precision, device, quick)
        }
        yield f"frame of {config.stem}, {batch_size} at a time", "ms", commands
    for batch_size, precision, form in itertools.product((4,) if quick else (4, 16), PRECISIONS, STEP_FORMS):
        if is_wanted(form, precision, device, quick):  # one at a time, as each takes gigabytes
            command = job("training_step", device, config, form, precision, batch_size)
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


def measure(groups: Iterable[Group], rounds: int, seconds: float, limit: float = LIMIT) -> list[Row]:
    """Measure groups, each for `limit` seconds at most; those that `seconds` don't suffice for say so."""
    end = time.monotonic() + seconds
    table: list[Row] = []
    for part, unit, commands in groups:
        found: Mapping[str, Timing | str] = dict.fromkeys(commands, "no time was left")
        if (left := min(limit, end - time.monotonic())) > 0:
            found = take_turns(commands, ROOT, rounds, left)
        table += [Row(part, name, measured, unit) for name, measured in found.items()]
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
    found, notes, rounds = machine(), [], 3 if options.quick else 7
    if options.device:
        device, config = pick_device(options.device).type, options.config.resolve()
        times = (QUICK, GROUP) if options.quick else (WHOLE, WHOLE)
        table = measure(device_groups(device, config, options.quick), rounds, *times)
        notes = [f"Tests marked `cuda`: {marked_tests()}"]
    else:
        peer = options.peer and options.peer.resolve()
        with tempfile.TemporaryDirectory() as folder:
            groups = part_groups(options.parts or PARTS, peer, Path(folder))
            table = measure(groups, rounds, math.inf)
    described = ", ".join(f"{name} {value}" for name, value in found.items())
    print(described, as_markdown(table), *notes, sep="\n\n")


if __name__ == "__main__":
    main()
