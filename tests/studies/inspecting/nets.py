"""The source of a module such as a user has."""

from textwrap import dedent

MODULE = dedent(
    """
    import os
    import signal
    from pathlib import Path

    import torch
    from torch import nn

    CALLS = []


    def build():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
        )


    def loader():
        torch.manual_seed(0)
        return [(torch.randn(6, 1, 8, 8), torch.arange(6)) for _ in range(2)]


    def loss(output, target):
        CALLS.append(1)
        if len(CALLS) > 2 and not Path("resumed").exists():
            os.kill(os.getpid(), signal.SIGINT)
        return nn.functional.cross_entropy(output, target)


    def number():
        return 3


    def broken():
        raise RuntimeError("no such disk\\nat all")


    def empty():
        return []


    def poisoned():
        return [(torch.full((6, 1, 8, 8), float("nan")), torch.arange(6))]


    def misfit():
        return [(torch.randn(6, 2, 8, 8), torch.arange(6))]


    def dying():
        yield (torch.randn(6, 1, 8, 8), torch.arange(6))
        raise KeyError("row 7")
    """
)
