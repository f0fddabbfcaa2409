"""The law for everything that is handed a model: afterwards it is the same model, bit for bit."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import cnnbridge
from cnnbridge.layers.isolation import same_bits
from cnnbridge.normalization import nlms_departure


class Net(nn.Module):
    """BatchNorm, dropout, an in-place ReLU and a frozen weight; variants disturb more."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.bn = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 4, 3, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 3 * 3, 5)

    def forward(self, x):
        x = self.conv2(self.bn(self.act(self.conv1(x))))
        return self.head(self.drop(self.act(x)).flatten(1))


class KeepsFeatures(Net):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        self.features = [super().forward(x)]
        self.last = self.features[0]
        return self.last


class ExpandedBuffer(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.ones(1).expand(5))

    def forward(self, x):
        return super().forward(x) * self.mask


class ResizedBuffer(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("cache", torch.zeros(2, 3))
        self.register_buffer("late", None)

    def forward(self, x):
        self.cache.resize_(len(x), 7).fill_(1)
        self.late = torch.ones(2)
        return super().forward(x)


class WritesItsWeight(Net):
    """As networks do that bound the norm of their weights."""

    def forward(self, x):
        self.conv1.weight.data = torch.renorm(self.conv1.weight.data, 2, 0, maxnorm=0.1)
        with torch.no_grad():
            self.head.bias.clamp_(max=0.01)
        return super().forward(x)


class DrawsEverywhere(Net):
    def forward(self, x):
        shift = random.random() + np.random.random() + float(torch.rand(()))  # noqa: NPY002
        return super().forward(x) + 1e-3 * shift


def reparametrized(how):
    def make():
        model = Net()
        how(model.conv1)
        # the effective weight is a tensor with a graph from here on
        model(torch.randn(2, 1, 8, 8))
        return model

    return make


def pruned(layer):
    from torch.nn.utils import prune

    prune.l1_unstructured(layer, "weight", 0.5)


MODELS = {
    "plain": Net,
    "in eval mode": lambda: Net().eval(),
    "keeps features": KeepsFeatures,
    "expanded buffer": ExpandedBuffer,
    "resized buffer": ResizedBuffer,
    "writes its weight": WritesItsWeight,
    "draws from every generator": DrawsEverywhere,
    "weight_norm": reparametrized(torch.nn.utils.weight_norm),
    "spectral_norm": reparametrized(torch.nn.utils.spectral_norm),
    "parametrized spectral_norm": reparametrized(torch.nn.utils.parametrizations.spectral_norm),
    "pruned": reparametrized(pruned),
}


class BrokenError(Exception):
    pass


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 1, 8, 8, generator=generator)
    return x, torch.randint(5, (6,), generator=generator)


def run_capture(model, loss):
    with cnnbridge.capture(model, "conv2") as tape:
        model.train()
        model.requires_grad_(True)
        tape.run([data(), data()], loss)
        loss(model(data()[0]), data()[1]).backward()


def run_capture_without_loss(model, loss):
    with cnnbridge.capture(model, "conv2") as tape:
        tape.run([data()[0]])
        loss(None, None) if loss is broken else None


def run_monitor(model, loss):
    """The forward pass is the training's own; the monitor must add nothing to it."""
    with cnnbridge.Monitor(model, every=1, layers=["conv2"], quiet=True) as monitor:
        monitor.probe(data()[0])
        assert monitor.step(lr=0.1)
        if loss is broken:
            monitor.probe("no tensor")


def run_first_step(model, loss):
    x, y = data()
    cnnbridge.first_step_is_nlms(model, "bn", "conv2", x, y, loss, lr=0.1)


def run_departure(model, loss):
    nlms_departure(model, "bn", "conv2", [data(), data()], loss, lr=0.1)


def run_departures(model, loss):
    x, y = data()
    options = {"lrs": [0.1], "batch_sizes": [3], "steps": 2}
    cnnbridge.nlms_departures(model, "bn", "conv2", x, y, loss, **options)


