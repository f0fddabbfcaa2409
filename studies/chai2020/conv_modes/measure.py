"""Study ``conv-modes``: how the conv layers of a trained CNN learn, predicted and observed.

A small CNN is trained on real images. Then every conv layer is looked at by itself. Its inputs
are what the trained network feeds it. Its desired response is what the trained layer answers to
them. A student of the same shape starts from the weights the layer had before training, and
learns that response by gradient descent on the mean squared error.

So the question is: how does this layer re-learn, on its own, the response it ended up with? For
that problem the theory is exact (level 1 of the design: a desired response is given, and nothing
else in the network moves), the target can be reached exactly, and the trained weights are a known
solution. How the layer learns inside the whole network is another question, not asked here.
"""

from __future__ import annotations

import copy
import dataclasses
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import cnnbridge
from studies import STUDIES
from studies.chai2020.conv_modes import figures as drawing
from studies.engine import page as report
from studies.engine import summary as results
from studies.engine.errors import UserError
from studies.engine.running import pick, running
from studies.engine.summary import Answer, Check, Summary
from studies.training.images import load
from studies.training.networks import SmallCNN, conv_layers
from studies.training.sgd import TrainingRun, choose_device, reproducible, train_classifier

__all__ = ["PRESETS", "Config", "Edge", "LayerResult", "configure", "run", "study_layer"]

Array = np.ndarray


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, but for device and library versions.

    Attributes
    ----------
    preset : the name of the preset this came from.
    data : ``mnist5k``, ``cifar10`` or ``folder:PATH``.
    data_root : for ``cifar10``.
    seed : of the images drawn, the initial weights and the order of training.
    images : at most this many are used to train and test the network.
    image_size : pixels; None for the size the data comes in.
    test_fraction : of the images, kept aside for the accuracy.
    width : channels of the first conv layer.
    epochs, batch_size, train_lr, train_momentum : of the network's training.
    layer_images : how many training images make up the layers' own problems.
    steps : updates over which prediction and observation are compared.
    lr_fraction : the layers' learning rate as a fraction of its predicted bound. Above one
        half the strongest mode alternates in sign, which is a sharper test than a decay.
    edge_momenta : the momenta at which the edge of stability is searched.
    edge_steps : updates of one run of that search.
    growth_steps : updates from which the growth around the edge is measured.
    threads : of torch on the CPU; 0 leaves the choice to torch. The problems are small, and
        more threads than one then wait for each other, for ages on a machine that is busy.
    tolerance_float64, tolerance_float32 : of the mode error, relative to the size of the
        initial weight error.
    tolerance_edge : relative, of the observed learning rate at which training diverges.
    """

    preset: str
    data: str = "mnist5k"
    data_root: str | None = None
    seed: int = 0
    images: int = 5000
    image_size: int | None = None
    test_fraction: float = 0.2
    width: int = 8
    epochs: int = 4
    batch_size: int = 32
    train_lr: float = 0.02
    train_momentum: float = 0.9
    layer_images: int = 48
    steps: int = 1000
    lr_fraction: float = 0.8
    edge_momenta: tuple[float, ...] = (0.0, 0.9)
    edge_steps: int = 200
    growth_steps: int = 24
    threads: int = 1
    tolerance_float64: float = 1e-9
    tolerance_float32: float = 1e-3
    tolerance_edge: float = 5e-3


PRESETS = {
    "smoke": Config(
        "smoke", images=1000, epochs=3, batch_size=16, width=4, layer_images=8, steps=300
    ),
    "laptop": Config("laptop"),
    "full": Config("full", images=50_000, epochs=10, width=32, layer_images=512, threads=0),
}


def configure(
    preset: str, *, data: str = "mnist5k", data_root: str | Path | None = None, seed: int = 0
) -> Config:
    """A preset with the user's choices put in."""
    chosen: Config = pick(PRESETS, preset, data=data, data_root=data_root, seed=seed)
    return chosen


