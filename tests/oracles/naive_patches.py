"""Slow, plain-Python patches of a conv layer, from its definition. They import nothing of ours."""

import itertools

import numpy as np


def pixel(image, channel, place, mode):
    """The padded image at any coordinates."""
    inside = []
    for index, size in zip(place, image.shape[1:], strict=True):
        if not 0 <= index < size:
            if mode == "zeros":
                return 0.0
            if mode == "replicate":
                index = min(max(index, 0), size - 1)
            elif mode == "circular":
                index %= size
            elif mode == "reflect":
                index = -index if index < 0 else 2 * (size - 1) - index
        inside.append(index)
    return float(image[(channel, *inside)])


def collect(x, outputs, kernel, groups, bias, value):
    """(N, groups, L, positions) from value(image, channel, position, tap)."""
    C = x.shape[1]
    every = []
    for image in x:
        blocks = []
        for g in range(groups):
            positions = []
            for position in itertools.product(*(range(n) for n in outputs)):
                patch = [
                    value(image, channel, position, tap)
                    for channel in range(g * C // groups, (g + 1) * C // groups)
                    for tap in itertools.product(*(range(k) for k in kernel))
                ]
                positions.append(patch + [1.0] * bias)
            blocks.append(np.array(positions).T)
        every.append(blocks)
    return np.array(every)


def patches(x, kernel, stride, dilation, padding, mode, groups, bias):
    """(N, groups, L, positions) for x (N, C, *size); padding is (near, far) for each axis."""
    outputs = [
        (n + near + far - d * (k - 1) - 1) // s + 1
        for n, (near, far), k, s, d in zip(
            x.shape[2:], padding, kernel, stride, dilation, strict=True
        )
    ]

    def value(image, channel, position, tap):
        place = [
            r * s - near + i * d
            for r, i, s, d, (near, _) in zip(position, tap, stride, dilation, padding, strict=True)
        ]
        return pixel(image, channel, place, mode)

    return collect(x, outputs, kernel, groups, bias, value)


def transposed_patches(x, kernel, stride, dilation, padding, output_padding, groups, bias):
    """The same of a transposed layer, from its definition: pixel i of the input adds to place
    i * stride - padding + tap * dilation of the output. Taps in the turned order, last first."""
    settings = list(
        zip(x.shape[2:], kernel, stride, dilation, padding, output_padding, strict=True)
    )
    outputs = [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, d, p, o in settings]

    def value(image, channel, position, tap):
        place = []
        for r, i, (n, k, s, d, p, _) in zip(position, tap, settings, strict=True):
            source = r + p - (k - 1 - i) * d
            if source % s or not 0 <= source // s < n:
                return 0.0
            place.append(source // s)
        return float(image[(channel, *place)])

    return collect(x, outputs, kernel, groups, bias, value)


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
