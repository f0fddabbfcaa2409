"""Golden tests of docs/coming-from-network-tools.md: their call and ours, on one network."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import cnnbridge

LOSS = nn.CrossEntropyLoss()


@pytest.fixture
def network():
    """A small CNN in float64 and its batch: no dropout, no batch statistics."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 4)
    ).double()
    return model, torch.randn(24, 1, 8, 8).double(), torch.randint(4, (24,))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of a library that theirs imports
def test_curvlinops_hessian_and_gauss_newton(network):
    curvlinops = pytest.importorskip("curvlinops")
    model, x, y = network
    params = list(model.parameters())
    theirs = {
        "hessian": curvlinops.HessianLinearOperator,
        "gauss_newton": curvlinops.GGNLinearOperator,
    }
    for kind, operator in theirs.items():
        op = operator(model, LOSS, params, [(x, y)], progressbar=False)
        matrix = op @ torch.eye(op.shape[1], dtype=torch.float64)
        largest = torch.linalg.eigvalsh(matrix)[-1]
        ours = cnnbridge.sharpness(model, (x, y), LOSS, kind=kind, tolerance=1e-6)
        assert ours == pytest.approx(float(largest), rel=1e-5)


def test_pyhessian_top_eigenvalue(network):
    """Theirs switches the model to eval mode and leaves it there; ours leaves it as it was."""
    pyhessian = pytest.importorskip("pyhessian")
    model, x, y = network
    model, x = model.float(), x.float()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    ours = cnnbridge.sharpness(model, (x, y), LOSS, tolerance=1e-4)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # backward() with create_graph=True warns of a cycle
        tool = pyhessian.hessian(model, LOSS, data=(x, y), cuda=False)
        values, _ = tool.eigenvalues(maxIter=500, tol=1e-5)
    assert ours == pytest.approx(values[0], rel=1e-2)
    assert not model.training
    for name, p in model.state_dict().items():
        assert torch.equal(p, before[name])


def test_hessian_eigenthings_lanczos(network):
    theirs = pytest.importorskip("hessian_eigenthings")
    model, x, y = network
    operator = theirs.HessianOperator(model, [(x, y)], theirs.supervised_loss(LOSS))
    ours = cnnbridge.sharpness(model, (x, y), LOSS, tolerance=1e-6)
    values = theirs.lanczos(operator, k=1, max_iter=100).eigenvalues
    assert ours == pytest.approx(float(values[0]), rel=1e-3)
    early = theirs.lanczos(operator, k=1).eigenvalues
    assert float(early[0]) < 0.9 * ours  # its default number of iterations stops too early here


def test_delve_saturation_is_a_count_on_our_spectrum(network):
    """Theirs is of a layer's output; the same covariance is R, less the mean, of a 1x1 layer."""
    metrics = pytest.importorskip("delve.metrics")
    torch_utils = pytest.importorskip("delve.torch_utils")
    model, x, _ = network
    with torch.no_grad():
        features = model[:3](x).movedim(1, -1).reshape(-1, 3)
    tracker = torch_utils.TorchCovarianceMatrix(device="cpu")
    tracker.update(features, vae=False)
    theirs = metrics.compute_saturation(tracker.fix(), thresh=0.99)
    centred = (features - features.mean(0)).T[None, :, :, None]
    R = cnnbridge.patch_autocorrelation(centred, nn.Conv2d(3, 1, 1).double())
    values = cnnbridge.full_spectrum(R).eigenvalues.numpy()[::-1]
    share = np.cumsum(values) / values.sum()
    assert theirs == pytest.approx(max(1, (share < 0.99).sum()) / len(values))


def test_lr_finder_sees_the_edge_late():
    """On one linear layer and full batches the curve of a range test turns above the bound."""
    finder = pytest.importorskip("torch_lr_finder")
    x = torch.randn(64, 6).double() * torch.tensor([3.0, 1, 1, 1, 1, 1]).double()
    y = x @ torch.randn(6, 1).double() + 0.1 * torch.randn(64, 1).double()
    model, loss = nn.Linear(6, 1, bias=False).double(), nn.MSELoss()
    edge = 2 / cnnbridge.sharpness(model, (x, y), loss)
    assert cnnbridge.LayerTask(model, x, y).bounds().mean == pytest.approx(edge, rel=1e-6)
    optimizer = torch.optim.SGD(model.parameters(), lr=edge / 30)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=64)
    tool = finder.LRFinder(model, optimizer, loss, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tool.range_test(data, end_lr=30 * edge, num_iter=200, smooth_f=0, diverge_th=1e9)
    rates, losses = np.array(tool.history["lr"]), np.array(tool.history["loss"])
    turn = rates[np.argmin(losses)]
    assert edge < turn < 4 * edge  # the mode has to grow before the loss shows it
