"""Many trainings of one layer side by side, each on its own batches of the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.patches import check_input, group_weights, unfold_patches
from cnnbridge.learning.problem import layer_problems
from cnnbridge.learning.sgd import SGD

# runs whose batches are laid out at once
CHUNK_BYTES = 64 * 2**20


class Runs:
    """Many layers that learn side by side on batches of the same images."""

    def __init__(
        self,
        conv: Layer,
        x: torch.Tensor,
        target: torch.Tensor,
        *,
        batch: int,
        replace: bool,
        bias: bool,
    ) -> None:
        geometry = Geometry.of(conv)
        self.problems = layer_problems(conv, x, target, bias=bias)
        self.u, self.d = patches(conv, x, target, bias)  # (groups, N, T, L), (.., m)
        self.groups, self.images = geometry.groups, self.u.shape[1]
        self.start = (
            group_weights(conv, bias=bias).detach().to(self.u).flatten(0, 1).clone()
        )  # (M, L)
        self.batch, self.replace = batch, replace
        row = self.u[:, 0].numel() + self.d[:, 0].numel()
        self.together = max(2, CHUNK_BYTES // (8 * row * self.batch))
        device = self.u.device
        self.R = torch.as_tensor(np.stack([p.R for p in self.problems]), device=device)
        w_o = torch.as_tensor(np.stack([p.w_o for p in self.problems]), device=device)
        self.w_o, self.loss_min = w_o, sum(p.J_min for p in self.problems) / len(self.start)

    def run(
        self,
        start: torch.Tensor,
        sgd: SGD,
        steps: int,
        seeds: list[tuple[int, int]],
        look: Callable[[int, torch.Tensor], None],
    ) -> None:
        """Train weights (runs, M, L); runs with the same seeds see the same batches."""
        W = start.clone().requires_grad_()
        optimizer = sgd.optimizer([W])
        criterion = nn.MSELoss()
        generators = {s: np.random.default_rng(s) for s in seeds}
        for n in range(steps + 1):
            look(n, W)
            if n == steps:
                return
            drawn = {s: self._draw(g) for s, g in generators.items()}
            rows = torch.as_tensor(np.stack([drawn[s] for s in seeds]), device=self.u.device)
            # (runs, groups, batch * positions, L)
            u = self.u[:, rows].flatten(2, 3).movedim(1, 0)
            d = self.d[:, rows].flatten(2, 3).movedim(1, 0)
            w = W.unflatten(1, (self.groups, -1))
            # the mean over runs, times their number, is the sum: each run has its own gradient
            loss = criterion(u @ w.mT, d) * len(W)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def loss(self, weights: torch.Tensor) -> torch.Tensor:
        """(runs,): MSELoss over all images, from the sums that it is made of."""
        c = weights.detach().unflatten(1, (self.groups, -1)) - self.w_o
        return self.loss_min + self._quadratic(c)

    def power(self, difference: torch.Tensor) -> torch.Tensor:
        """(runs,): mean square of what a difference of weights does to the outputs."""
        return self._quadratic(difference.unflatten(1, (self.groups, -1)))

    def _quadratic(self, c: torch.Tensor) -> torch.Tensor:
        return ((c @ self.R) * c).sum(dim=(1, 2, 3)) / len(self.start)

    def _draw(self, generator: np.random.Generator) -> Array:
        return generator.choice(self.images, self.batch, replace=self.replace)


def patches(
    conv: Layer, x: torch.Tensor, target: torch.Tensor, bias: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Regressors (groups, N, positions, L) and desired responses (groups, N, positions, m)."""
    geometry = Geometry.of(conv)
    x = check_input("x", x, geometry)
    d = _checks.target_like(target, geometry.output_shape(tuple(x.shape))).detach()
    d = geometry.channels_first(d.to(x.device, torch.float64)).flatten(2)
    if conv.bias is not None and not bias:
        d = d - conv.bias.detach().to(d)[:, None]
    u = unfold_patches(x.detach().double(), conv, bias=bias)
    desired = d.unflatten(1, (geometry.groups, -1))
    return u.permute(1, 0, 3, 2).contiguous(), desired.permute(1, 0, 3, 2).contiguous()


def data_by_group(
    conv: Layer, x: torch.Tensor, target: torch.Tensor, bias: bool
) -> Iterator[tuple[Array, Array, Array]]:
    """For each group regressors (N, positions, L), desired (N, positions, m), weights (m, L)."""
    u, d = patches(conv, x, target, bias)
    w = group_weights(conv, bias=bias).detach().double()
    for g in range(len(u)):
        yield tuple(t.cpu().numpy() for t in (u[g], d[g], w[g]))  # type: ignore[misc]
