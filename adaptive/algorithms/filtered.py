"""Filtered-x LMS: the filter's output passes a known path before it meets the desired response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import _kernels_path
from adaptive import checks as _checks
from adaptive.algorithms.base import Algorithm, Regularisation, run, setting
from adaptive.bounds import excited
from adaptive.checks import Array
from adaptive.regressors import Regressors
from adaptive.results import FilterRun, MeanBounds
from adaptive.streaming import Block, Memory, Record, StepSize


@dataclass(frozen=True, kw_only=True)
class FilteredXLMS(Algorithm):
    """Filtered-x LMS: w(n+1) = (1 - mu leakage) w(n) + mu x(n) e*(n), for control through a path.

    The output y(n) = w(n)^H u(n) drives a loudspeaker, and e(n) = d(n) - sum_j s_j y(n-j) is what
    a microphone hears; s is the secondary path between them. The update uses the input through a
    model of that path, x(n) = sum_j model_j u(n-j). Signs: the path here subtracts, so that d is
    approached; anti-noise that is added to d has the weights -w.

    Parameters
    ----------
    mu : step size, in units of 1 / |x|^2. Delay in the path lowers the bound: see ``bounds``.
    secondary : s, (P,) impulse response; d (N, M) has M outputs then, each on its own. Or
        (M, M, P): response from loudspeaker k to microphone m, [m, k]. Fill up with zero paths
        where there are fewer loudspeakers than microphones, or the other way round.
    model : what the update believes of s, shape of ``secondary`` but for P; None is s itself.
    leakage : gamma >= 0: keeps the output small where the path carries nothing.

    Notes
    -----
    Burgess 1981; Widrow and Stearns 1985, Adaptive Signal Processing; several channels: Elliott,
    Stothers and Nelson 1987. O(L M^2) per sample and channel. In a simulated run the path has
    carried the output of the initial weights for as long as it remembers.
    """

    name: ClassVar[str] = "filtered_x_lms"

    mu: StepSize = setting("step size")
    secondary: ArrayLike = setting("response of the secondary path, commas between its taps")
    model: ArrayLike | None = setting("what the update believes of the secondary path", None)
    leakage: float = setting("weight decay", 0.0)

    def __post_init__(self) -> None:
        """Check the settings; responses become tuples, so that the value can be compared."""
        super().__post_init__()
        object.__setattr__(self, "leakage", _checks.nonnegative("leakage", self.leakage))
        path = _response("secondary", self.secondary)
        object.__setattr__(self, "secondary", _tuples(path))
        if self.model is None:
            return
        model = _response("model", self.model)
        if model.shape[:-1] != path.shape[:-1]:
            raise ValueError(
                f"model must have the shape of secondary, {path.shape}, but for its last axis; "
                f"got {model.shape}"
            )
        object.__setattr__(self, "model", _tuples(model))

    def paths(self) -> tuple[Array, Array]:
        """Secondary path and model, filled up with zeros to one length."""
        path = np.array(self.secondary)
        model = path if self.model is None else np.array(self.model)
        length = max(path.shape[-1], model.shape[-1])

        def filled(response: Array) -> Array:
            more = [(0, 0)] * (response.ndim - 1) + [(0, length - response.shape[-1])]
            return np.pad(response, more)

        return filled(path), filled(model)

    @property
    def _eps(self) -> float:
        """Below zero: the step size is not normalised."""
        return -1.0

    @property
    def lookback(self) -> int:
        """Regressors that the path remembers."""
        return int(self.paths()[0].shape[-1]) - 1

    def warm_up(self, length: int) -> int:
        """As many samples as the path remembers."""
        return self.lookback

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """Earlier outputs."""
        path, model = self.paths()
        M = memory["w"].shape[0]
        if path.ndim == 3 and path.shape[0] != M:
            raise ValueError(
                f"secondary must have shape (P,) or ({M}, {M}, P) for {M} outputs of d; "
                f"got {path.shape}"
            )
        for name, response in (("secondary", path), ("model", model)):
            if np.iscomplexobj(response) and not np.issubdtype(dtype, np.complexfloating):
                raise TypeError(f"{name} must be real where u and d are real; got complex")
        memory["outputs"] = np.zeros((M, path.shape[-1]), dtype)

    def hear(self, memory: Memory, past: Array) -> None:
        """Let the initial weights filter the samples before the first."""
        length, keep = memory.length, self.lookback
        before = past.shape[0] - (length - 1)  # regressors that are known
        for j in range(min(before, keep)):
            row = past[before - 1 - j : before - 1 - j + length].reshape(-1)
            memory["outputs"][:, j] = memory["w"].conj() @ row
        known = past[max(before - keep, 0) : before]
        if known.size:
            memory["regressors"][-known.size :] = known.reshape(-1)

    def advance(self, memory: Memory, block: Block) -> int:
        """Run the compiled loop."""
        return self._through(memory, block, block.mu, self.leakage)

    def hold(self, memory: Memory, block: Block) -> int:
        """Filter, without learning."""
        return self._through(memory, block, np.zeros_like(block.mu), 0.0)

    def _through(self, memory: Memory, block: Block, mu: Array, leakage: float) -> int:
        w, lines = memory["w"], block.lines
        x = np.concatenate([memory["regressors"], lines.buffer])
        path, model = (response.astype(w.dtype) for response in self.paths())
        offset, every, history = block.record
        fixed = (x, lines.hop, self.lookback)
        if path.ndim == 3:
            joint: int = _kernels_path.filtered_x(
                *fixed, np.ascontiguousarray(block.d), mu, path, model, self._eps, leakage,
                memory["outputs"], w, block.error, offset, every, history,
            )  # fmt: skip
            return joint

        def one(m: int, d: Array, error: Array) -> int:
            stop: int = _kernels_path.filtered_x(
                *fixed, d[:, None], mu, path[None, None], model[None, None], self._eps, leakage,
                memory["outputs"][m : m + 1], w[m : m + 1], error[:, None],
                offset, every, history[:, m : m + 1],
            )  # fmt: skip
            return stop

        return block.per_output(one)

    def bounds(self, R: ArrayLike) -> MeanBounds:
        """Bound on mu of the mean weights, for a path that is a delay.

        With s = a at the delay D and zero elsewhere, and a model that is exact, the modes are
        v(n+1) = (1 - mu gamma) v(n) - mu |a|^2 lambda v(n-D): E[v] falls for every
        mu below 2 sin(pi / (2 (2 D + 1))) / (|a|^2 lambda_max) where gamma = 0. For long delays
        that is about pi / (2 D + 1).

        Parameters
        ----------
        R : (L, L) autocorrelation of u itself, before the path.

        Raises
        ------
        NotImplementedError : a path of more than one tap, several channels, or a model that is
            not the path: the bound depends on more of the input than R.

        Notes
        -----
        Regressors independent of the weights. Kabal 1983 and Long, Ling and Proakis 1989 for
        delayed LMS; Elliott and Nelson 1993 for the rule that it leads to.
        """
        path, model = self.paths()
        taps = np.flatnonzero(path)
        if path.ndim > 1 or taps.size != 1 or not np.array_equal(path, model):
            raise NotImplementedError(
                f"the bound on mu of {self.name} is known here where secondary is one delay and "
                "model is the same"
            )
        modes = excited(R)
        gain = abs(path[taps[0]]) ** 2 * modes.eigenvalues[~modes.stationary].astype(float)
        return MeanBounds(mean=min(_delayed_edge(x, self.leakage, int(taps[0])) for x in gain))


@dataclass(frozen=True, kw_only=True)
class FilteredXNLMS(FilteredXLMS):
    """Filtered-x NLMS: filtered-x LMS with the step mu / (eps + |x(n)|^2).

    With several channels |x|^2 is the sum over all loudspeakers and microphones, so that one mu
    suits any number of them.

    Parameters
    ----------
    mu : step size, a pure number. 0 < mu < 2 without delay in the path, less with it.
    secondary, model, leakage : as for :class:`FilteredXLMS`; leakage is a pure number here.
    eps : in units of |x|^2; None takes 1e-3 of the mean |u|^2.

    Notes
    -----
    As :class:`FilteredXLMS`, normalised as :class:`NLMS`.
    """

    name: ClassVar[str] = "filtered_x_nlms"
    normalized: ClassVar[bool] = True
    regularisation: ClassVar[Regularisation | None] = Regularisation("eps", 1e-3, whole=True)

    eps: float | None = setting("regularisation, in units of |u|^2", None)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.eps is not None:
            object.__setattr__(self, "eps", _checks.nonnegative("eps", self.eps))

    @property
    def _eps(self) -> float:
        assert self.eps is not None
        return self.eps

    def bounds(self, R: ArrayLike) -> MeanBounds:
        """No bound is known here.

        Raises
        ------
        NotImplementedError : always.
        """
        raise NotImplementedError(f"no bounds on mu are known here for {self.name}")


def _response(name: str, value: ArrayLike) -> Array:
    """A response (P,) or (M, M, P), finite and not empty."""
    response = _checks.array(name, value, ndim=(1, 3))
    if response.ndim == 3 and response.shape[0] != response.shape[1]:
        raise ValueError(f"{name} must have shape (P,) or (M, M, P); got {response.shape}")
    return response


def _tuples(a: Array) -> Any:
    return tuple(_tuples(part) for part in a) if a.ndim > 1 else tuple(a.tolist())


def _delayed_edge(gain: float, leakage: float, delay: int) -> float:
    """Least mu at which z^(D+1) - (1 - mu leakage) z^D + mu gain has a root on the unit circle.

    At z = exp(i t), with r = leakage / gain: r cos(t/2) + cos((D + 1/2) t) = 0, and then
    mu gain = 2 sin^2(t/2) / (r + cos(D t)).
    """
    r = leakage / gain

    def gap(t: Array | float) -> Any:
        return r * np.cos(t / 2) + np.cos((delay + 0.5) * t)

    t = np.linspace(0, np.pi, 64 * (delay + 1) + 1)
    values = gap(t)
    changes = np.flatnonzero(values[:-1] * values[1:] < 0)
    roots = [scipy.optimize.brentq(gap, t[i], t[i + 1], xtol=1e-15) for i in changes]
    loads = [2 * np.sin(x / 2) ** 2 / (r + np.cos(delay * x)) for x in (*roots, np.pi)]
    return float(min(x for x in loads if x > 0)) / gain


def filtered_x_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    secondary: ArrayLike,
    model: ArrayLike | None = None,
    leakage: float = 0.0,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Filtered-x LMS: w(n+1) = (1 - mu leakage) w(n) + mu x(n) e*(n), for control through a path.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, secondary, model, leakage : as for :class:`FilteredXLMS`.

    Returns
    -------
    FilterRun. ``error`` is at the end of the path; ``output`` is d - error, which has passed it.

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; a path of another shape, leakage < 0.

    Examples
    --------
    >>> import numpy as np
    >>> u = np.random.default_rng(0).standard_normal(8000)
    >>> path, wanted = [0.0, 0.0, 0.8, 0.3], [1.0, -0.5]
    >>> d = np.convolve(np.convolve(u, wanted), path)[:8000]
    >>> run = filtered_x_lms(u, d, mu=0.05, secondary=path, taps=2)
    >>> run.weights.round(6).tolist()
    [1.0, -0.5]
    """
    algorithm = FilteredXLMS(mu=mu, secondary=secondary, model=model, leakage=leakage)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)


def filtered_x_nlms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    secondary: ArrayLike,
    model: ArrayLike | None = None,
    leakage: float = 0.0,
    eps: float | None = None,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Filtered-x NLMS: filtered-x LMS with the step mu / (eps + |x(n)|^2).

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, secondary, model, leakage, eps : as for :class:`FilteredXNLMS`.

    Returns
    -------
    FilterRun, as :func:`adaptive.filtered_x_lms`.

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.filtered_x_lms`; eps < 0, silence without eps.

    Examples
    --------
    >>> import numpy as np
    >>> u = 1e3 * np.random.default_rng(0).standard_normal(8000)
    >>> path, wanted = [0.0, 0.0, 0.8, 0.3], [1.0, -0.5]
    >>> d = np.convolve(np.convolve(u, wanted), path)[:8000]
    >>> run = filtered_x_nlms(u, d, mu=0.1, secondary=path, taps=2)
    >>> run.weights.round(6).tolist()
    [1.0, -0.5]
    """
    algorithm = FilteredXNLMS(mu=mu, secondary=secondary, model=model, leakage=leakage, eps=eps)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)
