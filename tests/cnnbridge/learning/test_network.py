"""Levels 2 to 4 against explicit matrices in plain torch, and against real training."""

import numpy as np
import pytest
import torch
from torch import nn

import cnnbridge
from cnnbridge import compare, observe_layer, predict_layer
from cnnbridge.learning.paths import krylov_path, quadratic_path
from tests.cnnbridge.learning.calls import (
    compare_in_place,
    observe_network,
    predict_in_place,
    predict_network,
)

SGD = [(0.0, 0.0), (0.9, 0.0), (0.8, 0.05)]


def network(activation=nn.Tanh, norm=False, classes=3, groups=1, seed=0):
    torch.manual_seed(seed)
    middle = nn.BatchNorm2d(4) if norm else nn.Identity()
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=groups),
        middle,
        activation(),
        nn.Conv2d(4, 3, 2, stride=2),
        activation(),
        nn.Flatten(),
        nn.Linear(12, classes),
    ).double()
    return model, torch.randn(7, 2, 6, 6).double(), torch.randint(classes, (7,))


def explicit(model, x, y, loss, layer=None):
    """Gradient, Jacobian (N C, P) and Hessian of the loss by the outputs, row by row."""
    part = model if layer is None else model.get_submodule(layer)
    parameters = list(part.parameters())

    def flat(scalar, **kwargs):
        grads = torch.autograd.grad(scalar, parameters, retain_graph=True)
        return torch.cat([g.flatten() for g in grads])

    z = model(x)
    J = torch.stack([flat(v) for v in z.flatten()])
    H = torch.autograd.functional.hessian(lambda t: loss(t.view_as(z), y), z.detach().flatten())
    w = torch.cat([p.detach().flatten() for p in parameters])
    return flat(loss(z, y)).numpy(), J.numpy(), H.numpy(), w.numpy()


def sgd(gradient, G, w, lr, momentum, weight_decay, steps):
    """torch's update rule on a quadratic, written out."""
    d, b, path = np.zeros_like(w), np.zeros_like(w), [np.zeros_like(w)]
    for _ in range(steps):
        b = momentum * b + gradient + G @ d + weight_decay * (w + d)
        d = d - lr * b
        path.append(d)
    return np.stack(path)


@pytest.mark.parametrize(("momentum", "weight_decay"), SGD)
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")])
def test_a_layers_gauss_newton_is_the_explicit_one(loss, momentum, weight_decay):
    model, x, y = network()
    g, J, H, w = explicit(model, x, y, loss, "3")
    G = J.T @ H @ J
    path = sgd(g, G, w, 0.05, momentum, weight_decay, 30)
    kwargs = {"lr": 0.05, "steps": 30, "momentum": momentum, "weight_decay": weight_decay}
    for full in (True, False):
        p = predict_in_place(model, "3", x, y, loss, full_modes=full, **kwargs)
        np.testing.assert_allclose(p.displacement, path, atol=1e-7 * np.abs(path).max())
        quadratic = path @ g + np.einsum("ni,ij,nj->n", path, G, path) / 2
        np.testing.assert_allclose(p.loss - p.loss[0], quadratic, atol=1e-6)
        np.testing.assert_allclose(p.basis.to_modes(p.displacement), p.modes, atol=1e-9)
        assert p.left_out < 1e-8
    full = predict_in_place(model, "3", x, y, loss, full_modes=True, **kwargs)
    np.testing.assert_allclose(full.eigenvalues, np.linalg.eigvalsh(G), atol=1e-10)
    edge = 2 * (1 + momentum) / (np.linalg.eigvalsh(G)[-1] + weight_decay)
    assert full.bound == pytest.approx(edge)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("momentum", "weight_decay"), SGD)
