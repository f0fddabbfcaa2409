"""One network at one checkpoint: how every level predicts its training, and what breaks.

``measure`` is the pure function that ``studies.engine.grid`` runs over a grid of ``Cell``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

import cnnbridge
from studies.chai2020.two_effects.measure import image_tensors
from studies.training.networks import SmallCNN, conv_layers, draw_weights
from studies.training.sgd import reproducible, run_sgd

__all__ = ["READINGS", "Cell", "half_times", "level_name", "measure", "rank_correlation"]

Array = np.ndarray

READINGS = ("gauss_newton", "kronecker", "scalar")
AUDITED = ("gauss_newton", "scalar")
# a mode that has moved less than this part of the one that moved most is rounding, in float32
MOVED = 1e-5
LOSS = nn.CrossEntropyLoss()


@dataclass(frozen=True)
class Cell:
    """Everything that decides the numbers of one cell.

    Attributes
    ----------
    seed : of the weights and of the order of the images.
    batch_norm : whether the network has BatchNorm, which uses the statistics of its batch.
    trained : start from a checkpoint; if not, from fresh weights.
    data, data_root, data_seed, images, image_size : see ``studies.training.images.load``.
    width : of ``SmallCNN``.
    checkpoint_loss : mini-batch SGD goes on until the loss, averaged over 10 updates, is below.
    train_lr, train_momentum, train_batch, train_steps : of that SGD; steps are a limit.
    batch : images on which training then goes on, all of them at each step, without momentum.
    fraction : learning rate there, in parts of level 3's bound 2 / lambda_max(Gauss-Newton).
    steps : of it.
    relinearize : steps of level 4.
    audit_steps : steps of the audit of each convolution; 0 for none.
    device : ``cpu`` or ``cuda``.
    """

    seed: int
    batch_norm: bool
    trained: bool = True
    data: str = "mnist5k"
    data_root: str | None = None
    data_seed: int = 0
    images: int = 5000
    image_size: int | None = 14
    width: int = 8
    checkpoint_loss: float = 0.5
    train_lr: float = 0.02
    train_momentum: float = 0.9
    train_batch: int = 32
    train_steps: int = 2000
    batch: int = 128
    fraction: float = 0.2
    steps: int = 100
    relinearize: tuple[int, ...] = (50, 10, 2)
    audit_steps: int = 0
    device: str = "cpu"


def level_name(h: int | None) -> str:
    """Level 3, or level 4 with its number of steps, as the results call it."""
    return "level 3" if h is None else f"level 4, every {h}"


def measure(cell: Cell) -> dict[str, Any]:
    """Every level's prediction of one network beside its training.

    Returns
    -------
    dict with ``updates`` to the checkpoint, ``bound`` of level 3, ``lr`` and the ``loss``
    (steps + 1,) of the training; ``network``, an outcome for each ``level_name``; ``layers``, for
    each convolution ``frozen`` and ``learning``, an outcome for each of ``READINGS`` against the
    layer trained alone and against the same layer while all others learn, and ``modes``, the
    natural modes of R in the training of the whole (see ``_natural_modes``); with
    ``audit_steps``, ``audits`` by layer and reading.

    Raises
    ------
    RuntimeError : the network did not get to the checkpoint.
    """
    images, labels, classes = image_tensors(
        cell.data, cell.data_root, cell.data_seed, cell.images, cell.image_size
    )
    images, labels = images.to(cell.device), labels.to(cell.device)
    with reproducible(cell.seed):
        model = SmallCNN(images.shape[1], classes, cell.width, batch_norm=cell.batch_norm)
        draw_weights(model, "default", cell.seed)
        model.to(cell.device).train()
        updates = _to_checkpoint(cell, model, images, labels, classes) if cell.trained else 0
        return {"updates": updates} | _levels(
            cell, model, images[: cell.batch], labels[: cell.batch]
        )


def _to_checkpoint(
    cell: Cell, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, classes: int
) -> int:
    run = run_sgd(
        model,
        images,
        labels,
        lr=cell.train_lr,
        steps=cell.train_steps,
        batch_size=cell.train_batch,
        momentum=cell.train_momentum,
        seed=cell.seed,
        classes=classes,
        stop_below=cell.checkpoint_loss,
    )
    if run.steps_to(cell.checkpoint_loss) is None:
        raise RuntimeError(
            f"the loss must fall below {cell.checkpoint_loss:g} in {cell.train_steps} updates; "
            f"it is {run.state} and ends at {run.loss[-1]:.3g}"
        )
    return len(run.loss)


def _levels(cell: Cell, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
    bound = 2 / cnnbridge.sharpness(model, x, y, LOSS, kind="gauss_newton")
    lr = cell.fraction * bound
    run = cnnbridge.observe_network(model, x, y, LOSS, lr=lr, steps=cell.steps)
    found: dict[str, Any] = {"bound": bound, "lr": lr, "loss": run.loss, "network": {}}
    for h in (None, *cell.relinearize):
        prediction = cnnbridge.predict_network(
            model, x, y, LOSS, lr=lr, steps=cell.steps, relinearize=h
        )
        found["network"][level_name(h)] = _outcome(cnnbridge.compare(prediction, run))
    found["layers"] = {}
    for layer in conv_layers(model):
        alone = cnnbridge.compare_in_place(model, layer, x, y, LOSS, lr=lr, steps=cell.steps)
        here = _part(run, model, layer, alone.observation.names)
        found["layers"][layer] = {
            "frozen": {
                name: _outcome(result) | _by_mode(alone.predictions[name], result)
                for name, result in alone.comparisons.items()
            },
            "learning": {
                name: _outcome(cnnbridge.compare(prediction, here))
                for name, prediction in alone.predictions.items()
            },
            "modes": _natural_modes(alone.predictions["scalar"], here),
        }
    if cell.audit_steps:
        found["audits"] = {
            layer: {reading: _audit(cell, model, layer, x, y, lr, reading) for reading in AUDITED}
            for layer in conv_layers(model)
        }
    return found


def _outcome(result: cnnbridge.Comparison) -> dict[str, Any]:
    """What a comparison comes to, by step, and its horizons by tolerance."""
    return {
        "error": result.displacement_error,
        "skill": result.skill,
        "loss_error": result.loss_error,
        "horizon": {f"{tolerance:g}": n for tolerance, n in result.horizon.items()},
    }


def _by_mode(
    prediction: cnnbridge.NetworkPrediction, result: cnnbridge.Comparison
) -> dict[str, Array]:
    return {"eigenvalues": prediction.eigenvalues, "mode_error": result.mode_error}


def _part(
    run: cnnbridge.NetworkObservation, model: nn.Module, layer: str, names: tuple[str, ...]
) -> cnnbridge.NetworkObservation:
    """The training of all layers, as far as one of them is concerned."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    ends = dict(zip(run.names, np.cumsum([sizes[name] for name in run.names]), strict=True))
    columns = np.concatenate([np.arange(ends[n] - sizes[n], ends[n]) for n in names])
    return dataclasses.replace(
        run, layer=layer, names=names, displacement=run.displacement[:, columns]
    )


