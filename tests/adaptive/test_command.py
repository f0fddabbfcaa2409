"""``python -m adaptive``: what it prints and writes, and how it refuses."""

import csv
import doctest
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile

import adaptive
from adaptive import command
from adaptive.command import exits
from adaptive.command.progress import Watched
from adaptive.files import commit

SHORT = ["--steps", "60", "--runs", "40", "--threads", "1"]


def run(capsys, *arguments):
    code = command.main([*arguments, *SHORT])
    captured = capsys.readouterr()
    # a busy machine may take long enough to be told of progress
    assert re.fullmatch(r"(\d+ of 40 runs, about \d+ s left\n)*", captured.err)
    lost, failed = re.search(r"\d+ of 40 runs diverged", captured.out), "The prediction fails"
    assert code == (exits.DIVERGED if lost else 4 * (failed in captured.out))
    return captured.out


def test_the_table_the_files_and_the_numbers_in_them(tmp_path, capsys):
    out = run(
        capsys, "--algorithm", "nlms", "--mu", "0.5", "--taps", "8", "--input", "ar",
        "--coefficients", "0.9", "--noise", "0.01", "--seed", "3", "--out",
        str(tmp_path / "a" / "b"),
    )  # fmt: skip
    for words in (
        "nlms with mu = 0.5: 40 runs of 60 samples, seed 3",
        "upper bound on mu",
        "mean square",
        "predicted   simulated",
        "MSE, last tenth of the steps",
        "misadjustment, steady state",
        "The prediction rests on",
        "The prediction ",
    ):
        assert words in out
    folder = tmp_path / "a" / "b"
    source = adaptive.AutoRegressive([0.9], taps=8)
    w_o = np.random.default_rng(0).standard_normal(8)
    scenario = adaptive.SystemIdentification(
        source, w_o=w_o / np.linalg.norm(w_o), noise_power=0.01
    )
    expected = adaptive.simulate(
        scenario, algorithm="nlms", mu=0.5, steps=60, runs=40, seed=3, progress=False
    )
    curve = adaptive.predict_nlms(scenario.problem, mu=0.5, steps=60)
    with (folder / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["n"]) for row in rows] == list(range(60))
    np.testing.assert_array_equal([float(r["mse"]) for r in rows], expected.mse)
    np.testing.assert_array_equal([float(r["mse_standard_error"]) for r in rows], expected.mse_se)
    np.testing.assert_allclose([float(r["predicted_mse"]) for r in rows], curve.mse, rtol=1e-12)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["config"]["seed"] == 3
    assert summary["config"]["options"]["eps"] == pytest.approx(8e-3)
    assert summary["prediction"]["bounds"]["any_input"] == 2.0
    assert summary["verdict"]["holds"] == adaptive.verdict(curve, expected).holds
    assert summary["versions"]["numpy"] == np.__version__
    pytest.importorskip("matplotlib")
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "arguments",
    [
        "--algorithm lms --mu 0.01 --independent --median",
        "--algorithm leaky-lms --mu 0.01 --leakage 0.1",
        "--algorithm momentum_lms --mu 0.01 --momentum 0.5",
        "--algorithm block_lms --mu 0.01 --block 7",
        "--algorithm power_normalized_lms --mu 0.01",
        "--algorithm transform_domain_lms --mu 0.01",
        "--algorithm affine_projection --mu 0.1 --order 2",
        "--algorithm sign_error_lms --mu 0.01",
        "--algorithm rls",
        "--mu 0.01 --input white --distribution binary --noise-kind impulsive --power 2",
        "--mu 0.01 --input arma --coefficients 0.5 --ma 0.4 -0.2",
        "--mu 0.01 --input tones --frequencies 0.1,0.2 --amplitudes 1 2 --tone-noise 0.1",
        "--mu 0.01 --scenario cancelling --signal 0.1 --path 1 0.5",
        "--mu 0.01 --scenario prediction --input ar --coefficients 0.9 --ahead 2",
        "--mu 0.01 --scenario equalisation --W 2.9 --delay 5 --noise 0.001",
        "--mu 0.01 --scenario echo --length 40 --decay 20 --loss 6",
    ],
)
def test_every_algorithm_scenario_and_input_runs(tmp_path, capsys, arguments):
    out = run(capsys, *arguments.split(), "--taps", "6", "--out", str(tmp_path))
    assert "6 taps" in out
    summary = json.loads((tmp_path / "summary.json").read_text())
    if "sign_" in arguments or "rls" in arguments or "affine" in arguments:
        assert summary["verdict"] is None
        assert "No theory is at hand for" in out
    else:
        assert "The prediction " in summary["verdict"]["text"]