def test_the_network_is_the_recursion_in_function_space(norm, momentum, weight_decay):
    """Level 3 is e(n+1) = (I - lr H Theta) e(n), with BatchNorm on its batch too."""
    model, x, y = network(norm=norm)
    loss = nn.CrossEntropyLoss()
    g, J, H, w = explicit(model, x, y, loss)
    kwargs = {"lr": 0.05, "steps": 40, "momentum": momentum, "weight_decay": weight_decay}
    prediction = predict_network(model, x, y, loss, **kwargs)
    path = sgd(g, J.T @ H @ J, w, 0.05, momentum, weight_decay, 40)
    np.testing.assert_allclose(prediction.displacement, path, atol=1e-7 * np.abs(path).max())
    if momentum or weight_decay:
        return
    z = model(x).detach().requires_grad_()
    (e,) = torch.autograd.grad(loss(z, y), z)
    e, theta = e.flatten().numpy(), J @ J.T
    for n in range(41):
        np.testing.assert_allclose(
            (torch.autograd.grad(loss(z, y), z)[0].flatten().numpy())
            + H @ J @ prediction.displacement[n],
            e,
            atol=1e-8,
        )
        e = e - 0.05 * H @ (theta @ e)


@pytest.mark.parametrize(("momentum", "weight_decay"), SGD)
def test_relinearised_at_every_step_is_training(momentum, weight_decay):
    model, x, y = network(norm=True)
    kwargs = {"lr": 0.1, "steps": 30, "momentum": momentum, "weight_decay": weight_decay}
    prediction = predict_network(model, x, y, nn.CrossEntropyLoss(), relinearize=1, **kwargs)
    run = observe_network(model, x, y, nn.CrossEntropyLoss(), **kwargs)
    result = compare(prediction, run)
    assert result.displacement_error.max() < 1e-10
    assert result.loss_error[:-1].max() < 1e-10
    assert np.isnan(result.max_mode_error)
    assert np.isnan(prediction.bound)


@pytest.mark.parametrize(("h", "products"), [(1, 1), (4, 7), (8, 8)])
def test_relinearising_takes_no_product_that_moves_nothing(h, products, monkeypatch):
    taken = []

    def counting(self, kind="gauss_newton"):
        return lambda v: taken.append(v) or torch.zeros_like(v)

    monkeypatch.setattr("cnnbridge.learning.network.Objective.product", counting)
    model, x, y = network()
    predict_network(model, x, y, nn.CrossEntropyLoss(), lr=0.1, steps=8, relinearize=h)
    # h - 1 for each h steps, and one for the loss at the end
    assert len(taken) == products
    assert all(v.any() for v in taken)


def test_relinearising_never_is_level_three_and_often_is_better():
    model, x, y = network()
    loss, kwargs = nn.CrossEntropyLoss(), {"lr": 0.3, "steps": 40}
    once = predict_network(model, x, y, loss, **kwargs)
    never = predict_network(model, x, y, loss, relinearize=100, **kwargs)
    np.testing.assert_allclose(never.displacement, once.displacement, atol=1e-7)
    np.testing.assert_allclose(never.loss, once.loss, atol=1e-7)
    run = observe_network(model, x, y, loss, **kwargs)
    errors = [
        compare(predict_network(model, x, y, loss, relinearize=h, **kwargs), run)
        for h in (1, 5, 20)
    ]
    at_end = [e.displacement_error[-1] for e in errors]
    assert at_end[0] < at_end[1] < at_end[2]
    assert all(np.isfinite(p).all() for p in at_end)


@pytest.mark.parametrize("curvature", ["gauss_newton", "kronecker", "scalar"])
@pytest.mark.parametrize(("momentum", "weight_decay"), SGD)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_layer_alone_on_its_mse_is_level_one(curvature, groups, momentum, weight_decay):
    """Nothing is downstream, so all three readings are exact, and agree with ``predict_layer``."""
    torch.manual_seed(1)
    conv = nn.Conv2d(2, 4, 3, groups=groups, padding=1).double()
    x, d = torch.rand(5, 2, 5, 5).double(), torch.randn(5, 4, 5, 5).double()
    kwargs = {"lr": 0.4, "steps": 25, "momentum": momentum, "weight_decay": weight_decay}
    model = nn.Sequential(conv)
    prediction = predict_in_place(model, "0", x, d, nn.MSELoss(), curvature=curvature, **kwargs)
    level_one = predict_layer(conv, x, d, **kwargs)
    w = level_one.weights - level_one.weights[0]
    flat = np.concatenate([w[..., :-1].reshape(26, -1), w[..., -1]], axis=1)
    np.testing.assert_allclose(prediction.displacement, flat, atol=1e-10)
    np.testing.assert_allclose(prediction.loss, level_one.loss, atol=1e-10)
    run = observe_network(model, x, d, nn.MSELoss(), layer="0", **kwargs)
    result = compare(prediction, run)
    assert result.max_mode_error < 1e-10
    assert result.horizon == {0.1: None, 0.5: None}
    np.testing.assert_allclose(run.loss, observe_layer(conv, x, d, **kwargs).loss, rtol=1e-9)


