"""The device of a run, its precision and its memory."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

import torch

from utils.distributed import in_torchrun
from utils.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def denormals_flushed(wanted: bool) -> Iterator[None]:
    """Take numbers too small for float32 as 0 within the block, if `wanted`.

    The softmax of heatmaps underflows, and a CPU takes five times as long over such gradients. Threads take
    this on from the one that starts them, so the block begins before the first of PyTorch's.
    """
    torch.set_flush_denormal(wanted)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def pick_device(name: str | None = None, device_ids: Sequence[int] | None = None) -> torch.device:
    """Return the device called `name`, or the best; GPUs by torchrun's rank or `device_ids`.

    Raises `UserError` for a device that isn't there.
    """
    if name is None:
        cuda_wanted = torch.cuda.is_available() or device_ids is not None
        name = "cuda" if cuda_wanted else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            "--device mps: this machine has no Apple GPU that PyTorch can use; leave --device out or use cpu"
        )
    if name != "cuda":
        return torch.device(name)
    count = torch.cuda.device_count()
    if count == 0:
        raise UserError(
            "no CUDA device: PyTorch finds no NVIDIA GPU; leave out --device and --device_ids, or use cpu"
        )
    wanted = [int(os.environ["LOCAL_RANK"])] if in_torchrun() else device_ids or [0]
    absent = [index for index in wanted if index >= count]
    if absent:
        raise UserError(
            f"no CUDA device {absent[0]}: this machine has {count}, numbered from 0; change --device_ids"
        )
    return torch.device("cuda", wanted[0])


def best_precision(device: torch.device) -> str:
    """Return the narrowest precision that is fast on `device` and can't overflow: "bf16" or "fp32"."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if device.type == "cpu":
        # Of Intel's processors those without AMX are slower in bf16, though they have instructions for it.
        return "bf16" if cpu_has("amx_bf16") or (cpu_is_amd() and cpu_has("avx512_bf16")) else "fp32"
    return "fp32"


def precision_hints(device: torch.device, precision: str) -> list[str]:
    """Return a line for the user if a precision may be far slower than fp32 on this processor."""
    if device.type != "cpu" or precision in ("fp32", best_precision(device)):
        return []
    return [f"--precision {precision}: this processor is not known to compute in it; fp32 may be far faster"]


def cpu_has(feature: str) -> bool:
    """Say whether the processor has an instruction set, by PyTorch's name for it, such as "amx_bf16"."""
    return bool(cpu_capabilities().get(feature))


def cpu_is_amd() -> bool:
    return "AMD" in str(cpu_capabilities().get("cpu_name"))


def cpu_capabilities() -> dict:
    return getattr(torch.cpu, "get_capabilities", dict)()  # not there before torch 2.9


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Let networks compute in `precision` within the block; "fp32" changes nothing."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mib(device: torch.device) -> float | None:
    """Return the peak memory in MiB of the device (on the CPU: of this process), or None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource  # Windows has no such module
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10  # getrusage counts bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
