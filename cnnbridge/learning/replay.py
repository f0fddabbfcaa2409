"""A layer's training, recorded, and run again through ``adaptive``'s block LMS kernel.

In a network a layer's update is LMS with -dL/dy as error, exactly and at every step. The claim is
checked by doing it: the kernel gets regressors and a desired response, and torch's weights must
come out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import cycle
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
    find_module,
    host_copy,
    own_weights,
    plain_copy,
    watched_use,
)
from cnnbridge.layers.patches import group_weights, unfold_patches
from cnnbridge.learning.objective import Objective
from cnnbridge.learning.sgd import SGD

Maps = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Stream:
    """What passed through one layer while its network was trained.

    A layer may be used several times in a forward pass: ``inputs[n][k]`` is what entered it at its
    use k of step n. Its update is the sum over its uses.

    Attributes
    ----------
    layer : its name.
    sgd : the settings of SGD.
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
    sgd: SGD
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
    """The stream run through block LMS, compared with what torch made of it.

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


def record_stream(objective: Objective, sgd: SGD, steps: int) -> Stream:
    """Train the objective's network and record what its layer sees, batch after batch."""
    layer = objective.layer
    if layer is None:
        raise ValueError(
            "stream must be asked of one layer, such as "
            "NetworkTask(model, data, loss).layer('conv1').stream(...); got all layers"
        )
    name = f"layer {layer!r}"
    part = _checks.layer(name, find_module(objective.model, layer))
    own_weights(name, part, objective.model)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    geometry = Geometry.of(part)

    def keep(module: nn.Module, args: Any, kwargs: dict[str, Any], out: torch.Tensor) -> Any:
        entered, watched = watched_use(name, geometry, args, kwargs, out)
        watched.retain_grad()
        # kept at once, since who comes later may write into them
        seen.append((host_copy(entered), host_copy(out), watched))
        return watched.clone()

    handle = part.register_forward_hook(keep, prepend=True, with_kwargs=True)
    try:
        recorded = _record(objective, sgd, steps, part, seen)
    finally:
        handle.remove()
    inputs, outputs, gradients, weights, losses = recorded
    return Stream(
        layer=layer,
        sgd=sgd,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        output_gradients=tuple(gradients),
        weights=torch.stack(weights).numpy(),
        loss=np.array(losses),
        module=plain_copy(part, part.weight.detach().cpu()),
    )


def _record(
    objective: Objective,
    sgd: SGD,
    steps: int,
    part: Layer,
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> tuple[list[Maps], list[Maps], list[Maps], list[torch.Tensor], list[float]]:
    """Train on one batch after another and keep what the hook has seen at each step."""
    inputs, outputs, gradients, weights, losses = [], [], [], [], []
    optimizer = sgd.optimizer([p for p in objective.model.parameters() if p.requires_grad])
    for _, batch in zip(range(steps), cycle(objective.batches), strict=False):
        seen.clear()
        weights.append(_weights(part))
        # inside the caller's autocast the rounded weights of one step would serve them all
        torch.clear_autocast_cache()
        _, value = objective.run(batch)
        optimizer.zero_grad()
        if value.requires_grad:
            value.backward()
        if all(left.grad is None for _, _, left in seen):
            raise ValueError(f"the loss must depend on layer {objective.layer!r}; it does not")
        inputs.append(tuple(entered for entered, _, _ in seen))
        outputs.append(tuple(out for _, out, _ in seen))
        gradients.append(
            tuple(host_copy(torch.zeros_like(t) if t.grad is None else t.grad) for _, _, t in seen)
        )
        losses.append(float(value.detach()))
        if not np.isfinite(losses[-1]):
            raise ValueError(
                f"loss must stay finite to be recorded; got {losses[-1]} at step "
                f"{len(losses) - 1}: lower lr"
            )
        optimizer.step()
    weights.append(_weights(part))
    return inputs, outputs, gradients, weights, losses


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
    stream : from ``NetworkTask.stream``.

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
    >>> from cnnbridge import NetworkTask
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    >>> batches = [(torch.randn(4, 1, 6, 6).double(), torch.randint(3, (4,))) for _ in range(3)]
    >>> task = NetworkTask(model.double(), batches, nn.CrossEntropyLoss(), layer="0")
    >>> stream = task.stream(SGD(0.1, momentum=0.9, weight_decay=0.01), steps=50)
    >>> replay(stream).max_error < 1e-10
    True
    """
    if not isinstance(stream, Stream):
        raise TypeError(
            f"stream must be a Stream, as NetworkTask.stream returns; got {type(stream).__name__}"
        )
    geometry = Geometry.of(stream.module)
    # the sum of |u|^2 over a block, of the strongest group
    power = max(
        (
            float(_patches(x, stream.module, torch.float64).square().sum(dim=(1, 2)).max())
            for x in stream.inputs
        ),
        default=0.0,
    )
    scale = stream.sgd.lr * power if power > 0 else 1.0
    mu = stream.sgd.lr / scale
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
        kept = dtype(stream.sgd.momentum) * total - dtype(stream.sgd.weight_decay * scale) * w
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
    block = adaptive.BlockLMS(mu=mu * (N + L), block=N + L).stream(w0=w)
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


def _weights(layer: Layer) -> torch.Tensor:
    """(M, L), in a precision that numpy knows."""
    w = host_copy(group_weights(layer, bias=layer.bias is not None)).flatten(0, 1)
    return w.to(torch.promote_types(w.dtype, torch.float32))
