"""Study ``edge-of-stability``: does training drive the sharpness to 2 / lr, and which layer's?

Cohen, Kaur, Li, Kolter and Talwalkar (2021, Gradient descent on neural networks typically occurs
at the edge of stability): full-batch training drives the largest eigenvalue of the Hessian up to
2 / lr, and it stays about there. Here on a small network, beside what the single layers would
stand: the curvature of each with the others frozen, and the bound of LMS on each layer's input.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from torch import nn

import cnnbridge
from studies import STUDIES
from studies.chai2020.two_effects.measure import image_tensors
from studies.engine import page as report
from studies.engine import style as figures
from studies.engine import summary as results
from studies.engine.running import pick
from studies.engine.single_run import Findings, Table, single_run
from studies.engine.summary import Check, Summary, Verdict
from studies.training.sgd import reproducible

__all__ = ["EXPERIMENT", "PRESETS", "RULE", "Config", "configure", "follow", "lms_curvature", "run"]

Array = np.ndarray

HALF, NEAR, ENOUGH = 0.5, 0.1, 500

EXPERIMENT = (
    "Two convolutions and a linear layer with tanh learn images on the squared error of their "
    "labels by full-batch gradient descent, at two learning rates and, to see where it ends, a "
    "lower one. The weights start at half of torch's usual size, well below the edge. On the way "
    "the largest eigenvalues of the Hessian, of the Gauss-Newton matrix, of each layer's own block "
    "of it, and of the autocorrelation R of each layer's input are measured. Network and settings "
    "are ours."
)
RULE = (
    f"At each of the two rates the Hessian's largest eigenvalue starts below {HALF:g} of 2 / lr, "
    "and its mean over the measurements of the last third of the run is within "
    f"{100 * NEAR:g} % of 2 / lr. The claim holds if both rates do so, fails if at one of them the "
    "sharpness ends elsewhere or the run diverges, and is inconclusive if a run starts above that, "
    f"where no rise can be seen, or has fewer than {ENOUGH} steps. Beside it, and not deciding: "
    "whether a single layer's own sharpness reaches 2 / lr, and where the lower rate ends."
)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data, data_root, images, image_size : see ``studies.training.images.load``.
    seed : the images and the weights are drawn with it.
    widths : output channels of the two convolutions.
    rates, steps : the learning rates that are judged, and the steps of each.
    low_rate, low_steps : the one that is not.
    measurements : along each run, beside that of the start.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 200
    image_size: int | None = 14
    widths: tuple[int, int] = (6, 8)
    rates: tuple[float, float] = (1.0, 0.5)
    steps: tuple[int, int] = (900, 1800)
    low_rate: float = 0.25
    low_steps: int = 2400
    measurements: int = 20


PRESETS = {
    "smoke": Config(
        "smoke", images=40, widths=(2, 3), steps=(10, 10), low_steps=10, measurements=1
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        images=5000,
        image_size=32,
        widths=(32, 64),
        steps=(20_000, 40_000),
        low_steps=80_000,
        measurements=100,
    ),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


@torch.no_grad()
def network(images: torch.Tensor, classes: int, widths: tuple[int, int], seed: int) -> nn.Module:
    """The network for (N, C, H, W) images, its weights half of torch's, on their device."""
    with reproducible(seed):
        body = OrderedDict(
            conv1=nn.Conv2d(images.shape[1], widths[0], 5, stride=2),
            tanh1=nn.Tanh(),
            conv2=nn.Conv2d(widths[0], widths[1], 3),
            tanh2=nn.Tanh(),
            flatten=nn.Flatten(),
        )
        features = nn.Sequential(body)(images[:1].cpu()).shape[1]
        model = nn.Sequential(OrderedDict(body, linear=nn.Linear(features, classes)))
    for part in model.parameters():
        part.mul_(0.5)
    return model.to(images.device)


LAYERS = ("conv1", "conv2", "linear")


def lms_curvature(model: nn.Module, name: str, images: torch.Tensor) -> float:
    """2 λmax(R) / M of a layer's input, the constant tap of the bias with it.

    The curvature of the layer's mean squared error if its M outputs had desired responses of their
    own: below lr = M / λmax(R) it would learn them. For the last layer of a network on the mean
    squared error this is its own sharpness, exactly.
    """
    layer: Any = model.get_submodule(name)
    with cnnbridge.capture(model, name) as tape:
        tape.run([images])
    R = cnnbridge.patch_autocorrelation(tape.inputs.double(), layer, bias=True)
    return 2 * float(torch.linalg.eigvalsh(R).max()) / int(layer.weight.shape[0])


