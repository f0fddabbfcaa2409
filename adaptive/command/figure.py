"""The figure of ``python -m adaptive``, where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adaptive.command.report import Report


def draw(path: Path, report: Report) -> str:
    """Draw the figure; what to add to the list of files, or why there is none."""
    try:
        from matplotlib.figure import Figure

        from adaptive import plotting
    except ModuleNotFoundError:
        return " (no figure, since matplotlib is not installed: pip install matplotlib)"
    figure = Figure(figsize=(7.5, 7.0), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[1.15, 1])
    wide = figure.add_subplot(grid[0, :])
    e, p = report.ensemble, report.prediction
    plotting.learning_curve(wide, ensemble=e, prediction=p, k=report.given["k"])
    mu = "" if np.isnan(e.mu) else f", $\\mu$ = {e.mu:g}"
    wide.set_title(f"{e.algorithm}{mu}, {report.problem.taps} taps, {report.given['scenario']}")
    plotting.mode_decay(figure.add_subplot(grid[1, 0]), report.problem, ensemble=e, prediction=p)
    # only for LMS is 2 / mu a bound on the eigenvalues
    step = e.mu if e.algorithm == "lms" else None
    plotting.eigenvalue_spectrum(figure.add_subplot(grid[1, 1]), report.problem, mu=step)
    figure.savefig(path, dpi=150)
    return ", curves.png"
