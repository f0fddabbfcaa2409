"""What was asked, predicted and simulated: as a table, as JSON and as CSV."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptive.checks import Array
from adaptive.files import commit, versions
from adaptive.results import Ensemble, LearningCurve, Verdict
from adaptive.wiener import WienerProblem


@dataclass(frozen=True)
class Report:
    """What was asked, what was predicted, what happened."""

    given: dict[str, Any]
    problem: WienerProblem
    ensemble: Ensemble
    prediction: LearningCurve | None
    verdict: Verdict | None
    missing: str
    seconds: float

    @property
    def window(self) -> int:
        """Samples in the last tenth of a run."""
        return max(1, self.ensemble.steps // 10)

    @property
    def predicted(self) -> Array | None:
        """(steps,) predicted MSE, sample by sample."""
        if self.prediction is None:
            return None
        mse = self.prediction.mse
        return np.repeat(mse, -(-self.ensemble.steps // mse.size))[: self.ensemble.steps]

    def numbers(self) -> list[tuple[str, float | None, float | None, float | None]]:
        """Name, predicted, simulated and its standard error, of all that is compared."""
        e, p, J = self.ensemble, self.prediction, self.problem.J_min
        with np.errstate(over="ignore"):
            tail = float(e.mse[-self.window :].mean())
            # steps of one run go together: their errors are added, not their squares
            error = float(e.mse_se[-self.window :].mean())
        curve = self.predicted
        late = None if curve is None else float(curve[-self.window :].mean())
        rows: list[tuple[str, float | None, float | None, float | None]] = [
            ("MSE at the first step", None if curve is None else float(curve[0]),
             float(e.mse[0]), float(e.mse_se[0])),
            ("MSE, last tenth of the steps", late, tail, error),
        ]  # fmt: skip
        if J > 0:
            extra = None if late is None else late / J - 1
            rows.append(("misadjustment, last tenth", extra, tail / J - 1, error / J))
        if p is not None:
            rows.append(("MSE, steady state", p.mse_final, None, None))
            if J > 0:
                rows.append(("misadjustment, steady state", p.misadjustment, None, None))
            settled = p.steps_to_within(dB=1.0)
            if settled is not None:
                samples = settled * -(-e.steps // p.mse.size)
                rows.append(("samples to within 1 dB of it", float(samples), None, None))
        return rows

    def table(self) -> str:
        """For the terminal."""
        e, p = self.ensemble, self.prediction
        mu = "" if np.isnan(e.mu) else f" with mu = {e.mu:g}"
        modes = self.problem.modes
        lines = [
            f"{e.algorithm}{mu}: {e.runs} runs of {e.steps} samples, seed {e.seed}, "
            f"{self.seconds:.1f} s",
            f"{self.given['scenario']}: {self.problem.taps} taps, eigenvalues of R "
            f"{modes.eigenvalues[0]:.4g} to {modes.eigenvalues[-1]:.4g}, "
            f"spread {modes.spread:.4g}, J_min {self.problem.J_min:.4g}",
            "",
        ]
        if p is not None:
            lines.append(f"{'upper bound on mu':<30}{'value':>12}{'mu is at':>12}")
            lines += [
                f"{name.replace('_', ' '):<30}{bound:>12.4g}{e.mu / bound:>12.1%}"
                for name, bound in p.bounds.items()
            ]
            lines.append("")
        lines.append(f"{'':<30}{'predicted':>12}{'simulated':>12}  standard error")
        for name, predicted, simulated, error in self.numbers():
            spread = "" if error is None else f"  ± {error:.2g}"
            lines.append(f"{name:<30}{_cell(predicted)}{_cell(simulated)}{spread}".rstrip())
        lines.append("")
        if e.diverged and self.verdict is None:
            lines.append(f"{e.diverged} of {e.runs} runs diverged.")
        if p is not None:
            lines.append(f"The prediction rests on {p.assumption}.")
        lines.append(self.missing if self.verdict is None else self.verdict.text)
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        e, p, v = self.ensemble, self.prediction, self.verdict
        config = {k: str(x) if isinstance(x, Path) else x for k, x in self.given.items()}
        return {
            "config": config | {"options": e.options},
            "problem": {
                "taps": self.problem.taps,
                "J_min": self.problem.J_min,
                "d_power": self.problem.d_power,
                "eigenvalues": self.problem.modes.eigenvalues.tolist(),
                "eigenvalue_spread": self.problem.modes.spread,
                "w_o": self.problem.w_o.tolist(),
            },
            "prediction": None if p is None else {
                "stable": p.stable,
                "bounds": dict(p.bounds),
                "mse_final": p.mse_final,
                "emse": p.emse,
                "misadjustment": p.misadjustment,
                "msd_final": p.msd_final,
                "assumption": p.assumption,
            },
            "numbers": [
                dict(zip(("name", "predicted", "simulated", "standard_error"), row, strict=True))
                for row in self.numbers()
            ],
            "simulation": {
                "diverged": e.diverged,
                "final_mean_weights": e.mean_weights[-1].tolist(),
                "seconds": round(self.seconds, 3),
            },
            "verdict": None if v is None else {
                "holds": v.holds,
                "k": v.k,
                "first_outside": v.first_outside,
                "fraction_outside": v.fraction_outside,
                "largest_z": v.largest_z,
                "worst_step": v.worst_step,
                "false_alarm": v.false_alarm,
                "typical_dB": v.typical_dB,
                "text": v.text,
            },
            "note": self.missing,
            "versions": versions("numpy", "scipy", "numba", "matplotlib", "naturalmodes"),
            "commit": commit(),
        }  # fmt: skip


def _cell(value: float | None) -> str:
    return f"{'':>12}" if value is None else f"{value:>12.5g}"


def write_csv(path: Path, report: Report) -> None:
    """One row per sample: simulated MSE, its standard error, and what was predicted."""
    e = report.ensemble
    columns = {"n": np.arange(e.steps), "mse": e.mse, "mse_standard_error": e.mse_se}
    columns |= {f"quantile_{q:g}": values for q, values in e.quantiles.items()}
    if report.predicted is not None and report.verdict is not None:
        columns |= {"predicted_mse": report.predicted, "z": report.verdict.z}
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
