"""Formulas of the site as MathML, which browsers typeset without a script or a font of ours."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

__all__ = ["setup"]

log = logging.getLogger(__name__)


def mathml(formula: str, display: str) -> str:
    """The formula as MathML.

    Raises
    ------
    ValueError : a command is unknown, or the formula is cut short.
    """
    text = convert(formula, display=display)
    unknown = re.search(r"\\[a-zA-Z]+", text)
    if unknown or not re.fullmatch(r"<math.*</math>", text, re.DOTALL):
        raise ValueError(f"formula must be of known commands; got {unknown and unknown[0]}")
    return text


def setup(app: Any) -> dict[str, bool]:
    """Render ``$formula$`` as MathML; a formula that fails is a warning with its place."""

    def draw(display: str) -> Any:
        def visit(writer: Any, node: Any) -> None:
            try:
                tag = "div" if display == "block" else "span"
                formula = mathml(node.astext(), display)
                writer.body.append(f'<{tag} class="math">{formula}</{tag}>')
            except Exception as problem:  # whatever the parser meets
                log.warning("%s: %s", node.astext(), problem, location=node)
            raise nodes.SkipNode

        return visit

    app.add_html_math_renderer("mathml", (draw("inline"), None), (draw("block"), None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
