"""Homogeneity of a loss at large scale: whether SGD can make a network explode, and how fast.

Multiply all learned parameters by a. At large a the loss grows like a^D, and D, the degree, is a
small integer that two forward passes measure. Under SGD with a bounded derivative of the loss by
the outputs, a network with D <= 1 cannot explode at any learning rate; D = 2 explodes
geometrically above a finite rate, and D > 2 faster than geometrically. ``docs/homogeneity.md``
has the argument with its assumptions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from adaptive.checks import nonnegative
from cnnbridge import _checks
from cnnbridge.layers.isolation import check_eager, model_copy, same_random_state
from cnnbridge.learning.batch_loss import Batch, BatchLoss, Loss, listed, placed

__all__ = ["Degree", "ParameterGroup", "degree"]

# Scales between which a slope is read, widest first. A deep network without normalization
# overflows float64 at the first pair: 1e6 to the power of its depth.
SCALES = ((1e4, 1e6), (1e3, 1e4), (1e2, 1e3), (30.0, 100.0))
# A slope this close to an integer counts as that integer.
ROUNDING = 0.15
LARGEST_DECAY = 1e100  # beyond it the scaled weights overflow
# Entries that are exactly zero, as biases and shifts are at the start, take normal values of this
# size: a parameter at zero hides its degree.
OFF_ZERO = 0.1

SATURATING = (nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.ReLU6, nn.Softsign, nn.Hardsigmoid)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters of one role, and what the loss's degree owes to them.

    Attributes
    ----------
    name : of the role, such as "last gain" (gamma of the last normalization) or "head weight".
    parameters : their names in the model.
    alone : degree of the loss when only this group is scaled.
    """

    name: str
    parameters: tuple[str, ...]
    alone: float


@dataclass(frozen=True)
class Degree:
    """The degree of a regularised loss, and what follows from it.

    Attributes
    ----------
    value : d log L(a theta) / d log a at large a; theta are all parameters that learn.
    exponent : d log |theta_2| / d log lr, the size of the parameters after two updates of SGD
        against the learning rate. Theory says max(1, value); NaN where it was not finite.
    scales : the two values of a; a smaller pair is taken where the usual one overflows.
    groups : the roles of parameters, in the order of the network.
    sources : the smallest sets of groups that reach the degree by themselves, as names: groups
        alone, and pairs of which neither does. Such a pair multiplies: ("last gain", "head
        weight") is gamma of the last normalization with the weights that read it.
    growth : "bounded" (no explosion), "geometric" or "faster".
    caveats : why the statement may not apply to this model, a sentence each.
    remedies : changes after which trials of ours found degree 1, a sentence each.
    """

    value: float
    exponent: float
    scales: tuple[float, float]
    groups: tuple[ParameterGroup, ...]
    sources: tuple[tuple[str, ...], ...]
    growth: Literal["bounded", "geometric", "faster"]
    caveats: tuple[str, ...]
    remedies: tuple[str, ...]

    @property
    def explodes(self) -> bool:
        """Whether SGD explodes at a large enough learning rate."""
        return self.growth != "bounded"

    @property
    def statement(self) -> str:
        """What the degree says, in a sentence or two."""
        start = f"The loss has degree {self.value:.3g} in its learned parameters."
        if self.growth == "bounded":
            return (
                f"{start} SGD cannot make it explode at any learning rate: the parameters grow at "
                "most like the learning rate times a power of the number of updates. It can still "
                "die (features that no longer depend on the input) or learn nothing."
            )
        how = "geometrically" if self.growth == "geometric" else "faster than geometrically"
        sources = "; ".join(" with ".join(source) for source in self.sources)
        origin = f" The degree comes from {sources}." if sources else ""
        return f"{start} Above a finite learning rate SGD explodes {how}.{origin}"

    def __str__(self) -> str:
        rows = [self.statement, f"Exponent after two updates: {self.exponent:.3g}"]
        rows += [f"{'group':<24} {'degree alone':>12}"]
        rows += [f"{g.name:<24} {g.alone:>12.2f}" for g in self.groups]
        return "\n".join([*rows, *self.caveats, *self.remedies])


