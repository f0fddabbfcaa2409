import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cnnbridge import unfold_patches
from cnnbridge.statistics.reader import MAX_EXACT_TAPS, LayerReader
from cnnbridge.statistics.reduction import ends_of_spectrum
from tests.oracles.kinds import KINDS


def batches(shape, dtype=torch.float64, sizes=(3, 1, 2)):
    generator = torch.Generator().manual_seed(0)
    strength = torch.tensor([0.1, 1.0, 3.0, 0.5], dtype=dtype)
    found = [torch.randn(n, *shape, generator=generator).to(dtype) + 0.5 for n in sizes]
    if shape[-1] == 4 and len(shape) < 3:
        return [x * strength for x in found]
    return [x * strength.reshape(-1, *(1,) * (len(shape) - 1)) for x in found]


def unfolded(xs, layer, bias):
    """(groups, L, patches) of all batches, from the definition of the layer as a matrix."""
    columns = [unfold_patches(x, layer, bias=bias).permute(1, 2, 0, 3).flatten(2) for x in xs]
    return torch.cat(columns, dim=2).double()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_unfolding_gives(kind, bias, exact):
    make, shape = KINDS[kind]
    layer, xs = make(), batches(shape)
    reader = LayerReader(layer, samples=10**6, exact=exact)
    for x in xs:
        reader.add(x)
    u = unfolded(xs, layer, bias)
    R = u @ u.mT / u.shape[2]
    assert reader.exact
    assert reader.finite
    assert reader.seen == u.shape[2]
    torch.testing.assert_close(reader.R(bias=bias), R)
    torch.testing.assert_close(reader.mean(), unfolded(xs, layer, False).mean(-1))
    spectrum = reader.spectrum(bias=bias, strongest=1, weakest=1)
    assert spectrum.patches == u.shape[2]
    values = torch.linalg.eigvalsh(R).numpy()
    K = spectrum.values.shape[1]
    assert min(R.shape[-1], u.shape[2]) <= K
    np.testing.assert_allclose(
        spectrum.values, values[:, -K:].clip(min=0), atol=1e-12 * values.max()
    )
    # eigenvectors by their residual
    for group, matrix in enumerate(R.numpy()):
        for modes, value in ((spectrum.strongest, -1), (spectrum.weakest, 0)):
            mode = modes[group, 0]
            assert np.linalg.norm(mode) == pytest.approx(1)
            residual = matrix @ mode - spectrum.values[group, value] * mode
            assert np.linalg.norm(residual) <= 1e-9 * values.max()


def test_exact_sums_and_all_patches_agree_in_float32():
    layer, xs = nn.Conv2d(4, 6, 3, padding=1), batches((4, 7, 6), torch.float32, (5, 4))
    sums, kept = LayerReader(layer), LayerReader(layer, samples=10**6, exact=False)
    for x in xs:
        sums.add(x)
        kept.add(x)
    one, other = sums.spectrum(bias=True), kept.spectrum(bias=True)
    np.testing.assert_allclose(one.values, other.values, atol=2 * float(one.rounding.max()))
    assert one.effective_rank == pytest.approx(other.effective_rank, rel=1e-3)


def test_patches_are_kept_where_sums_would_not_pay():
    large = nn.Linear(MAX_EXACT_TAPS + 1, 2)
    reader = LayerReader(large, samples=8)
    reader.add(torch.randn(20, MAX_EXACT_TAPS + 1))
    assert reader.patches(bias=True).shape == (1, MAX_EXACT_TAPS + 2, 8)
    assert not reader.exact
    few = LayerReader(nn.Conv2d(2, 3, 3))
    few.add(torch.randn(1, 2, 4, 4))
    assert few.patches().shape == (1, 18, 4)
    assert few.exact
    many = LayerReader(nn.Conv2d(2, 3, 3))
    many.add(torch.randn(5, 2, 4, 4))
    with pytest.raises(RuntimeError, match="patches were not kept: this layer is read exactly"):
        many.patches()


