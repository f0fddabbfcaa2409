"""Level 1 with mini-batches: a layer on its own MSE, exact in the mean and in the mean square."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

import adaptive
from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import autograd
from cnnbridge.layers.patches import check_input
from cnnbridge.learning.side_by_side import Runs, data_by_group

LEVEL = "1: layer MSE, mini-batches drawn at random"
ASSUMPTION = (
    "none but exact arithmetic: the desired response is given, and every batch is drawn anew from "
    "all images, {how}. Going through a shuffled data set in epochs is not covered"
)


@dataclass(frozen=True)
class LayerEdges:
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
    learning_rate, momentum, weight_decay : SGD's settings.
    batch, replace : images per batch, and how they are drawn.
    loss : (steps + 1,): expected ``MSELoss()`` over all images at W(n); inf past overflow.
    loss_min : the least MSE that any weights reach.
    loss_final : expected loss in the steady state; inf at or above the mean-square edge.
    mean_weights : (steps + 1, M, L): E[W(n)].
    mean_square_edge, mean_edge : exact edges, in units of the learning rate, at that momentum and
        weight decay.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
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
        return self.learning_rate < self.mean_square_edge


@dataclass(frozen=True, eq=False)
class MinibatchObservation:
    """Seeded, independent mini-batch trainings of a layer in torch.

    Attributes
    ----------
    learning_rate, momentum, weight_decay, batch, replace, runs, seed : what was run.
    loss, loss_se : (steps + 1,): mean over runs of ``MSELoss()`` over all images at W(n), and its
        standard error.
    loss_median : (steps + 1,): of the same, which few heavy runs cannot carry away.
    mean_weights, mean_weights_se : (steps + 1, M, L): mean over runs, and its standard error.
    diverged : runs that left the finite numbers; means are inf or NaN from there on.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
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
    """Prediction and runs, in standard errors of the runs.

    The loss is skewed over runs, the more so where few images of a batch decide. A step whose
    runs happen to lack their heavy ones has a low mean and a low standard error at once, and seems
    further off than it is: ``pooled`` takes the standard error over neighbouring steps.

    Attributes
    ----------
    largest, largest_pooled : largest of |deviations|, of |pooled|.
    deviations : (steps + 1,): (mean observed - predicted loss) / standard error of that step.
    pooled : (steps + 1,): the same in the rms of the standard errors of five steps either side.
    weight_deviations : (steps + 1, M, L): of the mean weights, in their standard errors.
    """

    largest: float
    largest_pooled: float
    deviations: Array = field(repr=False)
    pooled: Array = field(repr=False)
    weight_deviations: Array = field(repr=False)


@dataclass(frozen=True)
class MinibatchEdgeObservation:
    """Where the median of mini-batch trainings starts to diverge.

    Attributes
    ----------
    lower, upper : highest learning rate seen to converge, lowest seen to diverge.
    batch, replace, runs, steps, seed : what was run.
    rule : when a learning rate counts as diverging.
    """

    lower: float
    upper: float
    batch: int
    replace: bool
    runs: int
    steps: int
    seed: int
    rule: str = (
        "float64. Each run trains the layer twice on the same batches, from two starts. A learning "
        "rate diverges if, in the median run, the two are further apart at the end than after a "
        "tenth of the steps, in outputs over all images"
    )

    @property
    def lr(self) -> float:
        """The middle of the bracket."""
        return (self.lower + self.upper) / 2


