"""Trains one layer in torch, on its own mean squared error and over the whole of its input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.isolation import own_precision, plain_copy
from cnnbridge.learning.records import Observation
from cnnbridge.learning.sgd import SGD

# steps between looks at the device for numbers that have left the range
STRIDE = 64

EDGE_RULE = (
    "float64, full batch. A run diverges if a weight is no longer finite, or if the part of the "
    "weights that alternates from step to step (their third difference) is larger in the last "
    "quarter of the run than in the quarter before; it converges otherwise, or once that part "
    "is down to rounding."
)


@dataclass(frozen=True)
class LayerTraining:
    """A layer with its data where, and in the precision in which, it will be trained.

    Attributes
    ----------
    layer : its weights are the start; copied by each run.
    x, target : input and desired output, on the device and in the precision of the training.
    bias : whether the bias learns.
    """

    layer: Layer
    x: torch.Tensor
    target: torch.Tensor
    bias: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters that learn, in the order of the flat vector."""
        return ("weight", "bias") if self.bias else ("weight",)

    def to(self, device: torch.device, dtype: torch.dtype) -> LayerTraining:
        """The same on another device or in another precision."""
        # autograd cannot keep tensors that were made in inference mode
        with torch.inference_mode(False):
            x, target = (
                (t.clone() if t.is_inference() else t.detach()).to(device, dtype)
                for t in (self.x, self.target)
            )
        return LayerTraining(self.layer, x, target, self.bias)

    def run(
        self, sgd: SGD, steps: int, look: Callable[[int, torch.Tensor, torch.Tensor], bool]
    ) -> None:
        """Train; ``look(n, weights, loss)`` gets the flat weights of each step and may end it."""
        for name, value in (("lr", sgd.lr), ("weight_decay", sgd.weight_decay)):
            _checks.representable(name, value, self.x.dtype)
        # the caller may be inside no_grad, inference_mode or autocast: training must not notice
        with own_precision():
            layer = plain_copy(self.layer, self.x)
            if layer.bias is not None:
                layer.bias.requires_grad_(self.bias)
            learned = [getattr(layer, name) for name in self.names]
            optimizer = sgd.optimizer(learned)
            criterion = nn.MSELoss()
            for n in range(steps + 1):
                loss = criterion(layer(self.x), self.target)
                weights = torch.cat([p.detach().flatten() for p in learned])
                if not look(n, weights, loss.detach()) or n == steps:
                    return
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def observe(
        self, sgd: SGD, steps: int, progress: Callable[[int], object] | None
    ) -> Observation:
        """Train and keep the weights of every step."""
        if progress is not None:
            _checks.function("progress", progress)
        size = sum(getattr(self.layer, name).numel() for name in self.names)
        with torch.inference_mode(False):
            path = self.x.new_full((steps + 1, size), torch.nan)
            losses = self.x.new_full((steps + 1,), torch.nan)

        def record(n: int, weights: torch.Tensor, loss: torch.Tensor) -> bool:
            path[n], losses[n] = weights, loss
            if progress is not None:
                progress(n)
            return n % STRIDE != 0 or bool(torch.isfinite(weights.sum() + loss))

        self.run(sgd, steps, record)
        displacement = path.cpu().double().numpy()
        loss = losses.cpu().double().numpy()
        finite = np.isfinite(displacement).all(axis=1) & np.isfinite(loss)
        diverged_at = None if finite.all() else int(np.argmin(finite))
        displacement -= displacement[0].copy()
        if diverged_at is not None:
            displacement[diverged_at:] = np.nan
            loss[diverged_at:] = np.nan
        return Observation(
            sgd=sgd,
            layer=None,
            names=self.names,
            device=str(self.x.device),
            dtype=str(self.x.dtype).removeprefix("torch."),
            diverged_at=diverged_at,
            loss=loss,
            displacement=displacement,
        )

    def diverges(self, sgd: SGD, steps: int) -> bool:
        """Decide by ``EDGE_RULE`` on one run.

        At the edge of stability it is the alternating part of the weights that stops shrinking;
        third differences keep it and drop the slow modes, whose decrease would hide its growth in
        the loss.
        """
        differences: list[torch.Tensor] = []
        recent: list[torch.Tensor] = []
        scale = 0.0

        def look(n: int, weights: torch.Tensor, loss: torch.Tensor) -> bool:
            nonlocal scale
            recent.append(weights.clone())
            if len(recent) == 4:
                a, b, c, d = recent
                differences.append(torch.linalg.vector_norm(d - a + 3 * (b - c)))
                del recent[0]
            if n % STRIDE or n == 0:
                return True
            scale = float(torch.linalg.vector_norm(recent[-1]))
            # six orders of growth need no more steps to be believed, nor does overflow
            return bool(differences[-1] <= 1e6 * max(differences[:8]))

        self.run(sgd, steps, look)
        norms = torch.stack(differences).cpu()
        if len(norms) < steps - 2 or not torch.isfinite(norms).all():
            return True
        quarter = len(norms) // 4
        before, last = norms[-2 * quarter : -quarter], norms[-quarter:]
        floor = 1e3 * torch.finfo(torch.float64).eps * scale
        return bool(last.square().mean() > before.square().mean().clamp(min=floor**2))
