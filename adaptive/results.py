"""What a run or a prediction returns: frozen records that know nothing of how they were made."""

from __future__ import annotations

from dataclasses import dataclass, field

from adaptive._checks import Array


@dataclass(frozen=True, eq=False)
class FilterRun:
    """A finished run of an adaptive filter.

    Attributes
    ----------
    error : (N,) or (N, M) a priori error e(n) = d(n) - w(n)^H u(n).
    output : a priori output w(n)^H u(n), shape of ``error``.
    weights : (L,) or (M, L) weights after the last update; of no use after divergence.
    diverged_at : first sample whose a priori error is not finite, N when only the last update
        overflowed, None when the run stayed finite. Errors from there on are NaN.
    history : (N // k + 1, L) or (N // k + 1, M, L) weights after 0, k, 2k, ... updates, where
        ``record=k``; None without ``record``. Rows after divergence are NaN.
    """

    error: Array = field(repr=False)
    output: Array = field(repr=False)
    weights: Array
    diverged_at: int | None
    history: Array | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """A predicted learning curve and what follows from it.

    Attributes
    ----------
    algorithm : which update this predicts.
    mu : step size.
    mse : (steps,) E|e(n)|^2 of the a priori error, summed over outputs, n = 0..steps-1.
    weights : (steps + 1, L) or (steps + 1, M, L) mean weights E[w(n)]; the last row follows the
        last update.
    modes : E[v_k(n)], mean natural modes, shape of ``weights``.
    J_min : minimum mean-square error.
    emse : excess MSE in the steady state; inf when the MSE does not converge.
    misadjustment : emse / J_min; NaN when J_min is zero, where the ratio says nothing.
    stable : whether the MSE converges.
    assumption : what the prediction rests on.
    """

    algorithm: str
    mu: float
    mse: Array = field(repr=False)
    weights: Array = field(repr=False)
    modes: Array = field(repr=False)
    J_min: float
    emse: float
    misadjustment: float
    stable: bool
    assumption: str


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Averages over seeded, independent runs.

    Attributes
    ----------
    algorithm, mu, steps, runs, seed : what was run.
    mse : (steps,) mean of |e(n)|^2 over the runs.
    mse_se : (steps,) standard error of ``mse``.
    mean_weights : (steps + 1, L) mean of w(n); the last row follows the last update.
    mean_weights_se : (steps + 1, L) its standard error.
    diverged : number of runs whose error left the finite numbers. From the first such sample on,
        the averages are inf: the mean over all runs is not finite there.
    """

    algorithm: str
    mu: float
    steps: int
    runs: int
    seed: int
    mse: Array = field(repr=False)
    mse_se: Array = field(repr=False)
    mean_weights: Array = field(repr=False)
    mean_weights_se: Array = field(repr=False)
    diverged: int
