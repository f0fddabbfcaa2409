"""Training courses of small networks, and their outcomes."""

import copy

import pytest
import torch
from torch import nn

from studies.engine.outcomes import Course
from studies.training.course import features_are_constant, train_course


def data(seed=0, rows=256):
    g = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(4, 1, 6, 6, generator=g)
    y = torch.arange(rows) % 4
    return centres[y] + torch.randn(rows, 1, 6, 6, generator=g), y


def network(affine=None):
    torch.manual_seed(0)
    norm = [] if affine is None else [nn.BatchNorm2d(8, affine=affine)]
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), *norm, nn.ReLU(), nn.Flatten(), nn.Linear(128, 4, bias=False)
    )


def course(model, lr, steps=80, **options):
    x, y = data()
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=lr)  # noqa: E731
    return Course.of(train_course(model, x, y, optimizer=sgd, steps=steps, **options))


def test_a_small_rate_learns():
    run = course(network(), 0.05)
    assert run.outcome() == "learns"
    assert run.learns_by_loss()
    assert len(run.loss) == len(run.accuracy) == len(run.norm) - 1 == run.steps == 80


def test_degree_one_never_explodes_and_keeps_learning():
    """The loss is proportional to the rate: any ceiling on it is crossed at some rate."""
    peaks = []
    for lr in (1e2, 1e4, 1e6):
        run = course(network(affine=False), lr)
        assert not run.explodes()
        assert not run.explodes_at_huge_rate()
        assert run.learns_by_accuracy()
        peaks.append(run.loss.max() / lr)
    assert max(peaks) < 3 * min(peaks)


@pytest.mark.parametrize("affine", [None, True])
def test_higher_degrees_explode(affine):
    assert course(network(affine), 1e6).explodes_at_huge_rate()


def test_dead_features_are_seen():
    model = network()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    run = course(model, 0.01, features=model[1], steps=20)
    assert run.dead_at == 10
    assert run.outcome() == "dies"


def test_looking_for_death_changes_nothing():
    model, (x, _) = network(affine=True), data()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    assert not features_are_constant(model, x)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_a_decided_run_ends_early_and_says_the_same():
    whole = course(network(), 1e3, steps=40)
    ended = course(network(), 1e3, steps=40, end_beyond=300.0)
    assert len(ended.loss) < 40
    for allowance in (10.0, 100.0, 300.0):
        assert ended.explodes(allowance) == whole.explodes(allowance)
    # a run that nothing decides is not touched
    assert len(course(network(), 0.05, steps=40, end_beyond=300.0).loss) == 40


def test_a_dead_run_ends_after_three_looks():
    model = network()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    run = course(model, 0.01, features=model[1], steps=80, end_beyond=300.0)
    assert (run.dead_at, len(run.loss)) == (10, 30)
    assert run.outcome() == "dies"


def test_gradients_can_be_changed_before_the_step():
    model = network()

    def nothing():
        for p in model.parameters():
            p.grad.zero_()

    run = course(model, 0.5, steps=5, before_step=nothing)
    assert set(run.norm) == {run.norm[0]}
