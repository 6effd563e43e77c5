"""Batch norm over a batch that is split over devices or processes, with the results for the whole batch.

    from sync_batchnorm import DataParallelWithCallback, convert_model
    model = DataParallelWithCallback(convert_model(model), device_ids=[0, 1])

`SynchronizedBatchNorm1d/2d/3d` are `nn.BatchNorm1d/2d/3d` but in training mode
- in the replicas of `DataParallelWithCallback`: mean and variance are those of all replicas' inputs together,
  gradients those of the sum of their losses, and the original module's running statistics move once;
- in the ranks of a process group (`torchrun`): the same over all ranks, whose batches may differ in size. On
  CUDA PyTorch's own kernels do it. Gradients of weights are each rank's part, for `DistributedDataParallel`.

`replicate_on_cpu` and `run_replicas` do on the CPU what `DataParallelWithCallback` does over GPUs.
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
