"""Training a classifier by SGD, the same way every time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from studies.errors import UserError

__all__ = ["TrainingRun", "accuracy", "choose_device", "reproducible", "train_classifier"]


@dataclass(frozen=True)
class TrainingRun:
    """How a classifier was trained: the loss of every update and the accuracies at the end."""

    loss: np.ndarray
    train_accuracy: float
    test_accuracy: float | None


def choose_device(device: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` as a torch device; says so when there is no CUDA device."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {device!r}: choose auto, cpu or cuda.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but torch finds no CUDA device here.")
    return torch.device(device)


@contextlib.contextmanager
def reproducible(seed: int, threads: int = 0) -> Iterator[None]:
    """Seed torch, forbid reduced-precision and run-to-run varying kernels; undo it all on exit.

    The number of CPU threads, which can change the last digits, is set too unless it is 0.
    """
    before = torch.get_num_threads()
    with (
        torch.random.fork_rng(),
        torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ),
    ):
        torch.manual_seed(seed)
        if threads:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def train_classifier(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    momentum: float = 0.0,
    seed: int = 0,
    test: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> TrainingRun:
    """Train ``model`` in place by SGD on the cross-entropy.

    Parameters
    ----------
    model : on the device of the images.
    images : (N, C, H, W).
    labels : (N,) class numbers.
    epochs : passes over the images.
    batch_size : images per update; the last, smaller batch of a pass is used too.
    lr : torch's learning rate.
    momentum : torch's heavy-ball momentum.
    seed : of the order of the images.
    test : images and labels that are not trained on.

    Raises
    ------
    UserError : the loss stopped being finite.
    """
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    losses: list[float] = []
    model.train()
    batches = (len(images) + batch_size - 1) // batch_size
    with tqdm(total=epochs * batches, desc="training the network", unit="step", delay=1) as bar:
        for _ in range(epochs):
            for chosen in torch.randperm(len(images), generator=order).split(batch_size):
                chosen = chosen.to(images.device)
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
                if not np.isfinite(losses[-1]):
                    raise UserError(
                        f"training the network diverged at update {len(losses)} "
                        f"with lr {lr:g} and momentum {momentum:g}; try other images or another "
                        "seed."
                    )
                bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-batches:]):.3f}")
    model.eval()
    return TrainingRun(
        loss=np.asarray(losses),
        train_accuracy=accuracy(model, images, labels),
        test_accuracy=accuracy(model, *test) if test is not None else None,
    )


@torch.no_grad()
def accuracy(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, chunk: int = 1024
) -> float:
    """Fraction of the images whose largest logit is at their label."""
    right = 0
    for part, wanted in zip(images.split(chunk), labels.split(chunk), strict=True):
        right += int((model(part).argmax(1) == wanted).sum())
    return right / len(labels)
