"""Exact patch statistics of a layer's input, summed over chunks in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cnnbridge import _checks
from cnnbridge.patches import check_input, output_size, taps_per_output, windows

CHUNK_BYTES = 64 * 2**20


def patch_autocorrelation(
    x: torch.Tensor | Iterable[Any],
    conv: nn.Conv2d,
    *,
    bias: bool = False,
    chunk_size: int | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """R = E[u u'] of the patches u that a conv layer sees: mean over images and positions.

    Parameters
    ----------
    x : (N, C, H, W) real floating-point tensor, or any iterable of such batches; a batch may be a
        tuple or list whose first item is the tensor, as a ``DataLoader`` gives them. Batches may
        differ in size: every patch weighs the same.
    conv : any ``nn.Conv2d``; only its geometry is used.
    bias : add the constant tap of the bias as the last.
    chunk_size : images unfolded at a time. By default what fits in about 64 MiB.
    dtype : precision of the products inside a chunk, x's own by default (float32 for half
        precisions). The sums over chunks are float64 in any case. Choose float64 to tell a null
        eigenvalue from one that is merely 1e-6 of the largest.

    Returns
    -------
    float64 tensor on x's device, units of input power: (L, L) for a layer with ``conv.groups ==
    1``, else one block for each group, (groups, L, L), since the groups share no weights.

    Raises
    ------
    TypeError, ValueError : as ``unfold_patches``; ValueError for no batch at all.

    Notes
    -----
    The autocorrelation matrix of Haykin, Adaptive Filter Theory, with the patch as regressor.

    Examples
    --------
    >>> x = torch.ones(2, 1, 4, 4)
    >>> patch_autocorrelation(x, nn.Conv2d(1, 5, (1, 2))).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    conv = _checks.conv_layer("conv", conv)
    if chunk_size is not None:
        chunk_size = _checks.count("chunk_size", chunk_size)
    moments: Moments | None = None
    for name, batch in _batches(x):
        batch = check_input(name, batch, conv)
        if moments is None:
            moments = Moments.zeros(conv, bias=bias, device=batch.device)
        moments.add(batch, chunk_size=chunk_size, dtype=dtype)
    if moments is None:
        raise ValueError("x must hold at least one batch; got an empty iterable")
    R = moments.R / moments.count
    return R[0] if conv.groups == 1 else R


@dataclass
class Moments:
    """Running sums of u u', d u' and d d' over patches, by group."""

    conv: nn.Conv2d
    bias: bool
    R: torch.Tensor
    P: torch.Tensor
    d_power: torch.Tensor
    count: int = 0

    @classmethod
    def zeros(cls, conv: nn.Conv2d, *, bias: bool, device: torch.device) -> Moments:
        """Nothing summed yet."""
        groups, L = conv.groups, taps_per_output(conv, bias=bias)

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        outputs = conv.out_channels // groups
        return cls(conv, bias, zeros(groups, L, L), zeros(groups, outputs, L), zeros(groups))

    @torch.no_grad()
    def add(
        self,
        x: torch.Tensor,
        target: torch.Tensor | None = None,
        *,
        chunk_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Add a checked batch; target (N, M, rows, columns) if P is wanted."""
        if dtype is None:
            # half precisions round each product to three digits; float32 is as fast here
            dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        for images, rows, u in _chunks(x, self.conv, self.bias, chunk_size, dtype):
            self.R += (u @ u.mT).to(self.R)
            self.count += u.shape[-1]
            if target is not None:
                d = target[images, :, rows].to(u).transpose(0, 1)
                d = d.reshape(self.conv.groups, -1, u.shape[-1])
                self.P += (d @ u.mT).to(self.P)
                self.d_power += (d * d).sum(dim=(1, 2)).to(self.d_power)


def _batches(x: torch.Tensor | Iterable[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each batch with the name by which an error speaks of it."""
    if isinstance(x, torch.Tensor):
        yield "x", x
        return
    # a NumPy array is iterable too, but its items are images, not batches
    if not isinstance(x, Iterable) or hasattr(x, "__array__"):
        raise TypeError(
            f"x must be a torch.Tensor or an iterable of batches; got {type(x).__name__}"
        )
    for i, batch in enumerate(x):
        first = batch[0] if isinstance(batch, tuple | list) and batch else batch
        yield f"batch {i} of x", first


def _chunks(
    x: torch.Tensor,
    conv: nn.Conv2d,
    bias: bool,
    chunk_size: int | None,
    dtype: torch.dtype,
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Images, output rows and their regressors (groups, L, columns), columns by image and row."""
    height, width = output_size(conv, *x.shape[2:])
    L = taps_per_output(conv, bias=bias)
    row_bytes = conv.groups * L * width * torch.finfo(dtype).bits // 8
    rows = height
    if chunk_size is None:
        # one large image can exceed the budget by itself: then it goes by bands of rows
        rows = min(height, max(1, CHUNK_BYTES // row_bytes))
        chunk_size = max(1, CHUNK_BYTES // (row_bytes * height))
    for first in range(0, x.shape[0], chunk_size):
        images = slice(first, first + chunk_size)
        view = windows(x[images].to(dtype), conv).unflatten(1, (conv.groups, -1))
        for top in range(0, height, rows):
            band = view[..., top : top + rows, :].permute(1, 2, 3, 4, 0, 5, 6)
            u = band.new_empty((conv.groups, L, band.shape[4:].numel()))
            # written in place, so that the unfolded chunk exists once, constant tap included
            u[:, : L - int(bias)].view(band.shape).copy_(band)
            if bias:
                u[:, -1] = 1
            yield images, slice(top, top + rows), u
