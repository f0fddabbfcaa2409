"""``filter`` and ``design``: recordings in, error, table and page out."""

import csv
import io
import json
import wave

import numpy as np
import pytest
import scipy.io.wavfile

import adaptive
from adaptive import command
from adaptive.command import filtering, recordings, spectra
from adaptive.command.progress import Progress

RATE, N, TAPS = 8000, 12000, 16


@pytest.fixture
def pair(tmp_path):
    """A far end and a microphone as 16-bit WAV, and the echo path."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal(N)
    h = rng.standard_normal(TAPS)
    d = np.convolve(u, h)[:N] + 0.1 * rng.standard_normal(N)
    scale = 30000 / max(np.abs(u).max(), np.abs(d).max())
    for name, x in (("far", u), ("mic", d)):
        scipy.io.wavfile.write(tmp_path / f"{name}.wav", RATE, np.rint(x * scale).astype(np.int16))
    np.save(tmp_path / "h.npy", h)
    return tmp_path


def call(capsys, *words):
    status = command.main([str(word) for word in words])
    return status, capsys.readouterr()


def stored(path):
    return recordings.opened(path).read(0, N)


def test_the_error_is_that_of_the_filter_on_the_whole_signal(pair, capsys):
    out = pair / "clean.npy"
    status, said = call(
        capsys, "filter", pair / "far.wav", pair / "mic.wav", "--taps", TAPS, "-o", out,
        "--reference", pair / "h.npy",
    )  # fmt: skip
    assert status == 0
    u, d = (scipy.io.wavfile.read(pair / f"{name}.wav")[1] / 2**15 for name in ("far", "mic"))
    run = adaptive.nlms(u, d, mu=0.5, taps=TAPS)
    np.testing.assert_allclose(np.load(out), run.error, atol=1e-9)
    with (pair / "clean.curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["last_sample"]) == N
    assert float(rows[-1]["seconds"]) == N / RATE
    window = filtering.SHORTEST
    power = np.mean(run.error[window : 2 * window] ** 2)
    assert float(rows[1]["e_power"]) == pytest.approx(power, rel=1e-6)
    assert float(rows[1]["erle_dB"]) == pytest.approx(
        10 * np.log10(np.mean(d[window : 2 * window] ** 2) / power), rel=1e-6
    )
    assert float(rows[-1]["misalignment_dB"]) < -15
    late = [abs(float(r["predicted_e_power"]) / float(r["e_power"]) - 1) for r in rows[3:]]
    assert np.mean(late) < 0.1  # windows of a thousand samples scatter by some percent
    page = (pair / "clean.html").read_text()
    for words in ("Echo return loss", "Distance to the true weights", "Spectrogram after",
                  "Which step size", "data:image/png;base64"):  # fmt: skip
        assert words in page
    assert "http" not in page.replace("http-equiv", "")
    assert "mu for misadjustment 0.1" in said.out
    assert "ERLE" in said.out


def test_wav_out_is_read_by_others(pair, capsys):
    out = pair / "made" / "clean.wav"
    status, _ = call(capsys, "filter", pair / "far.wav", pair / "mic.wav", "-o", out, "--taps", "8")
    assert status == 0
    rate, error = scipy.io.wavfile.read(out)
    assert rate == RATE
    assert error.dtype == np.float32
    assert len(error) == N
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "clean.curves.csv", "clean.html", "clean.wav",
    ]  # fmt: skip


@pytest.mark.parametrize("delay", ["auto", "100", "-3"])
def test_delay(pair, capsys, delay):
    u, d = stored(pair / "far.wav"), stored(pair / "mic.wav")
    late = np.concatenate([np.zeros(100), d[:-100]])
    np.save(pair / "late.npy", late)
    out = pair / "clean.npy"
    words = ["filter", pair / "far.wav", pair / "late.npy", "--taps", TAPS, "-o", out]
    status, said = call(capsys, *words, "--delay", delay)
    assert status == 0
    if delay == "auto":
        assert "confidence 1.00" in said.out
        assert np.mean(np.load(out)[-2000:] ** 2) < 0.1 * np.mean(late**2)
    else:
        run = adaptive.nlms(u, late, mu=0.5, taps=TAPS, delay=int(delay))
        # a shift to the future leaves other samples in the mean power, of which eps takes a part
        np.testing.assert_allclose(np.load(out), run.error, atol=1e-3 * np.abs(late).max())


def test_a_mask_and_csv(pair, capsys):
    mask = np.arange(N) < 6000
    np.savetxt(pair / "mask.csv", mask, fmt="%d")
    for name in ("far", "mic"):
        np.savetxt(pair / f"{name}.csv", stored(pair / f"{name}.wav"), fmt="%.17g")
    out = pair / "clean.csv"
    status, said = call(
        capsys, "filter", pair / "far.csv", pair / "mic.csv", "--adapt", pair / "mask.csv",
        "--algorithm", "leaky-nlms", "--mu", "0.2", "--leakage", "0", "-o", out, "--taps", TAPS,
        "--no-theory",
    )  # fmt: skip
    assert status == 0
    assert "mu for" not in said.out
    u, d = stored(pair / "far.wav"), stored(pair / "mic.wav")
    run = adaptive.leaky_nlms(u, d, mu=0.2, leakage=0.0, taps=TAPS, adapt=mask)
    np.testing.assert_allclose(np.loadtxt(out), run.error, atol=1e-9)


def test_divergence_has_a_status(pair, capsys):
    status, said = call(
        capsys, "filter", pair / "far.wav", pair / "mic.wav", "--algorithm", "lms", "--mu", "99",
        "-o", pair / "x.wav", "--taps", TAPS,
    )  # fmt: skip
    assert status == 3
    assert "diverged at sample" in said.out
    assert "take a smaller step" in (pair / "x.html").read_text()


def test_two_channels_and_algorithms_without_theory(pair, capsys):
    u = stored(pair / "far.wav")
    both = np.stack([u, np.roll(u, 7)], axis=1)
    np.save(pair / "stereo.npy", both)
    words = [pair / "stereo.npy", pair / "mic.wav", "-o", pair / "y.npy", "--taps", "4"]
    status, said = call(capsys, "filter", *words)
    assert status == 0
    assert "There is no prediction: statistics are taken of one real channel" in said.out
    status, _ = call(capsys, "filter", *words, "--channel", "1")
    assert status == 0
    run = adaptive.nlms(both[:, 1], stored(pair / "mic.wav"), mu=0.5, taps=4)
    np.testing.assert_allclose(np.load(pair / "y.npy"), run.error, atol=1e-9)
    status, said = call(capsys, "filter", *words, "--algorithm", "ipnlms", "--mu", "0.5")
    assert status == 0
    assert "No theory is at hand for ipnlms" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none.wav mic.wav", "none.wav is not a file"),
        ("far.wav mic.wav --delay soon", "--delay must be auto or a whole number; got soon"),
        ("far.wav other.wav", "one rate; got 8000 and 16000"),
        ("far.wav mic.wav --rate 3", "--rate must be left out"),
        ("far.wav mic.wav --adapt h.npy", "--adapt must have 12000 rows, one a sample; got 16"),
        ("far.wav mic.wav --channel 2", "has 1 channels, from 0; got channel 2"),
        ("far.wav text.wav", "is not a readable WAV file"),
        ("far.wav text.npy", "is not a readable .npy file"),
        ("far.wav text.csv", "is not a readable CSV file"),
        ("far.wav text.txt", "must be one of .wav, .flac, .npy, .csv"),
        ("far.wav empty.npy", "holds no samples"),
        ("far.wav deep.npy", "must hold numbers (N,) or (N, C)"),
        ("silence.npy mic.wav", "is silent"),
        ("far.wav mic.wav --reference short.npy", "w_o must have the shape of the weights"),
        ("h.npy h.npy", "must be a .npy file: the input has no rate in a WAV file"),
    ],
)
def test_mistakes(pair, capsys, words, message):
    scipy.io.wavfile.write(pair / "other.wav", 16000, np.zeros(9, np.int16))
    for kind in ("wav", "npy", "csv", "txt"):
        (pair / f"text.{kind}").write_text("neither\nnor")
    np.save(pair / "empty.npy", np.zeros(0))
    np.save(pair / "deep.npy", np.zeros((2, 2, 2)))
    np.save(pair / "silence.npy", np.zeros(N))
    np.save(pair / "short.npy", np.ones(3))
    words = [pair / w if "." in w and not w.startswith("-") else w for w in words.split()]
    with pytest.raises(SystemExit) as stop:
        command.main(["filter", *map(str, words), "-o", str(pair / "out.wav"), "--taps", str(TAPS)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(pair.glob("*out*")), "nothing half done is left"


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(np.uint8, 128), (np.int16, 2**15), (np.int32, 2**31), (np.float32, 1), (np.float64, 1)],
)
def test_wav_types_are_read_exactly_from_the_middle(tmp_path, dtype, scale):
    rng = np.random.default_rng(0)
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max, (50, 2), dtype, endpoint=True)
    else:
        x = rng.standard_normal((50, 2)).astype(dtype)
    scipy.io.wavfile.write(tmp_path / "a.wav", 100, x)
    found = recordings.opened(tmp_path / "a.wav")
    expected = (x.astype(float) - (128 if dtype is np.uint8 else 0)) / scale
    assert (found.rate, found.channels, found.samples) == (100.0, 2, 50)
    np.testing.assert_array_equal(found.read(7, 30), expected[7:30])
    padded = np.concatenate([np.zeros((3, 2)), expected, np.zeros((4, 2))])
    np.testing.assert_array_equal(found.read(-3, 54), padded)
    np.testing.assert_array_equal(found.read(60, 62), np.zeros((2, 2)))
    one = recordings.opened(tmp_path / "a.wav", channel=1)
    np.testing.assert_array_equal(one.read(0, 50), expected[:, 1])


def test_24_bits(tmp_path):
    x = np.random.default_rng(0).integers(-(2**23), 2**23, 40)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 3, 100, 40, "NONE", ""))
        file.writeframes(b"".join(int(v).to_bytes(3, "little", signed=True) for v in x))
    np.testing.assert_array_equal(recordings.opened(tmp_path / "a.wav").read(0, 40), x / 2**23)


@pytest.mark.parametrize("rows", ["1\n2\n3\n", "a header\n1\n2\n3", "1,9\n2,9\n3,9\n"])
def test_csv(tmp_path, rows):
    (tmp_path / "a.csv").write_text(rows)
    np.testing.assert_array_equal(
        recordings.opened(tmp_path / "a.csv", channel=0).read(0, 3), [1.0, 2.0, 3.0]
    )


def test_flac(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    x = np.random.default_rng(0).integers(-(2**15), 2**15, 500).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", x, 8000)
    found = recordings.opened(tmp_path / "a.flac")
    np.testing.assert_array_equal(found.read(9, 99), x[9:99] / 2**15)


@pytest.mark.parametrize("block", [64, 1000, 1 << 16])
@pytest.mark.parametrize("delay", [0, 5, -4])
def test_statistics_are_those_of_the_wiener_problem(tmp_path, monkeypatch, block, delay):
    monkeypatch.setattr(spectra, "BLOCK", block)
    rng = np.random.default_rng(0)
    u, d = rng.standard_normal((2, 3000))
    for name, x in (("u", u), ("d", d)):
        np.save(tmp_path / f"{name}.npy", x)
    found = spectra.Statistics.of(
        *(recordings.opened(tmp_path / f"{name}.npy") for name in "ud"), 7, delay=delay
    )
    shifted = np.concatenate([np.zeros(max(delay, 0)), u[max(-delay, 0) :], np.zeros(9)])[:3000]
    expected = adaptive.WienerProblem.from_data(shifted, d, taps=7)
    np.testing.assert_allclose(found.problem.R, expected.R, atol=1e-12)
    np.testing.assert_allclose(found.problem.P, expected.P, atol=1e-12)
    assert found.power == pytest.approx(np.mean(shifted**2))
    assert found.d_power == pytest.approx(expected.d_power)


def test_files_get_no_carriage_returns():
    told = Progress(10, "samples", io.StringIO())
    told.began -= 5
    told.add(3)
    told.add(7)
    assert "\r" not in told.stream.getvalue()


# --- design ---


def test_design_from_a_scenario(tmp_path, capsys):
    out = tmp_path / "answer" / "d.json"
    status, said = call(
        capsys,
        "design",
        "--misadjustment",
        "0.1",
        "--taps",
        "2",
        "--algorithm",
        "lms",
        "--out",
        out,
    )
    assert status == 0
    assert "mu = 0.0833333" in said.out
    assert json.loads(out.read_text())["mu"] == pytest.approx(1 / 12)


def test_design_that_cannot_be_met_shows_the_trade_off(capsys):
    status, said = call(capsys, "design", "--misadjustment", "0.05", "--samples", "100")
    assert status == 5
    assert "No step grants" in said.out
    assert said.out.splitlines()[-25].split() == ["mu", "misadjustment", "samples"]


def test_design_for_a_walk_and_from_signals(pair, capsys):
    status, said = call(capsys, "design", "--walk", "1e-6", "--taps", "4")
    assert status == 0
    assert "follows the moving system" in said.out
    status, said = call(
        capsys, "design", "--signals", pair / "far.wav", pair / "mic.wav", "--taps", TAPS,
        "--algorithm", "nlms", "--misadjustment", "0.1",
    )  # fmt: skip
    assert status == 0
    assert "nlms, mu = 0.1" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--misadjustment, --samples or --walk must be given"),
        ("--misadjustment 0.1 --algorithm rls", "must have a step size"),
        ("--misadjustment 0.1 --algorithm ipnlms", "no theory is at hand for ipnlms"),
        ("--misadjustment 0.1 --walk 1", "tracking must be given alone"),
        ("--misadjustment 0.1 --algorithm nlm", "(did you mean nlms?)"),
    ],
)
def test_design_mistakes(capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        command.main(["design", *words.split()])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_unknown_command(capsys):
    status, said = call(capsys, "filtr", "x")
    assert status == 2
    assert "there is no command 'filtr' (did you mean filter?)" in said.err
