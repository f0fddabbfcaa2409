"""Study ``neighbours``: two results from beside the paper, on the patches of real images.

Linear prediction of a pixel from the patch beside it: an LMS problem whose R comes from images.
First, Cai, Li and Shen (2019, A quantitative analysis of the effect of batch normalization on
gradient descent): on least squares, gradient descent with BatchNorm converges for any learning
rate of the weights, plain gradient descent only below 2 / λmax. Second, the exact mean-square edge
of mini-batch LMS against that 2 / λmax, over batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

import adaptive
from studies import STUDIES, figures, report, results
from studies.data import load
from studies.results import Answer, Check, Summary
from studies.running import pick, running
from studies.training import choose_device

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Config", "batch_norm_descent", "configure", "run"]

Array = np.ndarray

EXPERIMENT = (
    "A pixel is predicted from the square patch beside it, over patches of real images. Gradient "
    "descent on the mean squared error, plain and with BatchNorm (a scale that learns at rate 1 "
    "times the response over its own deviation), runs at learning rates over many decades about "
    "2 / λmax(R). Then the exact mean-square edge of mini-batch LMS is computed for batches of "
    "images of every size. Problems and settings are ours."
)
RULE = (
    "Three checks: plain gradient descent ends above its start at every rate above 2 / λmax of the "
    "grid and at none below; with BatchNorm it ends above its start at no rate; the mean-square "
    "edge never falls with the batch size, never exceeds 2 / λmax, and equals it for the full "
    "batch to 1e-6. The study holds if all three do and fails if one fails."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.data.load``.
    seed : the images and the initial weights are drawn with it.
    patch : side of the patch; taps are its square.
    steps : of gradient descent.
    decades, per_decade : the rates lie so many decades on either side of 2 / λmax.
    batch_images : of the mini-batch edges; the batch sizes are its powers of two.
    positions : patches of each image in the mini-batch edges.
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
    batch_images: int = 64
    positions: int = 64


PRESETS = {
    "smoke": Config("smoke", images=60, patch=3, steps=500, per_decade=2, batch_images=16),
    "laptop": Config("laptop"),
    "full": Config("full", images=5000, image_size=None, steps=50_000, batch_images=256),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


def prediction_problem(images: Array, side: int) -> tuple[Array, Array]:
    """Patches and the pixel to the right of each one's middle row.

    Parameters
    ----------
    images : (N, H, W), float64.
    side : of the patch.

    Returns
    -------
    u (N, T, side * side) and d (N, T), for the T positions where both lie inside the image.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side + 1), axis=(1, 2))
    flat = windows.reshape(len(images), -1, side, side + 1)
    u = flat[..., :side].reshape(*flat.shape[:2], side * side)
    return u, flat[:, :, side // 2, side]


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
    bound : 2 / λmax(R) of the descents.
    floor : J_min, over the start of plain descent.
    plain, norm : the descents.
    batches : sizes of the mini-batches.
    edges : exact mean-square edge of each, drawn without replacement.
    edge_bound : 2 / λmax(R) of the images that those edges are for.
    """

    bound: float
    floor: float
    plain: Descent
    norm: Descent
    batches: Array
    edges: Array
    edge_bound: float


def compute(images: Array, config: Config) -> Found:
    """Both parts, from (N, H, W) images."""
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

    few = u[: config.batch_images]
    chosen = np.sort(rng.permutation(few.shape[1])[: config.positions])
    few = np.ascontiguousarray(few[:, chosen])
    batches = 2 ** np.arange(int(np.log2(len(few))) + 1)
    batches = np.unique(np.append(batches, len(few)))
    edges = [adaptive.minibatch_edge(few, batch=int(size), replace=False) for size in batches]
    mean_R = np.einsum("ntk,ntl->kl", few, few) / (few.shape[0] * few.shape[1])
    return Found(
        bound=bound,
        floor=float(problem.J_min / plain.loss[0, 0]),
        plain=plain,
        norm=norm,
        batches=batches,
        edges=np.array(edges),
        edge_bound=2 / float(np.linalg.eigvalsh(mean_R)[-1]),
    )


def worse(run: Descent) -> Array:
    """(K,) whether the loss ended above its start, or was lost altogether."""
    with np.errstate(invalid="ignore"):
        return ~(run.loss[-1] <= run.loss[0] * (1 + 1e-9))


def checks_of(found: Found) -> list[Check]:
    """The three checks."""
    diverged = worse(found.plain)
    wrong = int((diverged != (found.plain.rates > found.bound)).sum())
    decades = float(np.log10(found.norm.rates[-1] / found.norm.rates[0]))
    relative = found.edges / found.edge_bound
    ordered = bool((np.diff(relative) >= -1e-9).all() and relative.max() <= 1 + 1e-6)
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
        Check(
            name="mean-square edge of the full batch over 2 / λmax",
            predicted=1.0,
            observed=float(relative[-1]),
            tolerance=1e-6,
            verdict="holds" if ordered and abs(relative[-1] - 1) <= 1e-6 else "fails",
            rule="|observed - predicted| <= tolerance; never falls with the batch size",
            unit="ratio",
            note=f"Batch 1: {report.number(float(relative[0]), 3)}",
        ),
    ]


# --- the report ------------------------------------------------------------------------------

TITLE = "Neighbours: BatchNorm on least squares, and the edge of small batches"
QUESTION = STUDIES["neighbours"].question
FIGURE = (
    "Left: loss at the end over loss at the start, against the rate; plain descent leaves the "
    "picture at 2 / λmax, BatchNorm does not. Middle: the rate over |w|² at the end of descent "
    "with BatchNorm: steps that are too long make the weights longer, until they fit. Right: the "
    "exact mean-square edge of mini-batch LMS over 2 / λmax, against the batch size.",
    "Three panels on log axes: final loss against rate for plain descent and BatchNorm; effective "
    "rate against rate; mean-square edge against batch size, rising to 1.",
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


def plot_edges(found: Found, ax: Axes) -> list[Artist]:
    """Mean-square edge over 2 / λmax against the batch size."""
    artists: list[Artist] = list(
        ax.semilogx(
            found.batches, found.edges / found.edge_bound, "o-", color=figures.BLUE, markersize=4
        )
    )
    artists.append(ax.axhline(1, color=figures.GREY, linestyle="--", linewidth=1))
    ax.set_ylim(0, 1.08)
    ax.set(title="edge of small batches", xlabel="images per batch", ylabel="edge / (2 / λmax)")
    return artists


def draw(found: Found, out: Path) -> report.Picture:
    """The figure ``neighbours`` as PNG and SVG in a folder."""
    with figures.style():
        figure, axes = figures.panels(3, height=3.3, width=10.5)
        for plot, ax in zip((plot_final, plot_effective, plot_edges), axes, strict=True):
            plot(found, ax)
        png, _ = figures.save(figure, out / "neighbours")
    return report.Picture(png, *FIGURE)


def edge_rows(found: Found) -> list[list[str]]:
    """Batch size and edge."""
    return [
        [str(size), report.number(edge, 4), report.number(edge / found.edge_bound, 4)]
        for size, edge in zip(found.batches, found.edges, strict=True)
    ]


EDGE_COLUMNS = ("images per batch", "mean-square edge of mu", "over 2 / λmax")


def run(
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    command: str | None = None,
) -> Summary:
    """Run the study and leave its results in a folder; it needs no accelerator.

    Parameters
    ----------
    config : of the study, see ``configure``.
    out : folder for the results; made if need be.
    device : checked, and noted in the summary.
    command : what to print as the command that repeats the run.

    Returns
    -------
    Summary, as written.

    Raises
    ------
    UserError : the device, the data or the folder are not to be had.
    """
    where = choose_device(device)
    out = results.output_folder(Path(out))
    answer = Answer(experiment=EXPERIMENT, rule=RULE)
    found: list[Found] = []

    def finish(summary: Summary) -> None:
        sections: list[report.Section] = []
        if found:
            sections = [
                report.Section("Edges of small batches", (), EDGE_COLUMNS, edge_rows(found[0])),
                report.Section("Figure", pictures=[draw(found[0], out)]),
            ]
        report.write(
            out / "report.html", summary, title=TITLE, question=QUESTION, sections=sections
        )

    with running(
        "neighbours", config, out, device=where, command=command, answer=answer, finish=finish
    ) as (summary, save):
        data = load(
            config.data,
            config.data_root,
            limit=config.images,
            image_size=config.image_size,
            seed=config.seed,
        )
        found.append(compute(data.images.mean(axis=1).astype(np.float64), config))
        summary.checks += checks_of(found[0])
        summary.results["edges"] = [
            dict(zip(EDGE_COLUMNS, row, strict=True)) for row in edge_rows(found[0])
        ]
        summary.answer = replace(
            answer,
            verdict=results.worst(check.verdict for check in summary.checks),
            reason=f"{summary.count('holds')} of {len(summary.checks)} checks hold.",
            numbers=_numbers(summary.checks),
            figure="neighbours.png",
            caption=FIGURE[0],
            alt=FIGURE[1],
            against=_against(found[0]),
        )
        save()
    print()
    print(report.table(EDGE_COLUMNS, edge_rows(found[0])))
    print()
    for check in summary.checks:
        print(f"{check.verdict.upper():<12}  {check.name}: {report.number(check.observed, 3)}")
    print(f"Report: {out / 'report.html'}")
    return summary


def _numbers(checks: Sequence[Check]) -> list[tuple[str, str]]:
    return [(c.name, f"{report.number(c.observed, 3)} {c.unit}") for c in checks]


def _against(found: Found) -> list[str]:
    excess: Any = found.norm.loss[-1] / found.norm.loss[0]
    near = int(np.argmin(np.abs(np.log(found.norm.rates / found.bound))))
    return [
        "Converging for any rate is not being fast at any rate: of its start, descent with "
        f"BatchNorm has {report.number(float(excess[near]), 2)} left at a rate near 2 / λmax, "
        f"{report.number(float(excess[0]), 2)} at the lowest rate and "
        f"{report.number(float(excess[-1]), 2)} at the highest, after as many updates."
    ]
