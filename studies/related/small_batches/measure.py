"""Computes the mean-square and the almost-sure edge for every batch size."""

from __future__ import annotations

from typing import Any

import numpy as np

import adaptive
from studies.related.small_batches import Cell
from studies.training.pixels import grey, prediction_problem

__all__ = ["edges", "measure"]

Array = np.ndarray


def measure(cell: Cell) -> dict[str, Any]:
    """The edges of every batch size, from a cell's images; see ``edges``."""
    return edges(grey(cell.images), cell)


def edges(images: Array, cell: Cell) -> dict[str, Any]:
    """The edges of every batch size, from (N, H, W) images; the fields of ``judge.Edges``."""
    rng = np.random.default_rng(cell.seed)
    u, _ = prediction_problem(images, cell.patch)
    chosen = np.sort(rng.permutation(u.shape[1])[: cell.positions])
    u = np.ascontiguousarray(u[:, chosen])
    batches = 2 ** np.arange(int(np.log2(len(u))) + 1)
    batches = np.unique(np.append(batches, len(u)))
    exact = [
        adaptive.minibatch.minibatch_edge(u, batch=int(size), replace=False) for size in batches
    ]
    sure = [
        adaptive.minibatch.lyapunov_edge(
            u,
            batch=int(size),
            replace=False,
            seed=cell.seed,
            runs=cell.products,
            steps=cell.factors,
        )
        for size in batches
    ]
    R = np.einsum("ntk,ntl->kl", u, u) / (u.shape[0] * u.shape[1])
    return {
        "batches": batches,
        "edges": np.array(exact),
        "sure": np.array([edge.value for edge in sure]),
        "sure_error": np.array([edge.standard_error for edge in sure]),
        "bound": 2 / float(np.linalg.eigvalsh(R)[-1]),
    }