def _natural_modes(
    plain: cnnbridge.NetworkPrediction, run: cnnbridge.NetworkObservation
) -> dict[str, Any]:
    """When each natural mode of R moves, and how far, beside what the plain reading says.

    Returns ``eigenvalues`` (K,) in units of the largest; ``half_time`` and ``predicted_half_time``
    (K,) in steps, and ``reach`` (K,), how far the mode of all output channels together has moved
    at the end, in units of the farthest; ``order``, ``predicted_order`` and ``reach_order``, the
    rank correlations of the eigenvalue with early half-times and with reach.
    """
    groups, L = plain.basis.taps.shape[:2]  # type: ignore[attr-defined]
    powers = plain.eigenvalues.reshape(groups, -1, L)[:, 0].ravel()
    seen, said = (
        _distances(plain.basis.to_modes(path), groups, L)
        for path in (run.displacement, plain.displacement)
    )
    reach = seen[-1]
    moved = (powers > 0) & (reach > MOVED * reach.max()) & (said[-1] > 0)
    half, predicted = half_times(seen)[moved], half_times(said)[moved]
    powers, reach = powers[moved], reach[moved]
    return {
        "eigenvalues": powers / powers.max(initial=0),
        "half_time": half,
        "predicted_half_time": predicted,
        "reach": reach / reach.max(initial=0),
        "order": rank_correlation(powers, -half),
        "predicted_order": rank_correlation(powers, -predicted),
        "reach_order": rank_correlation(powers, reach),
    }


def _distances(modes: Array, groups: int, L: int) -> Array:
    """(steps + 1, groups * L): length of each tap mode over the output channels of its group."""
    split = modes.reshape(len(modes), groups, -1, L)
    lengths: Array = np.linalg.norm(split, axis=2).reshape(len(modes), -1)
    return lengths


def half_times(distance: Array) -> Array:
    """When each column first gets to half of where it ends, in steps, by straight interpolation.

    Parameters
    ----------
    distance : (steps + 1, K), from 0 on.

    Returns
    -------
    (K,); NaN for a column that ends at 0 or is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> half_times(np.array([[0.0, 0.0, 0.0], [1.0, 3.0, 0.0], [2.0, 4.0, 0.0]])).round(2)
    array([1.  , 0.67,  nan])
    """
    half = distance[-1] / 2
    times = np.full(distance.shape[1], np.nan)
    for k in np.flatnonzero(np.isfinite(half) & (half > 0)):
        n = int(np.argmax(distance[:, k] >= half[k]))
        low, high = distance[n - 1, k], distance[n, k]
        times[k] = n - 1 + (half[k] - low) / (high - low)
    return times


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's; NaN where there is nothing to rank.

    Examples
    --------
    >>> import numpy as np
    >>> round(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 9.0, 27.0])), 6)
    1.0
    """
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def _audit(
    cell: Cell,
    model: nn.Module,
    layer: str,
    x: torch.Tensor,
    y: torch.Tensor,
    lr: float,
    reading: str,
) -> dict[str, Any]:
    result = cnnbridge.audit(
        model,
        layer,
        x,
        y,
        LOSS,
        lr=lr,
        steps=cell.audit_steps,
        curvature=reading,  # type: ignore[arg-type]
    )
    kept = ("parts", "error", "shares", "sizes", "drift", "residue")
    return {name: getattr(result, name) for name in kept}
