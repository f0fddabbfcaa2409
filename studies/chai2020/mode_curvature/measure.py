"""Trains one network and reads curvature, bounds, speed and trajectory of its convolutions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

import cnnbridge
from cnnbridge.layers.geometry import Geometry
from cnnbridge.learning.mode_curvature import gradients_along, layer_statistics, line_fit
from cnnbridge.learning.objective import Objective
from cnnbridge.learning.one_layer import kronecker_factors
from cnnbridge.statistics.spectrum import Spectrum
from studies.chai2020.mode_curvature import Cell, Limits
from studies.training.images import tensors
from studies.training.natural_modes import (
    half_times,
    partial_rank_correlation,
    rank_correlation,
    tap_distances,
)
from studies.training.networks import SmallCNN, SmallResNet, conv_layers, draw_weights
from studies.training.sgd import reproducible, run_sgd

__all__ = ["build", "measure", "mode_times", "shuffled_curvature"]

Array = np.ndarray
LOSS = nn.CrossEntropyLoss()
# convolutions of the residual network that B to E are read in: first, middle and last
RESIDUAL_LAYERS = ("first", "blocks.1.2", "blocks.2.5")
# a mode that moved less than this fraction of the farthest one is rounding noise in float32
MOVED = 1e-5
TOLERANCE = 0.1
# disturbances of half-times under which reading D's ceiling is simulated
DISTURBANCES = (0.1, 0.3)
TRIALS = 40
# of the largest curvature, relative
WIDTH = 0.05
SHUFFLES = 8


def build(cell: Cell, channels: int, classes: int) -> nn.Module:
    """The network of a cell, drawn from its seed, in train mode."""
    model: nn.Module
    if cell.network == "residual":
        model = SmallResNet(channels, classes, (cell.width,) * 6)
    else:
        model = SmallCNN(channels, classes, cell.width, batch_norm=cell.network == "BatchNorm")
    draw_weights(model, "default", cell.seed)
    return model.to(cell.device).train()


def measure(cell: Cell) -> dict[str, Any]:
    """Read a network at each of its checkpoints.

    Returns
    -------
    ``points``, one dict for each checkpoint: ``updates`` made before it, ``layers`` by name (see
    ``_curvatures``; with B and C where they are measured), and ``learned`` by name (see
    ``mode_times``), empty but at one checkpoint.

    Raises
    ------
    RuntimeError : the network did not reach a checkpoint.
    """
    images, labels, classes = tensors(cell.images)
    images, labels = images.to(cell.device), labels.to(cell.device)
    with reproducible(cell.seed, threads=1):
        model = build(cell, images.shape[1], classes)
        x, y = images[: cell.batch], labels[: cell.batch]
        points, updates = [], 0
        for number, loss in enumerate(cell.checkpoints):
            if math.isfinite(loss):
                updates += _train(cell, model, images, labels, classes, loss, number)
            layers = _curvatures(cell, model, x, y)
            learned = {}
            if loss == cell.learn_at:
                learned = {
                    n: mode_times(cell, model, x, y, n, layers[n].get("top"))
                    for n in _read(cell, model)
                }
            points.append({"updates": updates, "layers": layers, "learned": learned})
        return {"points": points}


def _read(cell: Cell, model: nn.Module) -> list[str]:
    return list(RESIDUAL_LAYERS if cell.network == "residual" else conv_layers(model))


def _train(
    cell: Cell,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    loss: float,
    number: int,
) -> int:
    run = run_sgd(
        model,
        images,
        labels,
        lr=cell.train_lr,
        momentum=cell.train_momentum,
        steps=cell.train_steps,
        seed=cell.seed + 10_000 * number,
        classes=classes,
        stop_below=loss,
    )
    if run.steps_to(loss) is None:
        raise RuntimeError(
            f"the loss must fall below {loss:g} in {cell.train_steps} updates; it is {run.state} "
            f"and ends at {run.loss[-1]:.3g}"
        )
    return len(run.loss)


def _curvatures(
    cell: Cell, model: nn.Module, x: torch.Tensor, y: torch.Tensor
) -> dict[str, dict[str, Any]]:
    """Readings A to C of every convolution, with A's nulls and preconditioners.

    Returns, by layer, ``eigenvalues`` and ``curvature`` (K,), ``turned`` (K,) along eigenvectors
    turned at random; ``fits``, (slope, R^2) of each reading; ``off_diagonal``, root mean square of
    the normalised off-diagonal entries of C in R's modes and in the plain taps; ``top`` and
    ``top_ratio``, the layer's largest curvature, alone and over that of R x G, where measured.
    """
    names = list(conv_layers(model))
    objective = Objective(model, (x, y), LOSS)
    rng = np.random.default_rng(cell.seed)
    with objective.kept():
        R = layer_statistics(objective, names)
        spectra = {n: cnnbridge.full_spectrum(R[n], products=torch.float32) for n in names}
        vectors = {n: s.eigenvectors for n, s in spectra.items()}
        drawn = gradients_along(objective, vectors, draws=cell.draws, seed=cell.seed)
        found = {n: _tap_modes(n, drawn[n], spectra, rng) for n in names}
        for n, curvature in shuffled_curvature(cell, model, x, names, vectors).items():
            found[n]["fits"]["shuffled"] = _fit(spectra[n], curvature)
        for n in _read(cell, model):
            _, G = kronecker_factors(objective.of_layer(n))
            found[n] |= {"top_gains": float(np.linalg.eigvalsh(G).max())}
            found[n]["fits"]["joint"] = _joint(spectra[n], drawn[n], G)
    if cell.bounds:
        task = cnnbridge.NetworkTask(model, (x, y), LOSS)
        for n in _read(cell, model):
            top = task.layer(n).sharpness("gauss_newton", tolerance=WIDTH)
            product = found[n]["top_gains"] * float(spectra[n].eigenvalues.max())
            found[n] |= {"top": top, "top_ratio": top / product}
    return found


def _resolved(spectrum: Spectrum) -> Array:
    kept: Array = (spectrum.eigenvalues > spectrum.rounding[:, None]).cpu().numpy()
    return kept


def _fit(spectrum: Spectrum, curvature: Array) -> tuple[float, float]:
    """Slope and R^2 of log curvature (groups, L) against log eigenvalue."""
    used = _resolved(spectrum) & (curvature > 0)
    return line_fit(np.log(spectrum.eigenvalues.cpu().numpy()[used]), np.log(curvature[used]))


def _tap_modes(
    name: str, drawn: torch.Tensor, spectra: dict[str, Spectrum], rng: np.random.Generator
) -> dict[str, Any]:
    """Reading A of one layer; ``drawn`` (draws, groups, outputs, L) is along R's eigenvectors."""
    spectrum, a = spectra[name], drawn.cpu().numpy()
    C = np.einsum("dgmk,dgml->gkl", a, a) / len(a)
    Q = spectrum.eigenvectors.cpu().numpy()
    along = C.diagonal(axis1=1, axis2=2)
    turned = np.stack([_diagonal(c, _rotation(len(c), rng)) for c in C])
    taps = Q @ C @ Q.transpose(0, 2, 1)
    power = taps.diagonal(axis1=1, axis2=2)
    # RMSprop and Adam divide by the root mean square of each weight's gradient
    weight_power = np.einsum("dgmk,glk->dgml", a, Q)
    roots = (weight_power**2).mean(axis=0) ** 0.25
    scaled = np.einsum("dgml,gml,glk->dgmk", weight_power, 1 / np.maximum(roots, 1e-30), Q)
    fits = {
        "modes": _fit(spectrum, along),
        "turned": _fit(spectrum, turned),
        "RMSprop": _fit(spectrum, (scaled**2).sum(axis=2).mean(axis=0)),
        "K-FAC": _fit(spectrum, along / np.maximum(spectrum.eigenvalues.cpu().numpy(), 1e-30)),
    }
    partner = _partner(name, spectra)
    if partner is not None:
        theirs = spectra[partner]
        V = Q.transpose(0, 2, 1) @ theirs.eigenvectors.cpu().numpy()[:1]
        values = np.stack([_diagonal(c, v) for c, v in zip(C, V, strict=True)])
        used = _resolved(theirs)[:1] & (values > 0)
        logs = np.broadcast_to(theirs.eigenvalues.cpu().numpy()[:1], values.shape)
        fits["other layer"] = line_fit(np.log(logs[used]), np.log(values[used]))
    used = _resolved(spectrum)
    return {
        "eigenvalues": spectrum.eigenvalues.cpu().numpy()[used],
        "curvature": along[used],
        "turned": turned[used],
        "fits": fits,
        "off_diagonal": (_off_diagonal(C, along), _off_diagonal(taps, power)),
    }


