"""Slow, plain-Python patches of a conv layer, from its definition. They import nothing of ours."""

import numpy as np


def pixel(image, channel, row, column, mode):
    """The padded image at any coordinate."""
    height, width = image.shape[1:]
    place = []
    for index, size in ((row, height), (column, width)):
        if not 0 <= index < size:
            if mode == "zeros":
                return 0.0
            if mode == "replicate":
                index = min(max(index, 0), size - 1)
            elif mode == "circular":
                index %= size
            elif mode == "reflect":
                index = -index if index < 0 else 2 * (size - 1) - index
        place.append(index)
    return float(image[channel, place[0], place[1]])


def patches(x, kernel, stride, dilation, padding, mode, groups, bias):
    """(N, groups, L, positions); padding is ((top, bottom), (left, right))."""
    _, C, H, W = x.shape
    (top, bottom), (left, right) = padding
    rows = (H + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    columns = (W + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    every = []
    for image in x:
        blocks = []
        for g in range(groups):
            positions = []
            for r in range(rows):
                for c in range(columns):
                    patch = [
                        pixel(
                            image,
                            channel,
                            r * stride[0] - top + i * dilation[0],
                            c * stride[1] - left + j * dilation[1],
                            mode,
                        )
                        for channel in range(g * C // groups, (g + 1) * C // groups)
                        for i in range(kernel[0])
                        for j in range(kernel[1])
                    ]
                    positions.append(patch + [1.0] * bias)
            blocks.append(np.array(positions).T)
        every.append(blocks)
    return np.array(every)


def same(kernel, dilation):
    """Padding "same": the odd row or column goes to the far end."""
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return tuple((t // 2, t - t // 2) for t in total)


def autocorrelation(u):
    """(groups, L, L): mean over images and positions of u u'."""
    N, groups, L, positions = u.shape
    R = np.zeros((groups, L, L))
    for g in range(groups):
        for image in range(N):
            for p in range(positions):
                for a in range(L):
                    for b in range(L):
                        R[g, a, b] += u[image, g, a, p] * u[image, g, b, p]
    return R / (N * positions)


def train(w, u, d, lr, momentum, weight_decay, steps):
    """Full-batch gradient descent on the mean over everything of (d - w u)^2, one output at a time.

    w: (M, L), u: (groups, L, samples), d: (M, samples). Returns the weights of every step.
    """
    M = len(w)
    groups, _, samples = u.shape
    w = np.array(w, dtype=float)
    velocity = np.zeros_like(w)
    path = [w.copy()]
    for _ in range(steps):
        for m in range(M):
            block = u[m * groups // M]
            error = d[m] - w[m] @ block
            gradient = -2 * (block @ error) / (M * samples) + weight_decay * w[m]
            velocity[m] = momentum * velocity[m] + gradient
            w[m] = w[m] - lr * velocity[m]
        path.append(w.copy())
    return np.array(path)
