"""Training a classifier by SGD, the same way every time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from studies.engine.errors import UserError
from studies.engine.smoothing import SMOOTHING, running_mean

__all__ = [
    "SgdRun",
    "TrainingRun",
    "accuracy",
    "batch_order",
    "choose_device",
    "reproducible",
    "run_sgd",
    "train_below",
    "train_classifier",
]

State = Literal["stable", "diverged", "dead"]
PATIENCE = 2 * SMOOTHING


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


@dataclass(frozen=True)
class SgdRun:
    """A short run of SGD and what became of it.

    Attributes
    ----------
    loss : cross-entropy of each update's batch, before the update.
    state : ``diverged``, ``dead`` (the logits no longer depend on the image) or ``stable``, which
        is neither and promises no learning.
    """

    loss: np.ndarray
    state: State

    def steps_to(self, threshold: float) -> int | None:
        """Updates until the smoothed loss is below the threshold; None if it never was."""
        below = np.flatnonzero(running_mean(self.loss) < threshold)
        return int(below[0]) if len(below) else None


def run_sgd(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    lr: float,
    steps: int,
    batch_size: int = 32,
    momentum: float = 0.0,
    seed: int = 0,
    classes: int | None = None,
    stop_below: float | None = None,
    adjust: Callable[[], None] | None = None,
) -> SgdRun:
    """Train ``model`` in place by SGD for a few updates and say what became of it.

    A run has diverged when its loss is not finite, or when its running mean over 10 updates has
    been more than twice the larger of the first loss and ln(classes) for 20 updates on end. Such
    a run is ended at once. One spike, however high, is not a divergence.

    Parameters
    ----------
    model : on the device of the images.
    images, labels : (N, C, H, W) and (N,).
    lr, momentum : of ``torch.optim.SGD``.
    steps : updates.
    batch_size, seed : every pass goes through the images in an order drawn with the seed; the
        last images of a pass that make no whole batch are left out.
    classes : for ln(classes); counted in the labels by default.
    stop_below : end the run as soon as the smoothed loss is below this.
    adjust : called between the backward pass and the step.
    """
    ceiling = math.log(classes or int(labels.max()) + 1)
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    losses: list[float] = []
    over, logits = 0, None
    model.train()
    for chosen in batch_order(len(images), batch_size, steps, seed):
        chosen = chosen.to(images.device)
        optimiser.zero_grad()
        logits = model(images[chosen])
        loss = nn.functional.cross_entropy(logits, labels[chosen])
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            return SgdRun(np.asarray(losses), "diverged")
        smoothed = sum(losses[-SMOOTHING:]) / len(losses[-SMOOTHING:])
        over = over + 1 if smoothed > 2 * max(losses[0], ceiling) else 0
        if over >= PATIENCE:
            return SgdRun(np.asarray(losses), "diverged")
        if stop_below is not None and smoothed < stop_below:
            break
        loss.backward()
        if adjust is not None:
            adjust()
        optimiser.step()
    return SgdRun(np.asarray(losses), "dead" if _same_for_all(logits) else "stable")


def train_below(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    until: float,
    *,
    lr: float = 0.05,
    momentum: float = 0.9,
    most: int = 2000,
) -> int:
    """Train ``model`` in place, full batch, until its cross-entropy is below ``until``.

    Parameters
    ----------
    model : on the device of the images.
    images, labels : (N, C, H, W) and (N,), all of them one batch.
    until : the loss to get below.
    lr, momentum : of ``torch.optim.SGD``.
    most : updates to try.

    Returns
    -------
    The number of updates made.

    Raises
    ------
    RuntimeError : the loss did not get there.
    """
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for step in range(most + 1):
        loss = nn.functional.cross_entropy(model(images), labels)
        if loss.item() < until:
            return step
        if step < most:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    raise RuntimeError(
        f"the loss should fall below {until:g} in {most} updates; it is {loss.item():.3g}"
    )


def batch_order(count: int, batch_size: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Indices of the images of each update: whole batches of passes in an order of their own.

    Raises
    ------
    UserError : there are fewer images than a batch takes.
    """
    if count < batch_size:
        raise UserError(f"a batch of {batch_size} needs as many images, there are {count}.")
    order = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for chosen in torch.randperm(count, generator=order).split(batch_size):
            if done == steps:
                return
            if len(chosen) == batch_size:
                done += 1
                yield chosen


def _same_for_all(logits: torch.Tensor | None) -> bool:
    if logits is None:
        return False
    spread = (logits.amax(0) - logits.amin(0)).max()
    return bool(spread <= 1e-6 * logits.abs().max().clamp(min=1e-6))
