"""A normalization and its adjacent layer, in a copy of a model, with the tensors of one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adaptive.checks import shown
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import check_eager, differentiable, model_copy
from cnnbridge.layers.patches import group_weights, unfold_patches
from cnnbridge.normalization.parts import SplitBatchNorm, channel_divisor

LossFn = Callable[[torch.Tensor, Any], torch.Tensor]


@dataclass
class Before:
    """Statistics of a layer that follows a normalization, from one batch."""

    gain: torch.Tensor
    s: torch.Tensor
    # patches of x - m, of an image of ones, and the shift of the normalized channels
    c: torch.Tensor
    b: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of(cls, pair: Pair) -> Before:
        """From a pair that has run forward and backward."""
        x = pair.norm_input
        mean, divisor = _statistics(pair.norm, x)
        scale = pair.norm.weight.detach().double() if pair.norm.affine else torch.ones_like(mean)
        shift = pair.norm.bias.detach().double() if pair.norm.affine else torch.zeros_like(mean)
        gain = scale / divisor
        if isinstance(pair.norm, SplitBatchNorm) and not pair.norm.center:
            shift = shift + gain * mean
        geometry, channel = pair.geometry, pair.norm_channels(x)
        places = pair.places
        x = (x - mean[channel]).flatten()[places]
        # the normalization's channel of each of the layer's
        own = _one_each(geometry.channels_first(channel.flatten()[places]))
        if own is None:
            raise ValueError(
                f"each channel of conv's input must lie in one channel of norm; got "
                f"{pair.names[0]!r} and {pair.names[1]!r}, where some have values of several"
            )

        def per_tap(values: torch.Tensor) -> torch.Tensor:
            taps = geometry.taps * geometry.groups // geometry.in_channels
            return values[own].repeat_interleave(taps).reshape(geometry.groups, 1, -1)

        return cls(
            gain=per_tap(gain),
            s=divisor,
            c=_columns(x, pair.conv),
            b=_columns(torch.ones_like(x), pair.conv),
            shift=per_tap(shift),
        )

    @property
    def normalized(self) -> torch.Tensor:
        """Patches of the normalized input, (groups, L, patches)."""
        return self.gain.mT * self.c + self.shift.mT * self.b

    def step(self, w: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """The NLMS step in g for learning rate 1: e c' S^-2, plus the part of a learned bias."""
        step = (error @ self.c.mT) * self.gain**2
        if self.shift.any():
            step = step + (error @ self.b.mT) * (self.gain * self.shift)
        return step


