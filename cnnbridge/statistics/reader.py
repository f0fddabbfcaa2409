"""The input of one layer over many batches, read within a fixed amount of memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.patches import check_input, windows
from cnnbridge.statistics import lags
from cnnbridge.statistics.autocorrelation import Moments
from cnnbridge.statistics.reduction import ends_of_spectrum

# up to this many taps the whole of R is cheaper to sum and decompose than a sample is to keep
MAX_EXACT_TAPS = 1152
# memory for the kept patches of one layer
MAX_BYTES = 64 * 2**20
# products of kept patches up to this many multiply-adds are made in float64
MAX_DOUBLE_PRODUCTS = 2e8


@dataclass(frozen=True, eq=False)
class ReadSpectrum:
    """Eigenvalues of R = E[u u'] of a layer's patches, and some of its modes.

    Attributes
    ----------
    values : (groups, K) float64, ascending, in units of input power. K is the number of taps, or of
        the kept patches where these are fewer; the other eigenvalues of the sample are zero.
    strongest, weakest : (groups, k, L) unit modes, from either end. With fewer patches than taps
        ``weakest`` are the weakest modes that the sample excites, not the smallest of R.
    rounding : (groups,) eigenvalues below are rounding.
    patches : that R was taken from, of each group.
    exact : whether these are all patches that were seen.
    """

    values: Array = field(repr=False)
    strongest: Array = field(repr=False)
    weakest: Array = field(repr=False)
    rounding: Array = field(repr=False)
    patches: int
    exact: bool

    @property
    def excited(self) -> Array:
        """All eigenvalues above rounding, of all groups, ascending."""
        return np.sort(self.values[self.values > self.rounding[:, None]])

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the eigenvalues' shares of the power; NaN without power.

        The number of modes, if all were equal: Roy and Vetterli (2007).
        """
        shares = self.excited / self.excited.sum() if self.excited.size else np.full(1, np.nan)
        return float(np.exp(-(shares * np.log(shares)).sum()))


class LayerReader:
    """Statistics of the patches that a layer meets, batch by batch, within a fixed memory.

    A layer of few taps is read exactly: the sums of R are kept, and every patch counts. Otherwise
    a uniform sample of the patches is kept: each patch draws a random key, and those with the
    smallest keys stay, whatever the number and the size of the batches.

    Parameters
    ----------
    layer : any convolution, transposed convolution or linear layer; only its geometry is used.
    samples : patches to keep at most. Fewer are kept where they would take more than ``max_bytes``.
    exact : keep the sums of R, rather than patches, if the layer has at most 1152 taps and the
        first batch has at least as many patches as taps.
    seed : of the keys; torch's global random state is neither read nor changed.
    max_bytes : for the kept patches.

    Attributes
    ----------
    seen : patches met so far, of each group.
    finite : whether all input so far was finite.

    Raises
    ------
    TypeError, ValueError : as ``Geometry.of``; a number out of range.

    Examples
    --------
    >>> reader = LayerReader(torch.nn.Conv2d(1, 4, 3))
    >>> for _ in range(3):
    ...     reader.add(torch.ones(8, 1, 6, 6))
    >>> reader.seen, reader.spectrum().values.round(6).tolist()[0][-2:]
    (384, [0.0, 9.0])
    """

    def __init__(
        self,
        layer: Layer,
        *,
        samples: int = 1024,
        exact: bool = True,
        seed: int = 0,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.geometry = Geometry.of(layer)
        self.seen = 0
        self.finite = True
        row = 4 * self.geometry.groups * self.geometry.taps
        self._limit = max(1, min(_checks.count("samples", samples), max_bytes // row))
        self._sums = _checks.flag("exact", exact) and self.geometry.taps < MAX_EXACT_TAPS
        self._generator = torch.Generator().manual_seed(_checks.seed("seed", seed))
        self._moments: Moments | None = None
        self._keys = torch.zeros(0, dtype=torch.float64)
        # (patches, groups * L)
        self._rows: torch.Tensor | None = None
        self._products = torch.float32

    @torch.no_grad()
    def add(self, x: torch.Tensor) -> None:
        """Read one batch, or one sample without a batch axis, as the layer takes it.

        Raises
        ------
        TypeError, ValueError : as ``unfold_patches``; but input that is not finite only makes
            ``finite`` False.
        """
        geometry = self.geometry
        axes = 0 if geometry.kind == "linear" else len(geometry.kernel)
        if isinstance(x, torch.Tensor) and x.ndim == axes + 1:
            x = x[None]
        x = check_input("x", x.detach(), geometry, finite=False)
        # a finite sum proves every entry finite
        if not torch.isfinite(x.sum(dtype=torch.float32 if x.itemsize == 2 else x.dtype)):
            self.finite = self.finite and bool(torch.isfinite(x).all())
        if x.dtype == torch.float64:
            self._products = torch.float64
        planes = geometry.channels_first(x)
        patches = len(planes) * math.prod(geometry.output_size(*planes.shape[2:]))
        if not self.seen and (not self._sums or patches < geometry.taps):
            self._sums = False
        self.seen += patches
        if not self._sums:
            self._keep(planes, patches)
            return
        if self._moments is None:
            self._moments = Moments.zeros(geometry, bias=True, device=x.device)
        self._moments.add(x)

    @property
    def exact(self) -> bool:
        """Whether every patch that was seen counts."""
        return self._sums or self.seen == len(self._keys)

    @property
    def sums(self) -> bool:
        """Whether the sums of R are kept, so far, rather than patches."""
        return self._sums

    @property
    def used(self) -> int:
        """Patches of each group that the statistics are taken from."""
        return self.seen if self._sums else len(self._keys)

    def _keep(self, x: torch.Tensor, patches: int) -> None:
        """Let every patch draw a key, and gather those that stay."""
        keys = torch.rand(patches, generator=self._generator, dtype=torch.float64)
        every = torch.cat([self._keys, keys])
        if len(every) > self._limit:
            stay = every.topk(self._limit, largest=False, sorted=False).indices.sort().values
        else:
            stay = torch.arange(len(every))
        old, new = stay[stay < len(self._keys)], stay[stay >= len(self._keys)] - len(self._keys)
        rows = self._gather(x, new)
        if self._rows is not None:
            kept = self._rows if len(old) == len(self._rows) else self._rows[old.to(x.device)]
            rows = torch.cat([kept.to(torch.promote_types(kept.dtype, rows.dtype)), rows])
        self._rows, self._keys = rows, every[stay]

    def _gather(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Patches by their number, image by image and row by row: (patches, groups * L)."""
        size = self.geometry.output_size(*x.shape[2:])
        image, *at = np.unravel_index(places.numpy(), (len(x), *size))
        images, image = np.unique(image, return_inverse=True)
        if len(images) < len(x):
            # pad no image that gives no patch
            x = x[torch.from_numpy(images).to(x.device)]
        x = x if x.dtype == torch.float64 else x.float()
        axes = len(size)
        view = windows(x, self.geometry)
        # images and places in front, channels and taps behind
        view = view.permute(0, *range(2 + axes, 2 + 2 * axes), *range(1, 2 + axes))
        if len(places) == len(x) * math.prod(size):
            # all of them, in order: a plain copy, and a copy in any case
            rows = view.flatten(1 + axes).flatten(0, axes)
            return rows.clone() if rows.data_ptr() == x.data_ptr() else rows
        index = tuple(torch.from_numpy(i).to(x.device) for i in (image, *at))
        return view[index].flatten(1)

    def patches(self, *, bias: bool = False) -> torch.Tensor:
        """The kept patches, (groups, L, patches), with the constant tap of a bias as the last.

        Raises
        ------
        RuntimeError : the sums of R were kept instead.
        """
        if self._sums and self.seen:
            raise RuntimeError("patches were not kept: this layer is read exactly, by sums")
        geometry = self.geometry
        if self._rows is None:
            u = torch.zeros(geometry.groups, geometry.taps, 0)
        else:
            u = self._rows.unflatten(1, (geometry.groups, geometry.taps)).permute(1, 2, 0)
        return torch.cat([u, torch.ones_like(u[:, :1])], dim=1) if bias else u

    def R(self, *, bias: bool = False) -> torch.Tensor:
        """E[u u'] of all patches, or of the kept ones: (groups, L, L) float64.

        Raises
        ------
        RuntimeError : nothing was read.
        """
        self._some()
        if not self._sums:
            u = self.patches(bias=bias).double()
            return u @ u.mT / u.shape[-1]
        assert self._moments is not None
        R = self._moments.R / self._moments.count
        R = (R + R.mT) / 2
        return R if bias else R[:, :-1, :-1]

    def mean(self) -> torch.Tensor:
        """E[u], (groups, L) float64, of all patches or of the kept ones.

        Raises
        ------
        RuntimeError : nothing was read.
        """
        self._some()
        if not self._sums:
            return self.patches().double().mean(dim=-1)
        return self.R(bias=True)[:, :-1, -1]

    def spectrum(self, *, bias: bool = False, strongest: int = 0, weakest: int = 0) -> ReadSpectrum:
        """Eigenvalues of R, and the modes at either end.

        Parameters
        ----------
        bias : with the constant tap.
        strongest, weakest : number of modes from either end, for each group.

        Raises
        ------
        RuntimeError : nothing was read.
        ValueError : more modes than there are eigenvalues.
        """
        self._some()
        u, products, count = None, self._products, self.seen
        if self._sums:
            matrices = self.R(bias=bias)
        else:
            u = self.patches(bias=bias)
            count = u.shape[-1]
            matrices, products = gram(u, products)
        return spectrum_of(
            matrices,
            u,
            strongest=_checks.count("strongest", strongest, least=0),
            weakest=_checks.count("weakest", weakest, least=0),
            patches=count,
            products=products,
            exact=self.exact,
        )

    def _some(self) -> None:
        if not self.seen:
            raise RuntimeError("add must be called before anything can be read; got no input")


def gram(u: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.dtype]:
    """u u' / n, or u' u / n where that is smaller: both have the eigenvalues that are not zero.

    (groups, K, K) from patches (groups, L, n), K the smaller of L and n, with products in
    ``dtype``, or in float64 where that costs little. Returned in float64, with the precision of the
    products.
    """
    L, n = u.shape[1:]
    if len(u) * min(L, n) ** 2 * max(L, n) <= MAX_DOUBLE_PRODUCTS:
        dtype = torch.float64
    u = (u if n >= L else u.mT).to(dtype)
    R = lags.gram(u, None) / n
    return (R + R.mT) / 2, dtype


def spectrum_of(
    matrices: torch.Tensor,
    u: torch.Tensor | None,
    *,
    strongest: int,
    weakest: int,
    patches: int,
    products: torch.dtype,
    exact: bool,
) -> ReadSpectrum:
    """The spectrum of R (groups, L, L), or of the gram matrix of patches u (groups, L, n)."""
    side = matrices.shape[-1]
    if strongest + weakest > side:
        raise ValueError(
            f"strongest and weakest must be at most {side} modes together, the eigenvalues that "
            f"there are; got {strongest} and {weakest}"
        )
    if not strongest + weakest:
        # more digits than the products have would take twice the time
        matrices = matrices.to(products)
    each = [ends_of_spectrum(m, strongest, weakest) for m in matrices.cpu().numpy()]
    values = np.stack([v for v, _ in each]).astype(float)
    vectors = torch.from_numpy(np.stack([w for _, w in each]))
    if u is not None and u.shape[-1] == side < u.shape[1]:
        # from modes of the patches among each other to modes of the taps
        vectors = u.double().cpu() @ vectors
        vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-300)
    modes = vectors.mT.numpy()
    rounding = 8 * math.sqrt(side) * torch.finfo(products).eps * values[:, -1].clip(min=0)
    return ReadSpectrum(
        values=values.clip(min=0),
        strongest=modes[:, :strongest],
        weakest=modes[:, strongest:],
        rounding=rounding,
        patches=patches,
        exact=exact,
    )
