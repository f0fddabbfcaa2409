"""Small studies that answer what they are told to, in the shape that real ones have."""

from dataclasses import dataclass

from studies.engine.checks import at_most
from studies.engine.errors import UserError
from studies.engine.interrupts import Interrupted
from studies.engine.protocol import Claim, Figure, Findings, Paper, Study

EXPERIMENT = "We looked at nothing at all."
RULE = "It holds when the error is at most 1."

# what each fake is to do: "ok", "wrong", "raise", "refuse", "stop", "half", or "silent"
BEHAVIOUR: dict[str, str] = {}
RUNS: list[str] = []


@dataclass(frozen=True)
class Gate:
    """Refuses when it is told to, as missing images do."""

    name: str

    def check(self):
        if BEHAVIOUR.get(self.name) == "refuse":
            raise UserError("there are no images.")


@dataclass(frozen=True)
class Cell:
    gate: Gate
    seed: int = 0


@dataclass(frozen=True)
class Config:
    preset: str
    seed: int = 0


def measure(cell):
    how = BEHAVIOUR.get(cell.gate.name, "ok")
    RUNS.append(cell.gate.name)
    if how == "stop":
        raise Interrupted
    if how == "half":
        raise ValueError("half of it is missing")
    return {"error": 2.0 if how == "wrong" else 0.5}


def line(ax):
    ax.plot([0, 1])


def judge_of(name):
    def judge(config, measured):
        if BEHAVIOUR.get(name) == "raise":
            raise ZeroDivisionError("by zero")
        if measured[0].error is not None:
            return Findings("inconclusive", reason="Nothing was measured.")
        check = at_most("error", measured[0].result["error"], 1.0, unit="")
        silent = BEHAVIOUR.get(name) == "silent"
        return Findings(
            check.verdict,
            [check],
            f"The error is {check.observed}.",
            results={"loss": 0.25 + config.seed, "layers": [{"name": "conv1", "tau": 3.0}]},
            answer=Figure("line", "A line.", "A straight line that rises from 0 to 1.", [line]),
            against=[] if silent else [f"Nothing was looked at in {name}."],
        )

    return judge


def make(name):
    """A study of a name; it uses no images."""
    return Study(
        name=name,
        title="T",
        question=f"Is {name} so?",
        experiment=EXPERIMENT,
        rule=RULE,
        presets={preset: Config(preset) for preset in ("smoke", "laptop")},
        cells=lambda config, _: [Cell(Gate(name), config.seed)],
        measure=measure,
        judge=judge_of(name),
    )


NAMES = ("fake-a", "fake-b", "fake-c", "fake-d")
STUDIES = {name: make(name) for name in NAMES}
PAPER = Paper(
    name="fake2020",
    title="What nothing does",
    citation="N. Body, On Nothing, 2020",
    claims=(
        Claim("Nothing", "Nothing is so.", ("fake-a", "fake-b")),
        Claim("Less", "Less is so.", ("fake-c",)),
        Claim("Least", "Least is so.", ("fake-d",)),
    ),
)


def forget():
    """Forget what the fakes were told and did before."""
    BEHAVIOUR.clear()
    RUNS.clear()
