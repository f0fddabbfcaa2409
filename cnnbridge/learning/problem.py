"""A layer as a Wiener problem, and bounds on its learning rate in torch's units."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adaptive import WienerProblem, checks
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.patches import check_input
from cnnbridge.learning.records import LearningRateBounds
from cnnbridge.learning.sgd import SGD
from cnnbridge.statistics.autocorrelation import Moments


def layer_problem(
    conv: Layer,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    bias: bool | None = None,
    group: int | None = None,
) -> WienerProblem:
    """The layer as a multichannel LMS problem: patches in, desired response out.

    Parameters
    ----------
    conv : any convolution, transposed convolution or linear layer of ``torch.nn``; with groups,
        each group is a problem of its own.
    x : real floating-point tensor, the layer's input, as in ``unfold_patches``.
    target : desired response, of the shape of the layer's output.
    bias : whether the bias is learned, as a constant tap that comes last; by default if the layer
        has one. False holds the layer's bias as it is: the desired response is target - bias.
    group : which group, 0 to groups - 1; to be given when there is more than one.

    Returns
    -------
    ``adaptive.WienerProblem`` in float64 with R (L, L), P (M / groups, L), taps as in
    ``group_weights``; powers and ``J_min`` are means over images and positions, summed
    over the outputs. ``MSELoss()`` of the layer is the sum of the groups' MSE divided by M.

    Raises
    ------
    TypeError : conv is no such layer, x or target not a real floating-point tensor.
    ValueError : x or target is empty, not finite or of the wrong shape; group is missing for a
        grouped layer, or out of range.

    Notes
    -----
    The Wiener-Hopf equations of Haykin, Adaptive Filter Theory, with the patch as regressor.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> conv, x = torch.nn.Conv2d(1, 2, 3, bias=False), torch.randn(4, 1, 8, 8)
    >>> problem = layer_problem(conv, x, conv(x).detach())
    >>> problem.R.shape, problem.P.shape, problem.J_min < 1e-9
    ((9, 9), (2, 9), True)
    """
    groups = Geometry.of(conv).groups
    if group is None and groups > 1:
        raise ValueError(
            f"group must be given for a layer with {groups} groups; got None: each group is "
            f"a problem of its own, and layer_problems returns them all"
        )
    index = 0 if group is None else _checks.count("group", group, least=0)
    if index >= groups:
        raise ValueError(f"group must be less than the layer's {groups} groups; got {group}")
    return layer_problems(conv, x, target, bias=bias)[index]


def layer_problems(
    conv: Layer, x: torch.Tensor, target: torch.Tensor, *, bias: bool | None = None
) -> tuple[WienerProblem, ...]:
    """One ``WienerProblem`` for each group of the layer; arguments as in ``layer_problem``.

    Group g owns output channels g * M / groups to (g + 1) * M / groups - 1.

    Raises
    ------
    TypeError, ValueError : as ``layer_problem``.

    Examples
    --------
    >>> conv, x = torch.nn.Conv2d(2, 4, 1, groups=2, bias=False), torch.randn(4, 2, 3, 3)
    >>> [problem.P.shape for problem in layer_problems(conv, x, conv(x).detach())]
    [(2, 1), (2, 1)]
    """
    geometry = Geometry.of(conv)
    with_bias = _checks.bias_flag(conv, bias)
    x = check_input("x", x, geometry)
    shape = geometry.output_shape(tuple(x.shape))
    desired = _checks.target_like(target, shape).detach().to(x.device)
    if conv.bias is not None and not with_bias:
        fixed = conv.bias.detach().to(x.device, torch.float64)
        if geometry.kind != "linear":
            fixed = fixed.reshape(-1, *(1 for _ in geometry.kernel))
        desired = desired.to(torch.float64) - fixed
    moments = Moments.zeros(geometry, bias=with_bias, device=x.device)
    # products in float64 here: rounded ones make a null mode look like a small one with a target
    moments.add(x, desired, dtype=torch.float64)
    moments.check("x", x)
    R = moments.mean().cpu().numpy()
    P, d_power = ((sums / moments.count).cpu().numpy() for sums in (moments.P, moments.d_power))
    return tuple(
        WienerProblem(R=R[g], P=P[g], d_power=float(d_power[g])) for g in range(geometry.groups)
    )


def learning_rate_bounds(
    problems: WienerProblem | Sequence[WienerProblem],
    out_channels: int,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> LearningRateBounds:
    """The learning rates at which a layer trains stably, in torch's units.

    Parameters
    ----------
    problems : the layer's problem, or one for each group (the stiffest group decides).
    out_channels : M, output channels of the whole layer.
    momentum, weight_decay : as given to ``torch.optim.SGD``; 0 <= momentum < 1.

    Returns
    -------
    LearningRateBounds. A mode of curvature h_k = 2 lambda_k / M + weight_decay is stable if and
    only if lr h_k < 2 (1 + momentum). Without weight decay: lr < (1 + momentum) M / lambda_max.
    inf if nothing bounds the rate (no input, no decay).

    Raises
    ------
    TypeError, ValueError : a number out of range; no problem given.

    Notes
    -----
    Polyak 1964 for the heavy ball; Haykin, Adaptive Filter Theory, for momentum = 0.

    Examples
    --------
    >>> problem = WienerProblem(R=[[4.0]], P=[[1.0], [0.0]], d_power=1.0)
    >>> learning_rate_bounds(problem, out_channels=2).mean
    0.5
    >>> learning_rate_bounds(problem, out_channels=2, momentum=0.5).mean
    0.75
    """
    items = (
        [problems]
        if isinstance(problems, WienerProblem)
        else checks.items("problems", problems, "WienerProblems")
    )
    for problem in items:
        checks.instance("problems", problem, WienerProblem)
    if not items:
        raise ValueError("problems must hold at least one WienerProblem; got none")
    M = _checks.out_channels(out_channels)
    sgd = SGD(1.0, momentum, weight_decay)
    largest, trace = (
        max(float(power(p.modes.eigenvalues)) for p in items)
        for power in (lambda values: values[-1], lambda values: values.sum())
    )
    return LearningRateBounds(
        mean=sgd.highest_rate(2 * largest / M),
        trace=sgd.highest_rate(2 * trace / M),
        momentum=sgd.momentum,
        weight_decay=sgd.weight_decay,
    )
