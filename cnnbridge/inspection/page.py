"""The page of an inspection: one file that needs no network, with figures to point at and click.

Python makes the numbers and the overview, a plotly figure as plain data; ``inspection.js`` draws
them and opens the panel of a layer.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from adaptive.checks import Array
from cnnbridge.inspection.pictures import mode_picture
from cnnbridge.inspection.record import COLUMNS, Inspection, LayerInspection
from cnnbridge.learning.sgd import SGD

__all__ = ["COLOURS", "overview", "page"]

HERE = Path(__file__).parent
# each readable on white and on the dark page
COLOURS = {"spectrum": "#2f7fb8", "rate": "#d1600f", "loss": "#9a63d6", "own": "#129276"}
# eigenvalues of a layer that are drawn; the arrays beside the page have all
DRAWN, DRAWN_OF_PART = 150, 50
# bytes that the mode pictures of a page may take together, and what one takes without pixels
PICTURES, FRAME = 800_000, 250
# weights that a picture shows at most, and at least where there are as many
MOST_WEIGHTS, FEWEST_WEIGHTS = 9_216, 64
PARTS = {
    "none": "no normalization",
    "center": "centred",
    "amplify": "weak channels amplified",
    "suppress": "strong channels suppressed",
    "full": "fully normalized",
}
LEVELS = {2: "layer, rest frozen", 3: "network, fixed Jacobian", 4: "network, relinearized"}


def page(inspection: Inspection) -> str:
    """The whole page as HTML.

    Raises
    ------
    ModuleNotFoundError : jinja2 is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "report.html needs jinja2, which is not installed. "
            "In a checkout: pip install '.[inspect]'",
            name=error.name,
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    layers = list(inspection.layers.values())
    data = {
        "colours": COLOURS,
        "overview": overview(layers),
        "layers": [_panel(layer, _weights(layers)) for layer in layers],
        "open": layers.index(inspection.tightest) if inspection.tightest else 0,
    }
    return environment.get_template("inspection.html.j2").render(
        inspection=inspection,
        lead=_lead(inspection),
        columns=COLUMNS,
        rows=[_row(layer) for layer in layers],
        kinds=sorted({layer.kind for layer in layers}),
        style=Markup((HERE / "templates" / "inspection.css").read_text("utf-8")),
        script=Markup((HERE / "templates" / "inspection.js").read_text("utf-8")),
        library=Markup(_library()),
        data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),
    )


