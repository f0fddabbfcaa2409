"""Measures excess, breaking rate and updates of a head and a network, and what theory says."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import adaptive
from cnnbridge import LayerTask
from studies.related.noise_floor import Cell
from studies.training.images import tensors
from studies.training.networks import SmallCNN, draw_weights
from studies.training.sgd import reproducible

__all__ = ["critical_batch", "linear_problem", "measure", "noise_scale", "updates_to"]

Array = np.ndarray


def measure(cell: Cell) -> dict[str, Any]:
    """The head and the network of one cell.

    Returns
    -------
    ``head``: for each batch size ``observed`` and ``predicted`` excess, that of the ``textbook``
    and for ``shuffled`` targets; ``breaks``, the rate at which the median run does, and the
    edges ``mean_square`` and ``mean``. ``network``: for each batch size the ``observed`` and
    ``predicted`` updates to the goal; their critical batches ``observed_batch`` and
    ``predicted_batch``, and ``noise_scale``.
    """
    images, labels, _ = tensors(cell.images)
    x = images.double().to(cell.device)
    target = (2.0 * (labels % 2) - 1).double().to(cell.device).unsqueeze(1)
    with reproducible(cell.seed, threads=1):
        model = SmallCNN(x.shape[1], 1, cell.width).double()
        draw_weights(model, "default", cell.seed)
        model.to(cell.device).train()
        _train_until(model, x, target, cell)
        return {"head": _head(model, x, target, cell), "network": _network(model, x, target, cell)}


def _train_until(model: nn.Module, x: torch.Tensor, target: torch.Tensor, cell: Cell) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(5000):
        loss = (model(x) - target).square().mean()
        if loss.item() < cell.until:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise RuntimeError(f"the loss must fall below {cell.until:g}; it is {loss.item():.3g}")


# Head --------------------------------------------------------------------------------------------


def _head(model: SmallCNN, x: torch.Tensor, target: torch.Tensor, cell: Cell) -> dict[str, Any]:
    seen: list[torch.Tensor] = []
    handle = model.classify.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    features = seen[0]
    generator = torch.Generator().manual_seed(cell.seed)
    shuffled = target[torch.randperm(len(target), generator=generator).to(target.device)]
    rows = [_floor(features, target, shuffled, size, cell) for size in cell.batches[:-1]]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _floor(
    features: torch.Tensor, target: torch.Tensor, shuffled: torch.Tensor, size: int, cell: Cell
) -> dict[str, float]:
    """Excess at 0.3 of the edge, from the least loss on, second half of the run."""
    half = cell.steps // 2
    found: dict[str, float] = {}
    for name, d in (("predicted", target), ("shuffled", shuffled)):
        task = LayerTask(_best_head(features, d), features, d).minibatch(size)
        edge = task.predict(1e-9, 0).mean_square_edge
        prediction = task.predict(0.3 * edge, cell.steps)
        found[name] = float(prediction.loss[half:].mean() - prediction.loss_min)
        if name == "predicted":
            seen = task.observe(0.3 * edge, cell.steps, runs=cell.runs, seed=cell.seed)
            found["observed"] = float(seen.loss[half:].mean() - prediction.loss_min)
            power = float(features.square().sum(1).mean()) + 1
            found["textbook"] = 0.3 * edge * prediction.loss_min * power / size
            found["mean_square"], found["mean"] = edge, prediction.mean_edge
            broken = task.edge(edge, seed=cell.seed, runs=16, steps=2 * cell.steps, tolerance=0.02)
            found["breaks"] = broken.lr
    return found


def _best_head(features: torch.Tensor, target: torch.Tensor) -> nn.Linear:
    ones = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    w = torch.linalg.lstsq(ones.cpu(), target.cpu(), driver="gelsd").solution.T.to(features)
    head = nn.Linear(features.shape[1], target.shape[1]).to(features)
    with torch.no_grad():
        head.weight.copy_(w[:, :-1])
        head.bias.copy_(w[:, -1])
    return head


# Network -----------------------------------------------------------------------------------------


def _network(model: SmallCNN, x: torch.Tensor, target: torch.Tensor, cell: Cell) -> dict[str, Any]:
    u, d = linear_problem(model, x, target)
    goal = cell.goal * float((d**2).mean())
    edge = 1 / float(np.linalg.eigvalsh(u @ u.T / len(u))[-1])  # of lr: mu = 2 lr
    rates = [fraction * edge for fraction in cell.fractions]
    predicted, observed = [], []
    for size in cell.batches:
        curves = [
            adaptive.minibatch.predict_minibatch(
                u, d, mu=2 * lr, steps=cell.network_steps + 1, batch=size, replace=False
            ).mse
            for lr in rates
        ]
        predicted.append(min(updates_to(curve, goal) for curve in curves))
        curves = [_train_runs(model, x, target, (size, lr, goal), cell) for lr in rates]
        observed.append(min(updates_to(curve, goal) for curve in curves))
    return {
        "observed": observed,
        "predicted": predicted,
        "observed_batch": critical_batch(cell.batches, observed),
        "predicted_batch": critical_batch(cell.batches, predicted),
        "noise_scale": noise_scale(u, d),
    }


def linear_problem(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> tuple[Array, Array]:
    """A network of one output, linearised: regressors and desired response of its weights' moves.

    Parameters
    ----------
    model : any module whose output has shape (N, 1); not changed.
    x, target : images and (N, 1) targets.

    Returns
    -------
    (N, r) regressors, the gradient of each image's output in r <= N orthonormal directions that
    span them all, and (N,) targets less present outputs.
    """
    output = model(x)
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for value in output.flatten():
        parts = torch.autograd.grad(value, parameters, retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    J = torch.stack(rows).double().cpu().numpy()
    left, sizes, _ = np.linalg.svd(J, full_matrices=False)
    kept = sizes > 1e-10 * sizes[0]
    gap = (target - output).detach().flatten().double().cpu().numpy()
    return left[:, kept] * sizes[kept], gap


def noise_scale(u: Array, d: Array) -> float:
    """Trace of the covariance of the images' gradients over the square of their mean.

    McCandlish, Kaplan, Amodei et al. 2018, the simple noise scale.

    Examples
    --------
    >>> noise_scale(np.array([[1.0], [1.0]]), np.array([1.0, 3.0]))
    0.25
    """
    gradients = u * d[:, None]
    mean = gradients.mean(axis=0)
    return float(((gradients - mean) ** 2).sum(axis=1).mean() / (mean @ mean))


def updates_to(loss: Sequence[float] | Array, goal: float) -> float:
    """Updates until a curve first reaches a goal, interpolated; inf if it does not.

    Examples
    --------
    >>> updates_to([4.0, 2.0, 0.5], 1.0)
    1.5
    """
    values = np.asarray(loss, dtype=float)
    below = np.flatnonzero(values <= goal)
    if not len(below):
        return math.inf
    n = int(below[0])
    if n == 0:
        return 0.0
    high, low = np.log(values[n - 1]), np.log(max(values[n], 1e-300))
    return n - 1 + float((high - math.log(goal)) / (high - low))


def critical_batch(batches: Sequence[int], updates: Sequence[float], factor: float = 2.0) -> float:
    """Batch size that needs ``factor`` times the updates of the largest one.

    Interpolated in the logarithms of both; 0 where even the smallest batch needs fewer, NaN where
    the full batch or the next smaller one does not arrive.

    Examples
    --------
    >>> round(critical_batch([1, 4, 16], [40.0, 10.0, 5.0]), 6)
    4.0
    """
    wanted = factor * updates[-1]
    if not math.isfinite(wanted):
        return math.nan
    for k in range(len(batches) - 2, -1, -1):
        if updates[k] >= wanted:
            if not math.isfinite(updates[k]):
                return math.nan
            slope = math.log(updates[k] / updates[k + 1])
            part = math.log(wanted / updates[k + 1]) / slope
            return float(batches[k + 1] * (batches[k] / batches[k + 1]) ** part)
    return 0.0


def _train_runs(
    model: nn.Module,
    x: torch.Tensor,
    target: torch.Tensor,
    how: tuple[int, float, float],
    cell: Cell,
) -> Array:
    """Mean over runs of the loss on all images, (network_steps + 1,), up to the goal.

    ``how`` is batch size, rate and goal. It is inf once a run has diverged or the goal is reached.
    """
    size, lr, goal = how
    N, runs = len(x), cell.network_runs if size < len(x) else 1
    twin = copy.deepcopy(model)
    names = [name for name, _ in twin.named_parameters()]
    w = {n: p.detach().expand(runs, *p.shape).clone() for n, p in twin.named_parameters()}
    rng = np.random.default_rng([cell.seed, size])

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (torch.func.functional_call(twin, weights, (x,)) - y).square().mean()

    slope: Callable[..., Any] = torch.func.vmap(torch.func.grad(loss))
    whole: Callable[..., Any] = torch.func.vmap(loss, in_dims=(0, None, None))
    found = []
    with torch.no_grad():
        for n in range(cell.network_steps + 1):
            values = whole(w, x, target)
            if not torch.isfinite(values).all():
                break
            found.append(float(values.mean()))
            if n == cell.network_steps or found[-1] <= goal:
                break
            order = np.tile(np.arange(N), (runs, 1))
            drawn = torch.as_tensor(rng.permuted(order, axis=1)[:, :size].copy()).to(x.device)
            g = slope(w, x[drawn], target[drawn])
            w = {name: w[name] - lr * g[name] for name in names}
    curve = np.full(cell.network_steps + 1, np.inf)
    curve[: len(found)] = found
    return curve
