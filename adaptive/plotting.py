"""Figures of predictions and ensembles; the only module here that needs matplotlib.

Each function draws finished results into an ``ax`` and returns its artists by name. Nothing is
computed that a result does not hold, no figure is opened, and no global style is touched. Colours
are Okabe and Ito's, or viridis where they have an order, and can be distinguished with every common
kind of colour vision.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.modes import NaturalModes, natural_modes
from adaptive.results import Ensemble, LearningCurve, StabilityMap
from adaptive.verdict import band
from adaptive.wiener import WienerProblem

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#5F5F5F"
MARKS = 24  # marks along a simulated curve


def learning_curve(
    ax: Axes,
    *,
    ensemble: Ensemble | None = None,
    prediction: LearningCurve | None = None,
    k: float = 4.0,
    label: str = "",
) -> dict[str, Artist]:
    """Mean-square error in dB: simulation with its band, theory, J_min and the final value.

    Parameters
    ----------
    ax : where to draw.
    ensemble, prediction : what to draw, one or both.
    k : half-width of the band, in standard errors: where :func:`adaptive.verdict` accepts a
        prediction.
    label : put before the names in the legend.

    Returns
    -------
    dict of artists: "simulation", "band", "theory", "J_min", "final", "median" (where the ensemble
    holds quantile 0.5), those that were drawn.

    Raises
    ------
    TypeError : neither an ensemble nor a prediction.

    Examples
    --------
    >>> import adaptive
    >>> from matplotlib.figure import Figure
    >>> problem = adaptive.WienerProblem(R=[[1.0]], P=[1.0], d_power=1.01)
    >>> curve = adaptive.predict_lms(problem, mu=0.1, steps=100)
    >>> sorted(learning_curve(Figure().subplots(), prediction=curve))
    ['J_min', 'final', 'theory']
    """
    _one_at_least(ensemble, prediction)
    k = _checks.positive("k", k)
    artists: dict[str, Artist] = {}
    before = f"{label}: " if label else ""
    levels = []
    if ensemble is not None:
        n = np.arange(ensemble.steps)
        mean = ensemble.mse
        low, high = band(mean, ensemble.mse_se, k)
        with np.errstate(over="ignore"):
            top = np.minimum(1e30 * mean, 1e300)
        high = np.minimum(high, top)  # where it has no end it goes on above the axes
        artists["band"] = ax.fill_between(
            n, decibels(low), decibels(high), color=BLUE, alpha=0.25, linewidth=0,
            label=f"{before}± {k:g} standard errors",
        )  # fmt: skip
        (artists["simulation"],) = ax.plot(
            n, decibels(mean), color=BLUE, linewidth=1.0,
            label=f"{before}simulation, mean of {ensemble.runs} runs",
        )  # fmt: skip
        levels.append(decibels(mean))
        if 0.5 in ensemble.quantiles:
            median = decibels(ensemble.quantiles[0.5])
            (artists["median"],) = ax.plot(
                n, median, color=GREEN, linewidth=0.9, label=f"{before}median of the runs"
            )
            levels.append(median)
    if prediction is not None:
        block = _block(ensemble, prediction)
        theory = decibels(prediction.mse)
        (artists["theory"],) = ax.plot(
            block * np.arange(theory.size), theory, color=ORANGE, linewidth=1.6,
            linestyle=(0, (5, 2)), label=f"{before}theory",
        )  # fmt: skip
        levels.append(theory)
        if np.isfinite(prediction.mse_final) and prediction.mse_final > 0:
            final = float(decibels(np.array(prediction.mse_final)))
            artists["final"] = ax.axhline(
                final, color=ORANGE, linewidth=1.0, linestyle=":",
                label=f"{before}steady state, {final:.2f} dB",
            )  # fmt: skip
            levels.append(np.array([final]))
        if prediction.J_min > 0:
            floor = float(decibels(np.array(prediction.J_min)))
            artists["J_min"] = ax.axhline(
                floor, color=GREY, linewidth=1.0, label=f"{before}$J_{{min}}$, {floor:.2f} dB"
            )
            levels.append(np.array([floor]))
    _limit(ax, levels)
    updates = ensemble is None and prediction is not None and prediction.samples_per_update > 1
    ax.set_xlabel("update n" if updates else "sample n")
    ax.set_ylabel("mean-square error (dB)")
    _dress(ax)
    return artists


def mode_decay(
    ax: Axes,
    problem: WienerProblem,
    *,
    ensemble: Ensemble | None = None,
    prediction: LearningCurve | None = None,
    show: int = 5,
) -> dict[str, Artist]:
    """|E[v_k(n)]|, mode by mode: theory as lines, simulation as marks.

    Marks are faint where the mean may be noise alone, that is where it is less than twice a bound
    on its standard error (that of q_k' w is at most sum_i |q_ki| times those of the w_i).

    Parameters
    ----------
    ax : where to draw.
    problem : the Wiener problem whose modes and solution are meant; one output.
    ensemble, prediction : what to draw, one or both.
    show : how many modes, evenly from the fastest to the slowest of those that the input excites.

    Returns
    -------
    dict of artists: "theory k" and "simulation k" for each mode k shown, k as in ``eigenvalues``.

    Raises
    ------
    TypeError, ValueError : neither an ensemble nor a prediction, show < 1, several outputs.
    """
    _one_at_least(ensemble, prediction)
    if problem.P.ndim != 1:
        raise ValueError(f"problem must have one output; got P of shape {problem.P.shape}")
    modes = problem.modes
    excited = np.flatnonzero(~modes.stationary)[::-1]
    count = min(_checks.count("show", show), excited.size)
    chosen = excited[np.unique(np.linspace(0, excited.size - 1, count).round().astype(int))]
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, chosen.size))
    artists: dict[str, Artist] = {}
    levels = []
    for k, colour in zip(chosen, colours, strict=True):
        name = f"$\\lambda$ = {modes.eigenvalues[k]:.3g}"
        if prediction is not None:
            v = _positive(np.abs(prediction.modes[:, k]))
            (artists[f"theory {k}"],) = ax.plot(
                _block(ensemble, prediction) * np.arange(v.size), v, color=colour, label=name
            )
            levels.append(v)
            name = "_" + name
        if ensemble is not None:
            n, v, noise = _simulated_mode(modes, k, problem, ensemble)
            marks = np.tile(colour, (n.size, 1))
            marks[:, 3] = np.where(v < 2 * noise, 0.25, 0.9)
            artists[f"simulation {k}"] = ax.scatter(
                n, v, s=13, c=marks, linewidths=0, label=name, zorder=3
            )
            levels.append(v)
    ax.set_yscale("log")
    values = np.concatenate(levels) if levels else np.array([1.0])
    values = values[np.isfinite(values)]
    if values.size:
        top = values.max()
        ax.set_ylim(max(values.min() / 1.5, top * 1e-5), 1.5 * top)
    ax.set_xlabel("sample n")
    ax.set_ylabel("mean of mode, $|E[v_k(n)]|$")
    _dress(ax)
    if ensemble is not None and prediction is not None:
        legend = ax.get_legend()
        assert legend is not None
        legend.set_title("lines: theory; marks: simulation", FontProperties(size="small"))
    return artists


def eigenvalue_spectrum(
    ax: Axes, R: ArrayLike | NaturalModes | WienerProblem, *, mu: float | None = None
) -> dict[str, Artist]:
    """Eigenvalues of R, largest first, on a logarithmic axis.

    Parameters
    ----------
    ax : where to draw.
    R : (L, L) autocorrelation, or its modes, or a problem.
    mu : LMS step size; if given, the line lambda = 2/mu is drawn, above which modes grow.

    Returns
    -------
    dict of artists: "eigenvalues", "mean" (the mean eigenvalue), "stationary" (modes that the
    input does not excite, at the foot of the axes) and "bound", those that were drawn.
    """
    if isinstance(R, WienerProblem):
        R = R.modes
    modes = R if isinstance(R, NaturalModes) else natural_modes(R)
    lam = modes.eigenvalues[::-1]
    number = np.arange(1, lam.size + 1)
    excited = ~modes.stationary[::-1]
    artists: dict[str, Artist] = {}
    spread = "$\\infty$" if np.isinf(modes.spread) else f"{modes.spread:.4g}"
    (artists["eigenvalues"],) = ax.plot(
        number[excited], lam[excited], color=BLUE, marker="o", markersize=4, linewidth=0.8,
        label=f"eigenvalues, spread {spread}",
    )  # fmt: skip
    artists["mean"] = ax.axhline(
        float(lam.mean()), color=GREEN, linewidth=1.0, linestyle=(0, (4, 2)),
        label=f"their mean, {lam.mean():.4g}",
    )  # fmt: skip
    edge = 0.0
    if mu is not None:
        edge = 2 / _checks.positive("mu", mu)
        artists["bound"] = ax.axhline(
            edge, color=ORANGE, linewidth=1.2, linestyle=":",
            label=f"2/$\\mu$ = {edge:.4g}: above it modes grow",
        )  # fmt: skip
    ax.set_yscale("log")
    if not excited.all():
        foot = ax.get_ylim()[0]
        artists["stationary"] = ax.scatter(
            number[~excited], np.full(np.count_nonzero(~excited), foot), s=18, marker="x",
            color=GREY, clip_on=False, label="not excited by the input",
        )  # fmt: skip
        ax.set_ylim(bottom=foot)
    values = [float(lam[excited].max()), float(lam.mean()), edge]
    ax.set_ylim(top=max(values) * (max(values) / ax.get_ylim()[0]) ** 0.4)  # room for the legend
    ax.set_xlabel("mode, largest eigenvalue first")
    ax.set_ylabel("eigenvalue of R (input power)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _dress(ax)
    return artists


def stability_map(ax: Axes, grid: StabilityMap) -> dict[str, Artist]:
    """Misadjustment over step size and eigenvalue spread, with the bounds on mu as lines.

    Parameters
    ----------
    ax : where to draw; a colour bar is added next to it.
    grid : from :func:`adaptive.stability_map`, which computes it.

    Returns
    -------
    dict of artists: "misadjustment", "colorbar" (its axes) and one line per name in
    ``grid.bounds``. Grey is where the MSE does not converge.
    """
    artists: dict[str, Artist] = {}
    shown = np.ma.masked_invalid(decibels(grid.misadjustment).T)
    colours = mpl.colormaps["viridis"].with_extremes(bad="#D9D9D9")
    low = float(np.floor(shown.min() / 10) * 10) if shown.count() else -30.0
    artists["misadjustment"] = ax.pcolormesh(
        grid.spreads, grid.mus, shown, cmap=colours, vmin=max(low, -40), vmax=20, shading="nearest",
        rasterized=True,
    )  # fmt: skip
    styles = {"mean": (ORANGE, "-"), "trace": ("#000000", ":"), "mean_square": ("#000000", "-")}
    # the dotted line is drawn last, so that two that coincide in places can be distinguished
    for name in sorted(grid.bounds, key=lambda b: styles.get(b, (GREY, "-"))[1] == ":"):
        colour, dash = styles.get(name, (GREY, "--"))
        (artists[name],) = ax.plot(
            grid.spreads, grid.bounds[name], color=colour, linestyle=dash, linewidth=1.8,
            label=name.replace("_", " ") + " bound",
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(grid.spreads[0], grid.spreads[-1])
    ax.set_ylim(grid.mus[0], grid.mus[-1])
    ax.set_xlabel("eigenvalue spread $\\lambda_{max}/\\lambda_{min}$")
    ax.set_ylabel("step size $\\mu$ (1 / input power)")
    figure = ax.get_figure()
    assert figure is not None
    bar = figure.colorbar(artists["misadjustment"], ax=ax, extend="both")  # type: ignore[arg-type]
    bar.set_label("misadjustment (dB); grey: MSE diverges")
    artists["colorbar"] = bar.ax
    ax.legend(frameon=True, framealpha=0.9, fontsize="small", loc="lower left")
    _open(ax)
    return artists


def decibels(power: Array) -> Array:
    """10 log10; NaN, which is not drawn, where the power is zero or not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        dB: Array = 10 * np.log10(_positive(power))
    return dB


def _positive(a: Array) -> Array:
    """NaN where a logarithmic axis has no place."""
    return np.where(np.isfinite(a) & (a > 0), a, np.nan)


def _simulated_mode(
    modes: NaturalModes, k: int, problem: WienerProblem, ensemble: Ensemble
) -> tuple[Array, Array, Array]:
    """Samples, |mean of mode k| and a bound on its standard error, at ``MARKS`` of the rows."""
    rows = ensemble.mean_weights.shape[0]
    pick = np.unique(np.linspace(0, rows - 1, min(rows, MARKS)).round().astype(int))
    q = modes.eigenvectors[:, k]
    w, se = ensemble.mean_weights[pick], ensemble.mean_weights_se[pick]
    finite = np.isfinite(w).all(axis=1) & np.isfinite(se).all(axis=1)
    v = np.full(pick.size, np.nan)
    noise = np.full(pick.size, np.nan)
    v[finite] = np.abs((w[finite] - problem.w_o) @ q.conj())
    noise[finite] = se[finite] @ np.abs(q)
    return pick * ensemble.record, _positive(v), noise


def _block(ensemble: Ensemble | None, prediction: LearningCurve) -> int:
    """Samples per update, where updates are drawn over samples."""
    return 1 if ensemble is None else prediction.samples_per_update


def _one_at_least(ensemble: Ensemble | None, prediction: LearningCurve | None) -> None:
    if ensemble is None and prediction is None:
        raise TypeError("an ensemble or a prediction must be given, or both; got neither")


def _limit(ax: Axes, levels: list[Array]) -> None:
    """Axes that hold the curves, however far down the band reaches."""
    values = np.concatenate([np.ravel(level) for level in levels])
    values = values[np.isfinite(values)]
    if values.size:
        # a curve that grows without end must not press all else flat
        bottom, top = values.min(), min(values.max(), values.min() + 200)
        room = 0.06 * max(top - bottom, 1.0)
        ax.set_ylim(bottom - room, top + room)


def _open(ax: Axes) -> None:
    """No frame on the right and above."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _dress(ax: Axes) -> None:
    """Grid behind, legend where it hides least, on a ground that keeps it legible."""
    _open(ax)
    ax.grid(True, color="#E2E2E2", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.margins(x=0.02)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small", framealpha=0.85, edgecolor="none", handlelength=1.8)
