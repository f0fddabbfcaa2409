"""What is drawn is what the results say: artists by name, with the right numbers in them."""

import numpy as np
import pytest

import adaptive

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adaptive import plotting

SCENARIO = adaptive.SystemIdentification(
    adaptive.GaussianRegressors(np.diag([0.1, 1.0, 3.0])), w_o=[1.0, -1.0, 0.5], noise_power=0.01
)
CURVE = adaptive.predict_lms(SCENARIO.problem, mu=0.05, steps=200)
ENSEMBLE = adaptive.simulate(
    SCENARIO, mu=0.05, steps=200, runs=64, seed=0, quantiles=(0.5,), progress=False
)


@pytest.fixture
def ax():
    figure = Figure(figsize=(4, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    yield axes
    figure.canvas.draw()  # warnings of the drawing itself are errors here
    texts = [axes.get_xlabel(), axes.get_ylabel()]
    assert all(texts), "an axis without a label"


def test_learning_curve_holds_simulation_theory_band_and_levels(ax):
    artists = plotting.learning_curve(ax, ensemble=ENSEMBLE, prediction=CURVE)
    assert set(artists) == {"simulation", "band", "theory", "J_min", "final", "median"}
    np.testing.assert_allclose(artists["theory"].get_ydata(), 10 * np.log10(CURVE.mse))
    np.testing.assert_allclose(artists["simulation"].get_ydata(), 10 * np.log10(ENSEMBLE.mse))
    assert artists["J_min"].get_ydata()[0] == pytest.approx(-20)
    assert artists["final"].get_ydata()[0] == pytest.approx(10 * np.log10(CURVE.mse_final))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "simulation, mean of 64 runs" in labels
    assert "± 4 standard errors" in labels
    assert ax.get_ylabel() == "mean-square error (dB)"


def test_the_band_is_where_the_verdict_accepts(ax):
    artists = plotting.learning_curve(ax, ensemble=ENSEMBLE, prediction=CURVE, k=2.0)
    corners = artists["band"].get_paths()[0].vertices
    verdict = adaptive.verdict(CURVE, ENSEMBLE, k=2.0)
    dB = 10 * np.log10(CURVE.mse)
    for n in range(200):
        low, high = np.sort(np.unique(corners[corners[:, 0] == n, 1]))[[0, -1]]
        assert (low <= dB[n] <= high) == (abs(verdict.z[n]) <= 2)


def test_divergence_leaves_a_gap_and_finite_axes(ax):
    ensemble = adaptive.simulate(SCENARIO, mu=5.0, steps=400, runs=8, seed=0, progress=False)
    curve = adaptive.predict_lms(SCENARIO.problem, mu=5.0, steps=400)
    artists = plotting.learning_curve(ax, ensemble=ensemble, prediction=curve)
    assert "final" not in artists
    assert np.isnan(artists["simulation"].get_ydata()[-1])
    low, high = ax.get_ylim()
    assert np.isfinite([low, high]).all()
    assert high - low < 250


def test_block_lms_is_drawn_over_samples(ax):
    ensemble = adaptive.simulate(
        SCENARIO, algorithm="block_lms", block=4, mu=0.1, steps=40, runs=4, seed=0, progress=False
    )
    curve = adaptive.predict(adaptive.BlockLMS(mu=0.1, block=4), SCENARIO.problem, steps=10)
    artists = plotting.learning_curve(ax, ensemble=ensemble, prediction=curve)
    np.testing.assert_array_equal(artists["theory"].get_xdata(), np.arange(0, 40, 4))
    assert ax.get_xlabel() == "sample n"


def test_mode_decay_mode_by_mode(ax):
    artists = plotting.mode_decay(ax, SCENARIO.problem, ensemble=ENSEMBLE, prediction=CURVE)
    assert set(artists) == {f"{kind} {k}" for kind in ("theory", "simulation") for k in range(3)}
    n = np.arange(201)
    line = artists["theory 1"].get_ydata()
    np.testing.assert_allclose(line, 0.95**n, rtol=1e-9)  # lambda = 1, v(0) = 1
    marks = artists["simulation 0"].get_offsets()
    np.testing.assert_allclose(
        marks[:, 1], np.abs(ENSEMBLE.mean_weights[marks[:, 0].astype(int), 0] - 1.0), rtol=1e-12
    )
    assert ax.get_yscale() == "log"


def test_mode_decay_shows_no_more_than_asked_and_skips_silent_modes(ax):
    scenario = adaptive.SystemIdentification(
        adaptive.signals.Tones([0.1, 0.2], taps=8), w_o=np.ones(8), noise_power=0.01
    )
    curve = adaptive.predict_lms(scenario.problem, mu=0.01, steps=50)
    assert len(plotting.mode_decay(ax, scenario.problem, prediction=curve, show=9)) == 4
    assert len(plotting.mode_decay(ax, scenario.problem, prediction=curve, show=2)) == 2


def test_eigenvalue_spectrum(ax):
    artists = plotting.eigenvalue_spectrum(ax, SCENARIO.problem, mu=0.5)
    np.testing.assert_allclose(artists["eigenvalues"].get_ydata(), [3.0, 1.0, 0.1])
    assert artists["bound"].get_ydata()[0] == 4.0
    assert "stationary" not in artists
    assert "eigenvalues, spread 30" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_eigenvalue_spectrum_names_the_modes_that_nothing_excites(ax):
    artists = plotting.eigenvalue_spectrum(ax, adaptive.signals.Tones([0.1], taps=5).R)
    assert len(artists["eigenvalues"].get_ydata()) == 2
    np.testing.assert_array_equal(artists["stationary"].get_offsets()[:, 0], [3, 4, 5])


def test_stability_map_draws_the_bounds_it_holds(ax):
    grid = adaptive.stability_map(taps=4, spreads=[1.0, 10.0, 100.0], mus=[0.01, 0.1, 0.5, 3.0])
    artists = plotting.stability_map(ax, grid)
    assert set(artists) == {"misadjustment", "colorbar", *grid.bounds}
    np.testing.assert_array_equal(artists["mean"].get_ydata(), grid.bounds["mean"])
    shown = artists["misadjustment"].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), ~np.isfinite(grid.misadjustment.T))


