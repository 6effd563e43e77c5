"""Peak memory of the demo against the length of the driving video, and the time to its first frame.

    python -m benchmarks.demo_memory [--short 300] [--long 3000] [--rounds 5]

The model is that of config/puppets-128.yaml with random weights; source and driving video are 256×256. Each
figure is that of a process of its own, from the start of Python. Memory is the largest resident set. With
`--relative --find_best_frame --side_by_side` the video is read twice; with `--every_option` it is smoothed,
cut, enlarged, pasted into a background that is a video, and its motion is saved. The first frame is there
when the demo reports it as written; the time is the median over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from media.pictures import write_image
from media.writer import VideoWriter
from modules.build import build_generator, build_kp_detector, read_config
from tools.benchmarks.processes import ROOT

CONFIG = ROOT / "config" / "puppets-128.yaml"
SIZE = 256


def write_inputs(folder: Path, lengths: list[int]) -> None:
    """A checkpoint, a source picture, and for each of `lengths` a video of a texture that drifts."""
    torch.manual_seed(0)
    config = read_config(CONFIG)
    networks = {"generator": build_generator(config), "kp_detector": build_kp_detector(config)}
    torch.save({name: network.state_dict() for name, network in networks.items()}, folder / "model.pth.tar")
    coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    texture = coarse.repeat(SIZE // 16, axis=0).repeat(SIZE // 16, axis=1)  # (SIZE, SIZE, 3)
    write_image(folder / "source.png", texture)
    for length in lengths:
        with VideoWriter(folder / f"{length}.mp4", fps=25) as writer:
            for number in range(length):
                writer.write(np.roll(texture, number, axis=1))


def start_demo(folder: Path, length: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "demo.py"), "--cpu"]
    command += ["--config", str(CONFIG), "--checkpoint", "model.pth.tar"]
    command += ["--source_image", "source.png", "--driving_video", f"{length}.mp4", *options]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


FEW = ("--relative", "--find_best_frame", "--side_by_side")
MANY = (
    *("--relative", "--adapt_scale", "--find_best_frame", "--smooth", "--size", "256"),
    *("--crop_source", "20,20,236,236", "--crop_driving", "10,10,246,246", "--paste_back"),
    *("--save_motion", "motion.npz", "--background", "background.mp4", "--batch_size", "2"),
)


def peak_memory(folder: Path, length: int, options: tuple[str, ...]) -> float:
    """The peak of a whole run in MiB, where the system counts it in KiB, as Linux does."""
    process = start_demo(folder, length, *options)
    assert process.stderr is not None and process.stdout is not None
    err, out = process.stderr.read(), process.stdout.read()  # a few lines, which fit into the pipes
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(err)
    print(
        f"{length:6d} frames: peak {usage.ru_maxrss / 1024:7.1f} MiB   ({out.splitlines()[-1]})", flush=True
    )
    return usage.ru_maxrss / 1024


def seconds_to_first_frame(folder: Path, length: int) -> float:
    started = time.perf_counter()
    process = start_demo(folder, length)
    assert process.stderr is not None
    if not any(line.startswith("animation: 1/") for line in process.stderr):
        raise RuntimeError("the demo wrote no frame")
    seconds = time.perf_counter() - started
    process.terminate()
    process.communicate()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", type=int, default=300, help="frames (default: 300)")
    parser.add_argument("--long", type=int, default=3000, help="frames (default: 3000)")
    parser.add_argument("--rounds", type=int, default=5, help="first frames to measure (default: 5)")
    parser.add_argument("--every_option", action="store_true", help="with all that the demo can do")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, [options.short, options.long])
        (folder / "background.mp4").symlink_to(f"{options.short}.mp4")
        times = [seconds_to_first_frame(folder, options.short) for _ in range(options.rounds)]
        print(
            f"first frame after {statistics.median(times):.2f} s (from {min(times):.2f} to {max(times):.2f})",
            flush=True,
        )
        used = MANY if options.every_option else FEW
        short, long = (peak_memory(folder, length, used) for length in (options.short, options.long))
        print(f"{options.long} frames take {long / short - 1:+.1%} of the memory of {options.short}")


if __name__ == "__main__":
    main()