@dataclass(frozen=True)
class Edge:
    """Growth per update of the strongest mode, at learning rates around the predicted bound.

    Attributes
    ----------
    momentum : torch's heavy-ball momentum.
    bound : predicted largest stable learning rate.
    observed : learning rate at which training starts to diverge, by bisection.
    rates : (K,) learning rates.
    predicted_growth, observed_growth : (K,) factor per update; above 1 the error grows.
    """

    momentum: float
    bound: float
    observed: float
    rates: Array
    predicted_growth: Array
    observed_growth: Array


@dataclass(frozen=True)
class LayerResult:
    """Prediction and observation of one layer; arrays have one row per update, 0..steps.

    Attributes
    ----------
    name : of the layer in the network.
    geometry : the convolution in words.
    inputs : shape of the layer's input.
    taps : L, weights per output channel, the bias included.
    eigenvalues : (G, L) of R, one row per group, ascending.
    stationary : (G, L) True where the input does not excite the mode: it stays where it is.
    lr : torch's learning rate of the comparison.
    bound : predicted largest stable learning rate, momentum 0.
    selected : (output channel, mode) of the trajectories kept.
    selected_labels : which modes these are.
    selected_tau : their time constants in updates.
    predicted_modes, observed_modes : (steps + 1, len(selected)) natural modes, float64.
    predicted_loss, observed_loss : (steps + 1,) mean squared error of the layer, float64.
    mode_error : (M, L) largest error of each mode over the run in float64, relative to the norm
        of the initial weight error.
    mode_error_float32 : the same for the run in float32.
    fastest, slowest : shortest and longest time constant of the modes that move, in updates.
    edges : one per momentum.
    """

    name: str
    geometry: str
    inputs: tuple[int, ...]
    taps: int
    eigenvalues: Array
    stationary: Array
    lr: float
    bound: float
    selected: tuple[tuple[int, int], ...]
    selected_labels: tuple[str, ...]
    selected_tau: Array
    predicted_modes: Array
    observed_modes: Array
    predicted_loss: Array
    observed_loss: Array
    mode_error: Array
    mode_error_float32: Array
    fastest: float
    slowest: float
    edges: tuple[Edge, ...]

    @property
    def spread(self) -> float:
        """lambda_max / lambda_min over the modes that move."""
        moving = self.eigenvalues[~self.stationary]
        return float(moving.max() / moving.min())

    def arrays(self) -> dict[str, Array]:
        """Everything with an axis, for an .npz file."""
        kept = {
            field.name: np.asarray(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ("name", "geometry", "edges")
        }
        for edge in self.edges:
            for field in dataclasses.fields(edge):
                key = f"edge_momentum_{edge.momentum:g}_{field.name}"
                kept[key] = np.asarray(getattr(edge, field.name))
        return kept

    def row(self) -> dict[str, Any]:
        """The scalars, for the summary and the tables."""
        return {
            "layer": self.name,
            "geometry": self.geometry,
            "inputs": list(self.inputs),
            "groups": len(self.eigenvalues),
            "taps": self.taps,
            "stationary_modes": int(self.stationary.sum()),
            "modes": int(self.stationary.size),
            "eigenvalue_spread": self.spread,
            "lr": self.lr,
            "lr_bound": self.bound,
            "fastest_time_constant": self.fastest,
            "slowest_time_constant": self.slowest,
            "loss_start": float(self.observed_loss[0]),
            "loss_end": float(self.observed_loss[-1]),
            "max_mode_error_float64": float(np.max(self.mode_error)),
            "max_mode_error_float32": float(np.max(self.mode_error_float32)),
            "edges": [
                {"momentum": e.momentum, "predicted": e.bound, "observed": e.observed}
                for e in self.edges
            ],
        }


def study_layer(
    name: str,
    student: nn.Conv2d,
    x: torch.Tensor,
    target: torch.Tensor,
    config: Config,
    *,
    done: Callable[[str], None] = lambda part: None,
) -> LayerResult:
    """Predict how one conv layer learns a desired response, train it, keep both.

    Parameters
    ----------
    name : of the layer, for the result.
    student : where the layer starts; on the device of x. Not changed.
    x : (N, C, H, W) inputs, float32.
    target : (N, M, H', W') desired response, float32.
    config : of the study.
    done : called with the name of the part that comes next, whenever a part is done.
    """
    exact = copy.deepcopy(student).double()
    inputs, wanted = x.double(), target.double()

    done("prediction")
    problems = cnnbridge.layer_problems(exact, inputs, wanted)
    bound = cnnbridge.learning_rate_bounds(problems, exact.out_channels).mean
    lr = config.lr_fraction * bound
    prediction = cnnbridge.predict_layer(exact, inputs, wanted, lr=lr, steps=config.steps)

    runs = []
    for words, conv, u, d in (
        ("training in float64", exact, inputs, wanted),
        ("training in float32", student, x, target),
    ):
        done(words)
        runs.append(
            cnnbridge.observe_layer(conv, u, d, lr=lr, steps=config.steps, basis=prediction)
        )
    observation = runs[0]

    edges = []
    for momentum in config.edge_momenta:
        done(f"edge of stability, momentum {momentum:g}")
        edges.append(_edge(exact, inputs, wanted, momentum, config))

    tau = prediction.time_constants
    stationary = prediction.stationary
    selected, labels = _select(
        prediction.eigenvalues, stationary, tau, prediction.modes[0], config.steps
    )
    outputs, modes = np.transpose(selected)
    share = exact.out_channels // exact.groups
    return LayerResult(
        name=name,
        geometry=_geometry(student),
        inputs=tuple(x.shape),
        taps=prediction.eigenvalues.shape[1],
        eigenvalues=prediction.eigenvalues,
        stationary=stationary,
        lr=lr,
        bound=bound,
        selected=selected,
        selected_labels=labels,
        selected_tau=tau[outputs // share, modes],
        predicted_modes=prediction.modes[:, outputs, modes],
        observed_modes=observation.modes[:, outputs, modes],
        predicted_loss=prediction.loss,
        observed_loss=observation.loss,
        mode_error=_mode_error(prediction, runs[0]),
        mode_error_float32=_mode_error(prediction, runs[1]),
        fastest=float(tau[~stationary].min()),
        slowest=float(tau[~stationary].max()),
        edges=tuple(edges),
    )


def _mode_error(
    prediction: cnnbridge.LayerPrediction, observation: cnnbridge.LayerObservation
) -> Array:
    """(M, L) largest error of each mode over the whole run; inf if the run did not last it out."""
    if observation.diverged_at is not None:
        return np.full(prediction.modes.shape[1:], np.inf)
    return cnnbridge.compare(prediction, observation).mode_error


def _edge(
    conv: nn.Conv2d, x: torch.Tensor, target: torch.Tensor, momentum: float, config: Config
) -> Edge:
    """Where training starts to diverge, and how fast it grows or shrinks near there."""
    found = cnnbridge.bisect_edge(conv, x, target, momentum=momentum, steps=config.edge_steps)
    problems = cnnbridge.layer_problems(conv, x, target)
    bound = cnnbridge.learning_rate_bounds(problems, conv.out_channels, momentum=momentum).mean
    # denser towards the edge, where momentum makes the growth turn sharply
    offsets = np.array([0.001, 0.0025, 0.005, 0.01, 0.02, 0.03])
    rates = bound * np.concatenate([1 - offsets[::-1], [1.0], 1 + offsets])
    predicted, observed = [], []
    for lr in rates:
        near = cnnbridge.predict_layer(
            conv, x, target, lr=lr, steps=config.growth_steps, momentum=momentum
        )
        seen = cnnbridge.observe_layer(
            conv, x, target, lr=lr, steps=config.growth_steps, momentum=momentum, basis=near
        )
        group, mode = np.unravel_index(np.argmax(near.eigenvalues), near.eigenvalues.shape)
        share = conv.out_channels // conv.groups
        path = seen.modes[:, group * share : (group + 1) * share, mode]
        predicted.append(near.factors[group, mode])
        observed.append(_growth(path, order=1 if momentum == 0 else 2))
    return Edge(momentum, bound, found.lr, rates, np.asarray(predicted), np.asarray(observed))


def _growth(path: Array, order: int) -> float:
    """Factor per update of a mode that obeys a linear recurrence of the given order.

    The recurrence v(n+1) = a v(n) + b v(n-1) is fitted to what was observed, by least squares over
    updates and outputs; its larger root is the growth. A ratio of sizes would still feel the
    other root of the momentum for dozens of updates.
    """
    past = np.stack([path[order - 1 - lag : len(path) - 1 - lag].ravel() for lag in range(order)])
    coefficients = np.linalg.lstsq(past.T, path[order:].ravel(), rcond=None)[0]
    return float(np.abs(np.roots([1.0, *-coefficients])).max())


def _select(
    eigenvalues: Array, stationary: Array, tau: Array, start: Array, steps: int
) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...]]:
    """A strong, a middling and a slow mode to draw, each in the output where it starts largest.

    Strongest is the largest eigenvalue; slow has its time constant nearest to the length of the
    run, so that the run can show it; the middle one lies between the two on a log scale.
    """
    groups = len(eigenvalues)
    share = len(start) // groups
    wanted = [("strongest", np.unravel_index(np.argmax(eigenvalues), eigenvalues.shape))]
    decays = ~stationary & (tau > 0) & np.isfinite(tau)
    if decays.any():
        # a mode that is gone after one update has tau = 0
        log_tau = np.log(np.maximum(tau, 0.1), where=decays, out=np.full(tau.shape, np.nan))
        slow = np.nanargmin(np.abs(log_tau - np.log(steps)))
        halfway = (np.nanmin(log_tau) + log_tau.flat[slow]) / 2
        middle = np.nanargmin(np.abs(log_tau - halfway))
        wanted += [
            (label, np.unravel_index(k, tau.shape))
            for label, k in (("middle", middle), ("slow", slow))
        ]
    chosen: dict[tuple[int, int], str] = {}
    for label, (group, mode) in wanted:
        outputs = slice(group * share, (group + 1) * share)
        output = group * share + int(np.argmax(np.abs(start[outputs, mode])))
        chosen.setdefault((int(output), int(mode)), label)
    return tuple(chosen), tuple(chosen.values())


