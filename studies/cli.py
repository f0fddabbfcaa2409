"""The command line, ``naturalmodes``: one function a command.

What a command needs is imported when it runs, so that naming the studies takes no time and no
package that the user has not installed.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import typer.core

import studies
from studies import filters, registry
from studies.engine.device import known_device
from studies.engine.errors import UserError, missing, near
from studies.engine.interrupts import interruptible
from studies.inspecting import command as inspecting

if TYPE_CHECKING:
    from studies.engine.protocol import Study
    from studies.engine.summary import Summary

__all__ = ["app"]


class Commands(typer.core.TyperGroup):
    """Answers a command that does not exist with the one that was meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command of the first word."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            fail(
                f"naturalmodes: there is no command {args[0]!r}{near(args[0], known)}; "
                f"there is: {', '.join(known)}.",
                2,
            )
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    epilog="Exit status: 0 done; 1 failed or incomplete; 2 wrong request; 3 a filter diverged; "
    "4 a filter's prediction fails; 5 no step grants all wishes; 130 interrupted.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # [grid] is no markup
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"naturalmodes {studies.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Predicts how adaptive filters and convolutional layers learn, and checks it on training."""


def fail(message: str, code: int) -> NoReturn:
    """Print one sentence to stderr and leave with an exit status."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


@app.command("list")
def list_studies() -> None:
    """Name the studies and the question each one asks."""
    width = max(map(len, registry.STUDIES))
    for name in registry.STUDIES:
        typer.echo(f"{name:<{width}}  {registry.find(name).question}")


Preset = Annotated[
    str, typer.Option(help="smoke: under a minute; laptop: minutes; full: for a GPU.")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="mnist5k, cifar10 or folder:PATH (one folder of images per class).",
        show_default="mnist5k",
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option(help="For cifar10: the folder with cifar-10-batches-py.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the images drawn, the weights and the order.")]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes; the numbers do not depend on it.", show_default="one per core"),
]


@app.command()
def run(
    study: Annotated[
        str,
        typer.Argument(help="Which, of `naturalmodes list`; or one of yours, my_module:STUDY."),
    ],
    preset: Preset = "laptop",
    data: Data = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results.", show_default="results/STUDY")
    ] = None,
    workers: Workers = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE: another setting of the preset, with dots."),
    ] = None,
) -> None:
    """Run one study; leaves report.html, summary.json, figures and arrays in a folder."""
    folder = Path("results", study.replace(":", "-")) if out is None else out
    with _one_sentence(folder):
        from studies.engine.configuring import configure

        known_device(device)
        found = registry.find(study)
        chosen: dict[str, Any] = {"data": data, "data_root": data_root, "seed": seed}
        chosen |= dict(_assignment(text) for text in set_ or [])
        config = configure(found, preset, **chosen)
        # Spelt out with every option, so that it repeats this run whatever the defaults become.
        words = ["run", study, *_choices(preset, data, data_root, device, seed, folder)]
        words += [word for text in set_ or [] for word in ("--set", text)]
        # numba and torch are imported once the options are known to be right
        from studies.engine.provenance import command_line
        from studies.engine.runner import run as run_study

        summary = run_study(
            found, config, folder, device=device, command=command_line(words), workers=workers
        )
    _finish(summary)


StudyOfRun = Annotated[
    str | None, typer.Option(help="A study of yours, as my_module:STUDY.", show_default="the run's")
]


def _study_of(folder: Path, name: str | None) -> Study:
    """The study that was asked for, or the one that the folder's run was of."""
    from studies.engine.summary import Summary

    return registry.find(Summary.read(folder / "summary.json").study if name is None else name)


@app.command()
def judge(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    study: StudyOfRun = None,
) -> None:
    """Judge the results of an old run again, by the code of today; nothing is measured."""
    with _one_sentence(folder):
        from studies.engine.runner import rejudge

        summary = rejudge(_study_of(folder, study), folder)
    _finish(summary)


@app.command()
def figures(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    width: Annotated[str, typer.Option(help="Of a column, as in 3.5in, 88mm or 246pt.")] = "3.5in",
    formats: Annotated[str, typer.Option(help="pdf, svg, png; commas between.")] = "pdf,svg",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files.", show_default="FOLDER/figures")
    ] = None,
    study: StudyOfRun = None,
) -> None:
    """Draw the figures of a run again for a paper: at a width, with text that can be edited."""
    with _one_sentence(folder):
        from studies.engine.redraw import inches, redraw

        wanted = inches(width)
        paths = redraw(
            _study_of(folder, study),
            folder,
            folder / "figures" if out is None else out,
            width=wanted,
            formats=[part.strip() for part in formats.split(",")],
        )
    for path in paths:
        typer.echo(path)


