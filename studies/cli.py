"""The command line: ``naturalmodes list`` and ``naturalmodes run STUDY``."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from studies import STUDIES
from studies.__main__ import missing
from studies.errors import UserError

__all__ = ["app"]

app = typer.Typer(
    help="Predicts how adaptive filters and convolutional layers learn, and checks it on real "
    "training.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def fail(message: str, code: int) -> NoReturn:
    """Print one sentence to stderr and leave with an exit status."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


@app.command("list")
def list_studies() -> None:
    """Name the studies and the question each one asks."""
    width = max(map(len, STUDIES))
    for name, entry in STUDIES.items():
        typer.echo(f"{name:<{width}}  {entry.question}")


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="Which study; `naturalmodes list` names them.")],
    preset: Annotated[
        str, typer.Option(help="smoke: under a minute; laptop: minutes; full: for a GPU.")
    ] = "laptop",
    data: Annotated[
        str, typer.Option(help="mnist5k, cifar10 or folder:PATH (one folder of images per class).")
    ] = "mnist5k",
    data_root: Annotated[
        Path | None, typer.Option(help="For cifar10: the folder with cifar-10-batches-py.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the images drawn, the weights and the order.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results.", show_default="results/STUDY")
    ] = None,
) -> None:
    """Run one study; leaves report.html, summary.json, figures and arrays in a folder."""
    if study not in STUDIES:
        fail(f"There is no study {study!r}; there is: {', '.join(STUDIES)}.", 2)
    folder = Path("results", study) if out is None else out
    # Spelt out with every option, so that it repeats this run whatever the defaults become.
    words = ["naturalmodes", "run", study, "--preset", preset, "--data", data]
    words += ["--data-root", str(data_root)] if data_root is not None else []
    words += ["--device", device, "--seed", str(seed), "--out", str(folder)]
    try:
        module = importlib.import_module(STUDIES[study].module)
        summary = module.run(
            module.configure(preset, data=data, data_root=data_root, seed=seed),
            out=folder,
            device=device,
            command=shlex.join(words),
        )
    except UserError as error:
        fail(_sentence(str(error)), 2)
    except ModuleNotFoundError as error:
        fail(missing(error), 1)
    except KeyboardInterrupt:
        fail(f"Interrupted; what was finished is in {folder}.", 130)
    sys.stdout.flush()
    if summary.status != "complete":
        fail(f"The run is {summary.status}: {' '.join(summary.problems)}", 1)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."
