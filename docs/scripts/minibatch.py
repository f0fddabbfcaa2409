"""Computes the numbers of minibatch.md: mini-batch training of one layer, predicted and run.

python docs/scripts/minibatch.py             400 runs, 200 steps: about ten minutes on one core
python docs/scripts/minibatch.py --momentum  the table with momentum and weight decay alone
python docs/scripts/minibatch.py --runs 50   a rough version
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn

import cnnbridge
from studies.training.images import load


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the runs' batches")
    parser.add_argument("--curves", action="store_true", help="leave out the edges")
    parser.add_argument("--momentum", action="store_true", help="momentum and weight decay only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = load("mnist5k", limit=64, image_size=14)
    x = torch.as_tensor(images.images).double()
    conv, teacher = (nn.Conv2d(1, 2, 3).double() for _ in range(2))
    target = torch.tanh(3 * teacher(x)).detach()
    if not arguments.momentum:
        plain(arguments, conv, x, target)
    if not arguments.curves:
        with_momentum(arguments, conv, x, target)


def plain(
    arguments: argparse.Namespace, conv: nn.Conv2d, x: torch.Tensor, target: torch.Tensor
) -> None:
    """Curves and edges of SGD without momentum and weight decay."""
    print("| batch | lr | largest deviation | with pooled s.e. | mean theory alone | loss |")
    print("|---|---|---|---|---|---|")
    task = cnnbridge.LayerTask(conv, x, target)
    edges = {}
    for batch in (1, 4, 32):
        small = task.minibatch(batch)
        edges[batch] = small.edges(seed=0)
        lr = 0.3 * edges[batch].mean_square
        result = small.compare(lr, arguments.steps, runs=arguments.runs, seed=arguments.seed)
        seen = result.observation
        mean = task.predict(lr, arguments.steps).loss
        off = np.abs(mean / seen.loss - 1)[arguments.steps // 2 :]
        print(
            f"| {batch} | {lr:.4f} | {result.largest:.2f} | "
            f"{result.largest_pooled:.2f} | "
            f"{off.min():.1%} to {off.max():.1%} off | {seen.loss[0]:.3f} to {seen.loss[-1]:.4f} |",
            flush=True,
        )
    if arguments.curves:
        return
    print()
    print("| batch | mean square | almost sure (s.e.) | mean | median run diverges at | apart |")
    print("|---|---|---|---|---|---|")
    for batch, edge in edges.items():
        found = task.minibatch(batch).edge(seed=1)
        apart = found.lr / edge.almost_sure - 1
        print(
            f"| {batch} | {edge.mean_square:.4f} | {edge.almost_sure:.4f} "
            f"({edge.almost_sure_error:.4f}) | {edge.mean:.4f} | {found.lr:.4f} | {apart:+.1%} |",
            flush=True,
        )
        assert abs(apart) < 0.05
    print()


def with_momentum(
    arguments: argparse.Namespace, conv: nn.Conv2d, x: torch.Tensor, target: torch.Tensor
) -> None:
    """Curves at batch 4, each at 0.3 of its own mean-square edge."""
    print("| momentum | decay | lr | edge | largest deviation | pooled | without either | loss |")
    print("|---|---|---|---|---|---|---|---|")
    task = cnnbridge.LayerTask(conv, x, target).minibatch(4)
    for momentum, decay in ((0.9, 0.0), (0.0, 0.1), (0.9, 0.1)):
        sgd = cnnbridge.SGD(1.0, momentum, decay)
        edge = task.predict(sgd, steps=0).mean_square_edge
        lr = 0.3 * edge
        result = task.compare(sgd.at(lr), arguments.steps, runs=arguments.runs, seed=arguments.seed)
        seen = result.observation
        without = task.predict(lr, arguments.steps).loss
        off = np.abs(without / seen.loss - 1)[arguments.steps // 2 :]
        print(
            f"| {momentum} | {decay} | {lr:.4f} | {edge:.4f} | {result.largest:.2f} | "
            f"{result.largest_pooled:.2f} | {off.min():.1%} to {off.max():.1%} off | "
            f"{seen.loss[0]:.3f} to {seen.loss[-1]:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
