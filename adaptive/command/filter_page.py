"""What ``filter`` found, and how it is shown: in the terminal, as a table, as one page."""

from __future__ import annotations

import csv
import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import adaptive
from adaptive.algorithms import Algorithm
from adaptive.checks import Array
from adaptive.command import svg
from adaptive.command.spectra import Spectrogram
from adaptive.results import DelayEstimate

LAST = 0.1  # part at the end over which results are averaged
FLOOR = -80.0  # dB below the loudest spectrum that a picture shows


@dataclass
class Course:
    """What a filter did, window by window.

    Attributes
    ----------
    ends : (W,) sample after the last one of each window.
    d_power, e_power : (W,) mean squares.
    misalignment : (W,) dB, where the true weights are known.
    before, after : of d and of e.
    weights : at the end.
    diverged_at : the first sample whose error is not finite.
    """

    before: Spectrogram
    after: Spectrogram
    ends: list[int] = field(default_factory=list)
    d_power: list[float] = field(default_factory=list)
    e_power: list[float] = field(default_factory=list)
    misalignment: list[float] = field(default_factory=list)
    weights: Array | None = None
    diverged_at: int | None = None

    @property
    def erle(self) -> Array:
        """(W,) power of d over that of e, in dB."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: Array = 10 * np.log10(np.array(self.d_power) / np.array(self.e_power))
        return ratio


@dataclass(frozen=True)
class Advice:
    """What theory says of these recordings: the curve, and steps with what they cost."""

    mse: Array | None  # (W,) predicted at the windows' ends
    bounds: dict[str, float]
    J_min: float
    d_power: float
    rows: tuple[tuple[float, float], ...]  # misadjustment and mu

    @property
    def erle(self) -> Array:
        """(W,) predicted, in dB; empty for a step size that does not converge."""
        if self.mse is None:
            return np.array([])
        ratio: Array = 10 * np.log10(self.d_power / self.mse)
        return ratio


@dataclass(frozen=True)
class Facts:
    """What was asked and used."""

    given: dict[str, Any]
    algorithm: Algorithm
    rate: float | None
    samples: int
    delay: int
    found: DelayEstimate | None
    seconds: float

    @property
    def unit(self) -> str:
        """Unit of the time axis."""
        return "seconds" if self.rate else "samples"

    def time(self, samples: Array) -> Array:
        """Samples as seconds, where the rate is known."""
        return np.asarray(samples) / (self.rate or 1.0)


def summary(facts: Facts, course: Course, advice: Advice | str) -> list[tuple[str, str]]:
    """Names and values of what matters."""
    last = max(1, round(LAST * len(course.ends)))
    with np.errstate(divide="ignore", invalid="ignore"):
        d, e = (float(np.sum(x[-last:])) for x in (course.d_power, course.e_power))
        erle = 10 * np.log10(d / e) if e > 0 else np.inf
    mu = facts.algorithm.step_size if facts.algorithm.has_step_size() else None
    length = f"{facts.samples} samples"
    if facts.rate:
        length += f", {facts.samples / facts.rate:.1f} s at {facts.rate:g} Hz"
    rows = [
        ("algorithm", facts.algorithm.name + (f", mu = {mu:g}" if mu is not None else "")),
        ("taps", str(facts.given["taps"])),
        ("length", length),
        ("delay of u", _delay(facts)),
        ("ERLE, last tenth", f"{erle:.1f} dB"),
    ]
    if course.misalignment:
        rows.append(("misalignment at the end", f"{course.misalignment[-1]:.1f} dB"))
    if isinstance(advice, Advice):
        best = 10 * np.log10(advice.d_power / advice.J_min) if advice.J_min > 0 else np.inf
        if advice.mse is not None:
            rows.append(("ERLE predicted at the end", f"{advice.erle[-1]:.1f} dB"))
        rows.append(("ERLE of the best fixed filter", f"{best:.1f} dB"))
        rows += [
            (f"bound on mu, {name.replace('_', ' ')}", f"{bound:.4g}")
            for name, bound in advice.bounds.items()
        ]
    if course.diverged_at is not None:
        rows.append(("diverged at sample", str(course.diverged_at)))
    rows.append(("computed in", f"{facts.seconds:.1f} s"))
    return rows


def _delay(facts: Facts) -> str:
    text = f"{facts.delay} samples"
    if facts.found is None:
        return text
    sure = (
        f"the strongest path is at {facts.found.samples}, confidence {facts.found.confidence:.2f}"
    )
    return f"{text} ({sure})"


def lines(facts: Facts, course: Course, advice: Advice | str) -> list[str]:
    """For the terminal."""
    rows = [f"{name:<30}{value}" for name, value in summary(facts, course, advice)]
    if isinstance(advice, str):
        return rows + ([advice] if advice else [])
    return rows + [f"{f'mu for misadjustment {m:g}':<30}{mu:.4g}" for m, mu in advice.rows]


def write_table(path: Path, facts: Facts, course: Course, advice: Advice | str) -> None:
    """One row per window."""
    columns: dict[str, Any] = {
        "last_sample": course.ends,
        facts.unit: facts.time(np.array(course.ends)).tolist(),
        "d_power": course.d_power,
        "e_power": course.e_power,
        "erle_dB": course.erle.tolist(),
    }
    if course.misalignment:
        columns["misalignment_dB"] = course.misalignment
    if isinstance(advice, Advice) and advice.mse is not None:
        columns["predicted_e_power"] = advice.mse.tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


def write_page(path: Path, facts: Facts, course: Course, advice: Advice | str) -> None:
    """One file that needs no other."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in summary(facts, course, advice)
    )
    names = [Path(facts.given[k]).name for k in ("far", "mic")]
    parts = [
        f"<h1>{html.escape(names[1])} after a filter on {html.escape(names[0])}</h1>",
        f"<p>{html.escape(_reading(facts, course, advice))}</p>",
        f"<table>{rows}</table>",
        "<h2>Echo return loss enhancement</h2>",
        _erle(facts, course, advice),
    ]
    if course.misalignment:
        line = svg.Line(
            "misalignment", facts.time(np.array(course.ends)), np.array(course.misalignment), "a"
        )
        figure = svg.curves([line], x_name=f"time [{facts.unit}]", y_name="misalignment [dB]")
        parts += ["<h2>Distance to the true weights</h2>", figure]
    parts += _spectra(facts, course)
    parts += _advised(advice)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PAGE.replace("BODY", "\n".join(parts)), encoding="utf-8")


