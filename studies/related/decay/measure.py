"""Trains with weight decay and measures length, rotation and relaxation of every convolution."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from studies.related.decay import Cell
from studies.training.images import tensors
from studies.training.networks import SmallCNN, conv_layers, draw_weights
from studies.training.sgd import batch_order, reproducible

__all__ = ["fitted_time", "measure"]

Array = np.ndarray
# the difference of the twins is fitted until it has fallen to this part of its start
FALLEN = 0.15


def measure(cell: Cell) -> dict[str, Any]:
    """Settle, watch, and relax a copy with longer weights.

    Returns
    -------
    ``layers`` by name: ``rotation``, root mean square angle of a step in radians; ``length``, mean
    |w|^4; ``expected_length``, lr times the mean of |w|^2 |g|^2 over 2 wd; ``radial``, root mean
    square cosine of gradient and weights; ``drift``, log |w|^2 at the end of watching less its
    start; ``time``, the fitted time constant, NaN where the difference does not fall;
    ``difference`` of |w|^4, in units of its start, at every ``every``-th step of the relaxation.
    ``steps``, updates of each part; ``loss``, mean over the watched steps.
    """
    images, labels, classes = tensors(cell.images)
    images, labels = images.to(cell.device), labels.to(cell.device)
    unit = (1 - cell.momentum) / (cell.lr * cell.decay)
    steps = [max(2, round(part * unit)) for part in (cell.settle, cell.watch, cell.relax)]
    with reproducible(cell.seed, threads=1):
        model = SmallCNN(images.shape[1], classes, cell.width, batch_norm=cell.batch_norm)
        draw_weights(model, "default", cell.seed)
        model.to(cell.device).train()
        optimizer = torch.optim.SGD(
            model.parameters(), lr=cell.lr, momentum=cell.momentum, weight_decay=cell.decay
        )
        order = list(batch_order(len(images), cell.batch, sum(steps), cell.seed))
        data = [(images[i], labels[i]) for i in order[: steps[0] + steps[1]]]
        for _ in _train(model, optimizer, data[: steps[0]]):
            pass
        found, loss = _watch(cell, model, optimizer, data[steps[0] :])
        rest = [(images[i], labels[i]) for i in order[steps[0] + steps[1] :]]
        for name, relaxed in _relax(cell, model, optimizer, rest).items():
            found[name] |= relaxed
        return {"layers": found, "steps": steps, "loss": loss}


def _train(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    data: list[tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[float]:
    """One update an iteration; the loss before it. Gradients are there until the next."""
    for x, y in data:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        yield loss.item()


def _watch(
    cell: Cell,
    model: nn.Module,
    optimizer: torch.optim.SGD,
    data: list[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[dict[str, dict[str, Any]], float]:
    layers = conv_layers(model)
    before = {n: layer.weight.detach().clone() for n, layer in layers.items()}
    rows: dict[str, list[tuple[float, ...]]] = {n: [] for n in layers}
    losses = []
    for loss in _train(model, optimizer, data):
        losses.append(loss)
        for n, layer in layers.items():
            w, old, g = layer.weight.detach(), before[n], layer.weight.grad
            assert g is not None
            power, other = float(old.square().sum()), float(w.square().sum())
            slope = float(g.square().sum())
            # of the chord between unit vectors, which float32 resolves where a cosine is 1
            chord = float((w / math.sqrt(other) - old / math.sqrt(power)).norm())
            angle = 2 * math.asin(min(1.0, chord / 2))
            radial = float((g * old).sum()) ** 2 / max(slope * power, 1e-30)
            rows[n].append((angle**2, power**2, power * slope, radial, math.log(power)))
            before[n] = w.clone()
    found = {}
    for n, values in rows.items():
        squares, fourth, gradient, radial, _ = np.mean(values, axis=0)
        found[n] = {
            "rotation": math.sqrt(squares),
            "length": float(fourth),
            "expected_length": cell.lr * float(gradient) / (2 * cell.decay),
            "radial": math.sqrt(radial),
            "drift": values[-1][4] - values[0][4],
        }
    return found, float(np.mean(losses))


def _relax(
    cell: Cell,
    model: nn.Module,
    optimizer: torch.optim.SGD,
    data: list[tuple[torch.Tensor, torch.Tensor]],
) -> dict[str, dict[str, Any]]:
    """Train the model and a copy with longer convolutions on the same batches."""
    twin = copy.deepcopy(model)
    other = torch.optim.SGD(
        twin.parameters(), lr=cell.lr, momentum=cell.momentum, weight_decay=cell.decay
    )
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        for layer in conv_layers(twin).values():
            layer.weight.mul_(cell.factor)
            # the memory of a longer filter's gradients, which are smaller, and of its own decay
            momentum = other.state[layer.weight].get("momentum_buffer")
            if momentum is not None:
                momentum.mul_(1 / cell.factor)
    gaps: dict[str, list[float]] = {n: [_gap(model, twin, n)] for n in conv_layers(model)}
    pairs = zip(_train(model, optimizer, data), _train(twin, other, data), strict=True)
    for _ in pairs:
        for n, gap in gaps.items():
            gap.append(_gap(model, twin, n))
    found = {}
    for n, gap in gaps.items():
        values = np.array(gap) / gap[0]
        every = 1 + len(values) // 100
        found[n] = {"time": fitted_time(values), "difference": values[::every], "every": every}
    return found


def _gap(model: nn.Module, twin: nn.Module, name: str) -> float:
    long, short = (
        float(conv_layers(m)[name].weight.detach().square().sum()) for m in (twin, model)
    )
    return long**2 - short**2


def fitted_time(difference: Array) -> float:
    """Time constant of a falling exponential that starts at 1, from its first fall.

    Least squares through the start on the logarithm, up to where the difference first falls below
    ``FALLEN``, or to the end.

    Examples
    --------
    >>> import numpy as np
    >>> round(fitted_time(np.exp(-np.arange(200) / 40)), 6)
    40.0
    """
    below = np.flatnonzero(difference < FALLEN)
    end = int(below[0]) if len(below) else len(difference)
    n, logs = np.arange(end), np.log(difference[:end])
    slope = float(n @ logs) / float(n @ n) if end > 1 else math.nan
    return -1 / slope if slope < 0 else math.nan
