"""``python -m adaptive``: predict, simulate and compare from the shell.

Example: python -m adaptive --algorithm nlms --mu 0.5 --taps 16 --input ar --coefficients 0.9
--noise 0.01 --steps 1000 --runs 500 --seed 0 --out results
"""

from __future__ import annotations

import argparse
import csv
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np

import adaptive
from adaptive.algorithms import ALGORITHMS, Algorithm, named, names
from adaptive.checks import Array
from adaptive.files import commit, json_text, versions
from adaptive.regressors import Regressors
from adaptive.results import Ensemble, LearningCurve
from adaptive.signals import DISTRIBUTIONS, Process, Scenario
from adaptive.verdict import Verdict
from adaptive.wiener import WienerProblem

# which options mean something to which choice; any other is refused rather than ignored
INPUT_OPTIONS = {
    "white": ("power", "distribution"),
    "ar": ("coefficients", "power", "distribution"),
    "arma": ("coefficients", "ma", "power", "distribution"),
    "tones": ("frequencies", "amplitudes", "tone_noise"),
    "wav": ("wav", "channel"),
}
SCENARIO_OPTIONS = {
    "identification": ("input", "system", "noise", "noise_kind", "independent"),
    "cancelling": ("input", "path", "signal"),
    "prediction": ("input", "ahead"),
    "equalisation": ("W", "delay", "noise", "noise_kind"),
    "echo": ("input", "length", "decay", "loss", "noise", "noise_kind"),
}
NEEDED = {"ar": "coefficients", "tones": "frequencies", "wav": "wav"}
PATIENCE = 2.0  # seconds before progress is shown


class Refused(ValueError):
    """What the user asked for cannot be done; the message says why in one sentence."""


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one sentence."""

    def error(self, message: str) -> NoReturn:
        """Say it and leave with code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> Parser:
    """The command line."""
    p = Parser(
        prog="python -m adaptive",
        description="Predict and simulate an adaptive filter, and compare the two.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    run = p.add_argument_group("the filter and the runs")
    run.add_argument("--algorithm", default="lms", help="; ".join(names()))
    run.add_argument("--mu", type=float, help="step size; rls has none")
    run.add_argument("--taps", type=int, default=16, help="length of the filter")
    run.add_argument("--steps", type=int, default=1000, help="samples per run")
    run.add_argument("--runs", type=int, default=500, help="runs to average")
    run.add_argument("--seed", type=int, default=0, help="the same seed gives the same numbers")
    run.add_argument("--threads", type=int, help="all cores when left out")
    run.add_argument("--k", type=float, default=4.0, help="half-width of the band, standard errors")
    run.add_argument("--median", action="store_true", help="show the median of the runs as well")
    run.add_argument("--out", type=Path, help="folder for summary.json, curves.csv and curves.png")

    own = p.add_argument_group("settings of one algorithm or another")
    for name, about in algorithm_settings().items():
        _add_setting(own, name, "; ".join(f"{kind}: {text}" for kind, text in about.items()))

    case = p.add_argument_group("what it is used for")
    case.add_argument("--scenario", choices=SCENARIO_OPTIONS, default="identification")
    case.add_argument("--noise", type=float, help="power of the noise (0.01 when left out)")
    case.add_argument("--noise-kind", choices=DISTRIBUTIONS, help="(gaussian when left out)")
    case.add_argument("--system", type=numbers, nargs="+", help="identification: the weights w_o")
    case.add_argument(
        "--independent", action="store_true",
        help="identification: Gaussian regressors of the input's R, independent from sample to "
        "sample, as theory supposes, in place of the delay line",
    )  # fmt: skip
    case.add_argument("--path", type=numbers, nargs="+", help="cancelling: way of the noise")
    case.add_argument("--signal", type=float, help="cancelling: frequency of the sine wanted")
    case.add_argument("--ahead", type=int, help="prediction: samples ahead")
    case.add_argument("--W", type=float, help="equalisation: Haykin's channel (3.1)")
    case.add_argument("--delay", type=int, help="equalisation: (taps // 2 + 2)")
    case.add_argument("--length", type=int, help="echo: taps of the room (4 times the filter's)")
    case.add_argument("--decay", type=float, help="echo: samples per 60 dB (the length)")
    case.add_argument("--loss", type=float, help="echo: return loss in dB (0)")

    source = p.add_argument_group("its input")
    source.add_argument("--input", choices=INPUT_OPTIONS, help="(white when left out)")
    source.add_argument("--coefficients", type=numbers, nargs="+", help="ar, arma: x(n) on x(n-j)")
    source.add_argument("--ma", type=numbers, nargs="+", help="arma: x(n) on g(n-j)")
    source.add_argument("--power", type=float, help="white, ar, arma: (1)")
    source.add_argument("--distribution", choices=DISTRIBUTIONS, help="of the innovations")
    source.add_argument("--frequencies", type=numbers, nargs="+", help="tones: cycles per sample")
    source.add_argument("--amplitudes", type=numbers, nargs="+", help="tones: (1)")
    source.add_argument("--tone-noise", type=float, help="tones: white noise beside them (0.01)")
    source.add_argument("--wav", type=Path, help="wav: the file")
    source.add_argument("--channel", type=int, help="wav: which channel, from 0")
    return p


def _add_setting(group: argparse._ArgumentGroup, name: str, about: str) -> None:
    """An option for a field of the algorithms, by the type that the field is annotated with."""
    kinds = {str(k.settings()[name].type) for k in ALGORITHMS if name in k.settings()}
    if kinds == {"bool"}:
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=about)
    else:
        whole = all(kind.startswith("int") for kind in kinds)
        group.add_argument(f"--{name}", type=int if whole else float, help=about)


