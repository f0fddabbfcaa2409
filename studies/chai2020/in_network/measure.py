"""Trains one network of ``in-network`` and compares every level's prediction with that training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn

import cnnbridge
from cnnbridge.learning.one_layer import CURVATURES as READINGS
from cnnbridge.learning.one_layer import Curvature
from cnnbridge.results import Comparison, Observation, Prediction
from studies.chai2020.in_network import Cell, level_name
from studies.training.images import tensors
from studies.training.natural_modes import half_times, rank_correlation, tap_distances
from studies.training.networks import SmallCNN, conv_layers, draw_weights
from studies.training.sgd import reproducible, run_sgd

__all__ = ["measure"]

Array = np.ndarray

AUDITED: tuple[Curvature, ...] = ("gauss_newton", "scalar")
# in float32, a mode that moved less than this fraction of the farthest one is rounding noise
MOVED = 1e-5
LOSS = nn.CrossEntropyLoss()


def measure(cell: Cell) -> dict[str, Any]:
    """Train one network and compare it with the prediction of every level.

    Returns
    -------
    dict with ``updates`` to the checkpoint, ``bound`` of level 3, ``lr`` and the ``loss``
    (steps + 1,) of the training; ``network``, an outcome for each ``level_name``; ``layers``, for
    each convolution ``frozen`` and ``learning``, which compare each reading of level 2 with the
    layer trained alone and with the same layer while all others learn, and ``modes``, the natural
    modes of R while all layers learn (see ``_natural_modes``); with ``audit_steps``, ``audits`` by
    layer and reading.

    Raises
    ------
    RuntimeError : the network did not reach the checkpoint.
    """
    images, labels, classes = tensors(cell.images)
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
    task = cnnbridge.NetworkTask(model, (x, y), LOSS)
    bound = 2 / task.sharpness("gauss_newton")
    lr = cell.fraction * bound
    run = task.observe(lr, cell.steps)
    found: dict[str, Any] = {"bound": bound, "lr": lr, "loss": run.loss, "network": {}}
    for h in (None, *cell.relinearize):
        prediction = task.predict(lr, cell.steps, relinearize=h)
        found["network"][level_name(h)] = _outcome(cnnbridge.compare(prediction, run))
    found["layers"] = {}
    for layer in conv_layers(model):
        alone = task.layer(layer)
        frozen, here = alone.observe(lr, cell.steps), _part(run, model, layer, alone.names)
        predictions = {name: alone.predict(lr, cell.steps, curvature=name) for name in READINGS}
        found["layers"][layer] = {
            "frozen": {
                name: _by_mode(cnnbridge.compare(prediction, frozen))
                for name, prediction in predictions.items()
            },
            "learning": {
                name: _outcome(cnnbridge.compare(prediction, here))
                for name, prediction in predictions.items()
            },
            "modes": _natural_modes(predictions["scalar"], here),
        }
    if cell.audit_steps:
        found["audits"] = {
            layer: {reading: _audit(task.layer(layer), lr, cell, reading) for reading in AUDITED}
            for layer in conv_layers(model)
        }
    return found


def _outcome(result: Comparison) -> dict[str, Any]:
    """Keep the errors of a comparison by step, and its horizons by tolerance."""
    return {
        "error": result.displacement_error,
        "skill": result.skill,
        "loss_error": result.loss_error,
        "horizon": {f"{tolerance:g}": n for tolerance, n in result.horizon.items()},
    }


def _by_mode(result: Comparison) -> dict[str, Any]:
    modes = {"eigenvalues": result.prediction.eigenvalues, "mode_error": result.mode_error}
    return _outcome(result) | modes


def _part(run: Observation, model: nn.Module, layer: str, names: tuple[str, ...]) -> Observation:
    """Restrict the training of all layers to the weights of one."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    ends = dict(zip(run.names, np.cumsum([sizes[name] for name in run.names]), strict=True))
    columns = np.concatenate([np.arange(ends[n] - sizes[n], ends[n]) for n in names])
    return dataclasses.replace(
        run, layer=layer, names=names, displacement=run.displacement[:, columns]
    )


def _natural_modes(plain: Prediction, run: Observation) -> dict[str, Any]:
    """Measure when and how far each natural mode of R moves, and what the plain reading predicts.

    Returns ``eigenvalues`` (K,) in units of the largest; ``half_time`` and ``predicted_half_time``
    (K,) in steps, and ``reach`` (K,), how far the mode has moved at the end over all output
    channels, in units of the farthest; ``order``, ``predicted_order`` and ``reach_order``, the
    rank correlations of the eigenvalue with early half-times and with reach.
    """
    groups, L = plain.basis.taps.shape[:2]  # type: ignore[attr-defined]
    powers = plain.eigenvalues.reshape(groups, -1, L)[:, 0].ravel()
    seen, said = (
        tap_distances(plain.basis.to_modes(path), groups, L)
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


def _audit(
    task: cnnbridge.NetworkTask, lr: float, cell: Cell, reading: Curvature
) -> dict[str, Any]:
    result = task.audit(lr, cell.audit_steps, curvature=reading)
    kept = ("parts", "error", "shares", "sizes", "drift", "residue")
    return {name: getattr(result, name) for name in kept}
