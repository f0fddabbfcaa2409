"""What a run or a prediction returns: frozen records that know nothing of how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
    samples_per_update : samples that each step of the curve covers: the block of block LMS, or 1.
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
    samples_per_update: int = 1

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
    samples_per_update : samples that one update of the algorithm averages over.
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
    samples_per_update: int = 1
    sums: Any = field(default=None, repr=False)  # what ``simulate(resume=)`` goes on from


ASSUMPTIONS = {
    "trace": "sufficient for `mean`, without an eigendecomposition: tr(R) in place of lambda_max",
    "mean": "the mean weights converge if and only if mu is below (LMS: 2 / lambda_max); "
    "regressors independent of the weights",
    "mean_square_real": "the MSE converges if and only if mu is below; real Gaussian regressors, "
    "independent from sample to sample: too large for a delay line with correlated input",
    "mean_square_complex": "the MSE converges if and only if mu is below; circular complex "
    "Gaussian regressors, independent from sample to sample: too large for a delay line with "
    "correlated input",
    "any_input": "the weight error never grows, whatever the input: mu < 2",
    "mean_square": "the MSE converges if and only if mu is below; Gaussian regressors, "
    "independent from sample to sample",
}


class Bounds:
    """Upper bounds on the step size mu, by name; printed with the assumption of each."""

    def of(self, *, complex_data: bool) -> dict[str, float]:
        """The bounds that concern real, or circular complex, data; "mean_square" among them."""
        raise NotImplementedError

    def __str__(self) -> str:
        names = (f.name for f in fields(self))  # type: ignore[arg-type]
        rows = (f"mu < {getattr(self, k):<12.6g} {k}: {ASSUMPTIONS[k]}" for k in names)
        return "\n".join(rows)


@dataclass(frozen=True)
class StabilityBounds(Bounds):
    """Upper bounds on mu in w(n+1) = w(n) + mu e(n) u(n); ``ASSUMPTIONS`` says what each needs.

    For a learning rate in torch's units see ``cnnbridge.learning_rate_bounds``.
    """

    trace: float
    mean: float
    mean_square_real: float
    mean_square_complex: float

    def mean_square(self, *, complex_data: bool) -> float:
        """The mean-square bound for circular complex or for real data."""
        return self.mean_square_complex if complex_data else self.mean_square_real

    def of(self, *, complex_data: bool) -> dict[str, float]:
        """The bounds that concern real, or circular complex, data."""
        edge = self.mean_square(complex_data=complex_data)
        return {"trace": self.trace, "mean": self.mean, "mean_square": edge}


@dataclass(frozen=True)
class NlmsBounds(Bounds):
    """Upper bounds on mu in w(n+1) = w(n) + mu e(n) u(n) / (eps + |u(n)|^2), a pure number."""

    any_input: float
    mean: float
    mean_square: float

    def of(self, *, complex_data: bool) -> dict[str, float]:
        """All three: they are computed for the kind of data that R has."""
        return {
            "any_input": self.any_input,
            "mean": self.mean,
            "mean_square": self.mean_square,
        }


@dataclass(frozen=True)
class MeanBounds(Bounds):
    """An upper bound on mu where only that of the mean weights is known."""

    mean: float

    def of(self, *, complex_data: bool) -> dict[str, float]:
        """The one bound, for either kind of data."""
        return {"mean": self.mean}


DIVERGENCE_RULE = (
    "a run diverges when it does not forget its start: the distance between two runs on the same "
    "data from different starting weights is larger after the last sample than at the first, or "
    "not finite"
)


@dataclass(frozen=True, eq=False)
class ObservedEdge:
    """Where runs were seen to begin to diverge, as mu rises.

    Attributes
    ----------
    algorithm : which update.
    mu : the edge, median over the runs.
    lower, upper : interval for that median, of at least 95 % confidence with 6 runs or more and
        the range of the runs with fewer, widened by the bisection's bracket.
    resolution : relative width of that bracket.
    edges : (runs,) edge of each run, ascending.
    runs, steps, seed : what was run.
    rule : how divergence was decided.
    """

    algorithm: str
    mu: float
    lower: float
    upper: float
    resolution: float
    edges: Array = field(repr=False)
    runs: int
    steps: int
    seed: int
    rule: str = field(default=DIVERGENCE_RULE, repr=False)

    def __str__(self) -> str:
        return (
            f"{self.algorithm} diverges from mu = {self.mu:.4g} ({self.lower:.4g} to "
            f"{self.upper:.4g}; {self.runs} runs of {self.steps} steps); {self.rule}"
        )


@dataclass(frozen=True)
class DelayLineEdge:
    """Where the mean square begins to grow on a true delay line.

    Attributes
    ----------
    algorithm : which update.
    mu : the edge, the lower of ``starts``.
    se : its standard error, from the spread of independent populations.
    starts : the edge by start: "stationary", and "high" where the update is not normalised.
    decisive : which of them is the lower. "high" means that rare paths decide the mean.
    independence : the mean-square bound that supposes independent regressors.
    fewer : the edge with a quarter of the walkers.
    converged : whether ``fewer`` agrees with ``mu`` within three standard errors or 2 %. If not,
        the population is too small to be relied on.
    walkers, steps, seed : what was run.
    """

    algorithm: str
    mu: float
    se: float
    starts: Mapping[str, float]
    decisive: str
    independence: float
    fewer: float
    converged: bool
    walkers: int
    steps: int
    seed: int


@dataclass(frozen=True, eq=False)
class StabilityMap:
    """Misadjustment over step size and eigenvalue spread.

    Attributes
    ----------
    taps : length of the delay line.
    spreads : (S,) lambda_max / lambda_min of R.
    mus : (M,) step sizes.
    misadjustment : (S, M); inf where the MSE does not converge.
    bounds : by name as in the predictions, each (S,).
    assumption : what the predictions rest on.
    """

    taps: int
    spreads: Array = field(repr=False)
    mus: Array = field(repr=False)
    misadjustment: Array = field(repr=False)
    bounds: Mapping[str, Array] = field(repr=False)
    assumption: str


@dataclass(frozen=True)
class OptimalStep:
    """The step size of least steady-state excess MSE on a random walk.

    Attributes
    ----------
    mu, emse : exact for independent Gaussian regressors.
    mu_small_step, emse_small_step : the textbook's: sqrt(tr Q / (J_min tr R)) and
        sqrt(J_min tr R tr Q); inf and 0 where J_min is zero and the small-step formula has no
        minimum.
    """

    mu: float
    emse: float
    mu_small_step: float
    emse_small_step: float


@dataclass(frozen=True, eq=False)
class TradeOff:
    """What steps of different size cost: the smaller the misadjustment, the longer it takes.

    Attributes
    ----------
    mu : (K,) step sizes, ascending.
    misadjustment : (K,) in the steady state.
    samples : (K,) after which the error stays near its steady state; NaN where it never does.
    """

    mu: Array = field(repr=False)
    misadjustment: Array = field(repr=False)
    samples: Array = field(repr=False)


@dataclass(frozen=True, eq=False)
class StepDesign:
    """A step size that was asked for by what it does, and what it costs.

    Attributes
    ----------
    algorithm : name of the update.
    mu : the step size.
    met : whether it grants all that was asked for.
    misadjustment : ``emse`` over J_min; NaN when J_min is zero.
    emse : excess MSE in the steady state, the lag behind a moving system included.
    mse_final : MSE in the steady state.
    samples : after which the MSE stays within ``within_dB`` of it, from zero weights; None for
        never.
    within_dB : as asked for.
    bounds : upper bounds on mu by name, as in :class:`LearningCurve`.
    trade_off : misadjustment and time at other steps, where both were asked for; otherwise None.
    text : the answer in a sentence.
    """

    algorithm: str
    mu: float
    met: bool
    misadjustment: float
    emse: float
    mse_final: float
    samples: int | None
    within_dB: float
    bounds: Mapping[str, float]
    trade_off: TradeOff | None = field(repr=False)
    text: str

    def __str__(self) -> str:
        late = "never" if self.samples is None else f"{self.samples} samples"
        rows = [
            f"{self.algorithm}, mu = {self.mu:.6g}",
            f"  misadjustment                {self.misadjustment:.4g}",
            f"  MSE in the steady state      {self.mse_final:.4g}",
            f"  within {self.within_dB:g} dB of it after     {late}",
        ]
        rows += [
            f"  {self.mu / bound:>7.1%} of the bound {name.replace('_', ' ')}, {bound:.4g}"
            for name, bound in self.bounds.items()
        ]
        return "\n".join([*rows, self.text])


@dataclass(frozen=True)
class LyapunovEdge:
    """An estimated almost-sure edge.

    Attributes
    ----------
    value : step size at which the Lyapunov exponent of the product of the updates crosses zero.
    standard_error : of ``value``, from the spread over independent products; 0 for a full batch.
    """

    value: float
    standard_error: float


@dataclass(frozen=True)
class MinibatchEdges:
    """The three edges of mini-batch LMS, in units of mu; see ``adaptive.minibatch``.

    Attributes
    ----------
    mean_square : exact, from :func:`minibatch_edge`.
    almost_sure : estimated, from :func:`lyapunov_edge`.
    mean : exact, 2 / lambda_max(R).
    """

    mean_square: float
    almost_sure: LyapunovEdge
    mean: float

    def __str__(self) -> str:
        sure = self.almost_sure
        return (
            f"mu < {self.mean_square:<12.6g} mean_square: E|w - w_o|^2 converges\n"
            f"mu < {sure.value:<12.6g} almost_sure: every run converges, up to its noise "
            f"(standard error {sure.standard_error:.2g})\n"
            f"mu < {self.mean:<12.6g} mean: E[w] converges"
        )


@dataclass(frozen=True, eq=False)
class DelayEstimate:
    """How far d lags behind u; from :func:`adaptive.estimate_delay`.

    Attributes
    ----------
    samples : delay of the strongest path; negative where d leads.
    confidence : probability that no value of chance correlations is as high as the peak.
    lags, correlation : (2 largest + 1,) the delays looked at and their phase correlation.
    """

    samples: int
    confidence: float
    lags: Array = field(repr=False)
    correlation: Array = field(repr=False)


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether a simulated learning curve stayed inside the band around the predicted one.

    Attributes
    ----------
    holds : no step is more than ``k`` standard errors from the prediction.
    k, steps, runs : half-width of the band, in standard errors; what was compared.
    first_outside : first step outside the band, None if there is none.
    fraction_outside : of the steps.
    z : (steps,) (simulated - predicted) in standard errors, as a normal score (see
        :func:`deviations`); +-inf where only one of the two is finite, or where they differ with no
        usable standard error to measure it by; zero where neither is finite. Never NaN.
    largest_z : largest |z|.
    worst_step : where it is.
    false_alarm : how likely a true prediction is to leave the band anywhere, at most (see Notes of
        :func:`verdict`).
    typical_dB : median over the steps of |10 log10(simulated / predicted)|, the size of the
        difference where k speaks of its certainty; None where no step has both finite and positive.
    diverged : runs whose error left the finite numbers.
    text : all this in one sentence.
    """

    holds: bool
    k: float
    steps: int
    runs: int
    first_outside: int | None
    fraction_outside: float
    z: Array = field(repr=False)
    largest_z: float
    worst_step: int
    false_alarm: float
    typical_dB: float | None
    diverged: int
    text: str

    def __str__(self) -> str:
        return self.text
