"""The study ``degree``: networks have the degrees of arithmetic, and rules judge records."""

import numpy as np
import pytest
import torch

from cnnbridge import degree
from studies.engine.protocol import Measured
from studies.related.degree import AFFINE, BATCH, FORMS, SQUARED, Cell, Config, Form
from studies.related.degree.judge import fitted_constant, judge, lookup, miss, networks
from studies.related.degree.measure import conv_degree, head_bound, relative_step
from studies.related.degree.networks import build, loss_of
from studies.training.sgd import batch_order


def arithmetic(form: Form) -> int:
    """The degree of a form by counting: every norm brings it to 0, gain and shift to 1."""
    if form.body == "transformer":
        # embedding 1; the norms of a block bring its branches to 1 (gain, shift) or 0, two linear
        # layers add 2 with a shift in between counting as much; the skip carries the largest on
        d = 0 if form.final else (1 if form.affine == "all" else 0) + 2
        return d + 1
    normalises = form.norm in ("batch", "layer", "group", "instance", "rms", "suppress")
    d = 0
    widths = (8, 8, 16, 16)
    channels = 1
    for k, width in enumerate(widths):
        last = k == len(widths) - 1
        inner = d + 1
        if form.norm in ("weight standardization", "spectral norm"):
            inner = max(d, 1) if form.bias else d
        if normalises:
            learned = {"all": True, "gain": True, "shift": True, "last": last, "inner": not last}
            inner = 1 if learned.get(form.affine, False) else 0
        d = max(d, inner) if form.body == "residual" and channels == width else inner
        channels = width
    if form.final:
        d = 0
    d = {"linear": d + 1, "cosine": 0, "frozen": d + 1, "two-layer": d + 2}[form.head]
    if form.head == "frozen":
        d -= 1
    d *= 2 if form.loss == "mse" else 1
    return max(d, 2) if form.decay else d


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_measured_degrees_are_those_of_arithmetic(form):
    torch.manual_seed(1)
    model = build(form, 1, 10, (8, 8, 16, 16))
    x, y = torch.randn(32, 1, 16, 16), torch.arange(32) % 10
    model(x)
    found = degree(model, (x, y), loss_of(form), weight_decay=form.decay, groups=False)
    assert found.value == pytest.approx(arithmetic(form), abs=0.1)


def test_the_baseline_sees_convolutions_alone():
    torch.manual_seed(0)
    x = torch.randn(16, 1, 16, 16)
    assert conv_degree(build(Form(), 1, 10, (4, 4, 4, 4)), x) == pytest.approx(4, abs=0.1)
    affine = build(Form("batch", affine="all"), 1, 10, (4, 4, 4, 4))
    assert conv_degree(affine, x) == pytest.approx(0, abs=0.1)


def test_the_bound_of_the_head_is_where_training_the_head_diverges():
    torch.manual_seed(0)
    model = build(SQUARED[0], 1, 10, (4, 4, 4, 4)).double()
    x, y = torch.randn(32, 1, 16, 16).double(), torch.arange(32) % 10
    bound, loss = head_bound(model, x), loss_of(SQUARED[0])
    model.features.requires_grad_(False)
    for factor, diverges in ((0.98, False), (1.02, True)):
        torch.nn.init.ones_(model.head.weight)
        sgd = torch.optim.SGD(model.head.parameters(), lr=factor * bound)
        for _ in range(600):
            sgd.zero_grad()
            loss(model(x), y).backward()
            sgd.step()
        assert (float(model.head.weight.detach().norm()) > 1e3) == diverges


def test_the_relative_step_is_that_of_the_third_gradient():
    cell, lr = Cell(Form(), seed=3), 0.5
    torch.manual_seed(0)
    model = build(cell.form, 1, 10, (4, 4, 4, 4))
    x, y = torch.randn(64, 1, 16, 16), torch.arange(64) % 10
    found = relative_step(cell, model, x, y, lr)
    for step, chosen in enumerate(batch_order(64, 32, 3, cell.seed)):
        loss = torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        pairs = list(zip(gradients, model.parameters(), strict=True))
        if step < 2:
            with torch.no_grad():
                for g, p in pairs:
                    p -= lr * g
    steps = [lr * float(g.norm() / p.detach().norm()) for g, p in pairs if p.ndim > 1]
    assert found == pytest.approx(max(steps), rel=1e-5)


def record(lr, norm, loss=1.0):
    n = len(norm) - 1
    losses = list(np.broadcast_to(loss, n))
    return {
        "lr": lr, "steps": n, "loss": losses, "accuracy": [0.9] * n, "norm": norm, "dead_at": None
    }  # fmt: skip


def fate(form, seed, degree, explodes):
    norm = [1.0, 1e12, 1e12] if explodes else [1.0, 1e6, 1e6]
    result = {
        "degree": degree, "exponent": max(1.0, degree), "conv_degree": 0.0, "head_bound": None,
        "relative_steps": [], "courses": [record(1e6, norm, 1e12 if explodes else 1e6)],
    }  # fmt: skip
    return Measured(Cell(form, seed=seed), result)


def test_one_wrong_network_fails_the_study():
    good = [fate(BATCH, k, 1.0, False) for k in range(200)]
    good += [fate(AFFINE[0], k, 2.0, True) for k in range(200)]
    checks = {c.name[:2]: c for c in judge(Config("x"), good).checks}
    assert checks["T1"].verdict == "holds"
    assert checks["T4"].verdict == "holds"
    bad = judge(Config("x"), [*good, fate(BATCH, 999, 1.0, True)])
    assert bad.checks[0].verdict == bad.verdict == "fails"
    assert "plain, batch" in bad.checks[0].note


def test_transformers_do_not_decide():
    measured = [fate(BATCH, k, 1.0, False) for k in range(300)]
    measured.append(fate(Form("layer", body="transformer", final=True), 0, 1.0, True))
    findings = judge(Config("x"), measured)
    assert findings.checks[0].verdict == "holds"
    assert any("wrong about 1" in text for text in findings.against)


def test_the_lookup_does_not_see_the_network_itself():
    measured = [fate(BATCH, 0, 1.0, True), *(fate(BATCH, k, 1.0, False) for k in (1, 2))]
    assert lookup(networks(measured)) == [False, False, False]
    assert lookup(networks([fate(BATCH, 0, 1.0, True)])) == [False]


def test_factors_outside_an_interval():
    assert miss((1, 2), 1.5) == 1
    assert miss((1, 2), 0.5) == miss((1, 2), 4) == 2
    assert 1 <= fitted_constant([(1, 2), (1.2, 1.7), (0.9, 1.9)]) <= 2
