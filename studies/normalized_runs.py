"""One network, one normalization, one seed: what it starts from, how fast it is, what it stands.

``measure`` is the pure function that ``studies.sweep`` runs over a grid of ``Cell``.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from studies import predictors
from studies.data import load
from studies.models import Init, Network, PlainVGG, Position, SmallResNet, draw_weights
from studies.training import run_sgd

__all__ = ["Cell", "felt_edge", "geometric_rates", "image_tensors", "measure", "probe"]

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
    data, data_root, data_seed, images, image_size : see ``studies.data.load``.
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


def geometric_rates(lowest: float, octaves: int, per_octave: int = 2) -> tuple[float, ...]:
    """Learning rates from ``lowest`` on, so many to each factor of two.

    Examples
    --------
    >>> geometric_rates(0.5, octaves=2, per_octave=1)
    (0.5, 1.0, 2.0)
    """
    steps = np.arange(octaves * per_octave + 1) / per_octave
    return tuple(float(rate) for rate in lowest * 2.0**steps)


@functools.lru_cache(maxsize=4)
def image_tensors(
    data: str,
    root: str | None,
    seed: int,
    limit: int,
    size: int | None,
    badly_scaled: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Images, labels and the number of classes; read once in a process, not to be written to."""
    found = load(data, root, limit=limit, image_size=size, seed=seed)
    images = torch.from_numpy(found.images)
    if badly_scaled:
        channels = images.shape[1]
        factors = torch.logspace(-1, 1, channels) if channels > 1 else torch.tensor([10.0])
        images = images * factors.reshape(-1, 1, 1)
    return images, torch.from_numpy(found.labels), len(found.classes)


Classifier = PlainVGG | SmallResNet


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
    search; with ``predict``, ``predicted``, a mapping of candidates to learning rates, and
    ``straight_line``, the updates to the threshold by the slope at the start.
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
        candidates = found["predicted"]
        candidates["R at the start"] = _bound_of_inputs(spectra)
        after, _ = train(cell.low_rate, SHORT)
        candidates["R after a few updates"] = _bound_of_inputs(
            predictors.input_spectra(after, batch)
        )
        candidates |= _short_runs(cell.rates, train, batch, math.log(classes))
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


def _short_runs(
    rates: tuple[float, ...], train: Any, batch: torch.Tensor, ceiling: float
) -> dict[str, float]:
    """Candidates that make a few updates at each rate they try, starting anew each time."""
    if not rates:
        return {}

    def survives(lr: float) -> bool:
        loss = train(lr, SHORT)[1].loss
        # a mean of so few that it is no smoothed loss; a NaN fails
        return bool(loss[-3:].mean() <= 2 * max(loss[0], ceiling))

    def bears(lr: float) -> bool:
        model, run = train(lr, SHORT)
        return bool(np.isfinite(run.loss).all()) and felt_edge(model, batch) >= lr

    return {
        name: rates[index] if index >= 0 else rates[0] / 2
        for name, index in (
            ("a few updates at each rate", predictors.highest_on_grid(rates, survives)),
            ("felt edge where a rate leads", predictors.highest_on_grid(rates, bears)),
        )
    }


def _bound_of_inputs(spectra: list[predictors.LayerSpectrum]) -> float:
    highest = max(layer.highest for layer in spectra)
    return 2 / highest if highest > 0 else math.inf
