"""Options of the commands, and the objects that they describe."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import adaptive
from adaptive.algorithms import ALGORITHMS, Algorithm, named, names
from adaptive.checks import Array
from adaptive.command import exits
from adaptive.signals import DISTRIBUTIONS, Process, Scenario

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


class Refused(ValueError):
    """What the user asked for cannot be done; the message says why in one sentence."""


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one sentence."""

    def error(self, message: str) -> NoReturn:
        """Say it and leave with code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def blank(prog: str, about: str) -> Parser:
    """A command line without options of its own yet."""
    p = Parser(
        prog=prog,
        description=about,
        epilog=exits.TABLE,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    p.add_argument("--version", action="version", version=f"naturalmodes {adaptive.__version__}")
    return p


def parser(prog: str = "python -m adaptive") -> Parser:
    """The command line of ``simulate``."""
    p = blank(prog, "Predict and simulate an adaptive filter, and compare the two.")
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

    add_settings(p)
    add_scenario(p)
    return p


def add_settings(p: Parser) -> None:
    """Options for the settings of all algorithms."""
    own = p.add_argument_group("settings of one algorithm or another")
    for name, about in algorithm_settings().items():
        _add_setting(own, name, "; ".join(f"{kind}: {text}" for kind, text in about.items()))


def add_scenario(p: Parser) -> None:
    """Options for a scenario and its input."""
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
    source.add_argument("--tone-noise", type=float, help="tones: power of added white noise (0.01)")
    source.add_argument("--wav", type=Path, help="wav: the file")
    source.add_argument("--channel", type=int, help="wav: which channel, from 0")


def flattened(given: dict[str, Any]) -> dict[str, Any]:
    """The options, with numbers that came in several words as one list."""
    lists = ("system", "path", "coefficients", "ma", "frequencies", "amplitudes")
    return {
        name: [x for part in value for x in part] if name in lists else value
        for name, value in given.items()
    }


def _add_setting(group: argparse._ArgumentGroup, name: str, about: str) -> None:
    """An option for a field of the algorithms, by the type that the field is annotated with."""
    kinds = {str(k.settings()[name].type) for k in ALGORITHMS if name in k.settings()}
    if kinds == {"bool"}:
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=about)
    elif any("ArrayLike" in kind for kind in kinds):
        group.add_argument(f"--{name}", type=numbers, help=about)
    else:
        whole = all(kind.startswith("int") for kind in kinds)
        group.add_argument(f"--{name}", type=int if whole else float, help=about)


def numbers(text: str) -> list[float]:
    """One number, or several with commas between."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def build_algorithm(given: dict[str, Any], *, any_step: bool = False) -> Algorithm:
    """The algorithm asked for; refuses settings that are another's.

    With ``any_step``, mu is still to be found, and 1 for now.
    """
    name = given["algorithm"].replace("-", "_")
    kinds = {kind.name: kind for kind in ALGORITHMS}
    if name not in kinds:
        close = difflib.get_close_matches(name, kinds, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise Refused(f"--algorithm must be one of {', '.join(kinds)}; got {name}{hint}")
    kind = kinds[name]
    known = kind.settings()
    wanted = [setting for setting in algorithm_settings() if setting in given]
    for setting in wanted:
        if setting not in known:
            raise Refused(f"--{setting} means nothing to {name}")
    for setting in known:
        if kind.requires(setting) and setting not in given:
            raise Refused(f"{name} needs --{setting}")
    mu = given.get("mu", 1.0 if any_step and kind.has_step_size() else None)
    if kind.has_step_size() and mu is None:
        raise Refused(f"{name} needs --mu")
    if not kind.has_step_size() and "mu" in given:
        raise Refused(f"--mu means nothing to {name}, which has no step size")
    return named(name, mu=mu, **{setting: given[setting] for setting in wanted})


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