def _geometry(conv: nn.Conv2d) -> str:
    height, width = conv.kernel_size
    words = f"{height}x{width}, {conv.in_channels} to {conv.out_channels} channels"
    words += f", {conv.groups} groups" if conv.groups > 1 else ""
    return words + (", bias" if conv.bias is not None else "")


def layer_checks(layer: LayerResult, config: Config) -> list[Check]:
    """What the theory claims about one layer, with verdicts."""
    unit = "of the initial weight error"
    checks = [
        results.at_most(
            f"{layer.name}: largest mode error, {precision}",
            float(np.max(error)),
            tolerance,
            unit=unit,
            note=f"Over {config.steps:,} updates, all {layer.stationary.size} modes, all outputs",
        )
        for precision, error, tolerance in (
            ("float64", layer.mode_error, config.tolerance_float64),
            ("float32", layer.mode_error_float32, config.tolerance_float32),
        )
    ]
    checks += [
        results.within(
            f"{layer.name}: edge of stability, momentum {edge.momentum:g}",
            edge.bound,
            edge.observed,
            config.tolerance_edge,
            unit="learning rate",
        )
        for edge in layer.edges
    ]
    return checks


def _unmade_checks(name: str, config: Config, reason: str) -> list[Check]:
    names = [
        (f"{name}: largest mode error, float64", config.tolerance_float64),
        (f"{name}: largest mode error, float32", config.tolerance_float32),
    ]
    names += [
        (f"{name}: edge of stability, momentum {momentum:g}", config.tolerance_edge)
        for momentum in config.edge_momenta
    ]
    return [results.inconclusive(check, tolerance, reason) for check, tolerance in names]


