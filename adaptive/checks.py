"""The one gate for input: each message names the argument, what was wanted and what came."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

FLOATS = (np.float32, np.float64, np.complex64, np.complex128)


def array(name: str, value: ArrayLike, *, ndim: tuple[int, ...]) -> Array:
    """A finite, non-empty floating-point array of one of the given ranks."""
    a = np.asarray(value)
    if a.dtype.type not in FLOATS:
        raise TypeError(
            f"{name} must be float32, float64, complex64 or complex128; got {a.dtype}: "
            f"convert it first, for example {name}.astype(float)"
        )
    if a.ndim not in ndim:
        wanted = " or ".join(f"{n}-D" for n in ndim)
        raise ValueError(f"{name} must be {wanted}; got shape {a.shape}")
    if a.size == 0:
        raise ValueError(f"{name} must not be empty; got shape {a.shape}")
    finite(name, a)
    return a


def finite(name: str, a: Array) -> None:
    """Refuse NaN and inf, naming the first one."""
    # a finite sum proves every entry finite; only a non-finite one needs the slow look
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(a.sum(dtype=a.dtype)):
            return
    bad = ~np.isfinite(a)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        at = where[0] if a.ndim == 1 else where
        raise ValueError(f"{name} must be finite; got {a[where]} at index {at}")


def positive(name: str, value: float) -> float:
    """A finite number above zero."""
    x = number(name, value)
    if not x > 0:
        raise ValueError(f"{name} must be positive; got {value}")
    return x


def nonnegative(name: str, value: float) -> float:
    """A finite number, zero allowed."""
    x = number(name, value)
    if x < 0:
        raise ValueError(f"{name} must be zero or positive; got {value}")
    return x


def fraction(name: str, value: float) -> float:
    """A number in [0, 1)."""
    x = nonnegative(name, value)
    if x >= 1:
        raise ValueError(f"{name} must be less than 1; got {value}")
    return x


def quantile(name: str, value: float) -> float:
    """A number in (0, 1)."""
    x = positive(name, value)
    if x >= 1:
        raise ValueError(f"{name} must be between 0 and 1; got {value}")
    return x


def number(name: str, value: float) -> float:
    """A finite real number."""
    try:
        x = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number; got {value!r}") from None
    if not np.isfinite(x):
        raise ValueError(f"{name} must be finite; got {value}")
    return x


def count(name: str, value: int, *, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    try:
        n = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number; got {value!r}") from None
    if n < least:
        raise ValueError(f"{name} must be at least {least}; got {n}")
    return n


def choice(name: str, value: str, options: tuple[str, ...]) -> str:
    """One of the named options."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}; got {value!r}")
    return value


def autocorrelation(name: str, value: ArrayLike) -> Array:
    """A square Hermitian matrix, symmetrised against rounding."""
    R = array(name, value, ndim=(2,))
    if R.shape[0] != R.shape[1]:
        raise ValueError(f"{name} must be square; got shape {R.shape}")
    scale = np.abs(R).max()
    tolerance = 100 * R.shape[0] * np.finfo(R.dtype).eps * scale
    asymmetry = np.abs(R - R.conj().T).max()
    if asymmetry > tolerance:
        raise ValueError(
            f"{name} must be symmetric (Hermitian if complex); got entries that differ from "
            f"their mirror image by up to {asymmetry:.3g}"
        )
    return np.ascontiguousarray((R + R.conj().T) / 2)
