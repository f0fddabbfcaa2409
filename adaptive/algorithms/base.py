"""What an algorithm is: a frozen value that can be run, predicted, bounded and streamed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from adaptive import _kernels
from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.recursion import SecondMoments
from adaptive.regressors import Regressors, delayed, refuse_delay_lines
from adaptive.results import Bounds, FilterRun, LearningCurve
from adaptive.streaming import (
    CHUNK,
    AdaptiveFilter,
    Block,
    Memory,
    Record,
    StepSize,
    TogetherRun,
)
from adaptive.wiener import WienerProblem


class Regularisation(NamedTuple):
    """The setting that keeps a division finite, and its value when None is given.

    ``part`` of the mean power of one tap, or of a whole regressor if ``whole``.
    """

    name: str
    part: float
    whole: bool = False

    def default(self, power: float, taps: int) -> float:
        """The value for an input of this mean power per tap."""
        return self.part * power * (taps if self.whole else 1)


def setting(about: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of an algorithm, with the line that ``python -m adaptive --help`` shows."""
    return dataclasses.field(default=default, metadata={"help": about})


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """An adaptive algorithm with its settings, as a value.

    A subclass is a frozen dataclass whose fields are the settings. It supplies ``advance``, the
    update, and where theory has them ``bounds`` and ``predict``.

    Attributes
    ----------
    name : of the algorithm, in lower case; the string that ``simulate`` accepts.
    normalized : whether mu is a pure number, whatever the units of the input.
    edgeless : why there is no step size from which runs diverge; None where there is one.
    has_theory : whether ``predict`` gives a learning curve.
    regularisation : the setting that takes a part of the input's power when it is None.
    delay_lines_only : whether the regressors must be delay lines over a signal.
    linear : whether the errors are linear in d and the initial weights, for a given input.
    """

    name: ClassVar[str]
    normalized: ClassVar[bool] = False
    edgeless: ClassVar[str | None] = None
    has_theory: ClassVar[bool] = False
    regularisation: ClassVar[Regularisation | None] = None
    delay_lines_only: ClassVar[bool] = False
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the step size; subclasses check their own settings too."""
        mu: Any = getattr(self, "mu", None)
        if not self.has_step_size() or callable(mu):
            return
        if _checks.rank(mu) == 0:
            object.__setattr__(self, "mu", _checks.nonnegative("mu", mu))
        else:
            _checks.array("mu", mu, ndim=(1, 2))  # its length shows when it meets a signal

    # --- facts ---

    @classmethod
    def settings(cls) -> dict[str, dataclasses.Field[Any]]:
        """The fields by name, the step size left out."""
        return {f.name: f for f in dataclasses.fields(cls) if f.name != "mu"}

    @classmethod
    def has_step_size(cls) -> bool:
        """Whether there is a mu: RLS has none."""
        return any(f.name == "mu" for f in dataclasses.fields(cls))

    @classmethod
    def requires(cls, name: str) -> bool:
        """Whether a setting has no default."""
        return cls.settings()[name].default is dataclasses.MISSING

    @property
    def step_size(self) -> StepSize:
        """The step size mu; 1 where there is none."""
        step: StepSize = getattr(self, "mu", 1.0)
        return step

    @property
    def constant_mu(self) -> float:
        """The step size where it must be one number."""
        return _checks.nonnegative("mu", self.step_size)  # type: ignore[arg-type]

    @property
    def samples_per_update(self) -> int:
        """Samples that one update averages over."""
        return 1

    @property
    def scale_free(self) -> bool:
        """Whether the update stays the same when u and d are multiplied by one factor."""
        return self.regularisation is not None

    # --- what users call ---

    def stream(
        self, *, taps: int | None = None, w0: ArrayLike | None = None, delay: int = 0
    ) -> AdaptiveFilter:
        """A filter that learns block by block; any split of a signal gives the same run.

        Parameters
        ----------
        taps : taps of each channel's delay line; None when the input holds regressors.
        w0 : initial weights, (L,) or (M, L); zeros when None.
        delay : samples by which u is delayed before it is filtered, 0 or more.

        Raises
        ------
        TypeError, ValueError : a regularisation left out, since the power of a stream is not known
            before it ends; taps left out where the algorithm needs a delay line.
        """
        rest = self.regularisation
        if rest is not None and getattr(self, rest.name) is None:
            raise ValueError(
                f"{rest.name} must be given for a stream: None takes {rest.part:g} of the input's "
                "mean power, which is not known before the stream ends"
            )
        if taps is None and self.delay_lines_only:
            raise ValueError(f"taps must be given for {self.name}, which works on delay lines")
        return AdaptiveFilter(self, taps=taps, w0=w0, delay=delay)

    def bounds(self, R: ArrayLike) -> Bounds:
        """Upper bounds on mu for the input autocorrelation R.

        Raises
        ------
        NotImplementedError : no bounds are known here for this algorithm.
        """
        raise NotImplementedError(f"no bounds on mu are known here for {self.name}")

    def predict(
        self, problem: WienerProblem, *, steps: int, w0: ArrayLike | None = None
    ) -> LearningCurve:
        """Learning curve from R, P and J_min alone; see :func:`adaptive.predict`.

        Raises
        ------
        NotImplementedError : no theory is at hand for this algorithm.
        """
        raise NotImplementedError(f"no theory is at hand for {self.name}")

    def second_moments(
        self, problem: WienerProblem, *, w0: ArrayLike | None = None
    ) -> SecondMoments:
        """What ``predict`` walks through, in closed form at every step size; mu itself is not used.

        Raises
        ------
        NotImplementedError : no theory is at hand for this algorithm.
        """
        raise NotImplementedError(f"no theory is at hand for {self.name}")

    def with_mu(self, mu: float) -> Self:
        """The same algorithm at another step size."""
        changes: dict[str, Any] = {"mu": mu}
        return dataclasses.replace(self, **changes)

    def regularised(self, power: float, taps: int) -> Self:
        """The same with a regularisation that was left out taken from the power per tap."""
        rest = self.regularisation
        if rest is None or getattr(self, rest.name) is not None:
            return self
        changes: dict[str, Any] = {rest.name: rest.default(power, taps)}
        return dataclasses.replace(self, **changes)

    # --- what the engine calls; see ``streaming.Rule`` ---

    @property
    def lookback(self) -> int:
        """Regressors before the present one that an update reaches back to."""
        return 0

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """Put the algorithm's own arrays into ``memory``."""

    def warm_up(self, length: int) -> int:
        """Samples to hear before the first of a simulated run, for delay lines of a length."""
        return 0

    def hear(self, memory: Memory, past: Array) -> None:
        """Take in samples (K, C) that precede the first, without learning from them."""

    def advance(self, memory: Memory, block: Block) -> int:
        """Run over a block; the first sample whose error is not finite, or -1."""
        raise NotImplementedError

    def hold(self, memory: Memory, block: Block) -> int:
        """Filter a block without learning from it; returns what ``advance`` returns.

        A subclass that keeps more than weights says here what else a sample changes that nothing is
        learned from: the running powers of the input, for example.
        """
        lines, w = block.lines, memory["w"]
        held = np.ascontiguousarray(self.outward(w, memory.length))
        none = np.zeros(1, w.real.dtype)
        stop = block.per_output(
            lambda m, d, error: _kernels.stochastic_gradient(
                0, lines.samples, lines.buffer, lines.buffer, lines.hop, d, none, none,
                w.real.dtype.type(1), None, None, held[m], error, m, 0, 0, block.record[2],
            )
        )  # fmt: skip
        block.record_still(w, lines.samples if stop < 0 else stop)
        return stop

    def chunk(self, taps: int) -> int:
        """Samples of one call of ``advance``."""
        return CHUNK

    def inward(self, w: Array, length: int) -> Array:
        """Public weights to the coordinates in which the filter runs."""
        return w

    def outward(self, w: Array, length: int) -> Array:
        """Internal coordinates to public weights."""
        return w

    def run_together(
        self,
        filter_: AdaptiveFilter,
        draws: list[tuple[Regressors, Array]],
        every: int,
        before: int,
    ) -> TogetherRun | None:
        """Independent runs side by side; None without a kernel for that."""
        return None