def numbers(text: str) -> list[float]:
    """One number, or several with commas between."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it did what was asked, 2 when it could not."""
    command = parser()
    given = vars(command.parse_args(arguments))
    for name in ("system", "path", "coefficients", "ma", "frequencies", "amplitudes"):
        if name in given:
            given[name] = [x for part in given[name] for x in part]
    try:
        run(given)
    except (ValueError, OSError) as error:
        command.error(str(error))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


def run(given: dict[str, Any]) -> None:
    """Check, simulate, predict, report."""
    given = dict(given)
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


# --- from options to objects ---


def build_algorithm(given: dict[str, Any]) -> Algorithm:
    """The algorithm asked for; refuses settings that are another's."""
    name = given["algorithm"]
    kinds = {kind.name: kind for kind in ALGORITHMS}
    if name not in kinds:
        raise Refused(f"--algorithm must be one of {', '.join(kinds)}; got {name}")
    kind = kinds[name]
    known = kind.settings()
    wanted = [setting for setting in algorithm_settings() if setting in given]
    for setting in wanted:
        if setting not in known:
            raise Refused(f"--{setting} means nothing to {name}")
    for setting in known:
        if kind.requires(setting) and setting not in given:
            raise Refused(f"{name} needs --{setting}")
    if kind.has_step_size() and "mu" not in given:
        raise Refused(f"{name} needs --mu")
    if not kind.has_step_size() and "mu" in given:
        raise Refused(f"--mu means nothing to {name}, which has no step size")
    return named(name, mu=given.get("mu"), **{setting: given[setting] for setting in wanted})


def algorithm_settings() -> dict[str, dict[str, str]]:
    """Help by setting and algorithm, over all algorithms."""
    found: dict[str, dict[str, str]] = {}
    for kind in ALGORITHMS:
        for name, field_ in kind.settings().items():
            found.setdefault(name, {})[kind.name] = field_.metadata["help"]
    return found


