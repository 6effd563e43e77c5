"""Measure how fast this machine is: a Markdown table of frames, training steps, samples and memory.

    python -m tools.benchmarks [--quick] [--peer CHECKOUT] [--parts frame demo ...]

Each line is a process of its own, and those of a part take turns. "ratio" says how many times as fast a line
is as the first of its part. CHECKOUT is one of the published code, which is the first line then:
https://github.com/AliaksandrSiarohin/first-order-model. The table of docs/performance.md is made with it.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from tools.benchmarks.drawn_clips import write_camera_clip, write_dataset
from tools.benchmarks.turns import Command, take_turns
from utils.device import best_precision, cpu_has
from utils.options import OptionParser
from utils.program import command_line

ROOT = Path(__file__).resolve().parents[2]
PEER = Path(__file__).with_name("peer.py")
PUBLISHED = "published code"
HEADINGS = ["", "variant", "median", "range", "ratio", "memory"]


class Row(NamedTuple):
    """A line of the table: a variant's median and range in `unit`, peak memory in MiB, and its ratio."""

    part: str
    variant: str
    median: float
    least: float
    most: float
    peak: float
    unit: str
    ratio: float  # how many times as fast as the first variant of the part; 1 for that one itself

    def cells(self) -> list[str]:
        digits = 0 if self.median >= 100 else 1
        spread = f"{self.least:.{digits}f}–{self.most:.{digits}f}"
        median, ratio = f"{self.median:.{digits}f} {self.unit}", f"{self.ratio:.2f}×"
        return [self.part, self.variant, median, spread, ratio, f"{self.peak:.0f} MiB"]


# ---- Commands of the workers ---------------------------------------------------


def job(name: str, *arguments: Path) -> Command:
    return Command([sys.executable, "-m", "tools.benchmarks.jobs", name, *map(str, arguments)])


def in_bf16(label: str, name: str) -> dict[str, Command]:
    """Return the job with its label where the processor computes in bf16; elsewhere a step takes minutes."""
    return {label: job(name)} if best_precision(torch.device("cpu")) == "bf16" else {}


def with_peer(
    peer: Path | None, name: str, commands: dict[str, Command], *arguments: Path
) -> dict[str, Command]:
    """Put the published code's command first, if there is a checkout of it."""
    if peer is None:
        return commands
    arguments_of_peer = [sys.executable, str(PEER), str(peer), name, *map(str, arguments)]
    return {PUBLISHED: Command(arguments_of_peer, {"PYTHONPATH": str(peer)}), **commands}


def rows(part: str, unit: str, commands: Mapping[str, Command], rounds: int) -> list[Row]:
    """Measure the commands of a part in turn, and compare each with the first."""
    timings = take_turns(commands, ROOT, rounds)
    first = next(iter(timings.values()))
    return [Row(part, name, *timing, unit, first.median / timing.median) for name, timing in timings.items()]


# ---- Parts ---------------------------------------------------------------------


def measure_frames(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    # Other engines are measured beside the networks that they run, where they are installed.
    engines = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]
    commands = {
        "plain networks": job("vox-plain"),
        "fast form (default)": job("vox-fast"),
        "fast form, --batch_size 2": job("vox-batch2"),
        **in_bf16("fast form, --precision bf16", "vox-bf16"),
        **{f"plain networks, exported, {engine}": job(f"vox-{engine}") for engine in engines},
    }
    return rows("frame of vox-256", "ms", with_peer(peer, "frames", commands), rounds)


def measure_demo(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    clip = folder / "driving.mp4"
    write_camera_clip(clip)
    commands = {"networks alone": job("bundled"), "demo, from a 1080p video": job("demo", clip)}
    return rows("frame, model in sup-mat/", "ms", commands, rounds)


def measure_steps(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    commands = {"fp32": job("step-fp32"), **in_bf16("--precision bf16", "step-bf16")}
    return rows("training step of vox-256", "ms", with_peer(peer, "step", commands), rounds)


def measure_samples(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    write_dataset(folder, clips=4)
    result = []
    for kind in ("mp4", "png"):
        commands = with_peer(peer, "samples", {"this project": job("samples", folder / kind)}, folder / kind)
        result += rows(f"training sample, {kind}", "ms", commands, rounds)
    return result


PARTS: dict[str, Callable[[Path | None, int, Path], list[Row]]] = {
    "frame": measure_frames,
    "demo": measure_demo,
    "step": measure_steps,
    "sample": measure_samples,
}


# ---- The table -----------------------------------------------------------------


def as_markdown(table: list[Row]) -> str:
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(row.cells() for row in table)]
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
    add("--quick", action="store_true", help="3 rounds instead of 7")
    add("--peer", type=Path, help="a checkout of the published code")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    options = parser.parse_args(argv)
    peer = None if options.peer is None else options.peer.resolve()
    found = machine()
    table: list[Row] = []
    for name in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            table += PARTS[name](peer, 3 if options.quick else 7, Path(folder))
    print(", ".join(f"{name} {value}" for name, value in found.items()), as_markdown(table), sep="\n\n")


if __name__ == "__main__":
    main()
