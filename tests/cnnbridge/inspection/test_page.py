import base64
import hashlib
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cnnbridge.inspection.page as module
from cnnbridge import SGD
from cnnbridge.inspection.page import COLOURS, overview, page
from cnnbridge.inspection.pictures import mode_picture
from cnnbridge.inspection.record import LayerCurvature
from tests.cnnbridge.inspection.test_record import a_layer, an_inspection

pytest.importorskip("jinja2")
VENDOR = Path(module.__file__).parent / "vendor"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def a_network(layers=4, channels=3):
    rng = np.random.default_rng(0)
    made = []
    for i in range(layers):
        values = np.sort(np.exp(rng.normal(size=(1, 9 * channels))))
        modes = rng.normal(size=(1, 4, channels, 3, 3))
        parts = dict.fromkeys(("none", "center", "amplify", "suppress", "full"), values[0])
        curved = LayerCurvature(values[:, :8], values[:, :8], values[:, :8] / 9, math.nan, 0.4)
        made.append(
            a_layer(
                f"block{i}.conv",
                kind="Conv2d" if i % 2 else "Linear",
                kernel=(3, 3),
                taps=9 * channels,
                eigenvalues=values,
                strongest=modes,
                weakest=modes,
                normalization=parts,
                curvature=curved,
            )
        )
    return an_inspection(*made)


def test_the_vendored_library_is_the_one_that_is_named():
    for line in (VENDOR / "SHA256SUMS").read_text().splitlines():
        wanted, name = line.split()
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == wanted
    assert "v4.1.1" in (VENDOR / "plotly-basic.min.js").read_text()[:300]


def test_a_picture_has_a_pixel_a_weight():
    uri, shown = mode_picture(np.ones((2, 3, 3)), 100)
    content = base64.b64decode(uri.split(",")[1])
    size = [int.from_bytes(content[i : i + 4], "big") for i in (16, 20)]
    assert (content[:4], shown, sorted(size)) == (b"\x89PNG", 2, [3, 7])


def test_a_picture_shows_the_channels_that_hold_most():
    assert mode_picture(np.eye(50)[:, :9].reshape(50, 3, 3), 18)[1] == 2


def test_the_page_of_100_layers_is_below_3_mb():
    assert len(page(a_network(100, channels=128)).encode()) < 3_000_000


def test_names_cannot_end_the_data():
    text = page(an_inspection(a_layer("</script><b>")))
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(data)["layers"][0]["name"] == "</script><b>"


def test_the_edge_is_where_the_rate_meets_a_mode():
    sgd = SGD(0.1, momentum=0.9, weight_decay=0.01)
    line = overview([a_layer(sgd=sgd)])["traces"][-1]["y"]
    assert sgd.highest_rate(line[0]) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"eigenvalues": np.zeros((1, 3)), "rounding": np.zeros(1)},
        {"sgd": None},
        {"strongest": np.ones((1, 1, 4)), "weakest": np.ones((1, 0, 4)), "kernel": (1,)},
    ],
)
def test_odd_layers_have_a_panel(changes):
    assert "features.0" in page(an_inspection(replace(a_layer(), **changes)))


def test_the_page_without_layers_says_so():
    assert "No layer was read." in page(an_inspection(layers={}))


@pytest.mark.parametrize("ground", ["#ffffff", "#14171b"])
@pytest.mark.parametrize("colour", COLOURS.values())
def test_lines_can_be_seen_on_both_grounds(colour, ground):
    def luminance(text):
        parts = np.array([int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(colour), luminance(ground)))
    assert (high + 0.05) / (low + 0.05) > 3


def test_the_page_in_a_browser(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    path = tmp_path / "report.html"
    path.write_text(page(a_network()))
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((1400, "light"), (390, "dark")):
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said, asked = [], []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(path.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            tab.focus("#overview")
            tab.keyboard.press("Home")
            assert "block0.conv" in tab.inner_text("#pointed")
            tab.keyboard.press("ArrowRight")
            tab.keyboard.press("Enter")
            assert tab.inner_text("#panel-name") == "block1.conv"
            tab.click("#table tbody button >> nth=2")
            assert tab.inner_text("#panel-name") == "block2.conv"
            assert tab.evaluate("location.hash") == "#block2.conv"
            tab.fill("#find", "block3")
            assert tab.inner_text("#count") == "1 of 4 layers"
            tab.fill("#find", "")
            tab.click("#table thead button >> nth=0")
            tab.click("#table thead button >> nth=0")
            assert tab.inner_text("#table tbody th >> nth=0") == "block3.conv"
            titles = tab.evaluate(
                "[...document.querySelectorAll('.modebar-btn')].map(b => b.outerHTML).join()"
            )
            assert "hare" not in titles
            assert tab.evaluate("[...document.images].every(i => i.naturalWidth && i.alt)")
            assert said == []
            assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
            tab.close()
        browser.close()