def test_a_map_is_what_the_predictions_say():
    grid = adaptive.stability_map(taps=3, spreads=[1.0, 20.0])
    assert grid.misadjustment.shape == (2, 61)
    for i, spread in enumerate(grid.spreads):
        for name, values in grid.bounds.items():
            beyond = grid.mus > values[i]
            if name == "mean_square":
                np.testing.assert_array_equal(np.isinf(grid.misadjustment[i]), beyond)
            else:
                assert np.isinf(grid.misadjustment[i][beyond]).all()
        # white: mu L / (2 - mu (L + 2)); correlated: more
        white = grid.mus * 3 / (2 - grid.mus * 5)
        stable = np.isfinite(grid.misadjustment[i])
        if spread == 1:
            np.testing.assert_allclose(grid.misadjustment[i][stable], white[stable], rtol=1e-9)
        else:
            assert (grid.misadjustment[i][stable] > white[stable]).all()
    normalised = adaptive.stability_map(
        adaptive.NLMS(mu=1.0, eps=0.0), taps=4, spreads=[1.0, 20.0], mus=[0.5, 2.5]
    )
    np.testing.assert_array_equal(np.isinf(normalised.misadjustment), [[False, True]] * 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda ax: plotting.learning_curve(ax), TypeError, "an ensemble or a prediction must"),
        (
            lambda ax: plotting.mode_decay(ax, SCENARIO.problem),
            TypeError,
            "an ensemble or a prediction must be given, or both; got neither",
        ),
        (
            lambda ax: plotting.mode_decay(
                ax,
                adaptive.WienerProblem(R=[[1.0]], P=[[1.0], [0.5]], d_power=2.0),
                prediction=CURVE,
            ),
            ValueError,
            r"problem must have one output; got P of shape \(2, 1\)",
        ),
        (
            lambda ax: plotting.mode_decay(ax, SCENARIO.problem, prediction=CURVE, show=0),
            ValueError,
            "show must be at least 1; got 0",
        ),
        (
            lambda ax: plotting.eigenvalue_spectrum(ax, [[1.0]], mu=-1.0),
            ValueError,
            "mu must be positive; got -1",
        ),
        (
            lambda ax: adaptive.stability_map(taps=1),
            ValueError,
            "taps must be at least 2; got 1",
        ),
        (
            lambda ax: adaptive.stability_map(taps=2, spreads=[0.5]),
            ValueError,
            "spreads must be at least 1; got 0.5",
        ),
        (
            lambda ax: adaptive.stability_map(taps=2, spreads=[1.0], mus=[2.0, 1.0]),
            ValueError,
            "mus must be positive and ascending",
        ),
        (
            lambda ax: adaptive.stability_map(taps=2, spreads=[[1.0]]),
            ValueError,
            r"spreads must be 1-D; got shape \(1, 1\)",
        ),
        (
            lambda ax: adaptive.stability_map(taps=2, spreads=[1e15]),
            ValueError,
            r"spread must be within reach of an AR\(1\) input; got 1e\+15",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call(Figure().subplots())