def _reading(facts: Facts, course: Course, advice: Advice | str) -> str:
    """The result in a sentence or two."""
    if course.diverged_at is not None:
        return (
            f"The filter diverged at sample {course.diverged_at}: take a smaller step, or stop "
            "adaptation where both sides talk (--adapt)."
        )
    values = dict(summary(facts, course, advice))
    text = f"At the end the error is {values['ERLE, last tenth']} below the microphone signal."
    if isinstance(advice, Advice):
        text += (
            f" A fixed filter of {facts.given['taps']} taps could reach "
            f"{values['ERLE of the best fixed filter']} on average over the recording."
        )
    return text


def _erle(facts: Facts, course: Course, advice: Advice | str) -> str:
    time = facts.time(np.array(course.ends))
    drawn = [svg.Line("measured, mean of each window", time, course.erle, "a")]
    if isinstance(advice, Advice) and advice.mse is not None:
        drawn.append(svg.Line("predicted from R, P and J_min", time, advice.erle, "b", dashed=True))
    return svg.curves(drawn, x_name=f"time [{facts.unit}]", y_name="ERLE [dB]")


def _spectra(facts: Facts, course: Course) -> list[str]:
    before, after = course.before.power, course.after.power
    loudest = float(np.max(before[np.isfinite(before)], initial=0.0))
    if not loudest > 0:
        return []
    top = 10 * np.log10(loudest)
    seconds, half = facts.samples / (facts.rate or 1.0), (facts.rate or 1.0) / 2
    common: dict[str, Any] = {
        "seconds": seconds, "top": half, "limits": (top + FLOOR, top), "known": bool(facts.rate),
    }  # fmt: skip
    return [
        "<h2>Spectrogram before</h2>",
        svg.spectrogram(before, **common),
        "<h2>Spectrogram after</h2>",
        svg.spectrogram(after, **common),
        f"<p class='note'>Both from {top + FLOOR:.0f} dB (dark) to {top:.0f} dB (bright).</p>",
    ]


def _advised(advice: Advice | str) -> list[str]:
    head = ["<h2>Which step size</h2>"]
    if isinstance(advice, str):
        return [*head, f"<p>{html.escape(advice)}</p>"] if advice else []
    edge = advice.bounds["mean_square"]
    rows = "".join(
        f"<tr><td>{m:.0%}</td><td>{mu:.4g}</td><td>{mu / edge:.1%}</td></tr>"
        for m, mu in advice.rows
    )
    return [
        *head,
        "<table><tr><th>misadjustment wanted</th><th>mu</th><th>of the mean-square bound</th></tr>"
        f"{rows}</table>",
        "<p class='note'>The misadjustment is the excess of the error power over the least that "
        "fixed weights can reach. Prediction and advice take both signals to be stationary, as "
        "speech is not, and neighbouring regressors to be independent.</p>",
    ]


PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>naturalmodes filter</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="naturalmodes {adaptive.__version__}">
<style>
:root {{ color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #bbb; --a: #1f5fa8;
  --b: #c0501a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e6e6; --paper: #16181c; --line: #555;
  --a: #7fb2ea; --b: #f0a070; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }} h1 {{ overflow-wrap: anywhere; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; }} th, td {{ text-align: left; padding: .2rem 1rem .2rem 0;
  border-bottom: 1px solid var(--line); font-weight: normal; vertical-align: top; }}
svg {{ width: 100%; height: auto; }} svg text {{ font-size: 13px; fill: var(--ink); }}
@media (max-width: 480px) {{ svg text {{ font-size: 20px; }} }}
.frame, .tick {{ stroke: var(--line); }} .a {{ stroke: var(--a); }} .b {{ stroke: var(--b); }}
.note {{ font-size: .9rem; }}
</style></head><body>
BODY
</body></html>
"""
