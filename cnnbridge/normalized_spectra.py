"""What a normalization does to the R that the next layer learns on: predicted, measured, bounded.

Every normalization that maps each channel by z = gain x + shift acts on the patches of the next
layer as u -> T u + t b, with T diagonal and b the patch of an image of ones, which is 1 but where
zero padding lies under the kernel. Hence, exactly, for any padding,

    R_z = T R T + T E[u b'] D(t) + D(t) E[b u'] T + D(t) E[b b'] D(t),

a congruence on R = E[u u'] once the channels are centred. Without padding b is all ones and
E[u b'] is E[u] in every column: centring, T = I and t = -m, is R - m E[u]' - E[u] m' + m m'.
``PatchMoments`` holds the three matrices, for centred channels: about zero, the digits that a mean
far above the deviation takes up would be lost. What follows from the congruence alone (Ostrowski,
Cauchy, van der Sluis, the trace) is here too. A nonlinearity between normalization and layer is
outside all of this: measure then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import nn

import adaptive._checks as numbers
from adaptive._checks import Array, choice
from cnnbridge import _checks
from cnnbridge.autocorrelation import patch_autocorrelation
from cnnbridge.normalization import NORMALIZATION_VARIANTS, SplitBatchNorm, channel_divisor
from cnnbridge.patches import check_input, unfold_patches

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


def patch_moments(x: torch.Tensor, conv: nn.Conv2d) -> PatchMoments:
    """Measure what ``PatchMoments`` holds.

    Parameters
    ----------
    x : (N, C, H, W) real floating-point tensor, what the normalization will get.
    conv : the ``nn.Conv2d`` behind it; only its geometry is used.

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
    conv = _checks.conv_layer("conv", conv)
    x = check_input("x", x, conv).detach().to(torch.float64)
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    x = x - mean[:, None, None]
    R = patch_autocorrelation(x, conv, all_reduce=False)
    average = x.mean(dim=0, keepdim=True)
    u = unfold_patches(average, conv)[0]
    b = unfold_patches(torch.ones_like(average), conv)[0]
    positions = u.shape[-1]
    return PatchMoments(
        centred=R if R.ndim == 3 else R[None],
        cross=u @ b.mT / positions,
        ones=b @ b.mT / positions,
        channels=conv.in_channels,
        mean=mean,
        var=var,
    )


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
    conv: nn.Conv2d,
    names: Iterable[str] | None = None,
    *,
    eps: float = 1e-5,
    num_groups: int | None = None,
) -> dict[str, NormalizedSpectrum]:
    """The spectrum that a layer learns on behind each normalization, predicted and measured.

    Parameters
    ----------
    x : (N, C, H, W) real floating-point tensor: one batch, normalized in training mode, without
        learned weight and bias, and fed to ``conv``.
    conv : the ``nn.Conv2d`` behind the normalization. Its weights are used by weight
        standardization only.
    names : which of ``NORMALIZATIONS``; all that apply by default (whitening needs a layer without
        groups).
    eps : added to every variance.
    num_groups : of group norm; by default the largest divisor of C up to 32 that leaves at least
        two channels in a group, else 1.

    Returns
    -------
    dict of NormalizedSpectrum by name. Layer norm is ``GroupNorm(1, C)``, over channels and
    pixels of an image; "channel_layer_norm" is over the channels of each pixel, as in ConvNeXt;
    whitening is ZCA of the channel covariance, lag zero only.

    Raises
    ------
    TypeError, ValueError : as ``unfold_patches``; a name not in ``NORMALIZATIONS``; whitening for
        a grouped layer; num_groups that does not divide C.

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
    conv = _checks.conv_layer("conv", conv)
    x = check_input("x", x, conv).detach().to(torch.float64)
    eps = _checks.nonnegative("eps", eps)
    if names is None:
        skipped = {"whitening"} if conv.groups > 1 else set()
        chosen = [name for name in NORMALIZATIONS if name not in skipped]
    else:
        chosen = [choice("names", name, NORMALIZATIONS) for name in names]
    if "whitening" in chosen and conv.groups > 1:
        raise ValueError(
            f"names must not hold 'whitening' for a layer with {conv.groups} groups, whose "
            f"blocks it would mix; got it"
        )
    parts = _group_norm_groups(conv.in_channels, num_groups)
    moments = patch_moments(x, conv)
    spectra = {}
    for name in chosen:
        if name in BATCH_VARIANTS:
            spectra[name] = _batch_variant(name, x, conv, moments, eps)
        elif name in IMAGE_VARIANTS:
            count = {"group_norm": parts, "layer_norm": 1, "instance_norm": conv.in_channels}[name]
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
    conv: nn.Conv2d,
    moments: PatchMoments,
    eps: float,
) -> NormalizedSpectrum:
    options = dict(NORMALIZATION_VARIANTS[name])
    module = SplitBatchNorm(
        conv.in_channels, affine=False, track_running_stats=False, eps=eps, **options
    )
    with torch.no_grad():
        measured = _measured(module(x), conv)
    center, scale = options.get("center", True), options.get("scale", "full")
    per = options.get("per", "channel")
    predicted = _eigenvalues(moments.normalized(center=center, scale=scale, per=per, eps=eps))
    before = _eigenvalues(moments.centred if center else moments.R)
    s = channel_divisor(moments.var, scale=scale, per=per, eps=eps)
    # each group sees the gains of its own channels only
    gains = (1 / s).reshape(conv.groups, -1).cpu().numpy()
    low, high = zip(*map(ostrowski_interval, before, gains), strict=True)
    rule = "one congruence for all images: exact"
    return NormalizedSpectrum(name, measured, predicted, np.array(low), np.array(high), rule)


def _image_variant(
    name: str, x: torch.Tensor, conv: nn.Conv2d, parts: int, eps: float
) -> NormalizedSpectrum:
    measured = _measured(F.group_norm(x, parts, eps=eps), conv)
    R = torch.zeros((), dtype=torch.float64, device=x.device)
    for image in x.split(1):
        var, mean = torch.var_mean(image.reshape(parts, -1), dim=1, correction=0)
        gain = (var + eps).rsqrt().repeat_interleave(conv.in_channels // parts)
        mean = mean.repeat_interleave(conv.in_channels // parts)
        R = R + patch_moments(image, conv).affine(gain, -mean * gain) / len(x)
    rule = "a congruence for each image, averaged: exact, but no function of R alone"
    return NormalizedSpectrum(name, measured, _eigenvalues(R), None, None, rule)


def _whitening(
    x: torch.Tensor, conv: nn.Conv2d, moments: PatchMoments, eps: float
) -> NormalizedSpectrum:
    W = zca_whitening(x, eps=eps)
    z = torch.einsum("cd,ndhw->nchw", W, x - moments.mean[:, None, None])
    predicted = _eigenvalues(moments.affine(W, -W @ moments.mean))
    gains = torch.linalg.eigvalsh(W).cpu().numpy()
    low, high = ostrowski_interval(_eigenvalues(moments.centred)[0], gains)
    rule = "one congruence for all images, with a matrix that mixes channels: exact"
    return NormalizedSpectrum(
        "whitening", _measured(z, conv), predicted, low[None], high[None], rule
    )


def _weight_standardization(
    x: torch.Tensor, conv: nn.Conv2d, moments: PatchMoments, eps: float
) -> NormalizedSpectrum:
    weight = conv.weight.detach().to(x).flatten(1)
    owner = torch.arange(len(weight), device=x.device) * conv.groups // len(weight)
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
            f"eigenvalue {float(power[0]):.3g} beside {float(power[-1]):.3g}"
        )
    return directions * (power.clamp(min=0) + eps).rsqrt() @ directions.mT


def ostrowski_interval(eigenvalues: ArrayLike, gain: ArrayLike) -> tuple[Array, Array]:
    """Between what the eigenvalues of T A T' lie, for A's eigenvalues and T's singular values.

    Parameters
    ----------
    eigenvalues : (L,) of a positive semidefinite A, ascending.
    gain : singular values of T in any number; for a diagonal T its entries, such as 1 / s of
        the channels.

    Returns
    -------
    (low, high), each (L,): lambda_i(A) min(gain)^2 <= lambda_i(T A T') <= lambda_i(A) max(gain)^2.

    Raises
    ------
    TypeError, ValueError : not finite floating-point numbers; eigenvalues not ascending.

    Notes
    -----
    Ostrowski 1959; Horn and Johnson, Matrix Analysis, theorem 4.5.9.

    Examples
    --------
    >>> low, high = ostrowski_interval([1.0, 4.0], gain=[0.5, 1.0])
    >>> low.tolist(), high.tolist()
    ([0.25, 1.0], [1.0, 4.0])
    """
    values = numbers.array("eigenvalues", eigenvalues, ndim=(1,))
    if (np.diff(values) < 0).any():
        raise ValueError(f"eigenvalues must be ascending; got {values}")
    squared = numbers.array("gain", gain, ndim=(1,)) ** 2
    # rounding may leave an eigenvalue below zero, where the ends change places
    ends = np.sort(np.stack([values * squared.min(), values * squared.max()]), axis=0)
    return ends[0], ends[1]


def interlacing_bounds(R: ArrayLike, channels: int) -> tuple[float, float, float]:
    """What the channels' own spectra say about the ends of the whole: Cauchy's interlacing.

    With A_c the diagonal block of channel c: lambda_min(R) <= min_c lambda_min(A_c), and
    max_c lambda_max(A_c) <= lambda_max(R) <= sum_c lambda_max(A_c).

    Parameters
    ----------
    R : (L, L) symmetric, positive semidefinite, channel by channel.
    channels : number of blocks; divides L.

    Returns
    -------
    (highest possible lambda_min, lowest possible lambda_max, highest possible lambda_max).

    Raises
    ------
    TypeError, ValueError : R is not square and symmetric; channels does not divide L.

    Notes
    -----
    Horn and Johnson, Matrix Analysis, theorem 4.3.28; the ceiling holds for semidefinite R.

    Examples
    --------
    >>> interlacing_bounds([[1.0, 0.5], [0.5, 3.0]], channels=2)
    (1.0, 3.0, 4.0)
    """
    matrix = numbers.autocorrelation("R", R)
    count = _checks.count("channels", channels)
    if len(matrix) % count:
        raise ValueError(f"channels must divide the {len(matrix)} taps of R; got {channels}")
    size = len(matrix) // count
    blocks = [matrix[i : i + size, i : i + size] for i in range(0, len(matrix), size)]
    ends = np.linalg.eigvalsh(np.stack(blocks))[:, [0, -1]]
    return float(ends[:, 0].min()), float(ends[:, 1].max()), float(ends[:, 1].sum())


def pixel_weights(conv: nn.Conv2d, height: int, width: int) -> torch.Tensor:
    """How often a patch sees each pixel of its channel, borders and padding counted exactly.

    Parameters
    ----------
    conv : any ``nn.Conv2d``; only its geometry is used.
    height, width : of its input.

    Returns
    -------
    (height, width) float64: the mean number of taps on that pixel. tr(R) of a group is the sum
    over its channels and all pixels of pixel_weights * E[x^2]; the sum of all is k^2, less what
    falls on zero padding.

    Raises
    ------
    TypeError, ValueError : conv is not an ``nn.Conv2d``, or the input too small for it.

    Examples
    --------
    >>> (pixel_weights(nn.Conv2d(1, 1, (1, 2)), 1, 3) * 2).tolist()
    [[1.0, 2.0, 1.0]]
    """
    conv = _checks.conv_layer("conv", conv)
    shape = (1, conv.in_channels, height, width)
    ones = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        patches = unfold_patches(ones, conv)
        # the derivative by a pixel counts the taps that copy it
        (counts,) = torch.autograd.grad(patches.sum(), ones)
    return counts[0, 0] / patches.shape[-1]


@dataclass(frozen=True)
class TraceCeiling:
    """What tr(R) of a group behind full normalization can be, hence a ceiling for lambda_max.

    Attributes
    ----------
    nominal : C k^2, with C the channels of the group.
    uniform : the trace if every pixel of a channel has power 1: nominal, less what zero padding
        takes away.
    guaranteed : the ceiling whatever the data, which is reached when all the power sits on the
        pixels that most patches see. With stride 1 and padding "same", equal to nominal.
    """

    nominal: float
    uniform: float
    guaranteed: float


def trace_ceiling(conv: nn.Conv2d, height: int, width: int) -> TraceCeiling:
    """Ceiling of tr(R), and so of lambda_max, behind BatchNorm: no measurement needed.

    Each channel's power is at most 1 in the mean over pixels; patches weigh the pixels by
    ``pixel_weights``. Without learned weight and bias.

    Raises
    ------
    TypeError, ValueError : as ``pixel_weights``.

    Examples
    --------
    >>> trace_ceiling(nn.Conv2d(4, 8, 3, padding=1), 16, 16)
    TraceCeiling(nominal=36.0, uniform=33.0625, guaranteed=36.0)
    >>> round(trace_ceiling(nn.Conv2d(4, 8, 3), 12, 12).guaranteed, 2)
    51.84
    """
    conv = _checks.conv_layer("conv", conv)
    weights = pixel_weights(conv, height, width)
    channels = conv.in_channels // conv.groups
    return TraceCeiling(
        nominal=float(channels * math.prod(conv.kernel_size)),
        uniform=channels * float(weights.sum()),
        guaranteed=channels * height * width * float(weights.max()),
    )


def van_der_sluis_factor(R: ArrayLike) -> float:
    """By what factor the spread of R may exceed the least that any diagonal scaling can reach.

    Parameters
    ----------
    R : (L, L) symmetric, positive definite.

    Returns
    -------
    L max_i R_ii / min_i R_ii: spread(R) <= factor * min over diagonal D of spread(D R D). It is
    L where all taps have equal power, as after BatchNorm, borders apart.

    Raises
    ------
    TypeError, ValueError : R is not square and symmetric; a tap without power.

    Notes
    -----
    van der Sluis 1969, theorem 4.1, for equal diagonal entries; scaling back to the given ones
    costs at most their ratio.

    Examples
    --------
    >>> van_der_sluis_factor([[1.0, 0.5], [0.5, 2.0]])
    4.0
    """
    matrix = numbers.autocorrelation("R", R)
    power = np.diag(matrix)
    if not power.min() > 0:
        raise ValueError(f"R must have positive diagonal entries; got {power.min()}")
    return float(len(matrix) * power.max() / power.min())


def _group_norm_groups(channels: int, num_groups: int | None) -> int:
    if num_groups is None:
        divisors = [n for n in range(1, min(32, channels // 2) + 1) if channels % n == 0]
        return max(divisors, default=1)
    count = _checks.count("num_groups", num_groups)
    if channels % count:
        raise ValueError(f"num_groups must divide the {channels} channels; got {num_groups}")
    return count


def _measured(z: torch.Tensor, conv: nn.Conv2d) -> Array:
    R = patch_autocorrelation(z, conv, all_reduce=False)
    return _eigenvalues(R if R.ndim == 3 else R[None])


def _eigenvalues(R: torch.Tensor) -> Array:
    values: Array = torch.linalg.eigvalsh((R + R.mT) / 2).cpu().numpy()
    return values