# --- the tables ------------------------------------------------------------------------------

COLUMNS = (
    "layer",
    "L",
    "stationary",
    "spread",
    "lr",
    "bound",
    "observed edge",
    "fastest τ",
    "slowest τ",
    "mode error",
    "verdict",
)


def layer_rows(layers: Sequence[LayerResult], checks: Sequence[Check]) -> list[list[str]]:
    """One line per layer, in the order of ``COLUMNS``."""
    rows = []
    for layer in layers:
        verdicts = {c.verdict for c in checks if c.name.startswith(f"{layer.name}:")}
        worst = next((v for v in ("fails", "inconclusive") if v in verdicts), "holds")
        groups = f"{len(layer.eigenvalues)} x " if len(layer.eigenvalues) > 1 else ""
        rows.append(
            [
                layer.name,
                f"{groups}{layer.taps}",
                f"{layer.stationary.sum()} of {layer.stationary.size}",
                report.number(layer.spread, 3),
                report.number(layer.lr),
                report.number(layer.bound),
                report.number(layer.edges[0].observed) if layer.edges else "–",
                report.number(layer.fastest, 3),
                report.number(layer.slowest, 3),
                f"{np.max(layer.mode_error):.1e}",
                worst,
            ]
        )
    return rows


def check_rows(checks: Sequence[Check]) -> list[list[str]]:
    """One line per check: name, predicted, observed, tolerance, verdict."""
    return [
        [
            check.name,
            report.number(check.predicted, 6),
            report.number(check.observed, 6),
            report.number(check.tolerance),
            check.verdict if check.verdict == "holds" else check.verdict.upper(),
        ]
        for check in checks
    ]