def test_kronecker_factors_by_their_definition():
    """G: the curvature at each position of each image by itself, summed."""
    model, x, y = network(nn.ReLU)
    loss = nn.CrossEntropyLoss()
    front, back = model[:3], model[4:]
    u_map = front(x).detach()
    out = model[3](u_map).detach()

    def tail(t):
        return loss(back(t.view_as(out)), y)

    # ReLU and Linear: the Hessian by the layer's output is its Gauss-Newton matrix
    hessian = torch.autograd.functional.hessian(tail, out.flatten()).numpy()
    hessian = hessian.reshape(7, 3, 4, 7, 3, 4)
    G = np.einsum("nmpnqp->mq", hessian)
    u = torch.nn.functional.unfold(u_map, 2, stride=2).numpy()
    u = np.concatenate([u, np.ones((7, 1, 4))], axis=1)
    R = np.einsum("nkp,nlp->kl", u, u) / 28
    for curvature, factor in (("kronecker", G), ("scalar", np.eye(3) * np.trace(G) / 3)):
        p = predict_in_place(
            model, "3", x, y, loss, lr=0.1, steps=20, curvature=curvature, weight_decay=0.1
        )
        w = torch.cat([model[3].weight.flatten(1), model[3].bias[:, None]], 1).detach().numpy()
        grads = torch.autograd.grad(loss(model(x), y), list(model[3].parameters()))
        g = torch.cat([grads[0].flatten(1), grads[1][:, None]], 1).numpy()
        whole = np.kron(factor, R)
        path = sgd(g.ravel(), whole, w.ravel(), 0.1, 0.0, 0.1, 20).reshape(21, 3, 17)
        flat = np.concatenate([path[..., :-1].reshape(21, -1), path[..., -1]], axis=1)
        np.testing.assert_allclose(p.displacement, flat, atol=1e-12)
        np.testing.assert_allclose(np.sort(p.eigenvalues), np.linalg.eigvalsh(whole), atol=1e-12)
        round_trip = p.basis.to_displacement(p.basis.to_modes(p.displacement))
        np.testing.assert_allclose(round_trip, p.displacement, atol=1e-13)


def test_side_by_side():
    model, x, y = network(nn.ReLU)
    result = compare_in_place(model, "3", x, y, nn.CrossEntropyLoss(), lr=0.02, steps=15)
    assert list(result.predictions) == ["gauss_newton", "kronecker", "scalar"]
    assert result.comparisons["gauss_newton"].displacement_error[1] < 1e-12
    assert (result.comparisons["gauss_newton"].skill[2:] > 0).all()
    for name, p in result.predictions.items():
        assert p.level.startswith("2: one layer in place")
        assert name in p.level
        assert p.assumption


def test_mode_error_by_its_definition():
    model, x, y = network()
    p = predict_in_place(model, "3", x, y, nn.CrossEntropyLoss(), lr=0.2, steps=10)
    run = observe_network(model, x, y, nn.CrossEntropyLoss(), lr=0.2, steps=10, layer="3")
    seen = run.displacement @ p.basis.vectors.T
    largest = np.linalg.norm(run.displacement, axis=1).max()
    np.testing.assert_allclose(
        compare(p, run).mode_error, np.abs(p.modes - seen).max(axis=0) / largest
    )


def test_the_line_keeps_its_momentum():
    """The baseline is SGD with a gradient that never changes, so it may use momentum too."""
    model, x, y = network()
    kwargs = {"lr": 0.05, "steps": 10, "momentum": 0.9}
    p = predict_network(model, x, y, nn.CrossEntropyLoss(), **kwargs)
    run = observe_network(model, x, y, nn.CrossEntropyLoss(), **kwargs)
    g = -p.displacement[1] / 0.05
    line = sgd(g, np.zeros((g.size, g.size)), g, 0.05, 0.9, 0.0, 10)
    missed = np.linalg.norm(line - run.displacement, axis=1)
    expected = missed[1:] / np.linalg.norm(run.displacement, axis=1)[1:]
    np.testing.assert_allclose(compare(p, run).line_error[1:], expected, atol=1e-12)


