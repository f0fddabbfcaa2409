"""Model, data and loss meet in one place, and curvature tools take the models that people have."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from cnnbridge import NetworkTask, sharpness
from tests.cnnbridge.learning.test_network import explicit

CE = nn.CrossEntropyLoss()


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return model, torch.randn(8, 3).double(), torch.randint(2, (8,))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None


class OwnLoss(nn.Module):
    def __init__(self, model, kind):
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, x, labels):
        z = self.model(x)
        loss = CE(z, labels)
        return Output(z, loss) if self.kind == "dataclass" else {"logits": z, "loss": loss}


def everything(task):
    layer = task.layer(next(n.rpartition(".")[0] for n in reversed(task.names)))
    return [
        task.observe(0.1, 5).displacement,
        task.predict(0.1, 5).displacement,
        task.predict(0.1, 5, relinearize=2).displacement,
        layer.predict(0.1, 5, curvature="kronecker").displacement,
        task.sharpness("hessian"),
        task.sharpness("gauss_newton"),
    ]


WAYS = {
    "function of output and target": lambda m, x, y: (m, (x, y), F.cross_entropy),
    "function of model and batch": lambda m, x, y: (
        m, {"x": x, "y": y}, lambda model, batch: CE(model(batch["x"]), batch["y"]),
    ),
    "two batches": lambda m, x, y: (m, [(x[:5], y[:5]), (x[5:], y[5:])], CE),
    "a loader": lambda m, x, y: (
        m, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=3), CE,
    ),
    "input by keyword": lambda m, x, y: (m, ({"input": x}, y), CE),
    "its own loss, in a dict": lambda m, x, y: (OwnLoss(m, "dict"), {"x": x, "labels": y}, None),
    "its own loss, as an attribute": lambda m, x, y: (OwnLoss(m, "dataclass"), (x, y), None),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_gives_the_same(way):
    expected = everything(NetworkTask(small()[0], small()[1:], CE))
    found = everything(NetworkTask(*WAYS[way](*small())))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)


def test_tasks_share_a_copy_and_leave_it_as_it_was():
    task = NetworkTask(small()[0], small()[1:], CE)
    layer = task.layer("2")
    first = [layer.predict(0.1, 5).displacement, task.sharpness()]
    task.predict(0.1, 5, relinearize=1)
    task.observe(0.5, 9)
    with pytest.raises(ZeroDivisionError):
        layer.observe(0.5, 9, progress=lambda n: 1 // (4 - n))
    for a, b in zip([layer.predict(0.1, 5).displacement, task.sharpness()], first, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("data", "loss", "error", "message"),
    [
        (small()[1], CE, TypeError, r"data must be one batch, .* got a Tensor: write \(x, y\)"),
        (list(small()[1:]), CE, TypeError, "batches that are tuples or dicts; got a Tensor"),
        ([], CE, ValueError, "data must give at least one batch; got none"),
        ({"input": small()[1]}, CE, TypeError, r"batches \(input, ..., target\) for a loss of"),
        (small()[1:2], None, TypeError, "model must return its own loss"),
        (small()[1:], lambda net, batch: CE(net(batch[0]), batch[1]), TypeError, "called 'model'"),
    ],
)
def test_what_does_not_meet_is_one_sentence(data, loss, error, message):
    with pytest.raises(error, match=message):
        NetworkTask(small()[0], data, loss).observe(0.1, 1)


def test_a_loss_that_bypasses_the_model_has_a_hessian_only():
    model, x, y = small()
    task = NetworkTask(model, (x, y), lambda model, batch: CE(model[2](model[:2](batch[0])), y))
    assert task.sharpness() == pytest.approx(sharpness(model, (x, y), CE))
    with pytest.raises(
        ValueError, match=r"must be called by the loss .* kind='hessian' needs none"
    ):
        task.sharpness("gauss_newton")


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_zero_curvature_is_zero(kind):
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
    with torch.no_grad():
        model[0].bias.fill_(-1e6)
        model[2].weight.zero_()
    data = torch.randn(16, 10), torch.randn(16, 3)
    assert sharpness(model, data, nn.MSELoss(), kind=kind, layer="0") == 0
    assert sharpness(model, data, nn.L1Loss(), kind="gauss_newton", top=2).tolist() == [0, 0]


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.body, self.reentrant = small()[0], reentrant

    def forward(self, x):
        return checkpoint(self.body, x.requires_grad_(), use_reentrant=self.reentrant)


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.leave = nn.Linear(4, 2)

    def forward(self, x):
        x = x.unflatten(1, (3, 4))
        return self.leave(self.attention(x, x, x, need_weights=False)[0].mean(dim=1))


def weight_normed(method):
    model = small()[0]
    method(model[0])
    model.eval()(small()[1])
    return model


MODELS = {
    "checkpoint": lambda: Checkpointed(False),
    "reentrant checkpoint": lambda: Checkpointed(True),
    "attention": lambda: Attends().double(),
    "weight_norm": lambda: weight_normed(nn.utils.parametrizations.weight_norm),
    "spectral_norm": lambda: weight_normed(nn.utils.parametrizations.spectral_norm),
    "prune": lambda: weight_normed(lambda m: prune.l1_unstructured(m, "weight", 0.5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_curvature_of_models_as_they_are(name):
    model, (_, x, y) = MODELS[name](), small()
    x = torch.randn(8, 12).double() if name == "attention" else x
    task = NetworkTask(model, (x, y), CE)
    assert task.observe(0.1, 3).diverged_at is None
    assert task.sharpness() != 0
    _, J, H, _ = explicit(getattr(model, "body", model), x.detach(), y, CE)
    top = float(np.linalg.eigvalsh(J.T @ H @ J)[-1])
    assert task.sharpness("gauss_newton", tolerance=1e-9) == pytest.approx(top)


def test_what_cannot_be_differentiated_is_one_sentence():
    _, _, y = small()
    # large enough that the power iteration of its constructor has not converged
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(30, 40)))
    wide = torch.randn(8, 30)
    with pytest.raises(ValueError, match=r"its buffer '0.parametrizations.weight.0._u' changes at"):
        NetworkTask(model, (wide, y), CE).sharpness()
    task = NetworkTask(Attends().double(), (torch.randn(8, 12).double(), y), CE)
    layer = task.layer("attention.out_proj")
    with pytest.raises(ValueError, match="must be called in the forward pass for its input"):
        layer.predict(0.1, 2, curvature="kronecker")


def test_gauss_newton_products_against_curvlinops():
    with warnings.catch_warnings():
        # its dependencies use what torch deprecates
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))
        curvlinops = pytest.importorskip("curvlinops")
    model, x, y = small()
    operator = curvlinops.GGNLinearOperator(model, CE, list(model.parameters()), [(x, y)])
    v = torch.randn(26).double()
    product = NetworkTask(model, (x, y), CE)._objective.product()
    torch.testing.assert_close(product(v), operator @ v, rtol=1e-12, atol=1e-14)
