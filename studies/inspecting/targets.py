"""Models, weights, batches and losses by the names that a command line has for them."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from studies.engine.errors import UserError, near
from studies.engine.sweep_file import find
from studies.training.images import Images, tensors

__all__ = ["Request", "batches", "load_weights", "loss_function", "model"]

# what training scripts call the weights in a file that holds more
INSIDE = ("state_dict", "model_state_dict", "model")
# that wrappers put in front of the names of weights
PREFIXES = ("module.", "_orig_mod.")
LOSSES = {"cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss}
IMAGE_SETS = ("mnist5k", "cifar10", "folder:")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to inspect, in words and numbers.

    Attributes
    ----------
    target : the model: ``module:function``, ``torchvision:NAME`` or ``timm:NAME``.
    weights : file with its weights; None for those that it is built with.
    data : ``folder:PATH``, ``mnist5k``, ``cifar10`` or ``module:function``, which returns batches.
    data_root : for cifar10.
    images, batch, image_size : of the named sets of images.
    loss : ``cross_entropy``, ``mse``, ``model`` (its own), or ``module:function``.
    lr, momentum, weight_decay, layers, samples, parts, closely, budget, seed : as in
        ``cnnbridge.inspect``.
    eval : whether to put the model into evaluation mode.
    device : ``cpu`` or ``cuda``.
    """

    target: str
    weights: str | None = None
    data: str = "mnist5k"
    data_root: str | None = None
    images: int = 128
    batch: int = 32
    image_size: int | None = None
    loss: str = "cross_entropy"
    lr: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    layers: tuple[str, ...] | None = None
    samples: int = 1024
    parts: tuple[str, ...] = ("curvature",)
    closely: tuple[str, ...] = ()
    budget: str | None = None
    seed: int = 0
    eval: bool = False
    device: str = "cpu"


def model(request: Request) -> nn.Module:
    """Build the model and give it its weights.

    Raises
    ------
    UserError : there is no such model or file, or they do not fit together.
    """
    torch.manual_seed(request.seed)
    built = _built(request.target)
    if not isinstance(built, nn.Module):
        raise UserError(
            f"{request.target} must return a torch.nn.Module; got {type(built).__name__}."
        )
    if request.weights is not None:
        load_weights(built, Path(request.weights))
    return (built.eval() if request.eval else built).to(request.device)


def _built(target: str) -> Any:
    source, _, name = target.partition(":")
    if source == "torchvision":
        from torchvision import models

        return _by_name(target, name, models.list_models(), models.get_model, weights=None)
    if source == "timm":
        timm = importlib.import_module("timm")
        return _by_name(target, name, timm.list_models(), timm.create_model, pretrained=False)
    return _called(target)


def _by_name(target: str, name: str, known: list[str], build: Any, **options: Any) -> Any:
    if name not in known:
        source = target.partition(":")[0]
        raise UserError(f"{source} has no model {name!r}{near(name, known)}.")
    return build(name, **options)


def _called(target: str) -> Any:
    """What a function of the user's returns."""
    function = find(target, [Path.cwd()])
    try:
        return function()
    except Exception as error:  # whatever the user's code raises
        raise UserError(f"{target} raised {_told(error)}.") from error


def load_weights(built: nn.Module, path: Path) -> None:
    """Load the weights that a training script saved, without running what a file may hold.

    Files of ``torch.save`` are read with ``weights_only=True``, those that end in .safetensors by
    the package of that name. The weights may lie under "state_dict", "model_state_dict" or "model",
    and their names may begin as DistributedDataParallel and torch.compile make them begin.

    Raises
    ------
    UserError : the file is not there, holds no weights, or those of another model.
    """
    found = _state(path)
    for key in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{path} must hold a state_dict; got {type(found).__name__}.")
    weights = {_plain(str(name)): value for name, value in found.items()}
    try:
        missing, unexpected = built.load_state_dict(weights, strict=False)
    except Exception as error:  # torch raises several kinds for values of the wrong shape or kind
        detail = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"{path} does not fit the model: {detail[-1].rstrip('.')}.") from error
    for what, names in (("lacks", missing), ("has weights that the model lacks:", unexpected)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{path} does not fit the model: it {what} {names[0]}{more}.")


def _state(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    if path.suffix == ".safetensors":
        return importlib.import_module("safetensors.torch").load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no file of weights alone: save model.state_dict(), not the model."
        ) from error
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{path} cannot be read: {_told(error)}.") from error


def _plain(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def batches(request: Request, built: nn.Module) -> tuple[Any, tuple[str, ...]]:
    """The batches, and a sentence about each change that makes them fit the model.

    Raises
    ------
    UserError : there are no such images, or the user's function fails.
    """
    if not request.data.startswith(IMAGE_SETS):
        found = _called(request.data)
        single = isinstance(found, tuple | Mapping | torch.Tensor)
        return found if single else _Told(found, request.data), ()
    images = Images(
        data=request.data,
        root=request.data_root,
        limit=request.images,
        size=request.image_size,
        seed=request.seed,
    )
    x, y, _ = tensors(images)
    wanted, notes = _channels(built), []
    if wanted is not None and wanted != x.shape[1] and {wanted, x.shape[1]} == {1, 3}:
        grey = x.mean(dim=1, keepdim=True)
        x = grey.expand(-1, 3, -1, -1) if wanted == 3 else grey
        notes.append(
            "The images are grey; each of the model's three channels gets them."
            if wanted == 3
            else "The images are in colour; the model gets the mean of their channels."
        )
    return list(zip(x.split(request.batch), y.split(request.batch), strict=True)), tuple(notes)


def _channels(built: nn.Module) -> int | None:
    """Channels of the image that the first convolution takes."""
    convolutions = (m for m in built.modules() if isinstance(m, nn.Conv2d))
    first = next(convolutions, None)
    return None if first is None else first.in_channels


class _Told:
    """The user's batches; what their code raises is one sentence."""

    def __init__(self, given: Any, source: str) -> None:
        self.given, self.source = given, source

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.given
        except Exception as error:  # whatever the user's code raises
            raise UserError(f"the batches of {self.source} raised {_told(error)}.") from error


def loss_function(name: str) -> Any:
    """A loss as ``cnnbridge.inspect`` takes it; None for the model's own.

    Raises
    ------
    UserError : there is none of that name.
    """
    if name == "model":
        return None
    if name in LOSSES:
        return LOSSES[name]()
    if ":" not in name:
        raise UserError(
            f"unknown loss {name!r}{near(name, LOSSES)}: choose {', '.join(LOSSES)}, model or "
            "module:function."
        )
    found = find(name, [Path.cwd()])
    return found() if isinstance(found, type) else found


def _told(error: Exception) -> str:
    text = str(error).strip()
    first = f": {text.splitlines()[0].rstrip('.')}" if text else ""
    return f"{type(error).__name__}{first}"
