"""Level 1 with mini-batches: a layer on its own MSE, exact in the mean and in the mean square."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

import adaptive
from adaptive import search
from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import autograd
from cnnbridge.learning.records import Edge
from cnnbridge.learning.sgd import SGD
from cnnbridge.learning.side_by_side import Runs, data_by_group

LEVEL = "1: layer MSE, mini-batches drawn at random"
ASSUMPTION = (
    "none but exact arithmetic: the desired response is given, and every batch is drawn "
    "independently from all images, {how}. Going through a shuffled data set in epochs is not "
    "covered"
)
EDGE_RULE = (
    "float64. Each run trains the layer twice on the same batches, from two starts. A learning "
    "rate diverges if, in the median run, the two are further apart at the end than after a "
    "tenth of the steps, in outputs over all images"
)


@dataclass(frozen=True)
class MinibatchEdges:
    """Three learning rates at which mini-batch training of a layer breaks, in torch's units.

    Attributes
    ----------
    mean_square : the expected squared weight error converges below it; exact. Above it the average
        over runs grows, carried by few of them.
    almost_sure : every run converges below it, up to its noise; estimated (Lyapunov exponent).
    almost_sure_error : standard error of ``almost_sure``.
    mean : the mean weights converge below it, M / lambda_max, as full-batch training does; exact.
    batch, replace : what they hold for.
    assumption : what they rest on.
    """

    mean_square: float
    almost_sure: float
    almost_sure_error: float
    mean: float
    batch: int
    replace: bool
    assumption: str

    def __str__(self) -> str:
        return (
            f"lr < {self.mean_square:<10.4g} mean square: E|W - W*|^2 converges\n"
            f"lr < {self.almost_sure:<10.4g} almost sure: every run converges, up to its noise "
            f"(standard error {self.almost_sure_error:.2g})\n"
            f"lr < {self.mean:<10.4g} mean: E[W] converges"
        )


@dataclass(frozen=True, eq=False)
class MinibatchPrediction:
    """Expected training of a layer by mini-batches; M output channels, L taps, bias tap last.

    Attributes
    ----------
    level, assumption : which prediction this is, and what it rests on.
    sgd : the settings of SGD.
    batch, replace : images per batch, and how they are drawn.
    loss : (steps + 1,): expected ``MSELoss()`` over all images at W(n); inf past overflow.
    loss_min : the least MSE that any weights reach.
    loss_final : expected loss in the steady state; inf at or above the mean-square edge.
    mean_weights : (steps + 1, M, L): E[W(n)].
    mean_square_edge, mean_edge : exact edges, in units of the learning rate, at that momentum and
        weight decay.
    """

    sgd: SGD
    batch: int
    replace: bool
    loss_min: float
    loss_final: float
    mean_square_edge: float
    mean_edge: float
    loss: Array = field(repr=False)
    mean_weights: Array = field(repr=False)
    assumption: str = field(repr=False)
    level: str = LEVEL

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.loss) - 1

    @property
    def stable(self) -> bool:
        """Whether the expected loss converges."""
        return self.sgd.lr < self.mean_square_edge


@dataclass(frozen=True, eq=False)
class MinibatchObservation:
    """Seeded, independent mini-batch trainings of a layer in torch.

    Attributes
    ----------
    sgd, batch, replace, runs, seed : what was run.
    loss, loss_se : (steps + 1,): mean over runs of ``MSELoss()`` over all images at W(n), and its
        standard error.
    loss_median : (steps + 1,): of the same, which few heavy runs cannot carry away.
    mean_weights, mean_weights_se : (steps + 1, M, L): mean over runs, and its standard error.
    diverged : runs that left the finite numbers; means are inf or NaN from there on.
    """

    sgd: SGD
    batch: int
    replace: bool
    runs: int
    seed: int
    diverged: int
    loss: Array = field(repr=False)
    loss_se: Array = field(repr=False)
    loss_median: Array = field(repr=False)
    mean_weights: Array = field(repr=False)
    mean_weights_se: Array = field(repr=False)


@dataclass(frozen=True, eq=False)
class MinibatchComparison:
    """How far the runs are from the prediction, in their standard errors.

    The loss is skewed over runs, the more so where few images of a batch decide. A step whose
    runs happen to lack their heavy ones has a low mean and a low standard error at once, and seems
    further off than it is: ``pooled`` takes the standard error over neighbouring steps.

    Attributes
    ----------
    prediction, observation : what was compared.
    largest, largest_pooled : largest of |deviations|, of |pooled|.
    deviations : (steps + 1,): (mean observed - predicted loss) / standard error of that step.
    pooled : (steps + 1,): the same in the rms of the standard errors of five steps either side.
    weight_deviations : (steps + 1, M, L): of the mean weights, in their standard errors.
    """

    prediction: MinibatchPrediction = field(repr=False)
    observation: MinibatchObservation = field(repr=False)
    largest: float
    largest_pooled: float
    deviations: Array = field(repr=False)
    pooled: Array = field(repr=False)
    weight_deviations: Array = field(repr=False)


class MinibatchTask:
    """A layer trained by mini-batches; made by ``LayerTask.minibatch``.

    Many runs go through autograd and ``torch.optim.SGD`` together, in float64 on x's device, each
    with its own weights and its own batches.

    Attributes
    ----------
    layer, x, target, bias : of the ``LayerTask``. For a linear layer an image is one entry along
        the first axis, with all its tokens.
    batch : images in a batch.
    replace : whether an image can appear twice in a batch.

    Examples
    --------
    >>> from cnnbridge import LayerTask
    >>> _ = torch.manual_seed(0)
    >>> conv, x = torch.nn.Conv2d(1, 2, 3), torch.randn(8, 1, 6, 6)
    >>> task = LayerTask(conv, x, torch.randn(8, 2, 4, 4)).minibatch(2)
    >>> task.compare(0.1, steps=20, runs=50, seed=0).largest < 4
    True
    """

    def __init__(
        self,
        layer: Layer,
        x: torch.Tensor,
        target: torch.Tensor,
        bias: bool,
        batch: int,
        *,
        replace: bool,
    ) -> None:
        self.layer, self.x, self.target, self.bias = layer, x, target, bias
        self.batch = _checks.count("batch", batch)
        self.replace = _checks.flag("replace", replace)
        if not replace and self.batch > len(x):
            raise ValueError(
                f"batch must be at most the {len(x)} samples when replace is False; got {batch}"
            )

    @cached_property
    def _data(self) -> list[tuple[Array, Array, Array]]:
        return list(data_by_group(self.layer, self.x, self.target, self.bias))

    def predict(self, sgd: SGD | float, steps: int) -> MinibatchPrediction:
        """Predict the expected training by the exact mean-square recursion.

        Fourth moments are the data's own, image by image; no Gaussian and no independence is
        assumed, since batches that are drawn separately are independent.

        Parameters
        ----------
        sgd : settings of ``torch.optim.SGD``; a number is a learning rate.
        steps : number of updates.

        Returns
        -------
        MinibatchPrediction, computed in float64.

        Raises
        ------
        TypeError, ValueError : a setting is out of range; silent input.

        Notes
        -----
        ``adaptive.minibatch.predict_minibatch`` has the recursion: heavy ball with momentum, leaky
        LMS with weight decay, mu = 2 lr / M and leakage M weight_decay / 2. Weight decay moves the
        weights away from those of least loss: ``loss_final`` holds that too.
        """
        settings, updates = SGD.of(sgd), _checks.count("steps", steps, least=0)
        M = Geometry.of(self.layer).out_channels
        curves = [
            adaptive.minibatch.predict_minibatch(
                u,
                d,
                mu=settings.mu(M),
                steps=updates + 1,
                batch=self.batch,
                replace=self.replace,
                w0=w,
                momentum=settings.momentum,
                leakage=settings.weight_decay * M / 2,
            )
            for u, d, w in self._data
        ]
        return MinibatchPrediction(
            sgd=settings,
            batch=self.batch,
            replace=self.replace,
            loss_min=float(sum(c.J_min for c in curves)) / M,
            loss_final=float(sum(c.mse_final for c in curves)) / M,
            mean_square_edge=min(c.bounds["mean_square"] for c in curves) * M / 2,
            mean_edge=min(c.bounds["mean"] for c in curves) * M / 2,
            loss=np.sum([c.mse for c in curves], axis=0) / M,
            mean_weights=np.concatenate([c.weights[: updates + 1] for c in curves], axis=1),
            assumption=ASSUMPTION.format(how=_how(self.replace)),
        )

    @autograd()
    def observe(
        self, sgd: SGD | float, steps: int, *, runs: int, seed: int
    ) -> MinibatchObservation:
        """Train the layer by mini-batches in torch, many times over.

        The runs learn on the sum of their ``MSELoss()``: the arithmetic of single runs.

        Parameters
        ----------
        sgd, steps : as in ``predict``.
        runs : at least 2.
        seed : of the batches. Run r draws the same whatever the number of runs.

        Returns
        -------
        MinibatchObservation.

        Raises
        ------
        TypeError, ValueError : a setting is out of range; runs < 2.
        """
        settings, updates = SGD.of(sgd), _checks.count("steps", steps, least=0)
        number = _checks.count("runs", runs, least=2)
        first_seed = _checks.seed("seed", seed)
        training = self._runs(self.target)
        M, L = training.start.shape
        loss = np.empty((updates + 1, number))
        total, square = np.zeros((updates + 1, M, L)), np.zeros((updates + 1, M, L))
        origin = training.start.cpu().numpy()
        size = training.together
        for first in range(0, number, size):
            mine = range(first, min(first + size, number))

            def look(n: int, weights: torch.Tensor, mine: range = mine) -> None:
                loss[n, mine] = training.loss(weights).cpu().numpy()
                moved = weights.detach().cpu().numpy() - origin
                with np.errstate(over="ignore", invalid="ignore"):
                    total[n] += moved.sum(axis=0)
                    square[n] += (moved**2).sum(axis=0)

            start = training.start.repeat(len(mine), 1, 1)
            training.run(start, settings, updates, [(first_seed, r) for r in mine], look)
        finite = np.isfinite(loss).all(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = total / number
            spread = np.maximum(square / number - mean**2, 0) / (number - 1)
            return MinibatchObservation(
                sgd=settings,
                batch=self.batch,
                replace=self.replace,
                runs=number,
                seed=first_seed,
                diverged=int((~finite).sum()),
                loss=loss.mean(axis=1),
                loss_se=loss.std(axis=1, ddof=1) / np.sqrt(number),
                loss_median=np.median(loss, axis=1),
                mean_weights=origin + mean,
                mean_weights_se=np.sqrt(spread),
            )

    def compare(self, sgd: SGD | float, steps: int, *, runs: int, seed: int) -> MinibatchComparison:
        """Predict, train, and compare in standard errors of the runs.

        Parameters
        ----------
        sgd, steps, runs, seed : as in ``predict`` and ``observe``.

        Returns
        -------
        MinibatchComparison, which carries ``prediction`` and ``observation``.

        Raises
        ------
        TypeError, ValueError : as ``predict`` and ``observe``.
        """
        return compare_minibatch(
            self.predict(sgd, steps), self.observe(sgd, steps, runs=runs, seed=seed)
        )

    def edges(self, *, seed: int) -> MinibatchEdges:
        """Predict the three learning rates at which mini-batch training breaks.

        They hold for SGD without momentum and weight decay: with them ``predict`` has the two
        exact ones. The target does not enter.

        Parameters
        ----------
        seed : of the estimate of the almost-sure edge.

        Returns
        -------
        MinibatchEdges, which prints one to a line. In a grouped layer the stiffest group decides.

        Raises
        ------
        TypeError, ValueError : seed is not a whole number; silent input.

        Examples
        --------
        >>> from cnnbridge import LayerTask
        >>> x = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
        >>> task = LayerTask(torch.nn.Conv2d(1, 1, 1, bias=False), x, torch.zeros(2, 1, 1, 1))
        >>> edges = task.minibatch(1).edges(seed=0)
        >>> round(edges.mean_square, 4), round(edges.mean, 4)  # E[u^2] / E[u^4], 1 / E[u^2]
        (0.2941, 0.4)
        """
        found = [
            adaptive.minibatch.minibatch_edges(u, batch=self.batch, replace=self.replace, seed=seed)
            for u, _, _ in self._data
        ]
        unit = Geometry.of(self.layer).out_channels / 2
        sure = min((e.almost_sure for e in found), key=lambda e: e.value)
        return MinibatchEdges(
            mean_square=min(e.mean_square for e in found) * unit,
            almost_sure=sure.value * unit,
            almost_sure_error=sure.standard_error * unit,
            mean=min(e.mean for e in found) * unit,
            batch=self.batch,
            replace=self.replace,
            assumption=ASSUMPTION.format(how=_how(self.replace)),
        )

    @autograd()
    def edge(
        self,
        sgd: SGD | float = 0.01,
        *,
        seed: int,
        runs: int = 32,
        steps: int = 1000,
        tolerance: float = 0.01,
    ) -> Edge:
        """Find by real training the learning rate from which the median run diverges.

        No prediction enters. Two trainings on the same batches forget their starts if they
        converge: their difference is free of the noise at which a single run settles, which would
        hide the edge. The desired response plays no part in it.

        Parameters
        ----------
        sgd : settings; the search begins at its learning rate.
        seed : of the batches and of the second start.
        runs : pairs of trainings, at least 2.
        steps : updates of each, at least 20.
        tolerance : relative width at which bisecting ends, above 0 and below 1.

        Returns
        -------
        Edge, with the rule by which a learning rate counts as diverging.

        Raises
        ------
        TypeError, ValueError : a setting is out of range.
        RuntimeError : no rate within 2^60 of the start converges, or none diverges.

        Examples
        --------
        >>> from cnnbridge import LayerTask
        >>> x = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
        >>> task = LayerTask(torch.nn.Conv2d(1, 1, 1, bias=False), x, torch.zeros(2, 1, 1, 1))
        >>> edge = task.minibatch(1).edge(seed=0, steps=200)
        >>> abs(edge.lr / 0.625 - 1) < 0.1  # (1 - 2 lr)(1 - 8 lr) = -1
        True
        """
        settings = SGD.of(sgd)
        number = _checks.count("runs", runs, least=2)
        updates = _checks.count("steps", steps, least=20)
        first_seed = _checks.seed("seed", seed)
        width = _checks.below_one("tolerance", tolerance)
        training = self._runs(torch.zeros_like(self.target))
        shape = tuple(training.start.shape)
        draw = np.random.default_rng([first_seed, 2**31]).standard_normal(shape)
        apart = torch.as_tensor(draw).to(training.start)

        def diverges(lr: float) -> bool:
            growth = [
                _growth(training, settings.at(lr), updates, apart, first_seed, runs)
                for runs in _chunks(number, max(1, training.together // 2))
            ]
            ratio = np.concatenate(growth)
            # 0 / 0: both down to nothing; inf / inf or NaN: both out of range
            ratio[np.isnan(ratio)] = np.inf
            return bool(np.median(ratio) > 1)

        try:
            low, high = search.bracket(diverges, settings.lr, name="lr")
        except search.NotBracketed as error:
            raise RuntimeError(
                f"no learning rate down to {error.at:.3g} converges"
                if error.fails
                else f"no learning rate up to {error.at:.3g} diverges: the input is silent"
            ) from None
        low, high = search.bisect(diverges, low, high, width=width)
        middle = settings.at((low + high) / 2)
        return Edge(low, high, middle, steps=updates, runs=number, rule=EDGE_RULE)

    def _runs(self, target: torch.Tensor) -> Runs:
        return Runs(
            self.layer, self.x, target, batch=self.batch, replace=self.replace, bias=self.bias
        )


def compare_minibatch(
    prediction: MinibatchPrediction, observation: MinibatchObservation
) -> MinibatchComparison:
    """Compare predicted expectations with runs of the same layer, images and settings.

    Standard errors are themselves estimates: with few runs, or close to the mean-square edge,
    where the runs are heavy-tailed, they are too small.

    Raises
    ------
    ValueError : prediction and observation differ in shape or settings.
    """
    for name in ("sgd", "batch", "replace"):
        wanted, got = getattr(prediction, name), getattr(observation, name)
        if wanted != got:
            raise ValueError(f"observation must have the prediction's {name}, {wanted}; got {got}")
    if prediction.mean_weights.shape != observation.mean_weights.shape:
        raise ValueError(
            f"observation must have the prediction's steps and weights, "
            f"{prediction.mean_weights.shape}; got {observation.mean_weights.shape}"
        )
    deviations = _in_errors(prediction.loss, observation.loss, observation.loss_se)
    pooled = _in_errors(prediction.loss, observation.loss, _pooled(observation.loss_se))
    return MinibatchComparison(
        prediction=prediction,
        observation=observation,
        largest=float(np.abs(deviations).max()),
        largest_pooled=float(np.abs(pooled).max()),
        deviations=deviations,
        pooled=pooled,
        weight_deviations=_in_errors(
            prediction.mean_weights, observation.mean_weights, observation.mean_weights_se
        ),
    )


def _chunks(number: int, size: int) -> list[range]:
    return [range(first, min(first + size, number)) for first in range(0, number, size)]


def _growth(
    training: Runs, sgd: SGD, updates: int, apart: torch.Tensor, seed: int, runs: range
) -> Array:
    """(runs,): power of the difference of two starts at the end over that after a tenth."""
    seen: dict[int, torch.Tensor] = {}

    def look(n: int, weights: torch.Tensor) -> None:
        if n in (updates // 10, updates):
            one, other = weights.detach().chunk(2)
            seen[n] = training.power(one - other)

    starts = torch.stack([training.start, training.start + apart])
    seeds = [(seed, r) for r in runs] * 2
    training.run(starts.repeat_interleave(len(runs), 0), sgd, updates, seeds, look)
    growth: Array = (seen[updates] / seen[updates // 10]).cpu().numpy()
    return growth


def _how(replace: bool) -> str:
    return "with replacement" if replace else "without replacement inside a batch"


def _pooled(se: Array) -> Array:
    """The rms over five steps either side; step 0, where all runs agree, is no neighbour."""
    if len(se) == 1:
        return se
    square = np.pad(se[1:] ** 2, 5, mode="edge")
    return np.concatenate([se[:1], np.sqrt(np.convolve(square, np.full(11, 1 / 11), "valid"))])


def _in_errors(predicted: Array, mean: Array, se: Array) -> Array:
    """(mean - predicted) / se, zero where both agree to rounding."""
    gap = mean - predicted
    rounding = 1e-9 * np.abs(predicted)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(gap) <= rounding, 0.0, gap / se)
