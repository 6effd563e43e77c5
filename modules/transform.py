"""The random transform under which keypoints and Jacobians should be equivariant (paper Sec. 3.1).

Shapes: `B` batch, `N` points, `P` control points, `C` channels, `H, W` image size, `xy` in [-1, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modules.util import full_precision, make_coordinate_grid, warp


class Transform:
    """A random affine map plus a thin-plate spline for each image of a batch.

    T(xy) = θ [xy; 1] + Σ w φ(|xy - c|₁) with φ(r) = r² log r. `sigma_affine` and `sigma_tps` are standard
    deviations, of θ around the identity and of the spline's weights w; `points_tps` is the number of control
    points c per side. It is drawn on the CPU, so that every device gets the same.
    """

    theta: Tensor  # (B, 2, 3)
    control_params: Tensor | None  # (B, 1, points_tps²)

    def __init__(
        self,
        bs: int,
        sigma_affine: float,
        sigma_tps: float | None = None,
        points_tps: int | None = None,
        generator: torch.Generator | None = None,
    ):
        self.theta = torch.eye(2, 3) + sigma_affine * torch.randn(bs, 2, 3, generator=generator)
        self.control_params = None
        if sigma_tps is not None and points_tps is not None:
            self.control_params = sigma_tps * torch.randn(bs, 1, points_tps**2, generator=generator)

    def state(self) -> dict[str, Tensor]:
        """Return the draw as tensors with a batch dimension, which `DataParallel` can split."""
        state = {"theta": self.theta, "control_params": self.control_params}
        return {name: tensor for name, tensor in state.items() if tensor is not None}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Transform:
        transform = cls.__new__(cls)
        transform.theta = state["theta"]
        transform.control_params = state.get("control_params")
        return transform

    def to(self, like: Tensor) -> Transform:
        """Move to the device and dtype of `like`."""
        return Transform.from_state({name: tensor.to(like) for name, tensor in self.state().items()})

    def transform_frame(self, frame: Tensor, align_corners: bool = True) -> Tensor:
        """Warp images (B, C, H, W): what was at T(xy) comes to xy. `align_corners` is that of `warp`."""
        height, width = frame.shape[2:]
        grid = make_coordinate_grid((height, width), like=frame).view(1, height * width, 2)
        positions = self.warp_coordinates(grid).view(-1, height, width, 2)
        return warp(frame, positions, padding_mode="reflection", align_corners=align_corners)

    def warp_coordinates(self, coordinates: Tensor) -> Tensor:
        """Apply T to coordinates (B or 1, N, 2): (B, N, 2)."""
        with full_precision(like=coordinates):
            warped = coordinates @ self.theta[:, :, :2].mT + self.theta[:, None, :, 2]  # (B, N, 2)
        if self.control_params is None:
            return warped
        radius = self._offsets(coordinates, self.control_params).abs().sum(dim=-1)  # (B or 1, N, P)
        bump = radius.square() * torch.log(radius + 1e-6)  # φ
        return warped + (bump * self.control_params).sum(dim=-1, keepdim=True)

    def jacobian(self, coordinates: Tensor) -> Tensor:
        """Return dT/dxy at coordinates (B, N, 2), in closed form: (B, N, 2, 2)."""
        linear = self.theta[:, None, :, :2]  # (B, 1, 2, 2)
        if self.control_params is None:
            return linear.expand(-1, coordinates.shape[1], -1, -1)
        offsets = self._offsets(coordinates, self.control_params)  # (B, N, P, 2)
        radius = offsets.abs().sum(dim=-1)  # (B, N, P)
        slope = 2 * radius * torch.log(radius + 1e-6) + radius.square() / (radius + 1e-6)  # d(bump)/d(radius)
        gradient = ((slope * self.control_params).unsqueeze(-1) * offsets.sign()).sum(dim=2)  # (B, N, 2)
        return linear + gradient.unsqueeze(-2)  # the spline moves x and y alike

    @staticmethod
    def _offsets(coordinates: Tensor, control_params: Tensor) -> Tensor:
        """Return coordinates (B, N, 2) relative to each of the P control points: (B, N, P, 2)."""
        per_side = math.isqrt(control_params.shape[-1])
        points = make_coordinate_grid((per_side, per_side), like=coordinates).flatten(0, 1)  # (P, 2)
        return coordinates.unsqueeze(2) - points
