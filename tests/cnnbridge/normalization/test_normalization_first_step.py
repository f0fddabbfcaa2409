import copy

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import SplitBatchNorm, first_step_is_nlms, nlms_departures, unfold_patches
from cnnbridge.normalization import NORMALIZATION_VARIANTS, nlms_departure


def data(n=6, channels=3, size=7, seed=0, classes=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels, size, size, generator=generator, dtype=torch.float64)
    x = x * torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)[:channels, None, None] + 2
    return x, torch.randint(classes, (n,), generator=generator)


class Net(nn.Module):
    """Both positions, an in-place ReLU behind each, dropout, and a head that sees it all."""

    def __init__(self, seed=0, dropout=0.3, **geometry):
        super().__init__()
        torch.manual_seed(seed)
        options = {"kernel_size": 3, "padding": 1, **geometry}
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(4, 6, **options)
        self.bn2 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 1)
        self.drop = nn.Dropout(dropout)
        self.head = nn.LazyLinear(5)
        self.double()
        self(torch.zeros(2, 3, 7, 7, dtype=torch.float64))
        for bn in (self.bn1, self.bn2):
            nn.init.uniform_(bn.weight, -1.5, 1.5)
            nn.init.uniform_(bn.bias, -1, 1)
            bn.reset_running_stats()

    def forward(self, x):
        x = self.conv1(self.bn1(torch.relu(self.stem(x))))
        x = nn.functional.relu_(self.bn2(nn.functional.relu_(x)))
        return self.head(self.drop(self.conv2(x)).flatten(1))


class Post(nn.Module):
    """conv - BN - ReLU, twice."""

    def __init__(self, seed=0, bias=True, **geometry):
        super().__init__()
        torch.manual_seed(seed)
        options = {"kernel_size": 3, "padding": 1, **geometry}
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, bias=bias, **options)
        self.bn2 = nn.BatchNorm2d(6)
        self.head = nn.LazyLinear(5)
        self.double()
        self(torch.randn(2, 3, 7, 7, dtype=torch.float64))
        nn.init.uniform_(self.bn2.weight, 0.2, 1.5)
        nn.init.uniform_(self.bn2.bias, -1, 1)

    def forward(self, x):
        x = nn.functional.relu_(self.bn1(self.conv1(x)))
        return self.head(nn.functional.relu_(self.bn2(self.conv2(x))).flatten(1))