def overview(layers: list[LayerInspection]) -> dict[str, Any]:
    """The network from left to right: each layer's spectrum, in units of curvature.

    The curvature of a mode is 2 lambda / M, that of the layer's own MSE with M outputs, so that
    one line of ``rate`` fits all layers: a mode above it diverges at the rate trained at.
    """
    spectra = [2 * layer.excited / layer.out_channels for layer in layers]
    places = list(range(len(layers)))
    bands = [
        [_short(v) for v in np.quantile(spectrum, (0, 0.1, 0.5, 0.9, 1))] if spectrum.size else None
        for spectrum in spectra
    ]
    floor = min((band[0] for band in bands if band), default=1.0)
    nothing: list[float | None] = [None] * 5
    filled = [band or nothing for band in bands]

    def bar(low: int, high: int, width: float, opacity: float) -> dict[str, Any]:
        lengths = [_short(b[high] - b[low]) if b else None for b in bands]
        return {
            "type": "bar",
            "x": places,
            "base": [b[low] for b in filled],
            "y": lengths,
            "width": width,
            "marker": {"color": COLOURS["spectrum"], "opacity": opacity},
            "hoverinfo": "skip",
        }

    def marks(values: list[Any], colour: str, symbol: str, size: int) -> dict[str, Any]:
        line = {"width": 3, "color": COLOURS[colour]}
        marker = {"symbol": symbol, "size": size, "color": COLOURS[colour], "line": line}
        return {
            "type": "scatter",
            "mode": "markers",
            "x": places,
            "y": values,
            "marker": marker,
            "hoverinfo": "skip",
        }

    pointed = marks([b[2] if b else _short(floor) for b in bands], "own", "line-ew", 9)
    pointed |= {"text": [_hover(layer) for layer in layers], "hoverinfo": "text"}
    losses = [
        None if layer.curvature is None else _positive(layer.curvature.curvature.max())
        for layer in layers
    ]
    silent = [None if band else _short(floor) for band in bands]
    edges = [_edge(layer.sgd) for layer in layers]
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [-0.5, *places, len(layers) - 0.5],
        "y": [*edges[:1], *edges, *edges[-1:]],
        "line": {"color": COLOURS["rate"], "dash": "dash", "width": 2, "shape": "hvh"},
        "hoverinfo": "skip",
    }
    step = max(1, -(-len(layers) // 40))
    return {
        "traces": [
            bar(0, 4, 0.12, 0.65),
            bar(1, 3, 0.5, 0.85),
            pointed,
            marks(losses, "loss", "line-ew", 11),
            marks(silent, "rate", "x-thin", 7),
            line,
        ],
        "ticks": places[::step],
        "names": [_tick(layer.name) for layer in layers[::step]],
    }


def _lead(inspection: Inspection) -> str:
    """What the page says first: the rate trained at, and where its limit is closest."""
    tightest, sgd = inspection.tightest, inspection.sgd
    if tightest is None:
        return "No layer was read."
    at = "No learning rate was given." if sgd is None else f"Trained at lr {sgd.lr:.3g}."
    where = f"{_text(tightest.bound)} ({tightest.name!r})"
    return f"{at} The lowest bound of a layer taken alone is {where}."


def _panel(layer: LayerInspection, most: int) -> dict[str, Any]:
    """What the panel of one layer shows."""
    spectrum = np.sort(layer.eigenvalues, axis=None)[-layer.rank :] if layer.rank else np.empty(0)
    return {
        "name": layer.name,
        "summary": str(layer) + ".",
        "facts": _facts(layer),
        "modes": _modes(layer, most),
        "shown": min(layer.rank, DRAWN),
        "rank": layer.rank,
        "spectrum": _thinned(spectrum, DRAWN),
        "edge": _short_or_none(_own_edge(layer)),
        "slope": _short(2 / layer.out_channels),
        "curvature": _curvature(layer),
        "normalization": [
            [PARTS.get(part, part), *_thinned(np.asarray(values), DRAWN_OF_PART)]
            for part, values in layer.normalization.items()
        ],
        "horizons": [
            [LEVELS.get(h.level, str(h.level)), _horizon(h.horizon, h.steps), _text(h.error)]
            for h in layer.horizons
        ],
    }


def _facts(layer: LayerInspection) -> list[tuple[str, str]]:
    sgd, curved = layer.sgd, layer.curvature
    kernel = " x ".join(map(str, layer.kernel))
    groups = f" in {layer.groups} groups" if layer.groups > 1 else ""
    facts = [
        ("Shape", f"{layer.in_channels} to {layer.out_channels} channels{groups}, kernel {kernel}"),
        ("Patches", f"{layer.patches:,} of {layer.seen:,}"),
        ("Modes excited", f"{layer.rank:,} of {layer.groups * (layer.taps + layer.bias):,}"),
        ("Effective rank", _text(layer.effective_rank)),
        ("Largest eigenvalue", _text(layer.largest)),
        ("Weakest excited", _text(layer.smallest)),
        ("Power in the mean", f"{layer.mean_share:.0%}"),
        ("Bound, layer alone", f"lr {_text(layer.bound)}"),
    ]
    if not math.isnan(layer.largest_low):
        facts.append(("Largest eigenvalue, low reading", _text(layer.largest_low)))
    if curved is not None:
        facts.append(("Bound, loss that is trained", f"lr {_text(curved.bound)}"))
    if sgd is not None:
        facts.append(("Slowest mode, layer alone", f"{_text(layer.slowest)} steps to 1/e"))
    quiet = {"dead": len(layer.dead_channels), "constant": len(layer.constant_channels)}
    facts += [(f"Input channels {kind}", str(many)) for kind, many in quiet.items() if many]
    if layer.unseen_taps:
        facts.append(("Taps that see only zero", str(layer.unseen_taps)))
    return facts


def _modes(layer: LayerInspection, most: int) -> list[dict[str, str]]:
    """Pictures of the first group's modes, the strongest first, then the weakest."""
    excited = np.flatnonzero(layer.eigenvalues[0] > layer.rounding[0])
    strong, weak = excited[::-1], excited
    found = []
    for kind, modes, places in (
        ("strongest", layer.strongest[0], strong),
        ("weakest", layer.weakest[0], weak),
    ):
        # those that are rounding have nothing to show
        for i, (mode, place) in enumerate(zip(modes, places, strict=False)):
            uri, shown = mode_picture(mode, most)
            steps = layer.time_constants[0, place]
            number = "" if i == 0 else f" {i + 1}"
            part = "" if shown == len(mode) else f", its {shown} channels of most weight"
            title = f"{kind}{number}"
            alt = (
                f"Mode {title} of {layer.name}: {' x '.join(map(str, mode.shape))} weights{part}; "
                f"red is positive, blue negative."
            )
            found.append(
                {
                    "src": uri,
                    "alt": alt,
                    "title": title,
                    "value": f"λ {_text(layer.eigenvalues[0, place])}",
                    "steps": "" if math.isnan(steps) else f"{_text(steps)} steps",
                    "part": f"{shown} of {len(mode)} channels" if part else "",
                }
            )
    return found


def _curvature(layer: LayerInspection) -> dict[str, Any] | None:
    if layer.curvature is None:
        return None
    found = layer.curvature
    value, curvature = found.eigenvalues.ravel(), found.curvature.ravel()
    shown = (value > 0) & (curvature > 0)
    return {
        "x": [_short(v) for v in value[shown]],
        "y": [_short(v) for v in curvature[shown]],
        "error": [_short(v) for v in found.standard_error.ravel()[shown]],
        "left_out": int(np.count_nonzero(~shown)),
    }


def _row(layer: LayerInspection) -> dict[str, Any]:
    cells = [(_text(v), _short_or_none(v)) for v in list(layer.row.values())[2:]]
    return {"name": layer.name, "kind": layer.kind, "cells": cells}


def _weights(layers: list[LayerInspection]) -> int:
    """Weights a picture may show, so that those of all layers fit into ``PICTURES``."""
    many = sum(layer.strongest.shape[1] + layer.weakest.shape[1] for layer in layers)
    # four bits a weight, a third more as base64
    room = (PICTURES / max(1, many) - FRAME) * 2 * 3 / 4
    return int(min(MOST_WEIGHTS, max(FEWEST_WEIGHTS, room)))


def _thinned(values: Array, most: int) -> tuple[list[int], list[float]]:
    """Ranks from 1 and the positive values in descending order, thinned evenly in log rank."""
    values = np.sort(values[values > 0])[::-1]
    ranks = np.arange(1, len(values) + 1)
    if len(values) > most:
        ranks = np.unique(np.rint(np.geomspace(1, len(values), most)).astype(int))
    return [int(r) for r in ranks], [_short(values[r - 1]) for r in ranks]


def _edge(sgd: SGD | None) -> float | None:
    """The curvature from which a mode diverges at the rate trained at."""
    if sgd is None:
        return None
    return _positive(2 * (1 + sgd.momentum) / sgd.lr - sgd.weight_decay)


def _own_edge(layer: LayerInspection) -> float:
    """The same as an eigenvalue of the layer's R."""
    edge = _edge(layer.sgd)
    return math.nan if edge is None else edge * layer.out_channels / 2


def _hover(layer: LayerInspection) -> str:
    lines = [
        _plain(layer.name),
        f"eigenvalues {_text(layer.smallest)} to {_text(layer.largest)}",
        f"bound, layer alone: lr {_text(layer.bound)}",
    ]
    if layer.curvature is not None:
        lines.append(f"bound, trained loss: lr {_text(layer.curvature.bound)}")
    if not layer.rank:
        lines[1] = "its input is zero"
    return "<br>".join(lines)


def _tick(name: str, most: int = 24) -> str:
    return _plain(name if len(name) <= most else "…" + name[1 - most :])


def _plain(name: str) -> str:
    """A name of the user's, kept from being read as markup in a figure."""
    return name.replace("&", "&amp;").replace("<", "&lt;")


def _horizon(steps: int, most: int) -> str:
    return f"over {most:,} steps" if steps >= most else f"{steps:,} steps"


def _text(value: Any) -> str:
    if isinstance(value, str | int):
        return f"{value:,}" if isinstance(value, int) else value
    value = float(value)
    if math.isnan(value):
        return "–"
    return f"{value:.3g}" if math.isfinite(value) else ("∞" if value > 0 else "-∞")


def _short(value: Any) -> float:
    return float(f"{float(value):.4g}")


def _short_or_none(value: Any) -> float | str | None:
    """For JSON and for sorting: NaN as nothing, an infinity as the word for it."""
    value = float(value)
    if math.isnan(value):
        return None
    return _short(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _positive(value: Any) -> float | None:
    return _short(value) if value > 0 and math.isfinite(value) else None


def _library() -> str:
    """plotly.js, with nothing in it that would end the element that holds it."""
    text = (HERE / "vendor" / "plotly-basic.min.js").read_text("utf-8")
    return text.replace("</script", "<\\/script")
