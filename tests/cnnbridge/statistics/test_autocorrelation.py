import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cnnbridge import patch_autocorrelation, sampled_autocorrelation, unfold_patches
from cnnbridge.statistics import autocorrelation
from cnnbridge.statistics import lags as _lags
from cnnbridge.statistics.autocorrelation import choose_method
from tests.cnnbridge.layers.test_patches import images

CONV = nn.Conv2d(2, 4, 3, padding=1, stride=2)


def reference(x, conv, bias=False):
    """One product over everything, in float64."""
    u = unfold_patches(x.double(), conv, bias=bias)
    R = torch.einsum("ngap,ngbp->gab", u, u) / (u.shape[0] * u.shape[-1])
    return R[0] if len(R) == 1 else R


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_chunks_do_not_matter(chunk_size, bias):
    x = images(7, 2, 9, 8)
    R = patch_autocorrelation(x, CONV, bias=bias, chunk_size=chunk_size)
    torch.testing.assert_close(R, reference(x, CONV, bias), rtol=1e-13, atol=1e-13)


def test_a_large_image_goes_by_bands_of_rows(monkeypatch):
    # a budget of one and a half output rows: bands of a single row
    monkeypatch.setitem(autocorrelation.CHUNK_BYTES, "cpu", 19 * 4 * 8 * 3 // 2)
    monkeypatch.setattr(autocorrelation, "SMALL_BYTES", 0)
    # nothing kept from other tests, nor for them
    at_once = autocorrelation._unfolded_at_once.__wrapped__
    monkeypatch.setattr(autocorrelation, "_unfolded_at_once", at_once)
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


LAYERS = [
    (nn.Conv2d(16, 8, 3, padding=1), (5, 16, 12, 11)),
    (nn.Conv2d(8, 8, 5, padding=2), (3, 8, 9, 10)),
    (nn.Conv2d(3, 8, 7, stride=2, padding=3), (3, 3, 21, 22)),
    (nn.Conv2d(8, 8, 3, padding=1, groups=8), (4, 8, 9, 9)),
    (nn.Conv2d(40, 8, 3, padding=1, padding_mode="reflect"), (3, 40, 7, 7)),
    (nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1), (3, 6, 7, 6)),
    (nn.Conv3d(4, 4, 3, padding=1), (2, 4, 5, 6, 5)),
    (nn.Linear(24, 8), (4, 7, 24)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=[str(pair[0]) for pair in LAYERS])
@pytest.mark.parametrize("method", ["lags", "unfold"])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_both_methods_to_the_promised_precision(layer, shape, method, mean):
    x = images(*shape) + mean
    exact = reference(x, layer, bias=True)
    scale = exact.abs().max()
    R = patch_autocorrelation(x, layer, bias=True, method=method)
    assert (R - exact).abs().max() < 1e-13 * scale
    assert torch.equal(R, R.mT) or (R - R.mT).abs().max() < 1e-15 * scale
    R = patch_autocorrelation(x.float(), layer, bias=True, method=method)
    assert (R - exact).abs().max() < 3e-6 * scale


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 100])
def test_lags_in_chunks_and_over_batches_of_other_sizes(chunk_size):
    first, second, third = images(5, 2, 9, 8), images(3, 2, 9, 8, seed=1), images(2, 2, 7, 12)
    stream = [first, third, second]
    patches = [unfold_patches(x, CONV, bias=True).transpose(2, 3).reshape(-1, 19) for x in stream]
    u = torch.cat(patches)
    for method in ("lags", "auto"):
        R = patch_autocorrelation(stream, CONV, bias=True, method=method, chunk_size=chunk_size)
        torch.testing.assert_close(R, u.T @ u / len(u), rtol=1e-13, atol=1e-13)


def test_wide_patches_go_by_tiles(monkeypatch):
    monkeypatch.setattr(_lags, "TILE", 5)
    x = images(5, 2, 6, 6)
    R = patch_autocorrelation(x, CONV, bias=True, method="unfold", chunk_size=2)
    torch.testing.assert_close(R, reference(x, CONV, True), rtol=1e-13, atol=1e-13)
    assert torch.equal(R, R.T)


