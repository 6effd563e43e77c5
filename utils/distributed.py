"""The processes that torchrun started, and the group that they form."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import torch
import torch.distributed as dist

from utils.errors import UserError, one_line
from utils.values import integer


def in_torchrun() -> bool:
    """Say whether `torchrun` started this process. Raises `UserError` where its variables are incomplete."""
    if "LOCAL_RANK" not in os.environ:
        return False
    if "MASTER_ADDR" not in os.environ:
        raise UserError(
            "LOCAL_RANK is set, but not MASTER_ADDR; unset it, or start with torchrun, which sets all"
        )
    limits = {"LOCAL_WORLD_SIZE": 1, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "RANK": 0, "MASTER_PORT": 1}
    for name, least in limits.items():
        value = os.environ.get(name, "1" if name == "LOCAL_WORLD_SIZE" else "")
        most = 65535 if name == "MASTER_PORT" else 10**9
        try:
            integer(value, least, most)
        except ValueError as error:
            raise UserError(
                f"LOCAL_RANK is set, and {name}={error}; unset it, or start with torchrun, which sets all"
            ) from None
    if int(os.environ["RANK"]) >= int(os.environ["WORLD_SIZE"]):
        raise UserError("RANK must be below WORLD_SIZE; start with torchrun, which sets both")
    return True


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes that `torchrun` started, if it did, for the time of the block."""
    if not in_torchrun():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    try:
        socket.getaddrinfo(address, int(port))  # PyTorch asks for half an hour
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (OSError, ValueError, dist.DistError) as error:
        raise UserError(
            f"the process group at MASTER_ADDR {address}, MASTER_PORT {port} can't be joined "
            f"({one_line(error)}); unset LOCAL_RANK, or start with torchrun, which sets all"
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
