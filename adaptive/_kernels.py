"""Every compiled loop. No checks, no keywords; the caller allocates and has validated.

Regressor n is ``x[n * hop : n * hop + L]`` (see ``regressors.py``), so a delay line needs no copy.
Each recursive kernel returns -1, or the first n whose a priori error is not finite (N when only
the last update overflowed); samples after it are not touched. ``history[r, m]`` receives output
m's weights after r * every updates, counted from ``offset`` samples before this call.

Fast-math flags are the ones that keep NaN and inf meaningful: a diverging run must be seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.extending import intrinsic, overload

from adaptive.checks import Array

KEEPS_NAN = {"reassoc", "contract", "arcp", "nsz"}

# Below this a power has lost digits, or all of them, because squares underflow. Dividing by it
# could take a step of more than twice the distance, so nothing is updated there. Powers of single
# precision are double, but their samples lose digits at the root of the second value.
LEAST_POWER = float(np.finfo(np.float64).tiny / np.finfo(np.float64).eps)
LEAST_POWER_SINGLE = float(np.finfo(np.float32).tiny / np.finfo(np.float32).eps) ** 2


class ForgivingCache(FunctionCache):
    """The compiler's cache on disk, of which no fault may stop a call.

    Files may be damaged by a power cut, belong to somebody else, or meet a full disk. A function
    that cannot be read is compiled again, and one that cannot be written stays in memory.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function on disk, or None to have it compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what unpickling damaged bytes raises is not bounded
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write a compiled function, over a damaged index if need be."""
        try:
            super().save_overload(sig, data)
        except Exception:
            with contextlib.suppress(Exception):
                self.flush()
                super().save_overload(sig, data)


def _compiled(fastmath: set[str] | bool) -> Callable[[Any], Any]:
    """Compile at the first call, and cache on disk where there is a place to write."""

    def decorate(function: Any) -> Any:
        compiled = njit(nogil=True, error_model="numpy", fastmath=fastmath)(function)
        if not config.DISABLE_JIT:  # type: ignore[attr-defined]
            # without a folder to write to, the package's or the user's, there is no cache
            with contextlib.suppress(RuntimeError):
                compiled._cache = ForgivingCache(function)  # type: ignore[attr-defined]
        return compiled

    return decorate


fast = _compiled(KEEPS_NAN)
exact_order = _compiled(False)  # where the order of additions is itself the promise


@exact_order
def finite(e: Any) -> bool:
    """Whether a number is finite, said as a comparison.

    np.isfinite compiles to a test of e - e, which the flag that allows reassociation turns into 0:
    it would call every NaN finite.
    """
    return abs(e.real) < np.inf and abs(e.imag) < np.inf


@exact_order
def copy(a: Array, b: Array) -> None:
    """Copy a vector; the compiler takes seconds over ``b[:] = a``, which covers every case."""
    for k in range(a.size):
        b[k] = a[k]


@exact_order
def least_power(w: Array) -> float:
    """Return the least power that weights of this kind may be updated with."""
    return LEAST_POWER if np.finfo(w[0].real).eps < 1e-10 else LEAST_POWER_SINGLE


def sign(e: Any) -> Any:
    """Sign of a real number; of a complex one, the signs of its two parts."""
    return np.sign(e.real) + 1j * np.sign(e.imag) if np.iscomplexobj(e) else np.sign(e)


@overload(sign)
def _compiled_sign(e):  # type: ignore[no-untyped-def]  # numba compares it with the lambdas
    if isinstance(e, types.Complex):
        return lambda e: np.sign(e.real) + 1j * np.sign(e.imag)
    return lambda e: np.sign(e)


@fast
def stochastic_gradient(
    first: int, last: int, x: Array, z: Array, hop: int, d: Array, step: Array, power: Array,
    eps: float, keep: Array | None, signed: bool | None, w: Array, error: Array, m: int,
    offset: int, every: int, history: Array,
) -> int:  # fmt: skip
    """One output: y = w^H u, e = d - y, w <- keep w + step / (eps + power) z e*.

    Runs samples ``first`` to ``last`` - 1. ``z`` is the direction of the update: u for LMS, its
    sign for sign-data, and so on; ``signed``, unless None, takes the sign of e*. ``step``,
    ``power`` and ``keep`` hold one value or one per sample, and no ``keep`` keeps all. Where
    eps + power is below ``least_power``, nothing is updated: no power, no direction.

    The plain recursion is two passes over the weights per sample, dot product and update. Here the
    update of sample n - 1 and the dot product of sample n are one pass: half the memory traffic.
    """
    L = w.size
    least = least_power(w)
    g = w.dtype.type(0)
    kept = w.dtype.type(1).real
    previous = first * hop
    for n in range(first, last):
        now = n * hop
        u = x[now : now + L]
        direction = z[previous : previous + L]
        y = w.dtype.type(0)
        for k in range(L):
            w[k] = kept * w[k] + g * direction[k]
            y += np.conj(w[k]) * u[k]
        if every > 0 and (offset + n) % every == 0:
            copy(w, history[(offset + n) // every, m])
        e = d[n] - y
        if not finite(e):
            return n
        error[n] = e
        if keep is not None:  # decided when compiled, as is signed: a choice here costs a quarter
            kept = keep[n] if keep.size > 1 else keep[0]
        scale = eps + (power[n] if power.size > 1 else power[0])
        mu = (step[n] if step.size > 1 else step[0]) / scale if scale >= least else 0 * scale
        if signed is not None:
            e = sign(e)
        g = w.dtype.type(mu * np.conj(e))
        previous = now
    direction = z[previous : previous + L]
    for k in range(L if last > first else 0):
        w[k] = kept * w[k] + g * direction[k]
    return -1 if all_finite(w) else last


LANES = 32  # runs or outputs that advance side by side, one per SIMD lane


def lane_pass(
    w: Array, z: Array, x: Array, previous: int, now: int, kept: float, g: Array, y: Array,
    lane: int,
) -> None:  # fmt: skip
    """The fused pass of ``stochastic_gradient`` for LANES lanes from ``lane`` on.

    For every tap k: w[k] <- kept w[k] + g z[previous + k], then y += w[k] x[now + k]; z and x hold
    a column per lane, or one column that all lanes share.
    """
    part = slice(lane, lane + LANES)
    L = w.shape[0]
    rows_z = z[previous : previous + L, part] if z.ndim == 2 else z[previous : previous + L, None]
    rows_x = x[now : now + L, part] if x.ndim == 2 else x[now : now + L, None]
    w[:, part] = kept * w[:, part] + g[part] * rows_z
    y[part] = (w[:, part] * rows_x).sum(axis=0)


@intrinsic
def _lane_pass(typing, w, z, x, previous, now, kept, g, y, lane):  # type: ignore[no-untyped-def]
    """``lane_pass`` as vector instructions, with g and y in registers over the whole pass.

    The compiler's own vectoriser cannot do this: it must assume that w, g and y overlap.
    """
    signature = types.void(w, z, x, previous, now, kept, g, y, lane)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        from numba.np.arrayobj import make_array  # not at import: it takes longer than the rest

        vector = ir.VectorType(ir.DoubleType(), LANES)
        arrays = {
            name: make_array(signature.args[i])(context, builder, args[i])
            for name, i in {"w": 0, "z": 1, "x": 2, "g": 6, "y": 7}.items()
        }
        lane = args[8]

        def address(name, index):  # type: ignore[no-untyped-def]
            return builder.gep(arrays[name].data, [index])

        def load(name, index):  # type: ignore[no-untyped-def]
            at = builder.bitcast(address(name, index), vector.as_pointer())
            return builder.load(at, align=8)

        def store(name, index, value):  # type: ignore[no-untyped-def]
            at = builder.bitcast(address(name, index), vector.as_pointer())
            builder.store(value, at, align=8)

        def splat(value):  # type: ignore[no-untyped-def]
            one = builder.insert_element(
                ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
            )
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)

        def regressor(name, position, row):  # type: ignore[no-untyped-def]
            if signature.args[position].ndim == 1:
                return splat(builder.load(address(name, row)))
            return load(name, builder.add(builder.mul(row, width), lane))

        taps = builder.extract_value(arrays["w"].shape, 0)
        width = builder.extract_value(arrays["w"].shape, 1)
        gains, keep = load("g", lane), splat(args[5])
        total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * LANES))
        fused = {"flags": ["contract"]}
        with cgutils.for_range(builder, taps) as loop:
            at = builder.add(builder.mul(loop.index, width), lane)
            change = builder.fmul(
                gains, regressor("z", 1, builder.add(args[3], loop.index)), **fused
            )
            weight = builder.fadd(builder.fmul(keep, load("w", at), **fused), change, **fused)
            store("w", at, weight)
            output = builder.fmul(
                weight, regressor("x", 2, builder.add(args[4], loop.index)), **fused
            )
            builder.store(builder.fadd(builder.load(total), output, **fused), total)
        store("y", lane, builder.load(total))
        return context.get_dummy_value()

    return signature, generate


@overload(lane_pass)
def _compiled_lane_pass(w, z, x, previous, now, kept, g, y, lane):  # type: ignore[no-untyped-def]
    def call(w, z, x, previous, now, kept, g, y, lane):  # type: ignore[no-untyped-def]
        _lane_pass(w, z, x, previous, now, kept, g, y, lane)  # type: ignore[call-arg]

    return call


@fast
def stochastic_gradient_lanes(
    x: Array, z: Array, hop: int, d: Array, step: Array, power: Array, eps: float, keep: Array,
    signed: bool | None, used: int, w: Array, error: Array, stops: Array, offset: int, every: int,
    history: Array, mean: Array, squares: Array,
) -> None:  # fmt: skip
    """``stochastic_gradient`` for many outputs or runs at once, real double precision.

    Lanes run along the last axis of w (L, V), d and error (N, V), V a multiple of LANES of which
    ``used`` count; x and z are (T,) where all lanes share the regressor, (T, V) where each has its
    own; step and power are (N or 1, V or 1). ``stops[v]`` receives the sample at which lane v
    diverged.
    Every ``every`` samples the weights go to ``history`` (rows, V, L), or their mean over the lanes
    and sum of squared deviations to ``mean`` and ``squares`` (rows, L), where those have rows.
    """
    L, V = w.shape
    N = d.shape[0]
    g = np.zeros(V)
    y = np.zeros(V)
    rates = np.zeros(V)
    kept = 1.0
    previous = 0
    for n in range(N + 1):  # the last pass only updates
        now = n * hop if n < N else previous
        for lane in range(0, V, LANES):
            lane_pass(w, z, x, previous, now, kept, g, y, lane)
        if every > 0 and (offset + n) % every == 0:
            row = (offset + n) // every
            if row < history.shape[0]:
                for m in range(used):
                    for k in range(L):
                        history[row, m, k] = w[k, m]
            if row < mean.shape[0]:
                for k in range(L):
                    lane_moments(w[k], used, mean[row], squares[row], k)
        if n == N:
            break
        kept = keep[n] if keep.size > 1 else keep[0]
        if n == 0 or step.shape[0] > 1 or power.shape[0] > 1:
            mus = step[n] if step.shape[0] > 1 else step[0]
            powers = power[n] if power.shape[0] > 1 else power[0]
            shared = mus.size == 1 and powers.size == 1
            for v in range(1 if shared else V):
                scale = eps + (powers[v] if powers.size > 1 else powers[0])
                mu = mus[v] if mus.size > 1 else mus[0]
                rates[v] = mu / scale if scale >= LEAST_POWER else 0.0
            if shared:
                rates[:] = rates[0]
        probe = 0.0
        for v in range(V):
            e = d[n, v] - y[v]
            error[n, v] = e
            probe += 0.0 * e  # not a number as soon as one error is not finite
            if signed is not None:
                e = sign(e)
            g[v] = rates[v] * e
        if not finite(probe):
            for v in range(V):
                if not finite(error[n, v]):
                    error[n, v] = np.nan
                    if stops[v] < 0:
                        stops[v] = offset + n
        previous = now
    for v in range(used):
        for k in range(L):
            if stops[v] < 0 and not finite(w[k, v]):
                stops[v] = offset + N


@fast
def lane_moments(values: Array, used: int, mean: Array, squares: Array, at: int) -> None:
    """Mean of the first ``used`` lanes and the sum of their squared deviations, at one place."""
    # relative to one of the values, which lies among the others: one pass loses no digits
    reference = values[0]
    total = 0.0
    deviations = 0.0
    for v in range(used):
        difference = values[v] - reference
        total += difference
        deviations += difference * difference
    mean[at] = reference + total / used
    squares[at] = deviations - total * total / used


@fast
def squared_error_moments(error: Array, used: int, mean: Array, squares: Array) -> None:
    """Over the lanes of error (N, V): mean of |e(n)|^2 and sum of its squared deviations."""
    power = np.empty(error.shape[1])
    for n in range(error.shape[0]):
        for v in range(used):
            power[v] = error[n, v] * error[n, v]
        lane_moments(power, used, mean, squares, n)


@fast
def momentum(
    x: Array, hop: int, d: Array, step: Array, beta: float,
    w: Array, v: Array, error: Array, m: int, offset: int, every: int, history: Array,
) -> int:  # fmt: skip
    """Heavy ball: v <- beta v + step u e*, w <- w + v."""
    L = w.size
    for n in range(d.size):
        u = x[n * hop : n * hop + L]
        if every > 0 and (offset + n) % every == 0:
            copy(w, history[(offset + n) // every, m])
        y = w.dtype.type(0)
        for k in range(L):
            y += np.conj(w[k]) * u[k]
        e = d[n] - y
        if not finite(e):
            return n
        error[n] = e
        g = w.dtype.type((step[n] if step.size > 1 else step[0]) * np.conj(e))
        for k in range(L):
            v[k] = beta * v[k] + g * u[k]
            w[k] += v[k]
    return -1 if all_finite(w) else d.size


@fast
def block(
    x: Array, hop: int, d: Array, step: Array, size: int, phase: int,
    w: Array, gradient: Array, error: Array, m: int, offset: int, every: int, history: Array,
) -> int:  # fmt: skip
    """Block LMS: w <- w + step (mean of u e* over the block); ``phase``: samples already in it."""
    L = w.size
    for n in range(d.size):
        u = x[n * hop : n * hop + L]
        if every > 0 and (offset + n) % every == 0:
            copy(w, history[(offset + n) // every, m])
        y = w.dtype.type(0)
        for k in range(L):
            y += np.conj(w[k]) * u[k]
        e = d[n] - y
        if not finite(e):
            return n
        error[n] = e
        g = np.conj(e)
        for k in range(L):
            gradient[k] += g * u[k]
        if (phase + n + 1) % size == 0:
            mu = (step[n] if step.size > 1 else step[0]) / size
            for k in range(L):
                w[k] += w.dtype.type(mu) * gradient[k]
                gradient[k] = 0
    return -1 if all_finite(w) else d.size


@fast
def affine_projection(
    x: Array, hop: int, d: Array, step: Array, order: int, eps: float,
    G: Array, e: Array, w: Array, error: Array, offset: int, every: int, history: Array,
) -> int:  # fmt: skip
    """w <- w + step U (U^H U + eps I)^-1 e*, with U = [u(n) .. u(n - order + 1)] and its errors e.

    ``x`` and ``d`` (N + order - 1, M) begin ``order - 1`` regressors early.
    ``G`` (order, order) and ``e`` (order, M) are work space in double precision: with more
    regressors than taps U^H U is singular, and single precision would round by more than eps.
    """
    M, L = w.shape
    N = d.shape[0] - (order - 1)
    U = np.zeros((order, L), w.dtype)
    for n in range(N):
        for i in range(order):
            at = n + order - 1 - i
            copy(x[at * hop : at * hop + L], U[i])
            for m in range(M):
                y = w.dtype.type(0)
                for k in range(L):
                    y += np.conj(w[m, k]) * U[i, k]
                e[i, m] = d[at, m] - y
        if every > 0 and (offset + n) % every == 0:
            for m in range(M):
                copy(w[m], history[(offset + n) // every, m])
        for m in range(M):
            if not finite(e[0, m]):
                return n
        for m in range(M):
            error[n, m] = e[0, m]
        for i in range(order):
            for j in range(order):
                total = G.dtype.type(0)
                for k in range(L):
                    total += np.conj(G.dtype.type(U[i, k])) * U[j, k]
                G[i, j] = total + (eps if i == j else 0.0)
        mu = step[n] if step.size > 1 else step[0]
        # (U^H U + eps I) a = e*; a direction without power takes no part
        a = _solve_positive(G, np.conj(e))
        for m in range(M):
            for i in range(order):
                g = w.dtype.type(mu * a[i, m])
                for k in range(L):
                    w[m, k] += g * U[i, k]
    for m in range(M):
        if not all_finite(w[m]):
            return N
    return -1


@exact_order
def _solve_positive(G: Array, b: Array) -> Array:
    """Solve G a = b, G Hermitian semidefinite, by LDL^H; pivots lost to rounding give zero."""
    n, M = b.shape
    A = np.empty((n, n), G.dtype)
    a = np.empty((n, M), b.dtype)
    for i in range(n):
        copy(G[i], A[i])
        copy(b[i], a[i])
    largest = 0.0
    for i in range(n):
        largest = max(largest, A[i, i].real)
    threshold = largest * n * np.finfo(A[0, 0].real).eps
    for i in range(n):
        pivot = A[i, i].real
        if pivot <= threshold:
            A[i, i] = 0
            continue
        for r in range(i + 1, n):
            f = A[r, i] / pivot
            for c in range(i + 1, n):
                A[r, c] -= f * A[i, c]
            for m in range(M):
                a[r, m] -= f * a[i, m]
    for i in range(n - 1, -1, -1):
        pivot = A[i, i].real
        for m in range(M):
            if pivot == 0:
                a[i, m] = 0
                continue
            total = a[i, m]
            for c in range(i + 1, n):
                total -= A[i, c] * a[c, m]
            a[i, m] = total / pivot
    return a


@fast
def recursive_least_squares(
    x: Array, hop: int, d: Array, step: Array, forgetting: float, ceiling: float,
    w: Array, V: Array, D: Array, error: Array, offset: int, every: int, history: Array,
) -> int:  # fmt: skip
    """w <- w + step P u e*, P(n)^-1 = forgetting P(n-1)^-1 + u u^H, which for step 1 is RLS.

    The inverse correlation is kept as P = V diag(D) V^H, V unit upper triangular.
    Bierman's measurement update (Factorization Methods for Discrete Sequential Estimation, 1977):
    P stays Hermitian and positive by construction, so rounding cannot drive it unstable as it does
    the textbook's P <- (P - k u^H P) / lambda. O(L^2) per sample. ``V`` is held transposed, so
    that inner loops run over neighbours. D above ``ceiling`` (directions not excited for very
    long) is held there, against overflow.
    """
    M, L = w.shape
    f = np.zeros(L, w.dtype)
    k = np.zeros(L, w.dtype)
    for n in range(d.shape[0]):
        u = x[n * hop : n * hop + L]
        if every > 0 and (offset + n) % every == 0:
            for m in range(M):
                copy(w[m], history[(offset + n) // every, m])
        for m in range(M):
            y = w.dtype.type(0)
            for i in range(L):
                y += np.conj(w[m, i]) * u[i]
            e = d[n, m] - y
            if not finite(e):
                return n
            error[n, m] = e
        # f = V^H u
        for j in range(L):
            total = u[j]
            row = V[j]
            for i in range(j):
                total += np.conj(row[i]) * u[i]
            f[j] = total
        alpha = D.dtype.type(forgetting)
        for j in range(L):
            g = D[j] * f[j]
            before = alpha
            alpha = before + (np.conj(f[j]) * g).real
            if alpha > 0:
                D[j] = min(D[j] * before / (alpha * forgetting), D.dtype.type(ceiling))
            p = -np.conj(f[j]) / before
            row = V[j]
            for i in range(j):
                old = row[i]
                row[i] = old + k[i] * p
                k[i] += g * old
            k[j] = g
        for m in range(M):
            scale = w.dtype.type(
                (step[n] if step.size > 1 else step[0]) * np.conj(error[n, m]) / alpha
            )
            for i in range(L):
                w[m, i] += k[i] * scale
    for m in range(M):
        if not all_finite(w[m]):
            return d.shape[0]
    return -1


@fast
def sliding_power(energy: Array, taps: int, power: Array) -> None:
    """power[n] = energy[n] + ... + energy[n + taps - 1], without drift.

    A running sum that adds the newest and subtracts the oldest loses all digits when a loud
    signal falls silent. Here windows are doubled, sums of 1, 2, 4, ... samples, and those in the
    binary digits of ``taps`` put together: only additions, a number of them that grows with
    log2(taps), in an order that does not depend on where a stream is split.
    """
    N = power.size
    size = max(1024, 2 * taps)
    sums = np.empty(size + taps, energy.dtype)
    doubled = np.empty(size + taps, energy.dtype)
    for start in range(0, N, size):
        n = min(size, N - start)
        window = power[start : start + n]
        left = n + taps - 1
        sums[:left] = energy[start : start + left]
        window[:] = 0
        width = 1
        at = 0
        while width <= taps:
            if taps & width:
                part = sums[at : at + n]
                for i in range(n):
                    window[i] += part[i]
                at += width
            left -= width
            later = sums[width : width + max(left, 0)]
            for i in range(later.size):
                doubled[i] = sums[i] + later[i]
            sums, doubled = doubled, sums
            width *= 2


@fast
def energy(x: Array) -> float:
    """Sum of |x|^2 of a flat array."""
    total = 0.0
    for n in range(x.size):
        total += x[n].real * x[n].real + x[n].imag * x[n].imag
    return total


@fast
def block_errors(
    newest: Array, oldest: Array, r: Array, step: Array, error: Array, g: Array
) -> int:  # fmt: skip
    """Turn the errors of frozen weights into LMS's own a priori errors, inside one block.

    e_i = d_i - u_i^T w - sum_{j<i} g_j r_ij with g_j = step_j e_j and r_ij = u_i^T u_j. On entry
    ``error`` holds d_i - u_i^T w and r[l] = u_l^T u_0. Along a diagonal r changes by the sample
    that enters and the one that leaves, O(1) per lag and sample:
    r_i[l] = r_{i-1}[l] + newest_i newest_{i-l} - oldest_i oldest_{i-l}.
    ``newest`` and ``oldest`` are stored reversed so that neighbours in l are neighbours in memory;
    ``g`` likewise: entry B - 1 - j belongs to sample j.
    """
    B = error.size
    for i in range(B):
        e = error[i]
        here = B - 1 - i
        a = newest[here]
        b = oldest[here]
        # lags l = 1 .. i - 1 move on from the sample before; lag i enters with its first value
        new = newest[here + 1 : here + i]
        old = oldest[here + 1 : here + i]
        gains = g[here + 1 : here + i]
        lags = r[1:i]
        for k in range(i - 1):
            lags[k] += a * new[k] - b * old[k]
            e -= gains[k] * lags[k]
        if i > 0:
            e -= g[B - 1] * r[i]
        if not finite(e):
            return i
        error[i] = e
        g[here] = (step[i] if step.size > 1 else step[0]) * e
    return -1


@exact_order
def all_finite(w: Array) -> bool:
    for k in range(w.size):  # noqa: SIM110  a loop compiles, a generator does not
        if not finite(w[k]):
            return False
    return True
