"""docs/add-a-filter.md is complete, short, and runs."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-a-filter.md"


def test_the_walk_through_runs_as_it_is_printed():
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 3
    names = {"__name__": "add_a_filter"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["TaperedLMS"].name == "tapered_lms"