GEOMETRIES = [
    {},
    {"padding": 0},
    {"padding": 1, "padding_mode": "reflect"},
    {"stride": 2, "dilation": 2, "padding": 2},
    {"groups": 2},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equal_before_the_layer(geometry):
    x, target = data()
    loss = nn.CrossEntropyLoss()
    step = first_step_is_nlms(Net(**geometry), "bn1", "conv1", x, target, loss, lr=0.3)
    assert step.position == "before"
    assert step.difference < 1e-10
    assert step.minimum_norm < 1e-10
    assert np.isnan(step.radial)
    assert step.s.shape == (4,)
    assert np.abs(step.g_sgd - step.g).max() > 1e-6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equal_after_the_layer(geometry, bias):
    x, target = data()
    loss = nn.CrossEntropyLoss()
    model = Post(bias=bias, **geometry)
    step = first_step_is_nlms(model, "bn2", "conv2", x, target, loss, lr=0.3)
    assert step.position == "after"
    assert step.difference < 1e-10
    assert np.isnan(step.minimum_norm)
    assert step.energy.size == 0
    # orthogonal to w but for eps
    assert step.radial < 1e-3
    model.bn2.eps = 1e-20
    assert first_step_is_nlms(model, "bn2", "conv2", x, target, loss, lr=0.3).radial < 1e-10


def test_a_layer_between_two_normalizations():
    x, target = data()
    model = Net()
    model = nn.Sequential(
        model.stem, model.bn1, model.conv1, model.bn2, model.conv2, nn.Flatten(), model.head
    )
    for norm, conv, position in (("1", "2", "before"), ("3", "2", "after"), ("3", "4", "before")):
        step = first_step_is_nlms(model, norm, conv, x, target, nn.CrossEntropyLoss(), lr=0.1)
        assert (step.position, step.difference < 1e-10) == (position, True)


@pytest.mark.parametrize("variant", NORMALIZATION_VARIANTS)
def test_every_variant_before_the_layer(variant):
    x, target = data()
    model = Net()
    model.bn1 = SplitBatchNorm(4, dtype=torch.float64, **NORMALIZATION_VARIANTS[variant])
    step = first_step_is_nlms(model, "bn1", "conv1", x, target, nn.CrossEntropyLoss(), lr=0.3)
    assert step.difference < 1e-10
    again = SplitBatchNorm(4, affine=False, dtype=torch.float64, **NORMALIZATION_VARIANTS[variant])
    model.bn1 = again
    step = first_step_is_nlms(model, "bn1", "conv1", x, target, nn.CrossEntropyLoss(), lr=0.3)
    assert step.difference < 1e-10


def test_the_full_split_after_the_layer():
    x, target = data()
    model = Post()
    model.bn2 = SplitBatchNorm(6, dtype=torch.float64)
    step = first_step_is_nlms(model, "bn2", "conv2", x, target, nn.CrossEntropyLoss(), lr=0.3)
    assert step.difference < 1e-10


def test_the_least_change_for_one_patch():
    """The text-book case: one regressor, its a-posteriori response, the least |dg S|."""
    torch.manual_seed(0)
    x, _ = data(n=4, size=3)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 1, 3, bias=False)).double()
    d = torch.randn(4, 1, 1, 1, dtype=torch.float64)

    # only the first image's error counts, but the statistics are the batch's
    def loss(y, target):
        return ((y[0] - target[0]) ** 2).sum() / 2

    lr = 0.02
    step = first_step_is_nlms(model, "0", "1", x, d, loss, lr=lr)
    mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
    s = (var + 1e-5).sqrt().repeat_interleave(9).numpy()
    c = unfold_patches(x - mean[:, None, None], model[1])[0, 0, :, 0].numpy()
    g, dg = step.g[0, 0], (step.g_sgd - step.g)[0, 0]
    e = float(d[0]) - g @ c
    # y+ = y + mu_bar e with mu_bar = mu |c / s|^2
    mu_bar = lr * ((c / s) ** 2).sum()
    assert (g + dg) @ c == pytest.approx(g @ c + mu_bar * e, rel=1e-12)
    # Lagrange: dg = S^-2 c mu_bar e / (c' S^-2 c)
    np.testing.assert_allclose(dg, c / s**2 * mu_bar * e / (c**2 / s**2).sum(), rtol=1e-10)
    generator = np.random.default_rng(0)
    for _ in range(50):
        other = generator.standard_normal(27)
        other -= c * (other @ c) / (c @ c)
        assert ((dg + 0.1 * np.abs(dg).max() * other) ** 2 * s**2).sum() > (dg**2 * s**2).sum()
    assert step.minimum_norm < 1e-10


def test_the_path_through_the_statistics_does_not_reach_the_weights():
    """Before the layer, detaching the statistics changes nothing in this layer's own step."""
    x, target = data()
    steps = []
    for live in (True, False):
        model = Net()
        model.bn1 = SplitBatchNorm(4, grad_through_statistics=live, dtype=torch.float64)
        loss = nn.CrossEntropyLoss()
        steps.append(first_step_is_nlms(model, "bn1", "conv1", x, target, loss, lr=0.3))
    np.testing.assert_array_equal(steps[0].g_sgd, steps[1].g_sgd)


def test_float32_agrees_to_its_own_rounding():
    x, target = data()
    step = first_step_is_nlms(
        Net().float(), "bn1", "conv1", x.float(), target, nn.CrossEntropyLoss(), lr=0.3
    )
    assert step.difference < 1e-4


def test_a_dead_gamma_is_no_division_by_zero():
    x, target = data()
    model = Net()
    nn.init.zeros_(model.bn1.weight)
    step = first_step_is_nlms(model, "bn1", "conv1", x, target, nn.CrossEntropyLoss(), lr=0.3)
    assert step.difference == 0
    assert not step.g_sgd.any()


