"""``naturalmodes inspect``: a network by its name, looked at from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register"]

Several = list[str] | None


def register(
    app: typer.Typer, one_sentence: Callable[[Path], AbstractContextManager[None]]
) -> None:
    """Add the command; ``one_sentence`` shows what goes wrong as one."""

    @app.command()
    def inspect(
        target: Annotated[
            str, typer.Argument(help="module:function, torchvision:NAME or timm:NAME.")
        ],
        weights: Annotated[
            str | None, typer.Option(help="A state_dict, by torch.save or as .safetensors.")
        ] = None,
        data: Annotated[
            str,
            typer.Option(help="folder:PATH, mnist5k, cifar10, or module:function for batches."),
        ] = "mnist5k",
        data_root: Annotated[str | None, typer.Option(help="For cifar10: its folder.")] = None,
        images: Annotated[int, typer.Option(min=1, help="Of a named set, at most.")] = 128,
        batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 32,
        image_size: Annotated[
            int | None, typer.Option(help="Side in pixels.", show_default="32, or the set's own")
        ] = None,
        loss: Annotated[
            str, typer.Option(help="cross_entropy, mse, model (its own) or module:function.")
        ] = "cross_entropy",
        lr: Annotated[float | None, typer.Option(help="The rate that it is trained at.")] = None,
        momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.0,
        weight_decay: Annotated[float, typer.Option(help="Of SGD.")] = 0.0,
        layers: Annotated[
            Several, typer.Option(help="Names with * and ?, separated by commas.")
        ] = None,
        samples: Annotated[int, typer.Option(help="Patches that a large layer keeps.")] = 1024,
        parts: Annotated[
            Several, typer.Option(help="curvature, sharpness, degree.", show_default="curvature")
        ] = None,
        closely: Annotated[
            Several, typer.Option(help="Layers whose horizon and norms to look at, too.")
        ] = None,
        budget: Annotated[
            str | None, typer.Option(help="Such as 90s, 2m or '12 steps'; the rest is left out.")
        ] = None,
        eval_: Annotated[
            bool, typer.Option("--eval", help="In evaluation mode, not as it is built.")
        ] = False,
        device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
        seed: Annotated[int, typer.Option(min=0, help="Of weights, images and samples.")] = 0,
        checkpoints: Annotated[
            str | None, typer.Option(help="Pattern such as 'run/*.pt': inspect each of the files.")
        ] = None,
        workers: Annotated[
            int | None,
            typer.Option(help="Processes, for checkpoints.", show_default="one per core"),
        ] = None,
        cluster: Annotated[
            str | None, typer.Option(help="A Dask scheduler, for checkpoints.")
        ] = None,
        out: Annotated[
            Path | None, typer.Option(help="Folder.", show_default="results/TARGET")
        ] = None,
    ) -> None:
        """Look at every layer of a network: modes, spectra, bounds, what limits the rate.

        A run that was interrupted goes on when it is started again.
        """
        folder = Path("results", target.replace(":", "-")) if out is None else out
        with one_sentence(folder):
            from studies.engine.device import choose_device
            from studies.engine.files import output_folder
            from studies.inspecting import looking
            from studies.inspecting.targets import Request

            request = Request(
                target=target,
                weights=weights,
                data=data,
                data_root=data_root,
                images=images,
                batch=batch,
                image_size=image_size,
                loss=loss,
                lr=lr,
                momentum=momentum,
                weight_decay=weight_decay,
                samples=samples,
                budget=budget,
                seed=seed,
                eval=eval_,
                device=choose_device(device),
                layers=looking.names(layers),
                parts=looking.names(parts) or ("curvature",),
                closely=looking.names(closely) or (),
            )
            output_folder(folder)
            if checkpoints is not None:
                _checkpoints(request, checkpoints, folder, workers, cluster)
                return
            try:
                found = looking.look(request, folder, looking.progress_line(budget))
            finally:
                if sys.stderr.isatty():
                    typer.echo(err=True)
        typer.echo(looking.summary_text(found))
        typer.echo(f"Report: {folder / 'report.html'}; table: {folder / 'layers.csv'}")

    @app.command()
    def watch(
        log: Annotated[Path, typer.Argument(help="A Monitor's csv_path, or a folder with some.")],
        every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 2.0,
        once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    ) -> None:
        """Follow a training run that a Monitor logs: each layer's spectrum and margin."""
        with one_sentence(log):
            from studies.inspecting import watching

            clear = not once and sys.stdout.isatty()
            watching.watch(log, every, typer.echo, clear=clear, rounds=1 if once else None)


def _checkpoints(
    request: Any, pattern: str, folder: Path, workers: int | None, cluster: str | None
) -> None:
    from studies.engine.errors import UserError
    from studies.inspecting import checkpoints

    if request.weights is not None:
        raise UserError("--checkpoints are weights: leave out --weights.")
    if cluster is not None and workers is not None:
        raise UserError("a cluster has its own workers: leave out --workers.")
    files = checkpoints.found_files(pattern)
    cells = checkpoints.inspect_checkpoints(
        request, files, folder, workers=workers, cluster=cluster
    )
    typer.echo(f"Report: {folder / 'report.html'}; table: {folder / 'checkpoints.csv'}")
    failed = [(f, c.error) for f, c in zip(files, cells, strict=True) if c.error is not None]
    if failed:
        path, error = failed[0]
        typer.echo(f"{len(failed)} of {len(files)} checkpoints failed; {path}: {error}", err=True)
        raise typer.Exit(1)