def test_float32_and_its_network():
    model, x, y = network()
    exact = predict_network(model, x, y, nn.CrossEntropyLoss(), lr=0.1, steps=30)
    single = predict_network(model.float(), x.float(), y, nn.CrossEntropyLoss(), lr=0.1, steps=30)
    np.testing.assert_allclose(single.displacement, exact.displacement, atol=1e-5)
    run = observe_network(model, x.float(), y, nn.CrossEntropyLoss(), lr=0.1, steps=3)
    assert run.dtype == "float32"


def test_frozen_parameters_stay():
    model, x, y = network()
    model[0].requires_grad_(False)
    p = predict_network(model, x, y, nn.CrossEntropyLoss(), lr=0.1, steps=3)
    run = observe_network(model, x, y, nn.CrossEntropyLoss(), lr=0.1, steps=3)
    assert p.names == run.names == ("3.weight", "3.bias", "6.weight", "6.bias")
    with pytest.raises(ValueError, match="layer must have parameters that learn; got none"):
        predict_in_place(model, "0", x, y, nn.CrossEntropyLoss(), lr=0.1, steps=3)


def test_divergence_is_a_value():
    model, x, y = network(nn.ReLU)
    y = torch.randn(7, 3).double()
    run = observe_network(model, x, y, nn.MSELoss(), lr=50.0, steps=400)
    n = run.diverged_at
    assert n is not None
    assert np.isnan(run.displacement[n:]).all()
    p = predict_network(model, x, y, nn.MSELoss(), lr=50.0, steps=400)
    assert p.bound < 50
    result = compare(p, run)
    assert result.steps_compared == n
    assert np.isnan(result.displacement_error[n:]).all()


