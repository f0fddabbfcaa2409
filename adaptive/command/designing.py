"""``design``: the step size for what a filter is to do, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import adaptive
from adaptive.algorithms import names
from adaptive.command import exits
from adaptive.command.options import (
    Parser,
    Refused,
    add_scenario,
    add_settings,
    blank,
    build_algorithm,
    build_scenario,
    flattened,
)
from adaptive.command.recordings import opened
from adaptive.command.spectra import Statistics
from adaptive.files import json_text
from adaptive.results import TradeOff
from adaptive.wiener import WienerProblem

__all__ = ["parser", "run"]


def parser(prog: str = "python -m adaptive design") -> Parser:
    """The command line of ``design``."""
    p = blank(prog, "Find the step size for a misadjustment, a time to converge, or both.")
    wish = p.add_argument_group("what the filter is to do")
    wish.add_argument("--misadjustment", type=float, help="excess error over the least, at most")
    wish.add_argument("--samples", type=int, help="time in which it is to converge, at most")
    wish.add_argument("--within-dB", type=float, default=1.0, help="what counts as converged")
    wish.add_argument("--walk", type=float, help="power of each tap's steps in a system that moves")
    wish.add_argument("--algorithm", default="lms", help="; ".join(names()))
    wish.add_argument("--taps", type=int, default=16, help="length of the filter")
    wish.add_argument(
        "--signals", type=Path, nargs=2, metavar=("U", "D"),
        help="recordings whose statistics are taken, in place of a scenario",
    )  # fmt: skip
    wish.add_argument("--out", type=Path, help="JSON file for the answer")
    add_settings(p)
    add_scenario(p)
    return p


def run(given: dict[str, Any]) -> int:
    """Answer; the exit status."""
    given = flattened(given)
    wishes = {name: given.pop(name) for name in ("misadjustment", "samples") if name in given}
    walk, out = given.pop("walk", None), given.pop("out", None)
    if not wishes and walk is None:
        raise Refused("--misadjustment, --samples or --walk must be given")
    algorithm = build_algorithm(given, any_step=True)
    problem = _problem(given)
    tracking = None if walk is None else walk * np.eye(problem.taps)
    found = adaptive.design_step(
        problem, algorithm, within_dB=given["within_dB"], tracking=tracking, **wishes
    )
    print(found)
    if found.trade_off is not None and not found.met:
        print("\n".join(_trade_off(found.trade_off)))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json_text(found), encoding="utf-8")
    return exits.OK if found.met else exits.UNMET


def _problem(given: dict[str, Any]) -> WienerProblem:
    """The problem of two recordings, or of a scenario."""
    if "signals" not in given:
        return build_scenario(given).problem
    u, d = (opened(path) for path in given["signals"])
    return Statistics.of(u, d, given["taps"]).problem


def _trade_off(curve: TradeOff) -> list[str]:
    """The trade-off as lines of a table."""
    rows = [f"{'mu':>12}{'misadjustment':>16}{'samples':>12}"]
    for mu, excess, samples in zip(curve.mu, curve.misadjustment, curve.samples, strict=True):
        time = "never" if np.isnan(samples) else f"{samples:.0f}"
        rows.append(f"{mu:>12.4g}{excess:>16.4g}{time:>12}")
    return rows
