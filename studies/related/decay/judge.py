"""Judges ``decay``: rotation and time constant of every convolution at every setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from studies.engine.checks import Check, at_most, inconclusive, worst
from studies.engine.protocol import Figure, Findings, Measured, Table
from studies.engine.text import number
from studies.related.decay import Config, Limits, predicted_rotation, predicted_time
from studies.related.decay.figures import plot_relaxation, plot_rotation, plot_times
from studies.related.decay.relaxation import relaxation_time

__all__ = ["Block", "blocks", "judge"]


@dataclass(frozen=True)
class Block:
    """One convolution at one setting, over its seeds."""

    lr: float
    decay: float
    momentum: float
    batch_norm: bool
    factor: float
    layer: str
    results: tuple[dict[str, Any], ...]

    @property
    def rotation(self) -> float:
        """What theory says of the angle of a step."""
        return predicted_rotation(self.lr, self.decay, self.momentum)

    @property
    def time(self) -> float:
        """What theory says of the time constant."""
        return predicted_time(self.lr, self.decay, self.momentum)

    def ratios(self, name: str) -> np.ndarray:
        """Observed over predicted rotation, time or length, by seed."""
        if name == "own time":
            said = [relaxation_time(one["exponent"], self.factor) for one in self.results]
            return np.array([one["time"] for one in self.results]) / np.array(said) / self.time
        if name == "length":
            return np.array([one["length"] / one["expected_length"] for one in self.results])
        return np.array([one[name] for one in self.results]) / getattr(self, name)

    @property
    def words(self) -> str:
        """The setting and the layer, in words."""
        heavy = f", momentum {self.momentum:g}" if self.momentum else ""
        return f"{self.layer} at lr {self.lr:g}, wd {self.decay:g}{heavy}"


def blocks(measured: Sequence[Measured]) -> list[Block]:
    """The measurements that succeeded, by setting and layer."""
    groups: dict[tuple[float, float, float, bool, float, str], list[dict[str, Any]]] = {}
    for one in measured:
        if one.error is None:
            c = one.cell
            for name, layer in one.result["layers"].items():
                key = (c.lr, c.decay, c.momentum, c.batch_norm, c.factor, name)
                groups.setdefault(key, []).append(layer)
    return [Block(*key, results=tuple(results)) for key, results in groups.items()]


def judge(_: Config, measured: Sequence[Measured]) -> Findings:
    """The verdict: it holds when all rotations and time constants are as predicted."""
    found = blocks(measured)
    if not found:
        return Findings("inconclusive", reason="No network was measured.")
    live = [b for b in found if b.batch_norm]
    checks = [
        _check("rotation of a step", live, "rotation", Limits.rotation, heavy=False),
        _check("rotation of a step, momentum", live, "rotation", Limits.rotation, heavy=True),
        _check("time constant of |w|^4", live, "time", Limits.time, heavy=False),
        _check("time constant of |w|^4, momentum", live, "time", Limits.time, heavy=True),
    ]
    own = [
        _check("time constant, strength measured", live, "own time", Limits.time, heavy=False),
        _check(
            "time constant, strength measured, momentum", live, "own time", Limits.time, heavy=True
        ),
    ]
    return Findings(
        verdict=worst(check.verdict for check in checks),
        checks=[*checks, *own],
        reason=_reason(checks, own),
        tables=[Table("Every convolution", COLUMNS, rows(found), text=[TEXT])],
        answer=figure(found),
        against=against(found),
    )


def _reason(checks: Sequence[Check], own: Sequence[Check]) -> str:
    """The verdicts on rotation, on time constant, and on time constant with measured gradients."""
    parts = {
        "The rotation": worst(c.verdict for c in checks[:2]),
        "the time constant for gradients of constant strength": worst(
            c.verdict for c in checks[2:]
        ),
        "the one for their strength as measured (not deciding)": own[0].verdict,
        "that one with momentum": own[1].verdict,
    }
    said = {"inconclusive": "is undecided"}
    return ", ".join(f"{what} {said.get(v, v)}" for what, v in parts.items()) + "."


def _check(what: str, live: Sequence[Block], name: str, limit: float, *, heavy: bool) -> Check:
    """The worst mean over seeds among all convolutions and settings."""
    title = f"{what}: largest distance from theory"
    mine = [b for b in live if bool(b.momentum) == heavy]
    if not mine or min(len(b.results) for b in mine) < Limits.seeds:
        return inconclusive(title, limit, f"fewer than {Limits.seeds} seeds")
    means = [float(b.ratios(name).mean()) for b in mine]
    k = int(np.argmax([np.nan_to_num(abs(m - 1), nan=np.inf) for m in means]))
    values = mine[k].ratios(name)
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    typical = float(np.median([abs(m - 1) for m in means]))
    note = (
        f"worst of {len(mine)}: {mine[k].words}, {number(means[k], 4)} ± {number(error, 1)} of "
        f"theory; median distance {number(typical, 2)}"
    )
    return at_most(title, abs(means[k] - 1), limit, unit="of theory", note=note)


TEXT = (
    "Observed over predicted, mean and standard error over seeds. The second time constant is the "
    "solution of du/dt = -u + u^(-p / 2) for u = |w|^4 over its settled value, with the measured "
    "exponent p of the gradient's strength |w| |g|: its square goes as the effective rate lr / "
    "|w|^2 to the power p. Length is |w|^4 over "
    "lr |w|^2 |g|^2 / (2 wd) from the measured gradients; with momentum, successive gradients "
    "must be uncorrelated for it. Radial is the root mean square cosine between gradient and "
    "weights, zero for scale-invariant weights."
)
COLUMNS = (
    "network",
    "lr",
    "decay",
    "momentum",
    "layer",
    "rotation",
    "observed / predicted",
    "time constant",
    "observed / predicted",
    "exponent",
    "observed / predicted with it",
    "length",
    "radial",
)


def rows(found: Sequence[Block]) -> list[list[str]]:
    """One row per convolution and setting."""
    made = []
    for b in found:
        mean = [_shown(b.ratios(name)) for name in ("rotation", "time", "own time", "length")]
        exponent = number(float(np.mean([one["exponent"] for one in b.results])), 2)
        radial = float(np.mean([one["radial"] for one in b.results]))
        kind = "BatchNorm" if b.batch_norm else "control, without"
        settings = [number(v, 3) for v in (b.lr, b.decay, b.momentum)]
        turn, time = number(b.rotation, 3), number(b.time, 3)
        observed = [turn, mean[0], time, mean[1], exponent, *mean[2:], number(radial, 2)]
        made.append([kind, *settings, b.layer, *observed])
    return made


def _shown(values: np.ndarray) -> str:
    if not np.isfinite(values).all():
        return "–"
    if len(values) < 2:
        return number(float(values.mean()), 3)
    return f"{number(float(values.mean()), 3)} ± {values.std(ddof=1) / np.sqrt(len(values)):.1g}"


def figure(found: Sequence[Block]) -> Figure:
    """Rotation, time constants and the relaxation itself."""
    plots: list[Callable[..., object]] = [
        partial(plot_rotation, [(b.rotation, b.ratios("rotation"), _kind(b)) for b in found]),
        partial(
            plot_times,
            [(b.time, b.ratios("time"), _kind(b)) for b in found],
            [(b.time, b.ratios("own time"), _kind(b)) for b in found],
        ),
        partial(plot_relaxation, [b for b in found if b.batch_norm and not b.momentum]),
    ]
    return Figure(
        name="decay",
        caption="Left: rotation of each convolution in a step, over sqrt(2 lr wd / (1 + "
        "momentum)), against that prediction; a point for each seed; the band is 5 %. Middle: "
        "time constant of |w|^4 over (1 - momentum) / (4 lr wd); the band is 20 %, and pale "
        "crosses allow for the measured strength of the gradients. Right: "
        "difference of |w|^4 between a network and its copy with longer weights, a line for each "
        "convolution and seed, against time in predicted constants; the black line is e^-t.",
        alt="Three panels: rotations of networks with BatchNorm lie in a narrow band about the "
        "prediction, those of the control do not; time constants scatter about theirs; relaxations "
        "fall faster than the exponential of theory.",
        plots=plots,
        height=3.2,
    )


def _kind(b: Block) -> str:
    if not b.batch_norm:
        return "without BatchNorm"
    return "momentum" if b.momentum else "plain SGD"


def against(found: Sequence[Block]) -> list[str]:
    """What the agreement does not say."""
    said = [
        "Once the length has settled, the rotation follows from it alone: each step lengthens the "
        "weights by as much as decay shortens them. That the length settles, and that the gradient "
        "is orthogonal to the weights, is what the runs test; that the network learns well at the "
        "rate is another question."
    ]
    control = [b for b in found if not b.batch_norm]
    if control:
        values = [float(np.mean(b.ratios("rotation"))) for b in control]
        said.append(
            "The prediction needs scale invariance: without BatchNorm the rotations are "
            f"{', '.join(number(v, 2) for v in values)} of it."
        )
    exponents = [one["exponent"] for b in found if b.batch_norm for one in b.results]
    if exponents:
        middle = float(np.median(exponents))
        said.append(
            "The time constant is that of gradients whose strength |w| |g| is constant. Measured "
            "on both networks, its square goes as the effective rate lr / |w|^2 to the power p = "
            f"{number(middle, 2)}: shorter weights take larger steps, settle higher in the loss "
            "and see stronger gradients. The length then returns faster."
        )
    drift = [abs(one["drift"]) for b in found if b.batch_norm for one in b.results]
    if drift:
        said.append(
            "The length is not constant while it is watched: log |w|^2 moves by "
            f"{number(float(np.median(drift)), 2)} in the median, which alone changes the mean "
            "square rotation by that over 4."
        )
    return said
