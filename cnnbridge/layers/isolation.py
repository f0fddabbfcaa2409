"""Leave no trace: look into a model, copy it or differentiate it, and leave it as it was."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, get_args

import torch
from torch import nn

from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.patches import check_input


@contextmanager
def autograd() -> Iterator[None]:
    """Gradients, whatever the caller has switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def own_precision() -> Iterator[None]:
    """Gradients, in the precision of the parameters, whatever the caller has switched on or off.

    Inside autocast the weights rounded for one step would also serve the next, and a curvature of
    eight bits is none.
    """
    with ExitStack() as stack:
        stack.enter_context(autograd())
        for kind in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def check_eager(model: Any, advice: str = "") -> nn.Module:
    """Refuse what is no module, and compiled or scripted modules, whose code skips hooks.

    ``advice`` is added to the sentence about compiled modules.

    Raises
    ------
    TypeError : model is not a module, or it or a part of it is compiled or scripted.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    # nothing can be compiled unless dynamo is loaded already, and loading it takes seconds
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    compiled = () if dynamo is None else (dynamo.OptimizedModule,)
    for module in model.modules():
        if isinstance(module, compiled) or module._compiled_call_impl is not None:
            raise TypeError(
                "model must not be compiled, since compiled code skips hooks; got a compiled "
                "module: pass the model from before torch.compile, such as compiled._orig_mod"
                + advice
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                "model must not be scripted, since scripted code skips hooks; got a ScriptModule: "
                "pass the model from before torch.jit"
            )
    return model


def find_module(model: nn.Module, layer_name: str) -> nn.Module:
    """The module of this name in an eager model.

    Raises
    ------
    TypeError : as ``check_eager``.
    ValueError : there is no such module; the message lists the conv and linear layers.
    """
    modules = dict(check_eager(model).named_modules())
    if layer_name not in modules:
        kinds = get_args(Layer)
        layers = [repr(n) for n, m in modules.items() if isinstance(m, kinds)]
        raise ValueError(
            f"layer_name must name a layer of the model; got {layer_name!r}; "
            f"its conv and linear layers are {', '.join(layers) or 'none'}"
        )
    return modules[layer_name]


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put back flags, buffers, gradients and random state, whatever happens inside."""
    modules = list(model.modules())
    training = [m.training for m in modules]
    # the tensor object and its value: some modules assign a new one, others write into the old
    buffers = [
        {k: (b, None if b is None else b.detach().clone()) for k, b in m._buffers.items()}
        for m in modules
    ]
    parameters = list(model.parameters())
    gradients = [p.grad for p in parameters]
    needed = [p.requires_grad for p in parameters]
    random = torch.get_rng_state()
    random_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    # set aside, not cloned: a backward pass inside would add to them in place
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for m, flag, former in zip(modules, training, buffers, strict=True):
            m.training = flag
            for name in set(m._buffers) - set(former):
                del m._buffers[name]
            for name, (buffer, value) in former.items():
                if buffer is not None and value is not None:
                    with torch.no_grad():
                        buffer.copy_(value)
                m._buffers[name] = buffer
        for p, gradient, flag in zip(parameters, gradients, needed, strict=True):
            p.requires_grad_(flag)
            p.grad = gradient
        torch.set_rng_state(random)
        if random_cuda is not None:
            torch.cuda.set_rng_state_all(random_cuda)


def host_copy(x: torch.Tensor) -> torch.Tensor:
    """A detached copy on the CPU, always a copy: later layers may write into the tensor."""
    return x.detach().to("cpu", copy=True)


def detached_copy(model: nn.Module) -> nn.Module:
    """A copy to train and differentiate, alike in output to the last bit.

    Normalization that uses the statistics of its batch goes on doing so, but keeps no running
    ones: the transforms that compute curvature cannot write into buffers.
    """
    # without gradients: deepcopy carries them along otherwise
    grads = [(p, p.grad) for p in model.parameters()]
    try:
        for p, _ in grads:
            p.grad = None
        twin = copy.deepcopy(model)
    finally:
        for p, grad in grads:
            p.grad = grad
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.training:
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return twin


def plain_copy(layer: Layer, like: torch.Tensor) -> Layer:
    """A layer of the same geometry and weights: no hooks, no shared memory, no random numbers used.

    On the device and in the precision of ``like``. The weights of a parametrized layer become
    parameters of their own.
    """
    kind = next(base for base in get_args(Layer) if isinstance(layer, base))
    # torch keeps each argument of a layer's constructor under its own name
    settings = {
        k: getattr(layer, k) for k in inspect.signature(kind).parameters if hasattr(layer, k)
    }
    settings |= {"bias": layer.bias is not None, "device": like.device, "dtype": like.dtype}
    twin: Layer = torch.nn.utils.skip_init(kind, **settings)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
        if twin.bias is not None and layer.bias is not None:
            twin.bias.copy_(layer.bias)
    return twin


def own_weights(name: str, layer: Layer, model: nn.Module, *, frozen_bias: bool = False) -> None:
    """Refuse a layer whose weights SGD does not move by what passes through it, and that alone."""
    for part, own in (("weight", layer.weight), ("bias", layer.bias)):
        if own is None:
            continue
        if not isinstance(own, nn.Parameter):
            raise ValueError(
                f"{name} must learn its own {part}; got one that is computed from other parameters"
            )
        if not own.requires_grad and not (part == "bias" and frozen_bias):
            raise ValueError(f"{name} must learn its {part}; got one with requires_grad=False")
        for other, module in model.named_modules():
            if module is not layer and any(p is own for p in module.parameters(recurse=False)):
                raise ValueError(
                    f"{name} must have its {part} to itself; got one that {other!r} shares: use "
                    f"one layer several times instead"
                )


def watched_use(
    name: str, geometry: Geometry, args: Any, kwargs: dict[str, Any], out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For a forward hook of a layer: what it really computed with, and what to differentiate by.

    The hook has to return a copy of the second: an in-place ReLU must not overwrite it.
    """
    entered = args[0] if args else kwargs["input"]
    check_input(f"the input of {name}", entered, geometry, finite=False)
    wanted = geometry.output_shape(tuple(entered.shape))
    if tuple(out.shape) != wanted:
        raise ValueError(
            f"the output of {name} must have the shape that its settings give, {wanted}; "
            f"got {tuple(out.shape)}: call it without output_size"
        )
    # autocast has the layer compute with a rounded input: that is the regressor
    watched = out if out.requires_grad else out.detach().requires_grad_()
    return entered.to(out.dtype), watched
