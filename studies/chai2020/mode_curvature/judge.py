"""Judges ``mode-curvature``: five readings of one claim, each by its own rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from studies.chai2020.mode_curvature import DECIDING, READINGS, Cell, Config, Limits
from studies.chai2020.mode_curvature.figures import (
    plot_curvature,
    plot_half_times,
    plot_horizons,
    plot_slopes,
)
from studies.engine.checks import Check, Interval, Verdict, median_check, worst
from studies.engine.power import share_table
from studies.engine.protocol import Figure, Findings, Measured, Table
from studies.engine.text import number

__all__ = ["FAMILY", "Network", "checks", "judge", "networks", "verdicts"]

FAMILY = 12  # deciding checks: four for each kind of network
FITS = {
    "modes": "A: R's own modes",
    "joint": "B: joint modes, R x G",
    "turned": "null: modes turned at random",
    "other layer": "null: R of another layer",
    "shuffled": "null: patches of another image",
    "RMSprop": "through RMSprop or Adam",
    "K-FAC": "through K-FAC",
}


@dataclass(frozen=True)
class Network:
    """One network at its checkpoints."""

    cell: Cell
    points: tuple[dict[str, Any], ...]

    def fits(self, kind: str) -> Iterator[tuple[float, str, float, float]]:
        """(checkpoint, layer, slope, R^2) wherever a kind of fit was made."""
        for loss, point in zip(self.cell.checkpoints, self.points, strict=True):
            for name, layer in point["layers"].items():
                if kind in layer["fits"]:
                    yield loss, name, *layer["fits"][kind]

    def ratios(self) -> list[tuple[float, str, float]]:
        """(checkpoint, layer, exact largest curvature over that of R x G), where measured."""
        return [
            (loss, name, layer["top_ratio"])
            for loss, point in zip(self.cell.checkpoints, self.points, strict=True)
            for name, layer in point["layers"].items()
            if "top_ratio" in layer
        ]

    @property
    def learned(self) -> dict[str, Any]:
        """Readings D and E by layer."""
        return {n: found for point in self.points for n, found in point["learned"].items()}


def networks(measured: Sequence[Measured]) -> list[Network]:
    """The measurements that succeeded."""
    return [Network(m.cell, tuple(m.result["points"])) for m in measured if m.error is None]


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """The verdict of the readings that the claim's words need, and each reading's own."""
    found = networks(measured)
    if not found:
        return Findings("inconclusive", reason="No network was measured.")
    made = checks(config, found)
    each = verdicts(made)
    told = ", ".join(f"{key} ({READINGS[key]}) {_said(each[key])}" for key in READINGS)
    return Findings(
        verdict=worst(each[key] for key in DECIDING),
        checks=[check for of_reading in made.values() for check in of_reading],
        reason=f"{told}.",
        tables=[
            Table("The readings", ("reading", "verdict", "decides"), reading_rows(each)),
            Table("Slopes and nulls", FIT_COLUMNS, fit_rows(found), text=[FIT_TEXT]),
            Table("Curvature by checkpoint", POINT_COLUMNS, point_rows(found), printed=False),
            Table("Stability", RATIO_COLUMNS, ratio_rows(found)),
            Table("Speed and trajectory", SPEED_COLUMNS, speed_rows(found), text=[SPEED_TEXT]),
            share_table(config.seeds, FAMILY),
        ],
        answer=figure(found),
        against=against(found, each),
    )


def _said(verdict: Verdict) -> str:
    return "is undecided" if verdict == "inconclusive" else verdict


def verdicts(made: dict[str, list[Check]]) -> dict[str, Verdict]:
    """One verdict for each reading."""
    return {key: worst(check.verdict for check in of_reading) for key, of_reading in made.items()}


# Checks ------------------------------------------------------------------------------------------

Values = Callable[[list[Network]], list[Interval]]


def checks(config: Config, found: Sequence[Network]) -> dict[str, list[Check]]:
    """Every reading's checks, one or two for each kind of network."""
    made: dict[str, list[Check]] = {key: [] for key in READINGS}
    for kind in config.networks:
        by_seed = _by_seed([n for n in found if n.cell.network == kind])
        for key, fit in (("A", "modes"), ("B", "joint")):
            slopes, squares = _fit_values(by_seed, fit)
            made[key] += [
                _check(f"{key}: distance of slope from 1", kind, slopes, Limits.slope, "at most"),
                _check(f"{key}: R²", kind, squares, Limits.r_squared, "at least"),
            ]
        made["C"].append(
            _check("C: factor of the bound", kind, _factors(by_seed), Limits.factor, "at most")
        )
        made["D"].append(
            _check("D: order over ceiling", kind, _orders(by_seed), Limits.order, "at least")
        )
        made["E"].append(
            _check("E: horizon", kind, _horizons(by_seed), Limits.horizon, "at least", "constants")
        )
    return made


