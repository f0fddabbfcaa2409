"""Pages of the gallery: each script is run, and shown with its figure and its words."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["write"]


def write(scripts: Path, folder: Path) -> None:
    """Run every script that has changed and write its page, its notebook and the list of all.

    Raises
    ------
    subprocess.CalledProcessError : a script fails, as when an assertion does not hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index: list[str] = []
    names = []
    for script in sorted(scripts.glob("*.py")):
        source = script.read_text(encoding="utf-8")
        tree = ast.parse(source)
        words = (ast.get_docstring(tree) or "").split("\n\n")
        title = " ".join(words[0].split()).rstrip(".")
        text = [part for part in words[1:] if not part.startswith("    ")]
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        figure = folder / f"{script.stem}.png"
        stamp = folder / f"{script.stem}.hash"
        if not stamp.exists() or stamp.read_text() != digest or not figure.exists():
            here = {**os.environ, "PYTHONPATH": str(scripts.parents[1])}
            subprocess.run([sys.executable, str(script), str(figure)], check=True, env=here)
            stamp.write_text(digest)
        notebook = folder / f"{script.stem}.ipynb"
        notebook.write_text(_notebook(title, "\n\n".join(text), source), encoding="utf-8")
        page = [f"# {title}", "", *"\n\n".join(text).splitlines(), ""]
        page += [f"![{title}]({figure.name})", ""]
        page += [
            f"```{{literalinclude}} ../{scripts.name}/{script.name}",
            ":language: python",
            "```",
        ]
        page += ["", f"{{download}}`Script <../{scripts.name}/{script.name}>`,"]
        page += [f"{{download}}`notebook <{notebook.name}>`.", ""]
        (folder / f"{script.stem}.md").write_text("\n".join(page), encoding="utf-8")
        here = f"../{folder.name}/{script.stem}"
        index += [f"**[{title}]({here}.md)**", "", f"[![{title}]({here}.png)]({here}.md)", ""]
        names.append(f"../{folder.name}/{script.stem}")
    index += ["```{toctree}", ":hidden:", "", *names, "```", ""]
    (folder / "all.txt").write_text("\n".join(index), encoding="utf-8")


def _notebook(title: str, text: str, source: str) -> str:
    """The script as a notebook: its words, its code, and the figure in a last cell."""
    code = source.replace('if __name__ == "__main__":', "if False:  # below instead")
    show = 'main("figure.png")\nfrom IPython.display import Image\n\nImage("figure.png")'
    cells = [
        {"cell_type": "markdown", "id": "words", "metadata": {}, "source": f"# {title}\n\n{text}"},
        *(
            {
                "cell_type": "code",
                "id": name,
                "metadata": {},
                "source": part,
                "outputs": [],
                "execution_count": None,
            }
            for name, part in (("code", code), ("figure", show))
        ),
    ]
    return json.dumps(
        {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1
    )
