"""Synchronised batch norm against `nn.BatchNorm*` over the whole batch, with threads and with processes.

The reference runs in float64: with large means float32 `nn.BatchNorm` itself is off by more than the tolerance.
Networks run in float64 on both sides, because there the rounding of one layer grows in the next.
"""

import copy
import threading

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

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


def within(seconds, function):
    """The result or exception of `function`, or a failure if it hangs."""
    outcome = {}

    def work():
        try:
            outcome["result"] = function()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)  # threads that it starts are daemons as well
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still waiting after {seconds} s"
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


def randomised(layer):
    """`layer` in training mode, its weights and buffers not their initial ones."""
    with torch.no_grad():
        for tensor in [*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())]:
            tensor.uniform_(0.5, 2.0)
    return layer.train()


def split_batch(shape, shares, mean=0.0, dtype=torch.float32):
    """One batch as shares, each with a mean of its own near `mean`, and a gradient for each output."""
    inputs = [mean + 3 * i + torch.randn(share, *shape[1:], dtype=dtype) for i, share in enumerate(shares)]
    return inputs, [torch.randn_like(x) for x in inputs]


def whole_batch(module, batches):
    """Run plain `module` in float64 over the concatenated shares of each batch; output, gradients and buffers."""
    module = copy.deepcopy(module).double()
    for inputs, grads in batches:
        module.zero_grad()
        x = torch.cat(inputs).double().requires_grad_()
        y = module(x)
        y.backward(torch.cat(grads).double())
    return outcome(module, y, x.grad)


def in_replicas(module, batches):
    """The same with one CPU replica for each share."""
    module = copy.deepcopy(module)
    for inputs, grads in batches:
        module.zero_grad()
        xs = [x.clone().requires_grad_() for x in inputs]
        ys = within(60, lambda xs=xs: run_in_replicas(module, xs))
        torch.autograd.backward(ys, grads)
    return outcome(module, torch.cat(ys), torch.cat([x.grad for x in xs]))


def run_in_replicas(module, inputs):
    return run_replicas(replicate_on_cpu(module, len(inputs)), *as_arguments(inputs))


def as_arguments(inputs):
    return [(x,) for x in inputs], [{} for _ in inputs]


def outcome(module, y, x_grad):
    grads = {f"grad of {name}": parameter.grad for name, parameter in module.named_parameters()}
    return {"y": y.detach(), "grad of x": x_grad, **grads, **dict(module.named_buffers())}


def assert_close(actual, expected, tolerance=1e-5):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name].to(value.dtype), value, rtol=tolerance, atol=tolerance, msg=name
        )


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# One device


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("kind", "plain", "shape"), KINDS)
def test_alone_it_is_plain_batch_norm(kind, plain, shape, settings, training):
    ours, reference = kind(3, **settings), randomised(plain(3, **settings))
    ours.load_state_dict(reference.state_dict())
    assert isinstance(ours, plain)
    assert list(ours.state_dict()) == list(reference.state_dict())
    results = []
    for layer in (ours.train(training), reference.train(training)):
        x = torch.linspace(-2, 3, torch.Size(shape).numel()).view(shape).requires_grad_()
        y = layer(x)
        y.backward(x.detach().sin())
        results.append(outcome(layer, y, x.grad))
    assert_close(*results, tolerance=0)


def test_in_eval_mode_replicas_use_running_statistics():
    layer = randomised(SynchronizedBatchNorm2d(3)).eval()
    before = copy.deepcopy(layer.state_dict())
    inputs, _ = split_batch((0, 3, 4, 4), [2, 1])
    outputs = within(60, lambda: run_in_replicas(layer, inputs))
    assert torch.equal(torch.cat(outputs), layer(torch.cat(inputs)))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_alone_it_compiles_and_exports_whole():
    layer, x = randomised(SynchronizedBatchNorm2d(3)), torch.randn(4, 3, 5, 5)
    expected = copy.deepcopy(layer)(x)
    assert torch.equal(torch.compile(copy.deepcopy(layer), backend="eager", fullgraph=True)(x), expected)
    exported = torch.export.export(layer.eval(), (x,)).module()
    assert torch.equal(exported(x), layer(x))


# Replicas


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("count", SHARES)
def test_replicas_match_the_whole_batch(count, settings):
    plain = randomised(nn.BatchNorm2d(3, **settings))
    batches = [split_batch((0, 3, 5, 4), SHARES[count]) for _ in range(2)]
    assert_close(in_replicas(convert_model(copy.deepcopy(plain)), batches), whole_batch(plain, batches))


