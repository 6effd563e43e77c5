"""Synchronised batch norm against `nn.BatchNorm*` over the whole batch, with threads and with processes.

The reference runs in float64: with large means, float32 `nn.BatchNorm` is off by more than the tolerance.
Networks run in float64 on both sides, because there the rounding of one layer grows in the next.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from sync_batchnorm import (
    DataParallelWithCallback,
    SynchronizedBatchNorm1d,
    SynchronizedBatchNorm2d,
    SynchronizedBatchNorm3d,
    convert_model,
    replicate_on_cpu,
    run_replicas,
)
from sync_batchnorm.batchnorm import apply_in_threads

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
Batch = tuple[list[Tensor], list[Tensor]]  # the shares of a batch, and the gradients of their outputs
Outcome = dict[str, Tensor]  # outputs, gradients and buffers by name

KINDS = [
    (SynchronizedBatchNorm1d, nn.BatchNorm1d, (6, 3)),
    (SynchronizedBatchNorm1d, nn.BatchNorm1d, (6, 3, 7)),
    (SynchronizedBatchNorm2d, nn.BatchNorm2d, (6, 3, 5, 4)),
    (SynchronizedBatchNorm3d, nn.BatchNorm3d, (6, 3, 2, 3, 4)),
]
SETTINGS = [
    {},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
    {"eps": 0.1, "momentum": 0.7},
]
SHARES = {2: [5, 2], 3: [1, 4, 2], 4: [2, 1, 3, 1]}


def within(seconds: float, function: Callable[[], T]) -> T:
    """The result or exception of `function`, or a failure if it hangs."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)  # threads that it starts are daemons as well
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still waiting after {seconds} s"
    if errors:
        raise errors[0]
    return results[0]


def randomised(layer: M) -> M:
    """`layer` in training mode, its weights and buffers not their initial ones."""
    with torch.no_grad():
        for tensor in [*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())]:
            tensor.uniform_(0.5, 2.0)
    return layer.train()


def split_batch(
    shape: tuple[int, ...], shares: list[int], mean: float = 0.0, dtype: torch.dtype = torch.float32
) -> Batch:
    """One batch as shares, each with a mean of its own near `mean`, and a gradient for each output."""
    inputs = [mean + 3 * i + torch.randn(share, *shape[1:], dtype=dtype) for i, share in enumerate(shares)]
    return inputs, [torch.randn_like(x) for x in inputs]


def whole_batch(module: nn.Module, batches: list[Batch]) -> Outcome:
    """The outcome of plain `module` in float64 over the concatenated shares of each batch."""
    module = copy.deepcopy(module).double()
    for inputs, grads in batches:
        module.zero_grad()
        x = torch.cat(inputs).double().requires_grad_()
        y = module(x)
        y.backward(torch.cat(grads).double())
    return outcome(module, y, grad_of(x))


def in_replicas(module: nn.Module, batches: list[Batch]) -> Outcome:
    """The same with one CPU replica for each share."""
    module = copy.deepcopy(module)
    for inputs, grads in batches:
        module.zero_grad()
        xs = [x.clone().requires_grad_() for x in inputs]
        ys = within(60, partial(run_in_replicas, module, xs))
        torch.autograd.backward(ys, grads)
    return outcome(module, torch.cat(ys), torch.cat([grad_of(x) for x in xs]))


def run_in_replicas(module: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    return run_replicas(replicate_on_cpu(module, len(inputs)), *as_arguments(inputs))


def as_arguments(inputs: list[Tensor]) -> tuple[list[tuple], list[dict]]:
    return [(x,) for x in inputs], [{} for _ in inputs]


def grad_of(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


def outcome(module: nn.Module, y: Tensor, x_grad: Tensor) -> Outcome:
    grads = {f"grad of {name}": grad_of(parameter) for name, parameter in module.named_parameters()}
    return {"y": y.detach(), "grad of x": x_grad, **grads, **dict(module.named_buffers())}


def assert_close(actual: Outcome, expected: Outcome, tolerance: float = 1e-5) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name].to(value.dtype), value, rtol=tolerance, atol=tolerance, msg=name
        )


