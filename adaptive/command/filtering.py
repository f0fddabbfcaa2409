"""``filter``: one recording filtered to match another; what is left, and how it got there."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import adaptive
from adaptive import measures
from adaptive.algorithms import Algorithm, names
from adaptive.checks import Array
from adaptive.command import exits, filter_page
from adaptive.command.filter_page import Advice, Course, Facts
from adaptive.command.options import Parser, Refused, add_settings, blank, build_algorithm
from adaptive.command.progress import Progress
from adaptive.command.recordings import READABLE, Recording, Writer, opened
from adaptive.command.spectra import Spectrogram, Statistics
from adaptive.design import largest_step
from adaptive.results import DelayEstimate
from adaptive.streaming import AdaptiveFilter

WINDOWS = 400  # points of the curves over time
SHORTEST = 1024  # samples of a window, at least
HEARD = 1 << 21  # samples at the start that a delay is estimated from
LONGEST_DELAY = 1 << 16
SURE = 0.95  # confidence from which an estimated delay is taken
MOST_TAPS = 2048  # for which a curve is predicted: it needs the eigenvalues of R
MISADJUSTMENTS = (0.01, 0.05, 0.1, 0.2)  # of the advice

__all__ = ["parser", "run"]


def parser(prog: str = "python -m adaptive filter") -> Parser:
    """The command line of ``filter``."""
    p = blank(
        prog,
        "Filter one recording so that it matches another, as an echo canceller does, and write "
        "what is left. Long recordings are read and written a part at a time.",
    )
    p.add_argument("far", type=Path, help=f"what is filtered, u: {READABLE}")
    p.add_argument("mic", type=Path, help="what it is to match, d")
    p.add_argument("-o", "--out", type=Path, required=True, help="error, d - y: .wav, .npy or .csv")
    p.add_argument("--report", type=Path, help="page with curves and advice (the output, .html)")
    p.add_argument("--table", type=Path, help="curves over time (the output, with .curves.csv)")
    run = p.add_argument_group("the filter")
    run.add_argument("--algorithm", default="nlms", help="; ".join(names()))
    run.add_argument("--mu", type=float, help="step size; nlms: 0.5 when left out")
    run.add_argument("--taps", type=int, default=1024, help="length of the filter")
    run.add_argument("--delay", default="0", help="samples by which u is delayed first, or auto")
    run.add_argument("--adapt", type=Path, help="0 or 1 a sample: .csv or .npy; 0 learns nothing")
    run.add_argument("--reference", type=Path, help="true weights, newest tap first: .csv or .npy")
    run.add_argument("--channel", type=int, help="of u, from 0 (all)")
    run.add_argument("--mic-channel", type=int, default=0, help="of d, from 0")
    run.add_argument("--rate", type=float, help="samples per second, where the files do not say")
    run.add_argument("--no-theory", action="store_true", help="leave out prediction and advice")
    add_settings(p)
    return p


def run(given: dict[str, Any]) -> int:
    """Filter, write, report; the exit status."""
    began = time.perf_counter()
    u, d = opened(given["far"], channel=given.get("channel")), opened(given["mic"])
    d = opened(given["mic"], channel=given["mic_channel"]) if d.channels > 1 else d
    rate = _rate(u, d, given.get("rate"))
    samples = min(u.samples, d.samples)
    algorithm = build_algorithm(
        given | ({"mu": 0.5} if given["algorithm"] == "nlms" and "mu" not in given else {})
    )
    mask = None if "adapt" not in given else opened(given["adapt"])
    if mask is not None and mask.samples < samples:
        raise Refused(f"--adapt must have {samples} rows, one a sample; got {mask.samples}")
    reference = None if "reference" not in given else _reference(given["reference"])
    delay, found = _delay(given["delay"], u, d, given["taps"])
    channels = 1 if "channel" in given else u.channels
    dtype = np.result_type(u.read(0, 1), d.read(0, 1))
    out = Writer(given["out"], samples=samples, rate=rate, dtype=dtype)
    with out:
        told = Progress(2 * samples, "samples", sys.stderr)
        theory = algorithm.has_theory and given["taps"] <= MOST_TAPS and "no_theory" not in given
        known = Statistics.of(
            u, d, given["taps"], delay=delay, moments=theory and channels == 1, tell=told.add
        )
        if known.power == 0 and algorithm.regularisation is not None:
            raise Refused(f"{given['far']} is silent")
        algorithm = algorithm.regularised(known.power, given["taps"] * channels)
        course = _filtered(
            (u, d, mask), algorithm.stream(taps=given["taps"]), (samples, delay), reference,
            out, told,
        )  # fmt: skip
    advice = _advice(algorithm, known, course, given)
    facts = Facts(given, algorithm, rate, samples, delay, found, time.perf_counter() - began)
    table = given.get("table", given["out"].with_suffix(".curves.csv"))
    page = given.get("report", given["out"].with_suffix(".html"))
    filter_page.write_table(table, facts, course, advice)
    filter_page.write_page(page, facts, course, advice)
    print("\n".join(filter_page.lines(facts, course, advice)))
    print(f"Error: {given['out']}; table: {table}; page: {page}")
    return exits.OK if course.diverged_at is None else exits.DIVERGED


def _rate(u: Recording, d: Recording, given: float | None) -> float | None:
    """The rate of both."""
    rates = {r.rate for r in (u, d) if r.rate is not None}
    if len(rates) > 1:
        raise Refused(f"both must have one rate; got {u.rate:g} and {d.rate:g} samples a second")
    if given is not None and rates - {given}:
        raise Refused(f"--rate must be left out where the files say {rates.pop():g}")
    return rates.pop() if rates else given


def _reference(path: Path) -> Array:
    """(L,) weights."""
    found = opened(path)
    rows = np.asarray(found.source.read(0, found.samples)).reshape(found.samples, -1)
    return np.ascontiguousarray(rows.reshape(-1)) if 1 in rows.shape else rows


def _delay(
    asked: str, u: Recording, d: Recording, taps: int
) -> tuple[int, DelayEstimate | None]:  # fmt: skip
    """The delay in samples, and how it was found."""
    if asked != "auto":
        try:
            return int(asked), None
        except ValueError:
            raise Refused(f"--delay must be auto or a whole number; got {asked}") from None
    heard = min(u.samples, d.samples, HEARD)
    x = u.read(0, heard)
    x = x if x.ndim == 1 else x.mean(axis=1)
    found = adaptive.estimate_delay(x, d.read(0, heard), largest=min(heard // 4, LONGEST_DELAY))
    early = found.samples - taps // 8
    return (max(early, 0) if found.samples >= 0 else early) * (found.confidence >= SURE), found


def _filtered(
    recordings: tuple[Recording, Recording, Recording | None],
    filter_: AdaptiveFilter,
    extent: tuple[int, int],
    reference: Array | None,
    out: Writer,
    told: Progress,
) -> Course:
    """Run the filter over the recordings, a window at a time."""
    u, d, mask = recordings
    samples, delay = extent
    window = max(SHORTEST, -(-samples // WINDOWS))
    course = Course(Spectrogram(), Spectrogram())
    for start in range(0, samples, window):
        stop = min(start + window, samples)
        desired = d.read(start, stop)
        adapt = None if mask is None else mask.source.read(start, stop).reshape(-1) != 0
        error = filter_.process(u.read(start - delay, stop - delay), desired, adapt=adapt).error
        out.write(error)
        course.ends.append(stop)
        course.d_power.append(float(np.mean(np.abs(desired) ** 2)))
        with np.errstate(over="ignore", invalid="ignore"):
            course.e_power.append(float(np.mean(np.abs(error) ** 2)))
            course.before.add(desired)
            course.after.add(error)
        course.weights = filter_.weights
        if reference is not None and course.weights is not None:
            course.misalignment.append(float(measures.misalignment(course.weights, reference)))
        told.add(stop - start)
    course.diverged_at = filter_.diverged_at
    return course


def _advice(
    algorithm: Algorithm, known: Statistics, course: Course, given: dict[str, Any]
) -> Advice | str:
    """What theory says, or why it says nothing."""
    if "no_theory" in given:
        return ""
    if not algorithm.has_theory:
        return f"No theory is at hand for {algorithm.name}: no curve is predicted."
    if given["taps"] > MOST_TAPS:
        return f"A curve is predicted for up to {MOST_TAPS} taps."
    try:
        problem = known.problem
        moments = algorithm.second_moments(problem)
        there = moments.at(algorithm.constant_mu)
        updates = np.array(course.ends) / algorithm.samples_per_update
        mse = there.mse(updates - 1) if there.stable else None
        wishes = MISADJUSTMENTS if problem.J_min > 0 else ()
        rows = [(wish, largest_step(moments, wish)) for wish in wishes]
    except ValueError as error:
        return f"There is no prediction: {error}."
    return Advice(mse, dict(moments.bounds), problem.J_min, problem.d_power, tuple(rows))
