"""``naturalmodes simulate``, ``filter`` and ``design``: the commands of ``adaptive``, passed on."""

from __future__ import annotations

import typer

__all__ = ["register"]

ABOUT = {
    "simulate": "Predict and simulate an adaptive filter, and compare the two.",
    "filter": "Filter one recording to match another: error, table and page.",
    "design": "Find the step size for a misadjustment or a time, and what it costs.",
}


def register(app: typer.Typer) -> None:
    """Add the commands, whose options ``adaptive.command`` reads."""
    for name, about in ABOUT.items():
        app.command(
            name,
            help=about,
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )(_passed_on)


def _passed_on(context: typer.Context) -> None:
    from adaptive.command import main

    words = [str(context.info_name), *context.args]
    raise typer.Exit(main(words, prog="naturalmodes"))