def _partner(name: str, spectra: dict[str, Spectrum]) -> str | None:
    """The next layer, round again from the last, with as many taps."""
    names = list(spectra)
    after = names[names.index(name) + 1 :] + names[: names.index(name)]
    taps = spectra[name].eigenvalues.shape[1]
    return next((n for n in after if spectra[n].eigenvalues.shape[1] == taps), None)


def _diagonal(C: Array, V: Array) -> Array:
    along: Array = np.einsum("lk,lh,hk->k", V, C, V)
    return along


def _rotation(size: int, rng: np.random.Generator) -> Array:
    Q, triangle = np.linalg.qr(rng.standard_normal((size, size)))
    turned: Array = Q * np.sign(np.diag(triangle))
    return turned


def _off_diagonal(C: Array, diagonal: Array) -> float:
    """Root mean square of C_kl / sqrt(C_kk C_ll) over k unlike l, for a few strong and weak k."""
    scale = np.sqrt(np.maximum(diagonal, 1e-30 * diagonal.max()))
    normal = C / scale[:, :, None] / scale[:, None, :]
    apart = ~np.eye(C.shape[1], dtype=bool)
    return float(np.sqrt((normal[:, apart] ** 2).mean()))


def _joint(spectrum: Spectrum, drawn: torch.Tensor, G: Array) -> tuple[float, float]:
    """Reading B: slope and R^2 of the curvature along products of modes of R and of G."""
    gains, V = np.linalg.eigh(G)
    along = (np.einsum("gmj,dgmk->dgjk", V, drawn.cpu().numpy()) ** 2).mean(axis=0)
    said = gains[:, :, None] * spectrum.eigenvalues.cpu().numpy()[:, None, :]
    # G has its own rounding, that of float32
    sure = (gains > 1e-5 * gains.max())[:, :, None] & _resolved(spectrum)[:, None, :] & (along > 0)
    return line_fit(np.log(said[sure]), np.log(along[sure]))


