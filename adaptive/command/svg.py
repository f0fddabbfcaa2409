"""Small figures as SVG, without a drawing package: curves, and pictures of spectra."""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from adaptive.checks import Array

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 14, 42


@dataclass(frozen=True)
class Line:
    """A curve with its name in the legend; ``dashed`` for what was predicted."""

    name: str
    x: Array
    y: Array
    css: str
    dashed: bool = False


def curves(lines: list[Line], *, x_name: str, y_name: str) -> str:
    """A figure of curves; values that are not finite leave gaps."""
    x_low, x_high = _range([line.x for line in lines], pad=0.0)
    y_low, y_high = _range([line.y for line in lines], pad=0.06)
    parts = [_frame(x_name, y_name, (x_low, x_high), (y_low, y_high))]
    for k, line in enumerate(lines):
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        points = _path(_across(line.x, x_low, x_high), _up(line.y, y_low, y_high))
        parts.append(f'<path class="{line.css}" fill="none" stroke-width="2"{dash} d="{points}"/>')
        if len(lines) == 1:
            break  # the axis names it
        at = LEFT + 12, HEIGHT - BOTTOM - 12 - 22 * (len(lines) - 1 - k)
        parts.append(
            f'<line class="{line.css}" stroke-width="2"{dash} x1="{at[0]}" x2="{at[0] + 26}" '
            f'y1="{at[1] - 4}" y2="{at[1] - 4}"/><text x="{at[0] + 32}" y="{at[1]}">'
            f"{html.escape(line.name)}</text>"
        )
    return _svg(parts)


def spectrogram(
    power: Array, *, seconds: float, top: float, limits: tuple[float, float], known: bool
) -> str:
    """A picture of power (bins, parts) in dB between limits; dark is weak.

    ``known`` says whether times are seconds and ``top`` is in Hz, rather than per sample.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        level = (10 * np.log10(power) - limits[0]) / (limits[1] - limits[0])
    level = np.where(np.isnan(level), 0.0, np.clip(level, 0.0, 1.0))
    image = base64.b64encode(_png(_colours(level[::-1]))).decode()
    unit, above = ("kHz", top / 1000) if known else ("cycles per sample", top)
    clock = "seconds" if known else "samples"
    parts = [
        f'<image x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{image}"/>',
        _frame(f"time [{clock}]", f"frequency [{unit}]", (0.0, seconds), (0.0, above)),
    ]
    return _svg(parts)


def _svg(parts: list[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _range(values: list[Array], *, pad: float) -> tuple[float, float]:
    finite = np.concatenate([np.ravel(v)[np.isfinite(np.ravel(v))] for v in values])
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    room = pad * (high - low) or (0.5 if low == high else 0.0)
    return low - room, high + room


def _across(x: Array, low: float, high: float) -> Array:
    place: Array = LEFT + (np.asarray(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
    return place


def _up(y: Array, low: float, high: float) -> Array:
    place: Array = HEIGHT - BOTTOM - (np.asarray(y) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
    return place


def _path(x: Array, y: Array) -> str:
    words, pen = [], False
    for across, up in zip(x, y, strict=True):
        if np.isfinite(up):
            words.append(f"{'L' if pen else 'M'}{across:.1f} {up:.1f}")
        pen = bool(np.isfinite(up))
    return "".join(words)


def _frame(x_name: str, y_name: str, across: tuple[float, float], up: tuple[float, float]) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<rect class="frame" fill="none" x="{LEFT}" y="{TOP}" width="{right - LEFT}" '
        f'height="{bottom - TOP}"/>'
    ]
    for value in _ticks(*across):
        x = float(_across(np.array(value), *across))
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" '
                     f'y2="{bottom + 5}"/><text text-anchor="middle" x="{x:.1f}" '
                     f'y="{bottom + 18}">{value:g}</text>')  # fmt: skip
    for value in _ticks(*up):
        y = float(_up(np.array(value), *up))
        parts.append(f'<line class="tick" x1="{LEFT - 5}" x2="{LEFT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text text-anchor="end" x="{LEFT - 8}" y="{y + 4:.1f}">{value:g}</text>'
                     )  # fmt: skip
    parts.append(f'<text text-anchor="middle" x="{(LEFT + right) / 2}" y="{HEIGHT - 6}">'
                 f"{html.escape(x_name)}</text>")  # fmt: skip
    middle = (TOP + bottom) / 2
    parts.append(f'<text text-anchor="middle" transform="translate(14 {middle}) rotate(-90)">'
                 f"{html.escape(y_name)}</text>")  # fmt: skip
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about six."""
    raw = (high - low) / 6
    if not raw > 0:
        return [low]
    unit = 10.0 ** math.floor(math.log10(raw))
    step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


# viridis at nine levels
COLOURS = np.array(
    [(68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137),
     (53, 183, 121), (144, 215, 67), (253, 231, 37)], float)  # fmt: skip


def _colours(level: Array) -> Array:
    """(H, W, 3) bytes for levels between 0 and 1."""
    at = np.arange(len(COLOURS)) / (len(COLOURS) - 1)
    channels = [np.interp(level, at, COLOURS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _png(pixels: Array) -> bytes:
    """(H, W, 3) bytes as PNG."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")