def test_nothing_of_the_model_or_of_the_random_state_changes():
    x, target = data()
    model = Net().eval()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    first_step_is_nlms(model, "bn1", "conv1", x, target, nn.CrossEntropyLoss(), lr=0.3)
    nlms_departure(model, "bn1", "conv1", [(x, target)] * 3, nn.CrossEntropyLoss(), lr=0.3)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_the_departure_is_zero_where_nothing_moves_the_statistics():
    """Frozen statistics are NLMS to the end; so is BatchNorm behind layers that do not learn."""
    x, target = data()
    model = Net(dropout=0.0)
    model.bn1 = SplitBatchNorm(4, statistics="frozen", affine=False, dtype=torch.float64)
    batches = [data(seed=i) for i in range(6)]
    departure = nlms_departure(model, "bn1", "conv1", batches, nn.CrossEntropyLoss(), lr=0.1)
    assert np.abs(departure.scale).max() == 0
    for part in (departure.step, departure.same_batch, departure.accumulated):
        assert part.shape == (5,)
        assert np.abs(part).max() < 1e-10
    model = Net(dropout=0.0)
    model.bn1 = nn.BatchNorm2d(4, affine=False).double()
    model.stem.requires_grad_(False)
    same = nlms_departure(model, "bn1", "conv1", [(x, target)] * 6, nn.CrossEntropyLoss(), lr=0.1)
    assert same.step.max() < 1e-10
    new = nlms_departure(model, "bn1", "conv1", batches, nn.CrossEntropyLoss(), lr=0.1)
    assert new.same_batch.max() < 1e-10
    assert new.step.min() > 0.1


@pytest.mark.parametrize(("make", "norm", "conv"), [(Net, "bn1", "conv1"), (Post, "bn2", "conv2")])
def test_departure_is_what_training_does(make, norm, conv):
    """Against a plain loop of torch, and its own identities."""
    batches = [data(seed=i) for i in range(4)]
    options = {"dropout": 0.0} if make is Net else {}
    departure = nlms_departure(make(**options), norm, conv, batches, nn.CrossEntropyLoss(), lr=0.05)
    model = make(**options).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen = []
    model.get_submodule(norm).register_forward_pre_hook(
        lambda m, args: seen.append(args[0].detach().var(dim=(0, 2, 3), correction=0))
    )
    losses = []
    for x, target in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model(x)
    np.testing.assert_allclose(departure.loss, losses, rtol=1e-9)
    s = np.stack([(v + 1e-5).sqrt().numpy() for v in seen])
    np.testing.assert_allclose(departure.scale, s[0:-2:2] / s[2::2] - 1, rtol=1e-7, atol=1e-10)
    expected = s[0:-2:2] / s[1:-2:2] - 1
    np.testing.assert_allclose(departure.same_batch_scale, expected, rtol=1e-7, atol=1e-10)
    assert departure.batch_sizes == (6,) * 4


def test_the_departure_against_rate_and_batch_size():
    x, target = data(n=64)
    model = Net(dropout=0.0)
    random = torch.get_rng_state()
    grid = nlms_departures(
        model,
        "bn1",
        "conv1",
        x,
        target,
        nn.CrossEntropyLoss(),
        lrs=[1e-4, 1e-3],
        batch_sizes=[4, 64],
        steps=3,
    )
    assert torch.equal(torch.get_rng_state(), random)
    assert grid.scale.shape == grid.step.shape == grid.accumulated.shape == (2, 2, 3)
    assert grid.loss.shape == (2, 2, 4)
    # without the noise of batches, of order lr
    ratio = grid.same_batch_scale[1] / grid.same_batch_scale[0]
    np.testing.assert_allclose(ratio, 10, rtol=0.2)
    # with it, smaller in large batches; the whole data set has none
    assert (grid.scale[0, 0] > 10 * grid.scale[0, 1]).all()
    # over the size of a step, of order one at any rate
    np.testing.assert_allclose(grid.same_batch[0], grid.same_batch[1], rtol=0.2)
    again = nlms_departures(
        model,
        "bn1",
        "conv1",
        x,
        target,
        nn.CrossEntropyLoss(),
        lrs=[1e-3],
        batch_sizes=[4],
        steps=3,
    )
    np.testing.assert_array_equal(again.step[0, 0], grid.step[1, 0])


def test_a_run_that_diverges_goes_on_as_nan():
    batches = [data(seed=i) for i in range(8)]
    departure = nlms_departure(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 5)).double(),
        "1",
        "2",
        [(x, torch.zeros(1)) for x, _ in batches],
        lambda y, _: (y**4).sum(),
        lr=1e6,
    )
    assert departure.step.shape == (7,)
    assert np.isnan(departure.step[-1])
    assert not np.isfinite(departure.loss[-1])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(torch.relu(self.conv(self.bn(x))))


class Suppressed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 3, 1), SplitBatchNorm(3, scale="suppress"))


def once():
    return nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


def stuck():
    model = once()
    model[2].weight.requires_grad_(False)
    return model


