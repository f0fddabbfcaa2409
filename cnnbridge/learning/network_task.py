"""Levels 2 to 4: a network, its data and its loss, all of it or one layer learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from adaptive.checks import choice
from cnnbridge import _checks
from cnnbridge.learning.audit import Audit, audit_layer
from cnnbridge.learning.batch_loss import Data, Loss
from cnnbridge.learning.compare import Comparison, compare
from cnnbridge.learning.network import linearised, observe, relinearised
from cnnbridge.learning.objective import Objective
from cnnbridge.learning.one_layer import CURVATURES, Curvature, predict_one_layer
from cnnbridge.learning.records import Observation, Prediction
from cnnbridge.learning.replay import Stream, record_stream
from cnnbridge.learning.sgd import SGD
from cnnbridge.learning.sharpness import (
    KINDS,
    Kind,
    SharpnessTrack,
    largest_curvatures,
    track_sharpness,
)


class NetworkTask:
    """A network, its data and its loss, all of it or one layer learning.

    The model is copied once; every prediction and training starts from the copied weights, and
    the model given is never changed. Training is full batch: each update follows the gradient over
    all of the data.

    Parameters
    ----------
    model : any module in eager mode; its present weights are the start, its train and eval flags
        hold (BatchNorm in train mode uses the statistics of each batch). Parameters without
        ``requires_grad`` stay fixed. It computes in the precision of its parameters, inside
        ``torch.autocast`` too.
    data : one batch, a tuple or dict; or an iterable of batches, which are listed once and kept.
        The loss is then their mean, weighted by rows: exact for losses that average over rows.
    loss : a torch loss or a function of (output, target), where the target is the last item of a
        batch and all before it enter the model; or a function of (model, batch), whose first
        parameter must be called ``model``; or None, if the model returns its own loss.
    layer : the layer that learns, as in ``model.named_modules()``; None for all.

    Raises
    ------
    TypeError : model is compiled or no module; loss or data is none of these.
    ValueError : no such layer; nothing to learn; data that is empty or not finite. At the first
        prediction or training also: a loss that is not finite, or random.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    >>> data = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    >>> task = NetworkTask(model, data, nn.MSELoss())
    >>> task.compare(0.1, steps=20).horizon[0.5] is None
    True
    >>> task.layer("2").predict(0.1, steps=20).names
    ('2.weight', '2.bias')
    """

    def __init__(
        self, model: nn.Module, data: Data, loss: Loss = None, *, layer: str | None = None
    ) -> None:
        self._objective = Objective(model, data, loss, layer)
        self._checked = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters that learn, in the order of every flat vector."""
        return self._objective.names

    def layer(self, name: str) -> NetworkTask:
        """The task in which this layer learns and the rest is frozen; the copy is shared.

        Raises
        ------
        ValueError : no such layer, or one with nothing to learn.
        """
        task = object.__new__(NetworkTask)
        task._objective = self._objective.of_layer(name)
        task._checked = self._checked
        return task

    @contextmanager
    def _ready(self) -> Iterator[Objective]:
        """The objective, once its loss is known to be finite and the same twice; left as it was."""
        if not self._checked:
            with self._objective.kept():
                self._objective.check_start()
            self._checked = True
        with self._objective.kept():
            yield self._objective

    def predict(
        self,
        sgd: SGD | float,
        steps: int,
        *,
        curvature: Curvature = "gauss_newton",
        relinearize: int | None = None,
        full_modes: bool | None = None,
    ) -> Prediction:
        """Predict full-batch training from a linearisation of the network.

        One layer learning, level 2: the Gauss-Newton matrix of the layer ("gauss_newton"), R x G
        ("kronecker"), or R tr(G) / M, the layer as if it learned alone ("scalar").

        All learning, level 3: the Gauss-Newton matrix at the present weights, all layers together.
        In function space this is e(n+1) = (I - lr H Theta) e(n), e the derivative of the loss by
        the network's outputs, H its Hessian by them and Theta = J J' the tangent kernel. Level 4,
        with ``relinearize``: the same for so many steps at a time, from the predicted weights.

        Parameters
        ----------
        sgd : settings of ``torch.optim.SGD``; a number is a learning rate.
        steps : number of updates.
        curvature : "kronecker" and "scalar" need a task of one layer, a convolution, transposed
            convolution or linear layer of ``torch.nn`` with weights of its own.
        relinearize : steps for which one linearisation serves; None for all of them. 1 is training.
        full_modes : for one layer and "gauss_newton": all P modes from the whole matrix, or only
            the Ritz modes that the gradient excites. By default all up to 256 parameters.

        Returns
        -------
        Prediction; it stores steps + 1 times the parameters in float64. Ritz modes are as many as
        it takes to hold the path to 1e-8.

        Raises
        ------
        TypeError, ValueError : a setting is out of range; a loss that is random or does not
            depend on the layer; for "kronecker" and "scalar" also a layer of another kind, or
            whose weights are frozen, computed from others, or shared with another layer.

        Notes
        -----
        Jacot, Gabriel, Hongler 2018 for the tangent kernel; Schraudolph 2002 for products with the
        Gauss-Newton matrix; Martens and Grosse 2015, Grosse and Martens 2016 for R x G.
        """
        kind = _curvature(curvature)
        settings, updates = SGD.of(sgd), _checks.count("steps", steps, least=0)
        every = None if relinearize is None else _checks.count("relinearize", relinearize)
        alone = self._objective.layer is not None
        if kind != "gauss_newton" and not alone:
            raise ValueError(
                f"curvature must be 'gauss_newton' where all layers learn; got {kind!r}: ask the "
                f"task of one layer, NetworkTask.layer(name)"
            )
        if every is not None and alone:
            raise ValueError(f"relinearize must be None where one layer learns; got {relinearize}")
        with self._ready() as objective:
            if every is not None:
                return relinearised(objective, settings, updates, every)
            if not alone:
                return linearised(objective, settings, updates)
            return predict_one_layer(objective, settings, updates, kind, full_modes)

    def observe(
        self,
        sgd: SGD | float,
        steps: int,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Observation:
        """Train the copy with ``torch.optim.SGD``, all of it or its one layer, full batch.

        Parameters
        ----------
        sgd, steps : as in ``predict``.
        progress : called with the step, 0 to steps, as training goes on.

        Returns
        -------
        Observation; divergence is a value in it, not an exception.

        Raises
        ------
        TypeError, ValueError : a setting is out of range; a loss that is random.
        """
        settings, updates = SGD.of(sgd), _checks.count("steps", steps, least=0)
        with self._ready() as objective:
            return observe(objective, settings, updates, progress)

    def compare(
        self,
        sgd: SGD | float,
        steps: int,
        *,
        curvature: Curvature = "gauss_newton",
        relinearize: int | None = None,
        tolerances: Sequence[float] = (0.1, 0.5),
    ) -> Comparison:
        """Predict, train, and compare; the result carries ``prediction`` and ``observation``.

        Parameters
        ----------
        sgd, steps, curvature, relinearize : as in ``predict``.
        tolerances : as in ``cnnbridge.compare``.

        Raises
        ------
        TypeError, ValueError : as ``predict``.
        """
        prediction = self.predict(sgd, steps, curvature=curvature, relinearize=relinearize)
        return compare(prediction, self.observe(sgd, steps), tolerances)

    def audit(
        self,
        sgd: SGD | float,
        steps: int,
        *,
        curvature: Curvature = "gauss_newton",
        trained: str = "all",
    ) -> Audit:
        """Train, and split the error of one layer's prediction by cause at every step.

        Parameters
        ----------
        sgd, steps, curvature : as in ``predict``, of a task of one layer: a convolution, transposed
            convolution or linear layer that is used once in a forward pass.
        trained : whether "all" layers learn, or this "layer" alone: then only "approximation" and
            "curvature" can break.

        Returns
        -------
        Audit; it stores 5 (steps + 1) times the layer's weights, and costs about ten steps of
        training for each.

        Raises
        ------
        TypeError, ValueError : as ``predict``; the task is not of one layer and one batch; the
            layer is of another kind, used twice, or without effect on the loss.

        Examples
        --------
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
        >>> data = torch.randn(8, 1, 6, 6), torch.randint(3, (8,))
        >>> result = NetworkTask(model, data, nn.CrossEntropyLoss(), layer="0").audit(0.1, steps=20)
        >>> bool((abs(result.shares[2:].sum(axis=1) - 1) < 1e-6).all()), result.parts[1]
        (True, 'regressors')
        """
        kind, who = _curvature(curvature), choice("trained", trained, ("all", "layer"))
        settings, updates = SGD.of(sgd), _checks.count("steps", steps, least=0)
        with self._ready() as objective:
            return audit_layer(objective, settings, updates, kind, who)

    def stream(self, sgd: SGD | float, steps: int) -> Stream:
        """Train all layers, one batch an update, and record what this task's layer sees.

        All parameters that require gradients learn. The batches of ``data`` are taken in their
        order, again from the first when they end.

        Parameters
        ----------
        sgd, steps : as in ``predict``, of a task of one layer that learns its own weights; it may
            be used several times in a forward pass.

        Returns
        -------
        Stream, on the CPU, in the precision in which it was computed; it holds every batch's maps.
        Inside ``torch.autocast`` that is autocast's: see ``replay`` for what is lost.

        Raises
        ------
        TypeError : the layer is of another kind.
        ValueError : the task is not of one layer; its weights are frozen, computed from others or
            shared; an input without a batch axis, or an output of another size than the layer's
            settings give; a loss that does not depend on the layer, or is no longer finite.

        Examples
        --------
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
        >>> batches = [(torch.randn(4, 1, 6, 6), torch.randint(3, (4,))) for _ in range(3)]
        >>> stream = NetworkTask(model, batches, nn.CrossEntropyLoss()).layer("0").stream(0.1, 10)
        >>> stream.steps, stream.weights.shape
        (10, (11, 2, 10))
        """
        settings, updates = SGD.of(sgd), _checks.count("steps", steps, least=0)
        with self._objective.kept(autocast=True):
            return record_stream(self._objective, settings, updates)

    def sharpness(self, kind: Kind = "hessian", *, top: int = 1, tolerance: float = 1e-3) -> Any:
        """Largest eigenvalues of the loss's curvature over what learns.

        Parameters
        ----------
        kind, top, tolerance : as in ``cnnbridge.sharpness``.

        Returns
        -------
        float, or (top,) array, descending, for ``top`` above 1.

        Raises
        ------
        TypeError, ValueError : an unknown kind, a number out of range, a loss that is random.
        """
        which = choice("kind", kind, KINDS)
        number = _checks.count("top", top)
        width = _checks.positive("tolerance", tolerance)
        if number > self._objective.size:
            raise ValueError(
                f"top must be at most the {self._objective.size} parameters that learn; got {top}"
            )
        with self._ready() as objective:
            values, _ = largest_curvatures(objective, which, width, top=number)
        return float(values[0]) if number == 1 else values

    def track(
        self,
        sgd: SGD | float,
        steps: int,
        *,
        every: int = 10,
        layers: Sequence[str] = (),
        tolerance: float = 1e-2,
        watch: Callable[[int, nn.Module], object] | None = None,
    ) -> SharpnessTrack:
        """Train, full batch, and measure the sharpness on the way.

        Parameters
        ----------
        sgd, steps : as in ``predict``.
        every : steps between measurements, from step 0 on.
        layers : names of layers whose own bounds are wanted too.
        tolerance : relative, of each measurement.
        watch : called at each measurement with the step and the copy that is trained, to measure
            what else is wanted of it; it must leave the copy as it is.

        Returns
        -------
        SharpnessTrack, which prints as a table.

        Raises
        ------
        TypeError, ValueError : as ``predict``; no such layer.

        Notes
        -----
        Cohen, Kaur, Li, Kolter, Talwalkar 2021: full-batch training drives the sharpness up to
        2 / lr, and hovers there.

        Examples
        --------
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        >>> data = torch.randn(8, 3).double(), torch.randn(8, 2).double()
        >>> track = NetworkTask(model, data, nn.MSELoss()).track(0.1, steps=20, layers=["2"])
        >>> track.steps.tolist(), track.edge, track.layers["2"].shape
        ([0, 10, 20], 20.0, (3,))
        """
        settings, updates = SGD.of(sgd), _checks.count("steps", steps, least=0)
        stride = _checks.count("every", every)
        width = _checks.positive("tolerance", tolerance)
        with self._ready() as objective:
            return track_sharpness(
                objective,
                settings,
                updates,
                every=stride,
                layers=layers,
                tolerance=width,
                watch=watch,
            )


def sharpness(
    model: nn.Module,
    data: Data,
    loss: Any = None,
    *rest: Any,
    kind: Kind = "hessian",
    layer: str | None = None,
    top: int = 1,
    tolerance: float = 1e-3,
) -> Any:
    """Largest eigenvalue of the loss's curvature, by Lanczos on products with it.

    Parameters
    ----------
    model, data, loss : as in ``NetworkTask``; ``sharpness(model, x, y, loss)`` is short for
        ``sharpness(model, (x, y), loss)``.
    kind : "hessian", or "gauss_newton", which is never negative.
    layer : of this layer's parameters alone; None for all.
    top : how many eigenvalues.
    tolerance : relative, at which Lanczos stops.

    Returns
    -------
    The eigenvalue of largest value (not modulus), in units of 1 / learning rate; with ``top``
    above 1 an array, descending.

    Raises
    ------
    TypeError, ValueError : as ``NetworkTask``; an unknown kind, top or tolerance not positive.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]])
    >>> model = nn.Linear(1, 1, bias=False)
    >>> round(sharpness(model, (x, y), nn.MSELoss()), 4)  # 2 E[x^2]
    10.0
    """
    if rest:
        data, (loss,) = (data, loss), rest
    task = NetworkTask(model, data, loss, layer=layer)
    return task.sharpness(kind, top=top, tolerance=tolerance)


def _curvature(value: Curvature) -> Curvature:
    choice("curvature", value, CURVATURES)
    return value
