"""A layer's training, recorded, and run again through ``adaptive``'s block LMS kernel.

In a network a layer's update is LMS with -dL/dy as error, exactly and at every step. The claim is
checked by doing it: the kernel gets regressors and a desired response, and torch's weights must
come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

import adaptive
from adaptive._checks import Array
from cnnbridge import _checks
from cnnbridge._objective import autograd, detached_copy
from cnnbridge.capture import _find
from cnnbridge.network import Settings
from cnnbridge.patches import group_weights, unfold_patches


@dataclass(frozen=True, eq=False)
class Stream:
    """What passed through one conv layer while its network was trained.

    Attributes
    ----------
    layer : its name.
    learning_rate, momentum, weight_decay : SGD's settings.
    inputs : for each step, the layer's input (B, C, H, W).
    outputs : for each step, its output (B, M, rows, columns).
    output_gradients : for each step, dL/dy, of the shape of the output.
    weights : (steps + 1, M, L), of the layer as torch trained it; the bias tap last.
    loss : (steps,), of each batch.
    geometry : a copy of the layer.
    """

    layer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    inputs: tuple[torch.Tensor, ...] = field(repr=False)
    outputs: tuple[torch.Tensor, ...] = field(repr=False)
    output_gradients: tuple[torch.Tensor, ...] = field(repr=False)
    weights: Array = field(repr=False)
    loss: Array = field(repr=False)
    geometry: nn.Conv2d = field(repr=False)

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
class Replay:
    """The stream through block LMS, beside what torch made of it.

    Attributes
    ----------
    max_error : largest departure of a weight from torch's, over all steps, in units of the
        largest weight.
    max_output_error : largest departure of the kernel's own outputs w'u from the layer's, in units
        of the largest output.
    mu : step size of the kernel, for the sum over a block.
    scale : e = scale * (-dL/dy), mu = lr / scale.
    weights : (steps + 1, M, L).
    weight_error : (steps + 1,): largest departure at each step, in the same units.
    """

    max_error: float
    max_output_error: float
    mu: float
    scale: float
    weights: Array = field(repr=False)
    weight_error: Array = field(repr=False)


def record_stream(
    model: nn.Module,
    layer: str,
    batches: Iterable[Any],
    loss: Callable[..., torch.Tensor],
    *,
    lr: float,
    steps: int,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> Stream:
    """Train a copy of a network with ``torch.optim.SGD`` and record what one conv layer sees.

    All parameters that require gradients learn, layer and network alike.

    Parameters
    ----------
    model : any module in eager mode; its train and eval flags hold. It is not changed.
    layer : name of an ``nn.Conv2d``, used once in a forward pass.
    batches : of (input, target, ...), such as a ``DataLoader``; gone through again when it ends.
    loss : called as ``loss(model(input), target, ...)``, to return a scalar.
    lr, momentum, weight_decay : as given to ``torch.optim.SGD``.
    steps : number of updates.

    Returns
    -------
    Stream, on the CPU, in the precision in which it was computed; it holds every batch's maps.

    Raises
    ------
    TypeError : no such kind of layer; a batch that is no tuple.
    ValueError : a number out of range; no such layer; no batches; a loss that does not depend on
        the layer, or is no longer finite.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    >>> batches = [(torch.randn(4, 1, 6, 6), torch.randint(3, (4,))) for _ in range(3)]
    >>> stream = record_stream(model, "0", batches, nn.CrossEntropyLoss(), lr=0.1, steps=10)
    >>> stream.steps, stream.weights.shape
    (10, (11, 2, 10))
    """
    settings = Settings.check(lr, steps, momentum, weight_decay)
    _checks.conv_layer(f"layer {layer!r}", _find(model, layer))
    inputs, outputs, gradients, weights, losses = [], [], [], [], []
    with autograd():
        twin = detached_copy(model)
        part = _checks.conv_layer("layer", _find(twin, layer))
        place = part.weight.device
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []

        def keep(module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> Any:
            watched = out if out.requires_grad else out.detach().requires_grad_()
            watched.retain_grad()
            seen.append((args[0], watched))
            # downstream gets a copy: an in-place ReLU must not overwrite the output
            return watched.clone()

        part.register_forward_hook(keep, prepend=True)
        optimizer = torch.optim.SGD(
            [p for p in twin.parameters() if p.requires_grad],
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        bias = part.bias is not None
        for _, batch in zip(range(settings.steps), _endless(batches), strict=False):
            items = [t.to(place) if isinstance(t, torch.Tensor) else t for t in batch]
            seen.clear()
            weights.append(_kept(group_weights(part, bias=bias)))
            value = loss(twin(items[0]), *items[1:])
            optimizer.zero_grad()
            value.backward()
            if len(seen) != 1:
                raise ValueError(
                    f"layer {layer!r} must be used once in a forward pass; got {len(seen)} uses"
                )
            entered, left = seen[0]
            if left.grad is None:
                raise ValueError(f"the loss must depend on layer {layer!r}; it does not")
            inputs.append(_kept(entered))
            outputs.append(_kept(left))
            gradients.append(_kept(left.grad))
            losses.append(float(value.detach()))
            if not np.isfinite(losses[-1]):
                raise ValueError(
                    f"loss must stay finite to be recorded; got {losses[-1]} at step "
                    f"{len(losses) - 1}: lower lr"
                )
            optimizer.step()
        weights.append(_kept(group_weights(part, bias=bias)))
    M = part.out_channels
    return Stream(
        layer=layer,
        learning_rate=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        output_gradients=tuple(gradients),
        weights=torch.stack(weights).flatten(1, 2).numpy().reshape(len(weights), M, -1),
        loss=np.array(losses),
        geometry=detached_copy(part).cpu(),  # type: ignore[arg-type]
    )


def replay(stream: Stream) -> Replay:
    """Run a recorded stream through ``adaptive.BlockLMS``, in the stream's precision.

    The filter starts from the first weights and is told none of the others. It gets each step's
    patches as regressors u, a block for each batch, and as desired response the recorded output
    plus the recorded error, d = y + scale * (-dL/dy). It computes its own outputs and errors from
    its own weights: e = d - w'u. Momentum and weight decay are one more sample for each tap. At
    ``scale`` = lr max sum |u|^2 its step size is that of a stable LMS, so that rounding dies out
    instead of growing.

    Parameters
    ----------
    stream : from ``record_stream``.

    Returns
    -------
    Replay.

    Raises
    ------
    TypeError : stream is not a ``Stream``.

    Notes
    -----
    Clark, Mitra and Parker 1981 for block LMS.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    >>> batches = [(torch.randn(4, 1, 6, 6), torch.randint(3, (4,))) for _ in range(3)]
    >>> stream = record_stream(
    ...     model.double(), "0", [(x.double(), y) for x, y in batches], nn.CrossEntropyLoss(),
    ...     lr=0.1, steps=50, momentum=0.9, weight_decay=0.01,
    ... )
    >>> replay(stream).max_error < 1e-10
    True
    """
    if not isinstance(stream, Stream):
        raise TypeError(f"stream must be a Stream of record_stream; got {type(stream).__name__}")
    conv = stream.geometry
    power = max((_power(x, conv) for x in stream.inputs), default=0.0)
    scale = stream.learning_rate * power if power > 0 else 1.0
    mu = stream.learning_rate / scale
    dtype = stream.weights.dtype.type
    size = conv.out_channels // conv.groups

    weights = np.empty_like(stream.weights)
    weights[0] = stream.weights[0]
    w = weights[0]
    total = np.zeros_like(w)  # each step's sum of u e, with what momentum left of those before
    missed, largest = 0.0, 0.0
    for n, (x, y, g) in enumerate(
        zip(stream.inputs, stream.outputs, stream.output_gradients, strict=True)
    ):
        recorded = y.movedim(1, -1).flatten(0, -2).numpy()
        desired = recorded - dtype(scale) * g.movedim(1, -1).flatten(0, -2).numpy()
        kept = dtype(stream.momentum) * total - dtype(stream.weight_decay * scale) * w
        w = np.empty_like(w)
        for group, u in enumerate(_regressors(x, conv)):
            own = slice(group * size, (group + 1) * size)
            error, w[own] = _block(u, desired[:, own], kept[own], mu, weights[n, own])
            total[own] = error.T @ u + kept[own]
            missed = max(missed, float(np.abs(desired[:, own] - error - recorded[:, own]).max()))
        largest = max(largest, float(np.abs(recorded).max()))
        weights[n + 1] = w
    unit = float(np.abs(stream.weights).max())
    gap = np.abs(weights - stream.weights).max(axis=(1, 2)).astype(float) / unit
    return Replay(
        max_error=float(gap.max()),
        max_output_error=missed / largest if largest else 0.0,
        mu=mu,
        scale=scale,
        weights=weights,
        weight_error=gap,
    )


def _block(u: Array, desired: Array, kept: Array, mu: float, w: Array) -> tuple[Array, Array]:
    """One block through the filter: its a priori errors (N, m), and the weights after it.

    What momentum and weight decay add is one more sample for each tap: a regressor that is 1 at
    that tap and 0 elsewhere, and a desired response that is off by just so much.
    """
    N, L = u.shape
    samples = np.concatenate([u, np.eye(L, dtype=u.dtype)])
    response = np.concatenate([desired, (w + kept).T])
    block = adaptive.BlockLMS(mu=mu * (N + L), block=N + L, w0=w)
    run = block.process(samples, response)
    return run.error[:N], run.weights


def _regressors(x: torch.Tensor, conv: nn.Conv2d) -> Array:
    """(groups, samples, L), samples by image and position."""
    u = unfold_patches(x, conv, bias=conv.bias is not None)
    return np.ascontiguousarray(u.permute(1, 0, 3, 2).flatten(1, 2).numpy())


def _power(x: torch.Tensor, conv: nn.Conv2d) -> float:
    """Sum of |u|^2 over a batch, of the strongest group."""
    u = unfold_patches(x, conv, bias=conv.bias is not None)
    return float(u.double().square().sum(dim=(0, 2, 3)).max())


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        empty = True
        for batch in batches:
            empty = False
            if not isinstance(batch, tuple | list) or not isinstance(batch[0], torch.Tensor):
                raise TypeError(
                    f"batches must be tuples that start with a tensor; got {type(batch).__name__}"
                )
            yield batch
        if empty:
            raise ValueError("batches must give at least one batch each time; got none")


def _kept(t: torch.Tensor) -> torch.Tensor:
    return t.detach().to("cpu", copy=True)
