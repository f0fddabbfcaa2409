"""Curvature of a network's loss along the natural modes of its layers, all layers at once.

The modes of a layer are the eigenvectors of R, the autocorrelation of the patches it sees. If the
errors that reach the layer did not depend on its patches, the loss would curve along each mode in
proportion to the mode's eigenvalue. ``mode_curvature`` measures whether it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from adaptive.checks import Array, items
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import find_module, own_weights, watched_use
from cnnbridge.learning.batch_loss import Data, Loss
from cnnbridge.learning.objective import Objective
from cnnbridge.learning.one_layer import learns_bias
from cnnbridge.learning.output_draws import output_draws
from cnnbridge.statistics.autocorrelation import Moments
from cnnbridge.statistics.spectrum import full_spectrum

__all__ = [
    "ModeCurvature",
    "gradients_along",
    "layer_statistics",
    "line_fit",
    "mode_curvature",
]


@dataclass(frozen=True, eq=False)
class ModeCurvature:
    """How the loss curves along the modes of one layer, the other layers held still.

    Attributes
    ----------
    layer : its name in the model.
    eigenvalues : (groups, K) of R, ascending; the bias is the last tap if it learns.
    eigenvectors : (groups, L, K), column k belongs to eigenvalue k.
    curvature : (groups, K): q_k' C q_k, where C (L, L) is the sum over the group's outputs of the
        blocks of the Gauss-Newton matrix. Estimated from random draws, without bias.
    standard_error : (groups, K) of ``curvature``.
    resolved : (groups, K), False where the eigenvalue is within the rounding of R.
    """

    layer: str
    eigenvalues: Array = field(repr=False)
    eigenvectors: Array = field(repr=False)
    curvature: Array = field(repr=False)
    standard_error: Array = field(repr=False)
    resolved: Array = field(repr=False)

    @property
    def slope(self) -> float:
        """Slope of log curvature against log eigenvalue: 1 if they are proportional."""
        return self._fit()[0]

    @property
    def r_squared(self) -> float:
        """Fraction of the variance of log curvature that the straight line explains."""
        return self._fit()[1]

    @property
    def gain(self) -> float:
        """Geometric mean of curvature over eigenvalue: what multiplies R in the loss."""
        x, y = self._logs()
        return math.exp(float(np.mean(y - x))) if len(x) else math.nan

    def __str__(self) -> str:
        return (
            f"{self.layer}: curvature along {self.eigenvalues.size} modes of R has slope "
            f"{self.slope:.2f} and R^2 {self.r_squared:.3f} against the eigenvalue (log-log); "
            f"gain {self.gain:.3g}"
        )

    def _logs(self) -> tuple[Array, Array]:
        used = self.resolved & (self.curvature > 0)
        return np.log(self.eigenvalues[used]), np.log(self.curvature[used])

    def _fit(self) -> tuple[float, float]:
        return line_fit(*self._logs())


def line_fit(x: Array, y: Array) -> tuple[float, float]:
    """Slope and R^2 of the straight line through points, by least squares.

    NaN for fewer than three points, or if all x agree.

    Examples
    --------
    >>> line_fit(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    (2.0, 1.0)
    """
    if len(x) < 3 or np.ptp(x) == 0:
        return math.nan, math.nan
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    left, power = float(((y - slope * x) ** 2).sum()), float(y @ y)
    return slope, 1 - left / power if power else math.nan


def mode_curvature(
    model: nn.Module,
    data: Data,
    loss: Loss = None,
    *,
    layers: Sequence[str] | None = None,
    modes: int | None = None,
    draws: int = 16,
    seed: int = 0,
) -> dict[str, ModeCurvature]:
    """Measure the curvature of the loss along the modes of R, for all layers at once.

    Parameters
    ----------
    model : any module in eager mode, in the mode (train or eval) to be looked at. It is copied,
        and not changed.
    data, loss : as in ``NetworkTask``; the loss of one image may depend on the outputs for that
        image only.
    layers : names of convolution and linear layers. By default all whose weights are learned
        parameters of their own and reach the loss.
    modes : how many of the strongest modes of each layer; all by default.
    draws : random draws, each one backward pass, at least 2. The standard error of a mode's
        curvature falls with the root of draws times the number of the layer's outputs.
    seed : of the draws.

    Returns
    -------
    dict from layer name to ``ModeCurvature``, in the order of the model.

    Raises
    ------
    TypeError, ValueError : as ``NetworkTask``; a named layer is no convolution or linear layer, has
        weights that are computed, frozen or shared, or does not reach the loss; the model has no
        such layer, or more than 2048 outputs for each image of a loss that is neither torch's
        cross-entropy nor its mean squared error; modes or draws out of range.

    Notes
    -----
    The Gauss-Newton matrix of a layer is J'HJ, with J the network's outputs by the layer's weights
    and H the Hessian of the loss by the outputs. With S S' = H and s a vector of random signs,
    g = J'S s has the mean square E[g g'] = J'HJ (Hutchinson's estimator), and one backward pass
    gives it for all layers. Signs differ between images and gradients are added over images before
    they are squared, so that normalization by batch statistics, which couples images, is included.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
    >>> x, y = torch.randn(32, 1, 8, 8), torch.randint(3, (32,))
    >>> found = mode_curvature(model, (x, y), nn.CrossEntropyLoss())
    >>> list(found), found["0"].curvature.shape
    (['0', '3'], (1, 10))
    """
    most = None if modes is None else _checks.count("modes", modes)
    many = _checks.count("draws", draws, least=2)
    start = _checks.seed("seed", seed)
    objective = Objective(model, data, loss)
    with objective.kept():
        statistics = layer_statistics(objective, layers)
        spectra = {
            name: full_spectrum(R, products=objective.dtype) for name, R in statistics.items()
        }
        kept = slice(None) if most is None else slice(-most, None)
        vectors = {name: s.eigenvectors[:, :, kept] for name, s in spectra.items()}
        drawn = gradients_along(objective, vectors, draws=many, seed=start)
    found = {}
    for name, spectrum in spectra.items():
        each = (drawn[name] ** 2).sum(dim=2).cpu().numpy()
        values = spectrum.eigenvalues[:, kept].cpu().numpy()
        found[name] = ModeCurvature(
            layer=name,
            eigenvalues=values,
            eigenvectors=vectors[name].cpu().numpy(),
            curvature=each.mean(axis=0),
            standard_error=each.std(axis=0, ddof=1) / math.sqrt(many),
            resolved=values > spectrum.rounding[:, None].cpu().numpy(),
        )
    return found


def layer_statistics(
    objective: Objective, layers: Sequence[str] | None = None
) -> dict[str, torch.Tensor]:
    """R (groups, L, L) of each layer over the data, by name; layers as in ``mode_curvature``.

    The layers that are found by default are those that the loss depends on.
    """
    chosen = _chosen(objective, layers)
    moments: dict[str, Moments] = {}
    reached: set[str] = set()
    for batch in objective.batches:
        with _inputs(chosen, moments):
            _, value = objective.run(batch)
        weights = [layer.weight for layer in chosen.values()]
        slopes: Sequence[torch.Tensor | None] = [None] * len(weights)
        if value.requires_grad:
            slopes = torch.autograd.grad(value, weights, allow_unused=True)
        reached |= {n for n, slope in zip(chosen, slopes, strict=True) if slope is not None}
    lost = [name for name in chosen if name not in reached or name not in moments]
    if lost and (layers is not None or len(lost) == len(chosen)):
        raise ValueError(f"the loss must depend on layer {lost[0]!r}; it does not")
    return {name: moments[name].mean() for name in chosen if name not in lost}


def gradients_along(
    objective: Objective, vectors: Mapping[str, torch.Tensor], *, draws: int, seed: int
) -> dict[str, torch.Tensor]:
    """Random gradients of layers along given directions; their squares average to curvature.

    Parameters
    ----------
    objective : network, data and loss; call it inside ``objective.kept()``.
    vectors : by layer, (groups, L, K) directions in the order of ``unfold_patches``.
    draws, seed : how many, and of which random numbers.

    Returns
    -------
    by layer, (draws, groups, M / groups, K) float64: g_m' q_k for output m and direction k. The
    mean over draws of g_m' q_k times g_n' q_l is the entry of the Gauss-Newton matrix between
    (m, k) and (n, l).
    """
    chosen = _chosen(objective, list(vectors))
    geometries = {name: Geometry.of(layer) for name, layer in chosen.items()}
    total = {
        name: v.new_zeros(
            (draws, v.shape[0], geometries[name].out_channels // v.shape[0], v.shape[2])
        )
        for name, v in vectors.items()
    }
    by = [p for layer in chosen.values() for p in _learned(layer)]
    generator = torch.Generator().manual_seed(_checks.seed("seed", seed))
    for batch, weight in zip(objective.batches, objective.batch_weights, strict=True):
        outputs, value = objective.run(batch)
        loss = objective.batch_loss.loss
        draw_outputs = output_draws(loss, batch, outputs, value)
        for draw in range(draws):
            along = [w * math.sqrt(weight) for w in draw_outputs(generator)]
            parts = iter(
                torch.autograd.grad(outputs, by, along, retain_graph=True, allow_unused=True)
            )
            for name, layer in chosen.items():
                own = [_or_zero(next(parts), p) for p in _learned(layer)]
                g = geometries[name].by_group(*own).to(vectors[name])
                total[name][draw] += g @ vectors[name]
    return total


def _chosen(objective: Objective, names: Sequence[str] | None) -> dict[str, Layer]:
    model = objective.model
    if names is not None:
        names = items("layers", names, "names, or None for all")
        if not names:
            raise TypeError("layers must be a list of names, or None for all; got an empty one")
        chosen = {n: _checks.layer(f"layer {n!r}", find_module(model, n)) for n in names}
        for name, layer in chosen.items():
            own_weights(f"layer {name!r}", layer, model, frozen_bias=True)
        return chosen
    found = {n: layer for n, layer in model.named_modules() if _qualifies(n, layer, model)}
    if not found:
        raise ValueError(
            "model must have a convolution or linear layer with learned weights of its own; "
            "got one without"
        )
    return found  # type: ignore[return-value]


def _qualifies(name: str, layer: nn.Module, model: nn.Module) -> bool:
    try:
        own_weights(name, _checks.layer(name, layer), model, frozen_bias=True)
    except (TypeError, ValueError):
        return False
    return True


def _learned(layer: Layer) -> list[torch.Tensor]:
    return [layer.weight, layer.bias] if learns_bias(layer) else [layer.weight]  # type: ignore[list-item]


def _or_zero(part: torch.Tensor | None, parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter) if part is None else part


@contextmanager
def _inputs(chosen: Mapping[str, Layer], moments: dict[str, Moments]) -> Iterator[None]:
    """Add to the moments of each layer whatever enters it inside the block."""
    with ExitStack() as stack:
        for name, layer in chosen.items():
            geometry = Geometry.of(layer)

            def see(
                module: nn.Module,
                args: Any,
                kwargs: dict[str, Any],
                out: torch.Tensor,
                name: str = name,
                geometry: Geometry = geometry,
                bias: bool = learns_bias(layer),
            ) -> None:
                u, _ = watched_use(f"layer {name!r}", geometry, args, kwargs, out)
                u = u.detach()
                if name not in moments:
                    moments[name] = Moments.zeros(geometry, bias=bias, device=u.device)
                moments[name].add(u)
                moments[name].check(f"the input of layer {name!r}", u)

            handle = layer.register_forward_hook(see, prepend=True, with_kwargs=True)
            stack.callback(handle.remove)
        yield
