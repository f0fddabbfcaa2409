"""One network, one normalization, one seed: what it starts from, how fast it is, what it stands.

``measure`` is the pure function that ``studies.engine.grid`` runs over a grid of ``Cell``.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from studies.training import probes as predictors
from studies.training.images import image_tensors
from studies.training.networks import (
    Classifier,
    Init,
    Network,
    PlainVGG,
    Position,
    SmallResNet,
    conv_layers,
    draw_weights,
)
from studies.training.rates import geometric_rates
from studies.training.sgd import run_sgd

__all__ = [
    "Cell",
    "felt_edge",
    "geometric_rates",
    "growth",
    "image_tensors",
    "measure",
    "probe",
]

FELT = 0.05
SHORT = 8


@dataclass(frozen=True)
class Cell:
    """Everything that decides the numbers of one cell.

    Attributes
    ----------
    variant : a name in ``cnnbridge.NORMALIZATION_VARIANTS``.
    seed : of the weights and of the order of the images.
    network : "plain" is ``PlainVGG``, "residual" is ``SmallResNet``, which has no position.
    init, position, head, widths : of the network, see there and ``draw_weights``.
    momentum : torch's.
    badly_scaled : multiply the channels of the images by 0.1 to 10, a single one by 10.
    data, data_root, data_seed, images, image_size : see ``studies.training.images.load``.
    batch_size : images per update.
    low_rate, threshold, low_steps : speed is the number of updates at the low rate until the
        smoothed loss is below the threshold, at most so many.
    rates, rate_steps : the highest rate of the grid at which so many updates neither diverge nor
        kill the network.
    probe : images of the batch on which the start is measured.
    predict : measure the candidates that cost more than a forward pass.
    device : ``cpu`` or ``cuda``.
    """

    variant: str
    seed: int
    network: Network = "plain"
    init: Init = "spread"
    position: Position = "pre"
    momentum: float = 0.0
    badly_scaled: bool = False
    head: int = 1
    widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    data: str = "mnist5k"
    data_root: str | None = None
    data_seed: int = 0
    images: int = 2000
    image_size: int | None = 16
    batch_size: int = 32
    low_rate: float = 0.01
    threshold: float = 2.2
    low_steps: int = 500
    rates: tuple[float, ...] = ()
    rate_steps: int = 100
    probe: int = 64
    predict: bool = True
    device: str = "cpu"


def _fresh(cell: Cell, channels: int, classes: int) -> Classifier:
    model: Classifier
    if cell.network == "residual":
        model = SmallResNet(channels, classes, cell.widths, cell.variant, cell.head)
    else:
        model = PlainVGG(channels, classes, cell.widths, cell.variant, cell.position, cell.head)
    draw_weights(model, cell.init, cell.seed)
    return model.to(cell.device).train()


def measure(cell: Cell) -> dict[str, Any]:
    """Start, speed and highest stable rate of one cell.

    Returns
    -------
    dict with ``loss_start``; ``spectra``, one mapping per convolution (``LayerSpectrum``);
    ``steps`` (None if the threshold was not reached in ``low_steps``), ``low_state``,
    ``low_loss`` (of every update); ``rate_index`` of the highest stable rate in ``rates`` (-1 if
    none is), ``rate_loss``, the mean of the last losses there, and ``tried``, the runs of the
    search; with ``predict``, ``predicted``, a mapping of candidates to learning rates, and the
    updates to the threshold as foretold by ``level_3``, the network linearised at the start (None
    if not in ``low_steps``), ``straight_on``, the fall of the loss in the first 8 updates (None if
    it did not fall), and ``straight_line``, the slope at the start.
    """
    images, labels, classes = image_tensors(
        cell.data, cell.data_root, cell.data_seed, cell.images, cell.image_size, cell.badly_scaled
    )
    images, labels = images.to(cell.device), labels.to(cell.device)

    def train(lr: float, steps: int, stop_below: float | None = None) -> Any:
        model = _fresh(cell, images.shape[1], classes)
        run = run_sgd(
            model,
            images,
            labels,
            lr=lr,
            steps=steps,
            batch_size=cell.batch_size,
            momentum=cell.momentum,
            seed=cell.seed,
            classes=classes,
            stop_below=stop_below,
        )
        return model, run

    found: dict[str, Any] = {}
    _, low = train(cell.low_rate, cell.low_steps, cell.threshold)
    found["loss_start"] = float(low.loss[0])
    found["steps"] = low.steps_to(cell.threshold)
    found["low_state"] = low.state
    found["low_loss"] = [round(float(loss), 5) for loss in low.loss]

    tried = []

    def stands(lr: float) -> bool:
        _, run = train(lr, cell.rate_steps)
        end = float(np.mean(run.loss[-10:]))
        tried.append({"lr": lr, "state": run.state, "updates": len(run.loss), "loss": end})
        return bool(run.state == "stable")

    if cell.rates:
        found["rate_index"] = predictors.highest_on_grid(cell.rates, stands)
        at = [t["loss"] for t in tried if t["lr"] == cell.rates[found["rate_index"]]]
        found["rate_loss"] = at[0] if at and found["rate_index"] >= 0 else None
        found["tried"] = tried

    model = _fresh(cell, images.shape[1], classes)
    batch, wanted = images[: cell.probe], labels[: cell.probe]
    spectra = predictors.input_spectra(model, batch)
    found["spectra"] = [vars(layer) for layer in spectra]
    if cell.predict:
        found |= probe(model, batch, wanted, threshold=cell.threshold, lr=cell.low_rate)
        found["level_3"] = predictors.linearised_run(
            _fresh(cell, images.shape[1], classes),
            images,
            labels,
            lr=cell.low_rate,
            steps=cell.low_steps,
            batch_size=cell.batch_size,
            momentum=cell.momentum,
            seed=cell.seed,
            stop_below=cell.threshold,
        ).steps_to(cell.threshold)
        after, _ = train(cell.low_rate, SHORT)
        found["straight_on"] = _straight_on(model, after, batch, wanted, cell.threshold)
        candidates = found["predicted"]
        candidates["R at the start"] = _bound_of_inputs(spectra)
        candidates["R after 8 updates"] = _bound_of_inputs(predictors.input_spectra(after, batch))
        edge = (1 + cell.momentum) * candidates["Gauss-Newton, whole net"]
        candidates |= _short_runs(cell, train, edge, model, math.log(classes))
        candidates |= _last_layer_alone(cell, model, images, labels, classes)
        candidates["the lesser of the last two"] = min(
            candidates["Gauss-Newton times growth"], candidates["last layer alone"]
        )
    return found


def probe(
    model: Classifier, images: torch.Tensor, labels: torch.Tensor, *, threshold: float, lr: float
) -> dict[str, Any]:
    """Candidates for the highest stable rate and for the speed, from one batch at the start."""
    edge = functools.partial(predictors.gauss_newton_edge, model, images)
    with predictors.without_statistics_gradient(model):
        constant = edge()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    slope = sum(
        float(g.square().sum()) for g in torch.autograd.grad(loss, list(model.parameters()))
    )
    gap = max(loss.item() - threshold, 0.0)
    return {
        "predicted": {
            "Gauss-Newton, whole net": edge(),
            "Gauss-Newton, statistics constant": constant,
            "Gauss-Newton, last linear layer": edge(parameters=list(model.classify.parameters())),
            "Gauss-Newton, filters whose length is felt": felt_edge(model, images),
        },
        "straight_line": gap / (lr * slope) if slope > 0 else None,
    }


def felt_edge(model: Classifier, images: torch.Tensor) -> float:
    """The Gauss-Newton edge without the filters whose length the output does not feel.

    A step along such a filter's gradient is at right angles to it and makes it longer, and a longer
    filter takes smaller steps in direction: NLMS, which no rate makes diverge. So it is left out
    of the budget, with its bias; the linear layer never is.
    """
    parameters = dict(model.named_parameters())
    shares = dict(zip(parameters, predictors.length_felt(model, images), strict=True))
    masks = []
    for name, w in parameters.items():
        filter_name = name.removesuffix("bias") + "weight" if name.endswith("bias") else name
        mask = (shares[filter_name] > FELT) | name.startswith("classify.")
        masks.append(mask.to(w).reshape(-1, *(1,) * (w.ndim - 1)))
    return predictors.gauss_newton_edge(model, images, masks=masks)


def growth(before: Classifier, after: Classifier) -> float:
    """How many times |w|^2 has become what it was: median over the convolutions.

    The Gauss-Newton matrix of a scale-invariant layer falls with 1 / |w|^2, so its edge rises by
    as much: the effective rate is lr / |w|^2, as the step of NLMS is mu / |u|^2.
    """
    pairs = zip(conv_layers(before).values(), conv_layers(after).values(), strict=True)
    with torch.no_grad():
        return float(
            np.median([float(b.weight.square().sum() / a.weight.square().sum()) for a, b in pairs])
        )


def _short_runs(
    cell: Cell, train: Any, edge: float, start: Classifier, ceiling: float
) -> dict[str, float]:
    """Candidates that make a few updates at each rate they try, starting anew each time."""
    short = functools.cache(lambda lr: train(lr, SHORT))
    longer = functools.cache(lambda lr: train(lr, 2 * SHORT)[1])

    def bounded(loss: np.ndarray) -> bool:
        # a mean of so few that it is no smoothed loss; a NaN fails
        return bool(loss[-3:].mean() <= 2 * max(loss[0], ceiling))

    def bears(lr: float) -> bool:
        model, run = short(lr)
        return bool(np.isfinite(run.loss).all()) and lr <= edge * growth(start, model)

    return {
        "8 updates at each rate": _highest(cell.rates, lambda lr: bounded(short(lr)[1].loss)),
        "16 updates at each rate": _highest(cell.rates, lambda lr: bounded(longer(lr).loss)),
        "16 updates, alive": _highest(
            cell.rates,
            lambda lr: bounded(longer(lr).loss) and longer(lr).state == "stable",
        ),
        "Gauss-Newton times growth": _highest(cell.rates, bears),
    }


def _last_layer_alone(
    cell: Cell, model: Classifier, images: torch.Tensor, labels: torch.Tensor, classes: int
) -> dict[str, float]:
    """The highest stable rate of the linear layer if all before it stayed as it starts.

    Nothing normalizes the linear layer, whatever is done to those before it.
    """
    inputs = predictors.last_layer_inputs(model, images, cell.batch_size)

    def stands(lr: float) -> bool:
        run = run_sgd(
            copy.deepcopy(model.classify),
            inputs,
            labels[: len(inputs)],
            lr=lr,
            steps=cell.rate_steps,
            batch_size=cell.batch_size,
            momentum=cell.momentum,
            seed=cell.seed,
            classes=classes,
        )
        return bool(run.state == "stable")

    return {"last layer alone": _highest(cell.rates, stands)}


def _highest(rates: tuple[float, ...], stable: Callable[[float], bool]) -> float:
    index = predictors.highest_on_grid(rates, stable)
    return rates[index] if index >= 0 else rates[0] / 2


@torch.no_grad()
def _straight_on(
    start: Classifier,
    after: Classifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    threshold: float,
) -> float | None:
    """Updates to the threshold if the loss of one batch went on as in the first few updates."""
    losses = [
        torch.nn.functional.cross_entropy(model(images), labels).item() for model in (start, after)
    ]
    if losses[0] <= threshold:
        return 0.0
    fall = losses[0] - losses[1]
    return SHORT * (losses[0] - threshold) / fall if fall > 0 else None


def _bound_of_inputs(spectra: list[predictors.LayerSpectrum]) -> float:
    highest = max(layer.highest for layer in spectra)
    return 2 / highest if highest > 0 else math.inf
