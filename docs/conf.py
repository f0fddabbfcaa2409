"""The site: ``make docs``. Its pages are the Markdown files here, docstrings and scripts."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import examples
import reference

import adaptive

project = "naturalmodes"
author = "The naturalmodes developers"
version = release = adaptive.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_copybutton",
    "formulas",
]
exclude_patterns = ["scripts"]
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"


autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_title = "naturalmodes"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

LISTS = ("Parameters", "Attributes", "Other Parameters", "Raises", "Warns")
PROSE = ("Returns", "Yields")


def sections(lines: list[str]) -> list[tuple[str, list[str]]]:
    """A numpydoc docstring as titles and bodies; the first title is empty."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line and re.fullmatch("-{3,}", below.strip()) and len(below.strip()) == len(line):
            found.append((line, []))
        elif found[-1][0] and re.fullmatch("-{3,}", line) and not found[-1][1]:
            continue
        else:
            found[-1][1].append(line)
    return found


def plain_names(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Put the text of ``name : text`` on the next line, since numpydoc reads a type there."""
    out: list[str] = []
    for title, body in sections(lines):
        out += [title, "-" * len(title)] if title else []
        text = "\n".join(body).strip("\n")
        if title in PROSE and text:
            first, _, rest = re.sub(r"([.,;:])(\s|$)", "\\1\0", text, count=1).partition("\0")
            first = " ".join(first.rstrip(".,;:").split())
            if len(first) > 70:
                first, rest = "result", text
            out += [first, *(f"    {line.strip()}" for line in rest.strip().splitlines()), ""]
        else:
            for line in body:
                head, colon, rest = line.partition(" : ")
                if title in LISTS and colon and not line.startswith(" "):
                    out += [head, f"    {rest}"]
                else:
                    out.append(line)
    lines[:] = out


def no_markup(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what is mathematics to us and markup to reStructuredText: ``|w|^2`` and ``e*(n)``."""
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...", "..", ":", "* ")):
            continue
        parts = re.split(r"(``.*?``)", line)
        if len(re.findall(r"(?<!\*)\*(?!\*)", "".join(parts[::2]))) % 2:  # no emphasis: a product
            parts[::2] = [re.sub(r"(?<![*\\])\*(?!\*)", r"\\*", part) for part in parts[::2]]
        parts[::2] = [re.sub(r"(?<![\\\w])\|(?=\S)|(?<=\S)\|", r"\\|", part) for part in parts[::2]]
        lines[i] = "".join(parts)


def setup(app: Any) -> None:
    """Write the pages that are made; connect a hook before numpydoc and one after it."""
    here = Path(__file__).parent
    reference.write(here / "api")
    examples.write(here / "gallery", here / "examples")
    app.connect("autodoc-process-docstring", plain_names, priority=100)
    app.connect("autodoc-process-docstring", no_markup, priority=600)
