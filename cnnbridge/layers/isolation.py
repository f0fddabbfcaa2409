"""Leave no trace: look into a model, copy it or differentiate it, and leave it as it was."""

from __future__ import annotations

import contextlib
import copy
import inspect
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from adaptive.checks import shown
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
    """Gradients in the precision of the parameters, whatever the caller has switched on or off.

    Autocast caches rounded weights and would use them again after a step; and the curvature needs
    more than eight bits.
    """
    with ExitStack() as stack:
        stack.enter_context(autograd())
        for kind in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def differentiable(data: Any) -> Any:
    """``data``, copied if it is a tensor made in inference mode, which autograd refuses."""
    return data.clone() if isinstance(data, torch.Tensor) and data.is_inference() else data


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
    if not isinstance(layer_name, str) or layer_name not in modules:
        kinds = get_args(Layer)
        layers = [repr(n) for n, m in modules.items() if isinstance(m, kinds)]
        raise ValueError(
            f"layer_name must name a layer of the model; got {shown(layer_name)}; "
            f"its conv and linear layers are {', '.join(layers) or 'none'}"
        )
    return modules[layer_name]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two dense tensors agree in shape, kind and every bit, NaNs and signed zeros too."""
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    if a.layout is not torch.strided:
        return False
    if a.is_meta or not a.numel():
        return True
    one, other = (t.detach().reshape(-1).contiguous().view(torch.uint8) for t in (a, b))
    return torch.equal(one, other)


@dataclass
class _Kept:
    """A tensor of a model, with a copy of its value."""

    tensor: torch.Tensor
    value: torch.Tensor

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Kept:
        return cls(tensor, tensor.detach().clone())

    def put_back(self) -> None:
        """Write the value back if it has changed: the same tensor object, the same bits."""
        # an untouched tensor is left alone: writing would count as a change for autograd, and is
        # not even possible where several entries share one place in memory
        if same_bits(self.tensor, self.value):
            return
        with torch.inference_mode(self.tensor.is_inference()), torch.no_grad():
            now, before = self.tensor, self.value
            if (now.shape, now.dtype, now.device) == (before.shape, before.dtype, before.device):
                now.copy_(before)
            else:
                # resized or moved in place
                now.data = before


class _Snapshot:
    """Everything about a model that a forward or backward pass may change."""

    # the containers of a module whose members may be replaced, added or removed
    MEMBERS = ("_parameters", "_buffers")

    def __init__(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            for member in (*module._parameters.values(), *module._buffers.values()):
                if nn.parameter.is_lazy(member):
                    raise ValueError(
                        f"model must know all its shapes; got {name!r}, a lazy layer that has seen "
                        f"no input yet: run the model once"
                    )
        self.modules = [(m, dict(vars(m))) for m in model.modules()]
        self.members = [
            [(m, key, dict(getattr(m, key))) for key in self.MEMBERS] for m in model.modules()
        ]
        self.extra = [(m, set(m._non_persistent_buffers_set)) for m in model.modules()]
        tensors = [*model.parameters(), *model.buffers()]
        self.values = [_Kept.of(t) for t in tensors]
        self.leaves = [(p, p.requires_grad, p.grad) for p in model.parameters()]
        # set aside, not copied: a backward pass inside would add to them in place
        for p, _, _ in self.leaves:
            p.grad = None

    def put_back(self) -> None:
        """Restore it all; what cannot be restored is said only after the rest is done."""
        for p, needed, gradient in self.leaves:
            p.requires_grad_(needed)
            p.grad = gradient
        for module, attributes in self.modules:
            own = vars(module)
            for key in own.keys() - attributes.keys():
                del own[key]
            own.update(attributes)
        for group in self.members:
            for module, key, members in group:
                held = getattr(module, key)
                held.clear()
                held.update(members)
        for module, names in self.extra:
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(names)
        failed: RuntimeError | None = None
        for kept in self.values:
            try:
                kept.put_back()
            except RuntimeError as error:
                failed = error
        if failed is not None:
            raise failed


def random_state() -> Any:
    """The state of the global generators, of torch, NumPy and Python, that a model may use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()  # noqa: NPY002


def set_random_state(state: Any) -> None:
    """Go back to what ``random_state`` returned."""
    cpu, cuda, numpy_state, plain = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy_state)  # noqa: NPY002
    random.setstate(plain)