def degree(
    model: nn.Module,
    data: Batch,
    loss: Loss = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    weight_decay: float | None = None,
    groups: bool = True,
    seed: int = 0,
) -> Degree:
    """Homogeneity degree of a loss in all learned parameters, and whether SGD can explode.

    The degree is measured on a float64 copy in training mode with dropout off, between two large
    scales; exact zeros are moved off zero first. The model itself is not touched.

    Parameters
    ----------
    model : a network; parameters with ``requires_grad`` are the ones that learn.
    data : one batch of at least two rows, a tuple or dict, as in ``NetworkTask``.
    loss : a torch loss, f(output, target), f(model, batch), or None for a model that returns its
        own.
    optimizer : torch's optimizer of the training; its weight decay counts as a term of degree 2.
        The statement is about SGD: any other optimizer is named in ``caveats``.
    weight_decay : used in place of the optimizer's.
    groups : measure each role of parameters too, about thirty forward passes more.
    seed : of the values that replace exact zeros.

    Returns
    -------
    Degree.

    Raises
    ------
    TypeError : model, data or optimizer of another type; a loss that gives no scalar tensor.
    ValueError : no parameter learns; the loss is not finite at any pair of scales, or is zero.

    Notes
    -----
    Extends the homogeneity argument of Arora, Li and Lyu, "Theoretical analysis of auto
    rate-tuning by batch normalization", ICLR 2019, from the weights under a normalization to the
    regularised loss in all parameters together.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(16, 5), torch.arange(16) % 3
    >>> plain = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3))
    >>> degree(plain, (x, y), nn.CrossEntropyLoss()).explodes
    True
    >>> norm = nn.BatchNorm1d(8, affine=False)
    >>> normalized = nn.Sequential(nn.Linear(5, 8), norm, nn.ReLU(), nn.Linear(8, 3))
    >>> degree(normalized, (x, y), nn.CrossEntropyLoss()).explodes
    False
    """
    groups = _checks.flag("groups", groups)
    probe = _Probe(model, data, loss, optimizer, weight_decay, seed)
    scales, value = probe.slope(probe.learned)
    measured = tuple(
        ParameterGroup(role, tuple(names), probe.slope(names, scales)[1])
        for role, names in (_roles(probe) if groups else {}).items()
    )
    sources = _sources(probe, scales, value, measured)
    growth: Literal["bounded", "geometric", "faster"] = (
        "bounded" if value < 1.5 else "geometric" if value < 2.5 else "faster"
    )
    return Degree(
        value=value,
        exponent=probe.exponent(),
        scales=scales,
        groups=measured,
        sources=sources,
        growth=growth,
        caveats=_caveats(model, optimizer),
        remedies=_remedies(probe, scales, value, sources),
    )


def _sources(
    probe: _Probe, scales: tuple[float, float], value: float, groups: Sequence[ParameterGroup]
) -> tuple[tuple[str, ...], ...]:
    """Smallest sets of one or two groups that reach the degree."""
    if value < 1.5:
        return ()
    single = [(g.name,) for g in groups if g.alone > value - ROUNDING]
    rest = [g for g in groups if (g.name,) not in single]
    pairs = [
        (g.name, h.name)
        for g, h in itertools.combinations(rest, 2)
        if g.alone + h.alone > value - 2 * ROUNDING
        and probe.slope([*g.parameters, *h.parameters], scales)[1] > value - ROUNDING
    ]
    return (*single, *pairs)


