"""How fast this machine is: one table of frames, training steps, samples and memory.

    python -m benchmarks [--quick] [--peer CHECKOUT] [--json FILE] [--parts frame demo ...]

Each line is a process of its own, and those of a part take turns. "ratio" says how many times as fast a line
is as the first of its part. CHECKOUT is one of the published code, which is the first line then:
https://github.com/AliaksandrSiarohin/first-order-model. `python -m benchmarks.paste FILE` puts what was
measured into the documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch

from tools.benchmarks.data import write_dataset
from tools.benchmarks.table import Row, as_text
from tools.benchmarks.turns import Measured, beside_a_busy_core, take_turns
from utils.device import best_precision, cpu_has

ROOT = Path(__file__).resolve().parents[2]
PEER = Path(__file__).with_name("peer.py")
PUBLISHED = "published code"
CLIP_FRAMES, CLIP_SIZE = 60, (1080, 1920)

Command = list[str]

# ---- Commands of workers -------------------------------------------------------


def job(name: str, *arguments: Path) -> Command:
    return [sys.executable, "-m", "benchmarks.jobs", name, *map(str, arguments)]


def in_bf16(label: str, name: str) -> dict[str, Command]:
    """The job with its label, where this processor computes in bf16; elsewhere a step takes minutes."""
    return {label: job(name)} if best_precision(torch.device("cpu")) == "bf16" else {}


def with_peer(peer: Path | None, name: str, commands: dict[str, Command], *arguments: Path) -> dict:
    """The commands, after that of the published code if there is a checkout."""
    if peer is None:
        return commands
    return {PUBLISHED: [sys.executable, str(PEER), str(peer), name, *map(str, arguments)], **commands}


def rows(part: str, unit: str, measured: dict[str, Measured]) -> list[Row]:
    """A row for each variant, compared with the first."""
    first = next(iter(measured))
    return [
        Row(part, name, *value, unit, first, measured[first].median / value.median)
        for name, value in measured.items()
    ]


# ---- Parts ---------------------------------------------------------------------


def frame_part(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    commands = {
        "plain networks": job("vox-plain"),
        "fast form (default)": job("vox-fast"),
        "fast form, --batch_size 2": job("vox-batch2"),
        **in_bf16("fast form, --precision bf16", "vox-bf16"),
    }
    measured = take_turns(with_peer(peer, "frames", commands), ROOT, rounds)
    return rows("frame of vox-256", "ms", measured)


def load_part(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    commands = {"model in sup-mat/": job("bundled"), "vox-256": job("vox-fast")}
    result = []
    for name, (quiet, busy) in beside_a_busy_core(commands, ROOT, rounds).items():
        result += rows(f"frame, {name}", "ms", {"quiet machine": quiet, "one core busy": busy})
    return result


def demo_part(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    clip = folder / "driving.mp4"
    write_clip(clip)
    return rows(
        "1080p video, model in sup-mat/", "ms a frame", take_turns({"demo": job("demo", clip)}, ROOT, rounds)
    )


def step_part(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    commands = {"fp32": job("step-fp32"), **in_bf16("--precision bf16", "step-bf16")}
    return rows("training step of vox-256", "ms", take_turns(with_peer(peer, "step", commands), ROOT, rounds))


def sample_part(peer: Path | None, rounds: int, folder: Path) -> list[Row]:
    write_dataset(folder, 4)
    result = []
    for kind, name in (("x264", "mp4"), ("png", "png")):
        commands = with_peer(peer, "samples", {"this project": job("samples", folder / kind)}, folder / kind)
        result += rows(f"training sample, {name}", "ms", take_turns(commands, ROOT, rounds))
    return result


PARTS: dict[str, Callable[[Path | None, int, Path], list[Row]]] = {
    "frame": frame_part,
    "load": load_part,
    "demo": demo_part,
    "step": step_part,
    "sample": sample_part,
}


def write_clip(path: Path) -> None:
    """A texture that moves, in the size of a camera's video."""
    height, width = CLIP_SIZE
    coarse = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    picture = np.kron(coarse, np.ones((20, 20, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(CLIP_FRAMES):
            frame = np.roll(picture, (3 * number, 7 * number), axis=(0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


# ---- The run -------------------------------------------------------------------


def machine() -> dict[str, str]:
    """What was measured on."""
    capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()  # not there before torch 2.9
    sets = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if cpu_has(name)]
    return {
        "processor": str(capabilities.get("cpu_name") or platform.processor() or platform.machine()),
        "cores": str(os.cpu_count()),
        "instructions": " ".join(sets) or torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 7")
    parser.add_argument("--peer", type=Path, help="a checkout of the published code")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to a file")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    options = parser.parse_args(argv)
    peer = None if options.peer is None else options.peer.resolve()
    found = machine()
    measured: list[Row] = []
    for name in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            measured += PARTS[name](peer, 3 if options.quick else 7, Path(folder))
    print(as_text(found, measured))
    if options.json is not None:
        content = {"machine": found, "rows": [row._asdict() for row in measured]}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
