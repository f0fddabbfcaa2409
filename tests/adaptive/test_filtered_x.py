"""Filtered-x LMS: what it reduces to, several channels, and the bound that a delay leaves."""

import numpy as np
import pytest

import adaptive


def signals(samples=6000, seed=0):
    rng = np.random.default_rng(seed)
    u = rng.standard_normal(samples)
    return u, np.convolve(u, [0.3, 1.0, -0.5, 0.2])[:samples]


def test_without_a_path_it_is_leaky_lms_and_nlms():
    u, d = signals()
    one = adaptive.filtered_x_lms(u, d, mu=0.02, secondary=[1.0], leakage=0.1, taps=4)
    other = adaptive.leaky_lms(u, d, mu=0.02, leakage=0.1, taps=4)
    np.testing.assert_allclose(one.error, other.error, rtol=1e-9, atol=1e-11)
    one = adaptive.filtered_x_nlms(u, d, mu=0.5, secondary=[1.0], taps=4)
    other = adaptive.nlms(u, d, mu=0.5, taps=4)
    np.testing.assert_allclose(one.error, other.error, rtol=1e-9, atol=1e-11)


PATHS = np.array([[[0.0, 1.0, 0.3], [0.2, -0.2, 0.0]], [[0.0, 0.1, 0.1], [0.9, 0.0, -0.2]]])


def two_by_two(U, D, mu, path, normalized=False, eps=0.0):
    """Sensors m, sources k, written out."""
    N, L = U.shape
    w, Y, errors = np.zeros((2, L)), np.zeros((N, 2)), np.zeros((N, 2))
    for n in range(N):
        Y[n] = w @ U[n]
        taps = [j for j in range(path.shape[2]) if n >= j]
        x = sum(path[:, :, j, None] * U[n - j] for j in taps)
        for m in (0, 1):
            heard = sum(path[m, k, j] * Y[n - j, k] for k in (0, 1) for j in taps)
            errors[n, m] = D[n, m] - heard
        step = mu / (eps + (x**2).sum()) if normalized else mu
        w = w + step * sum(errors[n, m] * x[m] for m in (0, 1))
    return errors, w


@pytest.mark.parametrize("normalized", [False, True])
def test_two_loudspeakers_and_two_microphones(normalized):
    u, d = signals(400)
    D, U = np.stack([d, np.roll(d, 3)], axis=1), adaptive.regressors.regressors(u, 4)
    if normalized:
        algorithm = adaptive.FilteredXNLMS(mu=0.3, secondary=PATHS, eps=0.1)
    else:
        algorithm = adaptive.FilteredXLMS(mu=0.02, secondary=PATHS)
    run = adaptive.run(algorithm, u, D, taps=4)
    errors, w = two_by_two(U.rows[:, U.order], D, algorithm.mu, PATHS, normalized, 0.1)
    np.testing.assert_allclose(run.error, errors, atol=1e-11)
    np.testing.assert_allclose(run.weights, w, atol=1e-11)
    stream, parts = algorithm.stream(taps=4), []
    for a, b in ((0, 1), (1, 3), (3, 200), (200, 400)):
        parts.append(stream.process(u[a:b], D[a:b]).error)
    np.testing.assert_array_equal(np.concatenate(parts), run.error)


def test_two_channels_quieten_both_microphones():
    u, _ = signals(30_000)
    ways = ([0, 0, 1.0, 0.5], [0, 0, -0.4, 0.8])
    D = np.stack([np.convolve(u, h)[:30_000] for h in ways], axis=1)
    run = adaptive.filtered_x_lms(u, D, mu=0.01, secondary=PATHS, taps=24)
    assert (np.mean(run.error[-2000:] ** 2, axis=0) < 1e-3 * np.mean(D**2, axis=0)).all()


@pytest.mark.parametrize("delay", [0, 1, 2, 5, 12])
@pytest.mark.parametrize("leakage", [0.0, 0.4, 1.5])
def test_the_bound_of_a_delay_is_where_the_roots_leave_the_unit_circle(delay, leakage):
    path = [0.0] * delay + [0.7]
    R = np.diag([2.0, 0.5])
    edge = adaptive.FilteredXLMS(mu=0.1, secondary=path, leakage=leakage).bounds(R).mean

    def radius(mu):
        def largest(lam):
            poly = np.zeros(delay + 2)
            poly[0], poly[1] = 1.0, -(1 - mu * leakage)
            poly[-1] += mu * 0.49 * lam
            return np.abs(np.roots(poly)).max()

        return max(largest(2.0), largest(0.5))

    assert radius(0.999 * edge) < 1 < radius(1.001 * edge)
    for mu in np.linspace(0.01, 0.99, 40) * edge:
        assert radius(mu) < 1
    if leakage == 0:
        exact = 2 * np.sin(np.pi / (2 * (2 * delay + 1))) / (0.49 * 2.0)
        assert edge == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("delay", [0, 1, 4])
def test_runs_diverge_from_the_bound_on(delay):
    """A constant input is its own mean: v(n+1) = v(n) - mu v(n-D), exactly."""
    u = np.ones(3000)
    algorithm = adaptive.FilteredXLMS(mu=0.1, secondary=[0.0] * delay + [1.0])
    edge = adaptive.observed_edge((u, u), algorithm, taps=1, runs=2)
    bound = algorithm.bounds([[1.0]]).mean
    assert abs(edge.mu / bound - 1) < 3e-3


def test_a_model_with_the_wrong_sign_diverges():
    u, d = signals()
    run = adaptive.filtered_x_lms(u, d, mu=0.2, secondary=[0.0, 1.0], model=[0.0, -1.0], taps=4)
    assert run.diverged_at is not None


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: adaptive.FilteredXLMS(mu=0.1, secondary=np.ones((2, 3, 4))), ValueError,
         r"secondary must have shape \(P,\) or \(M, M, P\)"),
        (lambda: adaptive.FilteredXLMS(mu=0.1, secondary=[1.0], model=np.ones((2, 2, 3))),
         ValueError, "model must have the shape of secondary"),
        (lambda: adaptive.filtered_x_lms(*signals(), mu=0.1, secondary=PATHS, taps=2), ValueError,
         "secondary must have shape"),
        (lambda: adaptive.filtered_x_lms(*signals(), mu=0.1, secondary=[1j], taps=2), TypeError,
         "secondary must be real where u and d are real"),
        (lambda: adaptive.FilteredXLMS(mu=0.1, secondary=[1.0, 0.5]).bounds(np.eye(2)),
         NotImplementedError, "where secondary is one delay"),
        (lambda: adaptive.FilteredXNLMS(mu=0.1, secondary=[1.0]).bounds(np.eye(2)),
         NotImplementedError, "no bounds on mu are known here for filtered_x_nlms"),
    ],
)  # fmt: skip
def test_what_it_refuses(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