def shuffled_curvature(
    cell: Cell,
    model: nn.Module,
    x: torch.Tensor,
    names: list[str],
    vectors: dict[str, torch.Tensor],
) -> dict[str, Array]:
    """Curvature along R's modes if each image's errors met the patches of another, (groups, L).

    The derivative of the loss by the outputs is p - y with labels y drawn from the softmax p, whose
    covariance is the Hessian of the cross-entropy by the outputs.
    """
    generator = torch.Generator().manual_seed(cell.seed)
    shift = torch.randperm(len(x), generator=generator).roll(1)
    with torch.no_grad():
        p = model(x).softmax(1)
    found = {}
    for name in names:
        layer = conv_layers(model)[name]
        geometry = Geometry.of(layer)
        each: list[Array] = []
        for _ in range(SHUFFLES):
            labels = torch.multinomial(p.cpu(), 1, generator=generator)[:, 0]
            error = p - nn.functional.one_hot(labels, p.shape[1]).to(p)
            signs = torch.randint(0, 2, (len(x), 1), generator=generator).to(p) * 2 - 1
            with cnnbridge.capture(model, name) as tape:
                tape.run([(x, error * signs / math.sqrt(len(x)))], lambda z, e: (z * e.to(z)).sum())
            b = geometry.channels_first(tape.output_gradients).flatten(2)
            bias = layer.bias is not None
            u = cnnbridge.unfold_patches(tape.inputs[shift], layer, bias=bias)
            b = b.reshape(len(b), geometry.groups, -1, b.shape[2])
            g = torch.einsum("ngmp,nglp->gml", b, u).double() @ vectors[name].cpu()
            each.append((g**2).sum(dim=1).numpy())
        found[name] = np.mean(each, axis=0)
    return found


