"""The monitor as a Lightning callback."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from cnnbridge.monitor.monitor import Monitor


def lightning_callback(
    layers: Iterable[str] | None = None, every: int | None = None, **options: Any
) -> Any:
    """A Lightning callback that runs a ``Monitor`` on the module in training.

    Parameters
    ----------
    layers, every, options : as in ``Monitor``; model and optimizer come from the trainer (its first
        optimizer).

    Returns
    -------
    A ``lightning.pytorch.Callback``, with the monitor as ``monitor`` once training has begun.
    Readings also go to the trainer's logger, as "<layer>/<quantity>". A compiled module is refused
    as in ``Monitor``.

    Raises
    ------
    ImportError : neither lightning nor pytorch_lightning is installed.

    Examples
    --------
    >>> trainer = Trainer(callbacks=[lightning_callback(every=100)])  # doctest: +SKIP
    """

    class MonitorCallback(_base()):  # type: ignore[misc]
        """Forwards to the monitor, which decides everything."""

        monitor: Monitor | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Hook the layers."""
            first = trainer.optimizers[0]
            # Lightning wraps optimizers in a class of its own
            first = getattr(first, "optimizer", first)
            self.monitor = Monitor(pl_module, layers, every, optimizer=first, **options)

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            """Once for each step, accumulated or not, while the rate is still this step's."""
            first = trainer.optimizers[0]
            unwrapped = {id(getattr(o, "optimizer", o)) for o in (first, optimizer)}
            if self.monitor is None or len(unwrapped) > 1:
                return
            for r in self.monitor.step():
                values = asdict(r)
                name = values.pop("layer")
                metrics = {f"{name}/{k}": v for k, v in values.items() if k != "step"}
                for logger in trainer.loggers:
                    logger.log_metrics(metrics, step=trainer.global_step)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """Unhook."""
            if self.monitor is not None:
                self.monitor.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            """Unhook."""
            self.on_train_end(trainer, pl_module)

    return MonitorCallback()


def _base() -> Any:
    """The Callback of whichever package is there; Lightning goes by two names."""
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            return importlib.import_module(package).Callback
        except ImportError:
            continue
    raise ImportError(
        "lightning_callback needs Lightning; it is not installed: pip install lightning"
    )