def _assignment(text: str) -> tuple[str, object]:
    """``name=value``; the value as TOML, or as the text that it is."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes NAME=VALUE, got {text!r}.")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="Which paper: chai2020.")],
    preset: Preset = "laptop",
    data: Data = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results.", show_default="results/PAPER")
    ] = None,
    workers: Workers = None,
) -> None:
    """Run the studies that test a paper's claims; ends in one report with a verdict each."""
    folder = Path("results", paper) if out is None else out
    words = ["reproduce", paper, *_choices(preset, data, data_root, device, seed, folder)]
    with _one_sentence(folder):
        known_device(device)
        found = registry.find_paper(paper)
        from studies.engine.provenance import command_line
        from studies.engine.reproduce import reproduce as reproduce_paper

        summary = reproduce_paper(
            found,
            registry.find,
            preset,
            folder,
            device=device,
            workers=workers,
            command=command_line(words),
            data=data,
            data_root=data_root,
            seed=seed,
        )
    _finish(summary)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="TOML file: function, [grid] and [fixed].")],
    workers: Workers = None,
    cluster: Annotated[
        str | None, typer.Option(help="A Dask scheduler to run on, as in tcp://10.0.0.5:8786.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results.", show_default="results/FILE")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the grid and its cost; run nothing.")
    ] = False,
    time_one: Annotated[
        bool, typer.Option("--time-one", help="With --dry-run: run one cell to time it.")
    ] = False,
) -> None:
    """Run a function of yours over a grid; what is finished stays, and is not run again."""
    folder = Path("results", file.stem) if out is None else out
    with _one_sentence(folder):
        from studies.engine import sweep_file
        from studies.engine.provenance import command_line

        if time_one and not dry_run:
            raise UserError("--time-one goes with --dry-run.")
        if cluster is not None and workers is not None:
            raise UserError("a cluster has its own workers: leave out --workers.")
        asked = sweep_file.read(file)
        if dry_run:
            typer.echo(sweep_file.plan(asked, folder, workers=workers, time_one=time_one))
            return
        words = ["sweep", str(file), "--out", str(folder)]
        words += ["--cluster", cluster] if cluster is not None else []
        summary = sweep_file.run(
            asked, folder, workers=workers, cluster=cluster, command=command_line(words)
        )
    typer.echo(f"Report: {folder / 'report.html'}; table: {folder / 'results.csv'}")
    _finish(summary)


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another.")],
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path(
        "results", "compare.html"
    ),
) -> None:
    """Compare two runs, or two inspections: what was set, and the numbers that differ."""
    with _one_sentence(out.parent):
        from studies.engine import comparison as of_runs
        from studies.engine.files import output_folder

        comparison: Any = of_runs
        if (run_a / "inspection.json").exists() or (run_b / "inspection.json").exists():
            from studies.inspecting import comparison
        found = comparison.compare(run_a, run_b)
        typer.echo(comparison.text(found))
        output_folder(out.parent)
        comparison.write(found, out, run_a, run_b)
    typer.echo(f"Page: {out}")


def _choices(
    preset: str, data: str | None, data_root: Path | None, device: str, seed: int, folder: Path
) -> list[str]:
    words = ["--preset", preset]
    words += ["--data", data] if data is not None else []
    words += ["--data-root", str(data_root)] if data_root is not None else []
    return [*words, "--device", device, "--seed", str(seed), "--out", str(folder)]


@contextlib.contextmanager
def _one_sentence(folder: Path) -> Iterator[None]:
    """Print a ``UserError`` as one sentence; treat a closed terminal and SIGTERM like Ctrl-C."""
    try:
        with interruptible(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield
    except UserError as error:
        # it may begin with somebody's identifier, whose first letter stays as it is
        fail(f"naturalmodes: {_sentence(str(error))}", 2)
    except ModuleNotFoundError as error:
        fail(missing(error), 1)
    except KeyboardInterrupt:
        fail(f"Interrupted; what was finished is in {folder}.", 130)
    finally:
        sys.stdout.flush()


def _finish(summary: Summary) -> None:
    if summary.status != "complete":
        fail(f"The run is {summary.status}: {' '.join(map(_sentence, summary.problems))}", 1)


def _sentence(text: str) -> str:
    # not capitalised: the first word may be a name, and names have their own case
    return text if text.endswith((".", "?", "!")) else text + "."


inspecting.register(app, _one_sentence)
filters.register(app)
