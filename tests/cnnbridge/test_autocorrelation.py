import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cnnbridge import autocorrelation, patch_autocorrelation, unfold_patches
from tests.cnnbridge.test_patches import images

CONV = nn.Conv2d(2, 4, 3, padding=1, stride=2)


def reference(x, conv, bias=False):
    """One product over everything, in float64."""
    u = unfold_patches(x.double(), conv, bias=bias)
    R = torch.einsum("ngap,ngbp->gab", u, u) / (u.shape[0] * u.shape[-1])
    return R[0] if conv.groups == 1 else R


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_chunks_do_not_matter(chunk_size, bias):
    x = images(7, 2, 9, 8)
    R = patch_autocorrelation(x, CONV, bias=bias, chunk_size=chunk_size)
    torch.testing.assert_close(R, reference(x, CONV, bias), rtol=1e-13, atol=1e-13)


def test_a_large_image_goes_by_bands_of_rows(monkeypatch):
    # a budget of one and a half output rows: bands of a single row
    monkeypatch.setitem(autocorrelation.CHUNK_BYTES, "cpu", 19 * 4 * 8 * 3 // 2)
    x = images(3, 2, 9, 8)
    R = patch_autocorrelation(x, CONV, bias=True, method="unfold")
    torch.testing.assert_close(R, reference(x, CONV, True), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "batches",
    [
        lambda x: iter([x[:3], x[3:]]),
        lambda x: [(x[:1], "label"), [x[1:], "label"]],
        lambda x: DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=2),
        lambda x: DataLoader(x, batch_size=4),
    ],
    ids=["iterator", "tuples and lists", "loader", "loader of tensors"],
)
def test_any_iterable_of_batches(batches):
    x = images(7, 2, 6, 5)
    R = patch_autocorrelation(batches(x), CONV)
    torch.testing.assert_close(R, reference(x, CONV), rtol=1e-13, atol=1e-13)


def test_batches_of_other_sizes_weigh_by_their_positions():
    small, large = images(2, 2, 5, 5), images(3, 2, 11, 7, seed=1)
    patches = [unfold_patches(x, CONV).transpose(2, 3).reshape(-1, 18) for x in (small, large)]
    u = torch.cat(patches)
    R = patch_autocorrelation([small, large], CONV)
    torch.testing.assert_close(R, u.T @ u / len(u), rtol=1e-13, atol=1e-13)


def test_groups_give_a_block_each():
    conv = nn.Conv2d(4, 4, 3, groups=2)
    x = images(3, 4, 6, 6)
    R = patch_autocorrelation(x, conv, bias=True)
    assert R.shape == (2, 19, 19)
    for g in range(2):
        alone = patch_autocorrelation(x[:, 2 * g : 2 * g + 2], nn.Conv2d(2, 2, 3), bias=True)
        torch.testing.assert_close(R[g], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sums_are_float64_whatever_the_input(dtype):
    x = images(64, 2, 8, 8).to(dtype)
    R = patch_autocorrelation(x, CONV, chunk_size=1)
    assert R.dtype == torch.float64
    torch.testing.assert_close(R, reference(x, CONV), rtol=1e-6, atol=1e-7)


def test_products_in_float64_on_request():
    x = images(5, 2, 8, 8).float()
    R = patch_autocorrelation(x, CONV, dtype=torch.float64)
    torch.testing.assert_close(R, reference(x, CONV), rtol=1e-14, atol=1e-14)


def test_many_small_terms_are_not_lost():
    """Sums in float32 stall once the sum is 2^24 times the term; these must not."""
    conv = nn.Conv2d(1, 1, 1)
    batches = [torch.full((1, 1, 1, 1), 2.0**12)] + [torch.ones(1, 1, 1, 1)] * 1000
    R = patch_autocorrelation(batches, conv)
    assert float(R) == (2.0**24 + 1000) / 1001


def test_gradients_are_not_tracked():
    x = images(2, 2, 5, 5).requires_grad_()
    assert not patch_autocorrelation(x, CONV).requires_grad


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([], ValueError, "x must hold at least one batch; got an empty iterable"),
        (3.0, TypeError, "x must be a torch.Tensor or an iterable of batches; got float"),
        (np.ones((1, 2, 5, 5)), TypeError, "iterable of batches; got ndarray"),
        ([images(1, 2, 5, 5), images(1, 3, 5, 5)], ValueError, "batch 1 of x must have the layer"),
        ([()], TypeError, "batch 0 of x must be a torch.Tensor; got tuple"),
    ],
)
def test_errors_name_the_batch(x, error, message):
    with pytest.raises(error, match=message):
        patch_autocorrelation(x, CONV)


def test_chunk_size_must_count():
    with pytest.raises(ValueError, match="chunk_size must be at least 1; got 0"):
        patch_autocorrelation(images(1, 2, 5, 5), CONV, chunk_size=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_stays_on_the_device():
    x = images(7, 2, 9, 8)
    R = patch_autocorrelation(x.cuda(), CONV, bias=True)
    assert R.is_cuda
    torch.testing.assert_close(R.cpu(), reference(x, CONV, True), rtol=1e-12, atol=1e-12)