@contextmanager
def same_random_state() -> Iterator[None]:
    """Put back the random state of torch, NumPy and Python, whatever happens inside."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put a model back as it was, whatever happens inside the block.

    Restored are training flags and all other attributes of the modules (not what a mutable one
    holds), the values of parameters and buffers, gradients, ``requires_grad``, and the random state
    of torch, NumPy and Python. Hooks are not touched.

    Raises
    ------
    ValueError : a layer is lazy and has seen no input yet.
    """
    before = _Snapshot(model)
    with same_random_state():
        try:
            yield
        except BaseException:
            # the caller's own exception is the one to report
            with contextlib.suppress(RuntimeError):
                before.put_back()
            raise
        before.put_back()


class Watch:
    """A forward hook that holds on to nothing, and that copies and files do not take along.

    It calls ``see(module, args, kwargs, output)`` for the one module that it was made for, as long
    as the owner of that method exists. A deep copy or a pickle of the model holds a function of the
    standard library in its place, which does nothing.
    """

    def __init__(self, layer: nn.Module, see: Callable[..., Any]) -> None:
        self._layer = weakref.ref(layer)
        self._see = weakref.WeakMethod(see)

    def __call__(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any = None
    ) -> Any:
        """Report a call of the layer, and change nothing unless the owner returns something."""
        # traced code must not depend on a watcher
        if torch.compiler.is_compiling():
            return None
        layer, see = self._layer(), self._see()
        # a replica of DataParallel shares the hooks of the module that it replicates
        if see is None or not (module is layer or getattr(module, "_is_replica", False)):
            return None
        return see(module, args, kwargs, output)

    def __reduce__(self) -> Any:
        # takes any arguments and returns None
        return getattr, (contextlib.nullcontext(), "__exit__")

    def before(self) -> RemovableHandle:
        """Attach it in front of the layer."""
        return self._attached().register_forward_pre_hook(self, with_kwargs=True)

    def after(self) -> RemovableHandle:
        """Attach it behind the layer, first in line: it sees what the layer itself returned."""
        return self._attached().register_forward_hook(self, prepend=True, with_kwargs=True)

    def _attached(self) -> nn.Module:
        layer = self._layer()
        assert layer is not None
        return layer


def host_copy(x: torch.Tensor) -> torch.Tensor:
    """A detached copy on the CPU, always a copy: later layers may write into the tensor."""
    return x.detach().to("cpu", copy=True)


def model_copy(model: nn.Module) -> nn.Module:
    """A deep copy of a model, without gradients and without the graphs that it may hold.

    Tensors that an earlier forward pass left behind (a feature that a module keeps, the weight that
    ``weight_norm``, ``spectral_norm`` or pruning computes) are copied as values.

    Raises
    ------
    TypeError : a module cannot be copied; the message names it.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            for tensor in _tensors(value):
                if tensor.grad_fn is not None or tensor.is_inference():
                    memo[id(tensor)] = tensor.detach().clone()
    for p in model.parameters():
        if p.grad is not None:
            # deepcopy looks here first: the copy has no gradient
            memo[id(p.grad)] = None
    try:
        twin: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:
        raise TypeError(
            f"model must be one that can be copied; got {_uncopied(model)}: {error}"
        ) from error
    for p in twin.parameters():
        p.grad = None
    return twin


def _tensors(value: Any, depth: int = 3) -> Iterator[torch.Tensor]:
    """Tensors in an attribute, or in lists, tuples and dicts of one."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, depth - 1)


def _uncopied(model: nn.Module) -> str:
    """The module, and the attribute of it, that deepcopy fails on."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key == "_modules":
                continue
            try:
                copy.deepcopy(value, {id(module): module})
            except Exception:
                return f"module {name!r} ({type(module).__name__}) with attribute {key!r}"
    return f"a {type(model).__name__}"


def detached_copy(model: nn.Module) -> nn.Module:
    """A copy to train and differentiate whose output equals the model's to the last bit.

    Normalization that uses the statistics of its batch goes on doing so, but keeps no running
    ones: the transforms that compute curvature cannot write into buffers.
    """
    twin = model_copy(model)
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
    """Refuse a layer whose weights learn from anything but what passes through it."""
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
    """For a forward hook: the input that a layer really used, and the output to differentiate by.

    The hook must return a copy of that output: an in-place ReLU would overwrite it.
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
