"""Reading the golden numbers: see golden/README.md for what the keys mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden"


class Case:
    """One `.npz`: its constructor parameters, weights, inputs and expected outputs, on a device."""

    def __init__(self, name: str, device: str = "cpu"):
        self.device = device
        with np.load(FOLDER / f"{name}.npz") as arrays:
            self.meta = json.loads(str(arrays["meta"]))
            self.tensors = {
                key: torch.from_numpy(arrays[key]).to(device) for key in arrays.files if key != "meta"
            }

    def under(self, prefix: str) -> dict:
        """What stands below a key: nested dictionaries as in the key, leaves tensors."""
        nested = {}
        for key, tensor in self.tensors.items():
            if key.startswith(prefix + "/"):
                *folders, leaf = key.removeprefix(prefix + "/").split("/")
                place = nested
                for folder in folders:
                    place = place.setdefault(folder, {})
                place[leaf] = tensor
        return nested

    def state(self, network: str | None = None) -> dict:
        prefix = "state/" if network is None else f"state/{network}/"
        return {
            key.removeprefix(prefix): tensor for key, tensor in self.tensors.items() if key.startswith(prefix)
        }


def assert_outputs(actual: dict, expected: dict) -> None:
    """Every expected output is there and at most 1e-5 away, relative to a largest value above 1.

    Pictures may be 2e-5 away: they sample a source of noise, where one unit in the last place of a
    Jacobian's inverse moves a pixel by up to 1.4e-5. (The golden numbers inverted with LAPACK, which is a
    little less exact than our closed form; with LAPACK's inverse in its place they come out to the last
    bit.) A GPU adds up in another order, and may be ten times as far away. Lists are compared by position.
    """
    for name, value in expected.items():
        found = actual[int(name)] if isinstance(actual, list | tuple) else actual[name]
        if isinstance(value, dict):
            assert_outputs(found, value)
        else:
            assert found.shape == value.shape, name
            tolerance = (2e-5 if name in ("deformed", "prediction") else 1e-5) * (10 if value.is_cuda else 1)
            tolerance *= max(1, value.abs().max().item())
            difference = (found.detach() - value).abs().max().item()
            assert difference <= tolerance, f"{name} is off by {difference:.2e}"
