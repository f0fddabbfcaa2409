"""Recordings on disk, read and written a part at a time: WAV, FLAC, .npy and CSV."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np
import scipy

from adaptive.checks import Array

READABLE = ".wav, .flac, .npy, .csv"
LARGEST_WAV = 2**32 - 100  # bytes; the format counts them in 32 bits


class Source(Protocol):
    """Samples that are read from where they are."""

    def read(self, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` as stored."""
        ...


@dataclass(frozen=True)
class Recording:
    """A file of samples.

    Attributes
    ----------
    path : of the file.
    samples, channels : how many.
    rate : samples per second; None where the file does not say.
    source : what reads them.
    channel : the only one that is wanted; None for all.
    """

    path: Path
    samples: int
    channels: int
    rate: float | None
    source: Source
    channel: int | None = None

    def read(self, start: int, stop: int) -> Array:
        """(stop - start,) or (stop - start, C) samples, with zeros outside the recording."""
        first, last = min(max(start, 0), self.samples), min(max(stop, 0), self.samples)
        inside = scaled(self.source.read(first, last)).reshape(last - first, self.channels)
        if self.channel is not None:
            inside = inside[:, self.channel : self.channel + 1]
        rows = np.zeros((stop - start, inside.shape[1]), inside.dtype)
        rows[first - start : last - start] = inside
        return rows[:, 0] if rows.shape[1] == 1 else rows


def scaled(stored: Array) -> Array:
    """Integers over their range, exactly, in [-1, 1); 8-bit samples are unsigned."""
    if stored.dtype == np.uint8:
        return (stored.astype(np.float64) - 128) / 128
    if stored.dtype.kind in "iu":
        bits = 8 * stored.dtype.itemsize - (stored.dtype.kind == "i")
        return stored.astype(np.float64) / 2.0**bits
    return stored if stored.dtype.kind == "c" else stored.astype(np.float64)