def run_statistics(model, loss):
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    cnnbridge.patch_autocorrelation(x, model.conv2, bias=True)
    cnnbridge.sampled_autocorrelation(x, model.conv2, fraction=0.5)
    cnnbridge.patch_moments(x, model.conv2)
    cnnbridge.compare_normalizations(x, model.conv2)
    if loss is broken:
        cnnbridge.compare_normalizations(x, model.conv2, ["no such"])


def run_mode_curvature(model, loss):
    found = cnnbridge.mode_curvature(model, data(), loss, draws=2)
    assert "conv2" in found


def run_inspect(model, loss):
    found = cnnbridge.inspect(model, [data(), data()], loss=loss, lr=0.1)
    assert "conv2" in found.layers


def run_layer(model, loss):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 8, 8, generator=generator)
    target = torch.randn(4, 4, 3, 3, generator=generator)
    prediction = cnnbridge.predict_layer(model.conv2, x, target, lr=0.01, steps=3)
    assert len(prediction.loss) == 4
    if loss is broken:
        cnnbridge.predict_layer(model.conv2, x, target, lr=-1.0, steps=3)


def network_task(verb):
    """A refusal of a loss that changes at each pass, as spectral_norm's does, is an exit too."""

    def run(model, loss):
        try:
            verb(cnnbridge.NetworkTask(model, data(), loss, layer="conv2"))
        except ValueError as error:
            if loss is broken or "must give the same loss twice" not in str(error):
                raise

    return run


ENTRIES = {
    "NetworkTask.predict": network_task(lambda task: task.predict(0.1, 3)),
    "NetworkTask.observe": network_task(lambda task: task.observe(0.1, 3)),
    "NetworkTask.audit": network_task(lambda task: task.audit(0.1, 2)),
    "NetworkTask.stream": network_task(lambda task: task.stream(0.1, 2)),
    "NetworkTask.track": network_task(lambda task: task.track(0.1, 2)),
    "NetworkTask.sharpness": network_task(lambda task: task.sharpness()),
    "capture": run_capture,
    "capture without a loss": run_capture_without_loss,
    "Monitor": run_monitor,
    "first_step_is_nlms": run_first_step,
    "nlms_departure": run_departure,
    "nlms_departures": run_departures,
    "statistics": run_statistics,
    "inspect": run_inspect,
    "mode_curvature": run_mode_curvature,
    "predict_layer": run_layer,
}


def broken(*_):
    raise BrokenError


def state(model):
    """All that a careless tool could change: values by bits, objects by identity."""
    modules = list(model.modules())
    return {
        "attributes": [{k: id(v) for k, v in vars(m).items()} for m in modules],
        "hooks": [
            {k: list(v) for k, v in vars(m).items() if k.endswith(("_hooks", "_with_kwargs"))}
            for m in modules
        ],
        "training": [m.training for m in modules],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "random": (
            torch.get_rng_state().tolist(),
            [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
            random.getstate(),
        ),
    }


def tensors(model):
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, p in model.named_parameters():
        named[f"{name}.grad"] = p.grad
    return named


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", MODELS)
def test_the_model_is_as_it_was(kind, entry, fails):
    torch.manual_seed(0)
    model = MODELS[kind]()
    model.bn.weight.requires_grad_(False)
    model.drop.eval()
    model.bn.register_forward_hook(lambda *_: None)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before, held = state(model), tensors(model)
    values = {k: None if v is None else v.detach().clone() for k, v in held.items()}
    loss = broken if fails else nn.CrossEntropyLoss()
    if fails:
        with pytest.raises((BrokenError, ValueError, TypeError, AttributeError, RuntimeError)):
            ENTRIES[entry](model, loss)
    else:
        ENTRIES[entry](model, loss)
    now = tensors(model)
    assert now.keys() == held.keys()
    for name, tensor in held.items():
        assert now[name] is tensor, name
        assert tensor is None or same_bits(tensor, values[name]), name
    after = state(model)
    for key, value in before.items():
        assert after[key] == value, key
