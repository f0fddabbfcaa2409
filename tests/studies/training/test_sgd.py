"""Short runs of SGD: what they see and what is said to have become of them."""

import pytest
import torch
from torch import nn

from studies.engine.errors import UserError
from studies.engine.smoothing import running_mean
from studies.training.sgd import batch_order, run_sgd, train_below, updates


def problem(count=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator)
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(3, 4)


class Fixed(nn.Module):
    """Logits of given losses, whatever the weights do: the cross-entropy is what we say."""

    def __init__(self, losses):
        super().__init__()
        self.losses = iter(losses)
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        # two classes, all labels 0: loss = ln(1 + exp(b))
        b = torch.log(torch.expm1(torch.tensor(float(next(self.losses)), dtype=torch.float64)))
        logits = torch.stack([torch.zeros(len(x)), torch.full((len(x),), float(b))], dim=1)
        logits = logits + 1e-3 * x[:, :1]  # it differs from image to image
        return logits.double() + 0 * self.w


def said(losses, **options):
    x = torch.linspace(0, 1, 8).reshape(-1, 1)
    y = torch.zeros(8, dtype=torch.long)
    return run_sgd(
        Fixed(losses), x, y, lr=0.1, steps=len(losses), batch_size=4, classes=2, **options
    )


def test_the_run_is_that_of_torch():
    x, y = problem()
    model, reference = linear(), linear()
    run = run_sgd(model, x, y, lr=0.1, steps=7, batch_size=16, momentum=0.9, seed=3)
    optimiser = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    for n, chosen in enumerate(batch_order(64, 16, 7, 3)):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(reference(x[chosen]), y[chosen])
        loss.backward()
        optimiser.step()
        assert run.loss[n] == loss.item()
    assert torch.equal(model.weight, reference.weight)
    assert run.state == "stable"


def test_a_spike_is_no_divergence():
    assert said([1.0] * 10 + [100.0] + [1.0] * 40).state == "stable"


def test_a_high_loss_that_stays_is_one():
    run = said([1.0] * 10 + [9.0] * 60)
    assert run.state == "diverged"
    assert len(run.loss) < 50


def test_a_loss_that_is_not_finite_is_one():
    run = said([1.0, 1.0, float("inf"), 1.0])
    assert run.state == "diverged"
    assert len(run.loss) == 3


def test_a_dead_network_is_neither():
    x, y = problem()
    model = linear()
    with torch.no_grad():
        model.weight.zero_()
    model.weight.requires_grad_(False)
    assert run_sgd(model, x, y, lr=0.1, steps=5).state == "dead"


def test_stops_below_the_threshold():
    run = said([1.0] * 5 + [0.1] * 30, stop_below=0.5)
    assert run.steps_to(0.5) == len(run.loss) - 1
    assert run.steps_to(0.01) is None
    mean = running_mean(run.loss)
    assert mean[-1] < 0.5 <= mean[-2]


def test_order_of_batches():
    batches = list(batch_order(10, 4, 5, seed=0))
    assert [len(b) for b in batches] == [4] * 5
    # two whole batches of each pass, and no image twice in one
    assert len(set(torch.cat(batches[:2]).tolist())) == 8
    assert list(map(torch.Tensor.tolist, batch_order(10, 4, 5, seed=0))) == [
        b.tolist() for b in batches
    ]
    with pytest.raises(UserError, match="batch of 4"):
        next(batch_order(3, 4, 1, seed=0))


def test_a_caller_who_breaks_off_leaves_the_model_as_the_loss_found_it():
    x, y = problem()
    model, reference = linear(), linear()
    batches = list(batch_order(64, 16, 7, 3))
    for n, (value, logits) in enumerate(updates(model, x, y, batches, lr=0.1)):
        assert value == nn.functional.cross_entropy(logits, y[batches[n]]).item()
        if n == 3:
            break
    run_sgd(reference, x, y, lr=0.1, steps=3, batch_size=16, seed=3)
    assert torch.equal(model.weight, reference.weight)


def test_training_below_a_loss_stops_where_it_got_there():
    x, y = problem()
    model = linear()
    made = train_below(model, x, y, 0.9, lr=0.5)
    assert made > 0
    assert nn.functional.cross_entropy(model(x), y) < 0.9
    again = linear()
    with pytest.raises(RuntimeError, match="should fall below"):
        train_below(again, x, y, 0.9, lr=0.5, most=made - 1)
    assert train_below(linear(), x, y, 0.9, lr=0.5, most=made) == made
