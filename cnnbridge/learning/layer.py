"""Level 1: a layer on its own mean squared error, with the desired response given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch

from adaptive import WienerProblem, search
from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import autograd, plain_copy
from cnnbridge.layers.patches import check_input, group_weights
from cnnbridge.learning.compare import Comparison, compare
from cnnbridge.learning.layer_training import EDGE_RULE, STRIDE, LayerTraining
from cnnbridge.learning.minibatch import MinibatchTask
from cnnbridge.learning.paths import finite_or_inf, heavy_ball
from cnnbridge.learning.problem import layer_problems, learning_rate_bounds
from cnnbridge.learning.records import (
    Edge,
    LayerPrediction,
    LearningRateBounds,
    Observation,
    TapModes,
    by_group,
    weight_order,
)
from cnnbridge.learning.sgd import SGD

LEVEL = "1: layer MSE, full batch"
ASSUMPTION = (
    "none but exact arithmetic: the desired response is given, and each update follows the "
    "gradient over all images"
)


class LayerTask:
    """A layer, its input, and the output wanted of it: what predictions and trainings share.

    The layer's present weights are copied and are the start of every prediction and training.
    R, its modes and the layout of the weights are computed once.

    Parameters
    ----------
    conv : any convolution, transposed convolution or linear layer of ``torch.nn``. It is not
        changed.
    x : real floating-point tensor, the layer's input, as in ``unfold_patches``.
    target : desired response, of the shape of the layer's output.
    bias : whether the bias learns too; by default if the layer has one. False holds it fixed.
    device : where to train; x's device by default.

    Attributes
    ----------
    layer : the copy.
    geometry : its ``Geometry``.
    x, target : the data, detached.
    bias : whether the bias learns.

    Raises
    ------
    TypeError : conv is no such layer, x or target not a real floating-point tensor.
    ValueError : x or target is empty, not finite or of the wrong shape, or bias=True for a layer
        without one.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> conv, x = torch.nn.Conv2d(1, 2, 3).double(), torch.randn(4, 1, 8, 8).double()
    >>> task = LayerTask(conv, x, torch.randn(4, 2, 6, 6).double())
    >>> task.compare(SGD(0.1, momentum=0.9), steps=200).max_mode_error < 1e-9
    True
    >>> abs(task.edge(steps=300).lr / task.bounds().mean - 1) < 5e-3
    True
    """

    def __init__(
        self,
        conv: Layer,
        x: torch.Tensor,
        target: torch.Tensor,
        *,
        bias: bool | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.geometry = Geometry.of(conv)
        self.bias = _checks.bias_flag(conv, bias, trained=True)
        check_input("x", x, self.geometry)
        _checks.target_like(target, self.geometry.output_shape(tuple(x.shape)))
        self._place = x.device if device is None else _checks.place("device", device)
        # autograd cannot keep tensors that were made in inference mode
        with autograd():
            self.layer = plain_copy(conv, conv.weight)
            self.x, self.target = (
                t.clone() if t.is_inference() else t.detach() for t in (x, target)
            )

    @cached_property
    def problems(self) -> tuple[WienerProblem, ...]:
        """R, P and powers as an ``adaptive.WienerProblem``, one for each group of the layer."""
        return layer_problems(self.layer, self.x, self.target, bias=self.bias)

    def bounds(self, sgd: SGD | float = 1.0) -> LearningRateBounds:
        """Learning rates at which full-batch training is stable; ``sgd.lr`` does not enter."""
        settings = SGD.of(sgd)
        return learning_rate_bounds(
            self.problems,
            self.geometry.out_channels,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def predict(self, sgd: SGD | float, steps: int) -> LayerPrediction:
        """Predict every mode at every step, exactly.

        In the eigenbasis of R the layer separates into scalar recursions,

            v(n+1) = v(n) + momentum (v(n) - v(n-1)) - lr h v(n),   h = 2 lambda / M + weight_decay,

        which is v(n) = (1 - lr h)^n v(0) without momentum.

        Parameters
        ----------
        sgd : settings of ``torch.optim.SGD``; a number is a learning rate.
        steps : number of updates.

        Returns
        -------
        LayerPrediction, computed in float64; it stores steps + 1 times the layer's weights, twice.

        Raises
        ------
        TypeError, ValueError : a setting is out of range.

        Notes
        -----
        Haykin, Adaptive Filter Theory: natural modes of steepest descent. Polyak 1964: heavy ball.
        """
        settings, updates = SGD.of(sgd), _checks.count("steps", steps, least=0)
        problems, M = self.problems, self.geometry.out_channels
        silent = np.stack([p.modes.stationary for p in problems])
        eigenvalues = np.stack([p.modes.eigenvalues for p in problems])
        eigenvectors = np.stack([p.modes.eigenvectors for p in problems])
        lam = np.where(silent, 0.0, eigenvalues)
        curvature = 2 * lam / M + settings.weight_decay

        # |P_k|^2 <= lambda_k E|d|^2: a power lost in rounding may leave a correlation that is not
        P = np.stack([p.modes.to_modes(p.P) for p in problems])
        P[silent[:, None] & (np.abs(P) <= _rounding(problems)[:, None, None])] = 0
        pull, still = 2 * P / M, (curvature == 0)[:, None]
        wiener = np.where(silent[:, None], 0.0, P / np.where(silent, 1.0, lam)[:, None])
        rest = np.where(still, 0.0, pull / np.where(still, 1.0, curvature[:, None]))
        drift = np.where(still, pull, 0.0)
        w_star = np.matmul(rest, eigenvectors.transpose(0, 2, 1)).reshape(M, -1)

        start = by_group(self.start - w_star, len(problems)) @ eigenvectors
        # as distances from the start: a mode without curvature stays put exactly, and a rest far
        # away, as weak modes have it, does not swallow the small steps towards it
        moved = heavy_ball(
            curvature[:, None] * start - drift, curvature[:, None], settings, updates
        )
        with np.errstate(over="ignore", invalid="ignore"):
            path = finite_or_inf(moved + start)
            excess = np.einsum("ngmk,gk->n", (path + (rest - wiener)) ** 2, lam)
        loss_min = sum(p.J_min for p in problems) / M
        basis = TapModes(eigenvectors, weight_order(self.layer, self.geometry, bias=self.bias))
        shape = (updates + 1, M, eigenvalues.shape[1])
        return LayerPrediction(
            level=LEVEL,
            assumption=ASSUMPTION,
            curvature="layer",
            sgd=settings,
            layer=None,
            names=self._training().names,
            displacement=finite_or_inf(basis.to_displacement(moved.reshape(shape))),
            loss=loss_min + finite_or_inf(excess) / M,
            loss_min=loss_min,
            modes=path.reshape(shape),
            basis=basis,
            w_star=w_star,
            eigenvalues=eigenvalues,
            eigenvectors=eigenvectors,
            stationary=still[:, 0] & ~drift.any(axis=1),
            roots=settings.roots(2 * lam / M),
            bounds=self.bounds(settings),
        )

    @cached_property
    def start(self) -> Array:
        """(M, L) present weights by output channel, the bias tap last if it learns."""
        grouped = group_weights(self.layer, bias=self.bias).detach()
        w: Array = grouped.to("cpu", torch.float64).flatten(0, 1).numpy()
        return w

    def observe(
        self,
        sgd: SGD | float,
        steps: int,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Observation:
        """Train a copy of the layer with ``torch.optim.SGD`` on ``MSELoss()``.

        Each update uses the gradient over the whole of x, in x's dtype. Hooks on the layer are not
        copied. Torch's global settings hold, TF32 among them: on CUDA they can cost float32 three
        of its digits.

        Parameters
        ----------
        sgd, steps : as in ``predict``.
        progress : called with the step, 0 to steps, as training goes on.

        Returns
        -------
        Observation; it stores steps + 1 times the layer's weights. Divergence is a value in it,
        ``diverged_at``, not an exception.

        Raises
        ------
        TypeError, ValueError : a setting is out of range.
        """
        settings, updates = SGD.of(sgd), _checks.count("steps", steps, least=0)
        return self._training().observe(settings, updates, progress)

    def compare(
        self, sgd: SGD | float, steps: int, *, tolerances: Sequence[float] = (0.1, 0.5)
    ) -> Comparison:
        """Predict, train, and compare; the result carries ``prediction`` and ``observation``.

        Parameters
        ----------
        sgd, steps : as in ``predict``.
        tolerances : as in ``cnnbridge.compare``.

        Raises
        ------
        TypeError, ValueError : a setting is out of range.
        """
        return compare(self.predict(sgd, steps), self.observe(sgd, steps), tolerances)

    def edge(self, sgd: SGD | float = 0.01, *, steps: int = 500, tolerance: float = 0.001) -> Edge:
        """Find by real training the learning rate from which the layer diverges.

        Trains copies of the layer in float64, first doubling or halving the rate until one
        converges and one diverges, then bisecting. No prediction enters.

        Parameters
        ----------
        sgd : settings; the search begins at its learning rate.
        steps : updates of one run, at least 64; more separate eigenvalues that lie closer.
        tolerance : relative width at which bisecting ends, above 0 and below 1.

        Returns
        -------
        Edge, with the rule by which a run counts as diverging.

        Raises
        ------
        TypeError, ValueError : a setting is out of range.
        RuntimeError : no rate within 2^60 of the start converges, or none diverges: silent input,
            or a start that has nothing left to learn.

        Examples
        --------
        >>> x = torch.ones(1, 1, 2, 2)
        >>> task = LayerTask(torch.nn.Conv2d(1, 1, 1, bias=False), x, torch.zeros(1, 1, 2, 2))
        >>> edge = task.edge(steps=64)
        >>> edge.lower <= 1.0 <= edge.upper, round(edge.lr, 2)
        (True, 1.0)
        """
        settings, updates = SGD.of(sgd), _checks.count("steps", steps, least=64)
        width = _checks.below_one("tolerance", tolerance)
        training = self._training(torch.float64)
        runs = 0

        def diverges(lr: float, length: int = updates) -> bool:
            nonlocal runs
            runs += 1
            return training.diverges(settings.at(lr), length)

        # far from the edge a short run decides, and an error near it stays as small as the bracket
        coarse = min(updates, 2 * STRIDE)
        try:
            low, high = search.bracket(lambda lr: diverges(lr, coarse), settings.lr, name="lr")
        except search.NotBracketed as error:
            raise RuntimeError(
                f"no learning rate down to {error.at:.3g} converges"
                if error.fails
                else f"no learning rate up to {error.at:.3g} diverges: the input is silent, or the "
                f"start has nothing left to learn"
            ) from None
        low, high = search.bisect(diverges, low, high, width=width)
        middle = settings.at((low + high) / 2)
        return Edge(low, high, middle, steps=updates, runs=runs, rule=EDGE_RULE)

    def minibatch(self, batch: int, *, replace: bool = True) -> MinibatchTask:
        """The same layer and images, trained by mini-batches drawn at random.

        Parameters
        ----------
        batch : images in a batch.
        replace : whether an image can appear twice in a batch.

        Raises
        ------
        TypeError, ValueError : batch < 1, or more than the images without replacement.
        """
        return MinibatchTask(self.layer, self.x, self.target, self.bias, batch, replace=replace)

    def _training(self, dtype: torch.dtype | None = None) -> LayerTraining:
        training = LayerTraining(self.layer, self.x, self.target, self.bias)
        return training.to(self._place, dtype or self.x.dtype)


def predict_layer(
    conv: Layer,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    lr: float,
    steps: int,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    bias: bool | None = None,
) -> LayerPrediction:
    """Predict the training of a layer on its own MSE: every mode, every step, exactly.

    Short for ``LayerTask(conv, x, target, bias=bias).predict(SGD(lr, momentum, weight_decay),
    steps)``.

    Parameters
    ----------
    conv, x, target, bias : as in ``LayerTask``; the present weights are the start.
    lr, momentum, weight_decay : as given to ``torch.optim.SGD``.
    steps : number of updates.

    Returns
    -------
    LayerPrediction.

    Raises
    ------
    TypeError, ValueError : as ``LayerTask`` and ``SGD``; steps negative.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> conv, x = torch.nn.Conv2d(1, 2, 3), torch.randn(4, 1, 8, 8)
    >>> prediction = predict_layer(conv, x, torch.randn(4, 2, 6, 6), lr=0.1, steps=50)
    >>> prediction.modes.shape, prediction.stable
    ((51, 2, 10), True)
    >>> bool(prediction.loss[-1] < prediction.loss[0])
    True
    """
    sgd = SGD(lr, momentum, weight_decay)
    return LayerTask(conv, x, target, bias=bias).predict(sgd, steps)


def observe_layer(
    conv: Layer,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    lr: float,
    steps: int,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    bias: bool | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int], object] | None = None,
) -> Observation:
    """Train a copy of a layer with ``torch.optim.SGD`` on its own MSE, and keep every step.

    Short for ``LayerTask(conv, x, target, bias=bias, device=device).observe(SGD(lr, momentum,
    weight_decay), steps)``.

    Parameters
    ----------
    conv, x, target, bias, device : as in ``LayerTask``.
    lr, momentum, weight_decay : as given to ``torch.optim.SGD``.
    steps : number of updates.
    progress : called with the step, 0 to steps, as training goes on.

    Returns
    -------
    Observation. Divergence is a value in it, not an exception.

    Raises
    ------
    TypeError, ValueError : as ``predict_layer``.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> conv, x = torch.nn.Conv2d(1, 2, 3), torch.randn(4, 1, 8, 8)
    >>> observation = observe_layer(conv, x, torch.randn(4, 2, 6, 6), lr=0.1, steps=20)
    >>> observation.displacement.shape, observation.dtype, observation.diverged_at
    ((21, 20), 'float32', None)
    """
    sgd = SGD(lr, momentum, weight_decay)
    task = LayerTask(conv, x, target, bias=bias, device=device)
    return task.observe(sgd, steps, progress=progress)


def _rounding(problems: tuple[WienerProblem, ...]) -> Array:
    """(G,): correlations P_k this small are rounding of the sums that they came from."""
    eps = 10 * problems[0].taps * np.finfo(float).eps
    return np.array([eps * np.sqrt(p.modes.eigenvalues[-1] * p.d_power) for p in problems])