# --- the run ---------------------------------------------------------------------------------

TITLE = "How conv layers learn, predicted and observed"
EXPERIMENT = (
    "A small CNN is trained on real images. Each of its conv layers then learns, by itself and by "
    "full-batch gradient descent, the response that it ended up with, while every natural mode is "
    "predicted from the autocorrelation of its input; the highest stable learning rate is searched "
    "for by bisection."
)
RULE = (
    "It holds when every mode of every layer stays within its tolerance of the prediction at every "
    "update, in float64 and float32, and training starts to diverge at the predicted learning "
    "rate; it fails when one does not."
)
QUESTION = STUDIES["conv-modes"].question
EXPLANATION = (
    "A small CNN is trained on real images. Then each conv layer is taken by itself. Its input is "
    "what the trained network feeds it; its desired response is what the trained layer answers. A "
    "student starts from the weights that the layer had before training and learns that response "
    "by full-batch gradient descent on the mean squared error.",
    "Every output channel of a conv layer is then an LMS filter whose regressors are the patches "
    "of the input. Theory says that along each eigenvector of the patches' autocorrelation matrix "
    "R the weight error shrinks by its own constant factor per update, 1 - μλ, with μ = 2 lr / "
    "channels, and that training diverges above lr = channels / λ_max; with momentum β that bound "
    "is 1 + β times larger.",
    "For this problem the theory is exact, so the tolerances are those of the arithmetic. It says "
    "nothing here about how the layer learns while the rest of the network learns too.",
)


