"""Opens a page in headless Chromium and says what went on there."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
]

# Runs in the page: every table is sorted by every column in turn, by the keyboard's own event.
PROBE = """
window.addEventListener("load", () => {
  const seen = {pictures: [], tables: [], fetched: []};
  for (const picture of document.images)
    seen.pictures.push({alt: picture.alt, width: picture.complete ? picture.naturalWidth : 0});
  for (const entry of performance.getEntriesByType("resource"))
    if (!entry.name.startsWith("data:")) seen.fetched.push(entry.name);
  document.querySelectorAll("table").forEach(table => {
    const column = i => [...table.tBodies[0].rows].map(row => row.cells[i].firstChild.textContent);
    const columns = [];
    table.querySelectorAll("th button").forEach((button, i) => {
      const states = [column(i)];
      for (let press = 0; press < 3; press++) {
        button.focus();
        if (document.activeElement !== button) throw new Error("no focus for " + button.innerText);
        button.click();
        states.push(column(i));
        states.push(button.parentNode.getAttribute("aria-sort"));
      }
      columns.push(states);
    });
    seen.tables.push(columns);
  });
  const note = document.createElement("pre");
  note.id = "seen";
  note.textContent = JSON.stringify(seen);
  document.body.append(note);
});
"""


def look(page, tmp_path):
    """What the browser saw on a page: pictures, tables as sorted, addresses fetched.

    The page is checked to have logged nothing to the console.
    """
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    probed = tmp_path / "probed.html"
    text = page.read_text().replace("</body>", f"<script>{PROBE}</script></body>")
    probed.write_text(text)
    done = subprocess.run(
        [
            CHROMIUM,
            *OPTIONS,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(unescape(found[1]))
    assert seen["fetched"] == []
    assert all(picture["width"] > 0 for picture in seen["pictures"])
    return seen