def build_scenario(given: dict[str, Any]) -> Scenario:
    """The scenario asked for; refuses options that it would ignore."""
    kind = given["scenario"]
    allowed = SCENARIO_OPTIONS[kind]
    every = {name for names in SCENARIO_OPTIONS.values() for name in names}
    _refuse_others(given, every, allowed, f"the scenario {kind}")
    taps = given["taps"]
    if kind == "equalisation":
        _refuse_others(given, {n for names in INPUT_OPTIONS.values() for n in names}, (), kind)
        return adaptive.scenarios.Equalisation(
            adaptive.scenarios.raised_cosine(given.get("W", 3.1)),
            taps=taps,
            delay=given.get("delay", taps // 2 + 2),
            **_noise(given),
        )
    source = build_input(given)
    if kind == "identification":
        system = np.array(given.get("system", _some_response(taps)))
        lines = adaptive.GaussianRegressors(source.R) if "independent" in given else source
        return adaptive.SystemIdentification(lines, w_o=system, **_noise(given))
    if kind == "cancelling":
        sine = adaptive.signals.Tones([given.get("signal", 0.05)], taps=1)
        path = np.array(given.get("path", _some_response(taps)))
        return adaptive.scenarios.NoiseCancelling(sine, source, path=path)
    if kind == "prediction":
        return adaptive.scenarios.Prediction(source, ahead=given.get("ahead", 1))
    return adaptive.scenarios.Echo(
        source,
        length=given.get("length", 4 * taps),
        decay=given.get("decay"),
        loss=given.get("loss", 0.0),
        **_noise(given),
    )


def build_input(given: dict[str, Any]) -> Process:
    """The input asked for; refuses options that it would ignore."""
    kind = given.get("input", "white")
    every = {name for names in INPUT_OPTIONS.values() for name in names}
    _refuse_others(given, every, INPUT_OPTIONS[kind], f"the input {kind}")
    needed = NEEDED.get(kind)
    if needed is not None and needed not in given:
        raise Refused(f"--input {kind} needs --{needed}")
    taps = given["taps"]
    if kind == "wav":
        return adaptive.signals.Recorded.from_wav(
            given["wav"], taps=taps, channel=given.get("channel")
        )
    if kind == "tones":
        return adaptive.signals.Tones(
            given["frequencies"],
            taps=taps,
            amplitudes=given.get("amplitudes", 1.0),
            noise_power=given.get("tone_noise", 0.01),
        )
    noise = {
        "power": given.get("power", 1.0),
        "innovations": given.get("distribution", "gaussian"),
    }
    if kind == "arma":
        return adaptive.signals.ARMA(
            given.get("coefficients", []), given.get("ma", []), taps=taps, **noise
        )
    return adaptive.AutoRegressive(given.get("coefficients", []), taps=taps, **noise)


def _refuse_others(
    given: dict[str, Any], every: set[str], allowed: tuple[str, ...], owner: str
) -> None:
    for name in sorted(every & set(given)):
        if name not in allowed:
            raise Refused(f"--{name.replace('_', '-')} means nothing to {owner}")


def _noise(given: dict[str, Any]) -> dict[str, Any]:
    return {"noise_power": given.get("noise", 0.01), "noise": given.get("noise_kind", "gaussian")}


def _some_response(taps: int) -> Array:
    """A fixed response of unit norm, the same for every seed."""
    w = np.random.default_rng(0).standard_normal(max(taps, 1))
    response: Array = w / np.linalg.norm(w)
    return response


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


# --- while it runs ---


@dataclass
class Watched:
    """A scenario that tells how many of its runs were drawn, once that takes over two seconds."""

    scenario: Scenario
    runs: int
    stream: TextIO
    drawn: int = 0
    began: float = field(default_factory=time.perf_counter)
    told: float = 0.0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def problem(self) -> WienerProblem:
        """Of the scenario."""
        return self.scenario.problem

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Regressors, Array]:
        """One run of the scenario, counted."""
        result = self.scenario.draw(rng, samples)
        with self.lock:
            self.drawn += 1
            now = time.perf_counter() - self.began
            terminal = self.stream.isatty()
            if now > PATIENCE and (self.told == 0 or now - self.told > (0.2 if terminal else 10)):
                self.told = now
                left = now * (self.runs - self.drawn) / self.drawn
                line = f"{self.drawn} of {self.runs} runs, about {max(left, 0):.0f} s left"
                self.stream.write(f"\r{line:<50}" if terminal else f"{line}\n")
                self.stream.flush()
            if terminal and self.told and self.drawn == self.runs:
                self.stream.write(f"\r{'':<50}\r")
        return result


# --- what comes out ---


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


def draw(path: Path, report: Report) -> str:
    """Draw the figure; what to add to the list of files, or why there is none."""
    try:
        from matplotlib.figure import Figure

        from adaptive import plotting
    except ModuleNotFoundError:
        return " (no figure, since matplotlib is not installed: pip install matplotlib)"
    figure = Figure(figsize=(7.5, 7.0), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[1.15, 1])
    wide = figure.add_subplot(grid[0, :])
    e, p = report.ensemble, report.prediction
    plotting.learning_curve(wide, ensemble=e, prediction=p, k=report.given["k"])
    mu = "" if np.isnan(e.mu) else f", $\\mu$ = {e.mu:g}"
    wide.set_title(f"{e.algorithm}{mu}, {report.problem.taps} taps, {report.given['scenario']}")
    plotting.mode_decay(figure.add_subplot(grid[1, 0]), report.problem, ensemble=e, prediction=p)
    # only for LMS is 2 / mu a bound on the eigenvalues
    step = e.mu if e.algorithm == "lms" else None
    plotting.eigenvalue_spectrum(figure.add_subplot(grid[1, 1]), report.problem, mu=step)
    figure.savefig(path, dpi=150)
    return ", curves.png"


if __name__ == "__main__":
    sys.exit(main())