@dataclass(frozen=True)
class Course:
    """One training run.

    Attributes
    ----------
    track : its sharpness; the layers' own blocks too, at the rates that are judged.
    inputs : for each layer, ``lms_curvature`` at each measurement.
    steps : that were asked for.
    """

    track: cnnbridge.SharpnessTrack
    inputs: Mapping[str, Sequence[float]]
    steps: int

    @property
    def relative(self) -> Array:
        """(K,) sharpness of the Hessian over 2 / lr at each measurement."""
        ratio: Array = self.track.hessian / self.track.edge
        return ratio

    @property
    def last_third(self) -> Array:
        """(K,) whether a measurement is of the last third of the run."""
        late: Array = self.track.steps >= 2 * self.steps / 3
        return late

    @property
    def diverged(self) -> bool:
        """Whether it ended before its time."""
        return not bool(np.isfinite(self.track.loss).all())


def follow(
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    config: Config,
    lr: float,
    steps: int,
    layers: Sequence[str] = LAYERS,
) -> Course:
    """Train at one rate and measure on the way."""
    inputs: dict[str, list[float]] = {name: [] for name in layers}

    def watch(n: int, model: nn.Module) -> None:
        for name, values in inputs.items():
            values.append(lms_curvature(model, name, images))

    track = cnnbridge.track_sharpness(
        network(images, classes, config.widths, config.seed),
        images,
        nn.functional.one_hot(labels, classes).to(images),
        nn.MSELoss(),
        lr=lr,
        steps=steps,
        every=max(steps // config.measurements, 1),
        layers=layers,
        watch=watch,
    )
    return Course(track, inputs, steps)


def checks_of(course: Course) -> list[Check]:
    """Three checks on one run; the last does not decide."""
    track = course.track
    name = f"lr {track.learning_rate:g}"
    start, late = float(course.relative[0]), course.relative[course.last_third]
    end = float("inf") if course.diverged else float(late.mean())
    verdict: Verdict = "holds" if abs(end - 1) <= NEAR else "fails"
    reason = "it diverged" if course.diverged else f"{len(late)} measurements"
    if course.steps < ENOUGH or start > HALF:
        verdict, reason = "inconclusive", f"{course.steps} steps from {report.number(start, 2)}"
    own = max(float(row.max(initial=0)) for row in track.layers.values()) / track.edge
    return [
        Check(
            name=f"{name}: sharpness at the start",
            predicted=None,
            observed=start,
            tolerance=HALF,
            verdict="holds" if start <= HALF else "inconclusive",
            rule="observed <= tolerance, or no rise can be seen",
            unit="of 2 / lr",
        ),
        Check(
            name=f"{name}: mean sharpness of the last third",
            predicted=1.0,
            observed=end,
            tolerance=NEAR,
            verdict=verdict,
            rule="|observed - predicted| <= tolerance",
            unit="of 2 / lr",
            note=reason,
        ),
        Check(
            name=f"{name}: largest sharpness of a single layer",
            predicted=None,
            observed=own,
            tolerance=1.0,
            verdict="holds" if own < 1 else "fails",
            rule="observed < tolerance; does not decide",
            unit="of 2 / lr",
        ),
    ]


# --- the report ------------------------------------------------------------------------------

FIGURE = (
    "Left and middle: largest curvature over training at two rates. Thick: Hessian and "
    "Gauss-Newton matrix of the whole network, against 2 / lr (dashed). Thin: each layer's own "
    "block, the others frozen. Dotted: 2 λmax(R) / M of each layer's input, the curvature if the "
    "layer were an LMS problem by itself; for the linear layer the two are the same. Right: the "
    "Hessian's sharpness of all rates over rate times step: one path, left where 2 / lr is "
    "reached.",
    "Three panels. In the first two the whole network's sharpness rises to a dashed line at 2 / lr "
    "and stays, single layers below. In the third three curves share a path and level off.",
)


def plot_course(course: Course, ax: Axes) -> list[Artist]:
    """Every curvature over the steps of one run."""
    track = course.track
    artists: list[Artist] = [
        ax.axhline(track.edge, color="black", linestyle="--", linewidth=1, label="2 / lr")
    ]
    whole = (
        (track.hessian, figures.ORANGE, "Hessian"),
        (track.gauss_newton, "black", "Gauss-Newton"),
    )
    for values, colour, label in whole:
        width = 2.2 if label == "Hessian" else 1.2
        artists += ax.plot(track.steps, values, color=colour, linewidth=width, label=label)
    colours = (figures.BLUE, figures.GREEN, figures.PURPLE)
    for (name, values), colour in zip(track.layers.items(), colours, strict=True):
        artists += ax.plot(track.steps, values, color=colour, linewidth=1.2, label=name)
        artists += ax.plot(track.steps, course.inputs[name], ":", color=colour, linewidth=1.6)
    ax.plot([], [], ":", color=figures.GREY, label="2 λmax(R) / M of a layer's input")
    ax.set(
        title=f"lr {track.learning_rate:g}",
        xlabel="step",
        ylabel="largest curvature, 1 / lr",
        ylim=(0, None),
    )
    return artists


def plot_paths(courses: Sequence[Course], ax: Axes) -> list[Artist]:
    """The Hessian's sharpness of every run over rate times step."""
    artists: list[Artist] = []
    colours = (figures.ORANGE, figures.BLUE, figures.GREEN)
    for course, colour in zip(courses, colours, strict=True):
        track = course.track
        artists += ax.plot(
            track.steps * track.learning_rate,
            track.hessian,
            color=colour,
            label=f"lr {track.learning_rate:g}",
        )
        artists.append(ax.axhline(track.edge, color=colour, linestyle="--", linewidth=1))
    ax.set(
        title="all rates", xlabel="rate x step", ylabel="Hessian's largest, 1 / lr", ylim=(0, None)
    )
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0.9))
    return artists


