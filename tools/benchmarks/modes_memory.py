"""Peak memory of reconstruction and animation (run.py) for a clip of 100 and of 2,000 frames.

    python -m benchmarks.modes_memory

A small untrained model at 64×64, each mode and length in a process of its own. The strip of predictions is
the one thing that grows with the clip, by frames · 64 · 64 · 3 bytes; "rest" is the growth without it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import run
from media.writer import VideoWriter
from modules.build import build_generator, build_kp_detector
from tests.clips import write_clip
from tests.small import small_config, write_config
from tools.benchmarks.processes import peak_memory, run_alone

SIZE = 64
LENGTHS = (100, 2000)


def prepare(folder: Path, frames: int) -> None:
    """A data folder with one test clip, a config, and a checkpoint of fresh weights."""
    write_clip(folder / "data/train/a", seed=0, size=SIZE)
    (folder / "data/test").mkdir()
    wave = np.linspace(0, 2 * np.pi, SIZE)
    with VideoWriter(folder / "data/test/b.mp4", fps=25) as writer:
        for i in range(frames):
            row = (127 + 120 * np.sin(wave + i / 10)).astype(np.uint8)
            writer.write(np.repeat(np.repeat(row[None, :, None], SIZE, axis=0), 3, axis=2))
    config = small_config(
        {"dataset_params.root_dir": str(folder / "data"), "dataset_params.frame_shape": [SIZE, SIZE, 3]}
    )
    write_config(folder / "tiny.yaml", config)
    networks = {"generator": build_generator(config), "kp_detector": build_kp_detector(config)}
    torch.save({name: network.state_dict() for name, network in networks.items()}, folder / "weights.pth.tar")


def peak_of(mode: str, folder: str) -> float:
    """MiB at the peak of this process for the mode."""
    checkpoint = ["--checkpoint", f"{folder}/weights.pth.tar"]
    run.main([f"{folder}/tiny.yaml", "--mode", mode, *checkpoint, "--device", "cpu"])
    return peak_memory()


def main() -> None:
    if len(sys.argv) == 3:
        print(peak_of(*sys.argv[1:]))
        return
    lengths = "".join(f"{f'{frames} frames':>14}" for frames in LENGTHS)
    print(f"{'MiB':16}{lengths}{'growth':>10}{'strip':>8}{'rest':>8}")
    for mode in ("reconstruction", "animate"):
        peaks = []
        for frames in LENGTHS:
            with tempfile.TemporaryDirectory() as folder:
                prepare(Path(folder), frames)
                out = run_alone("benchmarks.modes_memory", mode, folder)
                peaks.append(float(out.splitlines()[-1]))
        growth, strip = peaks[1] - peaks[0], (LENGTHS[1] - LENGTHS[0]) * SIZE * SIZE * 3 / 2**20
        print(f"{mode:16}{peaks[0]:14.0f}{peaks[1]:14.0f}{growth:10.1f}{strip:8.1f}{growth - strip:8.1f}")


if __name__ == "__main__":
    main()
