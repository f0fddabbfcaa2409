"""Natural modes as small PNG pictures: one pixel a weight, written without an imaging library."""

from __future__ import annotations

import base64
import math
import struct
import zlib

import numpy as np

from adaptive.checks import Array

__all__ = ["mode_picture"]

# from negative over zero to positive: blue, near white, red; readable with any colour vision
NEGATIVE, ZERO, POSITIVE = (33, 102, 172), (247, 247, 247), (178, 24, 43)
# shades on each side of zero; with zero and the transparent gap they make 16 colours
SHADES = 7


def mode_picture(mode: Array, most: int) -> tuple[str, int]:
    """A mode as the address of a picture, and how many of its channels the picture shows.

    Parameters
    ----------
    mode : (channels, *kernel).
    most : weights to show. The channels that hold most of the mode are shown, in their order.

    Returns
    -------
    uri : "data:image/png;base64,...".
    shown : channels in the picture, at least one.
    """
    mode = np.asarray(mode, float)
    energy = (mode**2).reshape(len(mode), -1).sum(axis=1)
    shown = min(len(mode), max(1, most // max(1, mode[0].size)))
    chosen = np.sort(np.argsort(energy, kind="stable")[::-1][:shown])
    level = np.zeros(mode[chosen].shape)
    peak = np.abs(mode).max()
    if peak > 0:
        level = np.rint(mode[chosen] / peak * SHADES)
    pixels = _montage((level + SHADES + 1).astype(np.uint8))
    return "data:image/png;base64," + base64.b64encode(_png(pixels)).decode("ascii"), shown


def _montage(tiles: Array) -> Array:
    """Tiles (channels, *kernel) in a nearly square sheet, one transparent pixel between them."""
    plane = tiles.shape[-2:] if tiles.ndim > 2 else (1, tiles.shape[-1])
    tiles = tiles.reshape(-1, *plane)
    gap = int(plane != (1, 1))
    height, width = plane[0] + gap, plane[1] + gap
    columns = min(len(tiles), max(1, round(math.sqrt(len(tiles) * height / width))))
    rows = -(-len(tiles) // columns)
    sheet = np.zeros((rows * height, columns * width), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + plane[0], x : x + plane[1]] = tile
    return sheet[: rows * height - gap, : columns * width - gap]


def _png(pixels: Array) -> bytes:
    """A picture of 4 bits a pixel (PNG specification, second edition); colour 0 is transparent."""
    height, width = pixels.shape
    padded = np.pad(pixels, ((0, 0), (0, width % 2)))
    packed = padded[:, ::2] << 4 | padded[:, 1::2]
    lines = b"".join(b"\0" + line.tobytes() for line in packed)
    header = struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", _palette()), (b"tRNS", b"\0")]
    parts += [(b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


def _palette() -> bytes:
    share = np.arange(SHADES, 0, -1)[:, None] / SHADES
    low = np.array(ZERO) + share * (np.array(NEGATIVE) - ZERO)
    high = np.array(ZERO) + share[::-1] * (np.array(POSITIVE) - ZERO)
    colours = np.vstack([[[0, 0, 0]], low, [ZERO], high])
    return np.rint(colours).astype(np.uint8).tobytes()
