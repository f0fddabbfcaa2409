"""Readers on every layer of a model, filled by ordinary forward passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from adaptive.checks import instance, items
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.isolation import Watch
from cnnbridge.statistics.reader import LayerReader

__all__ = ["Readers", "Watched"]


class Watched:
    """One layer, and the reader that its forward passes fill.

    Attributes
    ----------
    name, layer : of the model; for the input projections of attention a linear layer of their
        shape, without values.
    kind : class in torch.nn.
    reader : None until the layer is called.
    calls : how often it was.
    problem : why its input cannot be read, if it cannot.
    known : whether its statistics are there already, so that nothing is read.
    """

    def __init__(self, name: str, layer: Layer, kind: str, options: dict[str, Any]) -> None:
        self.name = name
        self.layer = layer
        self.kind = kind
        self.reader: LayerReader | None = None
        self.calls = 0
        self.problem = ""
        self.known = False
        self._options = options

    def read(self, x: Any) -> None:
        """Read what enters the layer; what cannot be read is a problem, and no exception."""
        self.calls += 1
        if self.problem or self.known:
            return
        try:
            if not isinstance(x, torch.Tensor):
                raise TypeError(f"its input is no tensor but a {type(x).__name__}")
            if x.numel():
                if self.reader is None:
                    self.reader = LayerReader(self.layer, **self._options)
                self.reader.add(x)
        except (TypeError, ValueError, RuntimeError) as error:
            # the layer says by itself what it cannot take
            self.problem, self.reader = f"its input cannot be read: {error}", None


class Readers:
    """The layers of a model that can be read, and why the others cannot.

    Parameters
    ----------
    model : in eager mode.
    patterns : names of layers, with * and ?; None for all.
    samples, seed : as in ``LayerReader``.

    Attributes
    ----------
    called : by name, in the order of their first call, the layers that were called.
    skipped : by name, why a layer is left out.

    Raises
    ------
    TypeError, ValueError : patterns are no names, or one fits no layer.
    """

    def __init__(
        self, model: nn.Module, patterns: Sequence[str] | None, *, samples: int, seed: int
    ) -> None:
        self.called: dict[str, Watched] = {}
        self.skipped: dict[str, str] = {}
        self._samples, self._seed = samples, seed
        self._paused = False
        self._known: frozenset[str] = frozenset()
        self._watched: dict[str, Watched] = {}
        self._attention: dict[str, nn.MultiheadAttention] = {}
        for name, module in model.named_modules():
            self._take(name, module)
        if patterns is not None:
            self._choose(patterns)
        if not self._watched and not self._attention:
            refused = "; ".join(f"{n!r}: {why}" for n, why in self.skipped.items())
            raise ValueError(
                "model must have a convolution or a linear layer to inspect; got none"
                + (f" that can be read ({refused})" if refused else "")
            )

    def _take(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.MultiheadAttention):
            if _checks.own_method(module, nn.MultiheadAttention, ["forward"]) is None:
                self._attention[name] = module
                self.skipped[f"{name}.out_proj"] = (
                    "attention computes with its weight and does not call it"
                )
            return
        if f"{name}" in self.skipped or not _looks_like_a_layer(module):
            return
        try:
            layer = _checks.layer(f"layer {name!r}", module)
        except (TypeError, ValueError) as error:
            self.skipped[name] = str(error)
            return
        self._watched[name] = self._watch(name, layer, _plain_name(layer))

    def _watch(self, name: str, layer: Layer, kind: str) -> Watched:
        # each layer draws its own sample
        seed = self._seed * 1_000_003 + len(self._watched)
        watched = Watched(name, layer, kind, {"samples": self._samples, "seed": seed})
        watched.known = name in self._known
        return watched

    def forget(self, names: Iterable[str]) -> None:
        """Do not read these layers, whose statistics are known; only note that they are called."""
        self._known = frozenset(names)
        for name in self._known & self._watched.keys():
            self._watched[name].known = True

    def _choose(self, patterns: Sequence[str]) -> None:
        patterns = [instance("layers", p, str) for p in items("layers", patterns, "names")]
        known = [*self._watched, *self._attention, *self.skipped]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise ValueError(
                    f"layers must name layers of the model; got {pattern!r}, and it has "
                    f"{', '.join(map(repr, known)) or 'none'}"
                )

        def fits(name: str) -> bool:
            return any(fnmatchcase(name, pattern) for pattern in patterns)

        self._watched = {n: w for n, w in self._watched.items() if fits(n)}
        self._attention = {n: m for n, m in self._attention.items() if fits(n)}
        self.skipped = {n: why for n, why in self.skipped.items() if fits(n)}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside, every forward pass of the model is read."""
        modules: list[tuple[nn.Module, Any]] = [
            (w.layer, _Hook(self, n)) for n, w in self._watched.items()
        ]
        modules += [(m, _Hook(self, n)) for n, m in self._attention.items()]
        with ExitStack() as stack:
            for module, hook in modules:
                # the list keeps the hook alive, which ``Watch`` does not
                stack.callback(Watch(module, hook.see).before().remove)  # type: ignore[arg-type]
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, passes are not read."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def see(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read one call of a layer or of an attention module."""
        if self._paused:
            return
        if name in self._watched:
            watched = self.called.setdefault(name, self._watched[name])
            watched.read(args[0] if args else kwargs.get("input"))
            return
        module = self._attention[name]
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        q, k, v = (given.get(part) for part in ("query", "key", "value"))
        if module.in_proj_weight is not None and q is k and k is v:
            self._project(f"{name}.in_proj", module, q, 3 * module.embed_dim)
            return
        for part, x in (("q_proj", q), ("k_proj", k), ("v_proj", v)):
            self._project(f"{name}.{part}", module, x, module.embed_dim)

    def _project(self, name: str, module: nn.MultiheadAttention, x: Any, outputs: int) -> None:
        if name not in self.called:
            inputs = x.shape[-1] if isinstance(x, torch.Tensor) and x.ndim else 1
            layer = nn.Linear(inputs, outputs, bias=module.in_proj_bias is not None, device="meta")
            self.called[name] = self._watch(name, layer, "MultiheadAttention")
        self.called[name].read(x)

    def finish(self) -> None:
        """Note which layers were not called, or could not be read."""
        for name in self._watched.keys() - self.called.keys():
            self.skipped[name] = "the forward pass does not call it"
        for name, watched in list(self.called.items()):
            if watched.reader is None and not watched.known:
                self.skipped[name] = watched.problem or "its input was empty"
                del self.called[name]


class _Hook:
    """What ``Watch`` calls for one module."""

    def __init__(self, readers: Readers, name: str) -> None:
        self.readers, self.name = readers, name

    def see(self, module: nn.Module, args: Any, kwargs: dict[str, Any], _: Any) -> None:
        self.readers.see(self.name, args, kwargs)


def _looks_like_a_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd | nn.Linear)


def _plain_name(layer: Layer) -> str:
    kinds = [kind for kind in type(layer).__mro__ if kind in _checks.PLAIN]
    return kinds[0].__name__
