"""Where else a monitor writes its readings: Weights & Biases, MLflow, anything with ``write``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

from cnnbridge.monitor.reading import LayerReading

__all__ = ["MLflowRun", "Tracker", "WandbRun", "metrics"]


@runtime_checkable
class Tracker(Protocol):
    """What ``Monitor(to=[...])`` takes: any object with these two methods."""

    def write(self, readings: Iterable[LayerReading]) -> None:
        """Take the readings of one step."""

    def close(self) -> None:
        """Training has ended."""


def metrics(readings: Iterable[LayerReading]) -> dict[str, float]:
    """The numbers of one step by "<layer>/<quantity>".

    Examples
    --------
    >>> import torch
    >>> from cnnbridge import Monitor
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    >>> with Monitor(model, every=1, quiet=True) as monitor:
    ...     output = model(torch.ones(4, 3))
    ...     readings = monitor.step(lr=0.1)
    >>> sorted(metrics(readings))[:2]
    ['0/effective_rank', '0/lambda_max']
    """
    found: dict[str, float] = {}
    for reading in readings:
        values = asdict(reading)
        layer = values.pop("layer")
        values.pop("step")
        found |= {f"{layer}/{name}": value for name, value in values.items()}
    return found


class WandbRun:
    """Sends readings to a run of Weights & Biases, over an axis of their own, ``monitor_step``.

    W&B drops what is logged for an earlier step than its last one. So that a monitor and the
    training script may log at steps of their own, the monitor's is logged as a number, and
    declared to be the axis of its metrics.

    Parameters
    ----------
    run : what ``wandb.init()`` returned; it is not finished on closing.

    Raises
    ------
    TypeError : run is no run.
    """

    def __init__(self, run: Any) -> None:
        if not (hasattr(run, "log") and hasattr(run, "define_metric")):
            raise TypeError(f"run must be what wandb.init() returned; got {type(run).__name__}")
        self.run = run
        self._declared: set[str] = set()

    def write(self, readings: Iterable[LayerReading]) -> None:
        """Log one step."""
        readings = list(readings)
        for name in [r.layer for r in readings if r.layer not in self._declared]:
            self.run.define_metric(f"{name}/*", step_metric="monitor_step")
            self._declared.add(name)
        if readings:
            self.run.log({"monitor_step": readings[0].step} | metrics(readings))

    def close(self) -> None:
        """The run is the user's, and goes on."""


class MLflowRun:
    """Sends readings to a run of MLflow, by default the one that is active.

    Parameters
    ----------
    run_id : of the run; None for the active one.

    Raises
    ------
    ImportError : MLflow is not installed.
    """

    def __init__(self, run_id: str | None = None) -> None:
        try:
            import mlflow
        except ImportError:
            raise ImportError(
                "MLflowRun needs MLflow; it is not installed: pip install mlflow-skinny"
            ) from None
        self._mlflow = mlflow
        self.run_id = run_id

    def write(self, readings: Iterable[LayerReading]) -> None:
        """Log one step."""
        readings = list(readings)
        if readings:
            self._mlflow.log_metrics(metrics(readings), step=readings[0].step, run_id=self.run_id)

    def close(self) -> None:
        """The run is the user's, and goes on."""
