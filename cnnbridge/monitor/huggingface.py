"""The monitor as a callback of the Hugging Face Trainer."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from cnnbridge.monitor.monitor import Monitor
from cnnbridge.monitor.trackers import metrics

__all__ = ["trainer_callback"]


def trainer_callback(
    layers: Iterable[str] | None = None, every: int | None = None, **options: Any
) -> Any:
    """A callback for ``transformers.Trainer`` that runs a ``Monitor`` on the model in training.

    Parameters
    ----------
    layers, every, options : as in ``Monitor``; model and optimizer come from the trainer.

    Returns
    -------
    A ``transformers.TrainerCallback``, with the monitor as ``monitor`` once training has begun, and
    as ``readings`` the numbers of its last reading by "<layer>/<quantity>". Send them on with
    ``to=[...]``; rates are NaN for optimizers other than SGD, such as Trainer's default AdamW.

    Raises
    ------
    ImportError : transformers is not installed.

    Examples
    --------
    >>> trainer = Trainer(callbacks=[trainer_callback(every=100)])  # doctest: +SKIP
    """

    class MonitorCallback(_base()):  # type: ignore[misc]
        """Forwards to the monitor, which decides everything."""

        monitor: Monitor | None = None
        readings: dict[str, float] | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Hook the layers."""
            optimizer = given.get("optimizer")
            # accelerate wraps optimizers in a class of its own
            optimizer = getattr(optimizer, "optimizer", optimizer)
            self.monitor = Monitor(given["model"], layers, every, optimizer=optimizer, **options)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Once for each step, accumulated or not, while the rate is still this step's."""
            if self.monitor is not None and (found := self.monitor.step()):
                self.readings = metrics(found)

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Unhook."""
            if self.monitor is not None:
                self.monitor.close()

    return MonitorCallback()


def _base() -> Any:
    try:
        return importlib.import_module("transformers").TrainerCallback
    except ImportError:
        raise ImportError(
            "trainer_callback needs transformers; it is not installed: pip install transformers"
        ) from None
