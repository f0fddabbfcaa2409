"""Paths of SGD on a quadratic loss: mode by mode, by products, and in a Krylov space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from adaptive.checks import Array
from cnnbridge.learning.sgd import SGD

Product = Callable[[torch.Tensor], torch.Tensor]

# stop once the truncated part moves the weights by less than this fraction
KRYLOV_TOLERANCE = 1e-8
# products between convergence checks: each check waits for the device
KRYLOV_STRIDE = 8


def heavy_ball(force: Array, curvature: Array, sgd: SGD, steps: int) -> Array:
    """(steps + 1, ...) displacement of modes from their start, the velocity starting at zero.

    d(n+1) = d(n) + b(n+1), b(n+1) = momentum b(n) - lr (force + curvature d(n)). ``force`` is the
    gradient at the start along each mode, weight decay included; so is ``curvature``. Overflows to
    inf where the path diverges, with NaN where increments of both signs meet.
    """
    path = np.empty((steps + 1, *force.shape))
    path[0] = 0
    moved = np.zeros_like(force)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for n in range(steps):
            moved = sgd.momentum * moved - sgd.lr * (force + curvature * path[n])
            path[n + 1] = path[n] + moved
    return path


def finite_or_inf(a: Array) -> Array:
    """Replace NaN by inf, in place: past overflow increments cancel, and inf is the answer."""
    a[np.isnan(a)] = np.inf
    return a


def quadratic_path(
    product: Product,
    gradient: torch.Tensor,
    sgd: SGD,
    *,
    steps: int,
    start: torch.Tensor,
    velocity: torch.Tensor,
    last: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """torch's SGD on the quadratic model of the loss about ``start``.

    Returns displacements (steps + 1, P), the model's change of loss, and the velocity after the
    last step, so that another model can take over. The change has shape (steps + 1,) if this model
    is the ``last``; otherwise (steps,), because its last entry costs a product that moves nothing.
    """
    path = gradient.new_zeros((steps + 1, len(gradient)))
    change = gradient.new_zeros(steps + last)
    moved, b = torch.zeros_like(gradient), velocity
    for n in range(steps + last):
        curved = product(moved) if n else torch.zeros_like(moved)
        path[n] = moved
        change[n] = moved @ (gradient + curved / 2)
        if n < steps:
            b = sgd.momentum * b + gradient + curved + sgd.weight_decay * (start + moved)
            moved = moved - sgd.lr * b
    path[steps] = moved
    return path, change, b


def krylov_path(
    product: Product, seed: torch.Tensor, sgd: SGD, *, steps: int
) -> tuple[Array, torch.Tensor, Array, float]:
    """The same path in the Ritz modes of the Krylov space of the curvature and the gradient.

    The displacement after n updates is a polynomial of degree n - 1 in the curvature, applied to
    ``seed`` (gradient + weight_decay * start): Lanczos needs no more than ``steps`` products to
    hold it exactly, and mostly far fewer.

    Returns Ritz values (K,) of the curvature, Ritz vectors (K, P), modes (steps + 1, K), and a
    bound on what the space leaves out, relative to the largest displacement.
    """
    norm = float(torch.linalg.vector_norm(seed))
    P = len(seed)
    if norm == 0 or steps == 0:
        return np.zeros(0), seed.new_zeros((0, P)), np.zeros((steps + 1, 0)), 0.0
    limit = min(steps, P)
    vectors = seed.new_empty((limit, P))
    vectors[0] = seed / norm
    # keep on the device; reading them synchronises
    alphas, betas = seed.new_zeros((2, limit))
    for m in range(limit):
        v = product(vectors[m])
        alphas[m] = v @ vectors[m]
        # twice is enough (Parlett): the recurrence alone loses orthogonality as it converges
        for _ in range(2):
            v = v - vectors[: m + 1].T @ (vectors[: m + 1] @ v)
        betas[m] = torch.linalg.vector_norm(v)
        last = m + 1 == limit
        if last or (m + 1) % KRYLOV_STRIDE == 0:
            alpha, beta = torch.stack([alphas[: m + 1], betas[: m + 1]]).cpu().numpy()
            theta, S, closed = _ritz(alpha, beta)
            K = len(theta)
            modes = heavy_ball(norm * S[0], theta + sgd.weight_decay, sgd, steps)
            finite_or_inf(modes)
            left_out = 0.0
            if not closed and m + 1 < min(steps, P):
                with np.errstate(over="ignore", invalid="ignore"):
                    missed = sgd.lr * beta[m] * np.abs(modes[:-1] @ S[-1]).sum()
                    missed = missed / (1 - sgd.momentum)
                    left_out = float(missed / np.linalg.norm(modes, axis=1).max())
            if last or closed or left_out < KRYLOV_TOLERANCE:
                ritz = torch.as_tensor(S.T, device=seed.device) @ vectors[:K]
                return theta, ritz, modes, left_out
        vectors[m + 1] = v / betas[m]
    raise AssertionError("unreachable: the loop returns at its last step")


def _ritz(alpha: Array, beta: Array) -> tuple[Array, Array, bool]:
    """Ritz values and coefficients of a Lanczos run, and whether its space closed."""
    # a closed space is complete; what Lanczos added to it afterwards is rounding
    scale = np.maximum.accumulate(np.abs(alpha)) + np.maximum.accumulate(beta)
    small = beta <= 1e2 * np.finfo(float).eps * scale
    closed = bool(small.any())
    K = int(np.argmax(small)) + 1 if closed else len(alpha)
    off = beta[: K - 1]
    theta, S = np.linalg.eigh(np.diag(alpha[:K]) + np.diag(off, 1) + np.diag(off, -1))
    return theta, S, closed
