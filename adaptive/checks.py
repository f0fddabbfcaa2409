"""The one gate for input: each message names the argument, what was wanted and what came."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Kind = TypeVar("Kind")

FLOATS = (np.float32, np.float64, np.complex64, np.complex128)
LARGEST_COUNT = 2**31 - 1  # of samples, taps, runs: beyond it is no memory for them


def array(name: str, value: ArrayLike, *, ndim: tuple[int, ...]) -> Array:
    """Convert to a finite, non-empty floating-point array of one of the given ranks.

    Integers become float64 without loss, and byte order becomes the machine's own; single
    precision stays single.

    Raises
    ------
    TypeError : masked entries, or anything but real or complex numbers.
    ValueError : rows of unequal length, integers that float64 cannot hold, a wrong rank, no
        entries, NaN or inf.
    """
    a = floating(name, value)
    if a.ndim not in ndim:
        wanted = " or ".join(f"{n}-D" for n in ndim)
        raise ValueError(f"{name} must be {wanted}; got shape {a.shape}")
    if a.size == 0:
        raise ValueError(f"{name} must not be empty; got shape {a.shape}")
    finite(name, a)
    return a


def floating(name: str, value: ArrayLike) -> Array:
    """Convert to a floating-point array in the machine's byte order, of any rank and content."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(
            f"{name} must have no masked entries; got {np.ma.count_masked(value)} masked of "
            f"{value.size}: fill them or leave those samples out"
        )
    try:
        a = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as problem:
        raise _not_an_array(name, value, problem) from None
    kind = a.dtype.type
    if kind in FLOATS:
        return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))
    if a.dtype.kind in "iu":
        return _from_integers(name, a)
    raise TypeError(
        f"{name} must be float32, float64, complex64 or complex128; got {a.dtype}: "
        f"convert it first, for example np.asarray({name}, float)"
    )


def _from_integers(name: str, a: Array) -> Array:
    """Integers as float64, every one exactly."""
    exact: Array = a.astype(np.float64)
    if a.dtype.itemsize == 8 and a.size:
        limit = 2**53
        largest = max(int(a.max()), -int(a.min()))
        if largest > limit and not np.array_equal(_as_objects(exact), _as_objects(a)):
            raise ValueError(
                f"{name} must hold integers that float64 holds exactly, such as those up to 2**53; "
                f"got {largest}"
            )
    return exact


def _as_objects(a: Array) -> Array:
    """The entries as Python integers, whose comparison does not round."""
    return np.array([int(x) for x in a.reshape(-1)], dtype=object)


def _not_an_array(name: str, value: object, problem: Exception) -> Exception:
    """The sentence for what numpy refuses to make an array of."""
    if isinstance(value, Sequence) and "inhomogeneous" in str(problem):
        return ValueError(f"{name} must have rows of equal length; got {shown(value)}")
    return TypeError(f"{name} must be an array of numbers; got {shown(value)}")


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
    """Return a finite number above zero."""
    x = number(name, value)
    if not x > 0:
        raise ValueError(f"{name} must be positive; got {shown(value)}")
    return x


def nonnegative(name: str, value: float) -> float:
    """Return a finite number, zero allowed."""
    x = number(name, value)
    if x < 0:
        raise ValueError(f"{name} must be zero or positive; got {shown(value)}")
    return x


def fraction(name: str, value: float) -> float:
    """Return a number in [0, 1)."""
    x = nonnegative(name, value)
    if x >= 1:
        raise ValueError(f"{name} must be less than 1; got {shown(value)}")
    return x


def quantile(name: str, value: float) -> float:
    """Return a number in (0, 1)."""
    x = positive(name, value)
    if x >= 1:
        raise ValueError(f"{name} must be between 0 and 1; got {shown(value)}")
    return x


def number(name: str, value: float) -> float:
    """Return a finite real number as a float; text, flags, arrays and complex numbers are none."""
    if type(value) is float:  # the usual case, without the detours
        x = value
    else:
        if (
            isinstance(value, bool | np.bool_ | str | bytes | bytearray | complex)
            or value is np.ma.masked
            or getattr(getattr(value, "dtype", None), "kind", "") == "b"
            or rank(value) != 0
            or np.iscomplexobj(value)
        ):
            raise TypeError(f"{name} must be a real number; got {shown(value)}")
        try:
            x = float(value)
        except OverflowError:
            x = np.inf
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be a real number; got {shown(value)}") from None
    if not -np.inf < x < np.inf:
        raise ValueError(f"{name} must be finite; got {shown(value)}")
    return x


def count(name: str, value: int, *, least: int = 1) -> int:
    """Return a whole number between ``least`` and ``LARGEST_COUNT``."""
    n = _whole(name, value, least)
    if n > LARGEST_COUNT:
        raise ValueError(f"{name} must be at most {LARGEST_COUNT}; got {shown(n)}")
    return n


def seed(name: str, value: int) -> int:
    """Return a whole number of any size, zero or positive, to seed a generator with."""
    return _whole(name, value, 0)


def whole(name: str, value: int) -> int:
    """Return a whole number of either sign."""
    n = _whole(name, value, -LARGEST_COUNT)
    return count(name, n, least=-LARGEST_COUNT)


def mask(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return booleans, one per sample of an array of this shape, or one per entry."""
    try:
        a = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as problem:
        raise _not_an_array(name, value, problem) from None
    if isinstance(value, np.ma.MaskedArray) or a.dtype != bool:
        got = "a masked array" if isinstance(value, np.ma.MaskedArray) else a.dtype
        raise TypeError(f"{name} must hold True or False; got {got}")
    if a.shape not in (shape[:1], shape):
        wanted = " or ".join(str(s) for s in dict.fromkeys((shape[:1], shape)))
        raise ValueError(f"{name} must have shape {wanted}, as d has; got {a.shape}")
    return a


def _whole(name: str, value: int, least: int) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a whole number; got {shown(value)}")
    try:
        n = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a whole number; got {shown(value)}") from None
    if n < least:
        raise ValueError(f"{name} must be at least {least}; got {shown(n)}")
    return n


def rank(value: object) -> int:
    """Return the number of axes a value would have as an array; 1 for rows of unequal length."""
    try:
        return np.ndim(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return 1


def flag(name: str, value: bool) -> bool:
    """Return True or False; nothing else is taken for either."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {shown(value)}")
    return bool(value)


def choice(name: str, value: str, options: tuple[str, ...]) -> str:
    """Return one of the named options."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(options)}; got {shown(value)}")
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}; got {shown(value)}")
    return value


def instance(name: str, value: object, kind: type[Kind]) -> Kind:
    """Return an object of the given class."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{name} must be {article} {kind.__name__}; got {shown(value)}")
    return value


def items(name: str, value: Iterable[Any], wanted: str) -> list[Any]:
    """Return the items of a list, an array or another iterable; a text is none."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of {wanted}; got {shown(value)}")
    try:
        return list(value)
    except TypeError:  # an array of no axes says that it is iterable
        raise TypeError(f"{name} must be a list of {wanted}; got {shown(value)}") from None


def shown(value: object) -> str:
    """Describe a value in a message: short, and never an exception of its own."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    if type(value) is int and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        value = value.item()
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a message must not fail on somebody's __repr__
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"


def autocorrelation(name: str, value: ArrayLike) -> Array:
    """Return a square Hermitian matrix, symmetrised against rounding."""
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
    return np.ascontiguousarray(R / 2 + R.conj().T / 2)
