"""A GPU: fake tensors show that nothing stays behind on the CPU; what only a GPU shows is marked `cuda`."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import demo
from modules.build import build_networks
from modules.model import DiscriminatorFullModel, GeneratorFullModel
from modules.transform import Transform
from sync_batchnorm import convert_model, replicate_on_cpu, run_replicas
from tests.small import images, small_config
from tests.training import config_file, start


def moved_by_name(model: nn.Module) -> nn.Module:
    """As `model.to("cuda")`, which fake tensors refuse: what is not registered stays behind."""
    for module in model.modules():
        for tensors, kind in ((module._parameters, nn.Parameter), (module._buffers, lambda same: same)):
            for name, tensor in tensors.items():
                if tensor is not None and not tensor.is_cuda:
                    tensors[name] = kind(torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda"))
    return model


def test_no_tensor_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)  # its warp has no fake
    config = small_config({"train_params.loss_weights.perceptual": [1, 1, 1, 1, 1]})
    networks, params = build_networks(config), config["train_params"]
    parts = (networks.kp_detector, networks.generator, networks.discriminator)
    models = [full(*parts, params) for full in (GeneratorFullModel, DiscriminatorFullModel)]
    transform = Transform(2, **params["transform_params"]).state()
    with FakeTensorMode(allow_non_fake_inputs=True):
        generator_full, discriminator_full = (moved_by_name(model) for model in models)
        x = {name: torch.rand(2, 3, 32, 32, device="cuda") for name in ("source", "driving")}
        drawn = {name: torch.empty(tensor.shape, device="cuda") for name, tensor in transform.items()}
        losses, generated = generator_full(x, drawn)
        losses |= discriminator_full(x, generated)
    assert {loss.device.type for loss in losses.values()} == {"cuda"}


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_on_a_gpu(root: Path, precision: str) -> None:
    folder = start(root, config_file(root), "--device", "cuda", "--precision", precision)
    assert (folder / "00000001-checkpoint.pth.tar").exists()


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_demo_on_a_gpu_is_near_that_on_the_cpu(tmp_path: Path, precision: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        result = tmp_path / f"{device}.mp4"
        demo.main(
            ["--device", device, "--precision", precision, "--result_video", str(result), "--end", "0.2"]
        )
        found.append(iio.imread(result).astype(float))
    assert abs(found[0] - found[1]).mean() < 2  # levels of 255


@pytest.mark.cuda
def test_replicas_on_a_gpu_share_their_statistics() -> None:
    whole = convert_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).cuda()
    x = images(4).cuda()
    expected = whole(x)
    found = run_replicas(replicate_on_cpu(whole, 2), [(part,) for part in x.chunk(2)], [{}, {}])
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-4)
