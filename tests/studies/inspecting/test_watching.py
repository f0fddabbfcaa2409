"""``naturalmodes watch``: the table of a monitor in a terminal."""

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from cnnbridge import Monitor
from studies.cli import app
from studies.inspecting.watching import view, watch


def trained(path, steps=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    with Monitor(model, every=1, csv_path=path, quiet=True) as monitor:
        for step in range(steps):
            model((1 + step) * torch.randn(8, 1, 6, 6))
            monitor.step(lr=0.01)
    return monitor


def call(*arguments):
    return CliRunner().invoke(app, ["watch", *map(str, arguments)])


def test_the_last_reading_of_every_layer(tmp_path):
    monitor = trained(tmp_path / "run.csv")
    shown = view(tmp_path / "run.csv").splitlines()
    assert shown[-1].startswith("Step 2.")
    for line, name in zip(shown[2:4], ("0", "2"), strict=True):
        assert line.split()[0] == name
        assert float(line.split()[1]) == pytest.approx(monitor.latest[name].lambda_max, rel=1e-2)
        # the power grows with each step, and so does the margin used up
        assert line.split()[-1][-1] == "█"
        assert line.split()[-1][0] == "▁"


def test_a_margin_that_is_used_up_is_told(tmp_path):
    path = tmp_path / "run.csv"
    trained(path)
    text = path.read_text().splitlines()
    cells = text[-1].split(",")
    cells[text[0].split(",").index("lr_over_bound")] = "1.5"
    path.write_text("\n".join([*text[:-1], ",".join(cells)]) + "\n")
    assert "At or above the layer's own bound" in view(path)
    assert view(path).endswith("2.")


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    path = tmp_path / "run.csv"
    trained(path)
    whole = view(path)
    path.write_text(path.read_text() + "3,0,1.5")
    assert view(path) == whole


def test_a_run_of_plain_readings_without_rate(tmp_path):
    path = tmp_path / "run.csv"
    model = nn.Linear(3, 2)
    with Monitor(model, every=1, csv_path=path, quiet=True) as monitor:
        model(torch.randn(4, 3))
        monitor.step()
    assert "–" in view(path)


def test_once(tmp_path):
    trained(tmp_path / "logs.csv")
    for place in (tmp_path / "logs.csv", tmp_path):
        result = call(place, "--once")
        assert result.exit_code == 0, result.output
        assert "Step 2." in result.stdout
    (tmp_path / "empty.csv").write_text((tmp_path / "logs.csv").read_text().splitlines()[0] + "\n")
    assert "has no reading yet" in call(tmp_path / "empty.csv", "--once").stdout


def test_it_shows_changes_alone(tmp_path):
    path, shown = tmp_path / "run.csv", []
    trained(path)

    def echo(text):
        shown.append(text)
        if len(shown) == 1:
            trained(path, steps=1)

    watch(path, 0.01, echo, clear=False, rounds=4)
    assert len(shown) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read"), ("a,b\n1,2\n", "must be the csv_path of a Monitor; it has no step")],
)
def test_another_file_is_one_sentence(content, words, tmp_path):
    path = tmp_path / "run.csv"
    if content is not None:
        path.write_text(content)
    result = call(path, "--once")
    assert result.exit_code == 2
    assert words in result.stderr
    (tmp_path / "none").mkdir()
    assert "has no .csv file" in call(tmp_path / "none", "--once").stderr
