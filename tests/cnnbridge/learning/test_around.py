"""What may be around a call: autocast, torch.compile, shared weights, BatchNorm in train mode.

Every entry point that takes a model, on the same one. What each computes is tested elsewhere.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import cnnbridge
from cnnbridge.normalization import nlms_departure
from tests.cnnbridge.learning import calls

CE = nn.CrossEntropyLoss()


class Net(nn.Module):
    """BatchNorm before and after a layer, an in-place ReLU, and nothing random."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Conv2d(1, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.after = nn.BatchNorm2d(4)
        self.leave = nn.Linear(4 * 16, 3)

    def forward(self, x):
        x = self.conv(self.bn(torch.relu(self.enter(x))))
        return self.leave(torch.relu_(self.after(x)).flatten(1))


class Loop(nn.Module):
    """One layer twice in a row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.leave = nn.Linear(18, 3)

    def forward(self, x):
        x = torch.tanh(self.conv(torch.tanh(self.conv(x))))
        return self.leave(x.flatten(1))


def data(channels=1, size=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, channels, size, size, generator=generator) + 0.5
    return x.to(dtype), torch.randint(3, (8,), generator=generator)


def taped(model, x, y):
    with cnnbridge.capture(model, "conv") as tape:
        tape.run([(x, y)] * 2, CE)
    return tape.inputs, tape.outputs, tape.output_gradients


def streamed(model, x, y):
    stream = calls.record_stream(model, "conv", [(x, y)], CE, lr=0.1, steps=3)
    return stream.weights, cnnbridge.replay(stream).weights


def watched(model, x, y):
    with cnnbridge.Monitor(model, every=1, quiet=True) as monitor:
        monitor.probe(x)
        readings = monitor.step(lr=0.1)
    return [reading.lambda_max for reading in readings]


def in_place(curvature):
    def call(model, x, y):
        return calls.predict_in_place(
            model, "conv", x, y, CE, lr=0.1, steps=3, curvature=curvature
        ).displacement

    return call


SGD = {"lr": 0.1, "steps": 3}
ENTRIES = {
    "capture": taped,
    "record_stream": streamed,
    "predict_in_place": in_place("gauss_newton"),
    "predict_in_place, kronecker": in_place("kronecker"),
    "compare_in_place": lambda m, x, y: (
        calls.compare_in_place(m, "conv", x, y, CE, **SGD).observation.displacement
    ),
    "predict_network": lambda m, x, y: calls.predict_network(m, x, y, CE, **SGD).displacement,
    "predict_network, level 4": lambda m, x, y: (
        calls.predict_network(m, x, y, CE, relinearize=2, **SGD).displacement
    ),
    "observe_network": lambda m, x, y: calls.observe_network(m, x, y, CE, **SGD).displacement,
    "audit": lambda m, x, y: calls.audit(m, "conv", x, y, CE, **SGD).contributions,
    "sharpness": lambda m, x, y: cnnbridge.sharpness(m, x, y, CE),
    "track_sharpness": lambda m, x, y: calls.track_sharpness(m, x, y, CE, **SGD).hessian,
    "first_step_is_nlms": lambda m, x, y: (
        cnnbridge.first_step_is_nlms(m, "bn", "conv", x, y, CE, lr=0.1).g_sgd
    ),
    "nlms_departure": lambda m, x, y: (
        nlms_departure(m, "after", "conv", [(x, y)] * 3, CE, lr=0.1).step
    ),
    "nlms_departures": lambda m, x, y: (
        cnnbridge.nlms_departures(
            m, "after", "conv", x, y, CE, lrs=[0.1], batch_sizes=[4], steps=2
        ).step
    ),
    "Monitor": watched,
}
# what computes as the caller's autocast has it
ROUNDED = ("capture", "record_stream", "first_step_is_nlms", "nlms_departure", "nlms_departures")


def close(one, other, **tolerance):
    if isinstance(one, tuple):
        for a, b in zip(one, other, strict=True):
            close(a, b, **tolerance)
        return
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), **tolerance)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_model_with_batch_norm_is_left_as_it_was(entry, training):
    x, y = data()
    model = Net()
    # a past of its own: running statistics, and gradients that wait for a step
    CE(model(2 * x), y).backward()
    model.train(training)
    model.after.train(not training)
    before = copy.deepcopy(model.state_dict())
    buffers = [b.data_ptr() for b in model.buffers()]
    gradients = [(p.grad, p.grad.clone()) for p in model.parameters()]
    needed = [p.requires_grad for p in model.parameters()]
    random = torch.get_rng_state()
    ENTRIES[entry](model, x, y)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[k], value) for k, value in before.items())
    assert buffers == [b.data_ptr() for b in model.buffers()]
    for p, (grad, value) in zip(model.parameters(), gradients, strict=True):
        assert p.grad is grad
        assert torch.equal(grad, value)
    assert needed == [p.requires_grad for p in model.parameters()]
    assert (model.training, model.after.training) == (training, not training)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_compiled_model_is_refused_with_what_to_do(entry):
    x, y = data()
    part, in_place = Net(), Net()
    part.leave = torch.compile(part.leave, backend="eager")
    in_place.compile(backend="eager")
    for model in (torch.compile(Net(), backend="eager"), part, in_place):
        with pytest.raises(TypeError, match=r"must not be compiled.*pass the model from before"):
            ENTRIES[entry](model, x, y)
    close(ENTRIES[entry](torch.compile(Net())._orig_mod, x, y), ENTRIES[entry](Net(), x, y))


@pytest.mark.parametrize("entry", ENTRIES)
def test_inside_autocast(entry):
    x, y = data()
    exact = ENTRIES[entry](Net(), x, y)
    with torch.autocast("cpu", torch.bfloat16):
        # the caller's own pass has left rounded weights behind
        model = Net()
        model(x)
        inside = ENTRIES[entry](model, x, y)
        assert torch.is_autocast_enabled("cpu")
    if entry == "capture":
        assert [t.dtype for t in inside[1:]] == [torch.bfloat16] * 2
        inside = tuple(t.float() for t in inside)
    if entry not in ROUNDED:
        # what enters the layers that a monitor watches is rounded on the way
        close(inside, exact, rtol=0.02 if entry == "Monitor" else 0)
        return
    with pytest.raises(AssertionError):
        close(inside, exact, rtol=1e-6)
    close(inside, exact, rtol=0.1, atol=0.1 * max(np.abs(np.asarray(t)).max() for t in exact))


def test_autocast_does_not_keep_the_weights_of_the_first_step():
    """The layer's own deviation follows its weights, which a cache of them would hide."""
    x, y = data()
    with torch.autocast("cpu", torch.bfloat16):
        moving = nlms_departure(Net(), "after", "conv", [(x, y)] * 3, CE, lr=1.0)
    exact = nlms_departure(Net(), "after", "conv", [(x, y)] * 3, CE, lr=1.0)
    np.testing.assert_allclose(moving.loss, exact.loss, rtol=0.05)
    assert np.abs(np.diff(moving.loss)).min() > 1e-2


