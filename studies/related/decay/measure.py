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
from studies.related.decay.relaxation import fallen, fitted_time
from studies.training.images import tensors
from studies.training.networks import SmallCNN, conv_layers, draw_weights
from studies.training.sgd import batch_order, reproducible

__all__ = ["measure"]

Array = np.ndarray


def measure(cell: Cell) -> dict[str, Any]:
    """Settle, watch, and relax a copy with longer weights.

    Returns
    -------
    ``layers`` by name: ``rotation``, root mean square angle of a step in radians; ``length``, mean
    |w|^4; ``expected_length``, lr times the mean of |w|^2 |g|^2 over 2 wd; ``radial``, root mean
    square cosine of gradient and weights; ``drift``, log |w|^2 at the end of watching less its
    start; ``time``, the fitted time constant, NaN where the difference does not fall;
    ``exponent`` p, from both networks: the square of the gradient's strength, |w|^2 |g|^2, goes as
    the effective rate lr / |w|^2 to this power; ``difference`` of |w|^4, in units of its start, at
    every ``every``-th step of the relaxation.
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
    names = list(conv_layers(model))
    powers = {n: [_powers(model, n), _powers(twin, n)] for n in names}
    rows: dict[str, list[tuple[float, float, float]]] = {n: [] for n in names}
    for _ in zip(_train(model, optimizer, data), _train(twin, other, data), strict=True):
        for n in names:
            before, now = powers[n], [_powers(model, n), _powers(twin, n)]
            # the gradient belongs to the weights from before the step
            short, long = (w[0] * g[1] for w, g in zip(before, now, strict=True))
            gap = before[1][0] ** 2 - before[0][0] ** 2
            rows[n].append((gap, math.log(before[0][0] / before[1][0]), math.log(long / short)))
            powers[n] = now
    found = {}
    for n, each in rows.items():
        gaps, rates, strengths = np.transpose(each)
        values = gaps / gaps[0]
        every, end = 1 + len(values) // 100, fallen(values)
        found[n] = {
            "time": fitted_time(values),
            "difference": values[::every],
            "every": every,
            "exponent": float(rates[:end] @ strengths[:end] / (rates[:end] @ rates[:end])),
        }
    return found


def _powers(model: nn.Module, name: str) -> tuple[float, float]:
    """|w|^2, and |g|^2 of the last gradient, tiny where it is zero."""
    w = conv_layers(model)[name].weight
    slope = 0.0 if w.grad is None else float(w.grad.square().sum())
    return float(w.detach().square().sum()), max(slope, 1e-30)
