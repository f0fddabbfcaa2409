"""LMS over a delay line, four samples a pass: the same recursion without its chain of waits.

One sample at a time, each dot product waits for the update before it. Here one pass over the
weights applies the last four updates and takes the next four dot products, all with the weights
w(n) of its first sample. The three later errors then lack what the earlier samples of the group
changed, which the products of neighbouring regressors supply. For i > 0 and without leakage

    e(n + i) = d(n + i) - w(n)^H u(n + i) - sum_{j < i} g*(n + j) z(n + j)^H u(n + i),

with g(n) z(n) the update of sample n. Along a delay line those products are sliding sums, made by
additions alone, so that no fall in level leaves a loud sample's rounding behind.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from adaptive._kernels import copy, fast, finite, least_power, sign, stochastic_gradient
from adaptive.checks import Array
from adaptive.regressors import Regressors

GROUP = 4  # samples a pass
SHORTEST = 4  # taps of a delay line from which the sums below are defined
# From these on this pays: one sample at a time takes 1.2 times as long at 128 taps and 1.7 times at
# 1,024; with fewer taps the products of neighbours cost what they save. Fewer samples are not worth
# the time that it takes to compile.
LEAST_TAPS, LEAST_SAMPLES = 128, 2048
PAIRS = ((1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2))  # columns of the products of a group


def applies(lines: Regressors) -> bool:
    """Return whether to run here: a long delay line that moves on by few of its taps."""
    long = lines.taps >= max(LEAST_TAPS, SHORTEST * lines.hop)
    return long and lines.samples >= LEAST_SAMPLES


class Directions(NamedTuple):
    """The direction of every update, as far as outputs share it. Made by :func:`directions`."""

    lines: Regressors
    z: Array | None  # laid out as the regressors; None where they are the same, of one channel
    products: Array  # (groups, 6) of neighbours, in the order of PAIRS


def directions(lines: Regressors, z: Array) -> Directions:
    """Take the products of neighbouring directions and regressors, once for all outputs."""
    products = np.empty((lines.samples // GROUP, len(PAIRS)), lines.buffer.dtype)
    length = lines.taps // lines.hop
    work = np.empty(7 * max(256, length // 2) + 4 * length, lines.buffer.dtype)
    neighbour_products(z, lines.buffer, lines.hop, length, work, products)
    same = z is lines.buffer and lines.hop == 1
    return Directions(lines, None if same else z, products)


def run(
    directions: Directions, d: Array, step: Array, power: Array, eps: float, keep: Array | None,
    signed: bool | None, w: Array, error: Array, m: int, record: tuple[int, int, Array],
) -> int:  # fmt: skip
    """Run one output, with arguments and result as those of ``stochastic_gradient``."""
    lines, z, products = directions
    g, y, r = np.zeros(GROUP, w.dtype), np.zeros(GROUP, w.dtype), np.zeros(GROUP, power.dtype)
    stop: int = stochastic_gradient_by_fours(
        lines.buffer, z, lines.hop, d, step, power, eps, keep, signed, products, g, y, r,
        w, error, m, *record,
    )  # fmt: skip
    return stop


@fast
def neighbour_products(z: Array, x: Array, hop: int, taps: int, work: Array, out: Array) -> None:
    """out[j, c] = z(4 j + b)^H u(4 j + a) for the pairs (a, b) of ``PAIRS``.

    With p(t) = z(t)* x(t + lag) each is a sum of p over a window of ``taps`` samples. All windows
    of a group share the samples 4 to taps - 1; their sums of four are put together by doubling, as
    in ``sliding_power``, and the rest is added one by one. Nothing is subtracted.
    """
    groups = out.shape[0]
    fours = (taps - 4) // 4
    rest = (taps - 4) % 4
    most = (work.size - 4 * taps) // 7  # groups a round: the arrays of a round stay in the cache
    p = work[: 4 * most + taps]
    q = work[p.size : p.size + most + taps]
    doubled = work[p.size + q.size : p.size + 2 * q.size]
    shared = work[p.size + 2 * q.size :]
    for start in range(0, groups, most):
        n = min(most, groups - start)
        rows = out[start : start + n]
        first = 4 * start * hop
        for lag in range(1, out.shape[1] - 2):  # 3, unknown to a compiler that would unroll it
            count = 4 * n + taps - 1 - lag
            if hop == 1:
                a = z[first : first + count]
                b = x[first + lag : first + lag + count]
                for t in range(count):
                    p[t] = np.conj(a[t]) * b[t]
            else:
                for t in range(count):
                    here = first + t * hop
                    total = x.dtype.type(0)
                    for c in range(hop):
                        total += np.conj(z[here + c]) * x[here + lag * hop + c]
                    p[t] = total
            left = n + fours - 1
            for j in range(left):
                q[j] = (p[4 * j + 4] + p[4 * j + 5]) + (p[4 * j + 6] + p[4 * j + 7])
            for j in range(n):
                shared[j] = 0
            width = 1
            done = 0
            while width <= fours:
                if fours & width:
                    part = q[done : done + n]
                    for j in range(n):
                        shared[j] += part[j]
                    done += width
                left -= width
                later = q[width : width + max(left, 0)]
                for j in range(later.size):
                    doubled[j] = q[j] + later[j]
                q, doubled = doubled, q
                width *= 2
            for i in range(rest):
                single = p[4 * fours + 4 + i :]
                for j in range(n):
                    shared[j] += single[4 * j]
            new = p[taps:]
            if lag == 1:
                for j in range(n):
                    total = shared[j] + (p[4 * j + 2] + p[4 * j + 3])
                    rows[j, 0] = total + (p[4 * j] + p[4 * j + 1])
                    total += new[4 * j]
                    rows[j, 3] = total + p[4 * j + 1]
                    rows[j, 5] = total + new[4 * j + 1]
            elif lag == 2:
                for j in range(n):
                    total = shared[j] + ((p[4 * j + 1] + p[4 * j + 2]) + p[4 * j + 3])
                    rows[j, 1] = total + p[4 * j]
                    rows[j, 4] = total + new[4 * j]
            else:
                for j in range(n):
                    total = (p[4 * j] + p[4 * j + 1]) + (p[4 * j + 2] + p[4 * j + 3])
                    rows[j, 2] = shared[j] + total


@fast
def stochastic_gradient_by_fours(
    x: Array, z: Array | None, hop: int, d: Array, step: Array, power: Array, eps: float,
    keep: Array | None, signed: bool | None, products: Array, g: Array, y: Array, r: Array,
    w: Array, error: Array, m: int, offset: int, every: int, history: Array,
) -> int:  # fmt: skip
    """``stochastic_gradient``, given the products of neighbours for every whole group of samples.

    ``z`` is None where the regressors of one channel are the direction; ``keep`` is None without
    leakage. A group that overflows is run again, sample by sample, as are the last samples.
    """
    N = d.size
    direction = x if z is None else z
    for i in range(4):
        g[i] = 0
    kept = 1.0
    least = least_power(w)
    most = np.finfo(w[0].real).tiny ** -0.75  # a larger step magnifies what products underflow to
    previous = 0
    for row in range(N // 4):
        n = 4 * row
        now = n * hop
        if keep is None:
            pass_of_four(w, z, x, previous, now, hop, g, None, y)
        else:
            pass_of_four(w, z, x, previous, now, hop, g, kept, y)
        previous = now
        if row == 0 or step.size > 1 or power.size > 1:
            for i in range(4):
                scale = eps + (power[n + i] if power.size > 1 else power[0])
                mu = step[n + i] if step.size > 1 else step[0]
                r[i] = mu / scale if scale >= least else 0 * scale
        c = products[row]
        e0 = d[n] - y[0]
        if keep is None:
            b1, b2, b3 = d[n + 1] - y[1], d[n + 2] - y[2], d[n + 3] - y[3]
            c10, c20, c30, c21, c31, c32 = c[0], c[1], c[2], c[3], c[4], c[5]
        else:
            k0, k1 = keep[n if keep.size > 1 else 0], keep[n + 1 if keep.size > 1 else 0]
            k2, k3 = keep[n + 2 if keep.size > 1 else 0], keep[n + 3 if keep.size > 1 else 0]
            b1 = d[n + 1] - k0 * y[1]
            b2 = d[n + 2] - k0 * k1 * y[2]
            b3 = d[n + 3] - k0 * k1 * k2 * y[3]
            c10, c20, c30 = c[0], k1 * c[1], k1 * k2 * c[2]
            c21, c31, c32 = c[3], k2 * c[4], c[5]
        f0 = e0 if signed is None else sign(e0)
        e1 = b1 - (r[0] * c10) * f0
        b2 -= (r[0] * c20) * f0
        b3 -= (r[0] * c30) * f0
        f1 = e1 if signed is None else sign(e1)
        e2 = b2 - (r[1] * c21) * f1
        b3 -= (r[1] * c31) * f1
        f2 = e2 if signed is None else sign(e2)
        e3 = b3 - (r[2] * c32) * f2
        f3 = e3 if signed is None else sign(e3)
        largest = max(max(r[0], r[1]), max(r[2], r[3]))
        if not (finite(e0 + e1 + e2 + e3) and largest < most):
            stop = stochastic_gradient(
                n, n + 4, x, direction, hop, d, step, power, eps, keep, signed, w, error, m,
                offset, every, history,
            )  # fmt: skip
            if stop >= 0:
                return stop
            for i in range(4):
                g[i] = 0
            kept = 1.0
            continue
        error[n] = e0
        error[n + 1] = e1
        error[n + 2] = e2
        error[n + 3] = e3
        g[0] = w.dtype.type(r[0] * np.conj(f0))
        g[1] = w.dtype.type(r[1] * np.conj(f1))
        g[2] = w.dtype.type(r[2] * np.conj(f2))
        g[3] = w.dtype.type(r[3] * np.conj(f3))
        if every > 0:
            record_group(w, direction, now, hop, g, keep, n, offset + n, every, m, history)
        if keep is not None:
            g[0] *= k1 * k2 * k3
            g[1] *= k2 * k3
            g[2] *= k3
            kept = k0 * k1 * k2 * k3
    g0, g1, g2, g3 = g[0], g[1], g[2], g[3]
    part = direction[previous : previous + w.size + 3 * hop]
    for k in range(w.size if N >= GROUP else 0):
        update = g0 * part[k] + g1 * part[k + hop]
        update += g2 * part[k + 2 * hop] + g3 * part[k + 3 * hop]
        w[k] = w.dtype.type(kept * w[k] + update)
    return stochastic_gradient(
        N // 4 * 4, N, x, direction, hop, d, step, power, eps, keep, signed, w, error, m,
        offset, every, history,
    )  # fmt: skip


@fast
def record_group(
    w: Array, z: Array, now: int, hop: int, g: Array, keep: Array | None, n: int, at: int,
    every: int, m: int, history: Array,
) -> None:  # fmt: skip
    """Write the weights between the samples of a group, where they are wanted.

    ``w`` are the weights before sample ``n``, the ``at``-th of the record, and g[i] z(n + i) the
    group's updates.
    """
    for i in range(4):
        if (at + i) % every == 0:
            row = history[(at + i) // every, m]
            copy(w, row)
            for j in range(i):
                kept = 1.0 if keep is None else keep[n + j if keep.size > 1 else 0]
                update = z[now + j * hop : now + j * hop + w.size]
                for k in range(w.size):
                    row[k] = w.dtype.type(kept * row[k] + g[j] * update[k])


# --- the pass ---------------------------------------------------------------------------------


def pass_of_four(
    w: Array, z: Array | None, x: Array, previous: int, now: int, hop: int, g: Array,
    kept: float | None, y: Array,
) -> None:  # fmt: skip
    """Update w with four directions, then take four outputs with it.

    w <- kept w + sum_i g[i] z[previous + i hop :], then y[i] = w^H x[now + i hop :], where z is x
    if None, and then ``previous`` is ``now`` or one group before it unless g is zero.
    """
    L = w.size
    w *= 1.0 if kept is None else kept
    for i in range(4):
        at = previous + i * hop
        w += g[i] * (x if z is None else z)[at : at + L]
    for i in range(4):
        y[i] = np.vdot(w, x[now + i * hop : now + i * hop + L])


VECTOR = 32  # bytes: wide enough for AVX2, and as fast as wider ones where four shift by one
FUSED = {"flags": ["contract", "reassoc", "nsz"]}
LONG, INT = ir.IntType(64), ir.IntType(32)


class Pass:
    """Writes ``pass_of_four`` as vector instructions into a function that is being compiled.

    The compiler's own vectoriser leaves short filters to a scalar loop, and reloads every shifted
    regressor. Here a regressor loaded for this group's outputs stays in a register until it serves
    the update of the step that follows.
    """

    def __init__(self, context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> None:
        from numba.np.arrayobj import make_array  # not at import: it takes longer than the rest

        kinds = dict(zip("wzx", signature.args[:3], strict=True)) | {
            "g": signature.args[6], "y": signature.args[8]
        }  # fmt: skip
        values = dict(zip("wzx", args[:3], strict=True)) | {"g": args[6], "y": args[8]}
        arrays = {
            name: make_array(kind)(context, builder, values[name])
            for name, kind in kinds.items()
            if not isinstance(kind, types.NoneType)
        }
        number = kinds["w"].dtype
        self.complex = isinstance(number, types.Complex)
        real = number.underlying_float if self.complex else number
        self.parts = 2 if self.complex else 1  # reals of a number
        self.real = context.get_value_type(real)
        self.size = real.bitwidth // 8
        self.lanes = VECTOR // self.size
        self.vector = ir.VectorType(self.real, self.lanes)
        self.builder = builder
        self.taps = builder.mul(
            builder.extract_value(arrays["w"].shape, 0), ir.Constant(LONG, self.parts)
        )
        self.data = {
            name: builder.bitcast(array.data, self.real.as_pointer())
            for name, array in arrays.items()
        }
        self.shared = "z" not in arrays
        previous, now, hop = args[3:6]
        self.x = [self.regressor("x", now, hop, i) for i in range(GROUP)]
        self.z = [
            self.regressor("x" if self.shared else "z", previous, hop, i) for i in range(GROUP)
        ]
        leaky = not isinstance(signature.args[7], types.NoneType)
        self.kept = context.cast(builder, args[7], signature.args[7], real) if leaky else None
        self.gains = [
            [
                self.load(self.data["g"], ir.Constant(LONG, i * self.parts + part))
                for i in range(GROUP)
            ]
            for part in range(self.parts)
        ]

    # pieces

    def regressor(self, name: str, start: Any, hop: Any, i: int) -> Any:
        """Return where regressor i of a group begins."""
        at = self.builder.add(start, self.builder.mul(hop, ir.Constant(LONG, i)))
        return self.builder.gep(
            self.data[name], [self.builder.mul(at, ir.Constant(LONG, self.parts))]
        )

    def load(self, pointer: Any, at: Any, kind: Any = None) -> Any:
        """Load a number, or a vector of the given kind."""
        place = self.builder.gep(pointer, [at])
        if kind is not None:
            place = self.builder.bitcast(place, kind.as_pointer())
        return self.builder.load(place, align=self.size)

    def store(self, value: Any, pointer: Any, at: Any) -> None:
        """Store a number or a vector."""
        place = self.builder.bitcast(self.builder.gep(pointer, [at]), value.type.as_pointer())
        self.builder.store(value, place, align=self.size)

    def shuffle(self, a: Any, b: Any, places: list[int]) -> Any:
        """Pick lanes of two vectors."""
        mask = ir.Constant(ir.VectorType(INT, len(places)), places)
        return self.builder.shuffle_vector(a, b if b is not None else a, mask)

    def splat(self, value: Any) -> Any:
        """Put a number into every lane."""
        one = self.builder.insert_element(
            ir.Constant(self.vector, ir.Undefined), value, ir.Constant(INT, 0)
        )
        return self.shuffle(one, None, [0] * self.lanes)

    def plus(self, total: Any, a: Any, b: Any) -> Any:
        """Return total + a b."""
        return self.builder.fadd(total, self.builder.fmul(a, b, **FUSED), **FUSED)

    def total(self, vector: Any) -> Any:
        """Sum the lanes."""
        while vector.type.count > 1:
            half = vector.type.count // 2
            low = self.shuffle(vector, None, list(range(half)))
            high = self.shuffle(vector, None, list(range(half, 2 * half)))
            vector = self.builder.fadd(low, high, **FUSED)
        return self.builder.extract_element(vector, ir.Constant(INT, 0))

    def swap(self, vector: Any) -> Any:
        """Exchange real and imaginary parts."""
        return self.shuffle(vector, None, [i ^ 1 for i in range(self.lanes)])

    # the pass

    def loop(self, first: Any, last: Any, step: int, start: list[Any], body: Any) -> list[Any]:
        """Run body(k, values) -> values from first to last, and return the values after it."""
        builder = self.builder
        entry = builder.basic_block
        head, inside, after = (builder.append_basic_block(n) for n in ("head", "inside", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        k = builder.phi(LONG)
        values = [builder.phi(v.type) for v in start]
        goes_on = builder.icmp_signed("<", k, last)
        builder.cbranch(goes_on, inside, after)
        builder.position_at_end(inside)
        new = body(k, values)
        following = builder.add(k, ir.Constant(LONG, step))
        back = builder.basic_block
        builder.branch(head)
        for phi, v0, v1 in zip([k, *values], [first, *start], [following, *new], strict=True):
            phi.add_incoming(v0, entry)
            phi.add_incoming(v1, back)
        builder.position_at_end(after)
        return values

    def write_real(self) -> None:
        """Write the pass for real numbers."""
        builder, zero = self.builder, ir.Constant(LONG, 0)
        whole = builder.and_(self.taps, ir.Constant(LONG, ~(self.lanes - 1)))
        gains = [self.splat(g) for g in self.gains[0]]
        kept = None if self.kept is None else self.splat(self.kept)

        def step(k: Any, values: list[Any]) -> list[Any]:
            sums, before = values[:GROUP], values[GROUP:]
            xs = [self.load(p, k, self.vector) for p in self.x]
            if not self.shared:
                zs = [self.load(p, k, self.vector) for p in self.z]
            elif self.lanes == GROUP:
                zs = before  # one group back is one step back
            else:
                middle = [self.lanes - GROUP + i for i in range(self.lanes)]
                zs = [self.shuffle(b, x, middle) for b, x in zip(before, xs, strict=True)]
            v = self.load(self.data["w"], k, self.vector)
            v = v if kept is None else builder.fmul(v, kept, **FUSED)
            for g, z in zip(gains, zs, strict=True):
                v = self.plus(v, g, z)
            self.store(v, self.data["w"], k)
            sums = [self.plus(s, v, x) for s, x in zip(sums, xs, strict=True)]
            return sums + (xs if self.shared else [])

        start = [ir.Constant(self.vector, [0.0] * self.lanes)] * GROUP
        if self.shared:
            four = ir.VectorType(self.real, GROUP)
            places = [i % GROUP for i in range(self.lanes)]  # into the upper end
            start = start + [self.shuffle(self.load(p, zero, four), None, places) for p in self.z]
        sums = [self.total(s) for s in self.loop(zero, whole, self.lanes, start, step)[:GROUP]]

        def single(k: Any, values: list[Any]) -> list[Any]:
            v = self.load(self.data["w"], k)
            v = v if self.kept is None else builder.fmul(v, self.kept, **FUSED)
            for g, z in zip(self.gains[0], self.z, strict=True):
                v = self.plus(v, g, self.load(z, k))
            self.store(v, self.data["w"], k)
            return [self.plus(s, v, self.load(x, k)) for s, x in zip(values, self.x, strict=True)]

        for i, y in enumerate(self.loop(whole, self.taps, 1, sums, single)):
            self.store(y, self.data["y"], ir.Constant(LONG, i))

    def write_complex(self) -> None:
        """Write the pass for complex numbers, whose parts are neighbours in memory.

        With s the vector whose parts are exchanged: g z = Re g z + Im g (-, +) s(z), so the four
        terms of the imaginary parts share one exchange, as do those of w in the outputs,
        Re w^H x = sum w x and Im w^H x = sum (-, +) s(w) x over all parts.
        """
        builder, zero = self.builder, ir.Constant(LONG, 0)
        whole = builder.and_(self.taps, ir.Constant(LONG, ~(self.lanes - 1)))
        gains = [[self.splat(g) for g in part] for part in self.gains]
        kept = None if self.kept is None else self.splat(self.kept)
        signs = ir.Constant(self.vector, [-1.0, 1.0] * (self.lanes // 2))

        def step(k: Any, sums: list[Any]) -> list[Any]:
            xs = [self.load(p, k, self.vector) for p in self.x]
            zs = [self.load(p, k, self.vector) for p in self.z]
            v = self.load(self.data["w"], k, self.vector)
            v = v if kept is None else builder.fmul(v, kept, **FUSED)
            turned = ir.Constant(self.vector, [0.0] * self.lanes)
            for re, im, z in zip(gains[0], gains[1], zs, strict=True):
                v = self.plus(v, re, z)
                turned = self.plus(turned, im, z)
            v = self.plus(v, signs, self.swap(turned))
            self.store(v, self.data["w"], k)
            s = self.swap(v)
            new = [self.plus(total, v, x) for total, x in zip(sums[:GROUP], xs, strict=True)]
            return new + [self.plus(t, s, x) for t, x in zip(sums[GROUP:], xs, strict=True)]

        start = [ir.Constant(self.vector, [0.0] * self.lanes)] * (2 * GROUP)
        sums = self.loop(zero, whole, self.lanes, start, step)
        totals = [self.total(s) for s in sums[:GROUP]]
        totals += [self.total(builder.fmul(s, signs, **FUSED)) for s in sums[GROUP:]]

        def single(k: Any, sums: list[Any]) -> list[Any]:
            after = builder.add(k, ir.Constant(LONG, 1))
            re, im = self.load(self.data["w"], k), self.load(self.data["w"], after)
            if self.kept is not None:
                re, im = (builder.fmul(v, self.kept, **FUSED) for v in (re, im))
            for gr, gi, z in zip(self.gains[0], self.gains[1], self.z, strict=True):
                a, b = self.load(z, k), self.load(z, after)
                re = builder.fsub(self.plus(re, gr, a), builder.fmul(gi, b, **FUSED), **FUSED)
                im = self.plus(self.plus(im, gr, b), gi, a)
            self.store(re, self.data["w"], k)
            self.store(im, self.data["w"], after)
            real, imaginary = [], []
            for p, t, x in zip(sums[:GROUP], sums[GROUP:], self.x, strict=True):
                a, b = self.load(x, k), self.load(x, after)
                real.append(self.plus(self.plus(p, re, a), im, b))
                imaginary.append(
                    builder.fsub(self.plus(t, re, b), builder.fmul(im, a, **FUSED), **FUSED)
                )
            return real + imaginary

        totals = self.loop(whole, self.taps, 2, totals, single)
        for i in range(GROUP):
            self.store(totals[i], self.data["y"], ir.Constant(LONG, 2 * i))
            self.store(totals[GROUP + i], self.data["y"], ir.Constant(LONG, 2 * i + 1))


@intrinsic
def _pass_of_four(typing, w, z, x, previous, now, hop, g, kept, y):  # type: ignore[no-untyped-def]
    signature = types.void(w, z, x, previous, now, hop, g, kept, y)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        code = Pass(context, builder, signature, args)
        code.write_complex() if code.complex else code.write_real()
        return context.get_dummy_value()

    return signature, generate


@overload(pass_of_four)
def _compiled_pass(w, z, x, previous, now, hop, g, kept, y):  # type: ignore[no-untyped-def]
    def call(w, z, x, previous, now, hop, g, kept, y):  # type: ignore[no-untyped-def]
        _pass_of_four(w, z, x, previous, now, hop, g, kept, y)  # type: ignore[call-arg]

    return call