def mode_times(
    cell: Cell,
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    name: str,
    top: float | None = None,
) -> dict[str, Any]:
    """Readings D and E: one layer learns, the others frozen; ``top`` is its largest curvature.

    Returns
    -------
    ``bound`` (learning rate) of the layer's Gauss-Newton matrix, ``lr``; for the K modes in the
    window ``eigenvalues`` c λ, ``half_time`` in steps, ``energy`` of the initial gradient;
    ``order`` and ``partial``, the rank correlations of reading D; ``ceiling``, the mean of
    ``partial`` for half-times of the plain theory with each disturbance; ``horizon`` in time
    constants of the fastest mode by reading, an interval, and ``error`` by reading and step.
    """
    task = cnnbridge.NetworkTask(model, (x, y), LOSS).layer(name)
    bound = 2 / (top or task.sharpness("gauss_newton", tolerance=WIDTH))
    lr = cell.fraction * bound
    run = task.observe(lr, cell.steps)
    plain = task.predict(lr, cell.steps, curvature="scalar")
    groups, L = plain.basis.taps.shape[:2]  # type: ignore[attr-defined]
    powers = plain.eigenvalues.reshape(groups, -1, L)[:, 0].ravel()
    seen, said = (
        tap_distances(plain.basis.to_modes(path), groups, L)
        for path in (run.displacement, plain.displacement)
    )
    window = (cell.steps * lr * powers >= Limits.window) & (seen[-1] > MOVED * seen[-1].max())
    powers, half, expected = (
        powers[window],
        half_times(seen[:, window]),
        half_times(said[:, window]),
    )
    energy = (seen[1, window] / lr) ** 2
    rng = np.random.default_rng(cell.seed)
    ceiling = {}
    for size in DISTURBANCES:
        trials = [expected * np.exp(size * rng.standard_normal(len(half))) for _ in range(TRIALS)]
        ceiling[f"{size:g}"] = float(
            np.mean([partial_rank_correlation(powers, -t, energy) for t in trials])
        )
    comparisons = {
        reading: cnnbridge.compare(
            plain
            if reading == "scalar"
            else task.predict(lr, cell.steps, curvature=reading, full_modes=False),
            run,
            tolerances=(TOLERANCE,),
        )
        for reading in ("scalar", "kronecker", "gauss_newton")
    }
    constants = lr * float(plain.eigenvalues.max())
    return {
        "bound": bound,
        "lr": lr,
        "eigenvalues": powers,
        "half_time": half,
        "energy": energy,
        "order": rank_correlation(powers, -half),
        "partial": partial_rank_correlation(powers, -half, energy),
        "ceiling": ceiling,
        "constants_per_step": constants,
        "horizon": {
            reading: _interval(one.horizon[TOLERANCE], cell.steps, constants)
            for reading, one in comparisons.items()
        },
        "error": {reading: one.displacement_error for reading, one in comparisons.items()},
    }


def _interval(step: int | None, steps: int, constants: float) -> tuple[float, float]:
    """A horizon in time constants; open above where the run has none."""
    if step is None:
        return steps * constants, math.inf
    return step * constants, step * constants
