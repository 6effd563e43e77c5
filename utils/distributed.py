"""The processes that torchrun started, and the group that they form."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from utils.errors import UserError, one_line
from utils.values import integer

Found = TypeVar("Found")


# ---- Meeting -------------------------------------------------------------------


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


def job_id() -> str | None:
    """Return the name of torchrun's job, which its restarted processes share, or None without one.

    Raises `UserError` where processes would be restarted that can't know their job.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none") if in_torchrun() else "none"
    if name == "none" and in_torchrun() and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise UserError(
            "torchrun --max-restarts needs an --rdzv_id of this job alone, such as Slurm's number, by which "
            "restarted processes find their run"
        )
    return None if name == "none" else name


def meet() -> tuple[dist.Store, int, int]:
    """Return a store that all processes of torchrun share, this one's rank, and their number.

    Without torchrun it is a store of this process. Raises `UserError` where the others can't be reached.
    """
    if not in_torchrun():
        return dist.HashStore(), 0, 1
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    try:
        socket.getaddrinfo(address, int(port))  # PyTorch asks for half an hour
        store, rank, size = next(rendezvous("env://"))
        return dist.PrefixStore(_token_of_round(store, rank, size), store), rank, size
    except (OSError, ValueError, dist.DistError) as error:
        raise UserError(
            f"the process group at MASTER_ADDR {address}, MASTER_PORT {port} can't be joined "
            f"({one_line(error)}); unset LOCAL_RANK, or start with torchrun, which sets all"
        ) from error


def _token_of_round(store: dist.Store, rank: int, size: int) -> str:
    """Return a word that these processes share, and none that torchrun has restarted since.

    torchrun's store outlives its processes. By what the dead ones left in it, new ones would wait for them.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"asks/{rank}", own)
        token = store.get(f"answer/{own}").decode()
        store.add(f"heard/{token}", 1)
        return token
    while store.add(f"heard/{own}", 0) < size - 1:
        # A question may be that of a process that is dead by now, and be replaced.
        for other in range(1, size):
            if store.check([f"asks/{other}"]):
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", own)
        time.sleep(0.02)
    return own


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes that `torchrun` started, if it did, for the time of the block.

    Raises `UserError` where they can't be reached, or end within it.
    """
    if not in_torchrun():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = meet()
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size
        )
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            f"another process of torchrun ended, or can't be reached ({one_line(error)}); see what it says"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def by_first_rank(find: Callable[[], Found]) -> Found:
    """Return what `find` finds for rank 0: to another machine a shared folder may look older."""
    found = [find() if rank() == 0 else None]
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]


def rank() -> int:
    if dist.is_initialized():
        return dist.get_rank()
    return int(os.environ["RANK"]) if in_torchrun() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
