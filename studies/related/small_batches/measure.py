"""Study ``small-batches``: how far below 2 / λmax does the edge of small batches lie?

The mean-square edge of mini-batch LMS, exact for images drawn at random, against 2 / λmax, the
edge of the full batch, over batch size. The problem is linear prediction of a pixel from the patch
beside it, whose R comes from images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Config", "compute", "configure", "run"]

Array = np.ndarray

EXPERIMENT = (
    "A pixel is predicted from the square patch beside it, over patches of real images. The exact "
    "mean-square edge of mini-batch LMS, which draws a batch of images at every update without "
    "repetition inside it, is computed for every batch size; beside it, the step size below which "
    "every single run converges is estimated from seeded products of the updates. Problem and "
    "settings are ours."
)
RULE = (
    "The mean-square edge never falls with the batch size, never exceeds 2 / λmax, and equals it "
    "for the full batch to 1e-6. The study holds if it does all three and fails if it misses one. "
    "Beside it, and not deciding: by how much single images lower the edge, and how far above it "
    "single runs still converge."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.training.images.load``.
    seed : the images and their positions are drawn with it.
    patch : side of the patch; taps are its square.
    positions : patches of each image that are used.
    products, factors : of the almost-sure edge: how many, and updates in each.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 64
    image_size: int | None = 16
    patch: int = 5
    positions: int = 64
    products: int = 16
    factors: int = 500


PRESETS = {
    "smoke": Config("smoke", images=16, patch=3, products=8, factors=100),
    "laptop": Config("laptop"),
    "full": Config("full", images=256, image_size=None, products=32, factors=4000),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


@dataclass(frozen=True)
class Found:
    """What the study computes, in units of mu.

    Attributes
    ----------
    batches : (K,) sizes of the mini-batches, the last one the full batch.
    edges : (K,) exact mean-square edges.
    sure, sure_error : (K,) almost-sure edges and their standard errors.
    bound : 2 / λmax(R).
    """

    batches: Array
    edges: Array
    sure: Array
    sure_error: Array
    bound: float


def compute(images: Array, config: Config) -> Found:
    """The edges of every batch size, from (N, H, W) images."""
    rng = np.random.default_rng(config.seed)
    u, _ = prediction_problem(images, config.patch)
    chosen = np.sort(rng.permutation(u.shape[1])[: config.positions])
    u = np.ascontiguousarray(u[:, chosen])
    batches = 2 ** np.arange(int(np.log2(len(u))) + 1)
    batches = np.unique(np.append(batches, len(u)))
    edges = [adaptive.minibatch_edge(u, batch=int(size), replace=False) for size in batches]
    sure = [
        adaptive.lyapunov_edge(
            u,
            batch=int(size),
            replace=False,
            seed=config.seed,
            runs=config.products,
            steps=config.factors,
        )
        for size in batches
    ]
    R = np.einsum("ntk,ntl->kl", u, u) / (u.shape[0] * u.shape[1])
    return Found(
        batches=batches,
        edges=np.array(edges),
        sure=np.array([edge.value for edge in sure]),
        sure_error=np.array([edge.standard_error for edge in sure]),
        bound=2 / float(np.linalg.eigvalsh(R)[-1]),
    )


def checks_of(found: Found) -> list[Check]:
    """The three checks."""
    relative = found.edges / found.bound
    return [
        results.at_most(
            "largest fall of the mean-square edge from one batch size to the next",
            max(0.0, float(-np.diff(relative).min(initial=0.0))),
            1e-9,
            unit="of 2 / λmax",
        ),
        results.at_most(
            "largest excess of the mean-square edge over 2 / λmax",
            max(0.0, float(relative.max() - 1)),
            1e-6,
            unit="of 2 / λmax",
        ),
        results.within(
            "mean-square edge of the full batch over 2 / λmax",
            1.0,
            float(relative[-1]),
            1e-6,
            unit="ratio",
        ),
    ]


# --- the report ------------------------------------------------------------------------------

FIGURE = (
    "Step sizes over 2 / λmax(R), the edge of the full batch, against the images in a batch. Below "
    "the solid line the mean-square deviation converges, which is exact; below the dashed one "
    "every single run does, estimated from products of the updates (bars: one standard error).",
    "One panel on a log axis: mean-square and almost-sure edge against batch size, both reaching 1 "
    "at the full batch.",
)


def plot_edges(found: Found, ax: Axes) -> list[Artist]:
    """Both edges over 2 / λmax against the batch size."""
    artists: list[Artist] = list(
        ax.semilogx(
            found.batches,
            found.edges / found.bound,
            "o-",
            base=2,
            color=figures.BLUE,
            markersize=4,
            label="mean square",
        )
    )
    line, _, bars = ax.errorbar(
        found.batches,
        found.sure / found.bound,
        found.sure_error / found.bound,
        fmt="s--",
        color=figures.ORANGE,
        markersize=4,
        linewidth=1.2,
        label="almost sure",
    )
    artists += [line, *bars]
    artists.append(ax.axhline(1, color=figures.GREY, linestyle="--", linewidth=1))
    ax.set_ylim(bottom=0)
    ax.set_xticks(found.batches, [str(size) for size in found.batches])
    ax.set(
        title="edge of small batches", xlabel="images per batch", ylabel="step size / (2 / λmax)"
    )
    ax.legend()
    return artists


def draw(found: Found, out: Path) -> report.Picture:
    """The figure ``small-batches`` as PNG and SVG in a folder."""
    with figures.style():
        figure, axes = figures.panels(1, height=3.6, width=5.5)
        plot_edges(found, axes[0])
        png, _ = figures.save(figure, out / "small-batches")
    return report.Picture(png, *FIGURE)


COLUMNS = (
    "images per batch",
    "mean-square edge of mu",
    "over 2 / λmax",
    "almost sure, over 2 / λmax",
)


def edge_rows(found: Found) -> list[list[str]]:
    """Batch size and edges."""
    rows = zip(found.batches, found.edges, found.sure, found.sure_error, strict=True)
    return [
        [
            str(size),
            report.number(float(edge), 4),
            report.number(float(edge / found.bound), 4),
            f"{report.number(float(sure / found.bound), 3)} ± {error / found.bound:.1g}"
            if error > 0
            else report.number(float(sure / found.bound), 3),
        ]
        for size, edge, sure, error in rows
    ]


def evidence_against(found: Found) -> list[str]:
    """What the mean-square edge does not say."""
    relative = found.edges / found.bound
    enough = int(found.batches[np.argmax(relative >= 0.9)])
    over = float((found.sure / found.edges)[0])
    return [
        "Small batches cost little here: a single image per batch lowers the edge to "
        f"{report.number(float(relative[0]), 2)} of 2 / λmax, and {enough} images bring it back "
        "to 0.9. An image gives many patches, so even a batch of one is an average.",
        f"The mean-square edge is not where runs break: at a batch of one, every single run still "
        f"converges up to {report.number(over, 2)} of it. In between, runs settle and burst now "
        "and then, and only their mean square grows.",
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
        return Findings(
            checks,
            results.worst(check.verdict for check in checks),
            [Table("Edges of small batches", COLUMNS, edge_rows(found))],
            draw(found, folder),
            evidence_against(found),
        )

    return single_run(
        "small-batches",
        config,
        out,
        work,
        title="The edge of small batches",
        question=STUDIES["small-batches"].question,
        experiment=EXPERIMENT,
        rule=RULE,
        device=device,
        command=command,
    )
