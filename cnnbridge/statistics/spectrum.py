"""Eigenvalues of a large R: all of them, the extremes, or how they are distributed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from adaptive.checks import Array, shown
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import autograd, differentiable
from cnnbridge.layers.patches import check_input
from cnnbridge.statistics.autocorrelation import batches


class Operator(Protocol):
    """An R for Lanczos: its size, its device, and products with columns (L, p)."""

    @property
    def shape(self) -> Any:
        """(L, L)."""

    @property
    def device(self) -> torch.device:
        """Where products are made."""

    def __matmul__(self, other: torch.Tensor) -> torch.Tensor: ...


class PatchOperator:
    """R of a layer's input as products R v, from the data, without R.

    R v = E[u (u'v)]: a forward pass of the layer with v for its kernel, and the gradient of half
    the mean square of its output. Each product goes through all of x.

    Parameters
    ----------
    x : a tensor or an iterable of batches that can be gone through again and again, as in
        ``patch_autocorrelation``.
    conv : any convolution, transposed convolution or linear layer; only its geometry is used.
    bias : add the constant tap of the bias as the last.
    group : which group, 0 to groups - 1.

    Raises
    ------
    TypeError, ValueError : as ``patch_autocorrelation``; TypeError for an iterator, which is spent
        after one product; ValueError for a group out of range.

    Examples
    --------
    >>> x, conv = torch.ones(2, 1, 4, 4), torch.nn.Conv2d(1, 5, 2)
    >>> (PatchOperator(x, conv) @ torch.ones(4, 1, dtype=torch.float64)).flatten().tolist()
    [4.0, 4.0, 4.0, 4.0]
    """

    def __init__(
        self,
        x: torch.Tensor | Iterable[Any],
        conv: Layer,
        *,
        bias: bool = False,
        group: int = 0,
    ) -> None:
        self.geometry = Geometry.of(conv)
        self.bias = _checks.flag("bias", bias)
        self.group = _checks.count("group", group, least=0)
        if self.group >= self.geometry.groups:
            raise ValueError(
                f"group must be less than the layer's {self.geometry.groups} groups; got {group}"
            )
        if isinstance(x, Iterator):
            raise TypeError(
                f"x must be a tensor or an iterable that can be gone through repeatedly; got the "
                f"iterator {type(x).__name__}"
            )
        self.x = x
        self.count, device = 0, None
        for name, batch in batches(x):
            batch = check_input(name, batch, self.geometry)
            device = device or batch.device
            size = self.geometry.channels_first(batch).shape[2:]
            self.count += len(batch) * math.prod(self.geometry.output_size(*size))
        if device is None:
            raise ValueError("x must hold at least one batch; got an empty iterable")
        self.device = device

    @property
    def shape(self) -> tuple[int, int]:
        """(L, L)."""
        L = self.geometry.taps + int(self.bias)
        return L, L

    def __matmul__(self, other: torch.Tensor) -> torch.Tensor:
        """R times the columns (L, p), in float64; passes through the layer in x's precision."""
        geometry, c = self.geometry, self.geometry.in_channels // self.geometry.groups
        conv: Callable[..., torch.Tensor] = (F.conv1d, F.conv2d, F.conv3d)[len(geometry.kernel) - 1]
        total = torch.zeros_like(other, dtype=torch.float64)
        for _, batch in batches(self.x):
            with autograd():
                x = geometry.channels_first(differentiable(batch).detach())
                x = x if x.dtype == torch.float64 else x.float()
                x = geometry.padded(x[:, self.group * c : (self.group + 1) * c])
                v = other.to(x, copy=True).requires_grad_()
                kernel = v[: geometry.taps].T.reshape(-1, c, *geometry.kernel)
                constant = v[-1] if self.bias else None
                y = conv(x, kernel, constant, stride=geometry.stride, dilation=geometry.dilation)
                (gradient,) = torch.autograd.grad((y**2).sum() / 2, v)
            total += gradient
        if not torch.isfinite(total).all() and torch.isfinite(other).all():
            raise ValueError(
                "x must have products that its precision can hold; their sum overflows: scale it, "
                "or pass float64"
            )
        return total / self.count


@dataclass(frozen=True, eq=False)
class Spectrum:
    """All eigenvalues of R.

    Attributes
    ----------
    eigenvalues : (..., L) float64, ascending; those that rounding made negative are zero here.
    eigenvectors : (..., L, L), column k belongs to eigenvalue k.
    rank : (...): eigenvalues above ``rounding``.
    rounding : (...): what R's entries leave undecided; smaller eigenvalues may be zero.
    most_negative : (...): the least eigenvalue as computed, zero if none was negative.
    device : where it was computed; "cpu" for a matrix on a GPU means that the GPU's routine failed.
    """

    eigenvalues: torch.Tensor = field(repr=False)
    eigenvectors: torch.Tensor = field(repr=False)
    rank: torch.Tensor
    rounding: torch.Tensor
    most_negative: torch.Tensor
    device: str


def full_spectrum(R: torch.Tensor, *, products: torch.dtype | None = None) -> Spectrum:
    """Every eigenvalue and eigenvector of R, or of a stack of R, in float64.

    Parameters
    ----------
    R : (..., L, L) symmetric positive semidefinite, as ``patch_autocorrelation`` returns it.
    products : precision in which R's products were made, float32 for float32 input: it decides
        below which value an eigenvalue is rounding. By default float64, or float32 if the most
        negative eigenvalue shows that float64 was not used.

    Returns
    -------
    Spectrum, on R's device.

    Raises
    ------
    TypeError : R is not a real floating-point tensor; products is no floating-point dtype.
    ValueError : R is not square, finite and symmetric, or has an eigenvalue more negative than
        rounding explains, which no autocorrelation has.

    Notes
    -----
    Always float64: on CUDA, eigh of float32 matrices of low rank fails or returns NaN. Whatever
    the device returns is checked on a vector; if it is wrong the CPU computes it again.

    Examples
    --------
    >>> spectrum = full_spectrum(torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    >>> spectrum.eigenvalues.tolist(), int(spectrum.rank)
    ([0.0, 2.0], 1)
    """
    matrix = _square(R).to(torch.float64)
    values, vectors = _eigh(matrix)
    L, top = matrix.shape[-1], values[..., -1].clamp(min=0)
    lowest = values[..., 0].clamp(max=0)
    tried = (torch.float64, torch.float32)
    for dtype in tried if products is None else (_checks.precision("products", products),):
        rounding = 8 * math.sqrt(L) * torch.finfo(dtype).eps * top
        if not (lowest < -rounding).any():
            break
    else:
        raise ValueError(
            f"R must be positive semidefinite up to rounding, {float(rounding.max()):.3g}; got an "
            f"eigenvalue of {float(lowest.min()):.3g} (say in which precision R was made, as in "
            f"products=torch.float32)"
        )
    return Spectrum(
        eigenvalues=values.clamp(min=0).to(R.device),
        eigenvectors=vectors.to(R.device),
        rank=(values > rounding[..., None]).sum(-1).to(R.device),
        rounding=rounding.to(R.device),
        most_negative=lowest.to(R.device),
        device=str(values.device),
    )


@dataclass(frozen=True)
class Extremes:
    """The ends of a spectrum.

    Attributes
    ----------
    largest, smallest : eigenvalues of R; the smallest, where rounding made it negative, is zero.
    largest_error, smallest_error : an eigenvalue of R lies within this distance.
    steps : products with R that it took.
    converged : whether both errors are within the tolerance asked.
    """

    largest: float
    smallest: float
    largest_error: float
    smallest_error: float
    steps: int
    converged: bool


def extreme_eigenvalues(
    R: torch.Tensor | Operator, *, tolerance: float = 1e-6, steps: int = 300, seed: int = 0
) -> Extremes:
    """The largest and smallest eigenvalue of R by Lanczos, from products with R alone.

    Parameters
    ----------
    R : (L, L) tensor, ``PatchOperator``, or anything with ``shape``, ``device`` and products with
        (L, 1) float64 tensors.
    tolerance : of both ends, as a fraction of the largest.
    steps : products with R at most.
    seed : of the random start.

    Returns
    -------
    Extremes. Small eigenvalues crowd, so the lower end converges last, if at all: look at
    ``smallest_error`` before using its inverse. An R of low rank gives zero within its error.

    Raises
    ------
    TypeError, ValueError : R is not a square matrix; tolerance or steps out of range.

    Notes
    -----
    Lanczos with full reorthogonalisation and residual bounds: Parlett, The Symmetric Eigenvalue
    Problem (1998), chapter 13. A random start meets the largest eigenvector with probability one.

    Examples
    --------
    >>> ends = extreme_eigenvalues(torch.diag(torch.arange(1.0, 101.0)))
    >>> round(ends.largest, 6), round(ends.smallest, 4), ends.converged
    (100.0, 1.0, True)
    """
    operator = _square(R) if isinstance(R, torch.Tensor) else R
    _one_matrix(operator)
    wanted = _checks.positive("tolerance", tolerance)
    most = min(_checks.count("steps", steps), operator.shape[0])
    lanczos = _Lanczos(operator, _starts(operator, 1, seed))
    low = high = low_error = high_error = 0.0
    for step in range(1, most + 1):
        lanczos.step()
        if step % 5 and step < most and not lanczos.exhausted:
            continue
        values, vectors, beta = lanczos.ritz(0)
        errors = np.abs(beta * vectors[-1])
        low, high, low_error, high_error = values[0], values[-1], errors[0], errors[-1]
        # both ends can settle on an inner eigenvalue for a few steps; a residual cannot tell
        if lanczos.exhausted or (
            step >= 10 and max(low_error, high_error) <= wanted * max(high, 0.0)
        ):
            break
    return Extremes(
        largest=float(high),
        smallest=float(max(low, 0.0)),
        largest_error=float(high_error),
        smallest_error=float(max(low_error, -low)),
        steps=step,
        converged=bool(max(low_error, high_error) <= wanted * max(high, 0.0)),
    )


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """How the eigenvalues of R are distributed, estimated from a few random vectors.

    Each probe is a quadrature rule: a sum over the spectrum, divided by L, is about the sum of
    weights times the function at the nodes. The methods return the mean over probes and its
    standard error, which says nothing of the (usually much smaller) error of too few steps.

    Attributes
    ----------
    nodes, weights : (probes, steps); the weights of a probe add up to 1.
    L : number of eigenvalues.
    seed : of the probes.
    """

    nodes: Array = field(repr=False)
    weights: Array = field(repr=False)
    L: int
    seed: int

    def mean(self, function: Callable[[Array], Array]) -> tuple[float, float]:
        """Mean of a function over the eigenvalues, with its standard error."""
        each = (self.weights * function(self.nodes)).sum(axis=1)
        return float(each.mean()), _standard_error(each)

    def below(self, value: float) -> tuple[float, float]:
        """Fraction of the eigenvalues that are at most this, with its standard error."""
        return self.mean(lambda nodes: (nodes <= value).astype(float))

    def density(self, at: Array, width: float) -> tuple[Array, Array]:
        """Density at points, smoothed by a Gaussian of this width, with its standard error."""
        points, sigma = np.asarray(at, dtype=float), _checks.positive("width", width)
        distance = (points[:, None, None] - self.nodes) / sigma
        bumps = np.exp(-(distance**2) / 2) / (sigma * math.sqrt(2 * math.pi))
        each = (self.weights * bumps).sum(axis=2)
        error = each.std(axis=1, ddof=1) / math.sqrt(each.shape[1])
        return each.mean(axis=1), error


def spectral_density(
    R: torch.Tensor | Operator, *, probes: int = 10, steps: int = 60, seed: int = 0
) -> SpectralDensity:
    """The distribution of R's eigenvalues by stochastic Lanczos quadrature.

    Parameters
    ----------
    R : as in ``extreme_eigenvalues``; products are with (L, probes) float64 tensors.
    probes : random vectors, at least 2.
    steps : products with R; twice as many moments of the distribution are exact for each probe.
    seed : of the probes.

    Returns
    -------
    SpectralDensity.

    Raises
    ------
    TypeError, ValueError : as ``extreme_eigenvalues``; fewer than 2 probes.

    Notes
    -----
    Golub and Meurant, Matrices, Moments and Quadrature with Applications (2010); Ubaru, Chen and
    Saad, SIAM J. Matrix Anal. Appl. 38 (2017), for the stochastic estimate.

    Examples
    --------
    >>> density = spectral_density(torch.diag(torch.linspace(0, 1, 200)))
    >>> fraction, error = density.below(0.25)
    >>> abs(fraction - 0.25) < 4 * error + 0.02
    True
    """
    operator = _square(R) if isinstance(R, torch.Tensor) else R
    _one_matrix(operator)
    many = _checks.count("probes", probes, least=2)
    most = min(_checks.count("steps", steps), operator.shape[0])
    start = _checks.seed("seed", seed)
    lanczos = _Lanczos(operator, _starts(operator, many, start))
    for _ in range(most):
        lanczos.step()
        if lanczos.exhausted:
            break
    rules = [lanczos.ritz(probe)[:2] for probe in range(many)]
    return SpectralDensity(
        nodes=np.stack([values for values, _ in rules]),
        weights=np.stack([vectors[0] ** 2 for _, vectors in rules]),
        L=operator.shape[0],
        seed=start,
    )


class _Lanczos:
    """Several Lanczos runs side by side, one for each column of the start, in float64."""

    def __init__(self, operator: Any, start: torch.Tensor) -> None:
        self.operator = operator
        self.basis = [start / start.norm(dim=0)]
        self.alphas: list[torch.Tensor] = []
        self.betas: list[torch.Tensor] = []
        self.exhausted = False

    @torch.no_grad()
    def step(self) -> None:
        """One product with R."""
        q = self.basis[-1]
        r = (self.operator @ q).to(torch.float64)
        alpha = (q * r).sum(0)
        basis = torch.stack(self.basis)
        # twice is enough: against all before, for rounding would bring converged vectors back
        for _ in range(2):
            r = r - torch.einsum("jlp,jp->lp", basis, torch.einsum("jlp,lp->jp", basis, r))
        beta = r.norm(dim=0)
        self.alphas.append(alpha)
        scale = torch.stack([*self.alphas, *self.betas]).abs().amax(0)
        # the subspace is invariant: the remainder is rounding noise
        ended = beta <= 1e-13 * scale * len(r) ** 0.5
        beta = torch.where(ended, torch.zeros_like(beta), beta)
        r = torch.where(ended, torch.zeros_like(r), r / torch.where(ended, 1.0, beta))
        self.betas.append(beta)
        self.basis.append(r)
        self.exhausted = bool(ended.all())

    def ritz(self, column: int) -> tuple[Array, Array, float]:
        """Ritz values, eigenvectors of the tridiagonal matrix, and the last off-diagonal entry."""
        alpha = torch.stack(self.alphas)[:, column].cpu().numpy()
        beta = torch.stack(self.betas)[:, column].cpu().numpy()
        T = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
        values, vectors = np.linalg.eigh(T)
        return values, vectors, float(beta[-1])


def _starts(operator: Any, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(_checks.seed("seed", seed))
    start = torch.randn(operator.shape[0], columns, generator=generator, dtype=torch.float64)
    return start.to(operator.device)


def _standard_error(each: Array) -> float:
    return float(each.std(ddof=1) / math.sqrt(len(each)))


def _one_matrix(R: Any) -> None:
    if not isinstance(getattr(R, "device", None), torch.device):
        raise TypeError(f"R must be a tensor or an operator; got {shown(R)}")
    shape = tuple(getattr(R, "shape", ()))
    if len(shape) != 2:
        raise ValueError(
            f"R must be one matrix (L, L); got shape {shape}: pass one group at a time"
        )


def _square(R: Any) -> torch.Tensor:
    if not isinstance(R, torch.Tensor):
        raise TypeError(f"R must be a torch.Tensor; got {type(R).__name__}")
    _checks.dense("R", R)
    if R.ndim < 2 or R.shape[-1] != R.shape[-2] or not R.numel():
        raise ValueError(f"R must be square, (..., L, L); got shape {tuple(R.shape)}")
    _checks.finite("R", R)
    R = R.detach().to(torch.float64)
    if (R - R.mT).abs().max() > 1e-5 * R.abs().max():
        raise ValueError("R must be symmetric; got one whose transpose differs")
    return R


def _eigh(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigendecomposition by the device, and by the CPU if the device fails or is wrong."""
    symmetric = (matrix + matrix.mT) / 2
    probe = _starts(matrix[(0,) * (matrix.ndim - 2)], 1, 0)
    try:
        values, vectors = torch.linalg.eigh(symmetric)
        again = vectors @ (values[..., None] * (vectors.mT @ probe))
        miss = (again - symmetric @ probe).norm() / probe.norm()
        if miss <= 1e-10 * symmetric.norm():
            return values, vectors
    except torch.linalg.LinAlgError:
        pass
    L = symmetric.shape[-1]
    parts = [np.linalg.eigh(one) for one in symmetric.cpu().reshape(-1, L, L).numpy()]
    values = torch.stack([torch.from_numpy(w) for w, _ in parts])
    vectors = torch.stack([torch.from_numpy(v) for _, v in parts])
    return values.reshape(symmetric.shape[:-1]), vectors.reshape(symmetric.shape)