def test_the_model_is_left_alone():
    model, x, y = network(norm=True)
    loss = nn.CrossEntropyLoss()
    loss(model(x), y).backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    predict_network(model, x, y, loss, lr=0.1, steps=3)
    compare_in_place(model, "3", x, y, loss, lr=0.1, steps=3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert model[1].track_running_stats


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_no_grad(mode):
    model, _, y = network()
    with mode():
        x = torch.randn(7, 2, 6, 6).double()
        p = predict_in_place(model, "3", x, y, nn.CrossEntropyLoss(), lr=0.1, steps=3)
        k = predict_in_place(
            model, "3", x, y, nn.CrossEntropyLoss(), lr=0.1, steps=3, curvature="kronecker"
        )
        run = observe_network(model, x, y, nn.CrossEntropyLoss(), lr=0.1, steps=3, layer="3")
    assert compare(p, run).displacement_error[1] < 1e-12
    assert compare(k, run).displacement_error[1] < 1e-12


MODEL, X, Y = network()
CE = nn.CrossEntropyLoss()
OTHER = observe_network(MODEL, X, Y, CE, lr=0.1, steps=2, layer="0")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lr": 0}, ValueError, "lr must be positive; got 0"),
        ({"steps": -1}, ValueError, "steps must be at least 0; got -1"),
        ({"momentum": 1}, ValueError, "momentum must be less than 1; got 1"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be zero or positive; got -1"),
        ({"model": 3}, TypeError, "model must be a torch.nn.Module; got int"),
        ({"loss": lambda a, b: 0}, TypeError, "loss must return a scalar tensor; got int"),
        ({"loss": 3}, TypeError, "loss must be a torch loss, a function of"),
        ({"loss": nn.MSELoss(reduction="none")}, TypeError, "loss must be a torch loss with red"),
        ({"x": X.numpy()}, TypeError, r"data\[0\] must be a torch.Tensor; got ndarray"),
        ({"x": X / 0}, ValueError, r"data\[0\] must be finite"),
        ({"x": X[:0]}, ValueError, r"data\[0\] must not be empty"),
        (
            {"y": Y[:3]},
            ValueError,
            "data must have one row of the target for each of the input, 7; g",
        ),
        (
            {"model": nn.Sequential(MODEL, nn.Dropout())},
            ValueError,
            "model must give the same loss twice.*switch dropout off",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_errors(change, error, message):
    arguments = {"model": MODEL, "x": X, "y": Y, "loss": CE, "lr": 0.1, "steps": 2} | change
    with pytest.raises(error, match=message):
        predict_network(**arguments)
    with pytest.raises(error, match=message):
        observe_network(**arguments)


def test_more_errors():
    with pytest.raises(ValueError, match="relinearize must be at least 1; got 0"):
        predict_network(MODEL, X, Y, CE, lr=0.1, steps=2, relinearize=0)
    with pytest.raises(ValueError, match="curvature must be one of gauss_newton, kronecker, sca"):
        predict_in_place(MODEL, "3", X, Y, CE, lr=0.1, steps=2, curvature="best")
    with pytest.raises(ValueError, match="layer_name must name a layer"):
        predict_in_place(MODEL, "conv9", X, Y, CE, lr=0.1, steps=2)
    p = predict_in_place(MODEL, "3", X, Y, CE, lr=0.1, steps=2)
    with pytest.raises(ValueError, match="displacement of shape"):
        compare(p, OTHER)
    with pytest.raises(
        TypeError, match="observation must be one of cnnbridge, Observation; got Prediction"
    ):
        compare(p, p)
    alone = observe_layer(MODEL[0], X, torch.zeros(7, 4, 4, 4).double(), lr=0.1, steps=2)
    with pytest.raises(ValueError, match=r"parameters, 0.weight, 0.bias; got weight, bias"):
        compare(predict_in_place(MODEL, "0", X, Y, CE, lr=0.1, steps=2), alone)
    mine = predict_in_place(MODEL, "0", X, Y, CE, lr=0.1, steps=2)
    assert compare(mine, OTHER).steps_compared == 3


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda():
    model, x, y = network()
    host = predict_network(model, x, y, CE, lr=0.1, steps=20)
    device = predict_network(model.cuda(), x.cuda(), y.cuda(), CE, lr=0.1, steps=20)
    np.testing.assert_allclose(device.displacement, host.displacement, atol=1e-8)


@pytest.mark.parametrize("last", [False, True])
def test_no_product_is_spent_on_what_has_not_moved(last):
    """Re-linearised every 2 steps, a model of the loss needs 1 product; the last one needs 2."""
    asked = []

    def product(v):
        asked.append(v.clone())
        return 2 * v

    g = torch.tensor([1.0, -2.0], dtype=torch.float64)
    zero = torch.zeros_like(g)
    path, change, _ = quadratic_path(
        product, g, cnnbridge.SGD(0.1), steps=2, start=zero, velocity=zero, last=last
    )
    assert len(asked) == 1 + last
    assert all(v.any() for v in asked)
    torch.testing.assert_close(path, torch.stack([zero, -0.1 * g, -0.18 * g]))
    torch.testing.assert_close(change, (path @ g + (path**2).sum(dim=1))[: 2 + last])


@pytest.mark.parametrize("exact", [False, True])
def test_a_krylov_space_that_closes_is_cut_where_it_closed(exact):
    """Three different curvatures need three products; the look at them comes later."""
    curvature = torch.tensor([0.0, 1.0, 4.0] * 7, dtype=torch.float64)
    seed = torch.ones(21, dtype=torch.float64)
    if exact:  # closed without rounding: all of it along one eigenvector
        seed = (curvature == 4.0).double()
    sgd = cnnbridge.SGD(0.1, momentum=0.5)
    theta, vectors, modes, left_out = krylov_path(lambda v: curvature * v, seed, sgd, steps=40)
    np.testing.assert_allclose(theta, [4.0] if exact else [0.0, 1.0, 4.0], atol=1e-12)
    zero = torch.zeros_like(seed)
    path, _, _ = quadratic_path(
        lambda v: curvature * v, seed, sgd, steps=40, start=zero, velocity=zero, last=True
    )
    np.testing.assert_allclose(modes @ vectors.numpy(), path.numpy(), atol=1e-12)
    assert left_out == 0