def test_a_network_with_shared_weights():
    """The parameters are counted once, and their curvature has the terms between uses."""
    x, y = data(2, 3, torch.float64)
    model = Loop().double()
    loss, kwargs = nn.CrossEntropyLoss(), {"lr": 0.2, "steps": 12, "momentum": 0.5}
    run = calls.observe_network(model, x, y, loss, **kwargs)
    assert run.names == ("conv.weight", "conv.bias", "leave.weight", "leave.bias")
    exact = calls.predict_network(model, x, y, loss, relinearize=1, **kwargs)
    assert cnnbridge.compare(exact, run).displacement_error.max() < 1e-10
    # level 3 from the Jacobian and the Hessian, row by row
    parameters = list(model.parameters())
    z = model(x)
    rows = [torch.autograd.grad(v, parameters, retain_graph=True) for v in z.flatten()]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    H = torch.autograd.functional.hessian(lambda t: loss(t.view_as(z), y), z.detach().flatten())
    for layer, G in (
        (None, J.T @ H @ J),
        ("conv", J[:, :38].T @ H @ J[:, :38]),
    ):
        p = (
            calls.predict_network(model, x, y, loss, **kwargs)
            if layer is None
            else calls.predict_in_place(model, layer, x, y, loss, full_modes=True, **kwargs)
        )
        top = float(torch.linalg.eigvalsh(G)[-1])
        assert p.eigenvalues.max() == pytest.approx(top, rel=1e-6)
        assert cnnbridge.sharpness(
            model, x, y, loss, kind="gauss_newton", layer=layer, tolerance=1e-6
        ) == pytest.approx(top, rel=1e-6)


def test_shared_weights_where_one_use_is_wanted():
    x, y = data(2, 3)
    with pytest.raises(ValueError, match="the layer must be used once in a forward pass; got 2 u"):
        calls.audit(Loop(), "conv", x, y, CE, lr=0.1, steps=2)
    model = Loop()
    model.bn = nn.BatchNorm2d(2)
    for call in (cnnbridge.first_step_is_nlms, nlms_departure):
        given = {"batches": [(x, y)] * 2} if call is nlms_departure else {}
        given = given or {"x": x, "target": y}
        with pytest.raises(ValueError, match="conv must be used once in a forward pass; got 'con"):
            call(model, "bn", "conv", **given, loss_fn=CE, lr=0.1)


def test_both_uses_of_a_layer_are_recorded_and_watched():
    x, y = data(2, 3)
    model = Loop()
    inputs, outputs, _ = taped(model, x, y)
    assert (len(inputs), len(outputs)) == (32, 32)
    stream = calls.record_stream(model.double(), "conv", [(x.double(), y)], CE, lr=0.1, steps=3)
    assert [len(uses) for uses in stream.inputs] == [2] * 3
    assert cnnbridge.replay(stream).max_error < 1e-12
    with cnnbridge.Monitor(model, every=1, quiet=True) as monitor:
        monitor.probe(x.double())
        readings = {reading.layer: reading for reading in monitor.step(lr=0.1)}
    reading = readings["conv"]
    assert reading.patches == 2 * 8 * 9
    R = cnnbridge.patch_autocorrelation(
        [t.double() for t in inputs[:16].split(8)], model.conv, bias=True
    )
    assert reading.lambda_max == pytest.approx(float(torch.linalg.eigvalsh(R)[-1]), rel=1e-5)
