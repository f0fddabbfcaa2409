import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import (
    PatchOperator,
    extreme_eigenvalues,
    full_spectrum,
    patch_autocorrelation,
    spectral_density,
)
from tests.cnnbridge.layers.test_patches import images


def matrix(values, seed=0):
    """A symmetric matrix with these eigenvalues."""
    values = torch.as_tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator).double())
    return (Q * values) @ Q.T


def test_the_full_spectrum():
    values = np.geomspace(1e-4, 3, 40)
    R = matrix(values)
    spectrum = full_spectrum(R)
    np.testing.assert_allclose(spectrum.eigenvalues, values, rtol=1e-10)
    Q = spectrum.eigenvectors
    torch.testing.assert_close((Q * spectrum.eigenvalues) @ Q.T, R)
    assert int(spectrum.rank) == 40
    assert spectrum.device == "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_low_rank_and_its_negative_eigenvalues_are_reported(dtype):
    u = images(50, 6).to(dtype)
    R = u @ u.T / 6
    spectrum = full_spectrum(R, products=dtype)
    assert int(spectrum.rank) == 6
    assert (spectrum.eigenvalues >= 0).all()
    assert -float(spectrum.rounding) <= float(spectrum.most_negative) < 0
    silent = full_spectrum(torch.zeros(4, 4, dtype=dtype))
    assert int(silent.rank) == 0


def test_float32_input_needs_its_own_rounding():
    u = images(200, 6).float()
    R = (u @ u.T).double()
    with pytest.raises(ValueError, match=r"positive semidefinite .* as in products=torch\.float32"):
        full_spectrum(R, products=torch.float64)
    # a negative eigenvalue shows by itself that float64 was not used
    for spectrum in (full_spectrum(R), full_spectrum(R, products=torch.float32)):
        assert int(spectrum.rank) == 6
    with pytest.raises(ValueError, match="R must be positive semidefinite up to rounding"):
        full_spectrum(R - 1e-3 * R.diagonal().max() * torch.eye(len(R)))