def total(y, target):
    return y.sum()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "x"}, TypeError, "model must be a torch.nn.Module; got str"),
        ({"norm": "9"}, ValueError, "norm must name a module of the model; got '9'"),
        ({"conv": "9"}, ValueError, "conv must name a module of the model; got '9'"),
        ({"norm": "1"}, TypeError, "norm must name a torch.nn.BatchNorm1d, .*; got ReLU"),
        ({"conv": "1"}, TypeError, "conv must be a torch.nn.Conv1d, .*; got ReLU"),
        ({"norm": "0"}, ValueError, "norm and conv must be adjacent, .*; got '0' and '2'"),
        ({"lr": 0.0}, ValueError, "lr must be positive; got 0.0"),
        ({"loss_fn": lambda y, t: y}, ValueError, r"loss_fn must return a scalar tensor; got \(6"),
        ({"loss_fn": lambda y, t: 1.0}, ValueError, "loss_fn must return a scalar tensor; got fl"),
        ({"model": stuck()}, ValueError, "conv must have a weight that learns, .*; got '2'"),
        (
            {"model": Twice(), "norm": "bn", "conv": "conv"},
            ValueError,
            "conv must be used once in a forward pass; got 'conv' again",
        ),
        (
            {"model": Suppressed(), "norm": "1", "conv": "0"},
            ValueError,
            "norm must be the full normalization with live statistics where it comes after",
        ),
    ],
)
def test_errors(arguments, error, message):
    x = data()[0].float()
    given = {"model": once(), "norm": "3", "conv": "2", "loss_fn": total, "lr": 0.1, **arguments}
    with pytest.raises(error, match=message):
        first_step_is_nlms(x=x, target=None, **given)


def test_a_loss_that_does_not_depend_on_the_layer():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    free = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="the loss must depend on '1'; got one that does not"):
        first_step_is_nlms(
            model, "0", "1", data()[0].float(), None, lambda y, t: free.sum(), lr=0.1
        )


def test_errors_of_the_departure():
    x = data()[0].float()
    model = once()
    with pytest.raises(ValueError, match="batches must hold at least two; got 1"):
        nlms_departure(model, "3", "2", [(x, None)], lambda y, t: (y**3).sum(), lr=0.1)
    with pytest.raises(TypeError, match=r"batches must hold pairs \(x, target\); got Tensor at"):
        nlms_departure(model, "3", "2", [x], total, lr=0.1)
    with pytest.raises(TypeError, match="with tensors x; got int at position 0"):
        nlms_departure(model, "3", "2", [(1, 2)], total, lr=0.1)

    def grid(**options):
        given = {"lrs": [0.1], "batch_sizes": [2], "steps": 1, **options}
        nlms_departures(model, "3", "2", x, x, total, **given)

    with pytest.raises(ValueError, match="lrs and batch_sizes must not be empty; got 0 and 1"):
        grid(lrs=[])
    with pytest.raises(ValueError, match="batch_sizes must be at most the 6 images of x; got 7"):
        grid(batch_sizes=[7])
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        grid(steps=0)
    with pytest.raises(ValueError, match="target must have one row for each of 6 images; got 5"):
        nlms_departures(model, "3", "2", x, x[:5], total, lrs=[1.0], batch_sizes=[1], steps=1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda():
    x, target = data()
    loss = nn.CrossEntropyLoss()
    model = Net().cuda()
    step = first_step_is_nlms(model, "bn1", "conv1", x.cuda(), target.cuda(), loss, lr=0.3)
    assert step.difference < 1e-9
    batches = [(x.cuda(), target.cuda())] * 3
    assert nlms_departure(model, "bn1", "conv1", batches, loss, lr=0.1).step.shape == (2,)


@pytest.mark.parametrize("groups", [1, 2])
def test_energy_of_the_patches_against_unfold(groups):
    torch.manual_seed(0)
    norm, conv = nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 6, 3, padding=1, groups=groups)
    model = nn.Sequential(norm, conv).double()
    x, target = torch.randn(5, 4, 7, 7).double(), torch.zeros(5, 6, 7, 7).double()
    step = first_step_is_nlms(model, "0", "1", x, target, nn.MSELoss(), lr=0.3)
    patches = nn.functional.unfold(norm(x), 3, padding=1)  # (images, taps, positions)
    expected = patches.unflatten(1, (groups, -1)).square().sum(dim=2)
    ours = np.sort(step.energy, axis=1)
    theirs = np.sort(expected.transpose(0, 1).flatten(1).numpy(), axis=1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
