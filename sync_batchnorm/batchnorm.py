"""Batch norm whose statistics span all shares of a batch that is split over devices or processes.

`B` batch (of one share), `C` channels, `*` any further axes, `R` number of shares. Names and shapes are those
of `nn.BatchNorm*`: they are the checkpoint format.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as NativeSyncBatchNorm

from sync_batchnorm.exchange import GatherOverRanks, ReplicaExchange

Module = TypeVar("Module", bound=nn.Module)


class Place(NamedTuple):
    """A replica's place in an exchange. Replica 0 has the original module's buffers and updates them."""

    exchange: ReplicaExchange
    replica: int


def combine_shares(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Combine the means and sums of squared deviations of parts (Chan, Golub and LeVeque, 1979).

    `rows`: (R, 2C + 1), each a part's C means, C sums, and count. Returns the whole's (C,), (C,) and ().
    Nothing cancels when the mean is large, as in E[x^2] - E[x]^2.
    """
    channels = rows.size(1) // 2
    means, m2s, counts = rows.split([channels, channels, 1], dim=1)  # (R, C), (R, C), (R, 1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total  # (C,)
    m2 = m2s.sum(0) + (counts * (means - mean).square()).sum(0)  # (C,)
    return mean, m2, total


class _SynchronizedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A mixin in front of an `nn.BatchNorm*`, which makes its public layer."""

    _place: Place | None = None  # set on the copies that run as replicas, never on the original

    def forward(self, x: Tensor) -> Tensor:  # (B, C, *) -> (B, C, *)
        if not self.training or (self._place is None and not _in_process_group()):
            return super().forward(x)
        self._check_input_dim(x)
        if self._place is None and x.is_cuda:
            return self._native(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalise_with_peers(x)

    def _native(self, x: Tensor) -> Tensor:
        """Normalise with PyTorch's own kernels for ranks on GPUs."""
        mean, var, factor = None, None, 0.0
        if self.track_running_stats:
            mean, var, factor = self.running_mean, self.running_var, self._count_batch()
        group = dist.group.WORLD
        return NativeSyncBatchNorm.apply(
            x, self.weight, self.bias, mean, var, self.eps, factor, group, dist.get_world_size(group)
        )

    def _normalise_with_peers(self, x: Tensor) -> Tensor:
        """Centre values near this share's mean in float32 or better; combine statistics in float64."""
        dims = [0, *range(2, x.dim())]
        count = x.numel() // x.size(1)
        full = x.to(torch.promote_types(x.dtype, torch.float32))
        # A constant near the mean, which is 0 for an empty share.
        pivot = full.detach().sum(dims, keepdim=True) / max(count, 1)  # (1, C, 1...)
        centred = full - pivot  # (B, C, *)

        pivot = pivot.flatten()  # (C,)
        residue = centred.sum(dims).double() / max(count, 1)  # (C,), what rounding left out of the pivot
        m2 = centred.square().sum(dims).double() - count * residue.square()  # (C,)
        rows = self._gather(torch.cat([pivot + residue, m2, m2.new_full((1,), count)]))  # (R, 2C + 1)
        mean, m2, total = combine_shares(rows)
        if count <= 1 and total <= 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {list(x.shape)}"
            )
        if self.track_running_stats and (self._place is None or self._place.replica == 0):
            self._update_running_statistics(mean, m2 / (total - 1))

        # y = weight * (x - mean) / std + bias, with x = pivot + centred.
        scale = (m2 / total + self.eps).rsqrt()  # (C,)
        scale = scale if self.weight is None else scale * self.weight
        shift = (pivot - mean) * scale
        shift = shift if self.bias is None else shift + self.bias
        shape = [1, -1] + [1] * (x.dim() - 2)
        y = torch.addcmul(shift.to(full.dtype).view(shape), centred, scale.to(full.dtype).view(shape))
        return y.to(x.dtype)  # (B, C, *)

    def _gather(self, row: Tensor) -> Tensor:
        if self._place is None:
            return GatherOverRanks.apply(row)
        return self._place.exchange.gather(self._place.replica, row)

    def _count_batch(self) -> float:
        """Count this forward pass; return its weight in the running statistics."""
        assert self.num_batches_tracked is not None  # where running statistics are tracked
        self.num_batches_tracked.add_(1)
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor) -> None:
        factor = self._count_batch()
        for running, value in ((self.running_mean, mean), (self.running_var, var)):
            assert running is not None
            running.lerp_(value.to(running.dtype), factor)