@dataclass
class After:
    """Statistics of a layer that precedes a normalization, from one batch."""

    gain: torch.Tensor
    s: torch.Tensor
    c: torch.Tensor
    R_c: torch.Tensor
    g: torch.Tensor

    @classmethod
    def of(cls, pair: Pair) -> After:
        """From a pair that has run forward and backward."""
        c = _columns(pair.conv_input, pair.conv)
        c = c - c.mean(dim=2, keepdim=True)
        R_c = c @ c.mT / c.shape[2]
        w = pair.weights()
        s = ((w @ R_c * w).sum(dim=2, keepdim=True) + pair.norm.eps).sqrt()
        gain = 1 / s
        if pair.norm.affine:
            gamma = pair.norm.weight.detach().double()[pair.own_outputs()]
            gain = gain * gamma.reshape(s.shape)
        return cls(gain=gain, s=s.flatten(), c=c, R_c=R_c, g=w / s)

    def step(self, w: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """The NLMS step in g for learning rate 1, without the radial part."""
        v = error @ self.c.mT
        return self.gain**2 * (v - (self.g * v).sum(dim=2, keepdim=True) * (self.g @ self.R_c))


class Pair:
    """A normalization and its adjacent layer, in a copy of a model."""

    def __init__(self, model: nn.Module, norm: str, conv: str) -> None:
        check_eager(model)
        self.model = model_copy(model).train()
        modules = dict(self.model.named_modules())
        for argument, name in (("norm", norm), ("conv", conv)):
            if not isinstance(name, str) or name not in modules:
                raise ValueError(f"{argument} must name a module of the model; got {shown(name)}")
        self.norm: Any = modules[norm]
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, SplitBatchNorm)
        base = next((kind for kind in kinds if isinstance(self.norm, kind)), None)
        if base is None or _checks.own_method(self.norm, base, ("forward",)) is not None:
            raise TypeError(
                "norm must name a torch.nn.BatchNorm1d, BatchNorm2d, BatchNorm3d or a "
                f"SplitBatchNorm, without a forward of its own; got {type(self.norm).__name__}"
            )
        self.conv = _checks.layer("conv", modules[conv])
        self.geometry = Geometry.of(self.conv)
        if not isinstance(self.conv.weight, nn.Parameter) or not self.conv.weight.requires_grad:
            raise ValueError(
                "conv must have a weight that learns, and that no parametrization computes; "
                f"got {conv!r}, which has not"
            )
        self.names = (norm, conv)
        self.loss = float("nan")
        # input, output, and how often the output had been written to
        self._calls: dict[str, tuple[torch.Tensor, torch.Tensor, int]] = {}
        self._watched: torch.Tensor | None = None
        # index, in the first module's output, of every value that the second received
        self.places: torch.Tensor
        for own, other in (("norm", "conv"), ("conv", "norm")):
            module: nn.Module = getattr(self, own)
            module.register_forward_hook(self._hook(own, other), prepend=True, with_kwargs=True)

    def _hook(self, own: str, other: str) -> Callable[..., torch.Tensor | None]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
        ) -> Any:
            entered = args[0] if args else kwargs["input"]
            if own in self._calls:
                name = self.names[("norm", "conv").index(own)]
                raise ValueError(f"{own} must be used once in a forward pass; got {name!r} again")
            self._calls[own] = (entered, output, output._version)
            if other not in self._calls:
                return None
            _, left, version = self._calls[other]
            places = _places(left, entered)
            # an in-place layer between them leaves the tensor the same, and writes into it
            if places is None or entered._version != version:
                return None
            # a BatchNorm after the layer must see the layer's whole output
            if own == "norm" and not _permutation(places, left.numel()):
                return None
            self._watched, self.places = output, places
            # downstream gets a copy: an in-place ReLU must not overwrite what we differentiate by
            return output.clone()

        return hook

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The model's output; the pair's tensors are kept."""
        self._calls, self._watched = {}, None
        # inside autocast the rounded weights of before a step would serve after it, too
        torch.clear_autocast_cache()
        y: torch.Tensor = self.model(differentiable(x))
        if self._watched is None:
            raise ValueError(
                "norm and conv must be adjacent, the output of one the input of the other or a "
                f"view of it, and nothing between; got {self.names[0]!r} and {self.names[1]!r}"
            )
        if self.after and isinstance(self.norm, SplitBatchNorm):
            kind = (self.norm.center, self.norm.scale, self.norm.per, self.norm.statistics)
            plain = kind == (True, "full", "channel", "batch")
            if not plain or not self.norm.grad_through_statistics:
                raise ValueError(
                    "norm must be the full normalization with live statistics where it comes "
                    f"after the layer; got {self.norm}"
                )
        if self.after:
            self.own_outputs()
        return y

    def backward(self, x: torch.Tensor, target: Any, loss_fn: LossFn) -> torch.Tensor:
        """Gradients of the copy, and the error (groups, M / groups, patches) = -dL/d(response)."""
        with torch.enable_grad():
            loss = _checks.scalar_loss(loss_fn, self.forward(x), differentiable(target))
            assert self._watched is not None
            self._watched.retain_grad()
            loss.backward()
        self.loss = float(loss.detach())
        gradient = self._watched.grad
        if gradient is None:
            raise ValueError(f"the loss must depend on {self.names[1]!r}; got one that does not")
        e = -gradient.double()
        if self.after:
            e = self._in_layer(e)
        e = self.geometry.channels_first(e).transpose(0, 1)
        groups = self.geometry.groups
        return e.reshape(groups, self.geometry.out_channels // groups, -1)

    @property
    def after(self) -> bool:
        """Whether the normalization takes the layer's output."""
        return self._watched is self._calls["norm"][1]

    def norm_channels(self, x: torch.Tensor) -> torch.Tensor:
        """The normalization's channel of each value of its input."""
        axis = channel_axis(self.norm) % x.ndim
        channel = torch.arange(x.shape[axis], device=x.device)
        return channel.reshape(-1, *(1,) * (x.ndim - 1 - axis)).expand(x.shape)

    def own_outputs(self) -> torch.Tensor:
        """(M,), the normalization's channel of each output of the layer that comes before it."""
        channels = self._in_layer(self.norm_channels(self._calls["norm"][0]))
        own = _one_each(self.geometry.channels_first(channels))
        if own is None or len(own.unique()) < len(own):
            raise ValueError(
                "each channel of conv's output must be one channel of norm, with no other in it; "
                f"got {self.names[1]!r} and {self.names[0]!r}, where it is not"
            )
        return own

    def _in_layer(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the shape of the normalization's input, in the layout of the layer's output."""
        left = self._calls["conv"][1]
        laid = values.new_empty(left.numel())
        laid[self.places.flatten()] = values.flatten()
        return laid.view(left.shape)

    @property
    def norm_input(self) -> torch.Tensor:
        """Input of the normalization, float64."""
        return self._calls["norm"][0].detach().double()

    @property
    def conv_input(self) -> torch.Tensor:
        """Input of the layer, float64."""
        return self._calls["conv"][0].detach().double()

    @property
    def finite(self) -> bool:
        """Whether the batch came through: a diverged network has no statistics."""
        seen = self.conv_input if self.after else self.norm_input
        return bool(torch.isfinite(seen).all())

    def view(self) -> Before | After:
        """The layer in effective weights, for the last batch."""
        return After.of(self) if self.after else Before.of(self)

    def weights(self) -> torch.Tensor:
        """w, (groups, M / groups, L), a float64 copy."""
        return group_weights(self.conv).detach().double().clone()


def _statistics(norm: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and divisor of each channel that the module has just used, in float64."""
    axis = channel_axis(norm) % x.ndim
    var, mean = torch.var_mean(x, dim=[i for i in range(x.ndim) if i != axis], correction=0)
    if not isinstance(norm, SplitBatchNorm):
        return mean, (var + norm.eps).sqrt()
    if norm.statistics == "frozen":
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, var = norm.running_mean.double(), norm.running_var.double()
    return mean, channel_divisor(var, scale=norm.scale, per=norm.per, eps=norm.eps)


def channel_axis(norm: Any) -> int:
    """Axis of the channels in the normalization's input."""
    return norm.axis if isinstance(norm, SplitBatchNorm) else 1


def _places(left: torch.Tensor, entered: torch.Tensor) -> torch.Tensor | None:
    """Index in ``left`` of each value of ``entered``; None unless both share one memory."""
    memory = left.untyped_storage()
    if left.dtype != entered.dtype or memory.data_ptr() != entered.untyped_storage().data_ptr():
        return None
    place = torch.full((memory.nbytes() // left.element_size(),), -1, device=left.device)
    numbers = torch.arange(left.numel(), device=left.device).view(left.shape)
    place.as_strided(left.shape, left.stride(), left.storage_offset()).copy_(numbers)
    seen = place.as_strided(entered.shape, entered.stride(), entered.storage_offset())
    return None if (seen < 0).any() else seen


def _permutation(places: torch.Tensor, size: int) -> bool:
    return places.numel() == size and len(places.unique()) == size


def _one_each(channels: torch.Tensor) -> torch.Tensor | None:
    """(C,) from (N, C, *places) whose values are equal within each channel; else None."""
    rows = channels.transpose(0, 1).flatten(1)
    return rows[:, 0] if bool((rows == rows[:, :1]).all()) else None


def _columns(x: torch.Tensor, conv: Layer) -> torch.Tensor:
    """All patches of a batch, (groups, L, images * positions), image by image."""
    return unfold_patches(x, conv).permute(1, 2, 0, 3).flatten(2)