@pytest.mark.parametrize(("kind", "plain", "shape"), KINDS)
def test_replicas_of_every_kind(kind, plain, shape):
    plain = randomised(plain(3))
    batches = [split_batch(shape, [4, 1, 2])]
    assert_close(in_replicas(convert_model(copy.deepcopy(plain)), batches), whole_batch(plain, batches))


@pytest.mark.parametrize("mean", [1e3, -1e5])
def test_replicas_keep_precision_with_large_means(mean):
    plain = randomised(nn.BatchNorm2d(3))
    batches = [split_batch((0, 3, 5, 4), [1, 4, 2], mean) for _ in range(2)]
    assert_close(in_replicas(convert_model(copy.deepcopy(plain)), batches), whole_batch(plain, batches))


def test_replicas_of_a_network_with_a_layer_used_twice():
    norm = nn.BatchNorm2d(4)
    layers = nn.Conv2d(4, 4, 3, padding=1), norm, nn.Tanh(), nn.Conv2d(4, 4, 1), norm, nn.BatchNorm2d(4)
    plain = randomised(nn.Sequential(*layers))
    batches = [split_batch((0, 4, 6, 6), [3, 1, 2], dtype=torch.float64) for _ in range(2)]
    assert_close(
        in_replicas(convert_model(copy.deepcopy(plain)).double(), batches), whole_batch(plain, batches)
    )


def test_replicas_run_without_gradients():
    plain = randomised(nn.BatchNorm2d(3))
    inputs, _ = split_batch((0, 3, 5, 4), [3, 2])
    outputs = within(
        60, lambda: torch.no_grad()(run_in_replicas)(convert_model(copy.deepcopy(plain)), inputs)
    )
    assert not any(y.requires_grad for y in outputs)
    torch.testing.assert_close(torch.cat(outputs), plain(torch.cat(inputs)).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_have_float32_statistics(dtype):
    class Autocast(nn.Sequential):
        def forward(self, x):
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


def test_only_the_first_replica_counts_the_batch():
    copies = replicate_on_cpu(SynchronizedBatchNorm1d(3), 3)
    inputs, _ = split_batch((0, 3), [2, 2, 2])
    within(60, lambda: run_replicas(copies, *as_arguments(inputs)))
    assert [int(layer.num_batches_tracked) for layer in copies] == [1, 0, 0]


def test_channels_last_is_kept():
    inputs = [x.to(memory_format=torch.channels_last) for x in split_batch((0, 3, 5, 4), [3, 2])[0]]
    outputs = within(60, lambda: run_in_replicas(SynchronizedBatchNorm2d(3), inputs))
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in outputs)


def test_one_value_per_replica_is_enough_for_two_replicas_only():
    plain = randomised(nn.BatchNorm1d(3))
    batches = [split_batch((0, 3), [1, 1])]
    assert_close(in_replicas(convert_model(copy.deepcopy(plain)), batches), whole_batch(plain, batches))
    with pytest.raises(ValueError, match="more than 1 value"):
        within(60, lambda: run_in_replicas(SynchronizedBatchNorm1d(3), [torch.ones(1, 3), torch.ones(0, 3)]))


# Failures