def _check(
    name: str,
    kind: str,
    values: Sequence[Interval],
    limit: float,
    side: Literal["at least", "at most"],
    unit: str = "",
) -> Check:
    return median_check(f"{name}, {kind}", values, limit, side, unit=unit, family=FAMILY)


def _by_seed(found: Sequence[Network]) -> list[list[Network]]:
    seeds = sorted({n.cell.seed for n in found})
    return [[n for n in found if n.cell.seed == seed] for seed in seeds]


def _points(values: Sequence[float]) -> list[Interval]:
    return [(value, value) for value in values]


def _fit_values(
    by_seed: Sequence[Sequence[Network]], kind: str
) -> tuple[list[Interval], list[Interval]]:
    """Mean distance of the slope from 1, and mean R^2, of each seed."""
    slopes, squares = [], []
    for group in by_seed:
        fits = [(slope, r2) for n in group for _, _, slope, r2 in n.fits(kind)]
        slopes.append(float(np.mean([abs(slope - 1) for slope, _ in fits])))
        squares.append(float(np.mean([r2 for _, r2 in fits])))
    return _points(slopes), _points(squares)


def _factors(by_seed: Sequence[Sequence[Network]]) -> list[Interval]:
    logs = [[abs(math.log(r)) for n in group for _, _, r in n.ratios()] for group in by_seed]
    return _points([math.exp(float(np.mean(values))) for values in logs if values])


def _orders(by_seed: Sequence[Sequence[Network]]) -> list[Interval]:
    found = []
    for group in by_seed:
        layers = [layer for n in group for layer in n.learned.values()]
        pairs = np.array([(layer["partial"], layer["ceiling"]["0.1"]) for layer in layers])
        # a correlation of too few modes, or of ranks that agree, is none
        pairs = pairs[np.isfinite(pairs).all(axis=1)] if len(pairs) else pairs
        if len(pairs) and pairs[:, 1].mean() > 0:
            found.append(float(pairs[:, 0].mean() / pairs[:, 1].mean()))
    return _points(found)


def _horizons(by_seed: Sequence[Sequence[Network]], reading: str = "scalar") -> list[Interval]:
    """The median layer's horizon of each seed, in time constants of the fastest mode."""
    found = []
    for group in by_seed:
        ends = [layer["horizon"][reading] for n in group for layer in n.learned.values()]
        if ends:
            low, high = np.median(np.array(ends, dtype=float), axis=0)
            found.append((float(low), float(high)))
    return found


# Tables ------------------------------------------------------------------------------------------


def reading_rows(each: dict[str, Verdict]) -> list[list[str]]:
    """One row per reading."""
    return [
        [f"{key}: {words}", each[key], "yes" if key in DECIDING else "no"]
        for key, words in READINGS.items()
    ]


FIT_TEXT = (
    "Slope and R² of log curvature against log eigenvalue: mean and range over all convolutions, "
    "widths, checkpoints and seeds. Turned modes keep each mode's eigenvalue. R of another layer "
    "gives both the directions and the eigenvalues. Patches of another image keep R and the "
    "errors' strength, but take away what errors know of their own patches. RMSprop and Adam "
    "divide by the root mean square of each weight's gradient, K-FAC by R."
)
FIT_COLUMNS = ("network", "curvature along", "slope", "from", "to", "R²", "least R²", "blocks")