def run(
    algorithm: Algorithm,
    u: ArrayLike,
    d: ArrayLike,
    *,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Run an adaptive algorithm over a whole signal.

    Convention: e(n) = d(n) - w(n)^H u(n) is the a priori error, and w(n+1) = w(n) + mu(n) u(n)
    e*(n) for LMS (Haykin, Sayed; Widrow writes 2 mu). For complex data the output conjugates the
    weights: a channel d = h * u is found as w = h*, the conjugate of what MATLAB's filters return.
    float32 stays float32.

    Parameters
    ----------
    algorithm : such as ``LMS(mu=0.05)``. A step size that is an array has one entry per sample.
    u : (N,) signal or (N, C) channels, with ``taps``; or (N, L) regressors, without.
    d : (N,) desired response, or (N, M) for M outputs that share the regressor.
    taps : taps of the delay line of each channel, newest sample first; zeros precede the signal.
        C channels stack channel by channel, C * taps weights. Leave it out where the rows of u are
        regressors already.
    w0 : initial weights, (L,) or (M, L); zeros when None.
    record : "last" keeps no history, "all" the weights after every update, k after every k-th.
    adapt : (N,) booleans, False for samples that are filtered but not learned from, such as those
        of double talk; (N, M) for each output on its own. None learns from every sample.
    delay : samples by which u is delayed before it is filtered, so that the taps cover the delays
        from ``delay`` on. A negative delay lets the filter use that many future samples.

    Returns
    -------
    FilterRun. A run that diverges says so in ``diverged_at``.

    Raises
    ------
    TypeError : masked entries, or what is no number; arguments of the wrong kind.
    ValueError : NaN or inf in the input, wrong shapes, empty input; silence where a
        regularisation is to be taken from the input's power.

    Examples
    --------
    >>> import adaptive
    >>> u = np.random.default_rng(0).standard_normal(2000)
    >>> d = np.convolve(u, [1.0, -0.5])[:2000]
    >>> adaptive.run(adaptive.LMS(mu=0.05), u, d, taps=2).weights.round(6).tolist()
    [1.0, -0.5]
    """
    exponent = 0
    u, d = _checks.array("u", u, ndim=(1, 2)), _checks.array("d", d, ndim=(1, 2))
    shift = _checks.whole("delay", delay)
    if abs(shift) >= len(u):
        raise ValueError(f"delay must be less than the {len(u)} samples of u; got {delay}")
    if shift:
        if taps is not None:
            refuse_delay_lines(u)
        u, _ = delayed(u, shift)
    _checks.instance("algorithm", algorithm, Algorithm)
    rest = algorithm.regularisation
    given = None if rest is None else getattr(algorithm, rest.name)
    if algorithm.scale_free:
        u, d, exponent = _moderate(_native(u), _native(d), given)
    if rest is not None:
        value = _regularisation(rest, given, _native(u), taps, exponent)
        changes: dict[str, Any] = {rest.name: value}
        algorithm = dataclasses.replace(algorithm, **changes)
    filter_ = algorithm.stream(taps=taps, w0=w0)
    mu = algorithm.step_size
    if not callable(mu) and _checks.rank(mu) == 1:
        shape = _checks.floating("mu", mu).shape
        if shape != u.shape[:1]:
            raise ValueError(
                f"mu must be a number or hold one per sample, {u.shape[0]}; got {shape}"
            )
    finished = filter_.run(u, d, record, adapt)
    if exponent == 0:
        return finished
    error, desired = (_times_power_of_two(x, exponent) for x in (finished.error, finished.desired))
    return dataclasses.replace(finished, error=error, desired=desired)


def predict(
    algorithm: Algorithm, problem: WienerProblem, *, steps: int, w0: ArrayLike | None = None
) -> LearningCurve:
    """Predict an algorithm's learning curve from R, P and J_min alone.

    Parameters
    ----------
    algorithm : such as ``NLMS(mu=0.5)``, with a constant step size.
    problem : the Wiener problem; a complex R means circular complex regressors.
    steps : number of updates. Block LMS makes one per block.
    w0 : initial weights, shape of ``problem.P``; zeros when None.

    Returns
    -------
    LearningCurve. A step size above the bound gives a growing curve and ``stable=False``.

    Raises
    ------
    NotImplementedError : no theory is at hand for the algorithm (``has_theory`` is False).
    TypeError, ValueError : mu not one number, steps < 1, w0 of the wrong shape, R = 0.

    Examples
    --------
    >>> import adaptive
    >>> problem = adaptive.WienerProblem(R=np.eye(4), P=[1.0, 0.0, 0.0, 0.0], d_power=1.01)
    >>> curve = adaptive.predict(adaptive.NLMS(mu=0.5, eps=0.0), problem, steps=100)
    >>> round(curve.misadjustment, 9)
    0.666666667
    """
    _checks.instance("algorithm", algorithm, Algorithm)
    return algorithm.predict(problem, steps=steps, w0=w0)


def _native(a: ArrayLike) -> Array:
    """Integers as doubles and foreign byte order as the machine's; anything else as it is."""
    array = np.asarray(a)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _moderate(
    signal: Array, desired: Array, regularisation: float | None
) -> tuple[Array, Array, int]:
    """Both over 2**exponent, where the square of the signal would leave the floating-point range.

    Normalised updates do not change when u and d change by one factor, and a power of two changes
    no digit. The exponent is 0 for signals of ordinary size, which pass untouched.
    """
    limits = np.finfo(np.result_type(signal, desired))
    with np.errstate(over="ignore", under="ignore"):
        energy = _kernels.energy(signal.reshape(-1))
    if 2.0 ** -(limits.maxexp // 2) < energy < 2.0 ** (limits.maxexp // 2):
        return signal, desired, 0  # ordinary: one quick pass says so
    of_u = _exponent(signal)
    if of_u is None or abs(of_u) <= limits.maxexp // 4:
        return signal, desired, 0
    of_d = _exponent(desired)
    exponent = of_u
    if of_d is not None:  # d must stay in range too
        room = limits.maxexp - limits.maxexp // 8
        exponent = min(max(exponent, of_d - room), of_d + room)
    with np.errstate(over="ignore"):
        if regularisation is not None and not np.ldexp(regularisation, -2 * exponent) < np.inf:
            return (
                signal,
                desired,
                0,
            )  # far above the power of u, it hides that the power underflows
    return _times_power_of_two(signal, -exponent), _times_power_of_two(desired, -exponent), exponent


def _exponent(a: Array) -> int | None:
    """Binary exponent of the largest entry; None for silence and for what is not finite."""
    parts = (a.real, a.imag) if np.iscomplexobj(a) else (a,)
    peak = max(max(x.max(initial=0), -x.min(initial=0)) for x in parts)
    return int(np.frexp(peak)[1]) if 0 < peak < np.inf else None


def _times_power_of_two(a: Array, exponent: int) -> Array:
    """a * 2**exponent, also where 2**exponent itself is out of range."""
    parts = np.ascontiguousarray(a).view(a.real.dtype)
    with np.errstate(over="ignore", under="ignore"):
        scaled: Array = np.ldexp(parts, exponent).view(a.dtype)
    return scaled.reshape(a.shape)


def _regularisation(
    rest: Regularisation, value: float | None, signal: Array, taps: int | None, exponent: int
) -> float:
    """The value given, over 4**exponent, or the default for u's mean power per tap."""
    if value is not None:
        if exponent == 0:
            return value
        smallest = np.finfo(float).tiny if value > 0 else 0.0
        return max(float(np.ldexp(value, -2 * exponent)), smallest)
    energy = _kernels.energy(signal.reshape(-1))
    channels = 1 if signal.ndim == 1 else signal.shape[1]
    length = 1 if taps is None else _checks.count("taps", taps)
    scaled = rest.default(energy / signal.size, length * channels)
    if scaled == 0:
        raise ValueError(
            f"u must not be all zero when {rest.name} is None, which takes a part of the input's "
            f"power; got silence: give {rest.name}= a positive value"
        )
    return scaled