def run(
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    command: str | None = None,
) -> Summary:
    """Run the study and leave its results in a folder.

    ``summary.json`` and one ``.npz`` per layer are written as soon as each layer is done, so a run
    that dies loses only the layer in flight; figures and ``report.html`` come at the end, also
    after an interruption. A layer whose study raises is recorded as such and the others go on.

    Parameters
    ----------
    config : of the study, see ``configure``.
    out : folder for the results; made if need be.
    device : ``auto``, ``cpu`` or ``cuda``.
    command : what to print as the command that repeats the run.

    Returns
    -------
    Summary, as written. Its ``status`` is ``complete`` when every layer was studied, whatever
    the verdicts.

    Raises
    ------
    UserError : the device, the data or the folder are not to be had.
    """
    where = choose_device(device)
    out = results.output_folder(Path(out))
    layers: list[LayerResult] = []

    def finish(summary: Summary) -> None:
        _write_report(out, summary, layers)

    with reproducible(config.seed, config.threads):
        images, labels, classes = _images(config, where)
        with running(
            "conv-modes",
            config,
            out,
            device=where,
            command=command,
            answer=Answer(EXPERIMENT, RULE),
            finish=finish,
        ) as (summary, save):
            initial, trained, training = _network(images, labels, classes, config)
            summary.results["network"] = {
                "images": len(images),
                "updates": len(training.loss),
                "final_loss": float(training.loss[-50:].mean()),
                "train_accuracy": training.train_accuracy,
                "test_accuracy": training.test_accuracy,
            }
            summary.results["layers"] = []
            save()
            starts = conv_layers(initial)
            parts = len(starts) * (3 + len(config.edge_momenta))
            with tqdm(total=parts, desc="layers", unit="part") as bar:
                for name, start in starts.items():
                    step = _Steps(bar, name, parts // len(starts))
                    try:
                        x, target = _recorded(trained, name, images[: config.layer_images])
                        result = study_layer(name, start, x, target, config, done=step)
                    except Exception as error:
                        reason = f"{type(error).__name__}: {error}"
                        summary.problems.append(f"Layer {name} could not be studied: {reason}")
                        summary.checks += _unmade_checks(name, config, reason)
                        (out / f"{name}-traceback.txt").write_text(traceback.format_exc())
                    else:
                        layers.append(result)
                        _save_arrays(out / f"{name}.npz", result)
                        summary.results["layers"].append(result.row())
                        summary.checks += layer_checks(result, config)
                    step.finish()
                    summary.answer = answer(summary, layers, complete=False)
                    save()
            summary.answer = answer(summary, layers, complete=not summary.problems)
    print_results(summary, layers, out)
    return summary


def answer(summary: Summary, layers: Sequence[LayerResult], *, complete: bool) -> Answer:
    """What the checks say to the question, and what they do not say."""
    checks = summary.checks
    verdict = results.worst(check.verdict for check in checks)
    if not complete and verdict == "holds":
        verdict = "inconclusive"
    numbers = []
    if layers:
        largest = max(float(np.max(layer.mode_error)) for layer in layers)
        numbers = [
            ("layers studied", str(len(layers))),
            ("largest mode error, float64", f"{largest:.1e}"),
            ("largest eigenvalue spread", report.number(max(layer.spread for layer in layers), 3)),
        ]
    _, caption, alt = drawing.FIGURES["modes"]
    return Answer(
        EXPERIMENT,
        RULE,
        verdict,
        f"{summary.count('holds')} of {len(checks)} checks hold.",
        numbers,
        figure="modes.png",
        caption=caption,
        alt=alt,
        against=[
            "Each layer learns alone here, towards a response that does not move, and there the "
            "theory is exact. It says nothing about layers that learn at the same time, whose "
            "errors depend on one another.",
            "The modes are those of the input that the trained network gives the layer; while a "
            "network trains, that input changes.",
        ],
    )


class _Steps:
    """Moves a progress bar on by the part just finished and names the one that comes next."""

    def __init__(self, bar: tqdm, layer: str, parts: int) -> None:
        self._bar, self._layer, self._parts = bar, layer, parts
        self._end = bar.n + parts
        self._begun = False

    def __call__(self, part: str) -> None:
        if self._begun:
            self._bar.update()
        self._begun = True
        self._bar.set_description(f"{self._layer}, {part}")

    def finish(self) -> None:
        """Bring the bar to the layer's end, also when the layer failed on its way there."""
        self._bar.update(self._end - self._bar.n)


def _images(config: Config, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Images and labels on the device, and the number of classes."""
    data = load(
        config.data,
        config.data_root,
        limit=config.images,
        image_size=config.image_size,
        seed=config.seed,
    )
    if len(data) < 2:
        raise UserError(f"{config.data} holds {len(data)} image; a study needs several.")
    images = torch.from_numpy(data.images).to(device)
    return images, torch.from_numpy(data.labels).to(device), len(data.classes)


def _network(
    images: torch.Tensor, labels: torch.Tensor, classes: int, config: Config
) -> tuple[nn.Module, nn.Module, TrainingRun]:
    """The network before training, after training, and how that went."""
    initial = SmallCNN(images.shape[1], classes, config.width).to(images.device)
    trained = copy.deepcopy(initial)
    held_out = int(config.test_fraction * len(images))
    cut = len(images) - held_out
    training = train_classifier(
        trained,
        images[:cut],
        labels[:cut],
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.train_lr,
        momentum=config.train_momentum,
        seed=config.seed,
        test=(images[cut:], labels[cut:]) if held_out else None,
    )
    return initial, trained, training


def _recorded(
    model: nn.Module, name: str, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer of the trained network is fed by the images, and what it answers."""
    with cnnbridge.capture(model, name) as tape:
        tape.run(images.split(256))
    return tape.inputs.to(images.device), tape.outputs.to(images.device)


def _save_arrays(path: Path, layer: LayerResult) -> None:
    arrays: dict[str, Any] = layer.arrays()
    results.write_atomically(path, lambda temporary: np.savez_compressed(temporary, **arrays))


def _write_report(out: Path, summary: Summary, layers: Sequence[LayerResult]) -> None:
    sections = [report.Section("What was asked, and how", EXPLANATION)]
    if layers:
        sections.append(
            report.Section(
                "The layers",
                [
                    "L is the number of weights of one output channel, its bias included. The "
                    "spread is the largest over the smallest eigenvalue of R among modes that "
                    "move. Learning rates are torch's; time constants τ are in updates; the mode "
                    "error is the largest over all modes, outputs and updates, relative to the "
                    "norm of the initial weight error."
                ],
                COLUMNS,
                layer_rows(layers, summary.checks),
            )
        )
        sections.append(report.Section("Figures", pictures=drawing.draw(layers, out)))
    if "network" in summary.results:
        network = summary.results["network"]
        test = network["test_accuracy"]
        sections.append(
            report.Section(
                "The network",
                [
                    f"{network['images']:,} images of {summary.config['data']}, "
                    f"{network['updates']:,} updates; accuracy {network['train_accuracy']:.1%} "
                    "on the images it was trained on"
                    + ("." if test is None else f", {test:.1%} on images kept aside.")
                ],
            )
        )
    report.write(out / "report.html", summary, title=TITLE, question=QUESTION, sections=sections)


def print_results(summary: Summary, layers: Sequence[LayerResult], out: Path) -> None:
    """Tables of the layers and of the verdicts for the terminal."""
    checks = summary.checks
    print()
    print(report.table(COLUMNS, layer_rows(layers, checks)))
    print()
    columns = ("check", "predicted", "observed", "tolerance", "verdict")
    print(report.table(columns, check_rows(checks)))
    print()
    print(
        f"{summary.count('holds')} of {len(checks)} checks hold, {summary.count('fails')} fail, "
        f"{summary.count('inconclusive')} inconclusive, after {summary.duration:.0f} s."
    )
    for problem in summary.problems:
        print(f"PROBLEM: {problem}")
    if summary.count("fails"):
        print("!!! PREDICTION AND OBSERVATION DISAGREE: see the checks marked FAILS above !!!")
    print(f"Report: {out / 'report.html'}")
