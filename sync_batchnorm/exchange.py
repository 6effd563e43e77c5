"""The two ways in which the shares of one batch meet: replicas in threads, and ranks of a process group.

Both give each of `R` shares the rows of `S` statistics of all, as an operation that autograd sees.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class ReplicaExchange:
    """Let replicas that run in threads see one another's rows, for one forward pass in one autograd graph.

    A replica that raises, or that returns without reaching a layer where others wait, ends the wait of all;
    `error` is the first exception.
    """

    def __init__(self, replicas: int) -> None:
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        # By replica: a row for each gather so far.
        self._given: list[list[Tensor]] = [[] for _ in range(replicas)]
        self._running = [True] * replicas

    def run(self, replica: int, module: Callable, *inputs: Any, **kwargs: Any) -> Any:
        """Call `module(*inputs, **kwargs)` as number `replica`; an exception goes to `error`."""
        try:
            return module(*inputs, **kwargs)
        except BaseException as error:
            with self._changed:
                self.error = error if self.error is None else self.error
        finally:
            with self._changed:
                self._running[replica] = False
                self._changed.notify_all()

    def gather(self, replica: int, row: Tensor) -> Tensor:
        """Return the n-th row of each replica at the n-th call of this one: (S,) -> (R, S)."""
        with self._changed:
            turn = len(self._given[replica])
            self._given[replica].append(row)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._complete(turn) or self._impossible(turn))
            if not self._complete(turn):
                raise RuntimeError(
                    f"replica {replica} waited in a synchronised batch norm that another never reached"
                )
            rows = [given[turn] for given in self._given]
        return torch.stack([other.to(row.device) for other in rows])

    def _complete(self, turn: int) -> bool:
        return all(len(given) > turn for given in self._given)

    def _impossible(self, turn: int) -> bool:
        gone = any(
            len(given) <= turn and not runs for given, runs in zip(self._given, self._running, strict=True)
        )
        return self.error is not None or gone


class GatherOverRanks(torch.autograd.Function):
    """Gather the row of each rank of the default process group: (S,) -> (R, S).

    A row's gradient is that of the sum of all ranks' losses, so all must run the backward pass.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, row: Tensor) -> Tensor:
        rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, row)
        return torch.stack(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_rows: Tensor) -> Tensor:
        total = grad_rows.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]