def draw(courses: Sequence[Course], out: Path) -> report.Picture:
    """The figure ``edge`` as PNG and SVG in a folder."""
    with figures.style():
        figure, axes = figures.panels(3, height=4.0, width=11)
        for course, ax in zip(courses[:2], axes, strict=False):
            plot_course(course, ax)
        plot_paths(courses, axes[2])
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels))
        png, _ = figures.save(figure, out / "edge")
    return report.Picture(png, *FIGURE)


COLUMNS = (
    "lr",
    "2 / lr",
    "start",
    "reached at step",
    "Hessian, last third",
    "farthest from 1",
    "Gauss-Newton",
    "largest layer",
    "loss at the end",
)


def course_rows(courses: Sequence[Course]) -> list[list[str]]:
    """One line per rate; sharpness over 2 / lr."""
    rows = []
    for course in courses:
        track, late = course.track, course.last_third
        own = [float(row[late].mean()) / track.edge for row in track.layers.values() if late.any()]
        reached = track.reached_at
        values = course.relative[late]
        far = float(values[np.argmax(np.abs(values - 1))]) if late.any() else None
        rows.append(
            [
                f"{track.learning_rate:g}",
                f"{track.edge:g}",
                report.number(float(course.relative[0]), 2),
                "never" if reached is None else str(reached),
                report.number(float(values.mean()), 3) if late.any() else "diverged",
                report.number(far, 3),
                report.number(float(track.gauss_newton[late].mean() / track.edge), 3)
                if late.any()
                else "–",
                report.number(max(own), 2) if own else "–",
                report.number(float(track.loss[-1]), 3),
            ]
        )
    return rows


def evidence_against(courses: Sequence[Course]) -> list[str]:
    """What sharpness at 2 / lr does not say."""
    sentences = []
    for course in courses[:2]:
        track, late = course.track, course.last_third
        if not late.any():
            continue
        own = {name: float(row[late].mean()) / track.edge for name, row in track.layers.items()}
        lms = {n: float(np.asarray(v)[late].mean()) / track.edge for n, v in course.inputs.items()}
        sentences.append(
            f"At lr {track.learning_rate:g} no layer explains the edge by itself: over the last "
            "third the layers' own sharpness is "
            + ", ".join(f"{name} {report.number(v, 2)}" for name, v in own.items())
            + " of 2 / lr. Nor does the bound of LMS on the layers' inputs, by which it would be "
            + ", ".join(f"{name} {report.number(v, 2)}" for name, v in lms.items())
            + "."
        )
    low = courses[-1]
    sentences.append(
        f"Not every rate gets there: at lr {low.track.learning_rate:g} the sharpness ends at "
        f"{report.number(float(low.relative[-1]), 2)} of 2 / lr after {low.steps} steps, at a loss "
        f"of {report.number(float(low.track.loss[-1]), 2)}."
    )
    return sentences


def run(
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    command: str | None = None,
) -> Summary:
    """Run the study and leave its results in a folder.

    Parameters, returns and errors are those of ``studies.engine.single_run.single_run``.
    """

    def work(folder: Path, where: torch.device, _: Summary) -> Findings:
        images, labels, classes = image_tensors(
            config.data, config.data_root, config.seed, config.images, config.image_size
        )
        images, labels = images.to(where), labels.to(where)
        # one thread: the layers are too small for more to be faster
        with reproducible(config.seed, threads=1 if where.type == "cpu" else 0):
            courses = [
                follow(images, labels, classes, config, lr, steps, layers)
                for lr, steps, layers in (
                    *((lr, n, LAYERS) for lr, n in zip(config.rates, config.steps, strict=True)),
                    (config.low_rate, config.low_steps, ()),
                )
            ]
        checks = [check for course in courses[:2] for check in checks_of(course)]
        deciding = [check for check in checks if "single layer" not in check.name]
        about = "Sharpness over 2 / lr; means over the last third of the run."
        return Findings(
            checks,
            results.worst(check.verdict for check in deciding),
            [Table("Every rate", COLUMNS, course_rows(courses), [about])],
            draw(courses, folder),
            evidence_against(courses),
        )

    return single_run(
        "edge-of-stability",
        config,
        out,
        work,
        title="The edge of stability",
        question=STUDIES["edge-of-stability"].question,
        experiment=EXPERIMENT,
        rule=RULE,
        device=device,
        command=command,
    )