def assert_replicas_match(plain: nn.Module, batches: list[Batch]) -> None:
    """Replicas of `plain`, made synchronised, give what it gives for the whole batches."""
    assert_close(in_replicas(convert_model(copy.deepcopy(plain)), batches), whole_batch(plain, batches))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# ---- One device --------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("kind", "plain", "shape"), KINDS)
def test_alone_it_is_plain_batch_norm(
    kind: type[nn.Module], plain: type[nn.Module], shape: tuple[int, ...], settings: dict, training: bool
) -> None:
    ours, reference = kind(3, **settings), randomised(plain(3, **settings))
    ours.load_state_dict(reference.state_dict())
    assert isinstance(ours, plain)
    assert list(ours.state_dict()) == list(reference.state_dict())
    results = []
    for layer in (ours.train(training), reference.train(training)):
        x = torch.linspace(-2, 3, torch.Size(shape).numel()).view(shape).requires_grad_()
        y = layer(x)
        y.backward(x.detach().sin())
        results.append(outcome(layer, y, grad_of(x)))
    assert_close(results[0], results[1], tolerance=0)


def test_in_eval_mode_replicas_use_running_statistics() -> None:
    layer = randomised(SynchronizedBatchNorm2d(3)).eval()
    before = copy.deepcopy(layer.state_dict())
    inputs, _ = split_batch((0, 3, 4, 4), [2, 1])
    outputs = within(60, lambda: run_in_replicas(layer, inputs))
    assert torch.equal(torch.cat(outputs), layer(torch.cat(inputs)))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_alone_it_compiles_and_exports_whole() -> None:
    layer, x = randomised(SynchronizedBatchNorm2d(3)), torch.randn(4, 3, 5, 5)
    expected = copy.deepcopy(layer)(x)
    assert torch.equal(torch.compile(copy.deepcopy(layer), backend="eager", fullgraph=True)(x), expected)
    exported = torch.export.export(layer.eval(), (x,)).module()
    assert torch.equal(exported(x), layer(x))


# ---- Replicas ----------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("count", SHARES)
def test_replicas_match_the_whole_batch(count: int, settings: dict) -> None:
    plain = randomised(nn.BatchNorm2d(3, **settings))
    batches = [split_batch((0, 3, 5, 4), SHARES[count]) for _ in range(2)]
    assert_replicas_match(plain, batches)


@pytest.mark.parametrize("mean", [1e3, -1e5])
def test_replicas_keep_precision_with_large_means(mean: float) -> None:
    plain = randomised(nn.BatchNorm2d(3))
    batches = [split_batch((0, 3, 5, 4), [1, 4, 2], mean) for _ in range(2)]
    assert_replicas_match(plain, batches)


def test_replicas_of_a_network_with_a_layer_used_twice() -> None:
    norm = nn.BatchNorm2d(4)
    layers = nn.Conv2d(4, 4, 3, padding=1), norm, nn.Tanh(), nn.Conv2d(4, 4, 1), norm, nn.BatchNorm2d(4)
    plain = randomised(nn.Sequential(*layers)).double()
    batches = [split_batch((0, 4, 6, 6), [3, 1, 2], dtype=torch.float64) for _ in range(2)]
    assert_replicas_match(plain, batches)