def test_the_sample_is_uniform_over_batches_of_any_size():
    """Each patch is marked by its number; each has the same chance to stay."""
    layer, rounds = nn.Linear(1, 1), 400
    counts = np.zeros(60)
    for seed in range(rounds):
        reader = LayerReader(layer, samples=12, exact=False, seed=seed)
        for part in torch.arange(60.0).reshape(-1, 1).split([1, 7, 50, 2]):
            reader.add(part)
        kept = reader.patches().flatten().long().numpy()
        assert len(set(kept)) == 12
        counts[kept] += 1
    # 12 of 60: each count is binomial; the largest of 60 stays within 4.5 standard errors
    error = np.sqrt(rounds * 0.2 * 0.8)
    assert np.abs(counts - rounds * 0.2).max() < 4.5 * error


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), samples=st.integers(1, 40))
def test_kept_patches_are_patches_of_the_input(sizes, samples):
    layer = nn.Conv2d(2, 2, 2, stride=2)
    xs = batches_of(sizes)
    reader = LayerReader(layer, samples=samples, exact=False)
    for x in xs:
        reader.add(x)
    every = {tuple(u) for u in unfolded(xs, layer, False)[0].T.tolist()}
    kept = [tuple(u) for u in reader.patches()[0].T.double().tolist()]
    assert len(kept) == min(samples, 4 * sum(sizes))
    assert len(set(kept)) == len(kept)
    assert set(kept) <= every


def batches_of(sizes):
    generator = torch.Generator().manual_seed(len(sizes))
    return [torch.randn(n, 2, 4, 4, generator=generator) for n in sizes]


def test_a_later_write_into_the_input_changes_nothing():
    for layer, shape in ((nn.Linear(3, 2), (5, 3)), (nn.Conv2d(3, 2, 1), (1, 3, 2, 2))):
        x = torch.ones(shape)
        reader = LayerReader(layer, samples=10**6, exact=False)
        reader.add(x)
        x.zero_()
        assert (reader.patches() == 1).all()


def test_memory_is_capped():
    layer = nn.Linear(1000, 2)
    reader = LayerReader(layer, samples=500, max_bytes=4 * 1000 * 20, exact=False)
    for _ in range(3):
        reader.add(torch.randn(30, 1000))
    assert reader.patches().shape == (1, 1000, 20)


def test_half_precision_and_single_samples():
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")
    x = torch.randn(2, 5, 5).bfloat16()
    reader = LayerReader(layer, exact=False)
    reader.add(x)
    expected = unfold_patches(x.float()[None], layer)[0]
    torch.testing.assert_close(reader.patches().mT.sort(1).values, expected.mT.sort(1).values)


def test_what_is_not_finite_is_said():
    reader = LayerReader(nn.Linear(2, 2))
    reader.add(torch.tensor([[1e30, 1e30]] * 5))
    assert reader.finite
    reader.add(torch.tensor([[1.0, torch.nan]]))
    reader.add(torch.ones(1, 2))
    assert not reader.finite


def test_errors():
    reader = LayerReader(nn.Conv2d(1, 1, 3))
    for read in (reader.R, reader.mean, reader.spectrum):
        with pytest.raises(RuntimeError, match="add must be called before anything can be read"):
            read()
    with pytest.raises(ValueError, match="x must have the layer's 1 input channels on axis 1"):
        reader.add(torch.ones(2, 3, 5, 5))
    reader.add(torch.ones(2, 1, 5, 5))
    with pytest.raises(ValueError, match="strongest and weakest must be at most 9 modes togethe"):
        reader.spectrum(strongest=9, weakest=1)
    with pytest.raises(ValueError, match="samples must be at least 1; got 0"):
        LayerReader(nn.Conv2d(1, 1, 3), samples=0)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_one_reduction_gives_values_and_vectors(n):
    rng = np.random.default_rng(n)
    A = rng.standard_normal((n, n))
    A = A + A.T
    values, full = np.linalg.eigh(A)
    strong, weak = (1, 0) if n == 1 else (n // 2, n - n // 2)
    found, vectors = ends_of_spectrum(A, strong, weak)
    np.testing.assert_allclose(found, values, atol=1e-12 * n)
    expected = np.concatenate([full[:, ::-1][:, :strong], full[:, :weak]], axis=1)
    np.testing.assert_allclose(np.abs((vectors * expected).sum(0)), 1, atol=1e-9)