class Faulty(nn.Module):
    """Two layers; between them a replica does what its second input tells it."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm1d(3)
        self.second = nn.BatchNorm1d(3)

    def forward(self, x, deed):
        x = self.first(x)
        if deed == "raise":
            raise ZeroDivisionError("the culprit")
        return x if deed == "leave" else self.second(x)


def run_faulty(deeds):
    inputs = [(torch.randn(4, 3), deed) for deed in deeds]
    return within(
        60,
        lambda: run_replicas(
            replicate_on_cpu(convert_model(Faulty()), len(deeds)), inputs, [{} for _ in deeds]
        ),
    )


@pytest.mark.parametrize("deeds", [("raise", "", ""), ("", "raise", ""), ("", "", "raise")])
def test_failure_of_one_replica_is_the_failure_of_all(deeds):
    with pytest.raises(ZeroDivisionError, match="the culprit"):
        run_faulty(deeds)


@pytest.mark.parametrize("deeds", [("leave", ""), ("", "", "leave"), ("leave", "", "leave")])
def test_replica_that_skips_a_layer_is_an_error(deeds):
    with pytest.raises(RuntimeError, match="another never reached"):
        run_faulty(deeds)


# DataParallelWithCallback: without GPUs, PyTorch's starter of threads gives way to one that needs none.


@pytest.fixture
def cpu_threads(monkeypatch):
    monkeypatch.setattr(nn.DataParallel, "parallel_apply", lambda self, *args: apply_in_threads(*args))


def test_data_parallel_synchronises(cpu_threads):
    plain = randomised(nn.BatchNorm1d(3))
    wrapper = convert_model(nn.DataParallel(copy.deepcopy(plain)))
    assert type(wrapper) is DataParallelWithCallback
    inputs, _ = split_batch((0, 3), [3, 2])
    outputs = within(
        60, lambda: wrapper.parallel_apply(replicate_on_cpu(wrapper.module, 2), *as_arguments(inputs))
    )
    torch.testing.assert_close(torch.cat(outputs), plain(torch.cat(inputs)), rtol=1e-5, atol=1e-5)


def test_data_parallel_raises_the_first_error(cpu_threads):
    wrapper = convert_model(nn.DataParallel(Faulty()))
    inputs = [(torch.randn(4, 3), deed) for deed in ("", "raise")]
    with pytest.raises(ZeroDivisionError, match="the culprit"):
        within(60, lambda: wrapper.parallel_apply(replicate_on_cpu(wrapper.module, 2), inputs, [{}, {}]))


# Conversion


def test_convert_model_keeps_parameters_buffers_and_flags():
    inner = nn.Sequential(nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3))
    model = nn.Sequential(
        nn.BatchNorm1d(3), nn.ModuleDict({"inner": inner}), nn.BatchNorm2d(3, affine=False).eval()
    )
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    converted = convert_model(model)
    after = dict(converted.named_parameters()) | dict(converted.named_buffers())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert [m.training for m in (converted[0], converted[2])] == [True, False]
    kinds = (SynchronizedBatchNorm1d, SynchronizedBatchNorm3d, SynchronizedBatchNorm2d)
    assert tuple(map(type, (converted[0], converted[1]["inner"][1], converted[2]))) == kinds


def test_convert_model_of_a_lone_batch_norm_and_of_a_subclass():
    class Special(nn.BatchNorm2d):
        pass

    plain = nn.BatchNorm2d(3)
    converted = convert_model(plain)
    assert type(converted) is SynchronizedBatchNorm2d
    assert converted.weight is plain.weight
    assert type(convert_model(Special(3))) is Special


# A process group

RANK_CASES = [
    (nn.BatchNorm2d(3), 0.0),
    (nn.BatchNorm2d(3, momentum=None, affine=False), -1e5),
    (nn.BatchNorm2d(3, track_running_stats=False), 1e3),
    (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Tanh(), nn.BatchNorm2d(3)), 0.0),
]
RANK_SHARES = {"two": [5, 2], "three": [1, 4, 2], "one of two is empty": [3, 0]}


def rank_case(case, shares):
    """The plain module and two batches, the same in each process."""
    torch.manual_seed(case)
    module, mean = RANK_CASES[case]
    dtype = torch.float64 if isinstance(module, nn.Sequential) else torch.float32
    return randomised(copy.deepcopy(module)).to(dtype), [
        split_batch((0, 3, 5, 4), shares, mean, dtype) for _ in range(2)
    ]


def join_process_group(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)


def run_rank(rank, shares, folder):
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
        torch.save(outcome(module, y, x.grad), f"{folder}/{case}.{rank}")
    dist.destroy_process_group()


def join_ranks(outcomes):
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


def start_ranks(function, size, *arguments, seconds=60):
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
def test_ranks_match_the_whole_batch(shares, tmp_path):
    assert start_ranks(run_rank, len(shares), shares, str(tmp_path)) == [0] * len(shares)
    for case in range(len(RANK_CASES)):
        outcomes = [torch.load(tmp_path / f"{case}.{rank}") for rank in range(len(shares))]
        assert_close(join_ranks(outcomes), whole_batch(*rank_case(case, shares)))


def run_failing_rank(rank, folder):
    join_process_group(rank, 2, folder)
    if rank == 1:
        raise SystemExit(3)
    SynchronizedBatchNorm1d(3)(torch.randn(4, 3))


def test_failure_of_one_rank_ends_the_others(tmp_path):
    assert start_ranks(run_failing_rank, 2, str(tmp_path)) == [1, 3]
