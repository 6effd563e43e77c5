"""Batch norm over a batch that is split over devices or processes, with the results for the whole batch.

    from sync_batchnorm import DataParallelWithCallback, convert_model
    model = DataParallelWithCallback(convert_model(model), device_ids=[0, 1])

`SynchronizedBatchNorm1d/2d/3d` are subclasses of `nn.BatchNorm1d/2d/3d` with the same constructor and
`state_dict`.
- In eval mode, or with one device and no process group, they are `nn.BatchNorm*`: the same code runs.
- In training mode, in the replicas of `DataParallelWithCallback`: mean and variance are those of all
  replicas' inputs together, gradients are those of the sum of the replicas' losses, and the original module's
  running statistics move once. (Inside a process group, replicas still see only the replicas of their own
  process.)
- In training mode, in the ranks of an initialised process group (`torchrun`): the same over all ranks of the
  default group, whose batches may differ in size. On CUDA PyTorch's own `nn.SyncBatchNorm` kernels do it;
  elsewhere (gloo on the CPU) it is done here. Gradients of inputs are those of the sum of the ranks' losses.
  Gradients of weights are each rank's part, for `DistributedDataParallel` to reduce (which averages: it
  divides by the number of ranks).
- Statistics are taken in float32 or better; the output has the input's dtype.

When one replica raises, the others stop waiting and its exception is raised. Ranks are separate processes:
when one fails, the others end with the process group's own error, at the latest after its timeout, and
`torchrun` stops them.

`convert_model` makes an existing model's batch norms synchronised. `replicate_on_cpu` and `run_replicas` do
on the CPU what `DataParallelWithCallback` does over GPUs.
"""

from sync_batchnorm.batchnorm import (
    DataParallelWithCallback,
    SynchronizedBatchNorm1d,
    SynchronizedBatchNorm2d,
    SynchronizedBatchNorm3d,
    convert_model,
    replicate_on_cpu,
    run_replicas,
)

__all__ = [
    "DataParallelWithCallback",
    "SynchronizedBatchNorm1d",
    "SynchronizedBatchNorm2d",
    "SynchronizedBatchNorm3d",
    "convert_model",
    "replicate_on_cpu",
    "run_replicas",
]