@pytest.mark.parametrize("tile", [5, 100])
def test_sums_that_came_out_uneven_are_made_symmetric(tile, monkeypatch):
    """As those over processes may."""
    monkeypatch.setattr(_lags, "TILE", tile)
    sums = images(2, 19, 19)
    expected = (sums + sums.mT) / 14
    R = _lags.mean(sums.clone(), 7, symmetric=False)
    torch.testing.assert_close(R, expected, rtol=1e-15, atol=0)
    assert torch.equal(R, R.mT)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(16, 4, 1), nn.Linear(16, 4)],
    ids=["3x3", "1x1", "linear"],
)
def test_the_input_is_not_written_to(layer):
    x = images(3, 8, 8, 16) if isinstance(layer, nn.Linear) else images(3, 16, 8, 8)
    before = x.clone()
    for method in ("lags", "unfold"):
        patch_autocorrelation(x, layer, method=method)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 1, stride=2, groups=2),
        nn.Linear(4, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [False, True])
def test_the_layout_in_memory_does_not_matter(layer, bias):
    wide = images(5, 4, 6, 4)
    layouts = {
        "channels last": wide.contiguous(memory_format=torch.channels_last),
        "turned": wide.transpose(2, 3),
        "every other": images(10, 4, 6, 8)[::2, :, :, ::2],
        "expanded": wide[:1].expand(5, 4, 6, 4),
        "one image": wide[:1],
        "a row of each": wide[:, :, :1] if layer.weight.shape[2:] != (3, 3) else wide,
    }
    for name, x in layouts.items():
        if isinstance(layer, nn.Linear):
            x = x.transpose(1, 3)
        for method in ("lags", "unfold"):
            R = patch_autocorrelation(x, layer, bias=bias, method=method)
            torch.testing.assert_close(
                R, reference(x.contiguous(), layer, bias), rtol=1e-13, atol=1e-13, msg=name
            )


def test_the_method_is_chosen_by_cost():
    wide = nn.Conv2d(64, 64, 3, padding=1)
    assert choose_method(wide, (64, 64, 32, 32)) == "lags"
    assert choose_method(wide, (8, 64, 2, 2)) == "unfold"
    assert choose_method(nn.Conv2d(64, 64, 3, padding=1, groups=64), (64, 64, 32, 32)) == "unfold"
    assert choose_method(nn.Conv2d(1, 4, 31), (4, 1, 64, 64)) == "unfold"
    # on a device thin products and small calls weigh more, and tensor cores make unfolding cheap
    stem = nn.Conv2d(3, 64, 7, stride=2, padding=3)
    assert choose_method(stem, (256, 3, 224, 224)) == "lags"
    assert choose_method(stem, (256, 3, 224, 224), device="cuda") == "unfold"
    assert choose_method(wide, (256, 64, 56, 56), device="cuda") == "lags"
    assert choose_method(wide, (256, 64, 56, 56), dtype=torch.half, device="cuda") == "unfold"
    with pytest.raises(ValueError, match="method must be one of auto, lags, unfold; got 'fft'"):
        patch_autocorrelation(images(1, 2, 5, 5), CONV, method="fft")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells peaks")
