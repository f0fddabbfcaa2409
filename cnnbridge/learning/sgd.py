"""The settings of ``torch.optim.SGD`` as one checked value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from adaptive.checks import Array
from adaptive.modes import heavy_ball_roots
from cnnbridge import _checks


@dataclass(frozen=True)
class SGD:
    """Learning rate, momentum and weight decay of ``torch.optim.SGD``.

    One update of weights w with gradient g, in torch's order (no dampening, no Nesterov step):

        b <- momentum * b + g + weight_decay * w,    w <- w - lr * b.

    Parameters
    ----------
    lr : learning rate, positive.
    momentum : in [0, 1).
    weight_decay : zero or positive.

    Raises
    ------
    TypeError, ValueError : a setting is not a number, or out of range.

    Notes
    -----
    Polyak 1964 for momentum, the heavy ball.

    Examples
    --------
    >>> SGD(0.1, momentum=0.9)
    SGD(lr=0.1, momentum=0.9, weight_decay=0.0)
    >>> SGD(0.1, momentum=0.9).highest_rate(curvature=2.0)
    1.9
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", _checks.positive("lr", self.lr))
        object.__setattr__(self, "momentum", _checks.fraction("momentum", self.momentum))
        decay = _checks.nonnegative("weight_decay", self.weight_decay)
        object.__setattr__(self, "weight_decay", decay)

    @classmethod
    def of(cls, sgd: SGD | float | torch.optim.SGD) -> SGD:
        """The settings that any function with a parameter ``sgd`` accepts.

        Parameters
        ----------
        sgd : an ``SGD``, a learning rate, or an optimizer of torch.

        Raises
        ------
        TypeError : none of these.
        ValueError : a setting is out of range; the optimizer uses Nesterov momentum, dampening or
            ``maximize``, or has parameter groups with different settings.

        Examples
        --------
        >>> SGD.of(0.1)
        SGD(lr=0.1, momentum=0.0, weight_decay=0.0)
        >>> SGD.of(torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9))
        SGD(lr=0.1, momentum=0.9, weight_decay=0.0)
        """
        if isinstance(sgd, SGD):
            return sgd
        if isinstance(sgd, torch.optim.SGD):
            return _of_optimizer(sgd)
        if isinstance(sgd, torch.optim.Optimizer):
            raise TypeError(
                f"sgd must be a cnnbridge.SGD, a learning rate or a torch.optim.SGD; "
                f"got {type(sgd).__name__}, whose steps are not SGD's"
            )
        return cls(sgd)

    @classmethod
    def from_mu(cls, mu: float, out_channels: int) -> SGD:
        """Plain SGD at the LMS step size ``mu``: lr = mu M / 2, the inverse of ``mu``.

        Raises
        ------
        TypeError, ValueError : mu is not a positive number, or out_channels no positive integer.

        Examples
        --------
        >>> SGD.from_mu(0.05, out_channels=4).lr
        0.1
        """
        return cls(_checks.positive("mu", mu) * _checks.out_channels(out_channels) / 2)

    def mu(self, out_channels: int) -> float:
        """LMS step size mu = 2 lr / M of w(n+1) = w(n) + mu e(n) u(n) for M output channels.

        ``MSELoss(reduction="mean")`` averages over the M output channels (all of them, also in a
        grouped layer), and its derivative carries the 2.

        Raises
        ------
        TypeError, ValueError : out_channels is not a positive integer.

        Examples
        --------
        >>> SGD(0.1).mu(out_channels=4)
        0.05
        """
        return 2 * self.lr / _checks.out_channels(out_channels)

    def highest_rate(self, curvature: float) -> float:
        """Learning rate from which a mode of this curvature diverges; inf if none does.

        2 (1 + momentum) / (curvature + weight_decay); ``lr`` does not enter.

        Examples
        --------
        >>> SGD(1.0).highest_rate(4.0), SGD(1.0).highest_rate(0.0)
        (0.5, inf)
        """
        total = curvature + self.weight_decay
        return 2 * (1 + self.momentum) / total if total > 0 else float("inf")

    def roots(self, curvature: Array) -> Array:
        """Roots of each mode's recursion, shape (2, *curvature.shape), larger modulus first.

        z^2 - (1 + momentum - lr h) z + momentum = 0 with h = curvature + weight_decay.
        """
        return heavy_ball_roots(self.lr * (curvature + self.weight_decay), self.momentum)

    def at(self, lr: float) -> SGD:
        """The same settings at another learning rate."""
        return replace(self, lr=lr)

    def optimizer(self, parameters: Any) -> torch.optim.SGD:
        """``torch.optim.SGD`` with these settings."""
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


def _of_optimizer(optimizer: torch.optim.SGD) -> SGD:
    found = set()
    for group in optimizer.param_groups:
        for name in ("nesterov", "maximize", "dampening"):
            if group[name]:
                raise ValueError(
                    f"sgd must be SGD without nesterov, maximize and dampening; "
                    f"got {name}={group[name]}"
                )
        found.add(SGD(*(float(group[name]) for name in ("lr", "momentum", "weight_decay"))))
    if len(found) > 1:
        raise ValueError(
            f"sgd must have the same settings in all parameter groups; got {len(found)} different"
        )
    return found.pop()