def test_a_recording(tmp_path, capsys):
    x = np.random.default_rng(0).integers(-9999, 9999, (500, 2)).astype(np.int16)
    scipy.io.wavfile.write(tmp_path / "a.wav", 8000, x)
    wav = ["--mu", "0.1", "--input", "wav", "--wav", str(tmp_path / "a.wav"), "--taps", "4"]
    assert "4 taps" in run(capsys, *wav, "--channel", "1")
    assert refusal(capsys, *wav).count("has 2 channels: say which, channel=0 to 1") == 1


def test_divergence_is_said_and_the_json_stays_strict(tmp_path, capsys):
    out = run(capsys, "--mu", "100", "--taps", "4", "--out", str(tmp_path), "--steps", "400")
    assert "MSE, steady state                      inf" in out

    def refuse(word):
        raise AssertionError(word)

    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text, parse_constant=refuse)["prediction"]["mse_final"] == "inf"


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        command.main(list(arguments))
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("; see python -m adaptive --help\n")
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "lms needs --mu"),
        ("--mu x", "argument --mu: invalid float value: 'x'"),
        ("--mu -1", "mu must be zero or positive; got -1.0"),
        ("--mu 0.1 --steps 0", "steps must be at least 1; got 0"),
        ("--mu 0.1 --runs 1", "runs must be at least 2; got 1"),
        ("--mu 0.1 --taps 0", "taps must be at least 1; got 0"),
        ("--mu 0.1 --algorithm magic", "--algorithm must be one of lms, nlms, "),
        ("--mu 0.1 --algorithm leaky_lms", "leaky_lms needs --leakage"),
        ("--mu 0.1 --algorithm affine_projection", "affine_projection needs --order"),
        ("--mu 0.1 --leakage 0.1", "--leakage means nothing to lms"),
        ("--mu 0.1 --algorithm rls", "--mu means nothing to rls, which has no step size"),
        ("--mu 0.1 --input ar", "--input ar needs --coefficients"),
        ("--mu 0.1 --input tones", "--input tones needs --frequencies"),
        ("--mu 0.1 --coefficients 0.9", "--coefficients means nothing to the input white"),
        ("--mu 0.1 --input ar --coefficients 1.5", "coefficients must give a stable process"),
        ("--mu 0.1 --input ar --coefficients a", "argument --coefficients: 'a' is not a number"),
        ("--mu 0.1 --input pink", "argument --input: invalid choice: 'pink'"),
        ("--mu 0.1 --scenario prediction --noise 1", "--noise means nothing to the scenario pred"),
        ("--mu 0.1 --scenario equalisation --power 2", "--power means nothing to equalisation"),
        ("--mu 0.1 --system 1 2 --taps 3", "w_o must have one weight per tap, 3; got shape (2,)"),
        ("--mu 0.1 --input wav --wav /no/such.wav", "/no/such.wav is not a file"),
        ("--mu 0.1 --unknown", "unrecognized arguments: --unknown"),
    ],
)
def test_mistakes_get_one_sentence_and_code_2(capsys, arguments, message):
    assert message in refusal(capsys, *arguments.split())


def test_a_file_in_the_place_of_the_folder(tmp_path, capsys):
    path = tmp_path / "taken"
    path.write_text("")
    message = refusal(capsys, "--mu", "0.1", "--out", str(path))
    assert f"--out must be a folder; {path} is a file" in message


def test_without_matplotlib_it_says_so_in_a_sentence(tmp_path):
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'matplotlib', 'tqdm'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from adaptive.command import main\n"
        f"sys.exit(main(['--mu', '0.1', '--taps', '2', '--out', {str(tmp_path)!r}, *{SHORT!r}]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "(no figure, since matplotlib is not installed: pip install matplotlib)" in result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.csv", "summary.json"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress_is_shown_once_it_takes_long_and_not_before(stream):
    scenario = adaptive.SystemIdentification(adaptive.white(1), w_o=[1.0], noise_power=0.1)
    watched = Watched(scenario, 3, stream())
    rng = np.random.default_rng(0)
    _, d = watched.draw(rng, 4)
    assert watched.progress.stream.getvalue() == ""
    _, same = scenario.draw(np.random.default_rng(0), 4)
    np.testing.assert_array_equal(d, same)
    assert watched.problem is scenario.problem
    watched.progress.began -= 4.0
    watched.draw(rng, 4)
    assert "2 of 3 runs, about 2 s left" in watched.progress.stream.getvalue()
    watched.draw(rng, 4)
    if stream is Terminal:
        assert watched.progress.stream.getvalue().endswith("\r")  # cleared again
    else:
        assert watched.progress.stream.getvalue().count("\n") == 1


def test_the_commit_is_this_repositorys_or_none(tmp_path):
    found = commit()
    assert found is None or len(found["sha"]) == 40
    assert commit(tmp_path / "x.py") is None


def test_the_examples_of_the_page_on_ensembles():
    page = Path(__file__).parents[2] / "docs" / "ensembles.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0
