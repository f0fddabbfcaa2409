"""Every Python block of the README and of the site runs alone, or says that it continues others.

A block whose first line is a file's name is that file, next to the blocks of its page. A block that
begins with ``# continues`` needs those above it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# a package in four files, which a test of its own builds and runs
OWN_TEST = {"write-your-own-study.md"}
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")))]
DOCTEST = """
import doctest, sys
test = doctest.DocTestParser().get_doctest(sys.stdin.read(), {}, "block", None, 0)
sys.exit(bool(doctest.DocTestRunner().run(test).failed))
"""


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def programs_of(page):
    """What is run of a page: each block, after those that it continues."""
    above = ""
    for text in blocks_of(page):
        if re.match(r"# \w+\.py\n", text):
            continue
        above = above + text if re.match(r"(>>> )?# continues\n", text) else text
        yield above


PROGRAMS = [
    pytest.param(page, number, id=f"{page.name}-{number}")
    for page in PAGES
    if page.name not in OWN_TEST
    for number, _ in enumerate(programs_of(page))
]


def test_pages_with_code_are_found():
    assert len(PROGRAMS) >= 20
    assert all(blocks_of(ROOT / "docs" / name) for name in OWN_TEST)


@pytest.mark.parametrize(("page", "number"), PROGRAMS)
def test_a_block_runs_alone_or_after_those_it_continues(page, number, tmp_path):
    for package in ("torch", "pandas", "matplotlib"):
        pytest.importorskip(package)
    for text in blocks_of(page):
        if name := re.match(r"# (\w+\.py)\n", text):
            (tmp_path / name[1]).write_text(text)
    program = list(programs_of(page))[number]
    code = DOCTEST if program.startswith(">>>") else program
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=program,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