def fit_rows(found: Sequence[Network]) -> list[list[str]]:
    """One row per network and kind of fit."""
    rows = []
    for kind in _kinds(found):
        for fit, words in FITS.items():
            all_fits = [f[2:] for n in found if n.cell.network == kind for f in n.fits(fit)]
            values = np.array([f for f in all_fits if np.isfinite(f).all()])
            if not len(values):
                continue
            slope, squares = values.T
            numbers = [slope.mean(), slope.min(), slope.max(), squares.mean(), squares.min()]
            rows.append([kind, words, *(number(float(v), 3) for v in numbers), str(len(values))])
    return rows


POINT_COLUMNS = (
    "network",
    "width",
    "loss",
    "layer",
    "slope",
    "R²",
    "slope, joint",
    "R², joint",
    "off-diagonal, modes",
    "off-diagonal, taps",
)


def point_rows(found: Sequence[Network]) -> list[list[str]]:
    """One row per network, width, checkpoint and layer: medians over seeds."""
    groups: dict[tuple[str, int, float, str], list[dict[str, Any]]] = {}
    for n in found:
        for loss, point in zip(n.cell.checkpoints, n.points, strict=True):
            for name, layer in point["layers"].items():
                groups.setdefault((n.cell.network, n.cell.width, loss, name), []).append(layer)
    rows = []
    for (kind, width, loss, name), layers in groups.items():
        columns = [[layer["fits"].get(f, (math.nan,) * 2) for layer in layers] for f in FITS]
        own, joint = (np.median(columns[k], axis=0) for k in (0, 1))
        apart = np.median([layer["off_diagonal"] for layer in layers], axis=0)
        numbers = [number(float(v), 3) if math.isfinite(v) else "–" for v in (*own, *joint, *apart)]
        rows.append([kind, str(width), _checkpoint(loss), name, *numbers])
    return rows


def _checkpoint(loss: float) -> str:
    return "fresh" if math.isinf(loss) else number(loss, 3)


RATIO_COLUMNS = ("network", "loss", "exact / R x G, median", "least", "largest", "blocks")


def ratio_rows(found: Sequence[Network]) -> list[list[str]]:
    """One row per network and checkpoint."""
    rows = []
    for kind in _kinds(found):
        mine = [r for n in found if n.cell.network == kind for r in n.ratios()]
        for loss in dict.fromkeys(r[0] for r in mine):
            values = np.array([r for at, _, r in mine if at == loss])
            numbers = [np.median(values), values.min(), values.max()]
            shown = [number(float(v), 3) for v in numbers]
            rows.append([kind, _checkpoint(loss), *shown, str(len(values))])
    return rows


SPEED_TEXT = (
    "Medians over seeds, without layers in which no mode is left to rank. The order is the rank "
    "correlation of eigenvalue and early half-time; given energy is the partial one, of which the "
    "ceilings are what the plain theory would show with its half-times disturbed by 10 % and 30 %. "
    "Horizons are at 10 % error of the layer's displacement, in time constants of R's fastest "
    "mode."
)
SPEED_COLUMNS = (
    "network",
    "layer",
    "modes",
    "order",
    "given energy",
    "ceiling 10 %",
    "ceiling 30 %",
    "horizon, R x number",
    "horizon, R x G",
    "horizon, Gauss-Newton",
)


def speed_rows(found: Sequence[Network]) -> list[list[str]]:
    """One row per network and layer."""
    rows = []
    for kind in _kinds(found):
        mine = [n for n in found if n.cell.network == kind and n.learned]
        for name in mine[0].learned if mine else ():
            layers = [n.learned[name] for n in mine]
            medians = [
                np.median([len(layer["half_time"]) for layer in layers]),
                np.nanmedian([layer["order"] for layer in layers]),
                np.nanmedian([layer["partial"] for layer in layers]),
                *(
                    np.nanmedian([layer["ceiling"][size] for layer in layers])
                    for size in ("0.1", "0.3")
                ),
                *(
                    np.median([layer["horizon"][reading][0] for layer in layers])
                    for reading in ("scalar", "kronecker", "gauss_newton")
                ),
            ]
            rows.append([kind, name, *(number(float(v), 3) for v in medians)])
    return rows


