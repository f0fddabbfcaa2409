"""The parts of BatchNorm, centring, amplifying and suppressing, each as a module.

With s = sqrt(var + eps) of a channel, BatchNorm divides by s = min(s, 1) max(s, 1). The first
factor amplifies the weak channels and leaves the strong ones alone, the second suppresses the
strong ones and leaves the weak ones alone. ``cnnbridge.normalization.spectra`` computes what each
of them does to the spectrum that the next layer learns on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from adaptive.checks import choice, whole
from cnnbridge import _checks
from cnnbridge.layers.isolation import unchanged

SCALES = ("full", "amplify", "suppress", "none")
POOLS = ("channel", "layer", "equal_power")
STATISTICS = ("batch", "frozen")

# the arguments of ``SplitBatchNorm`` by the name that studies and reports use
NORMALIZATION_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "none": {"center": False, "scale": "none"},
    "center": {"scale": "none"},
    "full": {},
    "amplify": {"scale": "amplify"},
    "suppress": {"scale": "suppress"},
    "full_uncentered": {"center": False},
    "amplify_uncentered": {"center": False, "scale": "amplify"},
    "suppress_uncentered": {"center": False, "scale": "suppress"},
    "layer": {"per": "layer"},
    "equal_power": {"per": "equal_power"},
    "frozen": {"statistics": "frozen"},
    "detached": {"grad_through_statistics": False},
}


class SplitBatchNorm(nn.Module):
    """``nn.BatchNorm1d/2d/3d`` with its parts chosen one by one: z = (x - m) / divisor.

    Parameters
    ----------
    channels : C, the size of axis 1 of the input (N, C, ...), or of the last with ``axis=-1``.
    center : subtract the channel's mean m.
    scale : the divisor, from s = sqrt(var + eps): "full" s, "amplify" min(s, 1), "suppress"
        max(s, 1), "none" 1. The variance is about the mean whether or not it is subtracted.
    per : what s is. "channel" is the channel's own; "layer" the same for all channels,
        sqrt(mean of var over channels + eps); "equal_power" the first over the second: it makes
        channels equal and leaves the power of the layer as it is (with scale="full"; amplify and
        suppress then work relative to the layer's power). The mean is each channel's own always.
    statistics : "batch" for those of the batch in training; "frozen" for those of the first batch
        ever seen in training, as constants from then on, in eval mode too.
    grad_through_statistics : False treats m and s as constants in the backward pass.
    eps, momentum, affine, track_running_stats : as in ``nn.BatchNorm2d``.
    axis : where the channels are: 1 as in torch's layers, -1 for tokens (N, ..., C), as a linear
        layer takes them. The statistics are over all other axes.

    The parameters and buffers have the names that torch gives them, so a ``state_dict`` goes from
    BatchNorm to any variant and back. With ``scale="full"`` and the other defaults, outputs,
    gradients and running statistics equal BatchNorm's to rounding. Frozen statistics live in
    ``running_mean`` and ``running_var``; what is loaded with ``num_batches_tracked`` above zero
    counts as frozen already. Half-precision input gets float32 statistics and keeps its dtype.

    Raises
    ------
    TypeError, ValueError : an argument is of the wrong type or out of range; frozen statistics
        without ``track_running_stats``; input that is not (N, C, ...), or not (N, ..., C) with
        ``axis=-1``, or that has a single value per channel in training.

    Notes
    -----
    Ioffe and Szegedy 2015 for the whole.

    Examples
    --------
    >>> x = torch.randn(8, 3, 5, 5)
    >>> torch.allclose(SplitBatchNorm(3)(x), nn.BatchNorm2d(3)(x), atol=1e-6)
    True
    >>> z = SplitBatchNorm(3, scale="suppress")(100 * x)
    >>> [round(s, 3) for s in z.std(dim=(0, 2, 3), correction=0).tolist()]
    [1.0, 1.0, 1.0]
    """

    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    num_batches_tracked: torch.Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        center: bool = True,
        scale: str = "full",
        per: str = "channel",
        statistics: str = "batch",
        grad_through_statistics: bool = True,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        axis: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = _checks.count("channels", channels)
        self.center = _checks.flag("center", center)
        self.scale = choice("scale", scale, SCALES)
        self.per = choice("per", per, POOLS)
        self.statistics = choice("statistics", statistics, STATISTICS)
        self.grad_through_statistics = _checks.flag(
            "grad_through_statistics", grad_through_statistics
        )
        self.eps = _checks.nonnegative("eps", eps)
        self.momentum = None if momentum is None else _checks.nonnegative("momentum", momentum)
        if self.momentum is not None and self.momentum > 1:
            raise ValueError(f"momentum must be at most 1, or None; got {momentum}")
        self.affine = _checks.flag("affine", affine)
        self.track_running_stats = _checks.flag("track_running_stats", track_running_stats)
        if whole("axis", axis) not in (1, -1):
            raise ValueError(f"axis must be 1 or -1; got {axis}")
        self.axis = axis
        if statistics == "frozen" and not track_running_stats:
            raise ValueError(
                "track_running_stats must be True for statistics='frozen', which are kept in "
                "the running statistics; got False"
            )
        options: dict[str, Any] = {
            "device": None if device is None else _checks.place("device", device),
            "dtype": None if dtype is None else _checks.precision("dtype", dtype),
        }
        if affine:
            self.weight = nn.Parameter(torch.ones(channels, **options))
            self.bias = nn.Parameter(torch.zeros(channels, **options))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        if track_running_stats:
            self.register_buffer("running_mean", torch.zeros(channels, **options))
            self.register_buffer("running_var", torch.ones(channels, **options))
            zero = torch.tensor(0, dtype=torch.long, device=device)
            self.register_buffer("num_batches_tracked", zero)
        else:
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                self.register_buffer(name, None)

    def reset_running_stats(self) -> None:
        """Forget all batches; frozen statistics are those of the next one."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """As constructed."""
        self.reset_running_stats()
        if self.affine:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...), or (N, ..., C) with ``axis=-1``, to the same shape and dtype."""
        if x.ndim < 2 or x.shape[self.axis] != self.channels:
            raise ValueError(
                f"x must have {self.channels} channels on axis {self.axis}; "
                f"got shape {tuple(x.shape)}"
            )
        # half precision cannot hold a variance: accumulate in float32, as torch does
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean, var = self._statistics(wide)
        divisor = channel_divisor(var, scale=self.scale, per=self.per, eps=self.eps)
        # an axis of size one for each that comes after the channels
        shape = (-1, *(1,) * (x.ndim - 2 if self.axis == 1 else 0))
        if self.center:
            wide = wide - mean.reshape(shape)
        gain = 1 / divisor
        if self.affine:
            gain = gain * self.weight
        z = wide * gain.reshape(shape)
        if self.affine:
            z = z + self.bias.reshape(shape)
        return z.to(x.dtype)

    def _statistics(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and biased variance of each channel that the present mode normalizes by."""
        if not self.training and self.running_mean is not None and self.running_var is not None:
            return self.running_mean, self.running_var
        values = x.numel() // self.channels
        if self.training and values < 2:
            raise ValueError(
                f"x must have more than one value per channel in training; got {tuple(x.shape)}"
            )
        axes = tuple(axis for axis in range(x.ndim) if axis != self.axis % x.ndim)
        if self.statistics == "frozen" or not self.grad_through_statistics:
            var, mean = torch.var_mean(x.detach(), dim=axes, correction=0)
        else:
            var, mean = torch.var_mean(x, dim=axes, correction=0)
        if not self.training or self.running_mean is None:
            return mean, var
        if self.statistics == "frozen":
            return self._freeze(mean, var)
        self._track(mean.detach(), var.detach() * (values / (values - 1)))
        return mean, var

    @torch.no_grad()
    def _freeze(self, mean: torch.Tensor, var: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        # chosen on the device: asking the host at every step would stall a GPU
        first = self.num_batches_tracked == 0
        mean = torch.where(first, mean.to(self.running_mean), self.running_mean)
        var = torch.where(first, var.to(self.running_var), self.running_var)
        self.running_mean.copy_(mean)
        self.running_var.copy_(var)
        self.num_batches_tracked.add_(1)
        return mean, var

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # without momentum: the plain average of all batches
        share: Any = self.momentum
        if share is None:
            share = 1 / self.num_batches_tracked.to(self.running_mean)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(var.to(self.running_var), share)

    def extra_repr(self) -> str:
        """The arguments, so that a printed model shows the variant."""
        return (
            f"{self.channels}, center={self.center}, scale={self.scale!r}, per={self.per!r}, "
            f"statistics={self.statistics!r}, "
            f"grad_through_statistics={self.grad_through_statistics}, eps={self.eps}, "
            f"momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}, axis={self.axis}"
        )


def channel_divisor(
    var: torch.Tensor, *, scale: str = "full", per: str = "channel", eps: float = 1e-5
) -> torch.Tensor:
    """The divisor of each channel in ``SplitBatchNorm``, from the channels' biased variances.

    Parameters
    ----------
    var : (C,) variances.
    scale, per, eps : as in ``SplitBatchNorm``.

    Returns
    -------
    (C,) tensor, in units of the input. Differentiable in var.

    Raises
    ------
    ValueError : scale or per is not one of those names.

    Examples
    --------
    >>> channel_divisor(torch.tensor([0.25, 4.0]), scale="suppress", eps=0.0).tolist()
    [1.0, 2.0]
    """
    choice("scale", scale, SCALES)
    choice("per", per, POOLS)
    if scale == "none":
        return torch.ones_like(var)
    s = (var + eps).sqrt()
    if per != "channel":
        layer = (var.mean() + eps).sqrt()
        s = layer.expand_as(s) if per == "layer" else s / layer
    if scale == "amplify":
        return s.clamp(max=1)
    if scale == "suppress":
        return s.clamp(min=1)
    return s


class SplitBatchNormAct(SplitBatchNorm):
    """``SplitBatchNorm`` followed by dropout and an activation, as in timm's ``BatchNormAct2d``.

    Made by ``convert_batch_norm``, which gives it the modules ``drop`` and ``act`` of the layer
    that it replaces.
    """

    drop: nn.Module
    act: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize, drop, activate."""
        z: torch.Tensor = self.act(self.drop(super().forward(x)))
        return z


def convert_batch_norm(model: nn.Module, variant: str = "full", **options: Any) -> nn.Module:
    """Replace every BatchNorm of a model by a variant of it, in place.

    Parameters
    ----------
    model : changed in place, or not at all if this raises; a model that is itself a BatchNorm is
        replaced in the return value only. A ``SplitBatchNorm`` of an earlier conversion is replaced
        too. Layers such as timm's ``BatchNormAct2d`` keep their dropout and activation.
    variant : a name in ``NORMALIZATION_VARIANTS``.
    options : further arguments of ``SplitBatchNorm``, over those of the variant. Channels, eps,
        momentum, affine, track_running_stats and axis are taken from each layer unless given.

    Returns
    -------
    The model. Parameters are the same objects (an optimizer that holds them stays valid) and
    running statistics are carried over; hooks of the replaced layers are lost. A module used in two
    places stays one module.

    Raises
    ------
    TypeError : model is not a module, or holds a SyncBatchNorm, or a BatchNorm that computes
        something else than torch's; the message names it.
    ValueError : no such variant; an option that ``SplitBatchNorm`` refuses; a lazy BatchNorm that
        has seen no input yet.

    Examples
    --------
    >>> net = convert_batch_norm(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)), "amplify")
    >>> net[0].scale
    'amplify'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    choice("variant", variant, tuple(NORMALIZATION_VARIANTS))
    chosen = {**NORMALIZATION_VARIANTS[variant], **options}
    # all are made before the first is put in place: an error leaves the model as it was
    made: dict[nn.Module, nn.Module] = {
        module: _converted(name, module, chosen)
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm | SplitBatchNorm)
    }
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child in made:
                parent._modules[key] = made[child]
    return made.get(model, model)


def _converted(name: str, bn: Any, options: Mapping[str, Any]) -> SplitBatchNorm:
    """The variant that takes the place of one layer."""
    what = f"module {name!r}" if name else "model"
    if isinstance(bn, nn.SyncBatchNorm):
        raise TypeError(
            f"{what} must be a BatchNorm of one process; got a SyncBatchNorm, which has no variants"
        )
    if nn.parameter.is_lazy(bn.weight):
        raise ValueError(
            f"{what} must know its channels; got a lazy BatchNorm that has seen no input yet: run "
            f"the model once"
        )
    if not isinstance(bn.weight, nn.Parameter | None):
        raise TypeError(
            f"{what} must have a weight of its own; got one that is computed from others"
        )
    kinds = (SplitBatchNormAct, SplitBatchNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    base = next(kind for kind in kinds if isinstance(bn, kind))
    if _checks.own_method(bn, base, ("forward",)) is None:
        return _split(bn, options)
    # a class such as timm's BatchNormAct2d: believed if the numbers agree
    if isinstance(getattr(bn, "drop", None), nn.Module) and isinstance(
        getattr(bn, "act", None), nn.Module
    ):
        axes = 1 + kinds.index(base) - kinds.index(nn.BatchNorm1d)
        if axes > 0 and _agree(bn, _split(bn, {}), axes):
            return _split(bn, options)
    raise TypeError(
        f"{what} must compute what torch.nn.{base.__name__} computes; got a {type(bn).__name__}, "
        f"which has a forward of its own: replace it by a BatchNorm and what it adds"
    )


def _agree(bn: Any, split: SplitBatchNorm, axes: int) -> bool:
    """Whether the two give the same output, to rounding, in eval mode."""
    place = next((t for t in (*bn.parameters(), *bn.buffers()) if t.is_floating_point()), None)
    options = {} if place is None else {"device": place.device, "dtype": place.dtype}
    x = torch.randn(2, bn.num_features, *(3,) * axes, generator=torch.Generator().manual_seed(0))
    x = x.to(**options)
    with torch.no_grad(), unchanged(bn):
        bn.eval()
        # copies: an activation may write into its input
        expected, got = bn(x.clone()), split.eval()(x.clone())
    tolerance = 100 * torch.finfo(x.dtype).eps
    return torch.allclose(got, expected, rtol=tolerance, atol=tolerance)


def _split(bn: Any, options: Mapping[str, Any]) -> SplitBatchNorm:
    own = {
        "eps": bn.eps,
        "momentum": bn.momentum,
        "affine": bn.affine,
        "track_running_stats": bn.track_running_stats,
        "axis": getattr(bn, "axis", 1),
    }
    if bn.affine:
        own |= {"device": bn.weight.device, "dtype": bn.weight.dtype}
    elif bn.running_mean is not None:
        own |= {"device": bn.running_mean.device, "dtype": bn.running_mean.dtype}
    channels = bn.channels if isinstance(bn, SplitBatchNorm) else bn.num_features
    adds = {key: part for key, part in bn.named_children() if key in ("drop", "act")}
    new = (SplitBatchNormAct if adds else SplitBatchNorm)(channels, **{**own, **options})
    for key, part in adds.items():
        new.add_module(key, part)
    if new.affine and bn.affine:
        new.weight, new.bias = bn.weight, bn.bias
    for name, buffer in bn._buffers.items():
        if buffer is not None and new._buffers.get(name) is not None:
            new._buffers[name] = buffer
    # not train(), which would reach the modules that are only borrowed
    new.training = bn.training
    return new
