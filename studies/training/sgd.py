"""Training a classifier by SGD: one loop, ``updates``, and what the studies make of it."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from studies.engine.bars import bar as progress_bar
from studies.engine.errors import UserError
from studies.engine.smoothing import SMOOTHING, running_mean

__all__ = [
    "SgdRun",
    "TrainingRun",
    "accuracy",
    "batch_order",
    "reproducible",
    "run_sgd",
    "train_below",
    "train_classifier",
    "updates",
]

State = Literal["stable", "diverged", "dead"]
PATIENCE = 2 * SMOOTHING


@dataclass(frozen=True)
class TrainingRun:
    """How a classifier was trained: the loss of every update and the accuracies at the end."""

    loss: np.ndarray
    train_accuracy: float
    test_accuracy: float | None


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


def updates(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    batches: Iterable[torch.Tensor],
    *,
    lr: float,
    momentum: float = 0.0,
    adjust: Callable[[], None] | None = None,
) -> Iterator[tuple[float, torch.Tensor]]:
    """Train ``model`` in place by SGD on the cross-entropy, one update per iteration.

    Parameters
    ----------
    model : on the device of the images; its mode is left alone.
    images, labels : (N, C, H, W) and (N,).
    batches : indices of the images of each update.
    lr, momentum : of ``torch.optim.SGD``.
    adjust : called between the backward pass and the step.

    Yields
    ------
    Loss and logits of each batch before its update. The update is made when the next batch is
    asked for, so that a caller who breaks off leaves the model as the loss found it.
    """
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for chosen in batches:
        chosen = chosen.to(images.device)
        optimiser.zero_grad()
        logits = model(images[chosen])
        loss = nn.functional.cross_entropy(logits, labels[chosen])
        yield loss.item(), logits
        loss.backward()
        if adjust is not None:
            adjust()
        optimiser.step()


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
    """Train ``model`` in place by SGD for whole passes over the images.

    Parameters
    ----------
    model : on the device of the images; in evaluation mode afterwards.
    images, labels : (N, C, H, W) and (N,).
    epochs : passes over the images.
    batch_size : images per update; the last, smaller batch of a pass is used too.
    lr, momentum : of ``torch.optim.SGD``.
    seed : of the order of the images.
    test : images and labels that are not trained on.

    Raises
    ------
    UserError : the loss stopped being finite.
    """
    order = torch.Generator().manual_seed(seed)
    batches = [
        chosen
        for _ in range(epochs)
        for chosen in torch.randperm(len(images), generator=order).split(batch_size)
    ]
    losses: list[float] = []
    model.train()
    with progress_bar(total=len(batches), desc="training the network", unit="step", delay=1) as bar:
        for value, _ in updates(model, images, labels, batches, lr=lr, momentum=momentum):
            losses.append(value)
            if not np.isfinite(value):
                raise UserError(
                    f"training the network diverged at update {len(losses)} "
                    f"with lr {lr:g} and momentum {momentum:g}; try other images or another seed."
                )
            bar.update()
            if len(losses) % SMOOTHING == 0:
                bar.set_postfix(loss=f"{np.mean(losses[-SMOOTHING:]):.3f}")
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
    """Losses and outcome of a short run of SGD.

    Attributes
    ----------
    loss : cross-entropy of each update's batch, before the update.
    state : ``diverged``, ``dead`` (the logits no longer depend on the image) or ``stable``, which
        is neither; a stable run need not have learned anything.
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
    """Train ``model`` in place by SGD for a few updates and report the outcome.

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

    Raises
    ------
    UserError : there are fewer images than a batch takes.
    """
    ceiling = math.log(classes or int(labels.max()) + 1)
    batches = batch_order(len(images), batch_size, steps, seed)
    losses: list[float] = []
    over = 0
    logits: torch.Tensor | None = None
    model.train()
    course = updates(model, images, labels, batches, lr=lr, momentum=momentum, adjust=adjust)
    for value, latest in course:
        losses.append(value)
        logits = latest
        smoothed = sum(losses[-SMOOTHING:]) / len(losses[-SMOOTHING:])
        over = over + 1 if smoothed > 2 * max(losses[0], ceiling) else 0
        if not math.isfinite(value) or over >= PATIENCE:
            return SgdRun(np.asarray(losses), "diverged")
        if stop_below is not None and smoothed < stop_below:
            break
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
    until : the loss to fall below.
    lr, momentum : of ``torch.optim.SGD``.
    most : updates to try.

    Returns
    -------
    The number of updates made.

    Raises
    ------
    RuntimeError : the loss did not fall that far.
    """
    everything = itertools.repeat(torch.arange(len(images)), most + 1)
    course = updates(model, images, labels, everything, lr=lr, momentum=momentum)
    value = math.nan
    for step, (value, _) in enumerate(course):
        if value < until:
            return step
    raise RuntimeError(f"the loss should fall below {until:g} in {most} updates; it is {value:.3g}")


def batch_order(count: int, batch_size: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Indices of the images of each update: whole batches, each pass in an order of its own.

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