def test_replicas_run_without_gradients() -> None:
    plain = randomised(nn.BatchNorm2d(3))
    inputs, _ = split_batch((0, 3, 5, 4), [3, 2])
    ours = convert_model(copy.deepcopy(plain))
    outputs = within(60, lambda: torch.no_grad()(run_in_replicas)(ours, inputs))
    assert not any(y.requires_grad for y in outputs)
    torch.testing.assert_close(torch.cat(outputs), plain(torch.cat(inputs)).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_have_float32_statistics(dtype: torch.dtype) -> None:
    class Autocast(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=dtype):
                return super().forward(x)

    plain = randomised(nn.BatchNorm2d(3))
    inputs = [x.to(dtype) for x in split_batch((0, 3, 5, 4), [3, 2], mean=50.0)[0]]
    ours = Autocast(convert_model(copy.deepcopy(plain)))
    outputs = within(60, lambda: run_in_replicas(ours, inputs))
    expected = plain(torch.cat(inputs).float())
    assert all(y.dtype == dtype for y in outputs)
    torch.testing.assert_close(torch.cat(outputs), expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-4)
    torch.testing.assert_close(ours[0].running_var, plain.running_var, rtol=1e-5, atol=1e-5)


def test_one_value_per_replica_is_enough_for_two_replicas_only() -> None:
    plain = randomised(nn.BatchNorm1d(3))
    batches = [split_batch((0, 3), [1, 1])]
    assert_replicas_match(plain, batches)
    with pytest.raises(ValueError, match="more than 1 value"):
        within(60, lambda: run_in_replicas(SynchronizedBatchNorm1d(3), [torch.ones(1, 3), torch.ones(0, 3)]))


# ---- Failures ----------------------------------------------------------------


class Faulty(nn.Module):
    """Two layers; between them a replica does what its second input tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(3)
        self.second = nn.BatchNorm1d(3)

    def forward(self, x: Tensor, deed: str) -> Tensor:
        x = self.first(x)
        if deed == "raise":
            raise ZeroDivisionError("the culprit")
        return x if deed == "leave" else self.second(x)


def run_faulty(deeds: tuple[str, ...]) -> list[Tensor]:
    inputs = [(torch.randn(4, 3), deed) for deed in deeds]
    replicas = replicate_on_cpu(convert_model(Faulty()), len(deeds))
    return within(60, lambda: run_replicas(replicas, inputs, [{} for _ in deeds]))


@pytest.mark.parametrize("deeds", [("raise", "", ""), ("", "raise", ""), ("", "", "raise")])
def test_failure_of_one_replica_is_the_failure_of_all(deeds: tuple[str, ...]) -> None:
    with pytest.raises(ZeroDivisionError, match="the culprit"):
        run_faulty(deeds)


@pytest.mark.parametrize("deeds", [("leave", ""), ("", "", "leave"), ("leave", "", "leave")])
def test_replica_that_skips_a_layer_is_an_error(deeds: tuple[str, ...]) -> None:
    with pytest.raises(RuntimeError, match="another never reached"):
        run_faulty(deeds)


# ---- DataParallelWithCallback ------------------------------------------------
#
# Without GPUs, a starter of threads that needs none takes the place of PyTorch's.


@pytest.fixture
def cpu_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.DataParallel, "parallel_apply", lambda self, *args: apply_in_threads(*args))


def test_data_parallel_synchronises(cpu_threads: None) -> None:
    plain = randomised(nn.BatchNorm1d(3))
    wrapper = nn.DataParallel(copy.deepcopy(plain))
    assert type(convert_model(wrapper)) is DataParallelWithCallback
    inputs, _ = split_batch((0, 3), [3, 2])
    replicas = replicate_on_cpu(wrapper.module, 2)
    outputs = within(60, lambda: wrapper.parallel_apply(replicas, *as_arguments(inputs)))
    torch.testing.assert_close(torch.cat(outputs), plain(torch.cat(inputs)), rtol=1e-5, atol=1e-5)


# ---- Conversion --------------------------------------------------------------


def test_convert_model_keeps_parameters_buffers_and_flags() -> None:
    inner = nn.Sequential(nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3))
    model = nn.Sequential(
        nn.BatchNorm1d(3), nn.ModuleDict({"inner": inner}), nn.BatchNorm2d(3, affine=False).eval()
    )
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    assert convert_model(model) is model
    after = dict(model.named_parameters()) | dict(model.named_buffers())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert [m.training for m in (model[0], model[2])] == [True, False]
    kinds = (SynchronizedBatchNorm1d, SynchronizedBatchNorm3d, SynchronizedBatchNorm2d)
    assert tuple(map(type, (model[0], inner[1], model[2]))) == kinds


def test_convert_model_of_a_lone_batch_norm_and_of_a_subclass() -> None:
    class Special(nn.BatchNorm2d):
        pass

    plain = nn.BatchNorm2d(3)
    converted = convert_model(plain)
    assert type(converted) is SynchronizedBatchNorm2d
    assert converted.weight is plain.weight
    assert type(convert_model(Special(3))) is Special


# ---- A process group ---------------------------------------------------------

RANK_CASES = [
    (nn.BatchNorm2d(3), 0.0),
    (nn.BatchNorm2d(3, momentum=None, affine=False), -1e5),
    (nn.BatchNorm2d(3, track_running_stats=False), 1e3),
    (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Tanh(), nn.BatchNorm2d(3)), 0.0),
]
RANK_SHARES = {"two": [5, 2], "three": [1, 4, 2], "one of two is empty": [3, 0]}


def rank_case(case: int, shares: list[int]) -> tuple[nn.Module, list[Batch]]:
    """The plain module and two batches, the same in each process."""
    torch.manual_seed(case)
    module, mean = RANK_CASES[case]
    dtype = torch.float64 if isinstance(module, nn.Sequential) else torch.float32
    module = randomised(copy.deepcopy(module)).to(dtype)
    return module, [split_batch((0, 3, 5, 4), shares, mean, dtype) for _ in range(2)]


def join_process_group(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)


def run_rank(rank: int, shares: list[int], folder: str) -> None:
    """One process: its share of each case, and in `folder` what came out."""
    join_process_group(rank, len(shares), folder)
    for case in range(len(RANK_CASES)):
        module, batches = rank_case(case, shares)
        module = convert_model(module)
        for inputs, grads in batches:
            module.zero_grad()
            x = inputs[rank].requires_grad_()
            y = module(x)
            y.backward(grads[rank])
        torch.save(outcome(module, y, grad_of(x)), f"{folder}/{case}.{rank}")
    dist.destroy_process_group()


def join_ranks(outcomes: list[Outcome]) -> Outcome:
    """Outputs and input gradients end to end, weight gradients summed, buffers as every rank has them."""
    joined = {}
    for name in outcomes[0]:
        values = [outcome[name] for outcome in outcomes]
        if name in ("y", "grad of x"):
            joined[name] = torch.cat(values)
        elif name.startswith("grad of"):
            joined[name] = torch.stack(values).sum(0)
        else:
            joined[name] = values[0]
            assert all(torch.equal(value, values[0]) for value in values), name
    return joined


def start_ranks(
    function: Callable[..., None], size: int, *arguments: object, seconds: float = 60
) -> list[int | None]:
    """Exit codes of `size` processes that run `function(rank, *arguments)`; a failure if one hangs."""
    context = mp.get_context("spawn")
    processes = [context.Process(target=function, args=(rank, *arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, f"still running after {seconds} s"
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("shares", RANK_SHARES.values(), ids=RANK_SHARES)
def test_ranks_match_the_whole_batch(shares: list[int], tmp_path: Path) -> None:
    assert start_ranks(run_rank, len(shares), shares, str(tmp_path)) == [0] * len(shares)
    for case in range(len(RANK_CASES)):
        outcomes = [torch.load(tmp_path / f"{case}.{rank}") for rank in range(len(shares))]
        assert_close(join_ranks(outcomes), whole_batch(*rank_case(case, shares)))


def run_failing_rank(rank: int, folder: str) -> None:
    join_process_group(rank, 2, folder)
    if rank == 1:
        raise SystemExit(3)
    SynchronizedBatchNorm1d(3)(torch.randn(4, 3))


def test_failure_of_one_rank_ends_the_others(tmp_path: Path) -> None:
    assert start_ranks(run_failing_rank, 2, str(tmp_path)) == [1, 3]