class SynchronizedBatchNorm1d(_SynchronizedBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all replicas or ranks: input (B, C) or (B, C, L). See the package docstring."""


class SynchronizedBatchNorm2d(_SynchronizedBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all replicas or ranks: input (B, C, H, W). See the package docstring."""


class SynchronizedBatchNorm3d(_SynchronizedBatchNorm, nn.BatchNorm3d):
    """`nn.BatchNorm3d` over all replicas or ranks: input (B, C, D, H, W). See the package docstring."""


def _in_process_group() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


# ---- Replicas ----------------------------------------------------------------


class DataParallelWithCallback(nn.DataParallel):
    """`nn.DataParallel` whose replicas' synchronised batch norms see one another. Same arguments."""

    def parallel_apply(
        self, replicas: Sequence[nn.Module], inputs: Sequence[tuple], kwargs: Sequence[dict]
    ) -> list:
        return run_replicas(replicas, inputs, kwargs, apply=super().parallel_apply)


def replicate_on_cpu(module: Module, count: int) -> list[Module]:
    """Return `count` copies with the parameters of `module` itself; the first has its buffers too."""
    parameters = {id(parameter): parameter for parameter in module.parameters()}
    buffers = {id(buffer): buffer for buffer in module.buffers()}
    return [copy.deepcopy(module, parameters | (buffers if i == 0 else {})) for i in range(count)]


def apply_in_threads(modules: Sequence[Callable], inputs: Sequence[tuple], kwargs: Sequence[dict]) -> list:
    """Call modules on the CPU, each in its own thread and in the caller's grad mode; return the outputs."""
    grad_enabled = torch.is_grad_enabled()

    def call(module: Callable, arguments: tuple, named: dict) -> object:
        with torch.set_grad_enabled(grad_enabled):
            return module(*arguments, **named)

    with ThreadPoolExecutor(len(modules)) as pool:
        return list(pool.map(call, modules, inputs, kwargs))


def run_replicas(
    replicas: Sequence[nn.Module],
    inputs: Sequence[tuple],
    kwargs: Sequence[dict],
    apply: Callable = apply_in_threads,
) -> list:
    """Run one forward pass of replicas whose synchronised batch norms see one another; return their outputs.

    The first replica has the buffers of the original. `apply` calls all in concurrent threads. Raises the
    first exception of any.
    """
    if len(replicas) == 1:
        return apply(replicas, inputs, kwargs)
    exchange = ReplicaExchange(len(replicas))
    for i, replica in enumerate(replicas):
        for layer in replica.modules():
            if isinstance(layer, _SynchronizedBatchNorm):
                layer._place = Place(exchange, i)
    outputs = apply([partial(exchange.run, i, replica) for i, replica in enumerate(replicas)], inputs, kwargs)
    if exchange.error is not None:
        raise exchange.error
    return outputs


# ---- Conversion --------------------------------------------------------------

SYNCHRONISED = {
    nn.BatchNorm1d: SynchronizedBatchNorm1d,
    nn.BatchNorm2d: SynchronizedBatchNorm2d,
    nn.BatchNorm3d: SynchronizedBatchNorm3d,
    nn.DataParallel: DataParallelWithCallback,
}


def convert_model(module: nn.Module) -> nn.Module:
    """Make every `nn.BatchNorm*` and `nn.DataParallel` in `module` synchronised, in place, and return it.

    Each changes its class and keeps everything else, so optimisers stay valid. Subclasses are left alone.
    """
    for part in module.modules():
        part.__class__ = SYNCHRONISED.get(type(part), type(part))
    return module
