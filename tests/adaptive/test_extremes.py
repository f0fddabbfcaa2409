"""Long runs, tiny and huge signals, silence, threads, processes, read-only installs."""

import os
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest

import adaptive
from tests.adaptive.test_algorithms import CASES
from tests.oracles.naive import delay_line

TAPS = 4
N = 300

compiled_only = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="millions of samples")

NORMALISED = {
    "nlms": (adaptive.nlms, {"mu": 0.5}),
    "power-normalised": (adaptive.power_normalized_lms, {"mu": 0.1}),
    "transform-domain": (adaptive.transform_domain_lms, {"mu": 0.1}),
    "affine projection": (adaptive.affine_projection, {"mu": 0.5, "order": 3}),
    "rls": (adaptive.rls, {"forgetting": 0.98}),
    "frequency-domain": (adaptive.frequency_domain_lms, {"mu": 0.3, "block": 4}),
}


def signals(samples=N, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    u, noise = rng.standard_normal((2, samples))
    if np.issubdtype(dtype, np.complexfloating):
        u = u * np.exp(1j * rng.uniform(0, 2 * np.pi, samples))
    d = np.convolve(u, [1.0, -0.5, 0.25, 0.5])[:samples] + 0.01 * noise
    return u.astype(dtype), d.astype(dtype)


# --- scales -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("exponent", [-1000, -600, -300, 300, 600, 1000])
@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_updates_do_not_see_a_power_of_two(name, exponent, dtype):
    """Bit for bit, also where |u|^2 is far outside the floating-point range."""
    run, options = NORMALISED[name]
    u, d = signals(dtype=dtype)
    plain = run(u, d, taps=TAPS, **options)
    scaled = run(_ldexp(u, exponent), _ldexp(d, exponent), taps=TAPS, **options)
    np.testing.assert_array_equal(scaled.weights, plain.weights)
    np.testing.assert_array_equal(scaled.error, _ldexp(plain.error, exponent))
    np.testing.assert_array_equal(scaled.output, _ldexp(plain.output, exponent))


@pytest.mark.parametrize("scale", [1e-300, 1e300, 1e-310])
@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_updates_at_the_ends_of_the_range(name, scale):
    run, options = NORMALISED[name]
    u, d = signals()
    plain = run(u, d, taps=TAPS, **options)
    scaled = run(scale * u, scale * d, taps=TAPS, **options)
    # 1e-310 is subnormal: its samples hold fewer digits
    np.testing.assert_allclose(
        scaled.weights, plain.weights, rtol=1e-12 if scale > 1e-305 else 1e-9
    )


@pytest.mark.parametrize("exponent", [-100, 100])
@pytest.mark.parametrize("name", NORMALISED)
def test_float32_has_a_smaller_range_and_the_same_promise(name, exponent):
    run, options = NORMALISED[name]
    u, d = signals(dtype=np.float32)
    plain = run(u, d, taps=TAPS, **options)
    scaled = run(_ldexp(u, exponent), _ldexp(d, exponent), taps=TAPS, **options)
    assert scaled.weights.dtype == scaled.error.dtype == np.float32
    np.testing.assert_array_equal(scaled.weights, plain.weights)


def test_a_given_eps_keeps_its_units_at_any_scale():
    u, d = signals()
    plain = adaptive.nlms(u, d, mu=0.5, eps=0.3, taps=TAPS)
    loud = adaptive.nlms(2.0**600 * u, 2.0**600 * d, mu=0.5, eps=0.0, taps=TAPS)
    drowned = adaptive.nlms(2.0**600 * u, 2.0**600 * d, mu=0.5, eps=0.3, taps=TAPS)
    np.testing.assert_array_equal(drowned.weights, loud.weights)
    faint = adaptive.nlms(2.0**-600 * u, 2.0**-600 * d, mu=0.5, eps=0.3, taps=TAPS)
    assert np.abs(faint.weights).max() < 1e-300 < np.abs(plain.weights).max()
    raised = adaptive.nlms(2.0**-400 * u, 2.0**-400 * d, mu=0.5, eps=0.3 * 2.0**-800, taps=TAPS)
    np.testing.assert_array_equal(raised.weights, plain.weights)


@pytest.mark.parametrize(("of_u", "of_d"), [(-600, 0), (600, 0), (-500, 400), (500, -400)])
def test_u_and_d_of_very_different_size(of_u, of_d):
    u, d = signals()
    plain = adaptive.nlms(u, d, mu=0.5, taps=TAPS)
    run = adaptive.nlms(_ldexp(u, of_u), _ldexp(d, of_d), mu=0.5, taps=TAPS)
    np.testing.assert_array_equal(run.error, _ldexp(plain.error, of_d))
    np.testing.assert_allclose(run.weights, _ldexp(plain.weights, of_d - of_u), rtol=1e-9)


@pytest.mark.parametrize("exponent", [-500, -300, 300, 510])
def test_lms_with_its_step_size_adapted(exponent):
    """mu is in units of 1 / |u|^2; a float64 holds it for amplitudes of 1e-150 to 1e150."""
    u, d = signals()
    plain = adaptive.lms(u, d, mu=0.05, taps=TAPS)
    mu = float(np.ldexp(0.05, -2 * exponent))
    run = adaptive.lms(_ldexp(u, exponent), _ldexp(d, exponent), mu=mu, taps=TAPS)
    np.testing.assert_allclose(run.weights, plain.weights, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-310, 1e-320, 5e-324])
