"""Every gallery script draws its figure and holds what it claims; the guides' numbers too."""

import runpy
from pathlib import Path

import numba
import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="millions of samples")
@pytest.mark.parametrize("script", sorted(p.name for p in (DOCS / "gallery").glob("*.py")))
def test_gallery(script, tmp_path):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "figure.png"
    runpy.run_path(str(DOCS / "gallery" / script))["main"](str(figure))
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size > 10_000


@pytest.mark.parametrize("guide", ["coming-from-matlab.md", "coming-from-python-filters.md"])
def test_guides_run(guide):
    """The Python blocks of a guide run one after the other, with what they assert."""
    lines, code, inside = (DOCS / guide).read_text(encoding="utf-8").splitlines(), [], False
    for line in lines:
        if line.startswith("```"):
            inside = line == "```python"
        elif inside:
            code.append(line)
    assert code
    exec(compile("\n".join(code), guide, "exec"), {})
