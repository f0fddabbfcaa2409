"""Linear prediction of a pixel from the patch next to it: LMS whose R comes from images."""

from __future__ import annotations

import numpy as np

from studies.training.images import Images

__all__ = ["grey", "prediction_problem"]

Array = np.ndarray


def grey(images: Images) -> Array:
    """(N, H, W) float64 images, the mean of their channels."""
    mean: Array = images.load().images.mean(axis=1).astype(np.float64)
    return mean


def prediction_problem(images: Array, side: int) -> tuple[Array, Array]:
    """Patches and the pixel to the right of each one's middle row.

    Parameters
    ----------
    images : (N, H, W), float64.
    side : of the patch.

    Returns
    -------
    u (N, T, side * side) and d (N, T), for the T positions where both lie inside the image.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side + 1), axis=(1, 2))
    flat = windows.reshape(len(images), -1, side, side + 1)
    u = flat[..., :side].reshape(*flat.shape[:2], side * side)
    return u, flat[:, :, side // 2, side]
