"""What the default monitor costs: ``python -m cnnbridge.monitor_overhead``.

Trains torchvision's ResNet-18 with a 3x3 stem on random 32x32 images, all 20 convolutions watched,
and prints the monitor's own account beside the clock on the wall: the same steps without it.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from cnnbridge.monitor import Monitor


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=32, help="images of a batch (32)")
    parser.add_argument("--steps", type=int, default=200, help="steps with the monitor (200)")
    parser.add_argument("--every", type=int, default=None, help="fixed cadence (default: 5 %%)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--size", type=int, default=32, help="pixels of an image's side (32)")
    chosen = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(chosen.threads)
    try:
        _measure(chosen)
    finally:
        torch.set_num_threads(before)


def _measure(chosen: argparse.Namespace) -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    model = model.to(chosen.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(chosen.batch, 3, chosen.size, chosen.size, device=chosen.device)
    target = torch.randint(10, (chosen.batch,), device=chosen.device)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()

    def clock() -> float:
        if chosen.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def plain(count: int) -> float:
        begin = clock()
        for _ in range(count):
            step()
        return (clock() - begin) / count

    plain(2)
    # before and after, for a machine that others use too
    alone = plain(max(3, chosen.steps // 8))
    begin = clock()
    with Monitor(model, every=chosen.every, optimizer=optimizer, quiet=True) as monitor:
        for _ in range(chosen.steps):
            step()
            if monitor.step():
                print(monitor.report(), flush=True)
    watched = (clock() - begin) / chosen.steps
    alone = (alone + plain(max(3, chosen.steps // 8))) / 2
    print(monitor.report())
    print(
        f"a step: {alone:.4g} s without a monitor, {watched:.4g} s with it, "
        f"{100 * (watched / alone - 1):.2g} % more on the wall"
    )


if __name__ == "__main__":
    main()
