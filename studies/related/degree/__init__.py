"""Study ``degree``: does one integer say which networks SGD can make explode?

D is the degree of the regularised loss in all learned parameters scaled together, at large scale
(``cnnbridge.degree``). Theory: D at most 1 cannot explode at any learning rate, 2 explodes
geometrically above a finite rate, more explodes faster. Each network's degree is measured before
it is trained; the training then shows whether the prediction holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from studies.engine.protocol import Lazy, Study, seeds
from studies.training.images import Images

__all__ = ["STUDY", "Cell", "Config", "Form"]

Task = Literal["fate", "rate", "collapse"]

EXPERIMENT = (
    "Four 3x3 convolutions of 8 to 16 channels with one linear layer, in some forty forms: kinds "
    "of normalization, which gains and shifts learn, order of ReLU and normalization, residual "
    "connections, heads, losses, weight decay, and small transformers. SGD on batches of 32 images "
    "of 16x16 pixels; images, weights and order are drawn from each seed. T1 trains every form at "
    "learning rate 1e6. T2 trains forms of degree 2 and more on a grid of rates. T3 trains forms "
    "of degree 1 at four rates from 1e2 to 1e6. All degrees are measured before training. Networks "
    "and settings are ours."
)
RULE = (
    "T1: the degree (explodes if and only if it is above 1.5) predicts, without an error, whether "
    "a network without attention explodes at 1e6, in at least 300 networks; exploding means not "
    "finite, or loss and parameter norm both peaking above the rate to the power 1.5. T2: for "
    "networks that explode through the last gain or shift, the median factor between the interval "
    "of the explosion rate and one constant (fitted on half of the seeds) is at most 1.5 on the "
    "other half; for squared error behind a normalization, the same factor from 2 / (largest "
    "curvature of the head) is at most 1.5; for networks of degree above 2 that explode on the "
    "grid, the rate at which the third gradient would move some layer by half its own norm has "
    "Spearman's correlation of at least 0.85 with the explosion rate, and a median factor of at "
    "most 1.5 from it after one constant fitted on half of the seeds. T3: for networks of degree 1 "
    "whose features stay alive, the mean over seeds of log(loss / rate) at updates 11 to 30 and "
    "at the end differs between rates from 1e2 to 1e6 by a factor of at most 1.3. T4: the exponent "
    "of the parameters' size after two updates against the learning rate is max(1, degree) to "
    "0.15 in at least 95 % of the networks without attention. The study holds if T1 to T4 hold "
    "and fails if one fails. Two baselines are given for T1: the degree of the features in the "
    "convolutions alone, and a lookup of what the same form did at other seeds. Transformers are "
    "reported without deciding: a first small run showed some of degree 1 exploding before this "
    "rule was written, and attention breaks an assumption of the theory."
)


@dataclass(frozen=True)
class Form:
    """One architecture with its loss and decay; ``networks.build`` makes it.

    Attributes
    ----------
    norm : kind of normalization between the layers.
    affine : which normalizations learn gain and shift: "none", "all", "last", "inner" (all but the
        last), "gain" or "shift" (that part in all), or "bounded" (gain 2 sigmoid(s) in all).
    order : "pre" for conv - norm - ReLU, "post" for conv - ReLU - norm.
    body : "plain", "residual", or "transformer".
    final : a normalization without gain and shift in front of the head.
    bias : the convolutions have one.
    head : "linear", "cosine", "frozen" or "two-layer".
    loss : "cross-entropy", "mse", "huber" or "hinge".
    decay : torch's weight decay.
    """

    norm: str = "none"
    affine: str = "none"
    order: str = "pre"
    body: str = "plain"
    final: bool = False
    bias: bool = False
    head: str = "linear"
    loss: str = "cross-entropy"
    decay: float = 0.0

    @property
    def name(self) -> str:
        """In words, for tables."""
        words = [self.body, self.norm if self.norm != "none" else "no norm"]
        words += [f"affine {self.affine}"] if self.affine != "none" else []
        words += [self.order] if self.order != "pre" else []
        words += ["final norm"] if self.final else []
        words += ["bias"] if self.bias else []
        words += [f"{self.head} head"] if self.head != "linear" else []
        words += [self.loss] if self.loss != "cross-entropy" else []
        words += [f"decay {self.decay:g}"] if self.decay else []
        return ", ".join(words)


BATCH = Form("batch")
FORMS = (
    Form(),
    Form(bias=True),
    Form("center"),
    Form("amplify"),
    Form("suppress"),
    Form("frozen"),
    Form("rms"),
    Form("weight standardization"),
    Form("weight standardization", bias=True),
    Form("weight norm"),
    Form("spectral norm"),
    BATCH,
    replace(BATCH, order="post"),
    replace(BATCH, bias=True),
    replace(BATCH, affine="all"),
    replace(BATCH, affine="all", order="post"),
    replace(BATCH, affine="last"),
    replace(BATCH, affine="last", order="post"),
    replace(BATCH, affine="inner"),
    replace(BATCH, affine="gain"),
    replace(BATCH, affine="shift", order="post"),
    replace(BATCH, affine="bounded"),
    replace(BATCH, affine="all", final=True),
    replace(BATCH, head="cosine"),
    replace(BATCH, head="two-layer"),
    replace(BATCH, affine="all", head="frozen"),
    replace(BATCH, loss="mse"),
    replace(BATCH, loss="huber"),
    replace(BATCH, loss="hinge"),
    replace(BATCH, decay=5e-4),
    Form("layer"),
    Form("layer", affine="all"),
    Form("group"),
    Form("group", affine="all"),
    Form("instance"),
    Form("batch", body="residual"),
    Form("batch", affine="all", body="residual"),
    Form("batch", affine="all", body="residual", final=True),
    Form(body="residual"),
    Form("layer", affine="all", body="transformer"),
    Form("layer", affine="all", body="transformer", final=True),
    Form("layer", body="transformer", final=True),
)
# Explosion through the last gain or shift, through squared error, and without normalization.
AFFINE = (
    replace(BATCH, affine="last"),
    replace(BATCH, affine="last", order="post"),
    replace(BATCH, affine="all", order="post"),
)
SQUARED = (replace(BATCH, loss="mse"), replace(BATCH, loss="mse", order="post"))
PLAIN = (
    Form("center"),
    Form("amplify"),
    Form("frozen"),
    Form("weight norm"),
    Form(),
    Form(bias=True),
    Form(body="residual"),
)
ALIVE = (BATCH, replace(BATCH, order="post"), Form("layer"), Form("suppress"))


@dataclass(frozen=True)
class Cell:
    """Everything that decides the numbers.

    Attributes
    ----------
    form : of the network.
    task : "fate" (one run at a huge rate), "rate" (a grid of rates) or "collapse" (huge rates).
    images : drawn with ``seed``.
    seed : of images, weights and order.
    rates : learning rates, one run each.
    steps : updates of a run, at most.
    widths : channels of the four convolutions.
    """

    form: Form = BATCH
    task: Task = "fate"
    images: Images = Images(limit=2000, size=16)
    seed: int = 0
    rates: tuple[float, ...] = (1e6,)
    steps: int = 100
    widths: tuple[int, ...] = (8, 8, 16, 16)
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    """A preset.

    Attributes
    ----------
    fates, seeds : seeds of each form in T1, and of each form in T2 and T3.
    forms : of T1.
    lowest, octaves, per_octave : the grid of rates in T2.
    rate_steps, collapse_steps : updates of each run in T2 and T3.
    cell : the rest.
    """

    preset: str
    seed: int = 0
    fates: int = 8
    seeds: int = 6
    forms: tuple[Form, ...] = FORMS
    lowest: float = 0.03125
    octaves: int = 10
    per_octave: int = 2
    rate_steps: int = 100
    collapse_steps: int = 200
    cell: Cell = Cell()

    @property
    def rates(self) -> tuple[float, ...]:
        """The grid of T2."""
        count = self.octaves * self.per_octave + 1
        return tuple(self.lowest * 2 ** (k / self.per_octave) for k in range(count))


PRESETS = {
    "smoke": Config(
        "smoke",
        fates=1,
        seeds=1,
        per_octave=1,
        rate_steps=30,
        collapse_steps=30,
        cell=Cell(images=Images(limit=400, size=16), steps=30, widths=(4, 4, 8, 8)),
    ),
    "laptop": Config("laptop"),
    "full": Config(
        "full",
        fates=16,
        seeds=12,
        per_octave=4,
        rate_steps=300,
        collapse_steps=300,
        cell=Cell(images=Images(limit=20_000, size=32), widths=(16, 16, 32, 32)),
    ),
}
HUGE = (1e2, 1e3, 1e4, 1e6)


def cells(config: Config, device: str) -> list[Cell]:
    """Every network of the study, seed by seed."""

    def made(forms: Iterable[Form], seed: int, **options: object) -> list[Cell]:
        images = replace(config.cell.images, seed=seed)
        start = replace(config.cell, images=images, seed=seed, device=device)
        return [replace(start, form=form, **options) for form in forms]  # type: ignore[arg-type]

    found: list[Cell] = []
    for seed in seeds(config.seed, config.fates):
        found += made(config.forms, seed)
    for seed in seeds(config.seed, config.seeds):
        grid = {"task": "rate", "rates": config.rates, "steps": config.rate_steps}
        huge = {"task": "collapse", "rates": HUGE, "steps": config.collapse_steps}
        found += made((*AFFINE, *SQUARED, *PLAIN), seed, **grid)
        found += made(ALIVE, seed, **huge)
    return found


STUDY = Study(
    name="degree",
    title="What can explode",
    question="Does the degree of the loss say which networks SGD can make explode, and how?",
    experiment=EXPERIMENT,
    rule=RULE,
    presets=PRESETS,
    cells=cells,
    measure=Lazy("studies.related.degree.measure:measure"),
    judge=Lazy("studies.related.degree.judge:judge"),
)
