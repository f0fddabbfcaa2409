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
from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import (
    autograd,
    detached_copy,
    find_module,
    host_copy,
    own_weights,
    plain_copy,
    watched_use,
)
from cnnbridge.layers.patches import group_weights, unfold_patches
from cnnbridge.learning.network import Settings

Maps = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Stream:
    """What passed through one layer while its network was trained.

    A layer may be used several times in a forward pass: ``inputs[n][k]`` is what entered it at its
    use k of step n. Its update is the sum over its uses.

    Attributes
    ----------
    layer : its name.
    learning_rate, momentum, weight_decay : SGD's settings.
    inputs : for each step and use, the layer's input, in the precision it computed with.
    outputs : for each step and use, its output.
    output_gradients : for each step and use, dL/dy, of the shape of the output; zero for a use that
        the loss does not depend on.
    weights : (steps + 1, M, L), of the layer as torch trained it; the bias tap last. At least
        float32.
    loss : (steps,), of each batch.
    module : a plain copy of the layer, on the CPU.
    """

    layer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    inputs: tuple[Maps, ...] = field(repr=False)
    outputs: tuple[Maps, ...] = field(repr=False)
    output_gradients: tuple[Maps, ...] = field(repr=False)
    weights: Array = field(repr=False)
    loss: Array = field(repr=False)
    module: Layer = field(repr=False)

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
    """Train a copy of a network with ``torch.optim.SGD`` and record what one layer sees.

    All parameters that require gradients learn, layer and network alike.

    Parameters
    ----------
    model : any module in eager mode; its train and eval flags hold. It is not changed.
    layer : name of a convolution, transposed convolution or linear layer of ``torch.nn`` that
        learns; it may be used several times in a forward pass.
    batches : of (input, target, ...), such as a ``DataLoader``; gone through again when it ends.
    loss : called as ``loss(model(input), target, ...)``, to return a scalar.
    lr, momentum, weight_decay : as given to ``torch.optim.SGD``.
    steps : number of updates.

    Returns
    -------
    Stream, on the CPU, in the precision in which it was computed; it holds every batch's maps.
    Inside ``torch.autocast`` that is autocast's: see ``replay`` for what is lost.

    Raises
    ------
    TypeError : no such kind of layer; a batch that is no tuple.
    ValueError : a number out of range; no such layer; a layer whose weights are frozen, computed
        from others, or shared with another layer; an input that is not batched, or an output of
        another size than the layer's settings give; no batches; a loss that does not depend on
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
    name = f"layer {layer!r}"
    own_weights(name, _checks.layer(name, find_module(model, layer)), model)
    inputs, outputs, gradients, weights, losses = [], [], [], [], []
    with autograd():
        twin = detached_copy(model)
        part = _checks.layer(name, find_module(twin, layer))
        geometry = Geometry.of(part)
        place = part.weight.device
        seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

        def keep(module: nn.Module, args: Any, kwargs: dict[str, Any], out: torch.Tensor) -> Any:
            entered, watched = watched_use(name, geometry, args, kwargs, out)
            watched.retain_grad()
            # kept at once, since who comes later may write into them
            seen.append((host_copy(entered), host_copy(out), watched))
            return watched.clone()

        part.register_forward_hook(keep, prepend=True, with_kwargs=True)
        optimizer = torch.optim.SGD(
            [p for p in twin.parameters() if p.requires_grad],
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        for _, batch in zip(range(settings.steps), _endless(batches), strict=False):
            items = [t.to(place) if isinstance(t, torch.Tensor) else t for t in batch]
            seen.clear()
            weights.append(_weights(part))
            # inside the caller's autocast the rounded weights of one step would serve them all
            torch.clear_autocast_cache()
            value = loss(twin(items[0]), *items[1:])
            optimizer.zero_grad()
            value.backward()
            if all(left.grad is None for _, _, left in seen):
                raise ValueError(f"the loss must depend on {name}; it does not")
            inputs.append(tuple(entered for entered, _, _ in seen))
            outputs.append(tuple(out for _, out, _ in seen))
            gradients.append(
                tuple(
                    host_copy(torch.zeros_like(t) if t.grad is None else t.grad) for _, _, t in seen
                )
            )
            losses.append(float(value.detach()))
            if not np.isfinite(losses[-1]):
                raise ValueError(
                    f"loss must stay finite to be recorded; got {losses[-1]} at step "
                    f"{len(losses) - 1}: lower lr"
                )
            optimizer.step()
        weights.append(_weights(part))
    return Stream(
        layer=layer,
        learning_rate=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        output_gradients=tuple(gradients),
        weights=torch.stack(weights).numpy(),
        loss=np.array(losses),
        module=plain_copy(part, part.weight.detach().cpu()),
    )


def replay(stream: Stream) -> Replay:
    """Run a recorded stream through ``adaptive.BlockLMS``, in the precision of its weights.

    The filter starts from the first weights and is told none of the others. It gets each step's
    patches as regressors u, a block for each batch with the patches of all uses of the layer, and
    as desired response the recorded output
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

    Weights come back to the rounding of the stream's precision: below 1e-10 in float64 and 1e-5 in
    float32 over hundreds of steps. Under ``torch.autocast`` a bfloat16 layer also rounds its
    weights, and the sums of its gradient, to 8 bits, which no record of its maps can tell: the
    filter, in float32, was 5e-4 to 3e-3 off in trials of 50 to 300 steps. Weights that are bfloat16
    themselves lose their small updates: 3e-2 off after 50 steps.

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
    geometry = Geometry.of(stream.module)
    # the sum of |u|^2 over a block, of the strongest group
    power = max(
        (
            float(_patches(x, stream.module, torch.float64).square().sum(dim=(1, 2)).max())
            for x in stream.inputs
        ),
        default=0.0,
    )
    scale = stream.learning_rate * power if power > 0 else 1.0
    mu = stream.learning_rate / scale
    dtype, torchs = stream.weights.dtype.type, torch.as_tensor(stream.weights).dtype
    size = geometry.out_channels // geometry.groups

    weights = np.empty_like(stream.weights)
    weights[0] = stream.weights[0]
    w = weights[0]
    total = np.zeros_like(w)  # each step's sum of u e, with what momentum left of those before
    missed, largest = 0.0, 0.0
    for n, (x, y, g) in enumerate(
        zip(stream.inputs, stream.outputs, stream.output_gradients, strict=True)
    ):
        recorded = _by_sample(y, geometry, torchs)
        desired = recorded - dtype(scale) * _by_sample(g, geometry, torchs)
        kept = dtype(stream.momentum) * total - dtype(stream.weight_decay * scale) * w
        w = np.empty_like(w)
        for group, u in enumerate(_patches(x, stream.module, torchs).numpy()):
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


def _patches(x: Maps, layer: Layer, dtype: torch.dtype) -> torch.Tensor:
    """Regressors (groups, samples, L), by use, image and position."""
    bias = layer.bias is not None
    u = [unfold_patches(t.to(dtype), layer, bias=bias).permute(1, 0, 3, 2) for t in x]
    return torch.cat([t.flatten(1, 2) for t in u], dim=1).contiguous()


def _by_sample(maps: Maps, geometry: Geometry, dtype: torch.dtype) -> Array:
    """Outputs (samples, M), in the same order."""
    rows = [geometry.channels_first(t).flatten(2).transpose(1, 2).flatten(0, 1) for t in maps]
    samples: Array = torch.cat(rows).to(dtype).numpy()
    return samples


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


def _weights(layer: Layer) -> torch.Tensor:
    """(M, L), in a precision that numpy knows."""
    w = host_copy(group_weights(layer, bias=layer.bias is not None)).flatten(0, 1)
    return w.to(torch.promote_types(w.dtype, torch.float32))