def _kinds(found: Sequence[Network]) -> list[str]:
    return list(dict.fromkeys(n.cell.network for n in found))


# Answer ------------------------------------------------------------------------------------------


def figure(found: Sequence[Network]) -> Figure:
    """Curvature of one network of each kind, all slopes, half-times and horizons."""
    plots: list[Callable[..., object]] = []
    for kind in _kinds(found):
        one = next(n for n in found if n.cell.network == kind)
        plots.append(partial(plot_curvature, kind, one.points[-1]["layers"]))
    slopes = {
        kind: {
            words: [f[2] for n in found if n.cell.network == kind for f in n.fits(fit)]
            for fit, words in FITS.items()
        }
        for kind in _kinds(found)
    }
    learned = {
        kind: [layer for n in found if n.cell.network == kind for layer in n.learned.values()]
        for kind in _kinds(found)
    }
    plots.append(partial(plot_slopes, slopes))
    plots.append(partial(plot_half_times, learned))
    plots.append(partial(plot_horizons, learned, Limits.horizon))
    return Figure(
        name="mode-curvature",
        caption="Top: curvature of the loss along each eigenvector of R against its eigenvalue, "
        "for the convolutions of one network of each kind at its last checkpoint, in units of the "
        "geometric mean of curvature over eigenvalue; the line has slope 1, and grey crosses are "
        "the same for eigenvectors turned at random. Bottom left: log-log slope of every "
        "convolution, for R's modes, joint modes, the nulls (turned modes, R of another layer, "
        "patches of another image) and preconditioners. Bottom middle: half-time of each mode "
        "while one layer learns, in time constants of the fastest mode, against the eigenvalue; "
        "the line is ln 2 / λ. Bottom right: error of the forecast of the layer's weights by R "
        "times one number, a line for each layer, from the second update on; the dashed "
        "lines are the tolerance and the horizon that the rule asks.",
        alt="Six panels: curvatures lie on lines of slope 1 over three or more decades while "
        "turned modes are flat; slopes near 1 for modes, near 0 for turned ones; half-times fall "
        "with the eigenvalue, less steeply than theory; forecasts leave 10 % early.",
        plots=plots,
        height=3.1,
    )


def against(found: Sequence[Network], each: dict[str, Verdict]) -> list[str]:
    """What the readings do not say."""
    said = []
    shuffled = [f[2:] for n in found for f in n.fits("shuffled") if np.isfinite(f[2:]).all()]
    turned = [f[2:] for n in found for f in n.fits("turned") if np.isfinite(f[2:]).all()]
    if shuffled and turned:
        slope, square = np.mean(shuffled, axis=0)
        flat = float(np.mean([s for s, _ in turned]))
        said.append(
            f"Reading A says little about what the network has learned: with errors paired with "
            f"the patches of another image the slope is {number(float(slope), 3)} and R² "
            f"{number(float(square), 3)} all the same. That curvature follows R needs no more "
            "than errors that hardly depend on the patch. The direction matters: with turned modes "
            f"the slope is {number(flat, 2)}."
        )
    raw = [layer["order"] for n in found for layer in n.learned.values()]
    part = [layer["partial"] for n in found for layer in n.learned.values()]
    if raw:
        said.append(
            f"The order of speed looks better than it is: the plain rank correlation has a median "
            f"of {number(float(np.nanmedian(raw)), 2)}, given the initial gradient's energy "
            f"{number(float(np.nanmedian(part)), 2)}."
        )
    ends = [layer["horizon"]["gauss_newton"][0] for n in found for layer in n.learned.values()]
    if ends:
        said.append(
            "A short horizon is not the fault of R alone: the layer's exact Gauss-Newton matrix, "
            f"linearised at the same point, is 10 % off after {number(float(np.median(ends)), 2)} "
            "time constants."
        )
    if each["A"] == "holds" and each["E"] != "holds":
        said.append(
            "Curvature along a mode is a diagonal entry. Entries off the diagonal are small, but "
            "a mode that gets little gradient of its own is moved by them, and the curvature "
            "changes as the layer learns."
        )
    return said
