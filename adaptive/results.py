"""What a run or a prediction returns: frozen records that know nothing of how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adaptive import checks as _checks
from adaptive.checks import Array


@dataclass(frozen=True, eq=False)
class FilterRun:
    """A finished run of an adaptive filter.

    Attributes
    ----------
    error : (N,) or (N, M) a priori error e(n) = d(n) - w(n)^H u(n).
    output : a priori output w(n)^H u(n), shape of ``error``.
    desired : d(n) as it was given.
    weights : (L,) or (M, L) weights after the last update; of no use after divergence.
    diverged_at : first sample whose a priori error is not finite, N when only the last update
        overflowed, None when the run stayed finite. Errors from there on are NaN.
    history : (N // k + 1, L) or (N // k + 1, M, L) weights after 0, k, 2k, ... updates, where
        ``record=k``; None without ``record``. Rows after divergence are NaN.
    """

    error: Array = field(repr=False)
    desired: Array = field(repr=False)
    weights: Array
    diverged_at: int | None
    history: Array | None = field(default=None, repr=False)

    @property
    def output(self) -> Array:
        """A priori output d(n) - e(n)."""
        output: Array = self.desired - self.error
        return output


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """A predicted learning curve and what follows from it, whatever the algorithm.

    Attributes
    ----------
    algorithm : which update this predicts.
    mu : step size.
    excess : (steps,) E|e(n)|^2 - J_min of the a priori error, summed over outputs,
        n = 0..steps-1; inf from where it overflows.
    msd : (steps + 1,) mean-square deviation E|w(n) - w_o|^2, summed over outputs; the last entry
        follows the last update. Modes that the input does not excite keep their constant part.
    weights : (steps + 1, L) or (steps + 1, M, L) mean weights E[w(n)].
    modes : E[v_k(n)], mean natural modes, shape of ``weights``.
    J_min : minimum mean-square error.
    emse : excess MSE in the steady state; inf when the MSE does not converge.
    misadjustment : emse / J_min; NaN when J_min is zero, where the ratio says nothing.
    msd_final : msd in the steady state; inf when the MSE does not converge.
    stable : whether the MSE converges.
    mean_stable : whether the mean weights converge, which asks less.
    bounds : upper bounds on mu by name, for this algorithm and this kind of data: "mean",
        "mean_square" and, where there is one, "trace".
    assumption : what the prediction rests on.
    residual : relative residual of the equation behind emse and msd_final where it is solved by
        iteration; zero where it is solved in closed form.
    """

    algorithm: str
    mu: float
    excess: Array = field(repr=False)
    msd: Array = field(repr=False)
    weights: Array = field(repr=False)
    modes: Array = field(repr=False)
    J_min: float
    emse: float
    misadjustment: float
    msd_final: float
    stable: bool
    mean_stable: bool
    bounds: Mapping[str, float]
    assumption: str
    residual: float = 0.0

    @property
    def mse(self) -> Array:
        """(steps,) E|e(n)|^2 of the a priori error, summed over outputs: J_min + excess."""
        return self.J_min + self.excess

    @property
    def mse_final(self) -> float:
        """Steady-state MSE, J_min + emse; inf when the MSE does not converge."""
        return self.J_min + self.emse

    def steps_to_within(self, dB: float) -> int | None:
        """Updates after which the MSE stays within ``dB`` of its steady state.

        Read from the predicted steps, to their end; what comes after them is not looked at.

        Parameters
        ----------
        dB : tolerance, positive, either side of ``mse_final``.

        Returns
        -------
        The first n from which |10 log10(mse / mse_final)| <= dB on; None when the last predicted
        step is outside, as always when the MSE diverges or its steady state is zero.

        Examples
        --------
        >>> import adaptive
        >>> problem = adaptive.WienerProblem(R=[[1.0]], P=[1.0], d_power=1.01)
        >>> curve = adaptive.predict_lms(problem, mu=0.1, steps=200)
        >>> curve.steps_to_within(dB=1.0)
        32
        """
        tolerance = _checks.positive("dB", dB)
        if not np.isfinite(self.mse_final) or self.mse_final == 0:
            return None
        mse = self.mse
        ratio = 10 ** (tolerance / 10)
        outside = np.flatnonzero((mse > self.mse_final * ratio) | (mse * ratio < self.mse_final))
        first = 0 if outside.size == 0 else int(outside[-1]) + 1
        return first if first < mse.size else None


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Averages over seeded, independent runs.

    Attributes
    ----------
    algorithm, mu, steps, runs, seed, options : what was run.
    mse : (steps,) mean of |e(n)|^2 over the runs.
    mse_se : (steps,) standard error of ``mse``.
    mean_weights : (steps // record + 1, L) mean of w(n) at n = 0, record, 2 record, ...; after the
        last update at the end, where ``record`` divides ``steps``.
    mean_weights_se : its standard error.
    record : updates between two rows of ``mean_weights``.
    quantiles : of |e(n)|^2 by level, each (steps,), where they were asked for.
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
    record: int = 1
    quantiles: dict[float, Array] = field(default_factory=dict, repr=False)
    options: dict[str, Any] = field(default_factory=dict)
    sums: Any = field(default=None, repr=False)  # what ``simulate(resume=)`` goes on from
