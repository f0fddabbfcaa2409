"""``naturalmodes watch``: the table of a ``Monitor`` as it grows, in a terminal."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path

from studies.engine.errors import UserError
from studies.engine.text import number, table

__all__ = ["view", "watch"]

COLUMNS = ("layer", "largest", "effective rank", "lr / bound", "lr / bound so far")
NEEDED = ("step", "layer", "lambda_max", "effective_rank", "lr_over_bound")
BARS = "▁▂▃▄▅▆▇█"
# readings that a line of bars shows
SHOWN = 24


def view(path: Path) -> str:
    """The last reading of every layer, with bars for the way there; of a folder, its newest table.

    Raises
    ------
    UserError : there is no such file, or it is not a monitor's.
    """
    if path.is_dir():
        tables = sorted(path.rglob("*.csv"), key=lambda found: found.stat().st_mtime)
        if not tables:
            raise UserError(f"{path} has no .csv file in it.")
        path = tables[-1]
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if missing := [name for name in NEEDED if name not in columns]:
        raise UserError(f"{path} must be the csv_path of a Monitor; it has no {missing[0]}.")
    # a line that is being written is shorter than the others
    whole = [row for row in rows if None not in row.values()]
    if not whole:
        return f"{path} has no reading yet."
    layers: dict[str, list[dict[str, str]]] = {}
    for row in whole:
        layers.setdefault(row["layer"], []).append(row)
    lines = [
        [name, *(_shown(seen[-1][key]) for key in NEEDED[2:]), _bars(seen)]
        for name, seen in layers.items()
    ]
    over = [name for name, seen in layers.items() if _number(seen[-1]["lr_over_bound"]) >= 1]
    told = [f"Step {max(int(row['step']) for row in whole):,}."]
    if over:
        told.append(
            f"At or above the layer's own bound, which the loss of a network may bear: "
            f"{', '.join(over)}."
        )
    return table(COLUMNS, lines) + "\n" + " ".join(told)


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _shown(value: str) -> str:
    found = _number(value)
    return "–" if math.isnan(found) else number(found, 3)


def _bars(seen: list[dict[str, str]]) -> str:
    """One bar for each reading on a log scale from the least to the most."""
    values = [_number(row["lr_over_bound"]) for row in seen][-SHOWN:]
    logs = [math.log(v) if 0 < v < math.inf else math.nan for v in values]
    known = [v for v in logs if not math.isnan(v)]
    if not known:
        return "–"
    low, span = min(known), (max(known) - min(known)) or 1.0
    steps = len(BARS) - 1
    return "".join(" " if math.isnan(v) else BARS[round((v - low) / span * steps)] for v in logs)


def watch(
    path: Path,
    every: float,
    echo: Callable[[str], object],
    *,
    clear: bool,
    rounds: int | None = None,
) -> None:
    """Show the view again whenever it has changed, until Ctrl-C or for so many rounds.

    Raises
    ------
    UserError : as ``view``.
    """
    seen = None
    done = 0
    while rounds is None or done < rounds:
        if done:
            time.sleep(every)
        done += 1
        text = view(path)
        if text != seen:
            echo(("\x1b[2J\x1b[H" if clear else "") + text)
        seen = text
