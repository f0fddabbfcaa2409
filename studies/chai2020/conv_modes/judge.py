"""Judges the study: mode errors and edges of stability, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from studies.chai2020.conv_modes import EDGE_TOLERANCE, TOLERANCES, Cell, Config, figures
from studies.chai2020.conv_modes.records import Layer
from studies.engine.checks import Check, at_most, inconclusive, within, worst
from studies.engine.protocol import Findings, Measured, Table
from studies.engine.text import number

__all__ = ["judge", "layer_checks"]

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

EXPLANATION = (
    "A small CNN is trained on real images. Then each conv layer is studied alone. Its input is "
    "what the trained network feeds it; its desired response is the output of the trained layer. A "
    "student starts from the weights that the layer had before training and learns that response "
    "by full-batch gradient descent on the mean squared error.",
    "Every output channel of a conv layer is then an LMS filter whose regressors are the patches "
    "of the input. Along each eigenvector of the patches' autocorrelation matrix R, theory "
    "predicts that the weight error shrinks by a constant factor per update, 1 - μλ, with "
    "μ = 2 lr / channels, and that training diverges above lr = channels / λ_max; with momentum β "
    "that bound is 1 + β times larger.",
    "For this problem the theory is exact, so the tolerances are those of floating-point "
    "arithmetic. The result says nothing about a layer that learns while the rest of the network "
    "learns too.",
)
AGAINST = (
    "Each layer learns alone here, towards a response that does not move, and there the theory is "
    "exact. The result says nothing about layers that learn at the same time, whose errors depend "
    "on one another.",
    "The modes are those of the input that the trained network gives the layer; while a network "
    "trains, that input changes.",
)


def judge(config: Config, measured: Sequence[Measured]) -> Findings:
    """Turn the measurements into checks, tables and figures; a failed layer is left open."""
    layers: list[Layer] = []
    checks: list[Check] = []
    for one in measured:
        if one.error is None:
            layers.append(Layer.restored(one.result["layer"]))
            checks += layer_checks(layers[-1])
        else:
            checks += _unmade_checks(one.cell, one.error)
    network = next((one.result["network"] for one in measured if one.error is None), None)
    holds = sum(check.verdict == "holds" for check in checks)
    return Findings(
        verdict=worst(check.verdict for check in checks),
        checks=checks,
        reason=f"{holds} of {len(checks)} checks hold.",
        tables=_tables(config, layers, checks, network),
        answer=figures.by_layer("modes", layers) if layers else None,
        against=AGAINST,
        numbers=_numbers(layers),
        results={"network": network, "layers": [layer.row() for layer in layers]},
        arrays={layer.name: layer.arrays() for layer in layers},
    )


def _numbers(layers: Sequence[Layer]) -> list[tuple[str, str]]:
    if not layers:
        return []
    largest = max(float(np.max(layer.mode_error)) for layer in layers)
    return [
        ("layers studied", str(len(layers))),
        ("largest mode error, float64", f"{largest:.1e}"),
        ("largest eigenvalue spread", number(max(layer.spread for layer in layers), 3)),
    ]


def layer_checks(layer: Layer) -> list[Check]:
    """What the theory claims about one layer, with verdicts."""
    unit, steps = "of the initial weight error", len(layer.predicted_loss) - 1
    checks = [
        at_most(
            f"{layer.name}: largest mode error, {precision}",
            float(np.max(error)),
            tolerance,
            unit=unit,
            note=f"over {steps:,} updates, all {layer.stationary.size} modes, all outputs",
        )
        for precision, error, tolerance in (
            ("float64", layer.mode_error, TOLERANCES["float64"]),
            ("float32", layer.mode_error_float32, TOLERANCES["float32"]),
        )
    ]
    checks += [
        within(
            f"{layer.name}: edge of stability, momentum {edge.momentum:g}",
            edge.bound,
            edge.observed,
            EDGE_TOLERANCE,
            unit="learning rate",
            note=f"predicted {number(edge.bound)}",
        )
        for edge in layer.edges
    ]
    return checks


def _unmade_checks(cell: Cell, reason: str) -> list[Check]:
    """The checks of a layer that could not be studied."""
    limits = {f"largest mode error, {name}": limit for name, limit in TOLERANCES.items()}
    for momentum in cell.edge_momenta:
        limits[f"edge of stability, momentum {momentum:g}"] = EDGE_TOLERANCE
    return [inconclusive(f"{cell.layer}: {name}", limit, reason) for name, limit in limits.items()]


def _tables(
    config: Config,
    layers: Sequence[Layer],
    checks: Sequence[Check],
    network: dict[str, Any] | None,
) -> list[Table]:
    found = [Table("What was asked, and how", text=EXPLANATION, printed=False)]
    if layers:
        found.append(
            Table(
                "The layers",
                COLUMNS,
                layer_rows(layers, checks),
                [
                    "L is the number of weights of one output channel, its bias included. The "
                    "spread is the largest over the smallest eigenvalue of R among modes that "
                    "move. Learning rates are torch's; time constants τ are in updates; the mode "
                    "error is the largest over all modes, outputs and updates, relative to the "
                    "norm of the initial weight error."
                ],
                [figures.by_layer(name, layers) for name in ("loss", "spectrum", "edge")],
            )
        )
    if network is not None:
        test = network["test_accuracy"]
        found.append(
            Table(
                "The network",
                text=[
                    f"{network['images']:,} images of {config.cell.images.data}, "
                    f"{network['updates']:,} updates; accuracy {network['train_accuracy']:.1%} "
                    "on the images it was trained on"
                    + ("." if test is None else f", {test:.1%} on images kept aside.")
                ],
                printed=False,
            )
        )
    return found


def layer_rows(layers: Sequence[Layer], checks: Sequence[Check]) -> list[list[str]]:
    """One line per layer, in the order of ``COLUMNS``."""
    rows = []
    for layer in layers:
        verdicts = {c.verdict for c in checks if c.name.startswith(f"{layer.name}:")}
        groups = f"{len(layer.eigenvalues)} x " if len(layer.eigenvalues) > 1 else ""
        rows.append(
            [
                layer.name,
                f"{groups}{layer.taps}",
                f"{layer.stationary.sum()} of {layer.stationary.size}",
                number(layer.spread, 3),
                number(layer.lr),
                number(layer.bound),
                number(layer.edges[0].observed) if layer.edges else "–",
                number(layer.fastest, 3),
                number(layer.slowest, 3),
                f"{np.max(layer.mode_error):.1e}",
                worst(verdicts),
            ]
        )
    return rows