def test_plain_images_in_float32():
    """Smooth images make the smallest eigenvalues vanish; the two-line use must still work."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 3, 1, 1, generator=generator)
    x = x + 0.02 * torch.rand(64, 3, 6, 6, generator=generator)
    x = torch.nn.functional.interpolate(x, scale_factor=8, mode="bicubic").clamp(0, 1)
    R = patch_autocorrelation(x, torch.nn.Conv2d(3, 8, 7, padding=1))
    with pytest.raises(ValueError, match="R must be positive semidefinite up to rounding"):
        full_spectrum(R, products=torch.float64)
    spectrum, told = full_spectrum(R), full_spectrum(R, products=torch.float32)
    assert -float(spectrum.rounding) <= float(spectrum.most_negative) < 0
    assert spectrum.rank == told.rank
    assert torch.equal(spectrum.eigenvalues, told.eigenvalues)


def test_groups_are_a_stack():
    R = torch.stack([matrix([1.0, 2.0, 3.0]), matrix([0.0, 0.0, 5.0], seed=1)])
    spectrum = full_spectrum(R)
    torch.testing.assert_close(
        spectrum.eigenvalues, torch.tensor([[1.0, 2, 3], [0, 0, 5]]).double()
    )
    assert spectrum.rank.tolist() == [3, 1]


@pytest.mark.parametrize("failure", ["raises", "wrong"])
def test_what_the_device_gets_wrong_is_repeated(monkeypatch, failure):
    def broken(matrix):
        if failure == "raises":
            raise torch.linalg.LinAlgError("failed to converge")
        return torch.full(matrix.shape[:-1], torch.nan).double(), matrix

    monkeypatch.setattr(torch.linalg, "eigh", broken)
    R = torch.stack([matrix([1.0, 2.0]), matrix([3.0, 4.0])])
    torch.testing.assert_close(
        full_spectrum(R).eigenvalues, torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
    )


@pytest.mark.parametrize(
    "values",
    [
        np.geomspace(1e-3, 1, 300),
        np.linspace(1, 2, 300),
        np.r_[np.zeros(250), np.linspace(1, 50, 50)],
        [2.0] * 30,
        [3.0],
    ],
    ids=["geometric", "linear", "low rank", "identity", "one"],
)
def test_extremes_lie_within_their_errors(values):
    R = matrix(values)
    ends = extreme_eigenvalues(R)
    assert ends.converged
    slack = 1e-12 * max(values)
    assert abs(ends.largest - max(values)) <= ends.largest_error + slack
    assert abs(ends.smallest - min(values)) <= ends.smallest_error + slack
    assert ends.largest_error <= 1e-6 * max(values)


def test_too_few_steps_are_admitted():
    ends = extreme_eigenvalues(matrix(np.geomspace(1e-6, 1, 200)), steps=8, tolerance=1e-9)
    assert not ends.converged
    assert ends.steps == 8


def test_the_density_of_a_spectrum():
    values = np.concatenate([np.zeros(100), np.linspace(1, 2, 200), [40.0]])
    density = spectral_density(matrix(values), probes=20, steps=40)
    np.testing.assert_allclose(density.weights.sum(axis=1), 1)
    fraction, error = density.below(0.5)
    assert abs(fraction - 100 / 301) < 4 * error
    assert 0 < error < 0.05
    mean, error = density.mean(lambda nodes: nodes)
    assert abs(mean - values.mean()) < 4 * error
    at = np.linspace(-1, 42, 2000)
    curve, errors = density.density(at, 0.2)
    assert errors.shape == curve.shape
    assert np.trapezoid(curve, at) == pytest.approx(1, abs=1e-3)


def test_moments_of_a_probe_are_exact():
    """m steps integrate polynomials up to degree 2 m - 1."""
    R = matrix(np.linspace(0.5, 1.5, 60))
    density = spectral_density(R, probes=3, steps=4, seed=5)
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    z = z / z.norm(dim=0)
    for degree in range(8):
        exact = (z * (torch.linalg.matrix_power(R, degree) @ z)).sum(0)
        ours = (density.weights * density.nodes**degree).sum(axis=1)
        np.testing.assert_allclose(ours, exact, rtol=1e-12)


def test_a_density_repeats_with_its_seed_and_stops_at_low_rank():
    R = matrix([0.0] * 20 + [1.0, 2.0])
    one, again = (spectral_density(R, seed=3, steps=20) for _ in range(2))
    np.testing.assert_array_equal(one.nodes, again.nodes)
    assert one.nodes.shape[1] == 3


LAYERS = [
    (nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), (5, 4, 7, 8)),
    (nn.Conv1d(3, 6, 3, padding="same", dilation=2, padding_mode="circular"), (5, 3, 9)),
    (nn.Conv3d(2, 2, 2), (3, 2, 4, 4, 4)),
    (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), (3, 2, 4, 5)),
    (nn.Linear(6, 2), (3, 5, 6)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=[str(pair[0]) for pair in LAYERS])
@pytest.mark.parametrize("bias", [False, True])
def test_products_from_the_data(layer, shape, bias):
    x = images(*shape)
    R = patch_autocorrelation(x, layer, bias=bias)
    R = R.reshape(-1, *R.shape[-2:])
    V = images(R.shape[-1], 3, seed=1)
    for g in range(len(R)):
        for source in (x, list(x.split(2))):
            operator = PatchOperator(source, layer, bias=bias, group=g)
            assert tuple(operator.shape) == tuple(R[g].shape)
            torch.testing.assert_close(operator @ V, R[g] @ V, rtol=1e-12, atol=1e-12)


def test_extremes_from_the_data():
    x, conv = images(6, 4, 8, 8), nn.Conv2d(4, 4, 3, padding=1)
    exact = np.linalg.eigvalsh(patch_autocorrelation(x, conv))
    ends = extreme_eigenvalues(PatchOperator(x, conv))
    assert ends.largest == pytest.approx(exact[-1], rel=1e-6)
    assert ends.smallest == pytest.approx(exact[0], abs=1e-6 * exact[-1])
    mean, error = spectral_density(PatchOperator(x, conv)).mean(lambda nodes: nodes)
    assert abs(mean - exact.mean()) < 4 * error


R3 = matrix([1.0, 2.0, 3.0])
CONV = nn.Conv2d(2, 2, 3)
BAD = [
    (lambda: full_spectrum(R3.numpy()), TypeError, "R must be a torch.Tensor"),
    (lambda: full_spectrum(R3[:2]), ValueError, r"R must be square, .* got shape \(2, 3\)"),
    (lambda: full_spectrum(R3 / 0), ValueError, "R must be finite"),
    (lambda: full_spectrum(R3.triu()), ValueError, "R must be symmetric"),
    (lambda: full_spectrum(-R3), ValueError, "R must be positive semidefinite up to rounding"),
    (lambda: extreme_eigenvalues(R3[None]), ValueError, "pass one group at a time"),
    (lambda: extreme_eigenvalues(R3, tolerance=0), ValueError, "tolerance must be positive"),
    (lambda: spectral_density(R3, probes=1), ValueError, "probes must be at least 2"),
    (lambda: PatchOperator(iter([]), CONV), TypeError, "gone through repeatedly"),
    (lambda: PatchOperator([], CONV), ValueError, "x must hold at least one batch"),
    (lambda: PatchOperator(images(1, 2, 5, 5), CONV, group=1), ValueError, "group must be less"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[b[2][:40] for b in BAD])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_low_rank_float32_on_the_device():
    u = images(600, 6).float().cuda()
    spectrum = full_spectrum(u @ u.T, products=torch.float32)
    assert spectrum.eigenvalues.is_cuda
    assert int(spectrum.rank) == 6
