"""Small studies that answer what they are told to, in the shape that real ones have."""

import dataclasses
import functools
import io
from dataclasses import dataclass

from studies import Study
from studies.engine import page as report
from studies.engine import style as figures
from studies.engine import summary as results
from studies.engine.errors import UserError
from studies.engine.summary import Answer, Summary, at_most

EXPERIMENT = "We looked at nothing at all."
RULE = "It holds when the error is at most 1."

# what each fake is to do: "ok", "wrong", "raise", "refuse", "stop", "half", or "silent"
BEHAVIOUR: dict[str, str] = {}
RUNS: list[str] = []


@functools.cache
def picture():
    """The bytes of a PNG."""
    figure, (ax,) = figures.panels(1)
    ax.plot([0, 1])
    file = io.BytesIO()
    figure.savefig(file, dpi=40)
    return file.getvalue()


@dataclass(frozen=True)
class Config:
    preset: str
    seed: int


def make(letter):
    """A module-like study for a letter; its config takes no data."""

    class Fake:
        EXPERIMENT = EXPERIMENT
        RULE = RULE

        @staticmethod
        def configure(preset, *, seed=0):
            if preset not in ("smoke", "laptop"):
                raise UserError(f"unknown preset {preset!r}.")
            return Config(preset, seed)

        @staticmethod
        def run(config, out, *, device="auto", command=None, workers=None):
            RUNS.append(letter)
            how = BEHAVIOUR.get(letter, "ok")
            if how == "refuse":
                raise UserError("there are no images.")
            if how == "raise":
                raise ZeroDivisionError("by zero")
            if how == "stop":
                raise KeyboardInterrupt
            out.mkdir(parents=True, exist_ok=True)
            png = out / "line.png"
            png.write_bytes(picture())
            check = at_most("error", 2.0 if how == "wrong" else 0.5, 1.0, unit="")
            summary = Summary(
                study=f"fake-{letter}",
                config=dataclasses.asdict(config),
                seed=config.seed,
                device="cpu",
                command=command or "",
                versions=results.versions(),
                machine=results.machine(),
                commit=results.commit(),
                status="incomplete" if how == "half" else "complete",
                duration=1.5,
                checks=[check],
                results={"loss": 0.25 + config.seed, "layers": [{"name": "conv1", "tau": 3.0}]},
            )
            if how != "silent":
                summary.answer = Answer(
                    EXPERIMENT,
                    RULE,
                    check.verdict,
                    f"The error is {check.observed}.",
                    [("error", str(check.observed))],
                    png.name,
                    "A line.",
                    "A straight line that rises from 0 to 1.",
                    against=[f"Nothing was looked at in {letter}."],
                )
            summary.write(out / "summary.json")
            report.write(out / "report.html", summary, title="T", question="Q?", sections=[])
            return summary

    return Fake


A, B, C, D = map(make, "ABCD")
D_AFTER = make("D after")


def registry(letters="ABCD"):
    return {
        f"fake-{letter.lower()}": Study(f"fake_{letter}", f"Is {letter} so?", claim=letter)
        for letter in letters
    }


def with_halves():
    """A registry in which claim D has a study for each of its halves."""
    return registry() | {"fake-d-after": Study("fake_D_after", "Is D still so?", claim="D")}


def install(monkeypatch):
    """Make the fakes importable and forget what they did before."""
    import sys

    BEHAVIOUR.clear()
    RUNS.clear()
    for letter, module in zip("ABCD", (A, B, C, D), strict=True):
        monkeypatch.setitem(sys.modules, f"fake_{letter}", module)
    monkeypatch.setitem(sys.modules, "fake_D_after", D_AFTER)