def test_peak_memory_stays_within_twice_the_input():
    """Beyond x, R and its making: less than another x. Unfolding all would take nine."""
    script = """
from pathlib import Path
import torch
from torch import nn
from cnnbridge import patch_autocorrelation

def peak():
    Path("/proc/self/clear_refs").write_text("5") if not peaks else None
    lines = Path("/proc/self/status").read_text().splitlines()
    peaks.append(1024 * int(next(s.split()[1] for s in lines if s.startswith("VmHWM"))))

torch.set_num_threads(1)
conv = nn.Conv2d(8, 8, 3, padding=1)
x = torch.ones(256, 8, 64, 64)
for method in ("lags", "unfold"):
    # the matrix library's own buffers are made here
    patch_autocorrelation(torch.ones(8, 8, 64, 64), conv, method=method)
    peaks = []
    peak()
    patch_autocorrelation(x, conv, method=method)
    peak()
    print(method, (peaks[1] - peaks[0]) / x.nbytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=120, capture_output=True, text=True
    )
    rises = dict(line.split() for line in done.stdout.splitlines())
    assert 0.02 < float(rises["lags"]) < 1
    assert 0.02 < float(rises["unfold"]) < 1


def test_the_standard_error_of_a_sample_is_right():
    """Over many draws, the mean square error of R is the mean of the squared standard error."""
    x = images(60, 2, 6, 6) * torch.rand(60, 1, 1, 1).double()
    exact = patch_autocorrelation(x, CONV)
    draws = 150
    for source in (x, list(x.split(20))):
        squares, variances = [], []
        for seed in range(draws):
            sampled = sampled_autocorrelation(source, CONV, fraction=0.4, seed=seed)
            assert (sampled.images, sampled.population) == (24, 60)
            squares.append(((sampled.R - exact) ** 2).diagonal().mean())
            variances.append((sampled.standard_error**2).diagonal().mean())
        excess = torch.stack(squares) - torch.stack(variances)
        spread = excess.std() / draws**0.5
        assert spread < 0.15 * torch.stack(variances).mean()
        assert excess.mean().abs() < 4 * spread


def test_a_sample_of_everything_is_exact():
    x = images(7, 4, 6, 6)
    conv = nn.Conv2d(4, 4, 3, groups=2)
    for source in (x, [x[:1], x[1:]]):
        sampled = sampled_autocorrelation(source, conv, fraction=1.0, bias=True)
        torch.testing.assert_close(sampled.R, patch_autocorrelation(x, conv, bias=True))
        assert (sampled.standard_error == 0).all()
        assert sampled.relative_error == 0


def test_a_sample_repeats_with_its_seed():
    x = images(20, 2, 6, 6)
    one, again, other = (
        sampled_autocorrelation(x, CONV, fraction=0.2, seed=seed).R for seed in (3, 3, 4)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampled_autocorrelation([], CONV, fraction=0.5), "x must hold at least one batch"),
        (lambda: sampled_autocorrelation([], CONV, fraction=1.5), "fraction must be at most 1"),
        (lambda: sampled_autocorrelation([], CONV, fraction=0), "fraction must be positive"),
    ],
)
def test_errors_of_sampling(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _in_process(rank, folder):
    """One of two processes: uneven shares, and a turn where one has nothing."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    x = images(7, 2, 9, 8)
    mine = x[:2] if rank == 0 else x[2:]
    results = {
        "R": patch_autocorrelation(mine, CONV, bias=True),
        "one empty": patch_autocorrelation([] if rank == 0 else [x], CONV, bias=True),
        "alone": patch_autocorrelation(mine, CONV, bias=True, all_reduce=False),
        "sampled": sampled_autocorrelation(mine, CONV, bias=True, fraction=1.0).R,
    }
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_sums_are_over_all_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.start_processes(
        _in_process, args=(str(tmp_path),), nprocs=2, start_method="spawn"
    )
    x = images(7, 2, 9, 8)
    whole = patch_autocorrelation(x, CONV, bias=True)
    for rank, share in enumerate((x[:2], x[2:])):
        results = torch.load(tmp_path / f"{rank}.pt")
        for name in ("R", "one empty", "sampled"):
            torch.testing.assert_close(results[name], whole, rtol=1e-13, atol=1e-13)
        alone = patch_autocorrelation(share, CONV, bias=True)
        torch.testing.assert_close(results["alone"], alone)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_stays_on_the_device():
    x = images(7, 2, 9, 8)
    R = patch_autocorrelation(x.cuda(), CONV, bias=True)
    assert R.is_cuda
    torch.testing.assert_close(R.cpu(), reference(x, CONV, True), rtol=1e-12, atol=1e-12)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["lags", "unfold"])
def test_products_of_halves_on_cuda(dtype, method):
    conv = nn.Conv2d(16, 4, 3, padding=1)
    # behind a ReLU, with a mean: every term of the sums has the same sign
    x = images(64, 16, 32, 32).add(0.5).relu().to("cuda", dtype)
    R = patch_autocorrelation(x, conv, bias=True, method=method)
    exact = reference(x, conv, True)
    assert float((R - exact).abs().max()) < 1e-5 * float(exact.abs().max())


def test_each_process_draws_its_own_sample(monkeypatch):
    """Two processes with the same images: the same draw in both would halve the information."""
    x, rank = images(20, 2, 6, 6), [0]
    for name, function in {
        "is_initialized": lambda: True,
        "get_rank": lambda: rank[0],
        "get_backend": lambda: "gloo",
        "all_reduce": lambda values: None,
    }.items():
        monkeypatch.setattr(torch.distributed, name, function)
    drawn = []
    for process in (0, 1, 1):
        rank[0] = process
        drawn.append(sampled_autocorrelation(x, CONV, fraction=0.4, seed=3).R)
    assert not torch.allclose(drawn[0], drawn[1])
    assert torch.equal(drawn[1], drawn[2])
    rank[0] = 1
    alone = sampled_autocorrelation(x, CONV, fraction=0.4, seed=3, all_reduce=False)
    assert torch.equal(alone.R, drawn[0])
