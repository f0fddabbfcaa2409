"""The degree of a loss: integers for every network of a grammar, and what follows in training."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cnnbridge.learning.degree import degree
from tests.oracles import homogeneity
from tests.oracles.homogeneity import Spec, build, expected, loss_of

CE = nn.CrossEntropyLoss()

blocks = st.tuples(
    st.sampled_from(homogeneity.NORMS),
    st.booleans(),
    st.booleans(),
    st.sampled_from(("pre", "post")),
    st.sampled_from(homogeneity.ACTIVATIONS),
    st.booleans(),
)
specs = st.builds(
    Spec,
    blocks=st.lists(blocks, min_size=1, max_size=4).map(tuple),
    final_norm=st.booleans(),
    head=st.sampled_from(homogeneity.HEADS),
    loss=st.sampled_from(homogeneity.LOSSES),
    decay=st.sampled_from((0.0, 0.0, 0.0, 1e-3)),
)


def batch(seed=0, rows=24, width=6, classes=3):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=g), torch.arange(rows) % classes


@settings(max_examples=1000)
@given(spec=specs, seed=st.integers(0, 2**16))
def test_every_network_of_the_grammar_has_the_integer_that_arithmetic_gives(spec, seed):
    torch.manual_seed(seed)
    model = build(spec)
    if not any(p.requires_grad for p in model.parameters()):
        return
    found = degree(
        model, batch(seed), loss_of(spec.loss), weight_decay=spec.decay, groups=False, seed=seed
    )
    assert found.value == pytest.approx(expected(spec), abs=0.2)


def stack(norm, head=None, width=6, depth=3):
    parts = []
    for _ in range(depth):
        parts += [nn.Linear(width, width, bias=False), *norm(width), nn.ReLU()]
    return nn.Sequential(*parts, head or nn.Linear(width, 3))


CASES = {
    "plain": (lambda c: [], 4),
    "batch norm": (lambda c: [nn.BatchNorm1d(c)], 2),
    "batch norm without gain and shift": (lambda c: [nn.BatchNorm1d(c, affine=False)], 1),
    "layer norm": (lambda c: [nn.LayerNorm(c)], 2),
}


@pytest.mark.parametrize("case", CASES)
def test_two_updates_show_the_degree_as_an_exponent(case):
    norm, wanted = CASES[case]
    torch.manual_seed(1)
    found = degree(stack(norm), batch(), CE)
    assert found.value == pytest.approx(wanted, abs=0.05)
    assert found.exponent == pytest.approx(max(1, wanted), abs=0.15)
    assert found.explodes == (wanted > 1)
    assert found.growth == {1: "bounded", 2: "geometric", 4: "faster"}[wanted]


@pytest.mark.parametrize("case", CASES)
def test_training_at_a_huge_rate_does_what_the_degree_says(case):
    """The reference is training itself: float64, 60 updates at a learning rate of 1e6."""
    norm, wanted = CASES[case]
    torch.manual_seed(2)
    model, (x, y), lr = stack(norm).double(), batch(2), 1e6
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    peak = 0.0
    for _ in range(60):
        sgd.zero_grad()
        CE(model(x.double()), y).backward()
        sgd.step()
        size = math.sqrt(sum(float(p.detach().square().sum()) for p in model.parameters()))
        peak = max(peak, size if math.isfinite(size) else math.inf)
    # |theta_0| + K lr t with K = 100 is far above what a bounded gradient allows here
    assert (peak > 100 * lr * 60) == (wanted > 1)


def test_the_pair_that_makes_the_degree_is_named():
    torch.manual_seed(0)
    found = degree(stack(CASES["batch norm"][0]), batch(), CE)
    assert set(found.sources) == {("last gain", "head weight"), ("last shift", "head weight")}
    assert "last gain with head weight" in found.statement
    assert any("no gain and no shift" in text for text in found.remedies)
    plain = degree(stack(CASES["plain"][0]), batch(), CE)
    assert plain.sources == (("weights", "head weight"),)
    bounded = degree(stack(CASES["batch norm without gain and shift"][0]), batch(), CE)
    assert bounded.sources == bounded.remedies == ()
    assert "cannot make it explode" in bounded.statement


def test_squared_error_and_decay_are_named_as_sources():
    torch.manual_seed(0)
    model = stack(CASES["batch norm without gain and shift"][0])
    squared = degree(model, batch(), loss_of("mse"))
    assert squared.value == pytest.approx(2, abs=0.05)
    assert ("head weight",) in squared.sources
    assert "Huber" in squared.remedies[0]
    decayed = degree(model, batch(), CE, torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1))
    assert decayed.value == pytest.approx(2, abs=0.05)
    assert decayed.remedies == (
        "Weight decay is a term of degree 2: keep learning rate times weight decay below 2.",
    )


@pytest.mark.parametrize("remedy", ["bounded", "no affine", "unit features"])
def test_the_remedies_bring_the_degree_to_one(remedy):
    class Bounded(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm, self.s = nn.BatchNorm1d(width, affine=False), nn.Parameter(torch.ones(width))

        def forward(self, x):
            return 2 * torch.sigmoid(self.s) * self.norm(x)

    class Unit(nn.Module):
        def forward(self, x):
            return nn.functional.normalize(x, dim=1)

    torch.manual_seed(0)
    affine = CASES["batch norm"][0]
    model = stack(affine)
    if remedy == "bounded":
        model[7] = Bounded(6)
    elif remedy == "no affine":
        model[7] = nn.BatchNorm1d(6, affine=False)
    else:
        model.insert(9, Unit())
    assert degree(model, batch(), CE).value == pytest.approx(1, abs=0.05)


def test_a_trained_network_shows_its_degree_too():
    """It classifies its batch without error, so that scaling alone would only lower the loss."""
    torch.manual_seed(0)
    model, (x, y) = stack(CASES["plain"][0], width=6), batch()
    adam = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(800):
        adam.zero_grad()
        CE(model(x), y).backward()
        adam.step()
    assert (model(x).argmax(1) == y).all()
    assert degree(model, (x, y), CE).value == pytest.approx(4, abs=0.05)


def test_deep_networks_do_not_overflow():
    torch.manual_seed(0)
    found = degree(stack(CASES["plain"][0], depth=70), batch(), CE, groups=False)
    assert found.scales != (1e4, 1e6)
    assert found.value == pytest.approx(71, abs=0.5)


def test_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    model, (x, y) = stack(CASES["batch norm"][0]).eval(), batch()
    CE(model(x), y).backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    degree(model, (x, y), CE)
    assert not model.training
    assert torch.equal(random, torch.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(p.grad, gradient)


def test_what_the_statement_does_not_cover_is_said():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    found = degree(model, batch(), CE, torch.optim.Adam(model.parameters()))
    assert "Adam bounds the step" in found.caveats[0]
    assert "Tanh saturates" in found.caveats[1]
    assert "Tanh" in str(found)


def test_models_and_losses_of_other_shapes():
    """A dict batch with a loss of (model, batch), and a model that returns its own loss."""

    class OwnLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = stack(CASES["batch norm"][0])

        def forward(self, x, labels):
            return {"loss": CE(self.net(x), labels)}

    torch.manual_seed(0)
    model, (x, y) = OwnLoss(), batch()
    wanted = degree(model.net, (x, y), CE)
    own = degree(model, {"x": x, "labels": y})

    def taken(model, b):
        return CE(model.net(b["x"]), b["labels"])

    for found in (own, degree(model, {"x": x, "labels": y}, taken)):
        assert found.value == pytest.approx(wanted.value, abs=1e-6)
        assert found.sources == wanted.sources


def test_dropout_is_off_while_the_degree_is_read():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    found = [degree(model, batch(), CE, groups=False).value for _ in range(2)]
    assert found[0] == found[1] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "net"}, TypeError, "model must be a torch.nn.Module; got str"),
        ({"data": torch.ones(3)}, TypeError, "data must be one batch, a tuple or dict"),
        ({"data": [batch(), batch()]}, ValueError, "data must be one batch; got 2"),
        ({"optimizer": 0.1}, TypeError, "optimizer must be a torch.optim.Optimizer or None"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be"),
        ({"loss": lambda z, y: z}, TypeError, "loss must return a scalar tensor"),
        ({"loss": lambda z, y: 0 * z.sum()}, ValueError, "loss must be finite and positive"),
        ({"data": ("words", torch.ones(3))}, TypeError, "must be a torch.Tensor; got str"),
    ],
)
def test_bad_input_gets_one_sentence(change, error, message):
    good = {"model": nn.Linear(6, 3), "data": batch(), "loss": CE}
    with pytest.raises(error, match=message):
        degree(**(good | change))


def test_a_network_that_learns_nothing_is_refused():
    model = nn.Linear(6, 3).requires_grad_(False)
    with pytest.raises(ValueError, match="parameters that learn"):
        degree(model, batch(), CE)


def test_the_page_runs():
    page = Path(__file__).parents[3] / "docs" / "homogeneity.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    names: dict = {}
    exec(block, names)
    said = " ".join(line[2:] for line in block.splitlines() if line.startswith("# "))
    assert said == names["found"].statement
