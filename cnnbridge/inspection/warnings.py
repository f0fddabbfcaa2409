"""What an inspection warns of: one sentence for each kind, with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from cnnbridge.inspection.record import LayerInspection, Sharpness
from cnnbridge.learning.sgd import SGD

__all__ = ["warnings_of"]

# parts of the power, of the channels and of the bound from which a warning is worth reading
MUCH_MEAN = 0.5
CLOSE = 0.5
# layers that a sentence names
NAMED = 3


def warnings_of(
    layers: Iterable[LayerInspection], sharpness: Sharpness | None = None, sgd: SGD | None = None
) -> tuple[str, ...]:
    """All sentences, the most urgent first."""
    every = list(layers)
    found = [*_rates(every, sharpness, sgd)]
    for rule in (_silent, _dead, _constant, _mean, _few_patches):
        found += rule(every)
    return tuple(found)


def _rates(
    layers: list[LayerInspection], sharpness: Sharpness | None, sgd: SGD | None
) -> Iterator[str]:
    if sharpness is not None and sgd is not None and sgd.lr > CLOSE * sharpness.bound:
        over = "above" if sgd.lr >= sharpness.bound else "close to"
        yield (
            f"The learning rate {sgd.lr:.3g} is {over} {sharpness.bound:.3g}, from which the "
            f"loss diverges along its sharpest direction: lower the rate, or warm it up."
        )
    close = [
        layer
        for layer in layers
        if layer.curvature and layer.sgd and layer.sgd.lr > CLOSE * layer.curvature.bound
    ]
    close.sort(key=lambda layer: layer.curvature.bound if layer.curvature else 0.0)
    if close:
        first = close[0]
        assert first.curvature is not None
        assert first.sgd is not None
        over = "above" if first.sgd.lr >= first.curvature.bound else "above half of"
        yield (
            f"In {_names(close)} the learning rate {first.sgd.lr:.3g} is {over} the rate at which "
            f"the loss diverges along a mode of the layer's input ({first.curvature.bound:.3g} in "
            f"{first.name!r}): lower it to {CLOSE * first.curvature.bound:.2g}, or normalize in "
            f"front of the layer."
        )


def _silent(layers: list[LayerInspection]) -> Iterator[str]:
    silent = [layer for layer in layers if layer.largest == 0 or not layer.rank]
    if silent:
        yield (
            f"The input of {_names(silent)} is zero everywhere: nothing in front of it is alive; "
            f"look at the activations before it."
        )


def _dead(layers: list[LayerInspection]) -> Iterator[str]:
    some = _ranked(layers, lambda layer: len(layer.dead_channels) / layer.in_channels)
    some = [layer for layer in some if layer.rank]
    if some:
        worst = some[0]
        yield (
            f"In {_names(some)} some input channels are zero in every patch "
            f"({len(worst.dead_channels)} of {worst.in_channels} in {worst.name!r}): their weights "
            f"learn nothing; look for dead activations in front, or remove the channels."
        )


def _constant(layers: list[LayerInspection]) -> Iterator[str]:
    some = _ranked(layers, lambda layer: len(layer.constant_channels) / layer.in_channels)
    if some:
        worst = some[0]
        yield (
            f"In {_names(some)} some input channels hold one constant value "
            f"({len(worst.constant_channels)} of {worst.in_channels} in {worst.name!r}): they act "
            f"as a second bias; remove them, or look at what feeds them."
        )


def _mean(layers: list[LayerInspection]) -> Iterator[str]:
    some = _ranked(layers, lambda layer: max(0.0, layer.mean_share - MUCH_MEAN))
    if some:
        worst = some[0]
        yield (
            f"In {_names(some)} the mean of the input holds more than half of its power "
            f"({worst.mean_share:.0%} in {worst.name!r}), which makes the largest eigenvalue and "
            f"limits the learning rate: subtract the mean of the input, or normalize in front of "
            f"the layer."
        )


def _few_patches(layers: list[LayerInspection]) -> Iterator[str]:
    few = _ranked(layers, lambda layer: max(0, layer.taps - layer.patches))
    if few:
        worst = few[0]
        yield (
            f"In {_names(few)} R was taken from fewer patches than there are taps "
            f"({worst.patches:,} patches for {worst.taps:,} taps in {worst.name!r}), so that the "
            f"weakest modes are those of the sample: "
            + ("give more batches." if worst.exact else "raise samples=, if these matter.")
        )


def _ranked(
    layers: list[LayerInspection], size: Callable[[LayerInspection], float]
) -> list[LayerInspection]:
    """The layers in which this is above zero, the largest first."""
    return sorted((layer for layer in layers if size(layer) > 0), key=size, reverse=True)


def _names(layers: list[LayerInspection]) -> str:
    named = ", ".join(repr(layer.name) for layer in layers[:NAMED])
    more = len(layers) - NAMED
    return f"{named} and {more} more layers" if more > 0 else named
