"""Trains one network and takes the spectra at the inputs of its convolutions."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

import cnnbridge
from cnnbridge import SplitBatchNorm
from cnnbridge.normalization import trace_ceiling
from studies.chai2020.spectra import Cell
from studies.chai2020.spectra.sites import Ends, Site
from studies.training.images import tensors
from studies.training.networks import PlainVGG, draw_weights
from studies.training.probes import input_spectra
from studies.training.sgd import reproducible, run_sgd

__all__ = ["VARIANTS", "measure", "raw_inputs", "study_site"]

VARIANTS = ("none", "center", "amplify", "suppress", "full")


def measure(cell: Cell) -> dict[str, Any]:
    """Follow one network through its checkpoints.

    Returns
    -------
    dict with ``sites``, the fields of a ``Site`` for each layer and checkpoint, and ``ends``,
    those of an ``Ends``. Sites are taken in position "pre" only: in position "post" a ReLU lies
    between normalization and convolution, and no congruence leads from one to the other.
    """
    with reproducible(cell.images.seed, threads=1):
        return _follow(cell)


def _follow(cell: Cell) -> dict[str, Any]:
    images, labels, classes = tensors(cell.images)
    images, labels = images.to(cell.device), labels.to(cell.device)
    model = PlainVGG(images.shape[1], classes, cell.widths, cell.variant, cell.position)
    model.to(cell.device).train()
    draw_weights(model, "spread", cell.seed)
    sites, ends = [], []
    done = 0
    for update in cell.checkpoints:
        if update > done:
            run_sgd(
                model,
                images,
                labels,
                lr=cell.lr,
                steps=update - done,
                seed=cell.seed + done,
                classes=classes,
            )
            done = update
        exact = copy.deepcopy(model).double()
        probe = images[: cell.probe].double()
        if cell.position == "pre":
            for i, (conv, x) in enumerate(raw_inputs(exact, probe), start=2):
                site = study_site(
                    x, conv, network=cell.variant, seed=cell.seed, update=update, layer=i
                )
                sites.append(asdict(site))
        for i, layer in enumerate(input_spectra(exact, probe)[1:], start=2):
            found = Ends(
                cell.variant, cell.position, cell.seed, update, i, layer.lowest, layer.highest
            )
            ends.append(asdict(found))
    return {"sites": sites, "ends": ends}


def study_site(
    x: torch.Tensor, conv: nn.Conv2d, *, network: str, seed: int, update: int, layer: int
) -> Site:
    """Predict and measure the spectra behind every variant, for one input of one layer.

    Parameters
    ----------
    x : (N, C, H, W), the input of a normalization in front of ``conv``.
    conv : the convolution.
    network, seed, update, layer : see ``Site``.
    """
    spectra = cnnbridge.compare_normalizations(x, conv, VARIANTS)
    errors, outside = [], []
    for spectrum in spectra.values():
        top = spectrum.measured.max()
        errors.append(spectrum.max_error)
        if spectrum.low is not None and spectrum.high is not None:
            under = (spectrum.low - spectrum.measured).max()
            over = (spectrum.measured - spectrum.high).max()
            outside.append(float(max(under, over, 0.0) / top))
    return Site(
        network=network,
        seed=seed,
        update=update,
        layer=layer,
        eigenvalues={name: s.measured[0] for name, s in spectra.items()},
        error=max(errors),
        outside=max(outside),
        low={name: s.low[0] for name, s in spectra.items() if s.low is not None},
        high={name: s.high[0] for name, s in spectra.items() if s.high is not None},
        deviations=x.std(dim=(0, 2, 3), correction=0).cpu().numpy(),
        ceiling=trace_ceiling(conv, *x.shape[2:]).guaranteed,
    )


@torch.no_grad()
def raw_inputs(model: PlainVGG, images: torch.Tensor) -> list[tuple[nn.Conv2d, torch.Tensor]]:
    """Convolutions 2 to 6 of a network in position "pre", each with its input not yet normalized.

    Parameters
    ----------
    model : the network.
    images : one batch.
    """
    parts = list(model.features)
    found = []
    x = images
    for i, part in enumerate(parts):
        if i + 1 < len(parts) and isinstance(part, SplitBatchNorm | nn.Identity):
            following = parts[i + 1]
            if isinstance(following, nn.Conv2d):
                found.append((following, x))
        x = part(x)
    return found