class _Probe:
    """A float64 copy of the model with its batch, whose parameters can be scaled and trained."""

    def __init__(
        self,
        model: nn.Module,
        data: Batch,
        loss: Loss,
        optimizer: torch.optim.Optimizer | None,
        weight_decay: float | None,
        seed: int,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer or None; got {type(optimizer).__name__}"
            )
        self.meet = BatchLoss(loss)
        batches = listed(data)
        if len(batches) != 1:
            raise ValueError(f"data must be one batch; got {len(batches)}")
        self.model = model_copy(check_eager(model)).double().train()
        for module in self.model.modules():
            if isinstance(module, DROPOUT):
                module.eval()
        self.decay = _decay(optimizer) if weight_decay is None else weight_decay
        if nonnegative("weight_decay", self.decay) > LARGEST_DECAY:
            raise ValueError(
                f"weight_decay must be at most {LARGEST_DECAY:.0e}; got {self.decay:.3g}"
            )
        self.learned = [n for n, p in self.model.named_parameters() if p.requires_grad]
        if not self.learned:
            raise ValueError("model must have parameters that learn; got none with requires_grad")
        place = self.model.get_parameter(self.learned[0]).device
        self.batch = _mapped(placed(batches[0], place), _double)
        generator = torch.Generator().manual_seed(_checks.seed("seed", seed))
        with torch.no_grad():
            for p in self.model.parameters():
                if p.requires_grad:
                    noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
                    p[p == 0] = OFF_ZERO * noise.to(p.device)[p == 0]
        self.start = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.buffers = {n: b.clone() for n, b in self.model.named_buffers()}

    def losses(self) -> list[float]:
        """The loss for the targets, and for targets moved on by one row.

        A trained network classifies its own batch without error, and then scaling brings the loss
        to zero instead of showing its degree; targets moved on by one row do show it.
        """
        with torch.no_grad(), same_random_state():
            return [float(self.meet(self.model, b)[1]) for b in (self.batch, _rolled(self.batch))]

    def slope(
        self, names: Sequence[str], scales: tuple[float, float] | None = None
    ) -> tuple[tuple[float, float], float]:
        """Scales used, and the degree of the loss in the named parameters between them."""
        if not names:
            return scales or SCALES[0], 0.0
        for pair in SCALES if scales is None else (scales,):
            low, high = (self._regularised(names, a) for a in pair)
            found = [
                math.log(h / lo) / math.log(pair[1] / pair[0])
                for lo, h in zip(low, high, strict=True)
                if math.isfinite(h) and min(lo, h) > 0
            ]
            if found:
                return pair, max(found)
        if scales is not None:
            return scales, 0.0
        raise ValueError(
            "loss must be finite and positive when the parameters are scaled; got none between "
            f"scales {SCALES[-1][0]:g} and {SCALES[0][1]:g}"
        )

    def loss_degree(self, scales: tuple[float, float]) -> float:
        """Degree of the loss in the model's output: 1 for cross-entropy, 2 for squared error.

        NaN where the output is not one tensor, or the loss is taken inside the model.
        """
        values = []
        for a in scales:
            scale: Any = lambda module, args, out, a=a: (  # noqa: E731
                a * out if isinstance(out, torch.Tensor) else None
            )
            handle = self.model.register_forward_hook(scale)
            try:
                values.append(max(self.losses()))
            finally:
                handle.remove()
                self._restore()
        if not 0 < min(values) <= max(values) < math.inf:
            return math.nan
        return math.log(values[1] / values[0]) / math.log(scales[1] / scales[0])

    def _regularised(self, names: Sequence[str], a: float) -> list[float]:
        """Losses with weight decay where the named parameters are a times as large."""
        with self._scaled(names, a), torch.no_grad():
            values = self.losses()
            chosen = (self.model.get_parameter(n) for n in names)
            decay = 0.5 * self.decay * sum(float(p.square().sum()) for p in chosen)
        return [value + decay for value in values]

    @contextmanager
    def _scaled(self, names: Sequence[str], a: float) -> Iterator[None]:
        with torch.no_grad():
            for n in names:
                self.model.get_parameter(n).mul_(a)
        try:
            yield
        finally:
            self._restore()

    @torch.no_grad()
    def _restore(self) -> None:
        for n, p in self.model.named_parameters():
            p.copy_(self.start[n])
        for n, b in self.model.named_buffers():
            b.copy_(self.buffers[n])

    def exponent(self) -> float:
        """d log |theta_2| / d log lr after two updates of SGD on the batch."""
        for pair in SCALES[:-1]:
            sizes = [self._after_two(lr) for lr in pair]
            if all(map(math.isfinite, sizes)):
                return math.log(sizes[1] / sizes[0]) / math.log(pair[1] / pair[0])
        return math.nan

    def _after_two(self, lr: float) -> float:
        learned = [self.model.get_parameter(n) for n in self.learned]
        sgd = torch.optim.SGD(learned, lr=lr, weight_decay=self.decay)
        try:
            for _ in range(2):
                sgd.zero_grad()
                self.meet(self.model, self.batch)[1].backward()
                sgd.step()
            return math.sqrt(sum(float(p.detach().square().sum()) for p in learned))
        finally:
            sgd.zero_grad()
            self._restore()


def _double(t: torch.Tensor) -> torch.Tensor:
    return t.double() if t.is_floating_point() else t


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nested batch with each tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: _mapped(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(v, change) for v in value)
    return value