@pytest.mark.parametrize("name", CASES)
def test_subnormal_signals_give_finite_results(name, scale):
    u, d = signals()
    run = CASES[name].run(scale * u, scale * d, taps=TAPS, **CASES[name].options)
    assert run.diverged_at is None
    assert np.isfinite(run.weights).all()
    assert np.isfinite(run.error).all()


def test_weights_that_fade_into_subnormals_stay_finite():
    """A leaky filter in silence decays to exactly nothing."""
    u, d = signals()
    quiet = np.concatenate([u, np.zeros(20_000)])
    run = adaptive.leaky_lms(
        quiet, np.concatenate([d, np.zeros(20_000)]), mu=0.05, leakage=1.0, taps=TAPS
    )
    assert np.abs(run.weights).max() < 1e-300


# --- silence, constants, level jumps ----------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_silence_throughout(name):
    case = CASES[name]
    w0 = np.arange(1.0, TAPS + 1)
    _, d = signals()
    run = case.run(np.zeros(N), d, taps=TAPS, w0=w0, **case.options)
    np.testing.assert_array_equal(run.error, d)
    mu, leakage = (CASES[name].options.get(key, 0.0) for key in ("mu", "leakage"))
    kept = (1 - mu * leakage) ** N
    np.testing.assert_allclose(run.weights, kept * w0, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_constant_input_is_one_direction(name):
    """R has rank one: the output becomes d, and nothing blows up in the other directions."""
    case = CASES[name]
    run = case.run(np.ones(6000), np.full(6000, 3.0), taps=TAPS, **case.options)
    assert run.diverged_at is None
    assert np.abs(run.weights).max() < 100
    # w = c 1 solves leakage c = 1 (3 - 4 c) or, normalised, leakage c = (3 - 4 c) / (4 + eps)
    limit = {"leaky": 3.0 * 4 / 4.5, "leaky, normalised": 3.0 * 4 / (4 + 0.05 * 4.2)}.get(name, 3.0)
    # the signs never rest: they chatter by about mu times the taps
    assert run.output[-1] == pytest.approx(limit, abs=0.1 if "sign" in name else 1e-6)


@pytest.mark.parametrize("name", ["nlms", "affine projection", "frequency-domain"])
def test_loud_and_quiet_alternating(name):
    """120 dB up and down: the power of the loud parts leaves no trace in the quiet ones."""
    run, options = NORMALISED[name]
    u, d = signals(6000)
    level = np.where(np.arange(6000) // 500 % 2, 1e6, 1.0)
    result = run(level * u, level * d, taps=TAPS, eps=1e-3, **options)
    assert result.diverged_at is None
    np.testing.assert_allclose(result.weights, [1.0, -0.5, 0.25, 0.5], atol=0.02)


# --- long runs --------------------------------------------------------------------------------


def _long_run(samples):
    """LMS and NLMS over a stream that is a million times louder for a while in every part."""
    rng = np.random.default_rng(1)
    w_o = rng.standard_normal(16)
    size = 1_000_000
    lms = adaptive.LMS(mu=0.005).stream(taps=16)
    nlms = adaptive.NLMS(mu=0.2, eps=1e-9).stream(taps=16)
    errors = {lms: [], nlms: []}
    # a fixed piece of input serves every part, the noise rolls on
    u = rng.standard_normal(size)
    noise = 0.1 * rng.standard_normal(size)
    level = np.ones(size)
    level[200_000:210_000] = 1e6
    past = np.zeros(15)
    for part in range(samples // size):
        for stream, x in ((lms, u), (nlms, level * u)):
            clean = np.convolve(np.concatenate([past, x]), w_o)[15 : 15 + size]
            d = clean + np.roll(noise, 7919 * part)
            before = stream.weights
            run = stream.process(x, d)
            assert run.diverged_at is None
            errors[stream].append(np.mean(run.error[-400_000:] ** 2))
        past = u[-15:]
    # steady state: no part is worse than the first, but for the sampling error of 400,000 squares
    for means in errors.values():
        np.testing.assert_allclose(means, means[0], rtol=6 * np.sqrt(2 * 2 / 4e5))
    # and the last part equals a fresh filter that starts from the weights before it
    rows = np.lib.stride_tricks.sliding_window_view(np.concatenate([past, x[:100_000]]), 16)
    fresh = adaptive.NLMS(mu=0.2, eps=1e-9).stream(w0=before)
    again = fresh.process(np.ascontiguousarray(rows[:, ::-1]), d[:100_000])
    np.testing.assert_allclose(again.error, run.error[:100_000], rtol=0, atol=1e-11)


@compiled_only
def test_ten_million_samples_do_not_drift():
    _long_run(10_000_000)


@compiled_only
@pytest.mark.slow
def test_a_hundred_million_samples_do_not_drift():
    _long_run(100_000_000)


@compiled_only
def test_rls_after_a_million_samples_is_the_batch_solution():
    rng = np.random.default_rng(2)
    L, samples, forgetting = 16, 1_000_000, 0.99
    u = rng.standard_normal(samples)
    d = np.convolve(u, rng.standard_normal(L))[:samples] + 0.1 * rng.standard_normal(samples)
    run = adaptive.rls(u, d, forgetting=forgetting, taps=L)
    assert run.diverged_at is None
    last = 5000  # 0.99^5000 is below rounding
    rows = np.lib.stride_tricks.sliding_window_view(u[-last - L + 1 :], L)[:, ::-1]
    weight = forgetting ** np.arange(last)[::-1]
    R, P = (rows.T * weight) @ rows, (rows.T * weight) @ d[-last:]
    np.testing.assert_allclose(run.weights, np.linalg.solve(R, P), rtol=1e-11)


@compiled_only
@pytest.mark.parametrize("forgetting", [0.9, 0.99])
def test_rls_on_a_tone_stays_finite(forgetting):
    """Two directions of eight are excited; the textbook's P grows in the others until it breaks."""
    n = np.arange(200_000)
    rng = np.random.default_rng(3)
    u = np.sin(0.3 * n)
    d = np.convolve(u, rng.standard_normal(8))[: n.size] + 0.01 * rng.standard_normal(n.size)
    run = adaptive.rls(u, d, forgetting=forgetting, delta=0.01, taps=8)
    assert run.diverged_at is None
    assert np.abs(run.error[1000:]).max() < 0.1


# --- threads, processes, read-only installs ---------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_four_threads_give_the_bits_of_one(name):
    case = CASES[name]
    inputs = [signals(200 if numba.config.DISABLE_JIT else 3000, seed=s) for s in range(8)]

    def work(pair):
        return case.run(*pair, taps=TAPS, **case.options).error

    alone = [work(pair) for pair in inputs]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(alone, pool.map(work, inputs), strict=True):
            np.testing.assert_array_equal(a, b)


SCRIPT = textwrap.dedent("""
    import numpy as np, adaptive
    u = np.random.default_rng(0).standard_normal(500)
    d = np.convolve(u, [1.0, -0.5])[:500]
    print(adaptive.__file__, *adaptive.nlms(u, d, mu=0.5, taps=2).weights.round(6))
""")


def _start(**environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG"))}
    return {**kept, **environment}


@compiled_only
def test_parallel_processes_share_an_empty_cache(tmp_path):
    environment = _start(NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    command = [sys.executable, "-c", SCRIPT]
    running = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in running:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert out.split()[1:] == ["1.0", "-0.5"]
    assert list((tmp_path / "cache").rglob("*.nbi"))


@compiled_only
def test_an_install_with_nowhere_to_cache_still_runs(tmp_path):
    """Files stand where numba would make its folders, which stops the superuser too."""
    source = Path(adaptive.__file__).parent
    copy = tmp_path / "adaptive"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__pycache__").write_text("not a folder")
    for path in [*copy.iterdir(), copy]:
        path.chmod(path.stat().st_mode & ~0o222)
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("not a folder")
    environment = _start(HOME=str(nowhere), XDG_CACHE_HOME=str(nowhere))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    copy.chmod(0o755)  # so that pytest can remove it
    assert done.returncode == 0, done.stderr
    where, *weights = done.stdout.split()
    assert Path(where).parent == copy
    assert weights == ["1.0", "-0.5"]


def _run_script(cache, script=SCRIPT):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=_start(NUMBA_CACHE_DIR=str(cache)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == ["1.0", "-0.5"]


@pytest.fixture(scope="module")
def cache_of_one_call(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    _run_script(folder)
    return folder


@compiled_only
@pytest.mark.parametrize(
    "damage",
    [{"nbi": 0.5}, {"nbc": 0.5}, {"nbi": 0.0, "nbc": 0.0}, {"nbi": b"\x93" * 99}],
    ids=["index cut", "code cut", "both empty", "index overwritten"],
)
def test_a_damaged_cache_is_compiled_again(tmp_path, cache_of_one_call, damage):
    cache = tmp_path / "cache"
    shutil.copytree(cache_of_one_call, cache)
    files = [(f, content) for kind, content in damage.items() for f in cache.rglob(f"*.{kind}")]
    assert files
    for file, content in files:
        whole = file.read_bytes()
        kept = content if isinstance(content, bytes) else whole[: int(content * len(whole))]
        file.write_bytes(kept)
    _run_script(cache)
    # what was damaged has been written again
    assert all(file.stat().st_size > 100 for file, _ in files)


@compiled_only
def test_a_disk_that_fills_up_stops_no_call(tmp_path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
    ignored = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    _run_script(tmp_path / "cache", full + ignored + SCRIPT)
    assert not list((tmp_path / "cache").rglob("*.tmp*"))


def _ldexp(a, exponent):
    parts = np.ascontiguousarray(a).view(a.real.dtype)
    return np.ldexp(parts, exponent).view(a.dtype)


def test_the_oracle_of_the_rows_used_above():
    rows = np.lib.stride_tricks.sliding_window_view(np.arange(-3.0, 5.0), 4)[:, ::-1]
    assert rows[3:].tolist() == np.array(delay_line([0.0, 1, 2, 3, 4], 4))[3:].tolist()
