"""The R that a layer learns on behind a normalization: predicted, measured and bounded.

Every normalization that maps each channel by z = gain x + shift acts on the patches of the next
layer as u -> T u + t b, with T diagonal and b the patch of an image of ones, which is 1 but where
zero padding lies under the kernel. Hence, exactly, for any padding,

    R_z = T R T + T E[u b'] D(t) + D(t) E[b u'] T + D(t) E[b b'] D(t),

a congruence on R = E[u u'] once the channels are centred. Without padding b is all ones and
E[u b'] is E[u] in every column: centring, T = I and t = -m, is R - m E[u]' - E[u] m' + m m'.
``PatchMoments`` holds the three matrices, for centred channels: about zero, the digits that a mean
far above the deviation takes up would be lost. What follows from the congruence alone is in
``cnnbridge.normalization.bounds``. A nonlinearity between normalization and layer is outside all of
this: measure then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from adaptive.checks import Array, choice, items
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.patches import check_input, group_weights, unfold_patches
from cnnbridge.normalization.bounds import ostrowski_interval
from cnnbridge.normalization.parts import NORMALIZATION_VARIANTS, SplitBatchNorm, channel_divisor
from cnnbridge.statistics.autocorrelation import patch_autocorrelation

# frozen and detached statistics differ from "full" in later batches and backward only
BATCH_VARIANTS = tuple(n for n in NORMALIZATION_VARIANTS if n not in ("frozen", "detached"))
IMAGE_VARIANTS = ("group_norm", "layer_norm", "instance_norm")
NORMALIZATIONS = (
    *BATCH_VARIANTS,
    *IMAGE_VARIANTS,
    "channel_layer_norm",
    "whitening",
    "weight_standardization",
)


@dataclass(frozen=True, eq=False)
class PatchMoments:
    """Second-order statistics of a layer's patches, enough to normalize the channels afterwards.

    Attributes
    ----------
    centred : (groups, L, L), E[c c'] for the patches c of the centred channels: R_c.
    cross : (groups, L, L), E[c b'], with b the patch of an image of ones. Not zero, since patches
        weigh the pixels unevenly.
    ones : (groups, L, L), E[b b']; all ones without zero padding.
    channels : C of the layer's input.
    mean, var : (C,), mean and biased variance of each channel of the input, as BatchNorm takes
        them: over images and pixels, not over patches.

    All float64, on the input's device, means over images and positions.
    """

    centred: torch.Tensor = field(repr=False)
    cross: torch.Tensor = field(repr=False)
    ones: torch.Tensor = field(repr=False)
    channels: int
    mean: torch.Tensor = field(repr=False)
    var: torch.Tensor = field(repr=False)

    @property
    def R(self) -> torch.Tensor:
        """(groups, L, L): E[u u'] of the patches as they are."""
        return self.affine(torch.ones_like(self.mean), torch.zeros_like(self.mean))

    def per_tap(self, values: torch.Tensor) -> torch.Tensor:
        """(C,) values of the channels, repeated for each tap: (groups, L)."""
        groups, L = self.centred.shape[:2]
        return (
            values.to(self.centred)
            .repeat_interleave(groups * L // self.channels)
            .reshape(groups, L)
        )

    def affine(self, gain: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """R of the patches of z = gain x + shift, exactly, for any padding.

        Parameters
        ----------
        gain : (C,), one factor for each channel; or (C, C), a matrix that mixes channels, for a
            layer without groups.
        shift : (C,).

        Returns
        -------
        (groups, L, L) float64.

        Raises
        ------
        ValueError : gain or shift of another shape; a matrix for a layer with groups.
        """
        C = self.channels
        if tuple(gain.shape) not in {(C,), (C, C)}:
            raise ValueError(f"gain must have shape ({C},) or ({C}, {C}); got {tuple(gain.shape)}")
        if tuple(shift.shape) != (C,):
            raise ValueError(f"shift must have shape ({C},); got {tuple(shift.shape)}")
        gain, shift = gain.to(self.centred), shift.to(self.centred)
        # z = gain (x - mean) + the rest
        t = self.per_tap(shift + (gain * self.mean if gain.ndim == 1 else gain @ self.mean))
        constant = t[:, :, None] * self.ones * t[:, None, :]
        if gain.ndim == 1:
            g = self.per_tap(gain)
            scaled = g[:, :, None] * self.centred * g[:, None, :]
            mixed = g[:, :, None] * self.cross * t[:, None, :]
        else:
            groups = len(self.centred)
            if groups > 1:
                raise ValueError(
                    f"gain must have shape ({C},) for a layer with {groups} groups, whose "
                    f"blocks a matrix would mix; got {tuple(gain.shape)}"
                )
            taps = self.centred.shape[1] // C
            T = torch.kron(gain, torch.eye(taps).to(gain))
            scaled = T @ self.centred @ T.mT
            mixed = T @ self.cross * t[:, None, :]
        return scaled + mixed + mixed.mT + constant

    def normalized(
        self, *, center: bool = True, scale: str = "full", per: str = "channel", eps: float = 1e-5
    ) -> torch.Tensor:
        """R behind ``SplitBatchNorm`` with these settings, without its weight and bias.

        (groups, L, L) float64. With ``center`` it is S^-1 R_c S^-1, S the divisors.
        """
        gain = 1 / channel_divisor(self.var, scale=scale, per=per, eps=eps)
        shift = -self.mean * gain if center else torch.zeros_like(self.mean)
        return self.affine(gain, shift)


def patch_moments(x: torch.Tensor, conv: Layer) -> PatchMoments:
    """Measure the ``PatchMoments`` of a layer's input.

    Parameters
    ----------
    x : real floating-point tensor, what the normalization will get, laid out as the layer takes it:
        (N, C, *size) for a convolution, (N, ..., features) for a linear layer.
    conv : the layer behind it, as in ``unfold_patches``; only its geometry is used.

    Returns
    -------
    PatchMoments, summed in float64.

    Raises
    ------
    TypeError, ValueError : as ``unfold_patches``.

    Notes
    -----
    Besides R only the mean image is needed: b is the same for every image, so E[c b'] is the mean
    over positions of E[c] b' there.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> x, conv = torch.randn(8, 2, 6, 6) + 3, nn.Conv2d(2, 4, 3, padding=1)
    >>> predicted = patch_moments(x, conv).normalized(scale="suppress")
    >>> z = SplitBatchNorm(2, scale="suppress", affine=False)(x)
    >>> torch.allclose(predicted[0], patch_autocorrelation(z, conv), atol=1e-5)
    True
    """
    conv, x = _as_convolution(conv, x)
    var, mean = torch.var_mean(x.transpose(0, 1).flatten(1), dim=1, correction=0)
    x = x - _along(mean, x)
    R = patch_autocorrelation(x, conv, all_reduce=False)
    average = x.mean(dim=0, keepdim=True)
    u = unfold_patches(average, conv)[0]
    b = unfold_patches(torch.ones_like(average), conv)[0]
    positions = u.shape[-1]
    return PatchMoments(
        centred=R if R.ndim == 3 else R[None],
        cross=u @ b.mT / positions,
        ones=b @ b.mT / positions,
        channels=x.shape[1],
        mean=mean,
        var=var,
    )


def _as_convolution(layer: Layer, x: torch.Tensor) -> tuple[Layer, torch.Tensor]:
    """A layer and its checked input, float64 with the channels on axis 1.

    A linear layer is a convolution with a kernel of one along what lies between first and last.
    """
    geometry = Geometry.of(layer)
    x = check_input("x", x, geometry).detach().to(torch.float64)
    if not isinstance(layer, nn.Linear):
        return layer, x
    twin = torch.nn.utils.skip_init(
        nn.Conv1d, layer.in_features, layer.out_features, 1, dtype=x.dtype, device=x.device
    )
    with torch.no_grad():
        twin.weight.copy_(layer.weight[:, :, None])
    return twin, geometry.channels_first(x)


def _along(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(C,) values of the channels of x (N, C, *size), to go with it."""
    return values.reshape(-1, *(1,) * (x.ndim - 2))


@dataclass(frozen=True, eq=False)
class NormalizedSpectrum:
    """Eigenvalues of R behind one normalization, predicted and measured.

    Attributes
    ----------
    name : one of ``NORMALIZATIONS``.
    measured : (groups, L) eigenvalues, ascending, of R of the really normalized input; for
        weight standardization (M, L), of the matrix that the raw weights of each output learn on.
    predicted : the same from the statistics of the input alone, or None where nothing exact is
        known and the measurement has to do.
    low, high : Ostrowski's interval for each eigenvalue, of the shape of ``measured``, from the
        spectrum of the centred (or, uncentred, the plain) R and the extreme gains; None where the
        map is not one congruence for all images.
    rule : what the prediction rests on, in words.
    """

    name: str
    measured: Array = field(repr=False)
    predicted: Array | None = field(repr=False)
    low: Array | None = field(repr=False)
    high: Array | None = field(repr=False)
    rule: str

    @property
    def max_error(self) -> float:
        """Largest difference of predicted and measured over the largest eigenvalue; NaN if None."""
        if self.predicted is None:
            return float("nan")
        return float(np.abs(self.predicted - self.measured).max() / self.measured.max())

    @property
    def trace(self) -> Array:
        """(groups,) measured trace: the power of a patch; (M,) for weight standardization."""
        trace: Array = self.measured.sum(axis=-1)
        return trace


def compare_normalizations(
    x: torch.Tensor,
    conv: Layer,
    names: Iterable[str] | None = None,
    *,
    eps: float = 1e-5,
    num_groups: int | None = None,
) -> dict[str, NormalizedSpectrum]:
    """The spectrum that a layer learns on behind each normalization, predicted and measured.

    Parameters
    ----------
    x : real floating-point tensor: one batch, laid out as ``conv`` takes it, (N, C, *size) or, for
        a linear layer, (N, ..., features); normalized in training mode, without learned weight and
        bias, and fed to ``conv``.
    conv : the layer behind the normalization, as in ``unfold_patches``. Its weights are used by
        weight standardization only.
    names : which of ``NORMALIZATIONS``; all that apply by default (whitening needs a layer without
        groups, instance norm more than one pixel or token).
    eps : added to every variance.
    num_groups : of group norm; by default the largest divisor of C up to 32 that leaves at least
        two channels in a group, else 1.

    Returns
    -------
    dict of NormalizedSpectrum by name. Layer norm is ``GroupNorm(1, C)``, over channels and
    pixels of an image; "channel_layer_norm" is over the channels of each pixel or token, as in
    ConvNeXt and transformers; whitening is ZCA of the channel covariance, lag zero only.

    Raises
    ------
    TypeError, ValueError : as ``unfold_patches``; a name not in ``NORMALIZATIONS``; whitening for
        a grouped layer; instance norm of single pixels; num_groups that does not divide C.

    Notes
    -----
    Ioffe and Szegedy 2015; Ba, Kiros and Hinton 2016; Ulyanov et al. 2016; Wu and He 2018; Qiao et
    al. 2019 (weight standardization); Huang et al. 2018 (whitening).

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(8, 2, 6, 6) * torch.tensor([0.1, 10.0])[:, None, None]
    >>> spectra = compare_normalizations(x, nn.Conv2d(2, 4, 3), ["none", "amplify", "full"])
    >>> max(spectrum.max_error for spectrum in spectra.values()) < 1e-12
    True
    """
    layer = conv
    conv, x = _as_convolution(layer, x)
    eps = _checks.nonnegative("eps", eps)
    groups, single = Geometry.of(conv).groups, x[0, 0].numel() == 1
    if names is None:
        skipped = {"whitening"} if groups > 1 else set()
        skipped |= {"instance_norm"} if single else set()
        chosen = [name for name in NORMALIZATIONS if name not in skipped]
    else:
        chosen = [choice("names", name, NORMALIZATIONS) for name in items("names", names, "names")]
    if "whitening" in chosen and groups > 1:
        raise ValueError(
            f"names must not hold 'whitening' for a layer with {groups} groups, whose "
            f"blocks it would mix; got it"
        )
    if "instance_norm" in chosen and single:
        raise ValueError(
            "names must not hold 'instance_norm' where a channel has a single value in each image, "
            "of which it would leave nothing; got it"
        )
    parts = _group_norm_groups(x.shape[1], num_groups)
    moments = patch_moments(x, conv)
    spectra = {}
    for name in chosen:
        if name in BATCH_VARIANTS:
            spectra[name] = _batch_variant(name, x, conv, moments, eps)
        elif name in IMAGE_VARIANTS:
            count = {"group_norm": parts, "layer_norm": 1, "instance_norm": x.shape[1]}[name]
            spectra[name] = _image_variant(name, x, conv, count, eps)
        elif name == "channel_layer_norm":
            var, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
            measured = _measured((x - mean) / (var + eps).sqrt(), conv)
            rule = "measured only: the gain differs from pixel to pixel, so nothing is congruent"
            spectra[name] = NormalizedSpectrum(name, measured, None, None, None, rule)
        elif name == "whitening":
            spectra[name] = _whitening(x, conv, moments, eps)
        else:
            spectra[name] = _weight_standardization(x, conv, moments, eps)
    return spectra


def _batch_variant(
    name: str,
    x: torch.Tensor,
    conv: Layer,
    moments: PatchMoments,
    eps: float,
) -> NormalizedSpectrum:
    options = dict(NORMALIZATION_VARIANTS[name])
    module = SplitBatchNorm(
        moments.channels, affine=False, track_running_stats=False, eps=eps, **options
    )
    with torch.no_grad():
        measured = _measured(module(x), conv)
    center, scale = options.get("center", True), options.get("scale", "full")
    per = options.get("per", "channel")
    predicted = _eigenvalues(moments.normalized(center=center, scale=scale, per=per, eps=eps))
    before = _eigenvalues(moments.centred if center else moments.R)
    s = channel_divisor(moments.var, scale=scale, per=per, eps=eps)
    # each group sees the gains of its own channels only
    gains = (1 / s).reshape(len(before), -1).cpu().numpy()
    low, high = zip(*map(ostrowski_interval, before, gains), strict=True)
    rule = "one congruence for all images: exact"
    return NormalizedSpectrum(name, measured, predicted, np.array(low), np.array(high), rule)


def _image_variant(
    name: str, x: torch.Tensor, conv: Layer, parts: int, eps: float
) -> NormalizedSpectrum:
    measured = _measured(F.group_norm(x, parts, eps=eps), conv)
    R = torch.zeros((), dtype=torch.float64, device=x.device)
    for image in x.split(1):
        var, mean = torch.var_mean(image.reshape(parts, -1), dim=1, correction=0)
        gain = (var + eps).rsqrt().repeat_interleave(x.shape[1] // parts)
        mean = mean.repeat_interleave(x.shape[1] // parts)
        R = R + patch_moments(image, conv).affine(gain, -mean * gain) / len(x)
    rule = "a congruence for each image, averaged: exact, but no function of R alone"
    return NormalizedSpectrum(name, measured, _eigenvalues(R), None, None, rule)


def _whitening(
    x: torch.Tensor, conv: Layer, moments: PatchMoments, eps: float
) -> NormalizedSpectrum:
    W = zca_whitening(x, eps=eps)
    z = torch.einsum("cd,nd...->nc...", W, x - _along(moments.mean, x))
    predicted = _eigenvalues(moments.affine(W, -W @ moments.mean))
    gains = torch.linalg.eigvalsh(W).cpu().numpy()
    low, high = ostrowski_interval(_eigenvalues(moments.centred)[0], gains)
    rule = "one congruence for all images, with a matrix that mixes channels: exact"
    return NormalizedSpectrum(
        "whitening", _measured(z, conv), predicted, low[None], high[None], rule
    )


def _weight_standardization(
    x: torch.Tensor, conv: Layer, moments: PatchMoments, eps: float
) -> NormalizedSpectrum:
    weight = group_weights(conv).detach().to(x).flatten(0, 1)
    owner = torch.arange(len(weight), device=x.device) * len(moments.R) // len(weight)
    matrices = moments.R[owner]
    predicted = weight_standardization(matrices, weight, eps=eps)
    # measured: dv/dw from autograd
    rows = []
    for w, R in zip(weight, matrices, strict=True):
        J = torch.autograd.functional.jacobian(lambda v: _standardized(v, eps), w)
        rows.append(J.mT @ R @ J)
    rule = "the input's R stays; the map from raw to standardized weights, linearised, is on it"
    return NormalizedSpectrum(
        "weight_standardization",
        _eigenvalues(torch.stack(rows)),
        _eigenvalues(predicted),
        None,
        None,
        rule,
    )


def _standardized(w: torch.Tensor, eps: float) -> torch.Tensor:
    return (w - w.mean()) / (w.var(correction=0) + eps).sqrt()


def weight_standardization(
    R: torch.Tensor, weight: torch.Tensor, *, eps: float = 1e-5
) -> torch.Tensor:
    """J' R J: the matrix that raw weights learn on when the layer uses standardized ones.

    The layer uses v = (w - mean(w)) / sqrt(var(w) + eps) for each output. With sigma the root,
    C = I - 11'/L and c = C w, J = (C - c c' / (L sigma^2)) / sigma: the mean of the weights
    never learns, and their length hardly (not at all for eps = 0); the rest learns 1 / sigma^2
    times as fast.

    Parameters
    ----------
    R : (L, L), or (M, L, L) for one matrix for each output.
    weight : (M, L), raw weights.
    eps : added to the variance of the weights.

    Returns
    -------
    (M, L, L), in R's dtype.

    Raises
    ------
    ValueError : shapes that do not match; eps below zero.

    Notes
    -----
    Qiao et al. 2019, Micro-batch training with batch-channel normalization and weight
    standardization; the Jacobian is ours. Linearised at these weights: it turns with them.

    Examples
    --------
    >>> raw = torch.tensor([[3.0, -1.0, 1.0, -3.0]], dtype=torch.float64)
    >>> J = weight_standardization(torch.eye(4).double(), raw, eps=0.0)[0]
    >>> (torch.linalg.eigvalsh(J) * 5).abs().round(decimals=9).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    if weight.ndim != 2 or R.shape[-2:] != (weight.shape[1],) * 2:
        raise ValueError(
            f"weight must have shape (M, L) for R with L by L matrices; got {tuple(weight.shape)} "
            f"and R {tuple(R.shape)}"
        )
    if R.ndim not in (2, 3) or (R.ndim == 3 and len(R) != len(weight)):
        raise ValueError(
            f"R must have shape (L, L), or (M, L, L) with M = {len(weight)} outputs; "
            f"got {tuple(R.shape)}"
        )
    eps = _checks.nonnegative("eps", eps)
    w = weight.to(R)
    L = w.shape[1]
    c = w - w.mean(dim=1, keepdim=True)
    sigma2 = (c * c).mean(dim=1) + eps
    centring = torch.eye(L).to(R) - 1 / L
    J = centring - c[:, :, None] * c[:, None, :] / (L * sigma2[:, None, None])
    J = J / sigma2.sqrt()[:, None, None]
    return J.mT @ R @ J


def zca_whitening(x: torch.Tensor, *, eps: float = 1e-5) -> torch.Tensor:
    """(C, C) symmetric W = (cov + eps I)^(-1/2) that whitens the channels of x at lag zero.

    Parameters
    ----------
    x : (N, C, ...) real floating-point tensor.
    eps : added to the covariance's eigenvalues.

    Returns
    -------
    float64 tensor on x's device; W (x - mean) has covariance I, up to eps.

    Raises
    ------
    ValueError : eps below zero, or zero for a singular covariance; x not (N, C, ...).

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(50, 2, 4) @ torch.randn(4, 4)
    >>> W = zca_whitening(x, eps=0.0)
    >>> z = torch.einsum("cd,ndp->cnp", W, x.double()).flatten(1)
    >>> torch.allclose(torch.cov(z, correction=0), torch.eye(2).double())
    True
    """
    eps = _checks.nonnegative("eps", eps)
    if x.ndim < 2:
        raise ValueError(f"x must be (N, C, ...); got shape {tuple(x.shape)}")
    samples = x.detach().to(torch.float64).transpose(0, 1).flatten(1)
    samples = samples - samples.mean(dim=1, keepdim=True)
    power, directions = torch.linalg.eigh(samples @ samples.mT / samples.shape[1])
    floor = len(power) * torch.finfo(power.dtype).eps * float(power[-1])
    if eps == 0 and not float(power[0]) > floor:
        raise ValueError(
            "eps must be positive for channels whose covariance is singular; got 0 and the "
            f"eigenvalue {float(power[0]):.3g}, where the largest is {float(power[-1]):.3g}"
        )
    return directions * (power.clamp(min=0) + eps).rsqrt() @ directions.mT


def _group_norm_groups(channels: int, num_groups: int | None) -> int:
    if num_groups is None:
        divisors = [n for n in range(1, min(32, channels // 2) + 1) if channels % n == 0]
        return max(divisors, default=1)
    count = _checks.count("num_groups", num_groups)
    if channels % count:
        raise ValueError(f"num_groups must divide the {channels} channels; got {num_groups}")
    return count


def _measured(z: torch.Tensor, conv: Layer) -> Array:
    R = patch_autocorrelation(z, conv, all_reduce=False)
    return _eigenvalues(R if R.ndim == 3 else R[None])


def _eigenvalues(R: torch.Tensor) -> Array:
    values: Array = torch.linalg.eigvalsh((R + R.mT) / 2).cpu().numpy()
    return values
