"""Places of lids and lips, and the command that shows them to a detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints.files import load_for_inference, read_checkpoint
from data.puppets.dataset import make_dataset
from data.puppets.identity import Puppet
from data.puppets.landmarks import moving_places
from data.puppets.motion import Pose
from data.puppets.render import render
from frames_dataset import FramesDataset
from modules.build import build_networks, read_config
from tests.small import error_of, small_config, write_config
from tools import guide_puppets


@pytest.mark.parametrize("seed", range(4))
def test_lids_and_lip_lie_on_what_is_drawn(seed: int) -> None:
    """A shut lid is a dark line, and a blink moves the lid down to it; an open mouth takes the lip down."""
    puppet = Puppet.random(np.random.default_rng(seed)).close_up()
    shut = moving_places(puppet, Pose(blink=1))
    image = render(puppet, Pose(blink=1), 256).astype(int)
    for x, y in (shut[:2] + 1) / 2 * 255:
        near = image[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3]
        assert near.max(axis=2).min() < 100
    rest = moving_places(puppet, Pose())
    assert (shut[:2, 1] > rest[:2, 1] + 0.03).all()
    assert moving_places(puppet, Pose(mouth=1))[2, 1] > rest[2, 1] + 0.03


def test_the_detector_learns_the_places(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "data"
    make_dataset(root, videos=8, frames=8, size=32, format="png", seed=0)
    changes = {"dataset_params.root_dir": str(root), "dataset_params.id_sampling": False}
    few = read_config(
        write_config(tmp_path / "few.yaml", small_config({"model_params.common_params.num_kp": 10}))
    )
    path = write_config(
        tmp_path / "many.yaml", small_config({"model_params.common_params.num_kp": 13} | changes)
    )
    torch.manual_seed(0)
    parent = {name: network.state_dict() for name, network in build_networks(few)._asdict().items()}
    torch.save(parent, tmp_path / "parent.pth.tar")

    def guide(steps: int) -> float:
        """The distance of the guided keypoints from the places in the first clips."""
        files = ["--checkpoint", str(tmp_path / "parent.pth.tar"), "--out", str(tmp_path / "guided.pth.tar")]
        guide_puppets.main([*files, "--config", str(path), "--steps", str(steps)])
        config = read_config(path)
        networks = build_networks(config)
        load_for_inference(tmp_path / "guided.pth.tar", networks.generator, networks.kp_detector)
        dataset = FramesDataset(is_train=True, **config["dataset_params"])
        frames, places = guide_puppets.read_clips(dataset, np.random.default_rng(0))
        found = networks.kp_detector.train()(frames.flatten(0, 1))["value"][:, guide_puppets.GUIDED]
        return (found - places.flatten(0, 1)).abs().mean().item()

    assert guide(60) < 0.7 * guide(1)
    content = read_checkpoint(tmp_path / "guided.pth.tar")
    assert torch.equal(content["generator"]["final.weight"], parent["generator"]["final.weight"])
    next((root / "train").glob("*.npz")).unlink()
    assert "has no places of lids" in error_of(capsys, lambda: guide(1))


def test_where_the_result_goes_is_looked_at_first(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Not after minutes: here the first thing that is read would fail."""
    for out in (tmp_path / "absent" / "guided.pth.tar", tmp_path):
        command = ["--checkpoint", "absent.pth.tar", "--out", str(out)]
        assert f"{out}: " in error_of(capsys, lambda command=command: guide_puppets.main(command))
    assert not list(tmp_path.iterdir())
