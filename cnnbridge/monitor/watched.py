"""One layer that a monitor watches, read as its forward passes happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.isolation import Watch
from cnnbridge.statistics.reader import LayerReader


class WatchedLayer:
    """A layer, and readers of the input that it met since the last reading.

    Attributes
    ----------
    name, layer : of the model.
    probing : whether a pass counts although it has no gradients.
    spent : seconds spent in the hook.
    problem : why a pass could not be read, if one could not.
    """

    def __init__(self, name: str, layer: Layer, samples: int, index: int) -> None:
        self.name = name
        self.layer = layer
        self.probing = False
        self.spent = 0.0
        self.problem: Exception | None = None
        self._samples = samples
        self._index = index
        self._round = 0
        # by the layer's training flag
        self._readers: dict[bool, LayerReader] = {}
        # the replicas of DataParallel run in threads
        self._lock = threading.Lock()

    def hook(self) -> Any:
        """Attach to the layer; the handle removes it."""
        return Watch(self.layer, self._see).before()

    def reset(self) -> None:
        """Forget what was read; the next reading draws another sample."""
        self._readers = {}
        self._round += 1

    @property
    def reader(self) -> LayerReader | None:
        """The reader of passes in training mode, or else of those with gradients in eval mode."""
        return self._readers.get(True) or self._readers.get(False)

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, _: Any) -> None:
        begin = time.perf_counter()
        # a validation pass has no gradients; a network fine-tuned in eval mode has
        if module.training or torch.is_grad_enabled() or self.probing:
            x = args[0] if args else kwargs.get("input")
            try:
                with self._lock:
                    if isinstance(x, torch.Tensor) and x.numel():
                        self._reader(module.training).add(x.to(self.layer.weight.device))
            except Exception as error:
                # the training goes on; the monitor reports this at its next step
                self.problem = error
        self.spent += time.perf_counter() - begin

    def _reader(self, training: bool) -> LayerReader:
        if training not in self._readers:
            self._readers[training] = self.empty_reader()
        return self._readers[training]

    def empty_reader(self) -> LayerReader:
        """A reader for this layer and this round that has read nothing."""
        seed = 1_000_003 * self._round + self._index
        return LayerReader(self.layer, samples=self._samples, exact=False, seed=seed)


def chosen_layers(
    model: nn.Module, names: Iterable[str] | None
) -> tuple[dict[str, Layer], list[str]]:
    """The layers to watch by name, and those that the default leaves out, each with its class."""
    modules = dict(model.named_modules())
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    candidates = [n for n, m in modules.items() if isinstance(m, kinds)]
    if isinstance(names, str):
        raise TypeError(f"layers must be several names, as in [{names!r}]; got a string")
    layers: dict[str, Layer] = {}
    left_out: list[str] = []
    if names is not None:
        names = list(names)
        if not names:
            raise ValueError("layers must name at least one layer, or be None for all; got none")
        for name in names:
            if name not in modules:
                raise ValueError(
                    f"layers must name layers of the model; got {name!r}; its convolutions and "
                    f"linear layers are {', '.join(map(repr, candidates)) or 'none'}"
                )
            layers[name] = _checks.layer(f"layer {name!r}", modules[name])
        return layers, left_out
    for name in candidates:
        try:
            layers[name] = _checks.layer(f"layer {name!r}", modules[name])
        except TypeError:
            left_out.append(f"{name!r} ({type(modules[name]).__name__})")
    if not layers:
        raise ValueError(
            "model must have a convolution or a linear layer to watch; got none"
            + (f" but {', '.join(left_out)}, which compute something else" if left_out else "")
        )
    return layers, left_out