def opened(path: Path, *, channel: int | None = None) -> Recording:
    """The recording in a file.

    Raises
    ------
    FileNotFoundError, ValueError : no such file; a kind or contents that cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    readers = {".wav": _wav, ".flac": _flac, ".npy": _npy, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} must be one of {READABLE}")
    found = reader(path)
    if found.samples == 0:
        raise ValueError(f"{path} holds no samples")
    if channel is None:
        return found
    if not 0 <= channel < found.channels:
        raise ValueError(f"{path} has {found.channels} channels, from 0; got channel {channel}")
    return Recording(path, found.samples, found.channels, found.rate, found.source, channel)


@dataclass(frozen=True)
class _Raw:
    """Rows of one type, one after another in a file."""

    path: Path
    dtype: np.dtype
    offset: int
    channels: int

    def read(self, start: int, stop: int) -> Array:
        with self.path.open("rb") as file:
            file.seek(self.offset + start * self.channels * self.dtype.itemsize)
            flat = np.fromfile(file, self.dtype, (stop - start) * self.channels)
        return flat.reshape(stop - start, self.channels)


@dataclass(frozen=True)
class _Held:
    """Rows in memory, of a kind of file that cannot be read from the middle."""

    rows: Array

    def read(self, start: int, stop: int) -> Array:
        return self.rows[start:stop]


def _wav(path: Path) -> Recording:
    try:
        with warnings.catch_warnings():
            # chunks of text and pictures do not matter; an early end does
            warnings.simplefilter("ignore", scipy.io.wavfile.WavFileWarning)
            warnings.filterwarnings("error", message="Reached EOF")
            try:
                rate, pcm = scipy.io.wavfile.read(path, mmap=True)
            except ValueError:  # 24-bit samples have no type of numpy's: read at once, as 32-bit
                rate, pcm = scipy.io.wavfile.read(path)
    except (ValueError, EOFError, struct.error, scipy.io.wavfile.WavFileWarning) as error:
        raise ValueError(f"{path} is not a readable WAV file: {error}") from None
    channels = 1 if pcm.ndim == 1 else pcm.shape[1]
    source: Source = _Held(pcm)
    if isinstance(pcm, np.memmap) and pcm.offset is not None:
        source = _Raw(path, pcm.dtype, pcm.offset, channels)
    return Recording(path, len(pcm), channels, float(rate), source)


def _npy(path: Path) -> Recording:
    try:
        rows: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a readable .npy file: {error}") from None
    if rows.ndim not in (1, 2) or rows.dtype.kind not in "iufcb":
        raise ValueError(f"{path} must hold numbers (N,) or (N, C); got {rows.dtype} {rows.shape}")
    channels = 1 if rows.ndim == 1 else rows.shape[1]
    if rows.flags.c_contiguous:
        return Recording(
            path, len(rows), channels, None, _Raw(path, rows.dtype, rows.offset, channels)
        )
    return Recording(path, len(rows), channels, None, _Held(np.array(rows)))


def _csv(path: Path) -> Recording:
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    try:
        [float(x) for x in first.split(",")]
        header = 0
    except ValueError:
        header = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file is told by its length
            rows = np.loadtxt(path, delimiter=",", skiprows=header, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable CSV file of numbers: {error}") from None
    return Recording(path, len(rows), rows.shape[1], None, _Held(rows))


@dataclass(frozen=True)
class _Compressed:
    """FLAC, by soundfile."""

    path: Path

    def read(self, start: int, stop: int) -> Array:
        import soundfile

        rows: Array = soundfile.read(
            self.path, start=start, stop=stop, dtype="float64", always_2d=True
        )[0]
        return rows


def _flac(path: Path) -> Recording:
    try:
        import soundfile
    except ImportError:
        raise ValueError(f"{path} needs soundfile, for FLAC: pip install soundfile") from None
    try:
        info = soundfile.info(path)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a readable FLAC file: {error}") from None
    return Recording(path, info.frames, info.channels, float(info.samplerate), _Compressed(path))


class Writer:
    """Samples written as they come: 32-bit float WAV, .npy or CSV, by the name of the file.

    The file appears under its name once all are written.
    """

    def __init__(self, path: Path, *, samples: int, rate: float | None, dtype: np.dtype) -> None:
        self.path, self.kind = path, path.suffix.lower()
        self.part = path.with_name(f".{path.name}.part")
        self.dtype = np.dtype(np.float32) if self.kind == ".wav" else dtype
        if self.kind not in (".wav", ".npy", ".csv"):
            raise ValueError(f"the output must be a .wav, .npy or .csv file; got {path}")
        size = samples * self.dtype.itemsize
        if self.kind == ".wav" and dtype.kind == "c":
            raise ValueError("the output must be a .npy or .csv file for complex samples")
        if self.kind == ".wav" and (rate is None or rate != round(rate) or size > LARGEST_WAV):
            why = f"{size} bytes do not fit" if rate is not None else "the input has no rate"
            raise ValueError(f"the output must be a .npy file: {why} in a WAV file")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = self.part.open("wb")
        if self.kind == ".wav":
            assert rate is not None
            self.file.write(_wav_header(samples, round(rate)))
        elif self.kind == ".npy":
            described = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (samples,),
            }
            np.lib.format.write_array_header_1_0(self.file, described)

    def __enter__(self) -> Writer:
        return self

    def write(self, x: Array) -> None:
        """The next samples (n,)."""
        if self.kind == ".csv":
            np.savetxt(self.file, x, fmt="%.17g")
        else:
            with np.errstate(over="ignore"):
                self.file.write(x.astype(self.dtype).tobytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.file.close()
        if kind is None:
            self.part.replace(self.path)
        else:
            self.part.unlink()


def _wav_header(samples: int, rate: int) -> bytes:
    """RIFF header of one channel of 32-bit floats."""
    size = 4 * samples
    return (
        struct.pack("<4sI4s", b"RIFF", 50 + size, b"WAVE")
        + struct.pack("<4sIHHIIHHH", b"fmt ", 18, 3, 1, rate, 4 * rate, 4, 32, 0)
        + struct.pack("<4sII", b"fact", 4, samples)
        + struct.pack("<4sI", b"data", size)
    )
