"""Study ``bn-any-rate``: does gradient descent with BatchNorm converge at any rate?

Cai, Li and Shen (2019, A quantitative analysis of the effect of batch normalization on gradient
descent): on least squares, gradient descent with BatchNorm converges for any learning rate of the
weights, plain gradient descent only below 2 / λmax. Here on linear prediction of a pixel from the
patch beside it, an LMS problem whose R comes from images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes

import adaptive
from studies import STUDIES
from studies.engine import page as report
from studies.engine import style as figures
from studies.engine import summary as results
from studies.engine.running import pick
from studies.engine.single_run import Findings, Table, single_run
from studies.engine.summary import Check, Summary
from studies.training.pixels import grey_images, prediction_problem

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Config", "batch_norm_descent", "configure", "run"]

Array = np.ndarray

EXPERIMENT = (
    "A pixel is predicted from the square patch beside it, over patches of real images. Gradient "
    "descent on the mean squared error, plain and with BatchNorm (a scale that learns at rate 1 "
    "times the response over its own deviation), runs at learning rates over many decades about "
    "2 / λmax(R). Problem and settings are ours."
)
RULE = (
    "Two checks: plain gradient descent ends above its start at every rate above 2 / λmax of the "
    "grid and at none below; with BatchNorm it ends above its start at no rate. The study holds if "
    "both do and fails if one fails. That a run ends no higher than it started is weaker than the "
    "theorem, which is about the limit."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.training.images.load``.
    seed : the images and the initial weights are drawn with it.
    patch : side of the patch; taps are its square.
    steps : of gradient descent.
    decades, per_decade : the rates lie so many decades on either side of 2 / λmax.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 500
    image_size: int | None = 16
    patch: int = 5
    steps: int = 4000
    decades: int = 4
    per_decade: int = 4


PRESETS = {
    "smoke": Config("smoke", images=60, patch=3, steps=500, per_decade=2),
    "laptop": Config("laptop"),
    "full": Config("full", images=5000, image_size=None, steps=50_000),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


@dataclass(frozen=True)
class Descent:
    """Gradient descent at several rates: the loss after each update and the weights' size.

    Attributes
    ----------
    rates : (K,) learning rates.
    loss : (steps + 1, K), E(d - y)^2.
    effective : (K,) rate over |w|^2 at the end; the rate itself for plain descent.
    """

    rates: Array
    loss: Array
    effective: Array


def descent(R: Array, P: Array, power: float, rates: Array, w: Array, steps: int) -> Descent:
    """w <- w + mu (P - R w) at every rate at once; (L,) start."""
    W = np.repeat(w[:, None], len(rates), axis=1)
    loss = np.empty((steps + 1, len(rates)))
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(steps + 1):
            RW = R @ W
            loss[n] = power - 2 * P @ W + (W * RW).sum(0)
            W = W + rates * (P[:, None] - RW)
    return Descent(rates, loss, rates.copy())


def batch_norm_descent(
    R: Array, P: Array, power: float, rates: Array, w: Array, steps: int
) -> Descent:
    """The same with BatchNorm: y = a w'u / s, s^2 = w'Rw; the scale a learns at rate 1.

    Parameters
    ----------
    R, P, power : E[u u'], E[d u] and E[d^2], of centred u and d.
    rates : (K,) of the weights.
    w : (L,) start; a starts where it is best for it.
    steps : updates.

    Notes
    -----
    Cai, Li and Shen 2019, the updates of their section 3, without the regularising epsilon.
    """
    W = np.repeat(w[:, None], len(rates), axis=1)
    loss = np.empty((steps + 1, len(rates)))
    a = (P @ W) / np.sqrt((W * (R @ W)).sum(0))
    for n in range(steps + 1):
        RW = R @ W
        s = np.sqrt((W * RW).sum(0))
        match = P @ W / s
        loss[n] = power - 2 * a * match + a * a
        W = W + rates * a / s * (P[:, None] - match / s * RW)
        a = match  # a + 1 (match - a)
    return Descent(rates, loss, rates / (W * W).sum(0))


@dataclass(frozen=True)
class Found:
    """What the study computes.

    Attributes
    ----------
    bound : 2 / λmax(R).
    floor : J_min, over the start of plain descent.
    plain, norm : the descents.
    """

    bound: float
    floor: float
    plain: Descent
    norm: Descent


def compute(images: Array, config: Config) -> Found:
    """Both descents, from (N, H, W) images."""
    rng = np.random.default_rng(config.seed)
    u, d = prediction_problem(images, config.patch)
    flat, wanted = u.reshape(-1, u.shape[2]), d.ravel()
    flat, wanted = flat - flat.mean(0), wanted - wanted.mean()
    R, P = flat.T @ flat / len(flat), wanted @ flat / len(flat)
    power = float(wanted @ wanted / len(wanted))
    bound = 2 / float(np.linalg.eigvalsh(R)[-1])
    # half a step off the bound, which then lies between two rates
    exponents = np.arange(-config.decades * config.per_decade, config.decades * config.per_decade)
    rates = bound * 10 ** ((exponents + 0.5) / config.per_decade)
    w = rng.standard_normal(len(P)) / np.sqrt(len(P))
    plain = descent(R, P, power, rates, w, config.steps)
    norm = batch_norm_descent(R, P, power, rates, w, config.steps)
    problem = adaptive.WienerProblem(R=R, P=P[None], d_power=power)
    return Found(bound, float(problem.J_min / plain.loss[0, 0]), plain, norm)


def worse(run: Descent) -> Array:
    """(K,) whether the loss ended above its start, or was lost altogether."""
    with np.errstate(invalid="ignore"):
        return ~(run.loss[-1] <= run.loss[0] * (1 + 1e-9))


def checks_of(found: Found) -> list[Check]:
    """The two checks."""
    diverged = worse(found.plain)
    wrong = int((diverged != (found.plain.rates > found.bound)).sum())
    decades = float(np.log10(found.norm.rates[-1] / found.norm.rates[0]))
    return [
        results.at_most(
            "plain gradient descent: rates on the wrong side of 2 / λmax",
            wrong,
            0,
            unit="rates",
            note=f"Of {len(diverged)} rates",
        ),
        results.at_most(
            "gradient descent with BatchNorm: rates that end above the start",
            int(worse(found.norm).sum()),
            0,
            unit="rates",
            note=f"Of {len(diverged)} rates over {decades:.2g} decades",
        ),
    ]


# --- the report ------------------------------------------------------------------------------

FIGURE = (
    "Left: loss at the end over the start of plain descent, against the rate; plain descent leaves "
    "the picture at 2 / λmax, BatchNorm does not. The thin line is the minimum. Right: the rate "
    "over |w|² at the end of descent with BatchNorm: steps that are too long make the weights "
    "longer, until they fit.",
    "Two panels on log axes: final loss against rate for plain descent and BatchNorm; effective "
    "rate of BatchNorm against rate.",
)


def plot_final(found: Found, ax: Axes) -> list[Artist]:
    """Final over initial loss against the rate."""
    artists: list[Artist] = []
    for run, colour, marker, label in (
        (found.plain, figures.ORANGE, "s", "plain"),
        (found.norm, figures.GREEN, "o", "BatchNorm"),
    ):
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = run.loss[-1] / found.plain.loss[0]
            shown = np.where(ratio < 1e3, ratio, np.nan)
        artists += ax.loglog(
            run.rates / found.bound, shown, marker, color=colour, markersize=4, label=label
        )
    artists.append(ax.axvline(1, color=figures.GREY, linestyle="--", linewidth=1))
    artists.append(ax.axhline(found.floor, color=figures.GREY, linewidth=0.8))
    ax.set(
        title="loss at the end",
        xlabel="rate / (2 / λmax)",
        ylabel="over the start of plain descent",
    )
    ax.legend()
    return artists


def plot_effective(found: Found, ax: Axes) -> list[Artist]:
    """The effective rate of descent with BatchNorm against its rate."""
    artists: list[Artist] = list(
        ax.loglog(
            found.norm.rates / found.bound,
            found.norm.effective / found.bound,
            "o",
            color=figures.GREEN,
            markersize=4,
        )
    )
    ax.set(title="effective rate", xlabel="rate / (2 / λmax)", ylabel="rate / |w|² / (2 / λmax)")
    return artists


def draw(found: Found, out: Path) -> report.Picture:
    """The figure ``bn-any-rate`` as PNG and SVG in a folder."""
    with figures.style():
        figure, axes = figures.panels(2, height=3.4, width=8.5)
        plot_final(found, axes[0])
        plot_effective(found, axes[1])
        png, _ = figures.save(figure, out / "bn-any-rate")
    return report.Picture(png, *FIGURE)


COLUMNS = ("rate over 2 / λmax", "plain", "BatchNorm", "effective rate over 2 / λmax")


def rate_rows(found: Found) -> list[list[str]]:
    """Final over initial loss of both, and BatchNorm's effective rate, by rate."""
    with np.errstate(invalid="ignore", over="ignore"):
        plain, norm = (run.loss[-1] / run.loss[0] for run in (found.plain, found.norm))
    columns = found.plain.rates / found.bound, plain, norm, found.norm.effective / found.bound
    return [
        [
            report.number(float(rate), 2),
            "diverges" if not before <= 1e3 else report.number(float(before), 2),
            report.number(float(after), 2),
            report.number(float(effective), 2),
        ]
        for rate, before, after, effective in zip(*columns, strict=True)
    ]


def evidence_against(found: Found) -> list[str]:
    """What converging at any rate does not mean."""
    left: Any = found.norm.loss[-1] / found.norm.loss[0]
    near = int(np.argmin(np.abs(np.log(found.norm.rates / found.bound))))
    return [
        "Converging for any rate is not being fast at any rate: of its start, descent with "
        f"BatchNorm has {report.number(float(left[near]), 2)} left at a rate near 2 / λmax, "
        f"{report.number(float(left[0]), 2)} at the lowest rate and "
        f"{report.number(float(left[-1]), 2)} at the highest, after as many updates."
    ]


def run(
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    command: str | None = None,
) -> Summary:
    """Run the study and leave its results in a folder; it needs no accelerator.

    Parameters, returns and errors are those of ``studies.engine.single_run.single_run``.
    """

    def work(folder: Path, _: torch.device, __: Summary) -> Findings:
        images = grey_images(
            config.data,
            config.data_root,
            limit=config.images,
            image_size=config.image_size,
            seed=config.seed,
        )
        found = compute(images, config)
        checks = checks_of(found)
        about = "Loss at the end over that at the start, for each rate of the weights."
        return Findings(
            checks,
            results.worst(check.verdict for check in checks),
            [Table("Every rate", COLUMNS, rate_rows(found), [about])],
            draw(found, folder),
            evidence_against(found),
        )

    return single_run(
        "bn-any-rate",
        config,
        out,
        work,
        title="BatchNorm on least squares: any rate",
        question=STUDIES["bn-any-rate"].question,
        experiment=EXPERIMENT,
        rule=RULE,
        device=device,
        command=command,
    )