def predict_layer_minibatch(
    conv: Layer,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    lr: float,
    batch: int,
    steps: int,
    replace: bool = True,
    bias: bool | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> MinibatchPrediction:
    """Predict mini-batch training of a layer on its own MSE, by the exact mean-square recursion.

    Level 1: the desired response is given. Fourth moments are the data's own, image by image; no
    Gaussian and no independence is assumed, since batches drawn anew are independent.

    Parameters
    ----------
    conv : any convolution, transposed convolution or linear layer of ``torch.nn``; its present
        weights are the start. It is not changed.
    x, target : as in ``predict_layer``: the images that batches are drawn from. For a linear layer
        an image is one entry along the first axis, with all its tokens.
    lr, momentum, weight_decay : as given to ``torch.optim.SGD``; momentum below 1.
    batch : images in a batch.
    steps : number of updates.
    replace : whether an image can appear twice in a batch.
    bias : whether the bias learns too; by default if the layer has one.

    Returns
    -------
    MinibatchPrediction, computed in float64.

    Raises
    ------
    TypeError, ValueError : as ``predict_layer``; batch < 1, or more than the images without
        replacement; silent input.

    Notes
    -----
    ``adaptive.predict_minibatch`` has the recursion: heavy ball with momentum, leaky LMS with
    weight decay, mu = 2 lr / M and leakage M weight_decay / 2. Weight decay moves the weights away
    from those of least loss: ``loss_final`` holds that too.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> conv, x = torch.nn.Conv2d(1, 2, 3), torch.randn(8, 1, 6, 6)
    >>> target = torch.randn(8, 2, 4, 4)
    >>> prediction = predict_layer_minibatch(conv, x, target, lr=0.1, batch=2, steps=50)
    >>> prediction.stable, prediction.loss_min < prediction.loss_final < float(prediction.loss[0])
    (True, True)
    """
    M = Geometry.of(conv).out_channels
    rate = _checks.positive("lr", lr)
    beta = _checks.fraction("momentum", momentum)
    decay = _checks.nonnegative("weight_decay", weight_decay)
    updates = _checks.count("steps", steps, least=0)
    with_bias = _checks.bias_flag(conv, bias, trained=True)
    curves = [
        adaptive.predict_minibatch(
            u,
            d,
            mu=2 * rate / M,
            steps=updates + 1,
            batch=batch,
            replace=replace,
            w0=w,
            momentum=beta,
            leakage=decay * M / 2,
        )
        for u, d, w in data_by_group(conv, x, target, with_bias)
    ]
    return MinibatchPrediction(
        learning_rate=rate,
        momentum=beta,
        weight_decay=decay,
        batch=batch,
        replace=replace,
        loss_min=float(sum(c.J_min for c in curves)) / M,
        loss_final=float(sum(c.mse_final for c in curves)) / M,
        mean_square_edge=min(c.bounds["mean_square"] for c in curves) * M / 2,
        mean_edge=min(c.bounds["mean"] for c in curves) * M / 2,
        loss=np.sum([c.mse for c in curves], axis=0) / M,
        mean_weights=np.concatenate([c.weights[: updates + 1] for c in curves], axis=1),
        assumption=ASSUMPTION.format(how=_how(replace)),
    )


def layer_edges(
    conv: Layer,
    x: torch.Tensor,
    *,
    batch: int,
    seed: int,
    replace: bool = True,
    bias: bool | None = None,
) -> LayerEdges:
    """The three learning rates at which mini-batch training of a layer breaks, told apart.

    Parameters
    ----------
    conv, x, batch, replace, bias : as in ``predict_layer_minibatch``; no target enters. For SGD
        without momentum and weight decay: with them ``predict_layer_minibatch`` has the exact two.
    seed : of the estimate of the almost-sure edge.

    Returns
    -------
    LayerEdges, which prints one to a line. Of a grouped layer the stiffest group decides.

    Raises
    ------
    TypeError, ValueError : as ``predict_layer_minibatch``.

    Examples
    --------
    >>> edges = layer_edges(
    ...     torch.nn.Conv2d(1, 1, 1, bias=False), torch.tensor([1.0, 2.0]).view(2, 1, 1, 1),
    ...     batch=1, seed=0,
    ... )
    >>> round(edges.mean_square, 4), round(edges.mean, 4)  # E[u^2] / E[u^4], 1 / E[u^2]
    (0.2941, 0.4)
    """
    geometry = Geometry.of(conv)
    with_bias = _checks.bias_flag(conv, bias, trained=True)
    x = check_input("x", x, geometry)
    nothing = torch.zeros(geometry.output_shape(tuple(x.shape)), dtype=torch.float64)
    found = [
        adaptive.minibatch_edges(u, batch=batch, replace=replace, seed=seed)
        for u, _, _ in data_by_group(conv, x, nothing, with_bias)
    ]
    unit = geometry.out_channels / 2
    sure = min((e.almost_sure for e in found), key=lambda e: e.value)
    return LayerEdges(
        mean_square=min(e.mean_square for e in found) * unit,
        almost_sure=sure.value * unit,
        almost_sure_error=sure.standard_error * unit,
        mean=min(e.mean for e in found) * unit,
        batch=batch,
        replace=replace,
        assumption=ASSUMPTION.format(how=_how(replace)),
    )


@autograd()
def observe_layer_minibatch(
    conv: Layer,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    lr: float,
    batch: int,
    steps: int,
    runs: int,
    seed: int,
    replace: bool = True,
    bias: bool | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> MinibatchObservation:
    """Train a layer by mini-batches in torch, many times over.

    Many runs go through autograd and ``torch.optim.SGD`` together, each with its own weights and
    its own batches, and the sum of their ``MSELoss()``: the arithmetic of single runs.

    Parameters
    ----------
    conv, x, target, lr, batch, steps, replace, bias, momentum, weight_decay : as in
        ``predict_layer_minibatch``; trained in float64 on x's device.
    runs : at least 2.
    seed : of the batches. Run r draws the same whatever the number of runs.

    Returns
    -------
    MinibatchObservation.

    Raises
    ------
    TypeError, ValueError : as ``predict_layer_minibatch``; runs < 2.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> conv, x = torch.nn.Conv2d(1, 2, 3), torch.randn(8, 1, 6, 6)
    >>> target = torch.randn(8, 2, 4, 4)
    >>> seen = observe_layer_minibatch(
    ...     conv, x, target, lr=0.1, batch=2, steps=20, runs=50, seed=0
    ... )
    >>> prediction = predict_layer_minibatch(conv, x, target, lr=0.1, batch=2, steps=20)
    >>> compare_minibatch(prediction, seen).largest < 4
    True
    """
    rate = _checks.positive("lr", lr)
    beta = _checks.fraction("momentum", momentum)
    decay = _checks.nonnegative("weight_decay", weight_decay)
    updates = _checks.count("steps", steps, least=0)
    training = Runs(conv, x, target, batch=batch, replace=replace, bias=bias)
    number = _checks.count("runs", runs, least=2)
    first_seed = _checks.seed("seed", seed)
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
        seeds = [(first_seed, r) for r in mine]
        training.run(start, rate, updates, seeds, look, momentum=beta, weight_decay=decay)
    finite = np.isfinite(loss).all(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = total / number
        spread = np.maximum(square / number - mean**2, 0) / (number - 1)
        return MinibatchObservation(
            learning_rate=rate,
            momentum=beta,
            weight_decay=decay,
            batch=batch,
            replace=replace,
            runs=number,
            seed=first_seed,
            diverged=int((~finite).sum()),
            loss=loss.mean(axis=1),
            loss_se=loss.std(axis=1, ddof=1) / np.sqrt(number),
            loss_median=np.median(loss, axis=1),
            mean_weights=origin + mean,
            mean_weights_se=np.sqrt(spread),
        )


def compare_minibatch(
    prediction: MinibatchPrediction, observation: MinibatchObservation
) -> MinibatchComparison:
    """Lay the predicted expectations beside the runs, in standard errors.

    Parameters
    ----------
    prediction, observation : of the same layer, images and settings.

    Returns
    -------
    MinibatchComparison. Standard errors are themselves estimates: with few runs, or close to the
    mean-square edge, where the runs are heavy-tailed, they are too small.

    Raises
    ------
    ValueError : prediction and observation differ in shape or settings.

    Examples
    --------
    >>> conv, x = torch.nn.Conv2d(1, 2, 3), torch.randn(8, 1, 6, 6)
    >>> kwargs = {"lr": 0.1, "batch": 2, "steps": 20}
    >>> prediction = predict_layer_minibatch(conv, x, torch.randn(8, 2, 4, 4), **kwargs)
    >>> other = observe_layer_minibatch(
    ...     conv, x, torch.randn(8, 2, 4, 4), **(kwargs | {"lr": 0.2}), runs=2, seed=0
    ... )
    >>> compare_minibatch(prediction, other)
    Traceback (most recent call last):
    ValueError: observation must have the prediction's learning_rate, 0.1; got 0.2
    """
    for name in ("learning_rate", "momentum", "weight_decay", "batch", "replace"):
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
        largest=float(np.abs(deviations).max()),
        largest_pooled=float(np.abs(pooled).max()),
        deviations=deviations,
        pooled=pooled,
        weight_deviations=_in_errors(
            prediction.mean_weights, observation.mean_weights, observation.mean_weights_se
        ),
    )


@autograd()
def bisect_minibatch_edge(
    conv: Layer,
    x: torch.Tensor,
    *,
    batch: int,
    seed: int,
    replace: bool = True,
    bias: bool | None = None,
    runs: int = 32,
    steps: int = 1000,
    tolerance: float = 0.01,
    bracket: tuple[float, float] | None = None,
) -> MinibatchEdgeObservation:
    """Find by real training the learning rate from which the median mini-batch run diverges.

    No prediction enters. Two trainings on the same batches forget their starts if they converge:
    their difference is free of the noise at which a single run settles, which would hide the edge.
    The desired response plays no part in it.

    Parameters
    ----------
    conv, x, batch, replace, bias : as in ``predict_layer_minibatch``.
    seed : of the batches and of the second start.
    runs : pairs of trainings, at least 2.
    steps : updates of each, at least 20.
    tolerance : relative width at which bisecting ends, above 0 and below 1.
    bracket : where to look first, (lower, upper).

    Returns
    -------
    MinibatchEdgeObservation.

    Raises
    ------
    TypeError, ValueError : as ``predict_layer_minibatch``; a number out of range.
    RuntimeError : no rate within 2^60 of the start converges, or none diverges.

    Examples
    --------
    >>> x = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    >>> conv = torch.nn.Conv2d(1, 1, 1, bias=False)
    >>> edge = bisect_minibatch_edge(conv, x, batch=1, seed=0, steps=200)
    >>> abs(edge.lr / 0.625 - 1) < 0.1  # (1 - 2 lr)(1 - 8 lr) = -1
    True
    """
    geometry = Geometry.of(conv)
    x = check_input("x", x, geometry)
    nothing = torch.zeros(geometry.output_shape(tuple(x.shape)), dtype=torch.float64)
    training = Runs(conv, x, nothing, batch=batch, replace=replace, bias=bias)
    number = _checks.count("runs", runs, least=2)
    updates = _checks.count("steps", steps, least=20)
    first_seed = _checks.seed("seed", seed)
    width = _checks.positive("tolerance", tolerance)
    if width >= 1:
        raise ValueError(f"tolerance must be less than 1; got {tolerance}")
    low, high = (0.01, 0.02) if bracket is None else bracket
    if not _checks.positive("bracket", low) < _checks.positive("bracket", high):
        raise ValueError(f"bracket must be (lower, upper) with lower < upper; got {bracket}")
    draw = np.random.default_rng([first_seed, 2**31]).standard_normal(tuple(training.start.shape))
    apart = torch.as_tensor(draw).to(training.start)

    def diverges(lr: float) -> bool:
        growth = []
        size = max(1, training.together // 2)
        for first in range(0, number, size):
            mine = range(first, min(first + size, number))
            seen: dict[int, torch.Tensor] = {}

            def look(n: int, weights: torch.Tensor, seen: dict[int, torch.Tensor] = seen) -> None:
                if n in (updates // 10, updates):
                    one, other = weights.detach().chunk(2)
                    seen[n] = training.power(one - other)

            starts = torch.stack([training.start, training.start + apart])
            training.run(
                starts.repeat_interleave(len(mine), 0),
                lr,
                updates,
                [(first_seed, r) for r in mine] * 2,
                look,
            )
            growth.append((seen[updates] / seen[updates // 10]).cpu().numpy())
        ratio = np.concatenate(growth)
        # 0 / 0: both down to nothing; inf / inf or NaN: both out of range
        ratio[np.isnan(ratio)] = np.inf
        return bool(np.median(ratio) > 1)

    ratio = max(2.0, high / low)
    for _ in range(60):
        if not diverges(low):
            break
        low, high = low / ratio, low
    else:
        raise RuntimeError(f"no learning rate down to {low:.3g} converges")
    for _ in range(60):
        if diverges(high):
            break
        low, high = high, high * ratio
    else:
        raise RuntimeError(f"no learning rate up to {high:.3g} diverges: the input is silent")
    while high - low > width * high:
        middle = (low + high) / 2
        if diverges(middle):
            high = middle
        else:
            low = middle
    return MinibatchEdgeObservation(
        low, high, batch=batch, replace=replace, runs=number, steps=updates, seed=first_seed
    )


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