def _rolled(batch: Batch) -> Batch:
    """The batch with its targets, the last item or what is called labels, moved on by one row."""
    move = partial(_mapped, change=lambda t: t.roll(1, 0) if t.ndim else t)
    if isinstance(batch, dict):
        return {
            k: move(v) if k in ("label", "labels", "target", "targets") else v
            for k, v in batch.items()
        }
    return (*batch[:-1], move(batch[-1])) if len(batch) > 1 else batch


def _decay(optimizer: torch.optim.Optimizer | None) -> float:
    if optimizer is None:
        return 0.0
    return max(float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups)


def _roles(probe: _Probe) -> dict[str, list[str]]:
    """Learned parameters by role; "last" and "head" by the order in which modules are used."""
    used: list[nn.Module] = []
    owners = [m for m in probe.model.modules() if list(m.parameters(recurse=False))]
    handles = [m.register_forward_hook(lambda m, *_: used.append(m)) for m in owners]
    try:
        probe.losses()
    finally:
        for handle in handles:
            handle.remove()
        probe._restore()
    linear = [m for m in used if isinstance(m, LINEAR)]
    norms = [m for m in used if not isinstance(m, LINEAR)]
    head, last = linear[-1] if linear else None, norms[-1] if norms else None
    found: dict[str, list[str]] = {}
    learned = set(probe.learned)
    for prefix, module in probe.model.named_modules():
        for leaf, p in module.named_parameters(recurse=False):
            name = f"{prefix}.{leaf}" if prefix else leaf
            if name in learned:
                found.setdefault(_role(module, leaf, p, head, last), []).append(name)
    order = [*ROLES, *(role for role in found if role not in ROLES)]
    return {role: found[role] for role in order if role in found}


ROLES = (
    "weights",
    "biases",
    "inner gains",
    "inner shifts",
    "last gain",
    "last shift",
    "head weight",
    "head bias",
)


def _role(
    module: nn.Module,
    leaf: str,
    p: torch.Tensor,
    head: nn.Module | None,
    last: nn.Module | None,
) -> str:
    if isinstance(module, LINEAR) and leaf in ("weight", "bias"):
        if module is head:
            return f"head {leaf}"
        return "weights" if leaf == "weight" else "biases"
    if leaf in ("weight", "bias"):
        word = "gain" if leaf == "weight" else "shift"
        return f"last {word}" if module is last else f"inner {word}s"
    return leaf


def _caveats(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[str, ...]:
    found = []
    if optimizer is not None and not isinstance(optimizer, torch.optim.SGD):
        found.append(
            f"{type(optimizer).__name__} bounds the step itself, so its parameters grow like the "
            "learning rate times the number of updates whatever the degree; the loss still grows "
            "with the power that the degree names."
        )
    saturating = sorted({type(m).__name__ for m in model.modules() if isinstance(m, SATURATING)})
    if saturating:
        found.append(
            f"{', '.join(saturating)} saturates: its derivative near the kink is not bounded by "
            "1 / |w|, so the parameters may jump once before they settle."
        )
    if any(isinstance(m, nn.MultiheadAttention) for m in model.modules()):
        found.append(
            "Softmax attention saturates at large scale: in trials of ours, small transformers of "
            "degree 1 whose blocks learn gains and shifts exploded, so the statement does not "
            "apply."
        )
    return tuple(found)


def _remedies(
    probe: _Probe, scales: tuple[float, float], value: float, sources: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    if value < 1.5:
        return ()
    found = []
    if probe.decay > 0:
        found.append(
            "Weight decay is a term of degree 2: keep learning rate times weight decay below 2."
        )
        probe.decay, kept = 0.0, probe.decay
        value = probe.slope(probe.learned, scales)[1]
        probe.decay = kept
        if value < 1.5:
            return tuple(found)
    if probe.loss_degree(scales) > 1.5:
        found.append(
            "Use a loss whose derivative by the outputs is bounded, such as cross-entropy or Huber."
        )
    groups = {name for source in sources for name in source}
    if groups & {"last gain", "last shift"}:
        found.append(
            "Give the last normalization no gain and no shift, or a bounded gain such as "
            "2 sigmoid(s)."
        )
    if groups & {"inner gains", "inner shifts", "weights", "biases"}:
        found.append(
            "Add a normalization without gain and shift in front of the head; in a residual "
            "network this is the one that counts."
        )
    found.append("Normalise the features before the head to length 1, or freeze the head.")
    return tuple(found)
