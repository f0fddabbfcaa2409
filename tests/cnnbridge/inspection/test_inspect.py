"""``inspect`` against plain computations of each layer's R, and on models as people have them."""

import copy
import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import cnnbridge
from cnnbridge import SGD
from cnnbridge.inspection.inspector import inspect


class Kinds(nn.Module):
    """One layer of each kind, some called in odd ways."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, stride=2)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2, bias=False, padding_mode="circular", padding=1)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.line = nn.Conv1d(3, 5, 3, dilation=2)
        self.shared = nn.Linear(5, 5)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = self.up(self.grouped(self.conv(x).relu()))
        x = self.line(x.flatten(2)).mT
        return self.shared(input=self.shared(x)).mean(dim=1)


def batches(*, many=3, seed=1, size=8):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(6 + i, 2, size, size, generator=generator).double(),
            torch.randint(5, (6 + i,), generator=generator),
        )
        for i in range(many)
    ]


def kinds():
    torch.manual_seed(0)
    return Kinds().double()


def seen_by(model, name, loader, bias):
    """All patches that enter one layer, (groups, L, patches), by ``capture`` and unfolding."""
    with cnnbridge.capture(model, name) as tape:
        tape.run([x for x, _ in loader])
    u = cnnbridge.unfold_patches(tape.inputs, tape.layer, bias=bias).double()
    # (images, groups, L, places), without groups where there is one
    u = u[:, None] if u.ndim == 3 else u
    return u.permute(1, 2, 0, 3).flatten(2)


@pytest.mark.parametrize("name", ["conv", "grouped", "up", "line", "shared"])
def test_every_layer_has_the_spectrum_of_all_its_patches(name):
    model, loader = kinds(), batches()
    layer = inspect(model, loader)[name]
    assert layer.exact
    module = getattr(model, name)
    u = seen_by(model, name, loader, bias=module.bias is not None)
    R = (u @ u.mT / u.shape[-1]).numpy()
    wanted = np.linalg.eigvalsh(R)
    assert layer.seen == u.shape[-1]
    assert layer.eigenvalues.shape[1] <= wanted.shape[1]
    top = layer.eigenvalues.shape[1]
    np.testing.assert_allclose(layer.eigenvalues, wanted[:, -top:], rtol=1e-9, atol=1e-12)
    taps = u[:, : layer.taps]
    mean = taps.mean(dim=-1).square().sum() / taps.square().mean(dim=-1).sum()
    assert layer.mean_share == pytest.approx(float(mean))
    for modes, biases, values in (
        (layer.strongest, layer.strongest_bias, layer.eigenvalues[:, ::-1]),
        (layer.weakest, layer.weakest_bias, layer.eigenvalues),
    ):
        assert modes.shape[2:] == (layer.in_channels // layer.groups, *layer.kernel)
        flat = modes.reshape(*modes.shape[:2], -1)
        q = np.concatenate([flat, biases[..., None]], axis=2) if layer.bias else flat
        np.testing.assert_allclose(
            np.einsum("gki,gij,gkj->gk", q, R, q), values[:, : q.shape[1]], rtol=1e-7, atol=1e-10
        )


def test_layers_come_in_the_order_of_their_calls_and_unused_ones_are_named():
    found = inspect(kinds(), batches())
    assert list(found) == ["conv", "grouped", "up", "line", "shared"]
    assert found.skipped == {
        "unused": "the forward pass does not call it",
        "curvature": "it needs a loss: give loss=",
    }
    assert found["shared"].calls == 6
    assert (found.batches, found.images) == (3, 21)
    assert math.isnan(found.loss)


def test_the_numbers_do_not_depend_on_how_the_data_are_cut_into_batches():
    x = torch.cat([x for x, _ in batches()])
    one, several = inspect(kinds(), (x,)), inspect(kinds(), list(x.split(7)))
    for name in one:
        np.testing.assert_allclose(
            one[name].eigenvalues, several[name].eigenvalues, rtol=1e-9, atol=1e-12
        )


def test_the_loss_is_the_mean_over_images():
    model, loader = kinds(), batches()
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    found = inspect(model, loader, loss=nn.CrossEntropyLoss(), lr=0.1)
    wanted = nn.functional.cross_entropy(model(x), y)
    assert found.loss == pytest.approx(float(wanted.detach()))


def test_a_sample_brackets_the_largest_eigenvalue():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 30, bias=False), nn.Flatten())
    # white input: every eigenvalue is one
    x = torch.randn(40, 2, 40, 40)
    layer = inspect(model, (x,), samples=200)["0"]
    assert (layer.patches, layer.seen, layer.exact) == (200, 4840, False)
    assert layer.largest_low < 1.2 < 5 < layer.largest
    assert layer.largest_low == pytest.approx(1, rel=0.2)
    assert math.isnan(inspect(kinds(), batches())["conv"].largest_low)


def test_the_rates_come_from_the_optimizer_with_its_groups():
    model = kinds()
    groups = [{"params": model.conv.parameters(), "lr": 0.1}, {"params": model.up.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    found = inspect(model, batches(), optimizer=optimizer)
    assert found["conv"].sgd == SGD(0.1, 0.9)
    assert found["up"].sgd == SGD(0.01, 0.9)
    assert found["conv"].bound == pytest.approx(
        2 * 1.9 / (2 * found["conv"].largest / found["conv"].out_channels)
    )
    adam = inspect(model, batches(), optimizer=torch.optim.Adam(model.parameters()))
    assert "Adam, whose steps are not SGD's" in adam.notes[0]
    assert np.isnan(adam["conv"].time_constants).all()


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)

    def forward(self, x):
        x, _ = self.attention(x, x, x)
        x, _ = self.cross(x, x[..., :6], x[..., 2:])
        return self.encoder(x)


def test_attention_is_read_at_its_input_in_eval_mode_too():
    torch.manual_seed(0)
    model = Attends().eval()
    x = torch.randn(5, 7, 8)
    found = inspect(model, (x,))
    assert list(found) == [
        "attention.in_proj",
        "cross.q_proj",
        "cross.k_proj",
        "cross.v_proj",
        "encoder.self_attn.in_proj",
        "encoder.linear1",
        "encoder.linear2",
    ]
    layer = found["attention.in_proj"]
    u = torch.cat([x.flatten(0, 1), torch.ones(35, 1)], dim=1).double()
    np.testing.assert_allclose(
        layer.eigenvalues[0], np.linalg.eigvalsh((u.T @ u / 35).numpy()), rtol=1e-5, atol=1e-7
    )
    assert layer.out_channels == 24
    assert "does not call it" in found.skipped["attention.out_proj"]


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor


class TwoInputs(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.a, self.b, self.wrap = nn.Linear(3, 4), nn.Linear(2, 4), wrap

    def forward(self, a, b):
        return self.wrap(self.a(a) + self.b(b))


@pytest.mark.parametrize(
    ("wrap", "pick"),
    [
        (lambda z: (z, None), lambda out: out[0]),
        (lambda z: {"logits": z}, lambda out: out["logits"]),
        (Answer, lambda out: out.logits),
    ],
    ids=["tuple", "dict", "dataclass"],
)
def test_several_inputs_and_any_output(wrap, pick):
    torch.manual_seed(0)
    model = TwoInputs(wrap)
    a, b, y = torch.randn(9, 3), torch.randn(9, 2), torch.randint(4, (9,))

    def loss(output, target):
        return nn.functional.cross_entropy(pick(output), target)

    def whole(model, batch):
        return loss(model(batch["a"], b=batch["b"]), batch["y"])

    one = inspect(model, (a, b, y), loss=loss)
    two = inspect(model, {"a": a, "b": b, "y": y}, loss=whole)
    assert one.loss == two.loss
    three = inspect(model, {"a": a, "b": b})
    for name in ("a", "b"):
        assert np.array_equal(one[name].eigenvalues, two[name].eigenvalues)
        assert np.array_equal(one[name].eigenvalues, three[name].eigenvalues)


def test_a_compiled_model_is_read_as_its_eager_original():
    model = kinds()
    plain = inspect(model, batches())
    compiled = inspect(torch.compile(model, backend="eager"), batches())
    assert "compiled" in compiled.notes[0]
    for name in plain:
        assert np.array_equal(plain[name].eigenvalues, compiled[name].eigenvalues)
    inner = copy.deepcopy(model)
    inner.compile(backend="eager")
    found = inspect(inner, batches())
    assert "Parts of the model are compiled" in found.notes[0]
    assert np.array_equal(plain["conv"].eigenvalues, found["conv"].eigenvalues)
    assert inner._compiled_call_impl is not None


def test_a_parallel_model_is_read_as_its_module():
    model = kinds()
    found = inspect(nn.DataParallel(model), batches())
    assert "DataParallel" in found.notes[0]
    assert np.array_equal(found["conv"].eigenvalues, inspect(model, batches())["conv"].eigenvalues)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_lazy_model_is_built_on_a_copy():
    model = nn.Sequential(nn.LazyConv2d(3, 3), nn.Flatten(), nn.LazyLinear(2))
    found = inspect(model, [x.float() for x, _ in batches()])
    assert "a copy was read" in found.notes[0]
    assert found["0"].taps == 18
    assert nn.parameter.is_lazy(model[0].weight)


def test_a_layer_that_computes_something_else_is_left_out_by_name():
    torch.manual_seed(0)
    model = nn.Sequential(OwnConv(2, 3, 3), nn.Conv2d(3, 2, 1), nn.Flatten())
    found = inspect(model, [x.float() for x, _ in batches()])
    assert list(found) == ["1"]
    assert "which has a forward of its own" in found.skipped["0"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "how",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.spectral_norm,
        lambda layer: layer.requires_grad_(False),
        lambda layer: layer.to(memory_format=torch.channels_last),
    ],
    ids=["weight_norm", "spectral_norm", "old spectral_norm", "frozen", "channels last"],
)
def test_how_the_weights_are_held_does_not_change_the_input(how):
    model = kinds()
    plain = inspect(model, batches())["conv"]
    how(model.conv)
    changed = inspect(model.eval(), batches())["conv"]
    np.testing.assert_allclose(plain.eigenvalues, changed.eigenvalues, rtol=1e-12)


def test_dead_and_constant_channels_and_taps_in_the_padding_are_found():
    torch.manual_seed(0)
    x = torch.randn(20, 4, 5, 5)
    x[:, 1] = 0
    x[:, 2] = 3
    model = nn.Sequential(nn.Conv2d(4, 2, 3, padding=1), nn.Flatten())
    layer = inspect(model, (x,))["0"]
    assert (layer.dead_channels, layer.constant_channels, layer.unseen_taps) == ((1,), (2,), 0)
    found = inspect(model, (x[..., :1, :1],))
    assert found["0"].unseen_taps == 24
    sentences = " ".join(inspect(model, (x,)).warnings)
    assert "'0' some input channels are zero in every patch (1 of 4 in '0')" in sentences
    assert "one constant value (1 of 4 in '0')" in sentences


def test_patterns_choose_layers():
    found = inspect(kinds(), batches(), layers=["*e*d", "conv"])
    assert list(found) == ["conv", "grouped", "shared"]
    with pytest.raises(ValueError, match=r"layers must name layers of the model; got 'x\*'"):
        inspect(kinds(), batches(), layers=["x*"])


def test_a_budget_leaves_out_by_name():
    found = inspect(kinds(), batches(), budget=1e-9)
    assert not len(found)
    assert found.batches == 1
    assert "read 1 batches" in found.notes[0]
    assert "did not fit into the budget" in found.skipped["conv"]
    assert len(inspect(kinds(), batches(), budget="500 steps")) == 5
    with pytest.raises(ValueError, match="budget must be seconds, or a text such as '90s'"):
        inspect(kinds(), batches(), budget="soon")


def test_progress_is_told():
    told = []
    inspect(kinds(), batches(), progress=lambda sentence, seconds: told.append(sentence))
    assert told[0].startswith("batch 1 of ")
    assert told[0].endswith(" read")
    assert told[-1].startswith("spectrum 5 of 5")


def linear():
    return nn.Sequential(nn.Linear(2, 3))


nan = torch.tensor([[1.0, float("nan")]])


@pytest.mark.parametrize(
    ("model", "loader", "options", "kind", "message"),
    [
        (3, (nan,), {}, TypeError, "model must be a torch.nn.Module; got int"),
        (linear(), [], {}, ValueError, "loader must give at least one batch; got none"),
        (linear(), 5, {}, TypeError, "loader must be an iterable of batches, or one batch"),
        (linear(), (nan,), {}, ValueError, "must be finite; got nan at index (0, 1)"),
        (linear(), (torch.ones(4, 7),), {}, ValueError, "loader must give batches that model"),
        (nn.Sequential(), (torch.ones(4, 7),), {}, ValueError, "must have a convolution or a lin"),
        (linear(), (torch.ones(4, 2),), {"lr": -1}, ValueError, "lr must be"),
        (linear(), (torch.ones(4, 2),), {"momentum": 0.9}, TypeError, "must come with lr"),
        (linear(), (torch.ones(4, 2),), {"samples": 0}, ValueError, "samples must be"),
        (linear(), (torch.ones(4, 2),), {"loss": 3}, TypeError, "loss must be a torch loss"),
    ],
)
def test_bad_input_is_one_sentence(model, loader, options, kind, message):
    with pytest.raises(kind, match=re.escape(message)) as caught:
        inspect(model, loader, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_models_are_refused_in_one_sentence():
    scripted = torch.jit.script(linear())
    with pytest.raises(TypeError, match="model must not be scripted"):
        inspect(scripted, (torch.ones(4, 2),))


def test_data_that_a_layer_turns_into_nan_leave_that_layer_out():
    class Overflows(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(self.a(x) / 0.0)

    found = inspect(Overflows(), (torch.ones(4, 2),))
    assert list(found) == ["a"]
    assert found.skipped["b"] == "its input holds NaN or inf"


def regression():
    """A linear layer under MSE, whose Gauss-Newton matrix is 2 R / M for each of M outputs."""
    torch.manual_seed(0)
    model = nn.Linear(4, 40).double()
    x = torch.randn(60, 4).double() * torch.tensor([3.0, 1.0, 0.5, 0.1]).double()
    return model, (x, torch.randn(60, 40).double())


def test_curvature_along_the_modes_is_that_of_the_loss():
    model, data = regression()
    layer = inspect(model, data, loss=nn.MSELoss(), lr=0.1)[""]
    wanted = 2 * layer.curvature.eigenvalues / 40
    gap = np.abs(layer.curvature.curvature - wanted)
    # chi-square over 4 draws times 40 outputs
    assert (gap < 5 * wanted * math.sqrt(2 / 160)).all()
    assert layer.curvature.curvature.shape == (1, 5)
    assert layer.curvature.bound == pytest.approx(2 / layer.curvature.curvature.max())


def test_a_layer_looked_at_closely_has_its_largest_curvature_normalizations_and_horizon():
    model, data = regression()
    found = inspect(model, data, loss=nn.MSELoss(), lr=0.1, closely=[""])
    layer = found[""]
    assert layer.curvature.largest == pytest.approx(2 * layer.largest / 40, rel=0.01)
    assert set(layer.normalization) == {"none", "center", "suppress", "amplify", "full"}
    # quadratic: the prediction holds to the end
    assert (layer.horizons[0].horizon, layer.horizons[0].steps) == (50, 50)
    assert found.advised_lr == pytest.approx(1 / layer.curvature.largest)
    assert "layer ''" in found.advice
    with pytest.raises(ValueError, match="closely must name layers that were inspected"):
        inspect(model, data, closely=["none"])


def test_sharpness_and_degree_are_of_the_whole_network():
    model, data = regression()
    parts = ["sharpness", "degree"]
    found = inspect(model, data, loss=nn.MSELoss(), lr=0.1, parts=parts)
    assert found.sharpness.largest[0] == pytest.approx(2 * found[""].largest / 40, rel=0.01)
    assert found.sharpness.bound == pytest.approx(2 / found.sharpness.largest[0])
    assert found.degree.startswith("The loss has degree 2")
    assert found[""].curvature is None
    hot = inspect(model, data, loss=nn.MSELoss(), lr=0.9 * found.sharpness.bound, parts=parts)
    assert "close to" in hot.warnings[0]
    with pytest.raises(ValueError, match="parts must be one of curvature, sharpness, degree"):
        inspect(model, data, parts=["all"])


def test_frozen_and_computed_weights_have_statistics_but_no_curvature():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)).double()
    model[0].requires_grad_(False)
    torch.nn.utils.parametrizations.weight_norm(model[1])
    data = (torch.randn(9, 3).double(), torch.randn(9, 2).double())
    found = inspect(model, data, loss=nn.MSELoss(), lr=0.1)
    assert list(found) == ["0", "1", "2"]
    assert [layer.curvature is not None for layer in found.layers.values()] == [False, False, True]
    assert "requires_grad=False" in found.skipped["curvature of 0"]
    assert "computed" in found.skipped["curvature of 1"]
