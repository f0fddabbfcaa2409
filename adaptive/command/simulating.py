"""``simulate``: an adaptive filter predicted, simulated, and the two compared."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import adaptive
from adaptive.algorithms import Algorithm
from adaptive.command import exits
from adaptive.command.figure import draw
from adaptive.command.options import Refused, build_algorithm, build_scenario, flattened, parser
from adaptive.command.progress import Watched
from adaptive.command.report import Report, write_csv
from adaptive.files import json_text
from adaptive.results import Ensemble, LearningCurve
from adaptive.wiener import WienerProblem

__all__ = ["parser", "run"]


def run(given: dict[str, Any]) -> int:
    """Check, simulate, predict, report; the exit status."""
    given = flattened(given)
    out: Path | None = given.pop("out", None)
    if out is not None and out.exists() and not out.is_dir():
        raise Refused(f"--out must be a folder; {out} is a file")
    given["algorithm"] = given["algorithm"].replace("-", "_")
    algorithm = build_algorithm(given)
    scenario = build_scenario(given)
    began = time.perf_counter()
    ensemble = adaptive.simulate(
        Watched(scenario, given["runs"], sys.stderr),
        algorithm,
        steps=given["steps"],
        runs=given["runs"],
        seed=given["seed"],
        threads=given.get("threads"),
        quantiles=(0.5,) if given.get("median") else (),
        progress=False,
    )
    seconds = time.perf_counter() - began
    prediction, missing = predict(algorithm, scenario.problem, ensemble)
    verdict = None if prediction is None else adaptive.verdict(prediction, ensemble, given["k"])
    report = Report(given, scenario.problem, ensemble, prediction, verdict, missing, seconds)
    print(report.table())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "summary.json").write_text(json_text(report.summary()), encoding="utf-8")
        write_csv(out / "curves.csv", report)
        print(f"Written to {out}: summary.json, curves.csv{draw(out / 'curves.png', report)}.")
    if ensemble.diverged:
        return exits.DIVERGED
    return exits.OK if verdict is None or verdict.holds else exits.PREDICTION_FAILS


def predict(
    algorithm: Algorithm, problem: WienerProblem, ensemble: Ensemble
) -> tuple[LearningCurve | None, str]:
    """The prediction for what was simulated, or why there is none."""
    if not algorithm.has_theory:
        return None, f"No theory is at hand for {algorithm.name}: it was simulated only."
    steps = -(-ensemble.steps // algorithm.samples_per_update)
    try:
        return adaptive.predict(algorithm, problem, steps=steps), ""
    except ValueError as error:
        return None, f"There is no prediction: {error}."
