"""What the default monitor costs: ``python -m benchmarks.monitor_overhead``.

Trains torchvision's ResNet-18 with a 3x3 stem on random 32x32 images, with all 20 convolutions and
the linear layer watched, and prints the time that the monitor measured together with the wall-clock
time of the same steps with and without it.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import torch
from torch import nn

from cnnbridge.monitor.monitor import Monitor

__all__ = ["Overhead", "measure_overhead"]


class Overhead(NamedTuple):
    """What a monitor cost in one training run.

    Attributes
    ----------
    device, batch, size : of the training; size is the side of an image in pixels.
    steps, readings, layers : steps with the monitor, how often it read, and how many layers.
    step_seconds : of a step without a monitor, wall-clock time, the mean of a stretch before and
        one after.
    watched_seconds : of a step with it.
    reading_seconds : of one reading, by the monitor's own clock.
    own_share : time spent in the monitor over the rest, by its own clock.
    """

    device: str
    batch: int
    size: int
    steps: int
    readings: int
    layers: int
    step_seconds: float
    watched_seconds: float
    reading_seconds: float
    own_share: float

    @property
    def share(self) -> float:
        """The wall-clock time that the monitor adds to a step, over that of the step without it."""
        return self.watched_seconds / self.step_seconds - 1

    def sentence(self) -> str:
        """All of it in one paragraph."""
        return (
            f"ResNet-18 for {self.size}x{self.size} images, batch {self.batch}, {self.device}: "
            f"{self.readings} readings of {self.layers} layers in {self.steps} steps, "
            f"{self.reading_seconds:.3g} s each, {self.own_share:.2%} of the training time by the "
            f"monitor's clock. A step took {self.step_seconds:.4g} s without a monitor and "
            f"{self.watched_seconds:.4g} s with it, {self.share:+.2%} on the wall."
        )


def measure_overhead(
    *,
    device: str = "cpu",
    batch: int = 32,
    steps: int = 200,
    every: int | None = None,
    size: int = 32,
) -> Overhead:
    """Train with and without a monitor and compare the wall-clock times.

    Parameters
    ----------
    device : cpu or cuda.
    batch, size : images, and pixels of their side.
    steps : with the monitor. The first reading is an advance on the default cadence, so a run too
        short to make up for it costs more than the share that was asked for.
    every : a fixed cadence; by default the monitor's own, at most 5 %.
    """
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    model = model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(batch, 3, size, size, device=device)
    target = torch.randint(10, (batch,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()

    def clock() -> float:
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        return time.perf_counter()

    def plain(count: int) -> float:
        begin = clock()
        for _ in range(count):
            step()
        return (clock() - begin) / count

    plain(2)
    # before and after, for a machine that others use too
    alone = plain(max(3, steps // 8))
    begin = clock()
    with Monitor(model, every=every, optimizer=optimizer, quiet=True) as monitor:
        for _ in range(steps):
            step()
            monitor.step()
        watched = (clock() - begin) / steps
    alone = (alone + plain(max(3, steps // 8))) / 2
    layers = len(monitor.latest)
    readings = len(monitor.history) // layers
    return Overhead(
        device=device,
        batch=batch,
        size=size,
        steps=steps,
        readings=readings,
        layers=layers,
        step_seconds=alone,
        watched_seconds=watched,
        reading_seconds=monitor.spent / readings,
        own_share=monitor.overhead,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=32, help="images of a batch (32)")
    parser.add_argument("--steps", type=int, default=200, help="steps with the monitor (200)")
    parser.add_argument("--every", type=int, default=None, help="fixed cadence (default: 5 %%)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--size", type=int, default=32, help="pixels of an image's side (32)")
    chosen = vars(parser.parse_args(arguments))
    before = torch.get_num_threads()
    torch.set_num_threads(chosen.pop("threads"))
    try:
        print(measure_overhead(**chosen).sentence())
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
